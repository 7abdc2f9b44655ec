"""What `gpucheck bench` measured, in words, as a table and as JSON."""

from collections.abc import Iterator, Sequence
from statistics import median

import msgspec

from gpucheck import bench_evidence as evidence
from gpucheck.snapshot import Bench, Figure, Snapshot, Unknown, value
from gpucheck.wording import count

REHEARSAL = "MEASURED ON THE CPU: NO GPU WAS MEASURED."
_COLUMNS = (*evidence.PRODUCTS, "memory", "h2d", "d2h")
_HEADS = {"memory": "memory", "h2d": "H2D", "d2h": "D2H"}


class FigureEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One figure as the JSON shows it. null: not known, or not measured."""

    measure: str
    gpus: tuple[int, ...]
    size: int
    value: float | None  # 10^12 operations or 10^9 bytes a second
    low: float | None
    high: float | None
    burst: float | None
    repeated: float | None
    wrong: str | None
    error: str | None
    clock_sm_mhz: float | None
    power_watts: float | None
    temperature_celsius: float | None


class BenchEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A bench as the JSON shows it."""

    device: str
    method: int
    torch: str | None
    nvls: bool | None
    figures: tuple[FigureEntry, ...]
    elapsed_seconds: float


def entry(bench: Bench) -> BenchEntry:
    """Return *bench* in the shape of the JSON."""
    return BenchEntry(
        device=bench.device,
        method=bench.method,
        torch=value(bench.torch),
        nvls=value(bench.nvls),
        figures=tuple(_figure(each) for each in value(bench.figures) or ()),
        elapsed_seconds=bench.elapsed_seconds,
    )


def _figure(figure: Figure) -> FigureEntry:
    return FigureEntry(
        measure=figure.measure,
        gpus=figure.gpus,
        size=figure.size,
        value=value(figure.value),
        low=value(figure.low),
        high=value(figure.high),
        burst=value(figure.burst),
        repeated=value(figure.repeated),
        wrong=value(figure.wrong),
        error=figure.value.why if isinstance(figure.value, Unknown) else None,
        clock_sm_mhz=value(figure.clock_sm_mhz),
        power_watts=value(figure.power_watts),
        temperature_celsius=value(figure.temperature_celsius),
    )


# ------------------------------------------------------------------------------------- in words


def line(machine: Snapshot) -> str:
    """Say in one line what was measured."""
    bench = machine.bench
    if bench is None:
        return ""
    if isinstance(bench.figures, Unknown):
        return f"not measured: {bench.figures.why}"
    gpus = count(len(value(bench.gpus) or ()), "GPU")
    where = "the CPU, a rehearsal" if bench.device == "cpu" else gpus
    failed = sum(isinstance(each.value, Unknown) for each in bench.figures)
    text = f"{count(len(bench.figures) - failed, 'figure')} of {where} in "
    text += f"{bench.elapsed_seconds:.0f} s"
    return f"{text}, {failed} could not be measured" if failed else text


def details(bench: Bench) -> Iterator[str]:
    """Yield the table, a row for each GPU, and what was measured between them."""
    if bench.device == "cpu":
        yield REHEARSAL
    figures = [each for each in value(bench.figures) or () if each.best is not None]
    columns = [each for each in _COLUMNS if any(one.measure == each for one in figures)]
    if columns:
        yield from _table(figures, columns)
    yield from between_gpus(bench)


def between_gpus(bench: Bench) -> Iterator[str]:
    """Yield what was measured between GPUs: copies of pairs, and all-reduce."""
    figures = [each for each in value(bench.figures) or () if each.best is not None]
    yield from _peers([each for each in figures if each.measure == "peer"])
    yield from _all_reduce(bench, [each for each in figures if each.measure == "all-reduce"])


def _table(figures: Sequence[Figure], columns: Sequence[str]) -> Iterator[str]:
    by_gpu: dict[int, dict[str, Figure]] = {}
    for figure in figures:
        if figure.measure in columns:
            by_gpu.setdefault(figure.gpus[0], {})[figure.measure] = figure
    yield "GPU " + "".join(f"{_HEADS.get(each, each):>8}" for each in columns)
    for gpu, mine in sorted(by_gpu.items()):
        cells = "".join(f"{rate(mine.get(each)):>8}" for each in columns)
        rows = list(by_gpu.values())
        low = [text for each in columns if (text := _deviation(mine.get(each), rows))]
        yield f"{gpu:>3} {cells}  {', '.join(low)}".rstrip()
    yield "    products in TFLOP/s (int8: TOP/s), copies in GB/s"


def rate(figure: Figure | None) -> str:
    """Return a figure in three digits and without its unit."""
    best = None if figure is None else figure.best
    if best is None:
        return "–"
    return f"{best:,.0f}" if best >= 100 else f"{best:.3g}"


def _deviation(figure: Figure | None, rows: Sequence[dict[str, Figure]]) -> str:
    """Say how far a figure is below the median of its column, where that matters."""
    if figure is None or figure.best is None or figure.measure not in evidence.SIBLINGS:
        return ""
    column = [row[figure.measure].best or 0.0 for row in rows if figure.measure in row]
    share = figure.best / median(column) if len(column) > 1 else 1.0
    if share >= evidence.SIBLINGS[figure.measure].warning:
        return ""
    return f"{_HEADS.get(figure.measure, figure.measure)} −{1 - share:.0%}"


def _peers(figures: Sequence[Figure]) -> Iterator[str]:
    """Fold all pairs into one line, and name those that are slow."""
    if not figures:
        return
    rates = [figure.best or 0.0 for figure in figures]
    middle = median(rates)
    slow = [one for one in figures if (one.best or 0.0) < 0.95 * middle] if len(figures) > 2 else []
    rest = [rate for rate in rates if rate >= 0.95 * middle] or rates
    pairs = count(len(figures), "pair")
    text = f"{pairs} of GPUs: {min(rest):,.0f} to {max(rest):,.0f} GB/s, every byte compared"
    worst = sorted(slow, key=lambda one: one.best or 0.0)[:8]
    text += "".join(f"; {one.gpus[0]} → {one.gpus[1]} {one.best or 0.0:,.0f}" for one in worst)
    yield text


def _all_reduce(bench: Bench, figures: Sequence[Figure]) -> Iterator[str]:
    if not figures:
        return
    rates = ", ".join(f"{one.best or 0.0:,.0f} at {one.size >> 20:,} MiB" for one in figures)
    how = {True: ", with NVLS", False: ", on rings"}.get(value(bench.nvls), "")  # type: ignore[arg-type]
    yield f"all-reduce over {len(figures[0].gpus)} GPUs: {rates} (GB/s on the bus{how})"
