"""Rules about the ways between GPUs, and between GPUs and the network."""

from gpucheck.derived import slot_of
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import Gpu, Known, PeerCopy, Snapshot, Unknown, value


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
    members: set[int] = set()
    for pair in pairs or ():
        for status in (pair.p2p_read, pair.p2p_write):
            if isinstance(status, Unknown):
                yield NotChecked.because(status, f"gpus {pair.a} and {pair.b}")
            elif isinstance(status, str) and status != "OK":
                names = apart.setdefault(_P2P.get(status, status), [])
                members |= {pair.a, pair.b}
                if f"{pair.a}-{pair.b}" not in names:
                    names.append(f"{pair.a}-{pair.b}")
    if apart:
        yield Symptom(
            gpus=tuple(sorted(members)),
            saw="; ".join(f"GPUs {', '.join(names)}: {why}" for why, names in apart.items()),
            remedy=Remedy(
                "Nothing has to be done; for fast copies choose GPUs that reach each other",
                verify=command("nvidia-smi topo -p2p r"),
            ),
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


@rule("LNK008", Severity.INFO, "The GPUs are attached to different NUMA nodes")
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
    nodes: dict[int, list[Gpu]] = {}
    for gpu in gpus:
        slot = slot_of(machine, gpu)
        node = slot.numa_node if slot is not None else _node_of_the_cpus(gpu)
        if isinstance(node, Unknown):
            yield NotChecked.because(node, gpu.subject)
        elif isinstance(node, int):
            nodes.setdefault(node, []).append(gpu)
    if len(nodes) > 1:
        yield Symptom(
            gpus=tuple(sorted(gpu.index for members in nodes.values() for gpu in members)),
            saw="; ".join(_attached(node, members) for node, members in sorted(nodes.items())),
            remedy=Remedy(
                "Run each process on the CPUs and the memory of its GPU's node:"
                " numactl --cpunodebind=NODE --membind=NODE before its command"
            ),
        )


def _attached(node: int, gpus: list[Gpu]) -> str:
    names = []
    for gpu in gpus:
        cpus = value(gpu.cpu_affinity)
        names.append(f"{gpu.index} (CPUs {cpus})" if cpus else f"{gpu.index}")
    return f"node {node}: GPU {', '.join(names)}"


def _node_of_the_cpus(gpu: Gpu) -> int | Unknown | None:
    """Return the nearest node as NVML says it, where the kernel's list of devices is hidden.

    Not `gpu.numa_node`: that is the GPU's own memory, as a node of its own.
    """
    nodes = gpu.numa_affinity
    if isinstance(nodes, str):
        return int(nodes) if nodes.isdecimal() else None
    return Unknown("neither the kernel nor NVML says which NUMA node it is attached to")


#: how RDMA devices are named that are no InfiniBand adapters and never use nvidia_peermem
_OTHER_RDMA = ("efa", "rdmap", "irdma", "iw", "bnxt_re", "hfi1", "qedr", "cxgb", "siw", "rxe")


@rule("LNK011", Severity.WARNING, "InfiniBand cannot reach the GPUs' memory")
def no_gpudirect_rdma(machine: Snapshot) -> Answers:
    """There are InfiniBand devices and GPUs, but no GPUDirect RDMA: NCCL copies over the host.

    Either the module nvidia_peermem, or dma-buf (kernel 5.12 or newer with the open kernel module)
    lets a network adapter read and write GPU memory itself. A module that is loaded is not yet one
    that works: nvidia_peermem registers with the InfiniBand drivers of MLNX_OFED or DOCA, and finds
    nobody to register with where the kernel's own drivers are in use. Adapters of other makers
    (EFA, irdma, bnxt_re, software RDMA) have their own ways and are not judged, and neither are the
    adapters that manage NVSwitches.
    """
    listed = yield from known(machine.host.rdma_devices)
    if listed is None:
        return
    managers = value(machine.host.switch_managers) or ()
    devices = [name for name in listed if not name.startswith(_OTHER_RDMA) and name not in managers]
    if not devices:
        yield NotApplicable(why="no InfiniBand device")
        return
    gpus = yield from gpus_of(machine)
    if not gpus:
        return
    peermem = yield from known(machine.driver.peermem)
    if peermem is None:
        return
    clients = machine.driver.peer_memory_clients
    is_registered = peermem and (isinstance(clients, Unknown) or bool(clients))
    if is_registered:
        return
    if (yield from known(machine.driver.dma_buf)) is not False:
        return
    yield Symptom(
        saw=f"{', '.join(devices)}: nvidia_peermem is "
        + ("loaded and not registered" if peermem else "not loaded")
        + ", and dma-buf is not supported",
        remedy=_open_the_way(machine, is_loaded=peermem),
    )


def _open_the_way(machine: Snapshot, *, is_loaded: bool) -> Remedy:
    place = remedies.place_of_driver(machine)
    dma_buf = Remedy("Use NVIDIA's open kernel module and Linux 5.12 or newer, which have dma-buf")
    if is_loaded:
        return Remedy(
            "Give NCCL a way to GPU memory",
            alternatives=(
                dma_buf,
                Remedy(
                    "Install MLNX_OFED or DOCA, whose drivers nvidia_peermem registers with, then"
                    " load it again",
                    steps=(
                        command("modprobe -r nvidia_peermem", root=True, on=place),
                        command("modprobe nvidia_peermem", root=True, lasts="reboot", on=place),
                    ),
                ),
            ),
            verify=command("ls /sys/kernel/mm/memory_peers"),
        )
    return Remedy(
        "Load nvidia_peermem now and at every boot",
        steps=(
            command("modprobe nvidia_peermem", root=True, lasts="reboot", on=place),
            command(
                "sh -c 'echo nvidia_peermem > /etc/modules-load.d/nvidia-peermem.conf'",
                root=True,
                lasts="permanent",
                on=place,
            ),
        ),
        verify=command("ls /sys/kernel/mm/memory_peers"),
    )


@rule(
    "LNK014",
    Severity.ERROR,
    "A copy between GPUs came back different",
    caused_by=("GPU001", "GPU002", "LNK004", "LNK006", "LNK010", "HST006"),
)
def copy_differs(machine: Snapshot) -> Answers:
    """Data that one GPU sent to another arrived changed or not at all: results are wrong.

    Real data was copied from each GPU to each other and compared bit by bit. The usual cause is a
    translating IOMMU or PCIe access control (ACS) between the GPUs; also a broken NVLink or riser.
    Until it is fixed, use one GPU, or let NCCL go through the host: NCCL_P2P_DISABLE=1.
    """
    if machine.deep is None and machine.training is None and machine.bench is None:
        yield NotApplicable(why="no copies were made: --deep and gpucheck smoke make them")
        return
    seen: set[tuple[int, ...]] = set()
    if machine.deep is not None:
        ends = _nvml_indexes(machine.deep.gpus, machine)
        yield from _judge_copies(machine.deep.copies, "gpu", ends, seen)
    training = machine.training
    if training is not None and training.device == "cuda":
        name = "rank" if training.strategy == "ddp" else "gpu"
        yield from _judge_copies(training.copies, name, {}, seen)
    elif training is not None:
        yield NotApplicable(why="the training ran on the CPU")
    if machine.bench is not None and machine.bench.device == "cuda":
        for figure in value(machine.bench.figures) or ():
            if figure.measure == "peer" and isinstance(figure.wrong, str):
                source, target = figure.gpus
                copied = PeerCopy(
                    source=source, target=target, error=figure.wrong, gpus=figure.gpus
                )
                yield from _judge_copies((copied,), "gpu", {}, seen)


def _judge_copies(
    fact: Known[tuple[PeerCopy, ...]],
    name: str,
    ends: dict[int, int],
    seen: set[tuple[int, ...]],
) -> Answers:
    """Judge the copies of one look; *seen* are the pairs of GPUs that were reported already."""
    copies = yield from known(fact)
    if copies == ():
        yield NotApplicable(why="no two GPUs that work")
    for one in copies or ():
        # Where NVML lists the GPU by another number, its own is what the report's rows have.
        numbers = ends if name == "gpu" else {}
        if name == "gpu" and not ends:  # no bus id came back: CUDA counts in NVML's order
            ends = {end: end for end in (one.source, one.target)}
        source = numbers.get(one.source, one.source)
        target = numbers.get(one.target, one.target)
        subject = f"{name} {source} → {name} {target}"
        error = yield from known(one.error, subject)
        gpus = tuple(sorted(one.gpus)) or tuple(
            sorted({ends[end] for end in (one.source, one.target) if end in ends})
        )
        if error is None or (gpus and (source, target) in seen):
            continue
        seen.add((source, target))
        yield Symptom(
            subject=subject,
            gpus=gpus,
            saw=error,
            remedy=Remedy(
                "Turn ACS off and boot with iommu=pt; check the link between these GPUs; until then"
                " let NCCL copy through the host",
                steps=(command("export NCCL_P2P_DISABLE=1", lasts="shell"),),
                verify=command("gpucheck doctor --deep"),
            ),
        )


def _nvml_indexes(worked: object, machine: Snapshot) -> dict[int, int]:
    """Return NVML's index of each GPU by CUDA's, matched by bus id."""
    by_bus_id = {value(gpu.bus_id): gpu.index for gpu in value(machine.nvml.gpus) or ()}
    found = {}
    for gpu in worked if isinstance(worked, tuple) else ():
        bus_id = value(gpu.bus_id)
        if bus_id is not None and bus_id in by_bus_id:
            found[gpu.index] = by_bus_id[bus_id]
    return found
