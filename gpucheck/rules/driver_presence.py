"""Rules about whether a GPU is here, whose it is, and whether a driver is installed."""

from gpucheck.conditions import all_of, gpu_to_drive, no_container, own_kernel_module
from gpucheck.derived import (
    cuda_works,
    driver_copies,
    has_proc_gpus,
    is_container,
    is_left_to_nouveau,
    is_virtual,
    lent_gpus,
    nvml_works,
    own_gpus,
)
from gpucheck.remedies import system_packages
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import NvmlError, Snapshot, Unknown, value
from gpucheck.wording import count, listed

LIST_GPUS = command("lspci -nn -d 10de:", needs="lspci")


@rule("DRV001", Severity.ERROR, "No NVIDIA GPU is in this machine")
def no_gpu(machine: Snapshot) -> Answers:
    """Without a GPU on the PCI bus there is nothing that a driver, CUDA or PyTorch could use.

    gpucheck looked at every device on the PCI bus, and none is an NVIDIA display or 3D controller.
    On a laptop or server that should have one: is it seated, powered, and enabled in the firmware
    setup? `lspci -nn | grep -i nvidia` must show it. In a virtual machine the host has to pass the
    GPU through; in the cloud, choose an instance type with a GPU. On a machine that is not meant to
    have one, nothing is wrong: run gpucheck where the GPUs are.
    """
    host = machine.host
    if nvml_works(machine) or cuda_works(machine) or has_proc_gpus(machine):
        return
    if host.is_wsl is True or isinstance(host.tegra, str):
        yield NotApplicable(why="the GPU of WSL and Tegra is not on the PCI bus")
        return
    gpus = yield from known(host.pci_gpus)
    if gpus is None or gpus:
        return
    if isinstance(machine.nvml.count, Unknown) and not isinstance(machine.nvml.error, NvmlError):
        yield NotChecked(why=f"the bus shows no GPU, and NVML: {machine.nvml.count.why}")
        return
    saw = "no device on the PCI bus is an NVIDIA GPU"
    if is_container(machine):
        fix = "Start this container on a host that has an NVIDIA GPU."
    elif is_virtual(machine):
        saw += ": this virtual machine was given none by its host"
        fix = (
            "In the cloud, choose an instance type with a GPU; otherwise have the host pass one "
            "through."
        )
    else:
        fix = (
            "Use a machine that has an NVIDIA GPU; where one is built in, check that it is seated, "
            "powered and enabled in the firmware setup."
        )
    yield Symptom(saw=saw, remedy=Remedy(fix, verify=LIST_GPUS))


@rule(
    "DRV002",
    Severity.ERROR,
    "No NVIDIA driver is installed",
    when=all_of(own_kernel_module, no_container),
)
def no_driver(machine: Snapshot) -> Answers:
    """A GPU without its driver is invisible to every program.

    The GPU is on the PCI bus, but no nvidia kernel module is loaded, none is built, and no
    libcuda.so.1 is anywhere. A CUDA toolkit and the CUDA wheels of PyTorch do not bring the driver:
    install it into the system, from the distribution or from NVIDIA, and then reboot.
    """
    if nvml_works(machine) or cuda_works(machine):
        return
    if (yield from known(machine.driver.module_version)) is not None:
        return
    if isinstance(machine.driver.module_version, Unknown):
        return
    libraries = yield from known(driver_copies(machine))
    if libraries is None or libraries or is_built(machine):
        return
    gpus = own_gpus(machine)
    yield Symptom(
        saw=f"{count(len(gpus), 'NVIDIA GPU')} on the PCI bus "
        f"({listed([gpu.bus_id for gpu in gpus])}), no nvidia kernel module and no libcuda.so.1",
        remedy=Remedy(
            "Install the NVIDIA driver (not only the CUDA toolkit), then reboot."
            + system_packages.where_drivers_are(machine),
            system_packages.install_driver(machine),
            verify=Command("nvidia-smi"),
        ),
    )


def is_built(machine: Snapshot) -> bool:
    """Whether a module of the driver's is on disk, for this kernel or for another."""
    driver = machine.driver
    return isinstance(driver.dkms_version, str) or isinstance(driver.module_file, str)


@rule("DRV004", Severity.ERROR, "nouveau holds the GPU", caused_by=("DRV002",), when=gpu_to_drive)
def nouveau(machine: Snapshot) -> Answers:
    """nouveau, the kernel's own driver for NVIDIA cards, cannot run CUDA and keeps nvidia.ko out.

    A GPU has one kernel driver at a time. Blacklist nouveau, rebuild the initramfs, and reboot.
    NVIDIA's packages do this by themselves; the .run installer and manual setups may not.
    """
    gpus = yield from known(machine.host.pci_gpus)
    if gpus is None:
        return
    held = [gpu for gpu in gpus if gpu.driver == "nouveau" and not is_left_to_nouveau(machine, gpu)]
    if not held:
        for gpu in gpus:
            if isinstance(gpu.driver, Unknown):
                yield NotChecked.because(gpu.driver, gpu.bus_id)
        return
    saw = f"nouveau is bound to {listed([gpu.bus_id for gpu in held])}"
    if is_container(machine):
        yield Symptom(
            saw=saw,
            remedy=Remedy("On the host, blacklist nouveau, rebuild the initramfs, and reboot."),
        )
        return
    blacklist = command(
        "echo blacklist nouveau | tee /etc/modprobe.d/blacklist-nouveau.conf",
        root=True,
        lasts="permanent",
    )
    steps = (blacklist, *system_packages.renew_ram_disk(machine), system_packages.REBOOT)
    yield Symptom(
        saw=saw, remedy=Remedy("Blacklist nouveau, rebuild the initramfs, and reboot.", steps)
    )


@rule("DRV023", Severity.INFO, "Every GPU is reserved for virtual machines")
def lent(machine: Snapshot) -> Answers:
    """A GPU that vfio-pci, pci-stub or xen-pciback holds belongs to virtual machines, not to us.

    The kernel gives it to that driver at boot, by an option on its command line or in
    /etc/modprobe.d. Programs of this system cannot use it: run them in the virtual machine, or take
    its PCI id out of that option, rebuild the initramfs and reboot.
    """
    on_bus = yield from known(machine.host.pci_gpus)
    gpus = lent_gpus(machine)
    if on_bus == ():
        yield NotApplicable(why="no NVIDIA GPU")
    if not gpus:
        return
    if own_gpus(machine) or nvml_works(machine) or cuda_works(machine):
        return
    option = value(machine.driver.passthrough_option)
    holders = listed(sorted({str(gpu.driver) for gpu in gpus}))
    names = listed([gpu.bus_id for gpu in gpus])
    which = f"the only GPU, {names}, belongs" if len(gpus) == 1 else f"all GPUs ({names}) belong"
    yield Symptom(
        saw=f"{which} to {holders}" + (f" (by {option})" if option else ""),
        remedy=Remedy(
            "Nothing, where a virtual machine is meant to have it: run gpucheck there. Otherwise "
            "remove its PCI id from that option, rebuild the initramfs, and reboot."
        ),
    )
