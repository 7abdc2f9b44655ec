"""Answers what rules ask of a bench: what bounds a figure, what it is compared with, and whether.

The order of judgement is that of the research: physics first (a figure above its bound is void),
then siblings in the same machine, then the link in force, then the model, then the past.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpucheck.derived import nvlinks_up
from gpucheck.knowledge import expected
from gpucheck.rule import Severity
from gpucheck.snapshot import Bench, BenchGpu, Figure, Gpu, GpuPair, Snapshot, Unknown, value

PRODUCTS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
#: A measurement above its bound by more is wrong.
_VOID_ABOVE = 1.05
_ROBUST_DEVIATIONS = 3.0
_TO_DEVIATION = 1.4826  # of the median absolute deviation of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Below which share of what is compared a figure is a warning, and an error."""

    warning: float
    error: float
    is_robust: bool = False  # chips differ: the group's own spread counts too


#: Healthy units of one model differ by 5 to 8 percent in products, by less than 2 elsewhere.
SIBLINGS = {
    **{each: Limits(warning=0.92, error=0.80, is_robust=True) for each in PRODUCTS},
    "memory": Limits(warning=0.97, error=0.90),
    "h2d": Limits(warning=0.95, error=0.80),
    "d2h": Limits(warning=0.95, error=0.80),
    "peer": Limits(warning=0.95, error=0.80),
}

#: Over PCIe, pairs differ by the switches and root ports between them.
_OVER_PCIE = Limits(warning=0.75, error=0.50)


def bench_of(machine: Snapshot) -> Bench:
    """Return the bench that `was_measured` has seen."""
    return machine.bench or Bench()


class _Looked:
    """What rules look up again and again of one machine: a bench of 8 GPUs has 110 figures."""

    def __init__(self, machine: Snapshot) -> None:
        self.machine = machine
        self.gpus = {gpu.index: gpu for gpu in reversed(value(machine.nvml.gpus) or ())}
        self.measured = {gpu.index: gpu for gpu in reversed(value(bench_of(machine).gpus) or ())}
        self.links = {
            frozenset((pair.a, pair.b)): _link_of(pair)
            for pair in reversed(value(machine.nvml.pairs) or ())
        }
        self.refusals = {index: refused_for(gpu) for index, gpu in self.gpus.items()}
        self.void: dict[int, bool] = {}  # by a figure's identity: the machine holds them all
        self.judged: tuple[Figure, ...] | None = None


_last: _Looked | None = None  # every rule asks of one machine, before any asks of the next


def _looked(machine: Snapshot) -> _Looked:
    global _last  # noqa: PLW0603 - it holds no state: another machine replaces it
    looked = _last
    if looked is None or looked.machine is not machine:
        looked = _last = _Looked(machine)
    return looked


def figures(machine: Snapshot, *measures: str) -> tuple[Figure, ...]:
    """Return what was measured of *measures* and can be judged: known, and not beyond physics."""
    looked = _looked(machine)
    if looked.judged is None:
        refused = {index for index, why in looked.refusals.items() if why}
        looked.judged = tuple(
            figure
            for figure in value(bench_of(machine).figures) or ()
            if figure.best is not None
            and refused.isdisjoint(figure.gpus)
            and not is_void(machine, figure)
        )
    return tuple(figure for figure in looked.judged if figure.measure in measures)


def is_void(machine: Snapshot, figure: Figure) -> bool:
    """Return whether a figure of *machine* is above what physics allows: measured wrongly."""
    known = _looked(machine).void
    if id(figure) not in known:
        best, most = figure.best, bound(machine, figure)
        known[id(figure)] = most is not None and best is not None and best > _VOID_ABOVE * most
    return known[id(figure)]


def refusal(machine: Snapshot, index: int) -> str | None:
    """Say why a GPU's figures are not judged at all; None: they are."""
    return _looked(machine).refusals.get(index)


def refused_for(gpu: Gpu) -> str | None:
    """Say what makes a GPU's figures meaningless; None: nothing does."""
    return "the GPU is cut up by MIG" if value(gpu.mig_is_on) else why_busy(gpu)


def why_busy(gpu: Gpu) -> str | None:
    """Say who computes on a GPU; None: nobody does."""
    working = [one for one in value(gpu.processes) or () if one.kind == "compute"]
    if not working:
        return None
    name = value(working[0].name)
    return f"another process works on the GPU ({f'{name}, ' if name else ''}pid {working[0].pid})"


def model_refusal(machine: Snapshot, index: int) -> str | None:
    """Say why a GPU is not held against its model; siblings with the same settings still count."""
    gpu = gpu_of(machine, index)
    if gpu is None:
        return None
    limit, default = value(gpu.power_limit_enforced_watts), value(gpu.power_limit_default_watts)
    if limit is not None and default is not None and limit < default - 1:
        return f"its power limit is {limit:g} W, and {default:g} W by default"
    clock = value(gpu.application_clock_sm_mhz)
    usual = value(gpu.application_clock_sm_default_mhz)
    if clock is not None and usual is not None and clock < usual:
        return f"its clock is locked to {clock} MHz, and {usual} MHz by default"
    return None


def gpu_of(machine: Snapshot, index: int) -> Gpu | None:
    """Return NVML's GPU *index*."""
    return _looked(machine).gpus.get(index)


def bench_gpu(machine: Snapshot, index: int) -> BenchGpu | None:
    """Return the bench's GPU *index*."""
    return _looked(machine).measured.get(index)


def model_of(machine: Snapshot, index: int) -> str:
    """Return the product name of a GPU."""
    gpu = gpu_of(machine, index)
    known = None if gpu is None else value(gpu.name)
    measured = bench_gpu(machine, index)
    return known or ("" if measured is None else measured.name)


_LAST_WORDS = ("no answer", "crashed", "exit status", "the process ended")


def has_last_words(figure: Figure) -> bool:
    """Return whether the process that was to measure it hung or died."""
    return isinstance(figure.value, Unknown) and figure.value.why.startswith(_LAST_WORDS)


# -------------------------------------------------------------------------------------- bounds


def bound(machine: Snapshot, figure: Figure) -> float | None:
    """Return what physics allows at most, from what NVML says; None where that is not known."""
    index = figure.gpus[0] if figure.gpus else -1
    gpu, measured = gpu_of(machine, index), bench_gpu(machine, index)
    if measured is None:
        return None
    if figure.measure in PRODUCTS:
        clock, units = value(figure.clock_sm_maximum_mhz), value(measured.multiprocessors)
        capability = value(measured.compute_capability)
        if clock is None or units is None or capability is None:
            return None
        model = model_of(machine, index)
        return expected.product_bound(model, capability, figure.measure, units, clock)
    if figure.measure == "memory":
        bits = value(measured.memory_bus_bits)
        clock_mhz = None if gpu is None else value(gpu.clock_memory_max_mhz)
        return None if bits is None or clock_mhz is None else expected.memory_bound(bits, clock_mhz)
    return link_bound(machine, figure)


def link_bound(machine: Snapshot, figure: Figure) -> float | None:
    """Return the most GB/s of the link in force: PCIe to the host, NVLink between two GPUs."""
    gpu = gpu_of(machine, figure.gpus[0]) if figure.gpus else None
    measured = bench_gpu(machine, figure.gpus[0]) if figure.gpus else None
    if gpu is None or measured is None:
        return None
    if figure.measure in ("h2d", "d2h"):
        generation, width = value(figure.pcie_generation), value(figure.pcie_width)
        if generation is None or width is None or value(gpu.c2c_is_on):
            return None
        return expected.pcie_bound(generation, width)
    if figure.measure == "peer" and link_class(machine, figure).startswith("NV"):
        capability = value(measured.compute_capability) or ""
        return expected.nvlink_bound(nvlinks_up(gpu), capability)
    return None


def link_class(machine: Snapshot, figure: Figure) -> str:
    """Return how two GPUs are connected, in nvidia-smi's words: "NV18", "PIX"; "": not known."""
    return _looked(machine).links.get(frozenset(figure.gpus), "")


def _link_of(pair: GpuPair) -> str:
    topology = value(pair.topology)
    if topology is None:
        return "NV" if value(pair.p2p_nvlink) == "OK" else ""
    return topology


# ------------------------------------------------------------------------------------ siblings


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """A figure that is too low, and next to what."""

    figure: Figure
    severity: Severity
    saw: str


def slower_than_siblings(machine: Snapshot, *measures: str) -> Iterator[Slow]:
    """Yield the figures that are lower than those of the same kind in this machine."""
    for measure in measures:
        groups: dict[tuple[object, ...], list[Figure]] = {}
        for figure in figures(machine, measure):
            groups.setdefault(_kind(machine, figure), []).append(figure)
        for group in groups.values():
            is_over_pcie = measure == "peer" and not link_class(machine, group[0]).startswith("NV")
            yield from _slow_in(group, _OVER_PCIE if is_over_pcie else SIBLINGS[measure])


def _kind(machine: Snapshot, figure: Figure) -> tuple[object, ...]:
    """Return what figures must share to be siblings: the model, its settings, the link in force.

    A slot with half the lanes is no fault of the GPU in it, and LNK rules judge it.
    """
    gpus = [gpu_of(machine, index) for index in figure.gpus]
    limits = {None if gpu is None else value(gpu.power_limit_enforced_watts) for gpu in gpus}
    ecc = {None if gpu is None else value(gpu.ecc_is_on) for gpu in gpus}
    models = {model_of(machine, index) for index in figure.gpus}
    link: object = ""
    if figure.measure == "peer":
        link = link_class(machine, figure)
    elif figure.measure in ("h2d", "d2h"):
        link = value(figure.pcie_generation), value(figure.pcie_width)
    return figure.size, frozenset(models), frozenset(limits), frozenset(ecc), link


def _slow_in(group: Sequence[Figure], limits: Limits) -> Iterator[Slow]:
    rates = [figure.best or 0.0 for figure in group]
    if len(group) < 2 or max(rates) <= 0:
        return
    if len(group) == 2:
        slower, faster = sorted(group, key=lambda figure: figure.best or 0.0)
        share = (slower.best or 0.0) / (faster.best or 1.0)
        if share < limits.warning:
            saw = (
                f"{described(slower)}, {1 - share:.0%} below {named(faster)} "
                f"({rate_of(faster)}); two cannot outvote each other"
            )
            yield Slow(figure=slower, severity=Severity.WARNING, saw=saw)
        return
    from statistics import median  # 3 ms, and rules are imported at every start

    middle = median(rates)
    spread = _TO_DEVIATION * median(abs(rate - middle) for rate in rates)
    for figure, rate in zip(group, rates, strict=True):
        share = rate / middle
        is_outlier = middle - rate > _ROBUST_DEVIATIONS * spread or not limits.is_robust
        if share < limits.error or (share < limits.warning and is_outlier):
            severity = Severity.ERROR if share < limits.error else Severity.WARNING
            saw = f"{described(figure)}, {1 - share:.0%} below the median of {len(group)} "
            saw += f"({middle:,.0f}){_clocks(figure, group)}"
            yield Slow(figure=figure, severity=severity, saw=saw)


def _clocks(figure: Figure, group: Sequence[Figure]) -> str:
    """Say whether the clock is what is low: the work at full clock is the worse fault."""
    clock = value(figure.clock_sm_mhz)
    others = [each for one in group if (each := value(one.clock_sm_mhz)) is not None]
    if clock is None or not others or figure.measure not in PRODUCTS:
        return ""
    from statistics import median

    usual = median(others)
    if clock < 0.97 * usual:
        return f", at {clock:,.0f} MHz (median {usual:,.0f})"
    return f", though its clock is as high ({clock:,.0f} MHz)"


# --------------------------------------------------------------------------------------- model


def below_model(machine: Snapshot, figure: Figure) -> Slow | None:
    """Return a figure that is below what others measured on its model; estimates judge nothing."""
    key = model_key(machine, figure)
    usual = expected.reached(model_of(machine, figure.gpus[0])).get(key) if key else None
    if usual is None or not usual.is_measured or figure.best is None:
        return None
    severity = None
    if figure.best < 0.75 * usual.typical:
        severity = Severity.ERROR
    elif figure.best < 0.95 * usual.low:
        severity = Severity.WARNING
    if severity is None or any(model_refusal(machine, gpu) for gpu in figure.gpus):
        return None
    saw = f"{described(figure)}; this model reaches {usual.typical:g}, and at least {usual.low:g}"
    return Slow(figure=figure, severity=severity, saw=saw)


def model_key(machine: Snapshot, figure: Figure) -> str | None:
    """Return the name of what a figure is compared with in the table of models."""
    if figure.measure in PRODUCTS:
        return f"{figure.measure}_gemm_{'tops' if figure.measure == 'int8' else 'tflops'}"
    if figure.measure in ("h2d", "d2h"):
        gpu = gpu_of(machine, figure.gpus[0])
        link = "c2c" if gpu is not None and value(gpu.c2c_is_on) else "pinned"
        return f"{link}_{figure.measure}_gbs"
    if figure.measure == "all-reduce":
        nvls = value(bench_of(machine).nvls)
        if nvls is None or figure.size < 1 << 30:  # the published figures are for 1 GiB and more
            return None
        return f"all_reduce_{len(figure.gpus)}gpu_{'nvls' if nvls else 'ring'}_bus_gbs"
    return {"memory": "hbm_copy_gbs", "peer": "p2p_one_way_gbs"}.get(figure.measure)


# --------------------------------------------------------------------------------------- words

NAMES = {
    "memory": "device memory",
    "h2d": "host to device",
    "d2h": "device to host",
    "peer": "copy",
    "all-reduce": "all-reduce",
}


def rate_of(figure: Figure) -> str:
    """Return a figure as people write it: "612 TFLOP/s"."""
    rate = figure.best or 0.0
    text = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
    unit = "TFLOP/s" if figure.measure in PRODUCTS else "GB/s"
    return f"{text} {'TOP/s' if figure.measure == 'int8' else unit}"


def described(figure: Figure) -> str:
    """Return what was measured, and how much: "bf16 612 TFLOP/s"."""
    return f"{NAMES.get(figure.measure, figure.measure)} {rate_of(figure)}"


def named(figure: Figure) -> str:
    """Name the GPUs of a figure: "gpu 3", "gpu 0 → gpu 1"."""
    if figure.measure == "all-reduce":
        return f"all {len(figure.gpus)} GPUs"
    return " → ".join(f"gpu {gpu}" for gpu in figure.gpus)
