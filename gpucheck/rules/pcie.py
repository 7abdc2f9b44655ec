"""Rules about each GPU's PCIe link, and the ports above it."""

from collections.abc import Iterator

import msgspec

from gpucheck.derived import is_virtual, slot_of
from gpucheck.knowledge import gpus as models
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpu_rule,
    known,
    rule,
)
from gpucheck.rules.gpu_memory import NEEDS_TWO_READINGS
from gpucheck.snapshot import Gpu, PciPort, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count, listed

REPLAYS_PER_MINUTE = 16
SMALL_BAR1_BYTES = 256 << 20
#: A GPU that computed through most of the last period, so that its link has to be at full speed.
BUSY_PERCENT = 50
#: Corrected errors of a port that are more than a link's training leaves behind.
MANY_CORRECTED = 100


@gpu_rule(
    "LNK001", Severity.WARNING, "A GPU has fewer PCIe lanes than it could", caused_by=("GPU001",)
)
def pcie_narrow(gpu: Gpu, machine: Snapshot) -> Answers:
    """The PCIe link came up with fewer lanes than GPU and slot both have, so copies are slower.

    Reseat the board, try another slot, and look for a bent pin, a riser or a cable of poor quality;
    some boards share lanes with an M.2 slot. At a quarter of the lanes or less something is
    defective. A slot that has fewer lanes than the GPU is only noted: that is how the machine is
    built, and so are the lanes of a laptop. A data-center GPU in a slot with a quarter of its lanes
    is a warning all the same: it was meant for another one. Lanes do not depend on load, unlike the
    generation. A GPU that a chip-to-chip link joins to its CPU (GH200, GB200, GB10) has PCIe for
    show only.
    """
    if _is_on_the_cpu(gpu):
        yield NotApplicable(why="a chip-to-chip link, not PCIe, carries data")
        return
    width = yield from known(gpu.pcie_width)
    most = yield from known(gpu.pcie_width_max)
    if not width or not most:
        return
    slot = slot_of(machine, gpu)
    slot_width = value(slot.slot_max_width) if slot is not None else None
    limit = min(most, slot_width) if slot_width else most
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    own = max(most, (model.pcie_width or 0) if model is not None else 0)
    if width < limit and remedies.is_laptop(gpu, machine):
        yield Symptom(
            severity=Severity.INFO,
            saw=f"x{width} of x{limit}, as laptops often have it",
            remedy=Remedy("Nothing has to be done: the lanes of a laptop are soldered"),
        )
    elif width < limit:
        yield Symptom(
            severity=Severity.ERROR if width * 4 <= limit else None,
            saw=f"x{width}; GPU and slot both have x{limit}",
            remedy=Remedy(remedies.reseat(machine), verify=_look_at_link(gpu)),
        )
    elif width < own:
        is_misplaced = (
            width * 4 <= own
            and model is not None
            and model.ecc_is_default
            and not is_virtual(machine)
        )
        yield Symptom(
            severity=Severity.WARNING if is_misplaced else Severity.INFO,
            saw=f"x{width} is all that its slot has; the GPU has x{own}",
            remedy=Remedy("Use a slot with more lanes, if there is one"),
        )


def _look_at_link(gpu: Gpu) -> Command:
    return command("nvidia-smi -i {gpu} -q", gpu=gpu.index)


def _is_on_the_cpu(gpu: Gpu) -> bool:
    """Tell a superchip: by its link, or by a model for which the table has no PCIe."""
    if gpu.c2c_is_on is True:
        return True
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return model is not None and model.pcie_width is None


@gpu_rule("LNK002", Severity.WARNING, "A GPU's PCIe link is slow under load", caused_by=("LNK001",))
def pcie_slow(gpu: Gpu, machine: Snapshot) -> Answers:
    """Under load the PCIe link stays at a lower generation than GPU and slot have: copies are slow.

    An idle GPU shifts its link down to save energy, so this is judged only at P0 and under load: a
    program keeps the GPU busy, or --deep does. Causes: a BIOS setting, a riser or cable that fails
    at full speed, a board that has to be reseated.
    """
    if _is_on_the_cpu(gpu):
        yield NotApplicable(why="a chip-to-chip link, not PCIe, carries data")
        return
    most = yield from known(gpu.pcie_generation_max)
    now = yield from known(gpu.pcie_generation)
    if not most or not now or now >= most:
        return
    later = gpu.later_sample
    if later is not None and value(later.pcie_generation) == most:
        return
    looks = [(now, gpu.performance_state, gpu.utilization_percent, False)]
    if later is not None and isinstance(later.pcie_generation, int):
        looks.append(
            (
                later.pcie_generation,
                later.performance_state,
                later.utilization_percent,
                later.under_load,
            )
        )
    generation, state, busy, is_loaded = looks[-1]
    if not is_loaded and (value(busy) or 0) < BUSY_PERCENT:
        yield NotChecked(why="idle", kind="by design")
    elif (level := (yield from known(state))) is None:
        return
    elif level != 0:
        yield NotChecked(why=f"it stayed at P{level} under load")
    else:
        yield Symptom(
            saw=f"PCIe generation {generation} under load; GPU and slot both have {most}",
            remedy=_speed_up(machine),
        )


def _speed_up(machine: Snapshot) -> Remedy:
    if is_virtual(machine):
        return Remedy("Ask whoever runs the host to check the PCIe generation of this GPU's slot")
    return Remedy(
        "Set the slot to Auto or the right generation in the BIOS; reseat the GPU; replace the"
        " riser if there is one"
    )


@gpu_rule("LNK003", Severity.WARNING, "High rate of PCIe replays", caused_by=("LNK012",))
def pcie_replays(gpu: Gpu, machine: Snapshot) -> Answers:
    """The PCIe link has errors and repeats transfers; a link like this ends in a lost GPU.

    Counted between two readings; an old total says nothing. Reseat the board, replace a riser or
    cable, and look for heat.
    """
    first = yield from known(gpu.pcie_replays)
    if first is None:
        return
    sample = gpu.later_sample
    if sample is None:
        yield NotChecked(why=NEEDS_TWO_READINGS, kind="by design")
        return
    later = yield from known(sample.pcie_replays)
    if later is None:
        return
    growth = later - first
    # One replay within a second is no rate yet: three are needed in a short reading.
    if growth >= 3 and growth * 60 > REPLAYS_PER_MINUTE * sample.after_seconds:
        yield Symptom(
            saw=f"{count(growth, 'PCIe replay')} in {sample.after_seconds:.1f} s",
            remedy=Remedy(remedies.reseat(machine)),
        )


@gpu_rule("LNK009", Severity.INFO, "Resizable BAR is off")
def small_bar1(gpu: Gpu, machine: Snapshot) -> Answers:
    """The CPU sees only 256 MiB of this GPU's memory at a time; some transfers are slower for it.

    Turn on "Above 4G decoding" and "Resizable BAR" in the BIOS, if the board offers them. Nothing
    is broken otherwise. GPUs before Ampere have no Resizable BAR, and in a virtual machine the host
    decides: there it is not judged.
    """
    size = yield from known(gpu.bar1_total_bytes)
    capability = yield from known(gpu.compute_capability)
    if size is None or capability is None:
        return
    if version_tuple(capability) < (8, 0):
        yield NotApplicable(why="GPUs before Ampere have no Resizable BAR")
    elif is_virtual(machine):
        yield NotApplicable(why="a virtual machine")
    elif isinstance(machine.host.hypervisor, Unknown):
        yield NotChecked.because(machine.host.hypervisor)
    elif size <= SMALL_BAR1_BYTES:
        yield Symptom(
            saw=f"BAR1 is {size >> 20} MiB",
            remedy=Remedy('Turn on "Above 4G decoding" and "Resizable BAR" in the BIOS'),
        )


# ------------------------------------------------------------------------------- ports and bridges


@rule(
    "LNK010",
    Severity.WARNING,
    "PCIe access control sends GPU copies over the CPU",
)
def acs_redirect(machine: Snapshot) -> Answers:
    """ACS request redirect is on at a bridge above the GPUs: peer-to-peer copies detour or hang.

    On bare metal it has no use unless devices are passed to virtual machines. Turn ACS off in the
    BIOS, or clear the bits with setpci at every boot, as NCCL's documentation describes. An IOMMU
    that translates sends copies the same way: boot with iommu=pt as well, or nothing is gained. In
    a virtual machine ACS is the host's business and is not judged.
    """
    found = yield from known(machine.host.pci_gpus)
    if found is None:
        return
    if len(found) < 2:
        yield NotApplicable(why="fewer than two GPUs")
        return
    if is_virtual(machine):
        yield NotApplicable(why="a virtual machine")
        return
    if isinstance(machine.host.hypervisor, Unknown):
        yield NotChecked.because(machine.host.hypervisor)
        return
    redirecting: dict[str, list[str]] = {}
    for gpu in found:
        for bridge in (yield from known(gpu.acs_redirecting_bridges, gpu.bus_id)) or ():
            redirecting.setdefault(bridge, []).append(gpu.bus_id)
    if redirecting:
        below = {bus_id for bus_ids in redirecting.values() for bus_id in bus_ids}
        yield Symptom(
            gpus=_indexes(machine, below),
            saw="; ".join(
                f"bridge {bridge} above {', '.join(gpus)}" for bridge, gpus in redirecting.items()
            ),
            remedy=_turn_acs_off(machine, list(redirecting)),
        )


def _turn_acs_off(machine: Snapshot, bridges: list[str]) -> Remedy:
    also = (
        ", and boot with iommu=pt: a translating IOMMU sends copies over the CPU too"
        if machine.host.iommu == "translating"
        else ""
    )
    place = remedies.place_of_driver(machine)
    return Remedy(
        f"Turn ACS off{also}",
        alternatives=(
            Remedy('Turn "ACS" or "PCIe access control" off in the BIOS'),
            Remedy(
                "Clear the bridges' control bits at every boot",
                steps=tuple(
                    command(
                        "setpci -s {bridge} ECAP_ACS+0x6.w=0000",
                        bridge=bridge,
                        root=True,
                        lasts="reboot",
                        on=place,
                        needs="setpci",
                    )
                    for bridge in bridges
                ),
            ),
        ),
    )


def _indexes(machine: Snapshot, bus_ids: set[str]) -> tuple[int, ...]:
    """Return NVML's indexes of the GPUs at *bus_ids*, as far as NVML lists them."""
    return tuple(
        gpu.index for gpu in value(machine.nvml.gpus) or () if value(gpu.bus_id) in bus_ids
    )


class _BadPort(msgspec.Struct, frozen=True):
    """A port with errors, and the GPUs that it is or leads to."""

    port: PciPort
    bus_ids: tuple[str, ...]


@rule("LNK012", Severity.ERROR, "PCIe errors at a GPU or above it", caused_by=("GPU001",))
def pcie_errors(machine: Snapshot) -> Answers:
    """The kernel counted PCIe errors (AER) at a GPU, or at a bridge between it and the CPU.

    A fatal or non-fatal error lost transfers: programs fail, or the GPU falls off the bus.
    Corrected errors were repeated; a few come with every training of a link, hundreds mean a bad
    seat, riser or cable, or a PCIe generation that the slot does not reach. The port that reports
    is one end of the bad link. The counters (aer_dev_* in /sys) go back to the boot.
    """
    found = yield from known(machine.host.pci_gpus)
    if found is None:
        return
    if not found:
        yield NotApplicable(why="no GPU")
        return
    ports: dict[str, tuple[PciPort, list[str]]] = {}
    unread: Unknown | None = None
    for gpu in found:
        if isinstance(gpu.bridges, Unknown):
            unread = gpu.bridges
        above = value(gpu.bridges) or ()
        own = () if isinstance(gpu.aer, Unknown) else (gpu.aer,)
        for port in (*own, *above):
            ports.setdefault(port.bus_id, (port, []))[1].append(gpu.bus_id)
    ports = _with_logged(machine, ports)
    for bad in _bad_ports(ports):
        serious = (value(bad.port.aer_fatal) or 0) + (value(bad.port.aer_nonfatal) or 0)
        indexes = _indexes(machine, set(bad.bus_ids))
        yield Symptom(
            subject=f"gpu {indexes[0]}" if len(indexes) == 1 else f"port {bad.port.bus_id}",
            gpus=indexes,
            severity=None if serious else Severity.WARNING,
            saw=_errors_of(bad),
            remedy=_repair_link(machine),
        )
    if unread is not None and not ports:
        yield NotChecked.because(unread)


def _repair_link(machine: Snapshot) -> Remedy:
    text = remedies.reseat(machine)
    if not is_virtual(machine):
        text += "; set a lower PCIe generation for the slot in the BIOS if it stays"
    return Remedy(text)


def _with_logged(
    machine: Snapshot, ports: dict[str, tuple[PciPort, list[str]]]
) -> dict[str, tuple[PciPort, list[str]]]:
    """Add what the kernel's log says of ports whose counters the kernel does not keep."""
    merged = dict(ports)
    for logged in value(machine.kernel_log.aer_ports) or ():
        counted = merged.get(logged.bus_id)
        if counted is None:
            continue  # a port that leads to no GPU
        port, bus_ids = counted
        merged[logged.bus_id] = (
            PciPort(
                bus_id=port.bus_id,
                aer_correctable=_larger(port.aer_correctable, logged.aer_correctable),
                aer_nonfatal=_larger(port.aer_nonfatal, logged.aer_nonfatal),
                aer_fatal=_larger(port.aer_fatal, logged.aer_fatal),
            ),
            bus_ids,
        )
    return merged


def _larger(one: object, other: object) -> int:
    return max(each if isinstance(each, int) else 0 for each in (one, other))


def _bad_ports(ports: dict[str, tuple[PciPort, list[str]]]) -> Iterator[_BadPort]:
    for port, bus_ids in ports.values():
        serious = (value(port.aer_fatal) or 0) + (value(port.aer_nonfatal) or 0)
        if serious or (value(port.aer_correctable) or 0) >= MANY_CORRECTED:
            yield _BadPort(port, tuple(bus_ids))


def _errors_of(bad: _BadPort) -> str:
    counts = [
        f"{number:,} {kind}"
        for kind, number in (
            ("fatal", value(bad.port.aer_fatal)),
            ("non-fatal", value(bad.port.aer_nonfatal)),
            ("corrected", value(bad.port.aer_correctable)),
        )
        if number
    ]
    if bad.port.bus_id in bad.bus_ids:
        where = f"at the GPU {bad.port.bus_id} itself"
    else:
        where = f"at port {bad.port.bus_id} above {listed(bad.bus_ids)}"
    is_one = len(counts) == 1 and counts[0].startswith("1 ")
    return f"{listed(counts)} PCIe error{'' if is_one else 's'} {where}"
