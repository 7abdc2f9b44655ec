import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import machines
from gpucheck.report import examine
from gpucheck.rule import NotApplicable, NotChecked, Rule, Severity, Symptom
from gpucheck.rules import driver as rules
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    CudaInit,
    DeviceNode,
    DriverLibrary,
    FabricManager,
    NvmlError,
    PciGpu,
    Snapshot,
    Unknown,
    Xid,
)
from machines import (
    BUS_IDS,
    DRIVER,
    HEALTHY,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)

DRV = tuple(thing for thing in vars(rules).values() if isinstance(thing, Rule))
UNREAD = Unknown("permission denied")
NO_NVML = NvmlError(call="open", message="libnvidia-ml.so.1: cannot open shared object file")
BLIND: dict[str, Any] = {
    "library": None,
    "error": NO_NVML,
    "count": Unknown("NVML does not work"),
    "gpus": Unknown("NVML does not work"),
}
NO_CUDA = CudaInit(load_error="libcuda.so.1: cannot open shared object file")
NO_GPU = machine(
    host={"pci_gpus": ()},
    driver={
        "module_version": None,
        "module_kind": None,
        "loaded_modules": (),
        "proc_gpus": (),
        "module_file": None,
        "module_file_version": None,
        "module_is_signed": None,
        "dkms_version": None,
        "dkms_kernels": (),
        "libraries": (),
        "device_nodes": (),
        "persistenced_running": False,
        "cuda_init": NO_CUDA,
    },
    nvml=BLIND,
)
NO_DRIVER = machine(
    NO_GPU,
    host={
        "pci_gpus": tuple(
            msgspec.structs.replace(card, driver=None)
            for card in HEALTHY.host.pci_gpus  # type: ignore[union-attr]
        )
    },
)
NOT_LOADED = machine(
    driver={
        "module_version": None,
        "module_kind": None,
        "loaded_modules": (),
        "proc_gpus": (),
        "module_file": None,
        "device_nodes": (),
        "cuda_init": CudaInit(library="/usr/lib/libcuda.so.1", code=100),
    },
    nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=9, message="not loaded")},
)
WSL = machine(
    NO_GPU,
    host={"is_wsl": True},
    driver={
        "libraries": tuple(
            DriverLibrary(
                soname=soname, path=f"/usr/lib/wsl/lib/{soname}", is_selected=True, is_stub=False
            )
            for soname in ("libcuda.so.1", "libnvidia-ml.so.1")
        ),
        "device_nodes": (DeviceNode(path="/dev/dxg", exists=True, can_open=True),),
        "cuda_init": CudaInit(library="/usr/lib/wsl/lib/libcuda.so.1", code=0, device_count=1),
    },
    nvml={"error": None, "count": 1, "gpus": (gpu(0, persistence=NOT_SUPPORTED),)},
)


def cuda(code: int, **changes: Any) -> CudaInit:
    return CudaInit(library="/usr/lib/x86_64-linux-gnu/libcuda.so.1", code=code, **changes)


def card(bus_id: str = BUS_IDS[1], device_id: str = "0x2335", **changes: Any) -> PciGpu:
    return PciGpu(**{"bus_id": bus_id, "device_id": device_id, "driver": "nvidia", **changes})


def library(path: str, version: Any = DRIVER, **changes: Any) -> DriverLibrary:
    soname = path.rpartition("/")[2]
    plain: dict[str, Any] = {"is_stub": False, "found_via": "ld.so.cache", "is_selected": False}
    return DriverLibrary(
        soname=soname, path=path, real_path=path, version=version, **{**plain, **changes}
    )


def node(path: str, **changes: Any) -> DeviceNode:
    plain: dict[str, Any] = {
        "exists": True,
        "mode": "crw-rw-rw-",
        "group": "root",
        "can_open": True,
    }
    return DeviceNode(path=path, **{**plain, **changes})


def nodes(**changed: DeviceNode | None) -> tuple[DeviceNode, ...]:
    names = ("nvidiactl", "nvidia_uvm", "nvidia0", "nvidia1")
    found = (changed.get(name, node(f"/dev/{name.replace('_', '-')}")) for name in names)
    return tuple(each for each in found if each is not None)


def missing(path: str) -> DeviceNode:
    return DeviceNode(path=path, exists=False)


def only(rule: Rule, snapshot: Snapshot) -> Symptom:
    [symptom] = symptoms(rule, snapshot)
    return symptom


def found_in(snapshot: Snapshot) -> dict[str, str | None]:
    report = examine(snapshot, rules=DRV)
    return {finding.code: finding.explained_by for finding in report.findings}


# ------------------------------------------------------------------------- families of machines


def test_a_machine_without_a_gpu_has_one_finding_and_no_trail_of_consequences():
    report = examine(NO_GPU, rules=DRV)

    assert [(f.code, f.explained_by) for f in report.findings] == [("DRV001", None)]
    assert not report.not_checked


def test_a_machine_without_a_driver_has_one_root():
    assert found_in(NO_DRIVER) == {"DRV002": None, "DRV009": "DRV002", "DRV016": "DRV002"}


def test_a_module_that_is_not_loaded_is_the_one_root():
    assert found_in(NOT_LOADED) == {"DRV003": None, "DRV009": "DRV003", "DRV016": "DRV003"}


def test_a_driver_update_without_a_restart_is_the_one_root():
    updated = machine(
        driver={
            "module_version": "575.57.08",
            "cuda_init": cuda(803),
        },
        nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=18, message="mismatch")},
    )

    assert found_in(updated) == {"DRV006": None, "DRV009": "DRV006", "DRV016": "DRV006"}


def test_a_missing_uvm_device_is_the_one_root():
    broken = machine(
        driver={
            "device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")),
            "loaded_modules": ("nvidia",),
            "cuda_init": cuda(999),
        }
    )

    assert found_in(broken) == {"DRV007": None, "DRV009": "DRV007"}


def test_a_blackwell_gpu_under_the_closed_module_is_the_one_root():
    broken = machine(
        host={"pci_gpus": (card(BUS_IDS[0], "0x2b85"),)},
        driver={"module_kind": "closed", "cuda_init": cuda(100)},
        nvml={"count": 0, "gpus": ()},
        kernel_log={"adapter_failures": (BUS_IDS[0],)},
    )

    assert found_in(broken) == {
        "DRV012": None,
        "DRV009": "DRV012",
        "DRV015": "DRV012",
        "DRV017": "DRV012",
    }


def test_wsl_with_its_driver_is_well():
    report = examine(WSL, rules=DRV)

    assert not report.findings


def test_a_sandbox_that_hides_the_bus_and_the_module_but_has_its_gpus_is_well():
    sandbox = machine(
        host={"pci_gpus": (), "container": "kubernetes"},
        driver={"module_version": None, "module_kind": None, "proc_gpus": (), "libraries": ()},
    )

    assert found_in(sandbox) == {}


def test_a_machine_that_lends_all_its_gpus_to_virtual_machines_is_well():
    lender = machine(
        NO_GPU, host={"pci_gpus": tuple(card(bus, driver="vfio-pci") for bus in BUS_IDS)}
    )

    assert found_in(lender) == {}


# --------------------------------------------------------------------------------------- DRV001


def test_no_gpu_on_the_bus_is_an_error():
    symptom = only(rules.no_gpu, NO_GPU)

    assert symptom.saw == (
        "no device on the PCI bus is an NVIDIA GPU: this virtual machine was given none by its host"
    )


def test_no_gpu_on_bare_metal_says_so():
    symptom = only(rules.no_gpu, machine(NO_GPU, host={"hypervisor": None}))

    assert symptom.saw == "no device on the PCI bus is an NVIDIA GPU"


def test_a_gpu_that_nvml_sees_is_a_gpu_whatever_the_bus_shows():
    assert passes(rules.no_gpu, machine(host={"pci_gpus": ()}))


def test_a_gpu_that_only_the_driver_lists_is_a_gpu():
    assert passes(rules.no_gpu, machine(NO_GPU, driver={"proc_gpus": BUS_IDS}))


@pytest.mark.parametrize("host", [{"is_wsl": True}, {"tegra": "NVIDIA Jetson AGX Orin"}])
def test_wsl_and_tegra_have_no_gpu_on_the_bus(host: dict[str, Any]):
    assert not is_applicable(rules.no_gpu, machine(NO_GPU, host=host))


def test_an_empty_bus_while_nvml_does_not_answer_is_not_checked():
    silent = machine(NO_GPU, nvml={"error": Unknown("no answer in 5 s")})

    assert not_checked(rules.no_gpu, silent)
    assert not symptoms(rules.no_gpu, silent)


# --------------------------------------------------------------------------------------- DRV002


def test_a_gpu_and_nothing_of_a_driver_is_an_error_with_the_distribution_s_commands():
    symptom = only(rules.no_driver, NO_DRIVER)

    assert "2 NVIDIA GPUs on the PCI bus (0000:00:06.0 and 0000:00:07.0)" in symptom.saw
    assert symptom.commands[0] == "sudo ubuntu-drivers install"


@pytest.mark.parametrize(
    "driver",
    [
        {"libraries": (library("/usr/lib/libcuda.so.1"),)},
        {"dkms_version": DRIVER},
        {"module_version": DRIVER},
    ],
)
def test_any_part_of_a_driver_is_a_driver(driver: dict[str, Any]):
    assert passes(rules.no_driver, machine(NO_DRIVER, driver=driver))


def test_a_stub_or_a_compatibility_library_is_no_driver():
    libraries = (
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", is_stub=True),
        library("/usr/local/cuda/compat/libcuda.so.1", is_compat=True),
    )

    assert symptoms(rules.no_driver, machine(NO_DRIVER, driver={"libraries": libraries}))


def test_in_a_container_the_missing_driver_is_the_host_s():
    inside = machine(NO_DRIVER, host={"container": "docker"})

    assert not is_applicable(rules.no_driver, inside)
    assert not is_applicable(rules.module_not_loaded, inside)


def test_a_driver_that_may_not_be_looked_for_is_not_checked():
    assert not_checked(rules.no_driver, machine(NO_DRIVER, driver={"libraries": UNREAD}))
    assert not_checked(rules.no_driver, machine(NO_DRIVER, driver={"module_version": UNREAD}))


# --------------------------------------------------------------------------------------- DRV003


def test_dkms_without_a_build_for_this_kernel_is_told_with_the_kernels_it_has():
    symptom = only(
        rules.module_not_loaded,
        machine(NOT_LOADED, driver={"dkms_kernels": ("6.8.0-40-generic",)}),
    )

    assert symptom.saw == (
        "no nvidia module is built for the running kernel 6.8.0-50-generic; DKMS has driver "
        "580.159.04, built for 6.8.0-40-generic"
    )
    assert symptom.commands[0] == "sudo dkms autoinstall -k 6.8.0-50-generic"


def test_missing_headers_come_first():
    symptom = only(
        rules.module_not_loaded,
        machine(NOT_LOADED, driver={"dkms_kernels": (), "has_kernel_headers": False}),
    )

    assert "the kernel's headers are missing" in symptom.saw
    assert symptom.commands[0] == "sudo apt install linux-headers-6.8.0-50-generic"


def test_a_build_of_dkms_that_was_never_installed_is_told():
    assert only(rules.module_not_loaded, NOT_LOADED).saw == (
        "DKMS has built driver 580.159.04 for the running kernel 6.8.0-50-generic, and no nvidia "
        "module is installed for it"
    )


def test_a_module_that_is_built_needs_only_loading():
    symptom = only(
        rules.module_not_loaded, machine(NOT_LOADED, driver={"module_file": "/lib/nvidia.ko"})
    )

    assert symptom.commands[0] == "sudo modprobe nvidia"


def test_no_module_and_no_dkms_asks_for_the_driver_s_module():
    symptom = only(rules.module_not_loaded, machine(NOT_LOADED, driver={"dkms_version": None}))

    assert symptom.saw == "no nvidia module is built for the running kernel 6.8.0-50-generic"


def test_without_any_driver_there_is_no_module_to_load():
    assert not is_applicable(rules.module_not_loaded, NO_DRIVER)


def test_secure_boot_and_nouveau_explain_a_module_that_is_not_loaded():
    refused = machine(
        NOT_LOADED,
        host={"secure_boot": True},
        driver={"module_file": "/lib/nvidia.ko"},
        kernel_log={"module_refused": "Loading of unsigned module is rejected"},
    )
    held = machine(NOT_LOADED, host={"pci_gpus": (card(driver="nouveau"),)})

    assert found_in(refused) == {
        "DRV005": None,
        "DRV003": "DRV005",
        "DRV009": "DRV005",
        "DRV016": "DRV005",
    }
    assert found_in(held)["DRV003"] == "DRV004"


# --------------------------------------------------------------------------------------- DRV004


def test_nouveau_on_a_gpu_is_an_error():
    held = machine(host={"pci_gpus": (card(BUS_IDS[0]), card(driver="nouveau"))})

    symptom = only(rules.nouveau, held)

    assert symptom.saw == "nouveau is bound to 0000:00:07.0"
    assert "sudo update-initramfs -u" in symptom.commands


def test_nouveau_loaded_and_bound_to_nothing_is_fine():
    assert passes(rules.nouveau, machine(driver={"loaded_modules": ("nouveau", "nvidia")}))


def test_nouveau_without_any_driver_is_a_consequence_of_that():
    fresh = machine(NO_DRIVER, host={"pci_gpus": (card(driver="nouveau"),)})

    assert found_in(fresh)["DRV004"] == "DRV002"


def test_a_binding_that_may_not_be_read_is_not_checked():
    assert not_checked(rules.nouveau, machine(host={"pci_gpus": (card(driver=UNREAD),)}))


# --------------------------------------------------------------------------------------- DRV005

SECURE = machine(NOT_LOADED, host={"secure_boot": True}, driver={"module_file": "/lib/nvidia.ko"})


def test_a_module_without_a_signature_under_secure_boot_is_an_error():
    symptom = only(rules.module_refused, machine(SECURE, driver={"module_is_signed": False}))

    assert symptom.saw == "Secure Boot is on, and /lib/nvidia.ko carries no signature"


def test_the_kernel_s_refusal_is_quoted():
    line = "Loading of module with unavailable key is rejected"

    symptom = only(rules.module_refused, machine(SECURE, kernel_log={"module_refused": line}))

    assert line in symptom.saw


def test_secure_boot_with_a_loaded_module_is_fine():
    assert passes(rules.module_refused, machine(host={"secure_boot": True}))


@pytest.mark.parametrize("secure_boot", [False, None])
def test_without_secure_boot_nothing_is_refused(secure_boot: bool | None):
    broken = machine(SECURE, host={"secure_boot": secure_boot}, driver={"module_is_signed": False})

    assert passes(rules.module_refused, broken)


def test_a_signed_module_and_an_unreadable_log_are_not_checked():
    doubt = machine(SECURE, kernel_log={"module_refused": UNREAD})

    assert not_checked(rules.module_refused, doubt)


# --------------------------------------------------------------------------------------- DRV006


def test_module_and_libraries_of_different_versions_are_an_error():
    broken = machine(driver={"module_version": "575.57.08", "cuda_init": cuda(803)})

    symptom = only(rules.version_mismatch, broken)

    assert symptom.saw.startswith("the loaded kernel module is 575.57.08; ")
    assert "libcuda.so.1 is 580.159.04" in symptom.saw
    assert "sudo reboot" in symptom.commands


def test_what_nvml_says_of_a_mismatch_counts_where_no_version_is_readable():
    broken = machine(
        driver={"libraries": (library("/usr/lib/libcuda.so.1", UNREAD, is_selected=True),)},
        nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=18)},
    )

    assert symptoms(rules.version_mismatch, broken)


def test_a_stray_library_in_ld_library_path_is_named_for_removal():
    broken = machine(
        driver={
            "libraries": (
                library(
                    "/opt/old/libcuda.so.1",
                    "535.54.03",
                    is_selected=True,
                    found_via="LD_LIBRARY_PATH",
                ),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(803),
        }
    )

    assert only(rules.version_mismatch, broken).fix == (
        "Take /opt/old out of LD_LIBRARY_PATH: /usr/lib/libcuda.so.1 fits the module."
    )


def test_a_container_older_than_its_host_s_driver_is_to_be_restarted():
    broken = machine(
        host={"container": "docker"},
        driver={"module_version": "590.10.01", "cuda_init": cuda(803)},
    )

    assert "Restart the container" in only(rules.version_mismatch, broken).fix


def test_two_library_versions_of_which_the_loaded_one_wins_are_another_rule_s():
    two = machine(
        driver={
            "libraries": (
                library("/usr/lib/libcuda.so.1", is_selected=True),
                library("/usr/lib64/libcuda.so.1", "535.54.03"),
            ),
            "cuda_init": cuda(100),
        }
    )

    assert passes(rules.version_mismatch, two)
    assert symptoms(rules.two_drivers, two)


def test_what_works_outranks_what_file_names_say():
    assert passes(rules.version_mismatch, machine(driver={"module_version": "580.160"}))


def test_a_compatibility_library_differs_on_purpose():
    compat = machine(
        driver={
            "libraries": (
                library(
                    "/usr/local/cuda/compat/libcuda.so.1", "590.1", is_compat=True, is_selected=True
                ),
            ),
            "cuda_init": cuda(804),
        }
    )

    assert passes(rules.version_mismatch, compat)


def test_a_library_of_unknown_version_is_not_checked():
    doubt = machine(
        driver={
            "libraries": (library("/usr/lib/libcuda.so.1", UNREAD, is_selected=True),),
            "cuda_init": cuda(100),
        }
    )

    assert not_checked(rules.version_mismatch, doubt)


# --------------------------------------------------------------------------------------- DRV007


def test_a_missing_device_file_is_an_error():
    broken = machine(
        driver={"device_nodes": nodes(nvidiactl=missing("/dev/nvidiactl")), "cuda_init": cuda(100)},
        nvml=BLIND,
    )

    assert only(rules.device_missing, broken).saw == "/dev/nvidiactl does not exist"


def test_a_missing_uvm_file_says_whether_its_module_is_loaded():
    broken = machine(
        driver={
            "device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")),
            "loaded_modules": ("nvidia",),
            "cuda_init": cuda(999),
        }
    )

    symptom = only(rules.device_missing, broken)

    assert symptom.saw == "/dev/nvidia-uvm does not exist; the module nvidia_uvm is not loaded"
    assert symptom.commands == ("sudo nvidia-modprobe -c 0 -u",)


def test_a_gpu_s_missing_device_file_is_an_error_where_nvml_lacks_that_gpu():
    broken = machine(
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert only(rules.device_missing, broken).saw == "/dev/nvidia1 does not exist"


def test_device_files_that_the_first_use_made_after_we_looked_are_fine():
    fresh = machine(
        driver={
            "device_nodes": tuple(
                missing(f"/dev/{name}") for name in ("nvidiactl", "nvidia-uvm", "nvidia0")
            )
        }
    )

    assert passes(rules.device_missing, fresh)


@pytest.mark.parametrize("init", [None, Unknown("could not start")])
def test_a_missing_uvm_file_is_not_checked_where_cuda_was_not_asked(init: Any):
    quick = machine(
        driver={"device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")), "cuda_init": init}
    )

    assert not_checked(rules.device_missing, quick)
    assert not symptoms(rules.device_missing, quick)


def test_wsl_has_none_of_these_files():
    assert not is_applicable(rules.device_missing, WSL)


def test_gpus_that_a_container_was_not_given_are_not_missing():
    inside = machine(
        host={"container": "docker"},
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.device_missing, inside)


def test_a_container_without_any_device_file_is_told_how_to_start():
    inside = machine(
        host={"container": "docker"},
        driver={
            "device_nodes": (missing("/dev/nvidiactl"), missing("/dev/nvidia-uvm")),
            "cuda_init": cuda(100),
        },
        nvml=BLIND,
    )

    symptom = only(rules.device_missing, inside)

    assert symptom.commands == ("docker run --gpus all …",)


def test_without_the_module_no_device_file_is_expected():
    assert not is_applicable(rules.device_missing, NOT_LOADED)


# --------------------------------------------------------------------------------------- DRV008


def closed_to_us(path: str, group: str = "video", mode: str = "crw-rw----") -> DeviceNode:
    return node(path, mode=mode, group=group, can_open=False, error="Permission denied")


def test_a_device_file_of_a_group_that_the_user_is_not_in_is_an_error():
    broken = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidia0=closed_to_us("/dev/nvidia0")),
            "cuda_init": cuda(100),
        },
    )

    symptom = only(rules.device_forbidden, broken)

    assert symptom.saw == "/dev/nvidia0: Permission denied (crw-rw----, group video)"
    assert symptom.commands == ("sudo usermod -aG video $USER",)


@pytest.mark.parametrize(("group", "mode"), [("root", "crw-rw----"), ("video", "crw-------")])
def test_a_group_that_would_not_help_is_not_proposed(group: str, mode: str):
    broken = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidiactl=closed_to_us("/dev/nvidiactl", group, mode)),
            "cuda_init": cuda(100),
        },
    )

    assert "usermod" not in only(rules.device_forbidden, broken).commands[0]


def test_a_device_file_whose_permissions_may_not_be_read_is_not_checked():
    doubt = machine(driver={"device_nodes": nodes(nvidia0=node("/dev/nvidia0", can_open=UNREAD))})

    assert not_checked(rules.device_forbidden, doubt)


def test_where_cuda_opened_every_gpu_permissions_do_not_matter():
    works = machine(driver={"device_nodes": nodes(nvidia0=closed_to_us("/dev/nvidia0"))})

    assert passes(rules.device_forbidden, works)


# --------------------------------------------------------------------------------------- DRV009


@pytest.mark.parametrize("code", [3, 34, 36, 46, 100, 101, 304, 802, 803, 804, 919, 999])
def test_a_code_of_cuinit_is_told_by_name_with_its_causes(code: int):
    symptom = only(rules.cuinit_fails, machine(driver={"cuda_init": cuda(code)}))

    assert f"error {code} (CUDA_ERROR_" in symptom.saw
    assert "/usr/lib/x86_64-linux-gnu/libcuda.so.1" in symptom.saw
    assert "Usual causes: " in symptom.fix
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


def test_a_late_answer_while_persistence_is_off_is_not_checked():
    slow = machine(
        driver={"cuda_init": CudaInit(library="/l", error="no answer in 5 s to cuInit")},
        nvml={"gpus": (gpu(0, persistence=False), gpu(1, persistence=False))},
    )

    assert not_checked(rules.cuinit_fails, slow)
    assert not symptoms(rules.cuinit_fails, slow)


@pytest.mark.parametrize("init", [None, Unknown("could not start python")])
def test_without_an_answer_of_cuinit_nothing_is_checked(init: Any):
    assert not_checked(rules.cuinit_fails, machine(driver={"cuda_init": init}))


def test_a_failure_whose_cause_is_another_finding_is_folded_under_it():
    forbidden = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidiactl=closed_to_us("/dev/nvidiactl")),
            "cuda_init": cuda(304),
        },
    )

    assert found_in(forbidden) == {"DRV008": None, "DRV009": "DRV008"}


# --------------------------------------------------------------------------------------- DRV010


def switched(manager: Any, **driver: Any) -> Snapshot:
    facts = {"cuda_init": cuda(802), **driver, "fabric_manager": manager}
    return machine(host={"nvswitches": 4}, driver=facts)


def test_a_fabric_manager_that_is_not_installed_is_an_error():
    assert "4 NVSwitch devices" in only(rules.fabric_manager, switched(None)).saw


def test_a_fabric_manager_that_does_not_run_is_an_error_and_explains_802():
    stopped = switched(FabricManager(is_running=False, version=DRIVER))

    assert found_in(stopped) == {"DRV010": None, "DRV009": "DRV010"}


def test_a_fabric_manager_of_another_version_is_an_error():
    symptom = only(
        rules.fabric_manager, switched(FabricManager(is_running=True, version="580.82.07"))
    )

    assert symptom.saw == "the fabric manager is 580.82.07, the driver 580.159.04"


def test_a_fabric_that_works_all_the_same_is_a_warning():
    works = switched(
        FabricManager(is_running=False, version=DRIVER), cuda_init=cuda(0, device_count=2)
    )

    assert only(rules.fabric_manager, works).severity is Severity.WARNING


def test_a_fabric_manager_that_runs_in_the_driver_s_version_is_fine():
    well = switched(FabricManager(is_running=True, version=DRIVER))

    assert passes(rules.fabric_manager, well)


def test_without_an_nvswitch_no_fabric_manager_is_needed():
    assert not is_applicable(rules.fabric_manager, machine(host={"nvswitches": 0}))


@pytest.mark.parametrize(
    "manager", [UNREAD, FabricManager(is_running=UNREAD), FabricManager(is_running=True)]
)
def test_a_fabric_manager_out_of_sight_is_not_checked(manager: Any):
    assert not_checked(rules.fabric_manager, switched(manager))
    assert not symptoms(rules.fabric_manager, switched(manager))


# --------------------------------------------------------------------------------------- DRV011


def test_two_driver_versions_say_which_wins_and_from_where():
    two = machine(
        driver={
            "libraries": (
                library("/opt/a/libcuda.so.1", is_selected=True, found_via="LD_LIBRARY_PATH"),
                library("/usr/lib/libcuda.so.1", "535.54.03"),
            )
        }
    )

    symptom = only(rules.two_drivers, two)

    assert symptom.saw == (
        "580.159.04: /opt/a/libcuda.so.1 (wins, by LD_LIBRARY_PATH); "
        "535.54.03: /usr/lib/libcuda.so.1"
    )
    assert "Keep 580.159.04" in symptom.fix


def test_two_equal_copies_are_fine():
    copies = (
        library(
            "/usr/local/nvidia/lib64/libcuda.so.1", is_selected=True, found_via="LD_LIBRARY_PATH"
        ),
        library("/usr/lib/libcuda.so.1"),
    )

    assert passes(rules.two_drivers, machine(driver={"libraries": copies}))


def test_stubs_and_compatibility_libraries_are_no_second_driver():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/local/cuda/compat/libcuda.so.1", "580.95.05", is_compat=True),
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", "1.0", is_stub=True),
    )

    assert passes(rules.two_drivers, machine(driver={"libraries": copies}))


def test_a_second_copy_of_unknown_version_is_not_checked():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/lib64/libcuda.so.1", UNREAD),
    )

    assert not_checked(rules.two_drivers, machine(driver={"libraries": copies}))


def test_a_wrong_library_that_wins_gives_one_root():
    broken = machine(
        driver={
            "libraries": (
                library("/opt/a/libcuda.so.1", "535.54.03", is_selected=True),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(803),
        }
    )

    assert found_in(broken) == {"DRV006": None, "DRV009": "DRV006", "DRV011": "DRV006"}


# --------------------------------------------------------------------------------------- DRV012


def unseen(device_id: str, version: str = DRIVER, kind: str = "open") -> Snapshot:
    return machine(
        host={"pci_gpus": (card(device_id=device_id),)},
        driver={"module_version": version, "module_kind": kind},
        nvml={"count": 0, "gpus": ()},
    )


def test_a_driver_older_than_the_gpu_is_an_error():
    symptom = only(rules.wrong_driver_for_gpu, unseen("0x2901", "550.54.14"))

    assert symptom.subject == BUS_IDS[1]
    assert symptom.saw.endswith("is Blackwell, which needs driver 570 or newer; this is 550.54.14")


def test_a_driver_that_dropped_the_gpu_is_an_error():
    symptom = only(rules.wrong_driver_for_gpu, unseen("0x1b06", "590.10.01", "closed"))

    assert "which drivers after 580 no longer drive" in symptom.saw


@pytest.mark.parametrize(
    ("device_id", "kind", "needed"),
    [("0x2b85", "closed", "open"), ("0x2342", "closed", "open"), ("0x1db6", "open", "closed")],
)
def test_the_wrong_kind_of_kernel_module_is_an_error(device_id: str, kind: str, needed: str):
    symptom = only(rules.wrong_driver_for_gpu, unseen(device_id, kind=kind))

    assert f"needs the {needed} kernel module; the {kind} one is loaded" in symptom.saw


def test_a_gpu_that_nvml_lists_is_driven_whatever_the_table_says():
    works = machine(
        host={"pci_gpus": (card(BUS_IDS[0], "0x2b85"), card())}, driver={"module_kind": "closed"}
    )

    assert passes(rules.wrong_driver_for_gpu, works)


def test_a_gpu_that_a_container_was_not_given_is_not_judged():
    inside = machine(
        host={"container": "docker", "pci_gpus": (card(BUS_IDS[0]), card(device_id="0x102d"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.wrong_driver_for_gpu, inside)


def test_a_gpu_that_the_driver_suits_is_some_other_trouble_s():
    assert passes(rules.wrong_driver_for_gpu, unseen("0x2335"))


def test_a_gpu_that_no_table_knows_is_not_checked():
    [answer] = not_checked(rules.wrong_driver_for_gpu, unseen("0x9999"))

    assert answer.subject == BUS_IDS[1]


def test_without_nvml_s_list_nothing_is_checked():
    assert not_checked(rules.wrong_driver_for_gpu, machine(nvml=BLIND))


# --------------------------------------------------------------------------------------- DRV013


def test_a_stub_that_the_loader_takes_is_an_error():
    broken = machine(
        driver={
            "libraries": (
                library(
                    "/usr/local/cuda/lib64/stubs/libcuda.so.1",
                    UNREAD,
                    is_stub=True,
                    is_selected=True,
                    found_via="LD_LIBRARY_PATH",
                ),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(34),
        }
    )

    symptom = only(rules.stub_wins, broken)

    assert symptom.fix == "Take /usr/local/cuda/lib64/stubs out of LD_LIBRARY_PATH."
    assert found_in(broken) == {"DRV013": None, "DRV009": "DRV013"}


def test_a_stub_under_another_name_gives_itself_away_by_error_34():
    assert only(rules.stub_wins, machine(driver={"cuda_init": cuda(34)})).saw == (
        "cuInit says that /usr/lib/x86_64-linux-gnu/libcuda.so.1 is a stub (error 34)"
    )


def test_a_stub_that_does_not_win_is_fine():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", is_stub=True),
    )

    assert passes(rules.stub_wins, machine(driver={"libraries": copies}))


# --------------------------------------------------------------------------------------- DRV014

ASLEEP = (gpu(0, persistence=False), gpu(1))


def test_persistence_off_on_a_machine_without_a_display_is_information():
    off = machine(driver={"persistenced_running": False}, nvml={"gpus": ASLEEP})

    assert only(rules.persistence_off, off).saw.startswith("persistence is off on gpu 0")
    assert rules.persistence_off.severity is Severity.INFO


def test_the_daemon_keeps_gpus_awake():
    assert passes(
        rules.persistence_off,
        machine(driver={"persistenced_running": True}, nvml={"gpus": ASLEEP}),
    )


def test_a_display_keeps_a_gpu_awake():
    desktop = machine(
        driver={"persistenced_running": False},
        nvml={"gpus": (gpu(0, persistence=False, display_active=True),)},
    )

    assert not is_applicable(rules.persistence_off, desktop)


def test_persistence_on_without_the_daemon_is_fine():
    assert passes(rules.persistence_off, machine(driver={"persistenced_running": False}))


def test_a_daemon_out_of_sight_is_not_checked():
    hidden = machine(driver={"persistenced_running": UNREAD}, nvml={"gpus": ASLEEP})

    assert not_checked(rules.persistence_off, hidden)


# --------------------------------------------------------------------------------------- DRV015


def test_a_gpu_on_the_bus_that_nvml_lacks_is_named_by_its_bus_id():
    symptom = only(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}))

    assert symptom.subject == BUS_IDS[1]
    assert "is not among the 1 GPU that NVML lists" in symptom.saw


@pytest.mark.parametrize(
    "changes",
    [
        {"host": {"pci_gpus": (card(BUS_IDS[0]), card(driver="vfio-pci"))}},
        {"driver": {"excluded_gpus": (BUS_IDS[1],)}},
        {"driver": {"excluded_gpus": ("GPU-11111111-0000-0000-0000-000000000000",)}},
    ],
)
def test_gpus_that_are_kept_away_on_purpose_are_not_missing(changes: dict[str, Any]):
    assert passes(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}, **changes))


def test_as_many_gpus_as_on_the_bus_are_all_gpus_whatever_their_bus_ids():
    renamed = (gpu(0, bus_id="0001:00:00.0"), gpu(1, bus_id="0002:00:00.0"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": renamed}))
    assert passes(rules.wrong_driver_for_gpu, machine(nvml={"gpus": renamed}))


def test_gpus_that_a_container_was_not_given_are_hidden_and_not_missing():
    inside = machine(
        host={"container": "docker"},
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.gpus_missing, inside)


def test_a_gpu_that_a_container_was_given_and_nvml_lacks_is_missing():
    inside = machine(host={"container": "docker"}, nvml={"count": 1, "gpus": (gpu(0),)})

    assert "/dev/nvidia0 and /dev/nvidia1" in only(rules.gpus_missing, inside).saw


def test_a_lost_gpu_that_nvml_still_counts_is_not_missing():
    lost = gpu(1, state="lost", bus_id=Unknown("GPU is lost"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": (gpu(0), lost)}))


def test_a_failed_adapter_explains_the_gpu_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[1],)}
    )

    assert found_in(broken) == {"DRV017": None, "DRV015": "DRV017"}


def test_another_gpu_s_failure_does_not_explain_the_one_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[0],)}
    )

    assert found_in(broken) == {"DRV015": None, "DRV017": None}


def test_a_gpu_that_fell_off_the_bus_is_the_cause_of_its_absence_and_no_other_s():
    off = Xid(bus_id=BUS_IDS[1], number=79, count=1)
    gone = machine(nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"xids": (off,)})
    other = machine(nvml={"count": 1, "gpus": (gpu(1),)}, kernel_log={"xids": (off,)})

    assert "GPU001" in only(rules.gpus_missing, gone).explained_by
    assert "GPU001" not in only(rules.gpus_missing, other).explained_by


def test_without_nvml_the_count_is_not_checked():
    assert not_checked(rules.gpus_missing, machine(nvml=BLIND))


# --------------------------------------------------------------------------------------- DRV016


@pytest.mark.parametrize(
    ("code", "name"),
    [(9, "NVML_ERROR_DRIVER_NOT_LOADED"), (18, "NVML_ERROR_LIB_RM_VERSION_MISMATCH")],
)
def test_an_error_of_nvml_is_told_by_name_with_its_cause(code: int, name: str):
    broken = machine(nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=code)})

    symptom = only(rules.nvml_fails, broken)

    assert f"{name} ({code})" in symptom.saw
    assert "Usual causes: " in symptom.fix


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


# --------------------------------------------------------------------------------------- DRV017


def test_an_adapter_that_failed_and_works_now_is_a_warning_that_says_so():
    symptom = only(rules.adapter_failed, machine(kernel_log={"adapter_failures": (BUS_IDS[0],)}))

    assert symptom.subject == BUS_IDS[0]
    assert symptom.saw.endswith("NVML sees that GPU now")
    assert rules.adapter_failed.severity is Severity.WARNING


def test_a_log_that_may_not_be_read_is_not_checked():
    assert not_checked(rules.adapter_failed, machine(kernel_log={"adapter_failures": UNREAD}))


# -------------------------------------------------------------------------------------- all rules


@pytest.mark.parametrize("rule", DRV, ids=lambda rule: rule.code)
def test_every_rule_of_the_family_has_nothing_to_say_without_a_gpu(rule: Rule):
    answers = list(rule(NO_GPU))

    if rule is not rules.no_gpu:
        assert all(isinstance(answer, NotApplicable) for answer in answers)
        assert answers


@pytest.mark.parametrize("rule", DRV, ids=lambda rule: rule.code)
@pytest.mark.parametrize("section", ["host", "driver", "nvml", "kernel_log"])
def test_no_rule_finds_fault_with_a_section_of_which_nothing_is_known(rule: Rule, section: str):
    blank = machine(**{section: type(getattr(HEALTHY, section))()})

    answers = list(rule(blank))

    assert not [answer for answer in answers if isinstance(answer, Symptom)]
    assert all(isinstance(answer, NotChecked | NotApplicable) for answer in answers)


def with_one_fact_changed(base: Snapshot, fact: Any) -> Iterator[Snapshot]:
    """Every snapshot that differs from *base* in one field, where its type takes *fact*."""
    for section in ("host", "driver", "nvml", "kernel_log"):
        for field in getattr(base, section).__struct_fields__:
            changed = machine(base, **{section: {field: fact}})
            with contextlib.suppress(msgspec.ValidationError):
                yield msgspec.json.decode(msgspec.json.encode(changed), type=Snapshot)


@pytest.mark.parametrize("base", [HEALTHY, WSL], ids=["healthy", "wsl"])
def test_one_fact_that_nobody_knows_is_no_fault(base: Snapshot):
    for changed in with_one_fact_changed(base, UNREAD):
        report = examine(changed, rules=DRV)

        assert not report.findings
        assert not [n for n in report.not_checked if "gpucheck's own" in n.why]


@pytest.mark.parametrize("fact", [None, UNREAD], ids=["none", "unknown"])
@pytest.mark.parametrize(
    "base", [NO_GPU, NO_DRIVER, NOT_LOADED, WSL], ids=["no gpu", "no driver", "not loaded", "wsl"]
)
def test_no_rule_stumbles_over_a_fact_that_is_missing(base: Snapshot, fact: Any):
    for changed in with_one_fact_changed(base, fact):
        report = examine(changed, rules=DRV)

        assert not [n for n in report.not_checked if "gpucheck's own" in n.why]


def test_codes_run_from_drv001_to_drv017():
    assert sorted(rule.code for rule in DRV) == [f"DRV{n:03}" for n in range(1, 18)]


def test_the_healthy_machine_is_looked_at_in_full():
    report = examine(machines.HEALTHY, rules=DRV)

    assert not report.findings
    assert not report.not_checked


def test_the_device_file_of_each_gpu_is_asked_for_by_its_number():
    lacking = machine(
        driver={
            "device_nodes": (node("/dev/nvidiactl"), node("/dev/nvidia0"), missing("/dev/nvidia1")),
            "cuda_init": cuda(100),
        },
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert only(rules.device_missing, lacking).commands == ("sudo nvidia-modprobe -c 1",)


def test_an_old_card_that_nouveau_drives_beside_working_gpus_is_left_alone():
    old = PciGpu(bus_id="0000:09:00.0", device_id="0x128b", driver="nouveau")  # a GT 710
    mixed = machine(host={"pci_gpus": (*HEALTHY.host.pci_gpus, old)})

    assert passes(rules.nouveau, mixed)
    assert passes(rules.gpus_missing, mixed)
    assert passes(rules.wrong_driver_for_gpu, mixed)


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
    assert "/run/opengl-driver/lib" in symptom.commands[0]


def test_a_container_that_lost_its_devices_is_to_be_restarted():
    lost = machine(
        host={"container": "docker"},
        nvml={"error": NvmlError(call="nvmlInitWithFlags", code=999, message="Unknown Error")},
    )

    assert only(rules.nvml_fails, lost).fix.startswith("Restart the container")
