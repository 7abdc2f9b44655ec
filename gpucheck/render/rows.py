"""One row per GPU, and one per pair of GPUs: what the table shows and the JSON carries."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from gpucheck.report import Finding, Report
from gpucheck.rule import Severity
from gpucheck.snapshot import (
    Gpu,
    GpuPair,
    Memory,
    NotSupported,
    RemappedRows,
    RetiredPages,
    ThermalThresholds,
    Unknown,
)

#: What a scheduler does with a GPU: use it; use it and tell its owner; give it no further work.
GpuVerdict = Literal["ok", "degraded", "drain"]


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds memory of a GPU."""

    pid: int
    name: str | None
    kind: str
    used_bytes: int | None


class GpuRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU. null: it has no such thing; where it is not known, `unknown` says why."""

    index: int
    name: str | None
    uuid: str | None
    bus_id: str | None
    state: Literal["ok", "lost", "hung", "crashed", "failed"]
    error: str | None
    verdict: GpuVerdict
    findings: tuple[str, ...]
    compute_capability: str | None
    vbios_version: str | None
    temperature_celsius: int | None
    temperature_limit_celsius: int | None
    memory_temperature_celsius: int | None
    memory_temperature_limit_celsius: int | None
    power_watts: float | None
    power_limit_watts: float | None
    power_limit_default_watts: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None
    memory_reserved_bytes: int | None
    utilization_percent: int | None
    performance_state: int | None
    clock_sm_mhz: int | None
    clock_memory_mhz: int | None
    clocks_event_reasons: int | None
    ecc_is_on: bool | None
    corrected_ecc_volatile: int | None
    uncorrected_ecc_volatile: int | None
    corrected_ecc_aggregate: int | None
    uncorrected_ecc_aggregate: int | None
    remapped_rows: int | None
    remap_is_pending: bool | None
    remap_has_failed: bool | None
    retired_pages: int | None
    recovery_action: int | None
    pcie_generation: int | None
    pcie_generation_max: int | None
    pcie_width: int | None
    pcie_width_max: int | None
    pcie_replays: int | None
    nvlinks_up: int | None
    nvlinks: int | None
    persistence: bool | None
    compute_mode: int | None
    mig_is_on: bool | None
    processes: tuple[Process, ...] | None
    unknown: Mapping[str, str]


class PairRow(msgspec.Struct, frozen=True, kw_only=True):
    """The way between GPUs `a` and `b`, in nvidia-smi's words."""

    a: int
    b: int
    topology: str | None
    p2p_read: str | None
    p2p_write: str | None
    p2p_nvlink: str | None
    unknown: Mapping[str, str]


#: Fields of a row that are a fact of the GPU under the same or another name.
_PLAIN = {
    name: name
    for name in (
        "name",
        "uuid",
        "bus_id",
        "error",
        "compute_capability",
        "vbios_version",
        "temperature_celsius",
        "memory_temperature_celsius",
        "power_watts",
        "power_limit_default_watts",
        "utilization_percent",
        "performance_state",
        "clock_sm_mhz",
        "clock_memory_mhz",
        "clocks_event_reasons",
        "ecc_is_on",
        "corrected_ecc_volatile",
        "uncorrected_ecc_volatile",
        "corrected_ecc_aggregate",
        "uncorrected_ecc_aggregate",
        "recovery_action",
        "pcie_generation",
        "pcie_generation_max",
        "pcie_width",
        "pcie_width_max",
        "pcie_replays",
        "persistence",
        "compute_mode",
        "mig_is_on",
    )
} | {"power_limit_watts": "power_limit_enforced_watts"}


def gpu_rows(report: Report) -> tuple[GpuRow, ...]:
    """Return a row for every GPU that NVML lists."""
    gpus = report.machine.nvml.gpus
    if isinstance(gpus, Unknown):
        return ()
    return tuple(_gpu_row(gpu, report) for gpu in gpus)


def pair_rows(report: Report) -> tuple[PairRow, ...]:
    """Return a row for every pair of GPUs that NVML lists."""
    pairs = report.machine.nvml.pairs
    if isinstance(pairs, Unknown):
        return ()
    return tuple(_pair_row(pair) for pair in pairs)


def _gpu_row(gpu: Gpu, report: Report) -> GpuRow:
    reader = _Reader()
    values = {name: reader.value(name, getattr(gpu, field)) for name, field in _PLAIN.items()}
    values |= _limits(gpu, reader)
    values |= _memory(gpu, reader)
    values |= _links(gpu, reader)
    mine = [
        finding
        for finding in report.findings
        if gpu.index in finding.gpus or finding.subject == gpu.subject
    ]
    return GpuRow(
        index=gpu.index,
        state=gpu.state,
        verdict=_verdict(gpu, mine),
        # What has a root elsewhere is that root's: the row names what to fix.
        findings=tuple(dict.fromkeys(finding.explained_by or finding.code for finding in mine)),
        processes=_processes(gpu, reader),
        unknown=reader.unknown,
        **values,  # type: ignore[arg-type]
    )


def _verdict(gpu: Gpu, findings: Sequence[Finding]) -> GpuVerdict:
    """Judge one GPU by the findings that are about it, alone or among others."""
    severities = {finding.severity for finding in findings}
    if gpu.state != "ok" or Severity.ERROR in severities:
        return "drain"
    return "degraded" if Severity.WARNING in severities else "ok"


class _Reader:
    """Takes facts apart: the value, or None and a note of why it is not known."""

    def __init__(self) -> None:
        self.unknown: dict[str, str] = {}

    def value(self, name: str, fact: object) -> object:
        if isinstance(fact, Unknown):
            self.unknown[name] = fact.why
            return None
        return None if isinstance(fact, NotSupported) else fact


def _limits(gpu: Gpu, reader: _Reader) -> dict[str, object]:
    """Where the GPU slows itself down: its threshold, else what is left to it ("T.Limit")."""
    core: object = None
    memory: object = None
    match gpu.thresholds:
        case ThermalThresholds() as limits:
            core = reader.value("temperature_limit_celsius", limits.slowdown_celsius)
            memory = reader.value("memory_temperature_limit_celsius", limits.memory_max_celsius)
        case other:
            reader.value("temperature_limit_celsius", other)
    match gpu.temperature_celsius, gpu.temperature_margin_celsius:
        case int(now), int(left) if core is None:
            reader.unknown.pop("temperature_limit_celsius", None)
            below = gpu.slowdown_margin_celsius
            core = now + left - (below if isinstance(below, int) else 0)
    return {"temperature_limit_celsius": core, "memory_temperature_limit_celsius": memory}


def _memory(gpu: Gpu, reader: _Reader) -> dict[str, object]:
    used: object = None
    total: object = None
    reserved: object = None
    match gpu.memory:
        case Memory() as memory:
            used, total = memory.used_bytes, memory.total_bytes
            reserved = reader.value("memory_reserved_bytes", memory.reserved_bytes)
        case other:
            reader.value("memory_used_bytes", other)
            reader.value("memory_total_bytes", other)
    rows: object = None
    pending: object = None
    failed: object = None
    match gpu.remapped_rows:
        case RemappedRows() as remapped:
            rows = remapped.correctable + remapped.uncorrectable
            pending, failed = remapped.is_pending, remapped.has_failed
        case other:
            reader.value("remapped_rows", other)
    pages: object = None
    match gpu.retired_pages:
        case RetiredPages() as retired:
            pages = retired.single_bit + retired.double_bit
        case other:
            reader.value("retired_pages", other)
    return {
        "memory_used_bytes": used,
        "memory_total_bytes": total,
        "memory_reserved_bytes": reserved,
        "remapped_rows": rows,
        "remap_is_pending": pending,
        "remap_has_failed": failed,
        "retired_pages": pages,
    }


def _links(gpu: Gpu, reader: _Reader) -> dict[str, object]:
    if not isinstance(gpu.nvlinks, tuple):
        reader.value("nvlinks", gpu.nvlinks)
        return {"nvlinks": None, "nvlinks_up": None}
    for link in gpu.nvlinks:
        reader.value("nvlinks_up", link.is_up)
    up = sum(1 for link in gpu.nvlinks if link.is_up is True)
    return {
        "nvlinks": len(gpu.nvlinks) or None,
        "nvlinks_up": up if gpu.nvlinks and "nvlinks_up" not in reader.unknown else None,
    }


def _processes(gpu: Gpu, reader: _Reader) -> tuple[Process, ...] | None:
    if not isinstance(gpu.processes, tuple):
        reader.value("processes", gpu.processes)
        return None
    return tuple(
        Process(
            pid=process.pid,
            name=process.name if isinstance(process.name, str) else None,
            kind=process.kind,
            used_bytes=process.used_bytes if isinstance(process.used_bytes, int) else None,
        )
        for process in gpu.processes
    )


def _pair_row(pair: GpuPair) -> PairRow:
    reader = _Reader()
    values = {
        name: reader.value(name, getattr(pair, name))
        for name in ("topology", "p2p_read", "p2p_write", "p2p_nvlink")
    }
    return PairRow(a=pair.a, b=pair.b, unknown=reader.unknown, **values)  # type: ignore[arg-type]
