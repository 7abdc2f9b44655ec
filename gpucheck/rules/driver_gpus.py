"""Rules about GPUs that are on the bus and do not come up: no address, no start, not listed."""

import re

from gpucheck.conditions import gpu_to_drive, own_kernel_module
from gpucheck.derived import (
    all_are_seen,
    is_container,
    is_gpu_path,
    lent_gpus,
    nvml_works,
    own_gpus,
    unseen_gpus,
)
from gpucheck.knowledge import xid
from gpucheck.knowledge.module_messages import Kind, meaning
from gpucheck.remedies import hardware, system_packages
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.rules.driver_for_gpu import driver_in_question, is_unsuited
from gpucheck.snapshot import KernelLine, NvmlError, PciGpu, Snapshot, Unknown, value
from gpucheck.wording import count, listed

NVRM_LINES = command("dmesg | grep -i nvrm", root=True, needs="dmesg")


def _fell_off(machine: Snapshot, bus_id: str) -> bool:
    """Whether the kernel logged Xid 79 for this GPU: "fallen off the bus"."""
    xids = value(machine.kernel_log.xids) or ()
    return any(xid.number == 79 and xid.bus_id == bus_id for xid in xids)


def _failed_by_xid(machine: Snapshot, bus_id: str) -> bool:
    """Whether an Xid of this very GPU asks for more than a restart of the program."""
    for entry in value(machine.kernel_log.xids) or ():
        known_xid = xid.find(entry.number)
        if entry.bus_id == bus_id and known_xid is not None and known_xid.severity == "critical":
            return True
    return False


def _is_well(machine: Snapshot, bus_id: str) -> bool:
    gpus = value(machine.nvml.gpus) or ()
    return any(gpu.bus_id == bus_id and gpu.state == "ok" for gpu in gpus)


# --------------------------------------------------------------------------------- no address


@rule("HST008", Severity.ERROR, "A GPU got no address space", when=own_kernel_module)
def no_address(machine: Snapshot) -> Answers:
    """A GPU needs windows in the machine's address space; the firmware found no room for them.

    The driver then says that "BAR0 is 0M", or gets no answer at all. GPUs with much memory want
    large windows above 4 GiB: enable "Above 4G decoding" in the firmware setup. In a virtual
    machine the room is the hypervisor's to give: VMware's pciPassthru.64bitMMIOSizeGB, OVMF's
    X-PciMmio64Mb for QEMU, Hyper-V's high memory-mapped I/O space.
    """
    gpus = yield from known(machine.host.pci_gpus)
    if gpus is None:
        return
    lent = lent_gpus(machine)
    by_log = {line.bus_id: line for line in value(machine.kernel_log.address_failures) or ()}
    for gpu in gpus:
        if gpu in lent or _is_well(machine, gpu.bus_id) or all_are_seen(machine):
            continue
        bars = value(gpu.unassigned_bars)
        if bars:
            starts = "starts" if len(bars) == 1 else "start"
            saw = f"{listed([f'BAR {bar}' for bar in bars])} of {gpu.bus_id} {starts} at address 0"
            if gpu.bus_id in by_log:
                saw += f'; the kernel says: "{by_log[gpu.bus_id].text}"'
        elif bars is None and gpu.bus_id in by_log:
            saw = f'the kernel says: "{by_log[gpu.bus_id].text}"'
        else:
            if isinstance(gpu.unassigned_bars, Unknown) and _is_missing(machine, gpu):
                yield NotChecked.because(gpu.unassigned_bars, gpu.bus_id)
            continue
        yield Symptom(subject=gpu.bus_id, saw=saw, remedy=_more_room(machine))


def _is_missing(machine: Snapshot, gpu: PciGpu) -> bool:
    return gpu in (unseen_gpus(machine) or ()) or not nvml_works(machine)


#: The setting of each hypervisor. Sources: Broadcom knowledge base 323402 (VMware), OVMF's README
#: in edk2 (QEMU), Microsoft's guide to discrete device assignment (Hyper-V), xl.cfg(5) (Xen).
_HYPERVISORS = {
    "vmware": 'set pciPassthru.use64bitMMIO = "TRUE" and pciPassthru.64bitMMIOSizeGB (twice the '
    "memory of all its GPUs, rounded up to a power of two) in the virtual machine's advanced "
    "configuration, with EFI firmware",
    "kvm": "use the q35 machine type with OVMF, and give it a larger 64-bit window "
    "(-fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=262144)",
    "hyperv": "raise the virtual machine's -HighMemoryMappedIoSpace by Set-VM",
    "xen": "raise mmio_hole in the domain's configuration, and use OVMF",
}


def _more_room(machine: Snapshot) -> Remedy:
    hypervisor = value(machine.host.hypervisor)
    if hypervisor is not None:
        how = _HYPERVISORS.get(hypervisor, "raise the guest's 64-bit MMIO size")
        return Remedy(f"On the host, {how}; then start the virtual machine again.")
    if is_container(machine):
        return Remedy('On the host, enable "Above 4G decoding" in the firmware setup, and reboot.')
    return Remedy(
        'Enable "Above 4G decoding" (and Resizable BAR, where there is such a setting) in the '
        "firmware setup, and reboot. Where there is none, or with a GPU in an external box, let "
        "the kernel assign the addresses again (pci=realloc); with many cards, use fewer.",
        system_packages.kernel_parameter(machine, "pci=realloc"),
    )


# ------------------------------------------------------------------------------- not listed


@rule(
    "DRV015",
    Severity.ERROR,
    "A GPU is on the PCI bus and the driver does not show it",
    when=own_kernel_module,
)
def gpus_missing(machine: Snapshot) -> Answers:
    """A GPU that NVML does not list cannot be used: the driver failed to start it.

    The kernel log (`dmesg | grep NVRM`, as root) mostly says why: the adapter failed to initialize,
    the firmware gave it too little address space, the driver is too old or of the wrong kind, or
    the GPU has no power. GPUs that are lent to virtual machines, excluded by a module parameter,
    hidden by a device cgroup, or not given to this container are not counted.
    """
    if isinstance(machine.nvml.error, NvmlError):
        yield NotChecked(why=f"NVML: {machine.nvml.error.message or 'does not work'}")
        return
    listed_count = yield from known(machine.nvml.count)
    if listed_count is None:
        return
    if is_container(machine):
        yield from _missing_in_container(machine, listed_count)
        return
    if (yield from known(machine.host.pci_gpus)) is None:
        return
    unseen = unseen_gpus(machine)
    if unseen is None:
        yield NotChecked(why="NVML names no bus ids")
        return
    groups: dict[tuple[str, ...], list[PciGpu]] = {}
    for gpu in unseen:
        groups.setdefault(_causes_of_absence(machine, gpu), []).append(gpu)
    for causes, gpus in groups.items():
        yield _missing(machine, gpus, causes, listed_count)


def _missing(
    machine: Snapshot, gpus: list[PciGpu], causes: tuple[str, ...], listed_count: int
) -> Symptom:
    names = listed([f"{gpu.bus_id} ({gpu.device_id})" for gpu in gpus])
    verb = "is" if len(gpus) == 1 else "are"
    if listed_count:
        saw = f"{names} {verb} not among the {count(listed_count, 'GPU')} that NVML lists"
    else:
        saw = f"{names} {verb} on the bus, and NVML lists no GPU"
    asleep = [gpu.bus_id for gpu in gpus if gpu.power_state == "D3cold"]
    if asleep:
        saw += f"; {listed(asleep)} {'is' if len(asleep) == 1 else 'are'} powered down (D3cold)"
        remedy = hardware.power_management(machine)
    else:
        remedy = Remedy(
            "Read what the kernel log says of it. " + hardware.no_response(machine).text,
            (NVRM_LINES,),
        )
    subject = gpus[0].bus_id if len(gpus) == 1 else ""
    return Symptom(subject=subject, saw=saw, remedy=remedy, explained_by=causes)


def _causes_of_absence(machine: Snapshot, gpu: PciGpu) -> tuple[str, ...]:
    """Return what explains that this very GPU is missing: another GPU's fault does not."""
    causes: list[str] = []
    if is_unsuited(machine, gpu):
        causes.append("DRV012")
    if value(gpu.unassigned_bars) or gpu.bus_id in _named(machine.kernel_log.address_failures):
        causes.append("HST008")
    if gpu.driver == "nouveau":
        causes.append("DRV004")
    if _fell_off(machine, gpu.bus_id):
        causes.append("GPU001")
    if gpu.bus_id in (value(machine.kernel_log.adapter_failures) or ()):
        causes += ["DRV022", "DRV017"] if _lacks_firmware(machine) else ["DRV017"]
    for node in value(machine.driver.device_nodes) or ():
        if is_gpu_path(node.path) and node.bus_id in ("", gpu.bus_id):
            if not node.exists:
                causes.append("DRV007")
            elif node.can_open is False:
                causes.append("DRV008")
    gpus = value(machine.nvml.gpus) or ()
    if any(each.state != "ok" and not isinstance(each.bus_id, str) for each in gpus):
        causes.append("GPU001")
    return tuple(dict.fromkeys(causes))


def _named(lines: "tuple[KernelLine, ...] | Unknown") -> tuple[str, ...]:
    return tuple(line.bus_id for line in value(lines) or ())


def _missing_in_container(machine: Snapshot, listed_count: int) -> Answers:
    """In a container only those GPUs count whose device files were brought in."""
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    given = [
        node.path
        for node in nodes
        if node.exists and is_gpu_path(node.path) and not node.is_denied_by_cgroup
    ]
    if not given:
        yield NotApplicable(why="this container was given no GPU")
    elif len(given) > listed_count:
        yield Symptom(
            saw=f"this container was given {listed(given)}, and NVML lists "
            f"{count(listed_count, 'GPU')}",
            remedy=Remedy(
                "Have the host's kernel log read for the GPU that failed, then create the "
                "container again.",
                (command("dmesg | grep -i nvrm", root=True, on="host", needs="dmesg"),),
            ),
        )


# ----------------------------------------------------------------------------------- failed starts


@rule(
    "DRV017",
    Severity.ERROR,
    "A GPU failed to initialize",
    caused_by=("DRV022", "DRV006"),
    when=gpu_to_drive,
)
def adapter_failed(machine: Snapshot) -> Answers:
    """The kernel log says "RmInitAdapter failed": the driver could not bring this GPU up.

    The line before it says why. Firmware that "failed with error -2" is a missing file (DRV022).
    "unexpected WPR2 already up" means that the GPU was not reset since its firmware last ran, and
    "failed to wait for GFW boot" that its own firmware did not start: power it off fully. "Unable
    to change power state from D3cold" is power management. Without such a line the reasons are
    power, heat, the slot, or a defective board. A GPU that came up later may go away again: work
    that lands on it dies.
    """
    failures = yield from known(machine.kernel_log.adapter_failures)
    reasons = {line.bus_id: line for line in value(machine.kernel_log.adapter_reasons) or ()}
    unseen = {gpu.bus_id: gpu for gpu in unseen_gpus(machine) or own_gpus(machine)}
    for name in failures or ():
        is_well = _is_well(machine, name)
        reason = reasons.get(name)
        power = next(
            (x for x in value(machine.kernel_log.power_failures) or () if x.bus_id == name), None
        )
        line = reason.text if reason is not None else power.text if power is not None else ""
        yield Symptom(
            subject=name,
            saw=f"RmInitAdapter failed for {name} in this boot"
            + (f'; before it: "{line}"' if line else "")
            + ("; NVML sees that GPU now" if is_well else ""),
            remedy=_after_failure(machine, line),
            severity=Severity.WARNING if is_well else None,
            explained_by=_causes_of_failure(machine, name, line, unseen.get(name)),
        )


def _kind(line: str) -> Kind | None:
    found = meaning(line)
    return None if found is None else found[0]


def _causes_of_failure(
    machine: Snapshot, name: str, line: str, gpu: PciGpu | None
) -> tuple[str, ...]:
    causes = []
    bars = None if gpu is None else value(gpu.unassigned_bars)
    if bars or _kind(line) == "no_address":
        causes.append("HST008")
    if _fell_off(machine, name):
        causes.append("GPU001")
    if not line and _failed_by_xid(machine, name):
        causes.append("GPU020")
    if gpu is not None and not _is_well(machine, name) and is_unsuited(machine, gpu):
        causes.append("DRV012")
    return tuple(causes)


def _after_failure(machine: Snapshot, line: str) -> Remedy:
    match _kind(line):
        case "power":
            return hardware.power_management(machine)
        case "wpr2" | "gfw_boot":
            return hardware.after_failed_start(machine)
        case "firmware":
            return Remedy("Install the GSP firmware of the driver's version.")
        case "no_address":
            return _more_room(machine)
        case _:
            return Remedy(hardware.no_response(machine).text, (NVRM_LINES,))


@rule("DRV022", Severity.ERROR, "The GPU's firmware is missing", when=own_kernel_module)
def firmware_missing(machine: Snapshot) -> Answers:
    """The open module, and GPUs since Turing in general, run on firmware of the driver's version.

    The driver loads it from /lib/firmware/nvidia/<version>/gsp_*.bin. It is missing where module
    and firmware come from packages of two versions, or where an initramfs or a minimal image was
    made without it; the kernel log says "Direct firmware load … failed with error -2".
    """
    version = _lacks_firmware(machine)
    if not version:
        if isinstance(machine.kernel_log.adapter_reasons, Unknown) and unseen_gpus(machine):
            yield NotChecked.because(machine.kernel_log.adapter_reasons)
        return
    there = value(machine.driver.firmware_versions)
    saw = f"/lib/firmware/nvidia/{version} has no GSP firmware"
    if there is not None:
        saw += f"; there is that of {listed(there)}" if there else "; there is none of any version"
    steps = () if is_container(machine) else system_packages.firmware(machine, version)
    where = "On the host, install" if is_container(machine) else "Install"
    yield Symptom(
        saw=saw,
        remedy=Remedy(
            f"{where} the firmware of driver {version} (its package, or the whole driver again in "
            "one version), and reboot.",
            steps,
        ),
    )


_VERSION_IN_PATH = re.compile(r"nvidia/(?P<version>[0-9]{3}\.[0-9.]+[0-9])/")


def _lacks_firmware(machine: Snapshot) -> str:
    """Return the driver version whose firmware is missing; "": it is there, or not known."""
    lines = [
        line.text
        for line in value(machine.kernel_log.adapter_reasons) or ()
        if not _is_well(machine, line.bus_id)
    ]
    lines += value(machine.kernel_log.module_said) or ()
    version, kind = driver_in_question(machine)
    there = value(machine.driver.firmware_versions)
    is_told = any(_kind(line) == "firmware" for line in lines)
    for line in lines:
        if _kind(line) == "firmware" and (found := _VERSION_IN_PATH.search(line)):
            version = found["version"]
    if version is None or (there is not None and version in there):
        return ""
    failed = [
        name
        for name in value(machine.kernel_log.adapter_failures) or ()
        if not _is_well(machine, name)
    ]
    # The open module cannot do without it; where other versions' lie there, its own is missing.
    is_seen = bool(there) and kind == "open" and not is_container(machine)
    return version if failed and (is_told or is_seen) else ""
