"""What a fleet compares: of one machine its peers, the facts that should be equal, its measures."""

from collections.abc import Iterator, Sequence

import msgspec

from gpucheck import derived
from gpucheck.snapshot import (
    FabricManager,
    Gpu,
    Host,
    Memory,
    NvLink,
    Python,
    RdmaPort,
    Snapshot,
    Torch,
    value,
)

GIBIBYTE = 1 << 30


class NodeFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding of one node, without the texts that can be had from its code."""

    code: str
    severity: str
    title: str
    saw: str
    fix: str
    subject: str = ""
    gpus: tuple[int, ...] = ()


class NodeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One node, judged: all that the fleet keeps of it (some 4 KB)."""

    node: str
    verdict: str
    findings: tuple[NodeFinding, ...] = ()  # roots alone
    peers: tuple[str, ...] = ()  # what true peers have in common
    facts: dict[str, str] = {}  # what they should have in common, as text
    #: measure → one number per GPU, by NVML index, larger is better
    measures: dict[str, tuple[tuple[int, float], ...]] = {}
    taken_at: str = ""


def peers_of(machine: Snapshot) -> tuple[str, ...]:
    """Return what makes two machines peers: GPU models and number, product, network devices."""
    gpus = _gpus(machine)
    models = sorted({name for gpu in gpus if (name := value(gpu.name))})
    rdma = value(machine.host.rdma_devices) or ()
    return (
        " + ".join(models) or "no GPU",
        f"{len(gpus)} GPUs",
        value(machine.host.platform.product) or value(machine.host.machine) or "",
        f"{len(rdma)} RDMA devices",
    )


def facts_of(machine: Snapshot) -> dict[str, str]:
    """Return the facts that peers should share; what is not known is left out.

    Nothing that counts or flows is among them: no temperature, no error counter, no uptime.
    """
    return {name: text for name, text in _facts(machine) if text}


def _facts(machine: Snapshot) -> Iterator[tuple[str, str]]:
    host, driver = machine.host, machine.driver
    yield "driver", derived.driver_version(machine) or ""
    yield "kernel module kind", value(driver.module_kind) or ""
    yield "kernel", value(host.kernel_release) or ""
    yield "distribution", value(host.distribution) or ""
    yield "IOMMU", value(host.iommu) or ""
    yield "CPUs", _text(value(host.cpus_present))
    memory = value(host.memory_bytes)
    yield "memory", f"{round(memory / GIBIBYTE / 16) * 16} GiB" if memory else ""
    yield from _platform(host)
    yield "container", value(host.container) or ""
    manager = value(driver.fabric_manager)
    if isinstance(manager, FabricManager):
        yield "fabric manager", value(manager.version) or ""
    yield "NVSwitches", _text(value(host.nvswitches))
    python, torch = value(machine.pytorch.python), value(machine.pytorch.torch)
    yield "Python", (value(python.version) or "") if isinstance(python, Python) else ""
    if isinstance(torch, Torch):
        yield "torch", value(torch.version) or ""
    yield "default toolkit", value(machine.toolkits.default) or ""
    for library in value(machine.libraries.resolved) or ():
        if library.soname.startswith(("libcudnn.so", "libnccl.so")):
            yield library.soname.split(".")[0].removeprefix("lib"), value(library.version) or ""
    for variable in value(machine.environment.variables) or ():
        if variable.name.startswith(("NCCL_", "CUDA_")) and variable.name not in _PER_JOB:
            yield variable.name, variable.value
    gpus = _gpus(machine)
    for name, field in _GPU_FACTS.items():
        known = [value(getattr(gpu, field)) for gpu in gpus]
        yield name, ", ".join(sorted({_text(each) for each in known if each is not None}))
    yield "NVLinks up", _equal([_links_up(gpu) for gpu in gpus])
    yield "device memory", _equal([_memory(gpu) for gpu in gpus])


def _platform(host: Host) -> Iterator[tuple[str, str]]:
    """Yield what a board, a BIOS, a CPU or an adapter of another make or age differs in."""
    platform = host.platform
    yield "board", value(platform.board) or ""
    yield "BIOS", value(platform.bios_version) or ""
    yield "CPU", value(platform.cpu_model) or ""
    yield "microcode", value(platform.microcode) or ""
    yield "CPU governor", value(platform.cpu_governor) or ""
    yield "transparent huge pages", value(platform.transparent_hugepages) or ""
    yield "NUMA nodes", _text(value(platform.numa_nodes))
    adapters = value(host.rdma) or ()
    ports = [port for each in adapters for port in value(each.ports) or ()]
    yield "RDMA boards", _equal([value(each.board) or "" for each in adapters])
    yield "RDMA firmware", _equal([value(each.firmware) or "" for each in adapters])
    yield "RDMA rate", _equal([value(port.rate) or "" for port in ports])
    yield "RDMA ports active", _text(_active(ports)) if ports else ""


def _active(ports: Sequence[RdmaPort]) -> int:
    return sum(value(port.state) == "ACTIVE" for port in ports)


_PER_JOB = ("CUDA_VISIBLE_DEVICES", "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY")
_GPU_FACTS = {
    "VBIOS": "vbios_version",
    "InfoROM": "inforom_version",
    "GSP firmware": "gsp_firmware_version",
    "ECC": "ecc_is_on",
    "MIG": "mig_is_on",
    "persistence": "persistence",
    "power limit (W)": "power_limit_enforced_watts",
    "application clock (MHz)": "application_clock_sm_mhz",
    "compute mode": "compute_mode",
    "PCIe width": "pcie_width",
    "PCIe generation (maximum)": "pcie_generation_max",
}


def _gpus(machine: Snapshot) -> Sequence[Gpu]:
    return value(machine.nvml.gpus) or ()


def _text(fact: object) -> str:
    if fact is None:
        return ""
    if isinstance(fact, bool):
        return "on" if fact else "off"
    return f"{fact:g}" if isinstance(fact, float) else str(fact)


def _links_up(gpu: Gpu) -> str:
    links = value(gpu.nvlinks)
    if not links:
        return ""
    return str(sum(value(link.is_up) is True for link in links if isinstance(link, NvLink)))


def _memory(gpu: Gpu) -> str:
    memory = value(gpu.memory)
    return f"{round(memory.total_bytes / GIBIBYTE)} GiB" if isinstance(memory, Memory) else ""


def _equal(values: Sequence[str]) -> str:
    return ", ".join(sorted({each for each in values if each}))


def measures_of(machine: Snapshot) -> dict[str, tuple[tuple[int, float], ...]]:
    """Return what `gpucheck bench` measured of each GPU alone, by measure: larger is better."""
    bench = machine.bench
    if bench is None or bench.device == "cpu":
        return {}
    measures: dict[str, list[tuple[int, float]]] = {}
    for figure in value(bench.figures) or ():
        if len(figure.gpus) == 1 and figure.best is not None:
            measures.setdefault(figure.measure, []).append((figure.gpus[0], figure.best))
    return {name: tuple(rows) for name, rows in measures.items()}
