from typing import Any

import msgspec
import pytest
from driver_machines import (
    BLIND,
    NO_CUDA,
    UNREAD,
    WSL,
    cuda,
    found_in,
    library,
    node,
    nodes,
    only,
)

from gpucheck.derived import FULL_NAME_ONLY
from gpucheck.rule import Symptom
from gpucheck.rules import driver_answers as rules
from gpucheck.snapshot import (
    CudaInit,
    Fabric,
    NvmlError,
    Snapshot,
    Unknown,
)
from machines import (
    DRIVER,
    HEALTHY,
    commands,
    gpu,
    machine,
    not_checked,
    symptoms,
)

# --------------------------------------------------------------------------------------- DRV009


@pytest.mark.parametrize("code", [3, 34, 36, 46, 100, 101, 304, 802, 803, 804, 919, 999])
def test_a_code_of_cuinit_is_told_by_name_with_its_causes(code: int):
    symptom = only(rules.cuinit_fails, machine(driver={"cuda_init": cuda(code)}))

    assert f"error {code} (CUDA_ERROR_" in symptom.saw
    assert "/usr/lib/x86_64-linux-gnu/libcuda.so.1" in symptom.saw
    assert "Usual causes" not in symptom.remedy.text
    assert symptom.explained_by


def test_a_code_newer_than_the_table_is_told_by_its_number():
    assert "error 4711" in only(rules.cuinit_fails, machine(driver={"cuda_init": cuda(4711)})).saw


def test_no_device_at_all_is_a_failure_though_cuinit_succeeds():
    init = cuda(0, device_count=0)

    assert (
        "CUDA_ERROR_NO_DEVICE" in only(rules.cuinit_fails, machine(driver={"cuda_init": init})).saw
    )


def test_a_library_that_does_not_load_is_an_error_with_the_loader_s_words():
    symptom = only(rules.cuinit_fails, machine(driver={"cuda_init": NO_CUDA}))

    assert "cannot open shared object file" in symptom.saw


@pytest.mark.parametrize("fault", ["no answer in 5 s to cuInit", "crashed with SIGSEGV in cuInit"])
def test_a_driver_that_hangs_or_crashes_is_an_error(fault: str):
    init = CudaInit(library="/usr/lib/libcuda.so.1", error=fault)

    assert only(rules.cuinit_fails, machine(driver={"cuda_init": init})).saw.startswith(fault)


def test_a_call_that_never_returns_is_an_error_whatever_the_persistence():
    slow = machine(
        driver={"cuda_init": CudaInit(library="/l", error="no answer in 5 s to cuInit")},
        nvml={"gpus": (gpu(0, persistence=False), gpu(1, persistence=False))},
    )

    assert only(rules.cuinit_fails, slow).saw.startswith(
        "no answer in 5 s to cuInit (/l); persistence is off"
    )


@pytest.mark.parametrize("init", [None, Unknown("could not start python")])
def test_without_an_answer_of_cuinit_nothing_is_checked(init: Any):
    assert not_checked(rules.cuinit_fails, machine(driver={"cuda_init": init}))


def test_a_failure_whose_cause_is_another_finding_is_folded_under_it():
    shut = node("/dev/nvidiactl", mode="crw-rw----", group="video", can_open=False)
    forbidden = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidiactl=shut),
            "cuda_init": cuda(304),
        },
    )

    assert found_in(forbidden) == {"DRV008": None, "DRV009": "DRV008"}


def test_a_library_where_the_loader_does_not_look_is_pointed_out():
    hidden = library("/run/opengl-driver/lib/libcuda.so.1", is_selected=False)
    blind = machine(
        driver={
            "libraries": (hidden,),
            "cuda_init": CudaInit(library=None, load_error="libcuda.so.1: cannot open"),
        },
        nvml=BLIND,
    )

    symptom = only(rules.cuinit_fails, blind)

    assert "where the loader does not look" in symptom.saw
    assert "/run/opengl-driver/lib" in commands(symptom)[0]


# --------------------------------------------------------------------------------------- DRV016


@pytest.mark.parametrize(
    ("code", "name"),
    [(9, "NVML_ERROR_DRIVER_NOT_LOADED"), (18, "NVML_ERROR_LIB_RM_VERSION_MISMATCH")],
)
def test_an_error_of_nvml_is_told_by_name_with_its_cause(code: int, name: str):
    broken = machine(nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=code)})

    symptom = only(rules.nvml_fails, broken)

    assert f"{name} ({code})" in symptom.saw
    assert "Usual causes" not in symptom.remedy.text


def test_an_error_that_no_table_knows_is_told_by_its_number():
    error = NvmlError(call="nvmlInitWithFlags", code=777, message="strange")

    assert only(rules.nvml_fails, machine(nvml={**BLIND, "error": error})).saw == (
        "nvmlInitWithFlags fails with NVML error (777): strange"
    )


def test_a_library_of_nvml_that_does_not_load_is_an_error():
    assert "does not load" in only(rules.nvml_fails, machine(nvml=BLIND)).saw


@pytest.mark.parametrize("message", ["no answer in 30 s", "crashed with SIGSEGV"])
def test_an_nvml_that_hangs_or_crashes_is_an_error(message: str):
    error = NvmlError(call="nvmlInitWithFlags", message=message)
    stuck = machine(
        driver={"cuda_init": CudaInit(library="/l", error="no answer in 30 s to cuInit")},
        nvml={**BLIND, "error": error},
    )

    assert only(rules.nvml_fails, stuck).saw == f"nvmlInitWithFlags: {message}"
    assert found_in(stuck) == {"DRV016": None, "DRV009": "DRV016"}


def test_a_jetson_without_nvml_is_fine():
    jetson = machine(host={"tegra": "NVIDIA Jetson AGX Orin", "pci_gpus": ()}, nvml=BLIND)

    assert not symptoms(rules.nvml_fails, jetson)


def test_nvml_that_was_not_asked_is_not_checked():
    assert not_checked(rules.nvml_fails, machine(nvml={"error": Unknown("no answer in 5 s")}))


def test_a_container_that_lost_its_devices_is_to_be_restarted():
    lost = machine(
        host={"container": "docker"},
        nvml={"error": NvmlError(call="nvmlInitWithFlags", code=999, message="Unknown Error")},
    )

    assert only(rules.nvml_fails, lost).remedy.text.startswith("Create the container again")


# ----------------------------------------------------------------------------- by the facts at hand


def answer(code: int, base: Snapshot = HEALTHY, **sections: Any) -> Symptom:
    """What DRV009 says of *code* on a machine with these facts."""
    changed = machine(base, **sections)
    return only(rules.cuinit_fails, machine(changed, driver={"cuda_init": cuda(code)}))


EL9 = {"kernel_release": "5.14.0-570.12.1.el9_6.x86_64"}


@pytest.mark.parametrize("code", [3, 802, 999])
def test_hmm_comes_first_on_a_kernel_where_it_is_known_to_fail(code: int):
    symptom = answer(code, host={**EL9, "hypervisor": None})

    assert "uvm_disable_hmm=1" in commands(symptom)[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"driver": {"uvm_disables_hmm": True}},
        {"driver": {"module_kind": "closed"}},
        {"host": {"container": "docker"}},
        {"host": {"kernel_release": "5.15.0-100-generic"}},
    ],
)
def test_hmm_is_not_named_where_the_facts_exclude_it(changes: dict[str, Any]):
    assert not any("hmm" in step for step in commands(answer(3, **changes)))


def test_gpucheck_forked_nothing_so_nobody_is_told_to_spawn():
    old = answer(3, host={"kernel_release": "5.15.0-100-generic"})

    assert "spawn" not in old.remedy.text
    assert "nvidia_uvm" in old.remedy.text


def test_a_guest_s_fabric_is_its_provider_s():
    gpus = tuple(gpu(n, fabric=Fabric(state=2)) for n in range(2))

    text = answer(802, host={"hypervisor": "kvm"}, nvml={"gpus": gpus}).remedy.text

    assert "report to its provider" in text


def test_an_exclusive_gpu_is_shared_again():
    busy = answer(46, nvml={"gpus": (gpu(0, compute_mode=3), gpu(1))})

    assert commands(busy) == ("nvidia-smi -c DEFAULT",)


@pytest.mark.parametrize("code", [3, 46, 100, 304, 802, 803, 804, 999])
def test_a_container_is_not_told_to_reset_reboot_or_make_files_here(code: int):
    symptom = answer(code, host={"container": "docker"}, nvml=BLIND)

    here = [step.text for step in symptom.remedy.steps if step.on == "here"]
    words = ("reboot", "gpu-reset", "fabricmanager", "mknod", "modprobe")
    assert not [text for text in here for word in words if word in text]


@pytest.mark.parametrize("code", [3, 100, 999])
def test_under_wsl_every_remedy_is_windows_own(code: int):
    symptom = only(rules.cuinit_fails, machine(WSL, driver={"cuda_init": cuda(code)}))

    assert "in Windows" in symptom.remedy.text
    assert {step.on for step in symptom.remedy.steps} == {"windows"}


@pytest.mark.parametrize("code", [9, 17])
def test_a_card_in_tcc_mode_is_put_into_wddm_mode(code: int):
    error = NvmlError(call="nvmlInitWithFlags", code=code)

    symptom = only(rules.nvml_fails, machine(WSL, nvml={"error": error, "count": UNREAD}))

    assert commands(symptom)[0] == "nvidia-smi -dm WDDM"


def test_a_crash_under_wsl_asks_for_another_driver_in_windows():
    error = NvmlError(call="nvmlDeviceGetComputeRunningProcesses", message="crashed with SIGSEGV")

    symptom = only(rules.nvml_fails, machine(WSL, nvml={"error": error, "count": UNREAD}))

    assert symptom.remedy.text.startswith("Update the NVIDIA driver in Windows")


def test_a_library_without_its_link_asks_for_the_link():
    alone = library(f"/usr/lib/libcuda.so.{DRIVER}", found_via=FULL_NAME_ONLY)
    unlinked = machine(
        driver={
            "libraries": (msgspec.structs.replace(alone, soname="libcuda.so.1"),),
            "cuda_init": CudaInit(library=None, load_error="libcuda.so.1: cannot open"),
        },
        nvml=BLIND,
    )

    assert commands(only(rules.cuinit_fails, unlinked)) == ("ldconfig",)
