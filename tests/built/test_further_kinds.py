"""Further machines of the kinds that strangers reported: other systems, versions and words.

A case is a function that builds the machine; its decorator names the code that must come first, and
words of the evidence and of the remedy. The healthy twins have what the cases have, and no fault.

It is long because it is a list: a case for each report.
"""

from collections.abc import Callable
from typing import Any

import pytest
from built.machine import BUS_IDS, DRIVER, KERNEL, BuiltMachine
from built.test_driver_kinds import (
    CARD,
    MODULE,
    everything,
    module_file,
    on_metal,
    one_rtx,
    only_card,
)
from built.test_guests_and_links import gpus_at, nvlink_5, virtual
from built.test_kinds import (
    FEDORA,
    RHEL,
    distribution,
    driver_from,
    pod,
    secure_boot,
    wsl,
)
from fakes.nvml import Error, geforce_laptop, h200

pytestmark = pytest.mark.namespaces

Make = Callable[[BuiltMachine], Any]
CASES: dict[str, tuple[str, str, str, Make]] = {}
TWINS: dict[str, Make] = {}
DEBIAN = "Debian GNU/Linux 12 (bookworm)"
ARCH = "Arch Linux"
SUSE = "openSUSE Leap 15.6"


def case(first: str, *, saw: str, fix: str) -> Callable[[Make], Make]:
    def keep(make: Make) -> Make:
        CASES[make.__name__] = (first, saw, fix, make)
        return make

    return keep


def twin(make: Make) -> Make:
    TWINS[make.__name__] = make
    return make


# ------------------------------------------------------------------ A: what the module said


@case("DRV012", saw="470", fix="470")
def a_kepler_card_in_separate_records(machine: BuiltMachine) -> None:
    only_card(machine, "0x1180")
    distribution(machine, DEBIAN)
    module_file(machine, "535.183.01", "NVIDIA")
    machine.kernel_log(
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 510",
        "NVRM: The NVIDIA GeForce GTX 680 GPU installed in this system is",
        "NVRM:  supported through the NVIDIA 470.xx Legacy drivers. Please",
        "NVRM:  visit http://www.nvidia.com/object/unix.html for more",
        "NVRM:  information.  The 535.183.01 NVIDIA driver will ignore",
        "NVRM:  this GPU.  Continuing probe...",
        "NVRM: No NVIDIA GPU found.",
    )


@case("DRV012", saw="needs driver 570 or newer; this is 550.120", fix="ubuntu-drivers")
def a_card_too_new_for_the_release(machine: BuiltMachine) -> None:
    only_card(machine, "0x2c05")
    module_file(machine, "550.120", "Dual MIT/GPL")
    machine.kernel_log(
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 235",
        f"NVRM: The NVIDIA GPU {CARD} (PCI ID: 10de:2c05)",
        "NVRM: installed in this system is not supported by the",
        "NVRM: NVIDIA 550.120 driver release.",
        "NVRM: Please see 'Appendix A - Supported NVIDIA GPU Products'",
        "NVRM: in this release's README, available on the operating system",
        "NVRM: specific graphics driver download page at www.nvidia.com.",
        f"nvidia {CARD}: probe with driver nvidia failed with error -1",
        "NVRM: The NVIDIA probe routine failed for 1 device(s).",
        "NVRM: None of the NVIDIA devices were initialized.",
        "nvidia-nvlink: Unregistered Nvlink Core, major device number 235",
    )


@case("DRV018", saw="nvidiafb holds", fix="blacklist-for-nvidia.conf")
def a_card_that_nvidiafb_holds(machine: BuiltMachine) -> None:
    only_card(machine, "0x1e84", bound="nvidiafb")
    distribution(machine, ARCH)
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.kernel_log(
        "NVRM: The NVIDIA probe routine was not called for 1 device(s).",
        "NVRM: This can occur when another driver was loaded and",
        "NVRM: obtained ownership of the NVIDIA device(s).",
        "NVRM: Try unloading the conflicting kernel module (and/or",
        "NVRM: reconfigure your kernel without the conflicting",
        "NVRM: driver(s)), then try loading the NVIDIA kernel module",
        "NVRM: again.",
        "NVRM: No NVIDIA devices probed.",
    )


@case("DRV012", saw="580", fix="580")
def a_pascal_card_whose_log_nobody_may_read(machine: BuiltMachine) -> None:
    only_card(machine, "0x1b80")
    distribution(machine, ARCH)
    module_file(machine, "590.44.01", "Dual MIT/GPL")
    (machine.place / "dev/kmsg").chmod(0o600)
    machine.ordinary_user()


@case("DRV012", saw="open", fix="open")
def a_closed_module_on_a_single_blackwell_card_that_is_not_loaded(machine: BuiltMachine) -> None:
    only_card(machine, "0x2b85")
    distribution(machine, SUSE)
    module_file(machine, "570.133.07", "NVIDIA")


@case("DRV012", saw="535", fix="cuda-keyring")
def debian_12_s_driver_on_a_card_of_2025(machine: BuiltMachine) -> None:
    only_card(machine, "0x2c02")
    distribution(machine, DEBIAN)
    module_file(machine, "535.216.01", "NVIDIA")


@case("GPU001", saw="Xid 79", fix="Power-cycle the machine")
def a_card_that_fell_off_while_the_module_loaded(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False)
    machine.kernel_log(
        f"NVRM: GPU at PCI:{CARD[:-2]}: GPU-6b2c3f0e-0000-0000-0000-000000000000",
        f"NVRM: Xid (PCI:{CARD[:-2]}): 79, pid='<unknown>', name=<unknown>, GPU has fallen off "
        "the bus.",
        f"NVRM: GPU {CARD}: GPU has fallen off the bus.",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x26:0x65:1472)",
        f"NVRM: GPU {CARD}: rm_init_adapter failed, device minor number 0",
    )


# --------------------------------------------------------------- B: the line before RmInitAdapter


@case("DRV017", saw="failed to wait for GFW boot complete", fix="Power the machine off")
def a_card_whose_own_firmware_did_not_come_up(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False)
    machine.write(f"/usr/lib/firmware/nvidia/{DRIVER}/gsp_ga10x.bin")
    machine.kernel_log(
        "NVRM: kgspWaitForGfwBootOk_TU102: failed to wait for GFW boot complete: 0x55 VBIOS "
        "version 95.02.18.80.A6",
        "NVRM: kgspWaitForGfwBootOk_TU102: (the GPU may be in a bad state and may need to be "
        "reset)",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x62:0x55:1785)",
        f"NVRM: GPU {CARD}: rm_init_adapter failed, device minor number 0",
    )


@case("DRV022", saw="535.216.01", fix="firmware-nvidia-gsp")
def debian_without_its_firmware_package(machine: BuiltMachine) -> None:
    one_rtx(machine, is_seen=False, version="535.216.01")
    distribution(machine, DEBIAN)
    machine.kernel_log(
        f"nvidia {CARD}: firmware: failed to load nvidia/535.216.01/gsp_ga10x.bin (-2)",
        f"nvidia {CARD}: Direct firmware load for nvidia/535.216.01/gsp_ga10x.bin failed with "
        "error -2",
        "NVRM: RmFetchGspRmImages: No firmware image found",
        f"NVRM: GPU {CARD}: RmInitAdapter failed! (0x61:0x56:1594)",
    )


@case("GPU020", saw="Xid 119", fix="Drain the machine")
def a_gsp_that_times_out_on_one_of_two(machine: BuiltMachine) -> None:
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.kernel_log(
        f"NVRM: Xid (PCI:{BUS_IDS[1][:-2]}): 119, pid=1512, name=nvidia-smi, Timeout after 6s of "
        "waiting for RPC response from GPU1 GSP! Expected function 4097 (GSP_INIT_DONE) (0x0 0x0).",
        f"NVRM: GPU {BUS_IDS[1]}: RmInitAdapter failed! (0x62:0x65:1860)",
        f"NVRM: GPU {BUS_IDS[1]}: rm_init_adapter failed, device minor number 1",
    )


@twin
def a_log_full_of_what_healthy_modules_say(machine: BuiltMachine) -> None:
    machine.kernel_log(
        "nvidia: loading out-of-tree module taints kernel.",
        "nvidia: module license 'NVIDIA' taints kernel.",
        "nvidia: module verification failed: signature and/or required key missing - tainting "
        "kernel",
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 234",
        f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {DRIVER}  Release Build",
        f"nvidia-modeset: Loading NVIDIA UNIX Open Kernel Mode Setting Driver  {DRIVER}",
        "[drm] [nvidia-drm] [GPU ID 0x00000006] Loading driver",
        "ACPI Warning: \\_SB.PCI0.PEG0.PEGP._DSM: Argument #4 type mismatch - Found [Buffer]",
        "NVRM: Persistence mode is deprecated and will be removed in a future release. Please use "
        "nvidia-persistenced instead.",
        "nvidia-uvm: Loaded the UVM driver, major device number 508.",
        "NVRM: GPU0 nvAssertFailedNoLog: Assertion failed: 0 @ kern_bus_ctrl.c:123",
        "nvidia 0000:00:06.0: vgaarb: VGA decodes changed: olddecodes=io+mem,decodes=none",
        "nvidia 0000:00:06.0: enabling device (0000 -> 0002)",
        "NVRM: API mismatch: the client has the version 570.86.10, but\\x0aNVRM: this kernel "
        f"module has the version {DRIVER}.  Please make sure",
    )


# ------------------------------------------------------- C: why the module is missing or refused


@case("DRV019", saw="follow_pfn", fix="newer driver")
def a_kernel_too_new_for_the_driver(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    distribution(machine, FEDORA)
    machine.folder(f"/usr/lib/modules/{KERNEL}/build")
    machine.write("/var/lib/dkms/nvidia/535.154.05/6.1.0/x86_64/module/nvidia.ko.xz")
    machine.write(
        f"/var/lib/dkms/nvidia/535.154.05/{KERNEL}/x86_64/log/make.log",
        f"DKMS make.log for nvidia-535.154.05 for kernel {KERNEL} (x86_64)\n"
        "/var/lib/dkms/nvidia/535.154.05/build/common/inc/nv-mm.h:88:14: warning: unused\n"
        "/var/lib/dkms/nvidia/535.154.05/build/nvidia/os-mlock.c:42:9: error: implicit "
        "declaration of function ‘follow_pfn’; did you mean ‘follow_pte’? "
        "[-Wimplicit-function-declaration]\n"
        "make[3]: *** [scripts/Makefile.build:244: nvidia/os-mlock.o] Error 1\n",
    )


@case("DRV019", saw="No space left on device", fix="df -h")
def a_build_on_a_full_disk(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    distribution(machine, DEBIAN)
    machine.folder(f"/usr/lib/modules/{KERNEL}/build")
    machine.write("/var/lib/dkms/nvidia-current/535.216.01/6.1.0-28-amd64/x86_64/module/nvidia.ko")
    machine.write(
        "/var/lib/dkms/nvidia-current/535.216.01/build/make.log",
        f"DKMS make.log for nvidia-current-535.216.01 for kernel {KERNEL} (x86_64)\n"
        "/tmp/ccX.s: Assembler messages:\n"
        "Fatal error: can't write 120 bytes to section .text of nv.o: 'No space left on device'\n",
    )


@case("DRV020", saw="modprobe.blacklist=nvidia,nvidia_drm", fix="sed -i -e 's/ *modprobe")
def a_blacklist_on_the_kernel_s_command_line(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.proc("cmdline", "root=/dev/sda1 quiet modprobe.blacklist=nvidia,nvidia_drm\n")


@case("DRV005", saw="sig_enforce", fix="--remove-args=module.sig_enforce=1")
def a_kernel_that_enforces_signatures(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    distribution(machine, RHEL)
    module_file(machine, DRIVER, "Dual MIT/GPL")
    machine.proc("cmdline", "root=/dev/sda1 module.sig_enforce=1\n")
    machine.kernel_log("Loading of unsigned module is rejected")


@case("DRV021", saw="is a module of kernel 5.14.0-427.13.1.el9_4.x86_64", fix="dnf install")
def a_module_by_weak_updates(machine: BuiltMachine) -> None:
    only_card(machine, "0x2684")
    distribution(machine, RHEL)
    module_file(machine, DRIVER, "Dual MIT/GPL", kernel="5.14.0-427.13.1.el9_4.x86_64")
    content = (machine.root / MODULE.lstrip("/")).read_bytes()
    machine.at(MODULE)
    machine.write(f"/usr/lib/modules/{KERNEL}/weak-updates/nvidia/nvidia.ko", content)


@case("DRV005", saw="Secure Boot is on", fix="nvidia-pubkeys")
def secure_boot_on_suse(machine: BuiltMachine) -> None:
    distribution(machine, SUSE)
    secure_boot(machine, "Loading of module with unavailable key is rejected")


# ----------------------------------------------------------------------- D: no room for a BAR


@case("HST008", saw="0000:00:07.0", fix="X-PciMmio64Mb")
def a_kvm_guest_without_room(machine: BuiltMachine) -> None:
    virtual(machine)
    machine.sys("class/dmi/id/sys_vendor", "QEMU\n")
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.kernel_log(
        "pci 0000:00:07.0: BAR 1 [mem size 0x2000000000 64bit pref]: can't assign; no space",
        "pci 0000:00:07.0: BAR 1 [mem size 0x2000000000 64bit pref]: failed to assign",
    )


@case("HST008", saw="BAR1", fix="Above 4G")
def eight_cards_of_a_miner_s_board(machine: BuiltMachine) -> None:
    on_metal(machine)
    gpus_at(
        machine, geforce_laptop(name="NVIDIA GeForce RTX 3090", compute_capability="8 6"), 8, "2204"
    )
    machine.gpus = machine.gpus[:7]
    machine.environment["FAKE_COUNT"] = "7"
    machine.kernel_log(
        "NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:",
        "NVRM: BAR1 is 0M @ 0x0 (PCI:0000:08:00)",
        "nvidia: probe of 0000:08:00.0 failed with error -1",
        "NVRM: The NVIDIA probe routine failed for 1 device(s).",
    )


# --------------------------------------------------------------------------- E: containers


@case("HST004", saw="NVIDIA_VISIBLE_DEVICES", fix="runtimeClassName: nvidia")
def a_pod_that_the_device_plugin_served_and_runc_started(machine: BuiltMachine) -> None:
    pod(machine)
    machine.environment["NVIDIA_VISIBLE_DEVICES"] = "GPU-0a1b2c3d-1111-2222-3333-444455556666"
    machine.without_driver()
    machine.kernel_module("550.54.15")
    machine.pci(*BUS_IDS)


@case("HST004", saw="this apptainer container", fix="--nv")
def apptainer_without_nv(machine: BuiltMachine) -> None:
    machine.folder("/.singularity.d")
    machine.environment |= {
        "APPTAINER_CONTAINER": "/home/user/a.sif",
        "APPTAINER_NAME": "a.sif",
        "SINGULARITY_CONTAINER": "/home/user/a.sif",
    }
    machine.without_driver()
    machine.kernel_module("580.95.05")
    machine.pci(*BUS_IDS)


@case("DRV007", saw="not in this container", fix="configuration, and restart it.")
def an_lxc_without_its_devices(machine: BuiltMachine) -> None:
    distribution(machine, DEBIAN)
    machine.proc("1/environ", "container=lxc\0")
    machine.devices.clear()
    machine.nvml_options["init_error"] = 9
    machine.environment["FAKE_CODE"] = "100"


# ---------------------------------------------------------------------------------- F: WSL


@case("DRV016", saw="NVML_ERROR_OPERATING_SYSTEM", fix="nvidia-smi -dm WDDM")
def windows_holds_the_card_in_tcc_mode(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.nvml_options["init_error"] = 17
    machine.environment["FAKE_CODE"] = "100"


@case("HST005", saw="WSL 1", fix="wsl.exe --set-version")
def wsl_1(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.proc("sys/kernel/osrelease", "4.4.0-19041-Microsoft\n")
    machine.proc("version", "Linux version 4.4.0-19041-Microsoft (built@host) #1-Microsoft\n")
    machine.remove("/usr/lib/wsl")
    machine.device("dxg", there=False)


@case("HST004", saw="this docker container has no /dev/dxg", fix="docker run --gpus all")
def a_container_under_wsl_without_gpus(machine: BuiltMachine) -> None:
    wsl(machine)
    machine.write("/.dockerenv")
    machine.remove("/usr/lib/wsl")
    machine.device("dxg", there=False)


# ------------------------------------------------------------------------------ G: error 802


@case("LNK006", saw="no NVSwitch is visible", fix="provider")
def one_h200_of_a_provider_s_board(machine: BuiltMachine) -> None:
    virtual(machine)
    gpus_at(machine, h200(fabric="2 0 0 0"), 1)
    machine.device("nvidia1", there=False)
    machine.environment |= {"FAKE_CODE": "802", "FAKE_COUNT": "0"}


@case("LNK006", saw="missing: nvlsm and", fix="apt install nvlsm")
def a_b200_board_without_nvlsm(machine: BuiltMachine) -> None:
    on_metal(machine)
    nvlink_5(machine, "2 0 0 0", "mlx5_ib", "ib_umad", "ib_core")
    machine.remove("/usr/bin/nvlsm")
    machine.environment["FAKE_CODE"] = "802"


@case("LNK006", saw="not started", fix="# on the host: systemctl restart nvidia-fabricmanager")
def a_container_on_a_board_whose_fabric_manager_is_down(machine: BuiltMachine) -> None:
    machine.write("/.dockerenv")
    for number in range(4):
        machine.pci_device(f"0000:0{number + 1}:00.0", kind="0x068000", device="0x22a3")
    machine.gpus = [h200(fabric="1 0 0 0"), h200(fabric="1 0 0 0")]
    machine.environment["FAKE_CODE"] = "802"


# --------------------------------------------------------------------------------- H: links


@case("LNK012", saw="300 corrected PCIe errors", fix="reseat the GPU")
def corrected_errors_in_the_words_of_an_old_kernel(machine: BuiltMachine) -> None:
    on_metal(machine)
    one_rtx(machine, is_seen=True)
    machine.kernel_log(
        *(
            "pcieport 0000:00:01.0: AER: Corrected error received: id=0008",
            f"nvidia {CARD}: PCIe Bus Error: severity=Corrected, type=Physical Layer, id=0100",
            f"nvidia {CARD}:   device [10de:2684] error status/mask=00000001/0000a000",
            f"nvidia {CARD}:    [ 0] Receiver Error         (First)",
        )
        * 300,
    )


@case("LNK012", saw="1 non-fatal PCIe error at", fix="reseat the GPU")
def an_uncorrected_error_at_the_gpu_itself(machine: BuiltMachine) -> None:
    on_metal(machine)
    one_rtx(machine, is_seen=True)
    machine.kernel_log(
        f"nvidia {CARD}: PCIe Bus Error: severity=Uncorrectable (Non-Fatal), type=Transaction "
        "Layer, (Requester ID)",
        f"nvidia {CARD}:   device [10de:2684] error status/mask=00100000/00000000",
        f"nvidia {CARD}:    [20] UnsupReq               (First)",
        f"nvidia {CARD}: AER:   TLP Header: 40000001 0000000f 00000000 00000000",
    )


@twin
def corrected_errors_of_a_disk_elsewhere(machine: BuiltMachine) -> None:
    machine.kernel_log(
        *(
            "pcieport 0000:40:03.1: AER: Correctable error message received from 0000:41:00.0",
            "nvme 0000:41:00.0: PCIe Bus Error: severity=Correctable, type=Physical Layer",
        )
        * 200,
    )


# ------------------------------------------------------------------------------ J, K and others


@case("DRV023", saw="pci-stub", fix="run gpucheck there")
def all_cards_at_pci_stub(machine: BuiltMachine) -> None:
    only_card(machine, "0x1e84", bound="pci-stub")
    machine.proc("cmdline", "root=/dev/sda1 pci-stub.ids=10de:1e84\n")


@twin
def one_of_two_is_lent_to_a_guest(machine: BuiltMachine) -> None:
    machine.pci(BUS_IDS[0])
    machine.pci_device(BUS_IDS[1], driver="vfio-pci")
    machine.kernel_module(gpus=BUS_IDS[:1])
    machine.device("nvidia1", there=False)
    machine.gpus = [h200()]
    machine.environment["FAKE_COUNT"] = "1"
    machine.proc("cmdline", "root=/dev/sda1 iommu=pt vfio-pci.ids=10de:2335\n")


@twin
def a_colab_like_machine(machine: BuiltMachine) -> None:
    driver_from(machine, "/usr/lib64-nvidia", gpus=1)
    machine.write("/.dockerenv")
    machine.environment |= {
        "LD_LIBRARY_PATH": "/usr/lib64-nvidia",
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "COLAB_GPU": "1",
    }


@twin
def a_spark_whose_gpu_has_no_memory_of_its_own(machine: BuiltMachine) -> None:
    missing = {
        name: Error(3)
        for name in (
            "memory",
            "bar1",
            "ecc_mode",
            "power_limit_milliwatts",
            "power_default_milliwatts",
            "pcie_generation",
            "pcie_width",
            "fabric",
            "remapped_rows",
            "remap_histogram",
            "memory_clock_max",
            "sram_status",
        )
    }
    gpus_at(machine, h200(name="NVIDIA GB10", compute_capability="12 1", **missing), 1, "2e12")
    machine.device("nvidia1", there=False)
    machine.environment["FAKE_COUNT"] = "1"


@twin
def a_slurm_job_with_two_of_eight(machine: BuiltMachine) -> None:
    ids = [f"0000:{n:02x}:00.0" for n in range(1, 9)]
    machine.pci(*ids)
    machine.kernel_module(gpus=ids)
    machine.gpus = [h200(pci=f"{bus} 0x233510de 0x00000000") for bus in ids[:2]]
    for minor in range(8):
        machine.device(f"nvidia{minor}", openable=True)
    machine.environment |= {
        "FAKE_COUNT": "2",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_GPUS": "4,5",
        "SLURM_STEP_GPUS": "4,5",
    }


# ---------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("name", CASES)
def test_its_cause_is_named_with_what_this_machine_needs(name: str, machine: BuiltMachine):
    first, saw, fix, make = CASES[name]
    make(machine)

    report = machine.doctor()

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
