"""Machines whose driver, board or container is broken as strangers reported it, each with a twin.

A case is a function that builds the machine; its decorator names the code that must come first, and
words of the evidence and of the remedy. The healthy twins have what the cases have, and no fault.

It is long because it is a list: a case for each report.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from built.machine import BUS_IDS, DEVICE_CGROUPS, DRIVER, KERNEL, MULTIARCH, BuiltMachine
from built.test_kinds import (
    BOTH,
    UBUNTU,
    distribution,
    driver,
    geforce,
    library,
    not_loaded,
    one_card,
    pod,
    without_toolkit,
    wsl,
)
from fakes.nvml import Fault, System, h200

pytestmark = pytest.mark.namespaces

Make = Callable[[BuiltMachine], Any]
CASES: dict[str, tuple[str, str, str, Make]] = {}
TWINS: dict[str, Make] = {}
CARD = "0000:01:00.0"
MODULE = f"/usr/lib/modules/{KERNEL}/updates/dkms/nvidia.ko"


def case(first: str, *, saw: str, fix: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES[make.__name__] = (first, saw, fix, make)
        return make

    return keep


def twin(make: Make) -> Make:
    TWINS[make.__name__] = make
    return make


# ------------------------------------------------------------------------------------ building


def on_metal(machine: BuiltMachine, chassis: str = "3") -> None:
    """No hypervisor; a laptop's chassis is 10."""
    machine.sys("class/dmi/id/chassis_type", f"{chassis}\n")
    machine.sys("class/dmi/id/sys_vendor", "LENOVO\n")


def only_card(machine: BuiltMachine, device: str, *, bound: str | None = None) -> None:
    """One card on the bus that no module drives."""
    not_loaded(machine)
    without_toolkit(machine)
    distribution(machine, UBUNTU)
    machine.pci()
    machine.pci_device(CARD, kind="0x030000", device=device, driver=bound)


def module_file(machine: BuiltMachine, version: str, licence: str, kernel: str = KERNEL) -> None:
    text = f"\0license={licence}\0version={version}\0vermagic={kernel} SMP mod_unload \0"
    machine.write(MODULE, b"\x7fELF" + text.encode())


def one_rtx(machine: BuiltMachine, *, is_seen: bool, version: str = DRIVER) -> None:
    """One RTX 4090 under the open module, which NVML shows or does not."""
    distribution(machine, UBUNTU)
    if version != DRIVER:
        driver(machine, version, 12040)
    one_card(machine, geforce("RTX 4090", "8 9", "0x2684"), "0x2684")
    machine.environment["FAKE_VERSION"] = "12040" if version != DRIVER else "13000"
    without_toolkit(machine)
    on_metal(machine)
    if not is_seen:
        machine.gpus = []
        machine.environment |= {"FAKE_CODE": "100", "FAKE_COUNT": "0"}


def container_of(machine: BuiltMachine, module: str, libraries: str) -> None:
    """A docker container whose host's module and whose libraries are of these versions."""
    machine.write("/.dockerenv")
    distribution(machine, UBUNTU)
    machine.kernel_module(module)
    for name in BOTH:
        library(machine, name, f"{MULTIARCH}/{name}.so.{libraries}")
        if libraries != DRIVER:
            machine.remove(f"{MULTIARCH}/{name}.so.{DRIVER}")
        machine.link(f"{MULTIARCH}/{name}.so.1", f"{name}.so.{libraries}")
    if module != libraries:
        machine.nvml_options["init_error"] = 18
        machine.environment["FAKE_CODE"] = "803"


# ------------------------------------------------------------------ A: what the module said


@case("DRV012", saw="580", fix="branch 580")
def a_card_that_this_branch_dropped(machine: BuiltMachine) -> None:
    only_card(machine, "0x1c8d")
    module_file(machine, "595.71.05", "Dual MIT/GPL")
    machine.kernel_log(
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 234",
        "NVRM: The NVIDIA NVIDIA GeForce GTX 1050 GPU installed in this system is\\x0aNVRM:  "
        "supported through the NVIDIA 580.xx Legacy drivers. Please\\x0aNVRM:  visit "
        "http://www.nvidia.com/object/unix.html for more\\x0aNVRM:  information.  The 595.71.05 "
        "NVIDIA driver will ignore\\x0aNVRM:  this GPU.  Continuing probe...",
        "NVRM: No NVIDIA GPU found.",
        "nvidia-nvlink: Unregistered Nvlink Core, major device number 234",
    )


@case("DRV012", saw="needs the closed kernel module", fix="closed kernel module")
def the_open_module_on_a_card_without_gsp_by_its_file(machine: BuiltMachine) -> None:
    only_card(machine, "0x1c8d")
    module_file(machine, "570.86.10", "Dual MIT/GPL")


@case("DRV012", saw="requires use of the NVIDIA open kernel modules", fix="-open")
def the_closed_module_on_a_card_that_no_table_knows(machine: BuiltMachine) -> None:
    only_card(machine, "0x9999")
    module_file(machine, DRIVER, "NVIDIA")
    machine.kernel_log(
        f"NVRM: The NVIDIA GPU {CARD} (PCI ID: 10de:9999)",
        "NVRM: installed in this system requires use of the NVIDIA open kernel modules.",
        "NVRM: No NVIDIA devices probed.",
    )


@case("DRV018", saw="fallen off the bus and is not responding", fix="Shut the laptop down fully")
def a_laptop_s_card_that_does_not_respond(machine: BuiltMachine) -> None:
    only_card(machine, "0x1c8d")
    on_metal(machine, chassis="10")
    module_file(machine, DRIVER, "NVIDIA")
    machine.kernel_log(
        f"NVRM: The NVIDIA GPU {CARD}\\x0aNVRM: (PCI ID: 10de:1c8d) installed in this system "
        "has\\x0aNVRM: fallen off the bus and is not responding to commands."
    )


# --------------------------------------------------------------- B: the line before RmInitAdapter


@case("DRV022", saw="that of 550.67", fix="apt install --reinstall nvidia-firmware-550-550.76")
def firmware_of_another_version(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False, version="550.76")
    machine.write("/usr/lib/firmware/nvidia/550.67/gsp_ga10x.bin")
    machine.kernel_log(
        f"nvidia {CARD}: Direct firmware load for nvidia/550.76/gsp_ga10x.bin failed with error -2",
        "NVRM: RmFetchGspRmImages: No firmware image found",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x61:0x56:1697)",
    )


@case("DRV017", saw="unexpected WPR2 already up", fix="Power the machine off fully")
def a_gpu_that_was_not_reset(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False)
    machine.write(f"/usr/lib/firmware/nvidia/{DRIVER}/gsp_ga10x.bin")
    machine.kernel_log(
        "NVRM: GPU0 kgspBootstrap_TU102: unexpected WPR2 already up, cannot proceed",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x62:0x40:2028)",
    )


@case("DRV017", saw="D3cold", fix="Remove bbswitch")
def a_laptop_whose_card_is_kept_asleep(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False)
    on_metal(machine, chassis="10")
    machine.sys("module/bbswitch/refcnt", "0\n")
    machine.kernel_log(
        f"pci {CARD}: Unable to change power state from D3cold to D0, device inaccessible",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x23:0xffff:1440)",
    )


@case("DRV017", saw="RmInitAdapter failed", fix="Stop this virtual machine")
def a_guest_s_gpu_has_no_cables(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False)
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor\n")
    machine.kernel_log(f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x26:0x56:1474)")


@twin
def a_card_with_its_firmware(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=True)
    machine.write(f"/usr/lib/firmware/nvidia/{DRIVER}/gsp_ga10x.bin")
    machine.sys(f"bus/pci/devices/{CARD}/power_state", "D0\n")
    machine.kernel_log(f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}")


# ------------------------------------------------------- C: why the module is missing or refused


@case("DRV019", saw="-ftrivial-auto-var-init=zero", fix="apt install gcc-12")
def a_dkms_build_with_the_wrong_compiler(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    machine.folder(f"/usr/lib/modules/{KERNEL}/build")
    machine.write("/var/lib/dkms/nvidia/535.98/6.2.6/x86_64/module/nvidia.ko")
    machine.write(
        "/var/lib/dkms/nvidia/535.98/build/make.log",
        f"DKMS make.log for nvidia-535.98 for kernel {KERNEL} (x86_64)\n"
        "  The kernel was built by: x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1) 12.3.0\n"
        "  You are using:           cc (Ubuntu 11.4.0-1) 11.4.0\n"
        "cc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'\n"
        "make[3]: *** [nv.o] Error 1\n",
    )


@case("DRV020", saw="prime-select chose the integrated GPU", fix="prime-select on-demand")
def a_laptop_set_to_the_integrated_gpu(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.write(
        "/usr/lib/modprobe.d/blacklist-nvidia.conf", "blacklist nvidia\nalias nvidia off\n"
    )
    machine.write("/etc/prime-discrete", "off\n")


@case("DRV020", saw='/etc/modprobe.d/gpu.conf says "install nvidia /bin/false"', fix="sed -i")
def a_module_that_somebody_switched_off(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.write("/etc/modprobe.d/gpu.conf", "install nvidia /bin/false\n")


@case("DRV021", saw="is a module of kernel 6.5.0-1-generic", fix="akmods --force")
def a_module_of_another_kernel(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    distribution(machine, "Fedora Linux 41 (Workstation Edition)")
    module_file(machine, DRIVER, "Dual MIT/GPL", kernel="6.5.0-1-generic")


@case("DRV005", saw="the kernel is locked down (integrity)", fix="Remove `lockdown=`")
def a_locked_down_kernel_without_efi(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.sys("firmware/memmap/0/type", "System RAM\n")
    machine.sys("kernel/security/lockdown", "none [integrity] confidentiality\n")
    machine.kernel_log(
        "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7"
    )


@case("DRV003", saw="is built for the running kernel", fix="modprobe nvidia")
def a_module_that_nobody_loaded(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    module_file(machine, DRIVER, "Dual MIT/GPL")


@twin
def a_driver_next_to_old_logs_and_other_blacklists(machine: BuiltMachine) -> None:
    machine.write("/etc/modprobe.d/nvidia.conf", "blacklist nouveau\nblacklist nvidiafb\n")
    machine.write("/etc/prime-discrete", "on-demand\n")
    machine.write(
        "/var/lib/dkms/nvidia/535.98/build/make.log",
        "DKMS make.log for nvidia-535.98 for kernel 6.2.6 (x86_64)\ncc: error: no\n",
    )
    machine.sys("kernel/security/lockdown", "[none] integrity confidentiality\n")


# ----------------------------------------------------------------------- D: no room for a BAR

NO_ADDRESS = "0x0000000000000000 0x0000000000000000 0x0000000000000000\n" * 6


@case("HST008", saw="BAR 0 and BAR 1 of 0000:01:00.0 start at address 0", fix="Above 4G decoding")
def an_external_card_without_address_space(machine: BuiltMachine) -> None:
    only_card(machine, "0x1d01")
    on_metal(machine, chassis="10")
    module_file(machine, DRIVER, "NVIDIA")
    machine.sys(f"bus/pci/devices/{CARD}/resource", NO_ADDRESS)
    machine.kernel_log(
        "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\\x0aNVRM: BAR0 is "
        "0M @ 0x0 (PCI:0000:01:00)",
        "NVRM: The system BIOS may have misconfigured your GPU.",
    )


@case("HST008", saw="BAR 1 of 0000:00:07.0", fix="64bitMMIOSizeGB")
def a_guest_without_room_for_its_second_gpu(machine: BuiltMachine) -> None:
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor\n")
    machine.sys("class/dmi/id/sys_vendor", "VMware, Inc.\n")
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.sys(
        f"bus/pci/devices/{BUS_IDS[1]}/resource",
        "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
        "0x0000000000000000 0x0000001fffffffff 0x000000000014220c\n",
    )


@twin
def cards_with_their_address_space(machine: BuiltMachine) -> None:
    for bus_id in BUS_IDS:
        machine.sys(
            f"bus/pci/devices/{bus_id}/resource",
            "0x00000000f6000000 0x00000000f6ffffff 0x0000000000040200\n"
            "0x0000006000000000 0x0000006fffffffff 0x000000000014220c\n"
            "0x0000000000000000 0x0000000000000000 0x0000000000000000\n",
        )
    machine.kernel_log("pci 0000:00:1c.0: BAR 13 [io size 0x1000]: can't assign; no space")


# --------------------------------------------------------------------------- E: containers


@case("DRV007", saw="while its GPUs are", fix="nvidia-ctk cdi generate")
def a_podman_container_without_uvm(machine: BuiltMachine) -> None:
    machine.write("/run/.containerenv")
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "void"
    machine.device("nvidia-uvm", there=False)
    machine.device("nvidia-uvm-tools", there=False)
    machine.environment["FAKE_CODE"] = "999"


@case("DRV006", saw="570.148.06", fix="NVIDIA-Linux-x86_64-570.148.06.run --no-kernel-module")
def an_lxc_with_libraries_of_its_own(machine: BuiltMachine) -> None:
    container_of(machine, "570.148.06", "570.148.08")
    machine.remove("/.dockerenv")
    machine.proc("1/environ", "container=lxc\0")
    machine.kernel_log(
        "NVRM: API mismatch: the client has the version 570.148.08, but\\x0aNVRM: this kernel "
        "module has the version 570.148.06."
    )


@case("DRV006", saw="565.57.01", fix="from the image")
def an_image_with_libraries_newer_than_the_host_s_module(machine: BuiltMachine) -> None:
    container_of(machine, "535.183.01", "565.57.01")


@case("DRV006", saw="610.43.02", fix="Remove libnvidia-compute-610 from the image")
def an_image_whose_package_hides_the_host_s_library(machine: BuiltMachine) -> None:
    container_of(machine, "580.95.05", "610.43.02")
    for name in BOTH:
        library(machine, name, f"{MULTIARCH}/{name}.so.580.95.05")
        machine.mounted.append(f"{MULTIARCH}/{name}.so.580.95.05")
    machine.write(
        "/var/lib/dpkg/info/libnvidia-compute-610:amd64.list",
        "".join(f"{MULTIARCH}/{name}.so.610.43.02\n" for name in BOTH),
    )


@case("DRV006", saw="580.159.04", fix="Create the container again")
def a_container_that_outlived_its_host_s_driver(machine: BuiltMachine) -> None:
    container_of(machine, "590.48.01", DRIVER)
    machine.mounted += [f"{MULTIARCH}/{name}.so.{DRIVER}" for name in BOTH]


@case("DRV006", saw="580.159.04", fix="Reboot the host")
def a_host_that_was_updated_and_not_rebooted(machine: BuiltMachine) -> None:
    container_of(machine, "570.86.10", DRIVER)
    machine.mounted += [f"{MULTIARCH}/{name}.so.{DRIVER}" for name in BOTH]


@case("HST004", saw="NVIDIA_VISIBLE_DEVICES=all", fix="runtimeClassName: nvidia")
def a_pod_whose_runtime_did_not_act(machine: BuiltMachine) -> None:
    pod(machine)
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "all"
    machine.without_driver()
    machine.kernel_module("580.95.05")
    machine.pci(*BUS_IDS)


@twin
def a_container_with_mounted_libraries_of_its_host_s_version(machine: BuiltMachine) -> None:
    container_of(machine, DRIVER, DRIVER)
    machine.mounted += [f"{MULTIARCH}/{name}.so.{DRIVER}" for name in BOTH]


@twin
def a_container_with_an_older_library_under_its_full_name(machine: BuiltMachine) -> None:
    container_of(machine, DRIVER, DRIVER)
    library(machine, "libcuda", f"{MULTIARCH}/libcuda.so.575.57.08")


# ---------------------------------------------------------------------------------- F: WSL


@case("DRV016", saw="crashed with SIGSEGV", fix="wsl.exe --shutdown")
def windows_driver_crashes_under_wsl(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.nvml_options["system"] = System(
        driver="560.94", faults=(Fault("nvmlInit", "crash", "", 0),)
    )


# ------------------------------------------------------------------------------ G, K, L and others


@case("DRV010", saw="ib_umad and mlx5_ib are not loaded", fix="modprobe -a ib_umad mlx5_ib")
def a_b200_board_without_its_modules(machine: BuiltMachine) -> None:
    on_metal(machine)
    machine.gpus = [
        h200(name="NVIDIA B200", compute_capability="10 0", fabric="2 0 0 0") for _ in BUS_IDS
    ]
    machine.pci()
    for bus_id in BUS_IDS:
        machine.pci_device(bus_id, device="0x2901")
    machine.environment["FAKE_CODE"] = "802"


@case("DRV009", saw="CUDA_ERROR_NOT_INITIALIZED", fix="uvm_disable_hmm=1")
def a_kernel_on_which_hmm_does_not_start(machine: BuiltMachine) -> None:
    machine.proc("sys/kernel/osrelease", "5.14.0-570.12.1.el9_6.x86_64\n")
    machine.sys("module/nvidia_uvm/parameters/uvm_disable_hmm", "N\n")
    machine.environment["FAKE_CODE"] = "3"


@case("DRV023", saw="by vfio-pci.ids=10de:1e84,10de:10f8 on the kernel's", fix="run gpucheck there")
def a_machine_that_lends_its_only_card(machine: BuiltMachine) -> None:
    only_card(machine, "0x1e84", bound="vfio-pci")
    machine.proc("cmdline", "root=/dev/sda1 iommu=pt vfio-pci.ids=10de:1e84,10de:10f8\n")
    machine.kernel_log(f"NVRM: GPU {CARD} is already bound to vfio-pci.")
    for name in BOTH:
        for ending in (".so", ".so.1", f".so.{DRIVER}"):
            machine.remove(f"{MULTIARCH}/{name}{ending}")


@case("DRV009", saw="no answer in ", fix="reboot")
def a_driver_that_never_answers(machine: BuiltMachine) -> None:
    machine.environment["FAKE_CUDA"] = "cuInit=hang"


@twin
def a_slurm_job_with_one_of_two_gpus(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment |= {
        "FAKE_COUNT": "1",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_GPUS": "0",
    }


# ---------------------------------------------------------------------------------------- tests


def everything(finding: dict[str, Any]) -> str:
    return json.dumps(finding, ensure_ascii=False)


@pytest.mark.parametrize("name", CASES)
def test_its_cause_is_named_with_what_this_machine_needs(name: str, machine: BuiltMachine):
    first, saw, fix, make = CASES[name]
    make(machine)
    options = ("--timeout", "2") if name == "a_driver_that_never_answers" else ()

    report = machine.doctor(*options)

    roots = [f for f in report["findings"] if f["explained_by"] is None]
    assert roots, report["not_checked"]
    roots = [f for f in roots if f["severity"] == "error"] or roots
    assert first in [f["code"] for f in roots[:1]], [(f["code"], f["saw"]) for f in roots]
    assert saw in roots[0]["saw"]
    assert fix in everything(roots[0])


@pytest.mark.parametrize("name", TWINS)
def test_nothing_is_said_of_its_healthy_twin(name: str, machine: BuiltMachine):
    TWINS[name](machine)

    report = machine.doctor()

    wrong = [f for f in report["findings"] if f["severity"] != "info"]
    assert not wrong, [(f["code"], f["saw"]) for f in wrong]
    assert report["exit_code"] == 0


@pytest.mark.skipif(not DEVICE_CGROUPS.is_dir(), reason="needs cgroup version 1's devices")
def test_a_gpu_that_a_device_cgroup_refuses_is_hidden_and_not_missing(machine: BuiltMachine):
    machine.gpus = [h200()]
    machine.environment |= {"FAKE_COUNT": "1", "SLURM_JOB_ID": "12"}
    machine.denied = ("nvidia1",)

    report = machine.doctor()

    found = {f["code"]: f["saw"] for f in report["findings"]}
    assert "the device cgroup refuses /dev/nvidia1" in found["HST009"]
    assert {f["severity"] for f in report["findings"]} == {"info"}


@pytest.mark.skipif(not DEVICE_CGROUPS.is_dir(), reason="needs cgroup version 1's devices")
def test_a_job_that_was_given_no_gpu_has_the_cgroup_as_its_one_root(machine: BuiltMachine):
    machine.gpus = []
    machine.environment |= {"FAKE_COUNT": "0", "FAKE_CODE": "100", "SLURM_JOB_ID": "12"}
    machine.denied = ("nvidia0", "nvidia1")

    report = machine.doctor()

    roots = [f["code"] for f in report["findings"] if f["explained_by"] is None]
    assert roots[0] == "HST009"
    assert not [f for f in report["findings"] if f["code"] in roots[1:] and f["severity"] != "info"]


def test_a_kernel_log_of_a_hundred_megabytes_is_read_to_its_end(machine: BuiltMachine):
    noise = "6,1,1000,-;audit: type=1400 apparmor=ALLOWED operation=open profile=x name=y\n" * 13000
    log = Path(machine.place / "dev/kmsg")
    with log.open("w") as file:
        for _ in range(100):
            file.write(noise)
        file.write(f"6,2,9000000,-;NVRM: Xid (PCI:{BUS_IDS[1][:-2]}): 79, pid=1, name=x, gone\n")

    report = machine.doctor()

    assert "GPU020" in {f["code"] for f in report["findings"]}
