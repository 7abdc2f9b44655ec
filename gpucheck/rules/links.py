"""Rules about PCIe, NVLink and the ways between GPUs."""

from gpucheck.knowledge import gpus as models
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.rules.gpu import NEEDS_TWO_READINGS, gpus_of, is_laptop
from gpucheck.snapshot import Fabric, Gpu, GpuSample, NvLink, PciGpu, Reading, Snapshot, Unknown

REPLAYS_PER_MINUTE = 16
CRC_ERRORS_PER_SECOND = 100
SMALL_BAR1_BYTES = 256 << 20


@rule("LNK001", Severity.WARNING, "A GPU has fewer PCIe lanes than it could", caused_by=("GPU001",))
def pcie_narrow(machine: Snapshot) -> Answers:
    """The PCIe link came up with fewer lanes than GPU and slot both have, so copies are slower.

    Reseat the board, try another slot, and look for a bent pin, a riser or a cable of poor quality;
    some boards share lanes with an M.2 slot. At a quarter of the lanes or less something is
    defective. A slot that has fewer lanes than the GPU is only noted: that is how the machine is
    built, and so are the lanes of a laptop. Lanes do not depend on load, unlike the generation. A
    GPU that a chip-to-chip link joins to its CPU (GH200, GB200, GB10) has PCIe for show only.
    """
    for gpu in (yield from gpus_of(machine)):
        if _is_on_the_cpu(gpu):
            yield NotApplicable(
                why="a chip-to-chip link, not PCIe, carries data", subject=gpu.subject
            )
            continue
        width = yield from known(gpu.pcie_width, gpu.subject)
        most = yield from known(gpu.pcie_width_max, gpu.subject)
        if not width or not most:
            continue
        slot = _slot(machine, gpu)
        slot_width = slot.slot_max_width if slot is not None else None
        limit = min(most, slot_width) if isinstance(slot_width, int) and slot_width else most
        model = models.find(gpu.name) if isinstance(gpu.name, str) else None
        own = max(most, (model.pcie_width or 0) if model is not None else 0)
        if width < limit and is_laptop(gpu):
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.INFO,
                saw=f"GPU {gpu.index}: x{width} of x{limit}, as laptops often have it",
                fix="Nothing: the lanes of a laptop are soldered.",
            )
        elif width < limit:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.ERROR if width * 4 <= limit else None,
                saw=f"GPU {gpu.index}: x{width}; GPU and slot both have x{limit}",
                fix="Power down and reseat the GPU; try another slot; replace the riser if any.",
                commands=(f"nvidia-smi -i {gpu.index} -q | grep -A 12 'GPU Link Info'",),
            )
        elif width < own:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.INFO,
                saw=f"GPU {gpu.index}: x{width} is all that its slot has; the GPU has x{own}",
                fix="Use a slot with more lanes, if there is one.",
            )


def _is_on_the_cpu(gpu: Gpu) -> bool:
    """Tell a superchip: by its link, or by a model for which the table has no PCIe."""
    if gpu.c2c_is_on is True:
        return True
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return model is not None and model.pcie_width is None


def _slot(machine: Snapshot, gpu: Gpu) -> PciGpu | None:
    if isinstance(machine.host.pci_gpus, Unknown):
        return None
    return next((slot for slot in machine.host.pci_gpus if slot.bus_id == gpu.bus_id), None)


@rule("LNK002", Severity.WARNING, "A GPU's PCIe link is slow under load", caused_by=("LNK001",))
def pcie_slow(machine: Snapshot) -> Answers:
    """Under load the PCIe link stays at a lower generation than GPU and slot have: copies are slow.

    An idle GPU shifts its link down to save energy, so this is judged only at P0 under load, which
    --deep makes. Causes: a BIOS setting, a riser or cable that fails at full speed, a reseat that
    is due.
    """
    for gpu in (yield from gpus_of(machine)):
        if _is_on_the_cpu(gpu):
            yield NotApplicable(
                why="a chip-to-chip link, not PCIe, carries data", subject=gpu.subject
            )
            continue
        most = yield from known(gpu.pcie_generation_max, gpu.subject)
        now = yield from known(gpu.pcie_generation, gpu.subject)
        if not most or not now or now >= most:
            continue
        later = gpu.later_sample
        if later is None or not later.under_load:
            yield NotChecked(why="idle", subject=gpu.subject)
            continue
        generation = yield from known(later.pcie_generation, gpu.subject)
        state = yield from known(later.performance_state, gpu.subject)
        if generation is None or state is None:
            continue
        if state != 0:
            yield NotChecked(why=f"it stayed at P{state} under load", subject=gpu.subject)
        elif generation < most:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}: PCIe generation {generation} under load; GPU and slot both"
                f" have {most}",
                fix="Set the slot to Auto or the right generation in the BIOS; reseat the GPU;"
                " replace the riser if there is one.",
            )


@rule("LNK003", Severity.WARNING, "PCIe transfers are being repeated")
def pcie_replays(machine: Snapshot) -> Answers:
    """The PCIe link makes errors and repeats transfers; a link like this ends in a lost GPU.

    Counted between two readings; an old total says nothing. Reseat the board, replace a riser or
    cable, and look for heat.
    """
    for gpu in (yield from gpus_of(machine)):
        first = yield from known(gpu.pcie_replays, gpu.subject)
        if first is None:
            continue
        if gpu.later_sample is None:
            yield NotChecked(why=NEEDS_TWO_READINGS, subject=gpu.subject)
            continue
        later = yield from known(gpu.later_sample.pcie_replays, gpu.subject)
        if later is None:
            continue
        growth = later - first
        # One replay within a second is no rate yet: three are needed in a short reading.
        if growth >= 3 and growth * 60 > REPLAYS_PER_MINUTE * gpu.later_sample.after_seconds:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}: {growth} PCIe replays in "
                f"{gpu.later_sample.after_seconds:.1f} s",
                fix="Power down and reseat the GPU; replace the riser or cable if there is one.",
            )


@rule(
    "LNK004",
    Severity.ERROR,
    "An NVLink is down",
    caused_by=("GPU001", "GPU002", "DRV010", "LNK006"),
)
def nvlink_down(machine: Snapshot) -> Answers:
    """Some NVLinks of this GPU are down while others are up: copies are slower, or fail.

    Programs that need all links (NVSwitch systems) do not start at all. Reset all GPUs together;
    if the same link stays down, its connector, bridge, board or the switch is defective.

    A GPU with no link up at all has no bridge, is cut by MIG, or is alone in its virtual machine:
    that is only noted. On a board that wires every link it is a fault where the GPU's neighbours
    have theirs, and a warning where all GPUs of a bare machine have none: somebody may have turned
    NVLink off. In a virtual machine whose GPUs are joined without switches, a third or two of the
    links may lead to GPUs of another virtual machine: that is only noted, if all GPUs are alike.
    """
    gpus = yield from gpus_of(machine)
    for gpu in gpus:
        links = yield from known(gpu.nvlinks, gpu.subject)
        if links is None:
            continue
        if not links:
            yield NotApplicable(why="no NVLink", subject=gpu.subject)
            continue
        unread = next((link.is_up for link in links if isinstance(link.is_up, Unknown)), None)
        up = [link.index for link in links if link.is_up is True]
        down = [link for link in links if link.is_up is False]
        model = models.find(gpu.name) if isinstance(gpu.name, str) else None
        wired = model.nvlinks if model is not None and model.nvlinks_are_wired else 0
        # A model that was cut down (A800, H800) may show the links that it lacks as down.
        expected = wired or len(links)
        if unread is not None and not (up and down):
            yield NotChecked(why=unread.why, subject=gpu.subject)
        elif not up:
            yield _all_links_down(machine, gpus, gpu, links, is_wired=wired > 0)
        elif len(up) < expected:
            names = ", ".join(str(link.index) for link in down) or "not shown"
            is_shared = _may_lead_elsewhere(machine, gpus, links, expected)
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.INFO if is_shared else None,
                saw=f"GPU {gpu.index}: {len(up)} of {expected} NVLinks are up; down: {names}",
                fix="Nothing, if the others lead to GPUs that this virtual machine does not have."
                if is_shared
                else "Reset all GPUs together; if the link stays down, have it repaired.",
                commands=(f"nvidia-smi nvlink --status -i {gpu.index}",),
                explained_by=_lost_peer(machine, gpu, down),
            )


def _all_links_down(
    machine: Snapshot, gpus: tuple[Gpu, ...], gpu: Gpu, links: tuple[NvLink, ...], *, is_wired: bool
) -> Symptom:
    """Judge a GPU of which no link is up."""
    severity: Severity | None = Severity.INFO
    fix = "Nothing, if there is no NVLink bridge or this machine has one GPU only."
    if is_wired and gpu.mig_is_on is not True and gpu.state == "ok":
        siblings = [other for other in gpus if other.index != gpu.index and other.name == gpu.name]
        if any(_has_link_up(other) for other in siblings):
            severity = None
            fix = "Give it no work that uses several GPUs; reset all GPUs together, else repair it."
        elif siblings and machine.host.hypervisor is None:
            severity = Severity.WARNING
            fix = "Look whether the fabric manager runs, and whether NVreg_NvLinkDisable is set."
    return Symptom(
        gpus=(gpu.index,),
        subject=gpu.subject,
        severity=severity,
        saw=f"GPU {gpu.index}: none of its {len(links)} NVLinks is up",
        fix=fix,
        commands=() if severity is Severity.INFO else (f"nvidia-smi nvlink -s -i {gpu.index}",),
        explained_by=() if severity is Severity.INFO else _lost_peer(machine, gpu, []),
    )


def _has_link_up(gpu: Gpu) -> bool:
    return isinstance(gpu.nvlinks, tuple) and any(link.is_up is True for link in gpu.nvlinks)


def _may_lead_elsewhere(
    machine: Snapshot, gpus: tuple[Gpu, ...], links: tuple[NvLink, ...], expected: int
) -> bool:
    """Tell whether the missing links may end at GPUs that were given to another virtual machine.

    Boards that join four GPUs, or the two fours of a V100 server, give each way a third of the
    links; every GPU of such a part has as many. A switch's partition has all links or none.
    """
    up = [link for link in links if link.is_up is True]
    if not isinstance(machine.host.hypervisor, str) or 3 * len(up) not in (expected, 2 * expected):
        return False
    if any(link.remote_kind != "gpu" for link in up):
        return False
    return all(
        isinstance(gpu.nvlinks, tuple)
        and sum(link.is_up is True for link in gpu.nvlinks) == len(up)
        for gpu in gpus
    )


def _lost_peer(machine: Snapshot, gpu: Gpu, down: list[NvLink]) -> tuple[str, ...]:
    """Return the codes of a GPU at the far end that is gone."""
    gone = [
        other
        for other in (machine.nvml.gpus if isinstance(machine.nvml.gpus, tuple) else ())
        if other.state != "ok" and other.index != gpu.index
    ]
    if not gone or any(link.remote_kind == "switch" for link in down):
        return ()
    bus_ids = {other.bus_id for other in gone}
    reported = {link.remote_bus_id for link in down if isinstance(link.remote_bus_id, str)}
    if reported and not reported <= bus_ids:
        return ()
    return ("GPU001", "GPU002")


@rule("LNK005", Severity.WARNING, "An NVLink makes errors", caused_by=("LNK004",))
def nvlink_errors(machine: Snapshot) -> Answers:
    """NVLink repeats transfers or recovers while we look: the link is poor and may go down.

    Counted between two readings: any replay or recovery, or more than 100 CRC errors a second. A
    standing count of some tens of CRC errors is normal on healthy H200s.
    """
    for gpu in (yield from gpus_of(machine)):
        links = yield from known(gpu.nvlinks, gpu.subject)
        if links is None:
            continue
        if not any(link.is_up is True for link in links):
            yield NotApplicable(why="no NVLink is up", subject=gpu.subject)
            continue
        if gpu.later_sample is None:
            yield NotChecked(why=NEEDS_TWO_READINGS, subject=gpu.subject)
            continue
        grown = []
        for what, first, later in _nvlink_counters(links, gpu.later_sample):
            if isinstance(first, Unknown):
                yield NotChecked(why=first.why, subject=gpu.subject)
                continue
            value = yield from known(later, gpu.subject)
            if first is None or value is None:
                continue
            limit = (
                CRC_ERRORS_PER_SECOND * gpu.later_sample.after_seconds
                if what == "CRC errors"
                else 0
            )
            if value - first > limit:
                grown.append(f"{value - first} {what}")
        if grown:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}: {', '.join(grown)} on its NVLinks in"
                f" {gpu.later_sample.after_seconds:.1f} s",
                fix="Reseat the NVLink bridge or the board; have the link checked if it goes on.",
                commands=(f"nvidia-smi nvlink -e -i {gpu.index}",),
            )


def _nvlink_counters(
    links: tuple[NvLink, ...], second: GpuSample
) -> tuple[tuple[str, int | Unknown | None, Reading[int]], ...]:
    return (
        ("replays", _sum([link.replay_errors for link in links]), second.nvlink_replay_errors),
        (
            "recoveries",
            _sum([link.recovery_errors for link in links]),
            second.nvlink_recovery_errors,
        ),
        (
            "CRC errors",
            _sum([c for link in links for c in (link.crc_flit_errors, link.crc_data_errors)]),
            second.nvlink_crc_errors,
        ),
    )


def _sum(counts: list[object]) -> int | Unknown | None:
    """Add up counters; Unknown where one could not be read, None where none is supported."""
    unread = next((count for count in counts if isinstance(count, Unknown)), None)
    if unread is not None:
        return unread
    read = [count for count in counts if isinstance(count, int)]
    return sum(read) if read else None


@rule(
    "LNK006",
    Severity.ERROR,
    "The NVSwitch fabric is not ready",
    caused_by=("DRV010", "GPU001", "GPU002"),
)
def fabric_not_ready(machine: Snapshot) -> Answers:
    """On an NVSwitch system CUDA does not start (error 802) until every GPU has joined the fabric.

    The fabric manager registers each GPU; it has to run, in the driver's own version. Where it runs
    and a GPU still does not join, its log says why (/var/log/fabricmanager.log). A GPU that is
    alone in its virtual machine and has no link up belongs to no fabric.
    """
    gpus = yield from gpus_of(machine)
    for gpu in gpus:
        fabric = yield from known(gpu.fabric, gpu.subject)
        if not isinstance(fabric, Fabric):
            continue
        if fabric.state == 0:
            yield NotApplicable(why="no NVSwitch fabric", subject=gpu.subject)
        elif fabric.state < 3 and _is_alone(machine, gpus, gpu):
            yield NotApplicable(why="alone in its virtual machine", subject=gpu.subject)
        elif fabric.state not in _FABRIC_STATES:
            yield NotChecked(why=f"fabric state {fabric.state} is not known", subject=gpu.subject)
        elif fabric.state != 3 or fabric.status != 0:
            result = f", NVML error {fabric.status}" if fabric.state == 3 else ""
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}: its fabric registration is"
                f" {_FABRIC_STATES[fabric.state]}{result}",
                fix="Start the fabric manager in the driver's version, then look again.",
                commands=(
                    "sudo systemctl restart nvidia-fabricmanager",
                    "sudo tail /var/log/fabricmanager.log",
                ),
            )
        elif isinstance(fabric.health, int) and (faults := _fabric_faults(fabric.health)):
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.WARNING,
                saw=f"GPU {gpu.index}: the fabric reports {', '.join(faults)}",
                fix="Look into the fabric manager's log; reset the GPUs together if it goes on.",
                commands=("sudo tail /var/log/fabricmanager.log",),
            )


def _is_alone(machine: Snapshot, gpus: tuple[Gpu, ...], gpu: Gpu) -> bool:
    return (
        len(gpus) == 1
        and isinstance(machine.host.hypervisor, str)
        and isinstance(gpu.nvlinks, tuple)
        and not _has_link_up(gpu)
    )


#: nvmlGpuFabricState_t
_FABRIC_STATES = {1: "not started", 2: "in progress", 3: "completed"}
#: nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_*: fields of two bits, where 1 means "true"
_FABRIC_HEALTH = {0: "degraded bandwidth", 2: "a route in recovery", 4: "an unhealthy route"}


def _fabric_faults(mask: int) -> list[str]:
    return [fault for shift, fault in _FABRIC_HEALTH.items() if mask >> shift & 3 == 1]


@rule("LNK007", Severity.INFO, "Some GPUs cannot reach each other directly")
def no_peer_access(machine: Snapshot) -> Answers:
    """Between these GPUs data goes through the host's memory, which is slower and still right.

    That is normal for GeForce cards, across CPU sockets, and in many virtual machines. DataParallel
    and NCCL fall back by themselves.
    """
    gpus = yield from gpus_of(machine)
    if len(gpus) < 2:
        if gpus:
            yield NotApplicable(why="one GPU")
        return
    pairs = yield from known(machine.nvml.pairs)
    apart: dict[str, list[str]] = {}
    for pair in pairs or ():
        for status in (pair.p2p_read, pair.p2p_write):
            if isinstance(status, Unknown):
                yield NotChecked(why=status.why, subject=f"gpus {pair.a} and {pair.b}")
            elif isinstance(status, str) and status != "OK":
                names = apart.setdefault(_P2P.get(status, status), [])
                if f"{pair.a}-{pair.b}" not in names:
                    names.append(f"{pair.a}-{pair.b}")
    if apart:
        yield Symptom(
            saw="; ".join(f"GPUs {', '.join(names)}: {why}" for why, names in apart.items()),
            fix="Nothing has to be done; choose GPUs that reach each other for fast copies.",
            commands=("nvidia-smi topo -p2p r",),
        )


#: nvidia-smi's abbreviations of nvmlGpuP2PStatus_t
_P2P = {
    "CNS": "the chipset does not support it",
    "GNS": "the GPUs do not support it",
    "TNS": "the topology does not support it",
    "DR": "disabled by a registry key",
    "NS": "not supported",
    "U": "NVML does not know",
}


@rule("LNK008", Severity.INFO, "The GPUs hang on different NUMA nodes")
def numa_nodes(machine: Snapshot) -> Answers:
    """A program feeds a GPU fastest from the CPUs and the memory of that GPU's own NUMA node.

    Launchers that bind processes (Slurm, `numactl --cpunodebind=N --membind=N`) should give each
    process the CPUs of its GPU.
    """
    gpus = yield from gpus_of(machine)
    if len(gpus) < 2:
        if gpus:
            yield NotApplicable(why="one GPU")
        return
    nodes: dict[int, list[str]] = {}
    for gpu in gpus:
        slot = _slot(machine, gpu)
        node = slot.numa_node if slot is not None else _node_of_the_cpus(gpu)
        if isinstance(node, Unknown):
            yield NotChecked(why=node.why, subject=gpu.subject)
        elif isinstance(node, int):
            cpus = f" (CPUs {gpu.cpu_affinity})" if isinstance(gpu.cpu_affinity, str) else ""
            nodes.setdefault(node, []).append(f"{gpu.index}{cpus}")
    if len(nodes) > 1:
        yield Symptom(
            saw="; ".join(
                f"node {node}: GPU {', '.join(names)}" for node, names in sorted(nodes.items())
            ),
            fix="Bind each process to the CPUs of its GPU.",
            commands=("nvidia-smi topo -m",),
        )


def _node_of_the_cpus(gpu: Gpu) -> int | Unknown | None:
    """Return the nearest node as NVML says it, where the kernel's list of devices is hidden.

    Not `gpu.numa_node`: that is the GPU's own memory, as a node of its own.
    """
    nodes = gpu.numa_affinity
    if isinstance(nodes, str):
        return int(nodes) if nodes.isdecimal() else None
    return Unknown("neither the kernel nor NVML tells its NUMA node")


@rule("LNK009", Severity.INFO, "Resizable BAR is off")
def small_bar1(machine: Snapshot) -> Answers:
    """The CPU sees only 256 MiB of this GPU's memory at a time; some transfers are slower for it.

    Turn on "Above 4G decoding" and "Resizable BAR" in the BIOS, if the board offers them. Nothing
    is broken otherwise.
    """
    for gpu in (yield from gpus_of(machine)):
        size = yield from known(gpu.bar1_total_bytes, gpu.subject)
        if size and size <= SMALL_BAR1_BYTES:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}: BAR1 is {size >> 20} MiB",
                fix='Turn on "Above 4G decoding" and "Resizable BAR" in the BIOS.',
            )


@rule(
    "LNK010",
    Severity.WARNING,
    "PCIe access control sends GPU copies over the CPU",
    caused_by=("HST006",),
)
def acs_redirect(machine: Snapshot) -> Answers:
    """ACS request redirect is on at a bridge above the GPUs: peer-to-peer copies detour or hang.

    On bare metal it has no use unless devices are passed to virtual machines. Turn ACS (or VT-d /
    AMD-Vi) off in the BIOS, or clear the bits with setpci at every boot, as NCCL's documentation
    describes. In a virtual machine ACS is the host's business and is not judged.
    """
    found = yield from known(machine.host.pci_gpus)
    if found is None:
        return
    if len(found) < 2:
        yield NotApplicable(why="fewer than two GPUs")
        return
    if isinstance(machine.host.hypervisor, str) or machine.host.is_wsl is True:
        yield NotApplicable(why="a virtual machine")
        return
    if isinstance(machine.host.hypervisor, Unknown):
        yield NotChecked(why=machine.host.hypervisor.why)
        return
    redirecting: dict[str, list[str]] = {}
    for gpu in found:
        for bridge in (yield from known(gpu.acs_redirecting_bridges, gpu.bus_id)) or ():
            redirecting.setdefault(bridge, []).append(gpu.bus_id)
    if redirecting:
        yield Symptom(
            saw="; ".join(
                f"bridge {bridge} above {', '.join(gpus)}" for bridge, gpus in redirecting.items()
            ),
            fix="Turn ACS off in the BIOS, or clear its control bits at every boot.",
            commands=tuple(
                f"sudo setpci -s {bridge} ECAP_ACS+0x6.w=0000" for bridge in redirecting
            ),
        )


#: how RDMA devices are named that are no InfiniBand adapters and never use nvidia_peermem
_OTHER_RDMA = ("efa", "rdmap", "irdma", "iw", "bnxt_re", "hfi1", "qedr", "cxgb", "siw", "rxe")


@rule("LNK011", Severity.WARNING, "InfiniBand cannot reach the GPUs' memory")
def no_gpudirect_rdma(machine: Snapshot) -> Answers:
    """There are InfiniBand devices and GPUs, but no GPUDirect RDMA: NCCL copies over the host.

    Either the module nvidia_peermem, or dma-buf (kernel 5.12 or newer with the open kernel module)
    lets a network adapter read and write GPU memory itself. Adapters of other makers (EFA, irdma,
    bnxt_re, software RDMA) have their own ways and are not judged.
    """
    listed = yield from known(machine.host.rdma_devices)
    if listed is None:
        return
    devices = [name for name in listed if not name.startswith(_OTHER_RDMA)]
    if not devices:
        yield NotApplicable(why="no InfiniBand device")
        return
    gpus = yield from gpus_of(machine)
    if not gpus:
        return
    peermem = yield from known(machine.driver.peermem)
    if peermem is not False:
        return
    dma_buf = yield from known(machine.driver.dma_buf)
    if dma_buf is False:
        yield Symptom(
            saw=f"{', '.join(devices)}: nvidia_peermem is not loaded, and dma-buf is not supported",
            fix="Load nvidia_peermem, and have it loaded at every boot.",
            commands=(
                "sudo modprobe nvidia_peermem",
                "echo nvidia_peermem | sudo tee /etc/modules-load.d/nvidia-peermem.conf",
            ),
        )
