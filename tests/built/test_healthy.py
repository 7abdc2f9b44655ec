"""Healthy machines that tempt other tools into a false alarm: nothing may be said of them."""

from collections.abc import Callable
from typing import Any

import pytest
from built.machine import BUS_IDS, DRIVER, MULTIARCH, SITE, TARGETS, TOOLKIT, BuiltMachine
from fakes.nvml import a100_pcie, geforce_laptop, h200

pytestmark = pytest.mark.namespaces

Tempt = Callable[[BuiltMachine], Any]
TEMPTING: dict[str, Tempt] = {}


def healthy(tempts: Tempt) -> Tempt:
    TEMPTING[tempts.__name__] = tempts
    return tempts


@healthy
def as_it_was_built(machine: BuiltMachine) -> None:
    pass


@healthy
def cuda_home_with_a_trailing_slash_and_two_names_for_one_toolkit(machine: BuiltMachine) -> None:
    machine.environment["CUDA_HOME"] = f"{TOOLKIT}/"
    machine.environment["PATH"] = f"/opt/venv/bin:/usr/local/cuda/bin:{TOOLKIT}/bin:/usr/bin:/bin"


@healthy
def an_empty_ld_library_path(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = ""


@healthy
def the_toolkit_on_ld_library_path_that_torchs_rpath_beats(machine: BuiltMachine) -> None:
    machine.environment["LD_LIBRARY_PATH"] = TARGETS


@healthy
def a_newer_toolkit_of_the_drivers_major(machine: BuiltMachine) -> None:
    machine.toolkit("/usr/local/cuda-13.2", "13.2.10")
    machine.environment["CUDA_HOME"] = "/usr/local/cuda-13.2"
    machine.environment["PATH"] = "/opt/venv/bin:/usr/local/cuda-13.2/bin:/usr/bin:/bin"


@healthy
def no_toolkit_at_all(machine: BuiltMachine) -> None:
    for path in (TOOLKIT, "/usr/local/cuda", "/etc/ld.so.conf.d/000-cuda.conf"):
        machine.remove(path)
    del machine.environment["CUDA_HOME"]
    machine.environment["PATH"] = "/opt/venv/bin:/usr/bin:/bin"


@healthy
def an_idle_gpu_whose_link_shifted_down(machine: BuiltMachine) -> None:
    machine.gpus = [
        h200(pcie_generation=1, performance_state=8, sm_clock=345, event_reasons=0x1),
        h200(pcie_generation=1, performance_state=8, sm_clock=345, event_reasons=0x1),
    ]


@healthy
def a_busy_gpu_at_its_software_power_cap(machine: BuiltMachine) -> None:
    machine.gpus = [h200(event_reasons=0x4, utilization="100 80", power_milliwatts=699000)] * 2


@healthy
def crc_data_errors_in_the_tens(machine: BuiltMachine) -> None:
    machine.gpus = [h200(crc_data=[58]), h200(crc_data=[58])]


@healthy
def two_a100_over_pcie(machine: BuiltMachine) -> None:
    machine.gpus = [a100_pcie(), a100_pcie()]
    for bus_id in BUS_IDS:
        machine.pci_device(bus_id, device="0x20b5")


@healthy
def a_laptop_of_which_nvml_knows_half(machine: BuiltMachine) -> None:
    machine.gpus = [geforce_laptop()]
    machine.pci("0000:01:00.0", kind="0x030000")
    machine.kernel_module(gpus=("0000:01:00.0",))
    machine.device("nvidia1", there=False)
    machine.environment["FAKE_COUNT"] = "1"


@healthy
def nouveau_loaded_and_bound_to_nothing(machine: BuiltMachine) -> None:
    machine.proc("modules", "nouveau 1 0 - Live 0x0\nnvidia_uvm 1 0 - Live 0x0\nnvidia 1 1 - L 0\n")


@healthy
def one_driver_library_under_two_names(machine: BuiltMachine) -> None:
    for name in ("libcuda", "libnvidia-ml"):
        real = f"{MULTIARCH}/{name}.so.{DRIVER}"
        machine.link(f"/usr/local/nvidia/lib64/{name}.so.1", real)
    machine.environment["LD_LIBRARY_PATH"] = "/usr/local/nvidia/lib64:/usr/local/nvidia/lib"


@healthy
def a_virtual_machine_with_a_translating_iommu(machine: BuiltMachine) -> None:
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 hypervisor avx2\n")
    machine.proc("cmdline", "root=/dev/sda1 intel_iommu=on\n")
    for bus_id in BUS_IDS:
        machine.sys(f"bus/pci/devices/{bus_id}/iommu_group/type", "DMA-FQ\n")


@healthy
def a_container_that_has_its_gpus(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    machine.environment["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"


@healthy
def a_gpu_that_is_excluded_on_purpose(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.parameters(excluded=BUS_IDS[1])


@healthy
def a_gpu_that_is_passed_to_a_virtual_machine(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.device("nvidia1", there=False)
    machine.pci_device(BUS_IDS[1], driver="vfio-pci")
    machine.kernel_module(gpus=BUS_IDS[:1])


@healthy
def debugging_variables_that_are_off(machine: BuiltMachine) -> None:
    machine.environment["CUDA_LAUNCH_BLOCKING"] = "0"
    machine.environment["NCCL_P2P_DISABLE"] = "0"


@healthy
def one_visible_gpu_by_a_uuid_prefix(machine: BuiltMachine) -> None:
    machine.environment["CUDA_VISIBLE_DEVICES"] = "GPU-00000001"
    machine.environment["FAKE_COUNT"] = "1"


@healthy
def a_guarded_export_in_bashrc(machine: BuiltMachine) -> None:
    machine.write(
        "/home/user/.bashrc",
        'export CUDA_HOME=/usr/local/cuda\nexport PATH="/usr/local/cuda/bin${PATH:+:$PATH}"\n',
    )


@healthy
def xids_that_programs_caused(machine: BuiltMachine) -> None:
    machine.kernel_log(
        "NVRM: Xid (PCI:0000:00:06): 43, pid=4242, name=python3, Ch 00000008",
        "NVRM: Xid (PCI:0000:00:06): 45, pid=4242, name=python3, Ch 00000008",
    )


@healthy
def cuda_12_wheels_left_beside_cuda_13s_own_layout(machine: BuiltMachine) -> None:
    file = "nvidia/cuda_runtime/lib/libcudart.so.12"
    machine.elf(f"{SITE}/{file}")
    machine.wheel(SITE, "nvidia-cuda-runtime-cu12", "12.9.79", [file])


@healthy
def an_ordinary_user(machine: BuiltMachine) -> None:
    machine.ordinary_user()


@pytest.mark.parametrize("name", TEMPTING)
def test_nothing_is_said_of_a_healthy_machine(name: str, machine: BuiltMachine):
    TEMPTING[name](machine)

    report = machine.doctor()

    said = [(f["code"], f["saw"]) for f in report["findings"] if f["severity"] != "info"]
    assert not said
    assert report["verdict"] == "healthy"
    assert report["exit_code"] == 0
    assert len(report["passed"]) > 40


def test_there_are_as_many_tempting_machines_as_were_promised():
    assert len(TEMPTING) >= 10
