from typing import Any

import pytest
from driver_machines import (
    BLIND,
    NO_CUDA,
    cuda,
    found_in,
    library,
    node,
    nodes,
    only,
    steps,
)

from gpucheck.rules import driver_answers as rules
from gpucheck.snapshot import (
    CudaInit,
    NvmlError,
    Unknown,
)
from machines import (
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
    assert "Usual causes" not in symptom.what_to_do.text
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
    assert "/run/opengl-driver/lib" in steps(symptom)[0]


# --------------------------------------------------------------------------------------- DRV016


@pytest.mark.parametrize(
    ("code", "name"),
    [(9, "NVML_ERROR_DRIVER_NOT_LOADED"), (18, "NVML_ERROR_LIB_RM_VERSION_MISMATCH")],
)
def test_an_error_of_nvml_is_told_by_name_with_its_cause(code: int, name: str):
    broken = machine(nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=code)})

    symptom = only(rules.nvml_fails, broken)

    assert f"{name} ({code})" in symptom.saw
    assert "Usual causes" not in symptom.what_to_do.text


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

    assert only(rules.nvml_fails, lost).what_to_do.text.startswith("Create the container again")
