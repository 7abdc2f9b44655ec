"""One thing broken at a time in a built machine: its cause comes first, nothing false beside it.

A case is a function that breaks the machine. Its decorator names the code that must come first, and
the other codes that may stand as roots of their own, because they are true there too.

It is long because it is a list: a case for each fault.
"""

from collections.abc import Callable
from typing import Any

import pytest
from built.machine import (
    BUS_IDS,
    CUDNN_PARTS,
    DRIVER,
    GPP_13,
    KERNEL,
    MULTIARCH,
    SITE,
    TARGETS,
    TOOLKIT,
    BuiltMachine,
)
from fakes.nvml import System, a100_pcie, h200

pytestmark = pytest.mark.namespaces

Break = Callable[[BuiltMachine], Any]
CASES: dict[str, tuple[str, frozenset[str], Break]] = {}


def broken(first: str, *also: str) -> Callable[[Break], Break]:
    def keep(breaks: Break) -> Break:
        CASES[breaks.__name__] = (first, frozenset({first, *also}), breaks)
        return breaks

    return keep


# ---------------------------------------------------------------------------------------- host


@broken("HST002")
def small_shared_memory(machine: BuiltMachine) -> None:
    machine.shm_bytes = 64 << 20


@broken("HST004")
def container_without_its_gpus(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.without_driver()
    machine.kernel_module()
    machine.pci(*BUS_IDS)


@broken("HST006")
def iommu_translates_on_bare_metal(machine: BuiltMachine) -> None:
    machine.gpus = [a100_pcie(), a100_pcie()]
    machine.proc("cmdline", "root=/dev/sda1 intel_iommu=on\n")
    for bus_id in BUS_IDS:
        machine.sys(f"bus/pci/devices/{bus_id}/iommu_group/type", "DMA-FQ\n")


# --------------------------------------------------------------------------------- environment


@broken("ENV002", "CUD003")
def cuda_home_does_not_exist(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-99.9"


@broken("ENV002")
def cuda_home_dangles(machine: BuiltMachine) -> None:
    machine.link("/opt/cuda-current", "/usr/local/cuda-12.0")
    machine.environment["CUDA_HOME"] = "/opt/cuda-current"


@broken("ENV003")
def cuda_home_is_a_list(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = "/usr/local/cuda:/usr/local/cuda"


@broken("ENV003")
def cuda_home_ends_in_bin(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = "/usr/local/cuda/bin"


@broken("ENV003")
def cuda_home_has_an_unexpanded_tilde(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = "~/cuda"


@broken("ENV003")
def cuda_home_has_quotes(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = '"/usr/local/cuda"'


@broken("ENV004")
def cuda_home_is_no_toolkit(machine: BuiltMachine) -> None:
    machine.folder("/opt/empty")
    machine.environment["CUDA_HOME"] = "/opt/empty"


@broken("ENV005", "CUD003")
def cuda_home_and_nvcc_are_two_toolkits(machine: BuiltMachine) -> None:
    machine.toolkit("/usr/local/cuda-12.4", "12.4.131", max_gcc=13)
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-12.4"


@broken("ENV007")
def no_nvcc_on_path(machine: BuiltMachine) -> None:
    machine.environment["PATH"] = "/opt/venv/bin:/usr/bin:/bin"


@broken("ENV010")
def ld_library_path_has_an_empty_element(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = f"{TARGETS}:"


@broken("ENV012")
def ld_library_path_leads_to_stubs(machine: BuiltMachine) -> None:
    machine.link(f"{TARGETS}/stubs/libcuda.so.1", "libcuda.so")
    machine.environment["LD_LIBRARY_PATH"] = f"{TARGETS}/stubs"
    machine.environment["FAKE_CODE"] = "34"


@broken("ENV013")
def path_has_a_relative_element(machine: BuiltMachine) -> None:
    machine.environment["PATH"] += ":bin"


@broken("ENV014")
def ld_library_path_is_open_to_everybody(machine: BuiltMachine) -> None:
    machine.folder("/opt/open", mode=0o777)
    machine.environment["LD_LIBRARY_PATH"] = "/opt/open"


@broken("ENV018")
def every_gpu_is_hidden(machine: BuiltMachine) -> None:
    machine.environment["CUDA_VISIBLE_DEVICES"] = ""
    machine.environment["FAKE_CODE"] = "100"


@broken("ENV019")
def a_gpu_that_is_not_there_is_asked_for(machine: BuiltMachine) -> None:
    machine.environment["CUDA_VISIBLE_DEVICES"] = "0,7"
    machine.environment["FAKE_COUNT"] = "1"


@broken("ENV020")
def a_gpu_is_asked_for_twice(machine: BuiltMachine) -> None:
    machine.environment["CUDA_VISIBLE_DEVICES"] = "0,0"
    machine.environment["FAKE_CODE"] = "100"


@broken("ENV022")
def a_container_asked_for_no_compute(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    machine.environment["NVIDIA_DRIVER_CAPABILITIES"] = "utility"
    for ending in (".so", ".so.1", f".so.{DRIVER}"):
        machine.remove(f"{MULTIARCH}/libcuda{ending}")


@broken("ENV023")
def a_debugging_variable_was_left_on(machine: BuiltMachine) -> None:
    machine.environment["CUDA_LAUNCH_BLOCKING"] = "1"


@broken("ENV024")
def nccl_peer_to_peer_is_off(machine: BuiltMachine) -> None:
    machine.environment["NCCL_P2P_DISABLE"] = "1"


@broken("ENV028", "ENV027")
def bashrc_has_a_mangled_export(machine: BuiltMachine) -> None:
    machine.write("/home/user/.bashrc", "exportCUDA_HOME=/usr/local/cuda\n")


@broken("ENV029", "ENV027")
def bashrc_appends_cuda_home_to_itself(machine: BuiltMachine) -> None:
    machine.write("/home/user/.bashrc", "export CUDA_HOME=$CUDA_HOME:/usr/local/cuda\n")


@broken("ENV031")
def bashrc_extends_ld_library_path_unguarded(machine: BuiltMachine) -> None:
    machine.write(
        "/home/user/.bashrc",
        f"export LD_LIBRARY_PATH={TARGETS}:$LD_LIBRARY_PATH\n",
    )
    machine.environment["LD_LIBRARY_PATH"] = f"{TARGETS}:"


# -------------------------------------------------------------------------------------- driver


@broken("DRV001")
def no_gpu(machine: BuiltMachine) -> None:
    machine.without_gpus()
    machine.gpus = []
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "100"


@broken("DRV002")
def no_driver(machine: BuiltMachine) -> None:
    machine.without_driver()


@broken("DRV003")
def module_not_loaded(machine: BuiltMachine) -> None:
    machine.kernel_module(None)
    machine.pci(*BUS_IDS, driver=None)
    machine.devices.clear()
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "999"


@broken("DRV004")
def nouveau_has_the_gpus(machine: BuiltMachine) -> None:
    machine.kernel_module(None)
    machine.proc("modules", "nouveau 1 0 - Live 0x0\n")
    machine.pci(*BUS_IDS, driver="nouveau")
    machine.devices.clear()
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "999"


@broken("DRV005")
def secure_boot_refused_the_module(machine: BuiltMachine) -> None:
    machine.kernel_module(None)
    machine.pci(*BUS_IDS, driver=None)
    machine.devices.clear()
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "999"
    efi = machine.place / "sys/firmware/efi/efivars"
    efi.mkdir(parents=True)
    name = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    (efi / name).write_bytes(b"\x06\x00\x00\x00\x01")
    machine.write(f"/usr/lib/modules/{KERNEL}/updates/dkms/nvidia.ko", b"\x7fELF")
    machine.kernel_log("Loading of module with unavailable key is rejected", "nvidia: rejected")


@broken("DRV006")
def libraries_newer_than_the_module(machine: BuiltMachine) -> None:
    machine.kernel_module("570.86.15")
    machine.nvml_options["init_error"] = 18
    machine.environment["FAKE_CODE"] = "803"


@broken("DRV007")
def no_uvm_device(machine: BuiltMachine) -> None:
    machine.device("nvidia-uvm", there=False)
    machine.environment["FAKE_CODE"] = "999"


@broken("DRV007")
def one_gpu_has_no_device_file(machine: BuiltMachine) -> None:
    machine.device("nvidia1", there=False)
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"


@broken("DRV008")
def this_user_may_not_open_the_devices(machine: BuiltMachine) -> None:
    machine.ordinary_user()
    for name in list(machine.devices):
        machine.device(name, mode=0o660)
    machine.nvml_options["init_error"] = 4
    machine.environment["FAKE_CODE"] = "100"


@broken("DRV009")
def cuda_does_not_start_and_nobody_knows_why(machine: BuiltMachine) -> None:
    machine.environment["FAKE_CODE"] = "3"


@broken("DRV010")
def no_fabric_manager_on_an_nvswitch_system(machine: BuiltMachine) -> None:
    for number in range(4):
        bus_id = f"0000:0{number + 1}:00.0"
        machine.pci_device(bus_id, kind="0x068000", device="0x22a3", driver="nvidia-nvswitch")
    machine.gpus = [h200(fabric="1 0 0 0"), h200(fabric="1 0 0 0")]
    machine.environment["FAKE_CODE"] = "802"


@broken("DRV015")
def nvml_shows_fewer_gpus_than_the_bus(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"


@broken("DRV017", "DRV015")
def an_adapter_failed_to_initialise(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.kernel_log("NVRM: GPU 0000:00:07.0: RmInitAdapter failed! (0x26:0x56:1463)")


# --------------------------------------------------------------------- toolkit, cuDNN, libraries


@broken("CUD002", "CUD003")
def toolkit_newer_than_the_driver(machine: BuiltMachine) -> None:
    machine.toolkit("/usr/local/cuda-14.0", "14.0.10")
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-14.0"
    machine.environment["PATH"] = "/opt/venv/bin:/usr/local/cuda-14.0/bin:/usr/bin:/bin"


@broken("CUD004")
def compiler_newer_than_nvcc_takes(machine: BuiltMachine) -> None:
    machine.program("/usr/bin/g++", GPP_13.replace("13.3.0", "17.1.0"))


@broken("CUD005", "ENV002")
def the_default_toolkit_dangles(machine: BuiltMachine) -> None:
    machine.link("/etc/alternatives/cuda", "/usr/local/cuda-11.8")
    machine.environment["CUDA_HOME"] = TOOLKIT
    machine.environment["PATH"] = f"/opt/venv/bin:{TOOLKIT}/bin:/usr/bin:/bin"


@broken("CUD005")
def nvcc_does_not_run(machine: BuiltMachine) -> None:
    machine.write(f"{TOOLKIT}/bin/nvcc", "#!/nonexistent/sh\n", mode=0o755)


@broken("LIB003")
def cudnn_wheel_lost_a_file(machine: BuiltMachine) -> None:
    machine.remove(f"{SITE}/nvidia/cudnn/lib/libcudnn_graph.so.9")


@broken("LIB003")
def a_wheel_library_is_truncated(machine: BuiltMachine) -> None:
    machine.write(f"{SITE}/nvidia/cu13/lib/libcublas.so.13", b"")


@broken("DNN001", "LIB003", "DNN003")
def no_cudnn_at_all(machine: BuiltMachine) -> None:
    for stem in ("libcudnn", *(f"libcudnn_{part}" for part in CUDNN_PARTS)):
        machine.remove(f"{MULTIARCH}/{stem}.so.9")
        machine.remove(f"{MULTIARCH}/{stem}.so.9.14.0")
    machine.remove(f"{SITE}/nvidia/cudnn")
    machine.remove(f"{SITE}/nvidia_cudnn_cu13-9.19.0.56.dist-info")


@broken("LIB001")
def ld_library_path_shadows_a_wheels_library(machine: BuiltMachine) -> None:
    # cusparse finds nvJitLink by RUNPATH, which LD_LIBRARY_PATH beats.
    machine.elf("/opt/old/libnvJitLink.so.13.0.12", soname="libnvJitLink.so.13")
    machine.link("/opt/old/libnvJitLink.so.13", "libnvJitLink.so.13.0.12")
    machine.elf(
        f"{SITE}/torch/lib/libtorch_global_deps.so", needed=("libcusparse.so.12",), rpath="$ORIGIN"
    )
    machine.environment["LD_LIBRARY_PATH"] = "/opt/old"


@broken("LIB002", "LIB004")
def two_majors_of_one_wheel(machine: BuiltMachine) -> None:
    file = "nvidia/cudnn/lib/libcudnn.so.9"
    machine.elf(f"{SITE}/{file}", rpath="$ORIGIN")
    machine.wheel(SITE, "nvidia-cudnn-cu12", "9.10.2.21", [file])
    # The wheel that was written over has the other's file now, of the same size.


@broken("LIB004")
def a_wheel_of_another_version_than_torch_requires(machine: BuiltMachine) -> None:
    machine.remove(f"{SITE}/nvidia_nccl_cu13-2.28.9.dist-info")
    machine.elf(f"{SITE}/nvidia/nccl/lib/libnccl.so.2", runpath="$ORIGIN")
    machine.wheel(SITE, "nvidia-nccl-cu13", "2.20.5", ["nvidia/nccl/lib/libnccl.so.2"])


# ------------------------------------------------------------------------------------- pytorch


@broken("TOR001")
def no_torch(machine: BuiltMachine) -> None:
    machine.without_torch()


@broken("TOR002")
def a_cpu_only_torch(machine: BuiltMachine) -> None:
    machine.without_torch()
    machine.write(
        f"{SITE}/torch/version.py",
        "__version__ = '2.11.0+cpu'\ncuda = None\nhip = None\nxpu = None\n",
    )
    machine.write(f"{SITE}/torch/__init__.py")
    machine.wheel(SITE, "torch", "2.11.0+cpu", ["torch/version.py"])


@broken("TOR003")
def a_rocm_torch(machine: BuiltMachine) -> None:
    machine.without_torch()
    machine.write(
        f"{SITE}/torch/version.py",
        "__version__ = '2.11.0+rocm7.1'\ncuda = None\nhip = '7.1.25424'\nxpu = None\n",
    )
    machine.write(f"{SITE}/torch/__init__.py")
    machine.wheel(SITE, "torch", "2.11.0+rocm7.1", ["torch/version.py"])


@broken("TOR004", "CUD002")
def driver_too_old_for_torch(machine: BuiltMachine) -> None:
    old = "550.54.14"
    machine.kernel_module(old)
    for name in ("libcuda", "libnvidia-ml"):
        built = machine.layer / f"{MULTIARCH}/{name}.so.{DRIVER}".lstrip("/")
        machine.write(f"{MULTIARCH}/{name}.so.{old}", built.read_bytes(), mode=0o755)
        machine.remove(f"{MULTIARCH}/{name}.so.{DRIVER}")
        machine.link(f"{MULTIARCH}/{name}.so.1", f"{name}.so.{old}")
    machine.nvml_options["system"] = System(driver=old, nvml=f"12.{old}", cuda=12040)
    machine.environment["FAKE_VERSION"] = "12040"
    machine.gpus = [h200(gsp=old), h200(gsp=old)]


@broken("TOR006")
def torchvision_of_another_torch(machine: BuiltMachine) -> None:
    machine.remove(f"{SITE}/torchvision-0.26.0.dist-info")
    machine.wheel(SITE, "torchvision", "0.16.0", [])


@broken("TOR010")
def another_torch_on_pythonpath(machine: BuiltMachine) -> None:
    machine.write("/opt/lib/torch/__init__.py")
    machine.write(
        "/opt/lib/torch/version.py", "__version__ = '2.11.0+cu130'\ncuda = '13.0'\nhip = None\n"
    )
    machine.environment["PYTHONPATH"] = "/opt/lib"


# ---------------------------------------------------------------------------------- GPUs, links


@broken("GPU001")
def a_gpu_fell_off_the_bus(machine: BuiltMachine) -> None:
    machine.gpus = [h200(), h200().lost()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.kernel_log("NVRM: Xid (PCI:0000:00:07): 79, GPU has fallen off the bus.")


@broken("GPU004")
def uncorrected_memory_errors(machine: BuiltMachine) -> None:
    machine.gpus = [h200(), h200(uncorrected_volatile=2)]


@broken("GPU006")
def a_row_remap_failed(machine: BuiltMachine) -> None:
    machine.gpus = [h200(), h200(remapped_rows="0 9 0 1")]


@broken("GPU012")
def a_gpu_is_slowed_down(machine: BuiltMachine) -> None:
    machine.gpus = [h200(), h200(event_reasons=0x48)]


@broken("LNK004")
def nvlinks_are_down(machine: BuiltMachine) -> None:
    machine.gpus = [h200(nvlinks_down=(3, 4)), h200(nvlinks_down=(3, 4))]


# --------------------------------------------------------------------------- two causes at once


@broken("DRV006", "HST002")
def driver_mismatch_and_small_shared_memory(machine: BuiltMachine) -> None:
    libraries_newer_than_the_module(machine)
    small_shared_memory(machine)


@broken("GPU006", "ENV002")
def worn_out_memory_and_a_wrong_cuda_home(machine: BuiltMachine) -> None:
    a_row_remap_failed(machine)
    cuda_home_does_not_exist(machine)


@broken("DRV002", "TOR002")
def no_driver_and_a_cpu_only_torch(machine: BuiltMachine) -> None:
    machine.without_driver()
    a_cpu_only_torch(machine)


@broken("GPU001", "GPU006")
def one_gpu_lost_and_the_other_worn_out(machine: BuiltMachine) -> None:
    machine.gpus = [h200(remapped_rows="0 9 0 1"), h200().lost()]
    machine.environment["FAKE_COUNT"] = "1"


@broken("LIB003", "ENV023")
def a_damaged_wheel_and_a_debugging_variable(machine: BuiltMachine) -> None:
    a_wheel_library_is_truncated(machine)
    a_debugging_variable_was_left_on(machine)


@broken("DRV007", "ENV010")
def no_uvm_device_and_an_empty_library_path_element(machine: BuiltMachine) -> None:
    no_uvm_device(machine)
    ld_library_path_has_an_empty_element(machine)


@broken("GPU012", "TOR004", "CUD002")
def an_old_driver_and_a_hot_gpu(machine: BuiltMachine) -> None:
    driver_too_old_for_torch(machine)
    old = "550.54.14"
    machine.gpus = [h200(gsp=old), h200(gsp=old, event_reasons=0x48)]


@pytest.mark.parametrize("name", CASES)
def test_the_cause_comes_first_and_nothing_false_stands_beside_it(name: str, machine: BuiltMachine):
    first, roots, breaks = CASES[name]
    breaks(machine)

    report = machine.doctor()

    serious = [f for f in report["findings"] if f["severity"] != "info"]
    found = [(f["code"], f["subject"], f["saw"]) for f in serious if f["explained_by"] is None]
    assert found, report["not_checked"]
    assert report["findings"][0]["code"] == first, found
    assert {code for code, *_ in found} <= roots, found
    assert report["exit_code"] == int(any(f["severity"] == "error" for f in serious))


def test_there_are_as_many_broken_machines_as_were_promised():
    together = [name for name in CASES if "_and_" in name]

    assert len(CASES) >= 40
    assert len(together) >= 6
