"""Runs a bench from its start to the verdict on it, and keeps this machine's baseline."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

import msgspec

from gpucheck import console, derived
from gpucheck.bench_evidence import has_last_words, why_busy
from gpucheck.probes.apart import ACCESS_SECONDS, WRITE_SECONDS, within
from gpucheck.report import Report, examine
from gpucheck.smoke import lacks_torch
from gpucheck.snapshot import Bench, Figure, Snapshot, Unknown, replace, value
from gpucheck.usage_error import UsageError
from gpucheck.workloads.bench import BenchPlan, BenchPlanError, BenchRun, Progress

_KEPT_RUNS = 10


class _Run(msgspec.Struct, frozen=True, kw_only=True):
    """One earlier run: what it measured, and what has to be the same for a comparison."""

    key: str
    figures: tuple[Figure, ...]


def measure(
    plan: BenchPlan,
    *,
    python: str | None,
    quiet: bool,
    baseline: Path | None,
    save_baseline: bool,
) -> Report:
    """Measure as *plan* says, and judge the machine with the figures.

    The machine is examined while torch is imported, before any GPU is touched: whatever works on
    a GPU then is somebody else's. Only the rules about performance and links judge. Raises
    UsageError where the plan cannot be carried out, or the Python has no torch.
    """
    from gpucheck.forked_collector import ForkedCollector
    from gpucheck.scope import Scope

    # Asked for first: no time is lost on a file that cannot be used, and it forks.
    earlier: tuple[_Run, ...] = ()
    if baseline is not None:
        earlier = within(ACCESS_SECONDS, str(baseline), partial(_runs, baseline))
    with ExitStack() as stack:
        progress = _Progress()
        try:
            run = BenchRun(plan, python=python, progress=progress)
        except BenchPlanError as error:
            raise UsageError(str(error)) from None
        # It forks: before there are threads.
        collector = stack.enter_context(ForkedCollector(Scope(python=python, quick=True)))
        stack.enter_context(run)
        if not quiet:
            progress.show = stack.enter_context(console.last_line("Measuring: {} ..."))
        try:
            machine = collector.facts()
            bench = run.measure(_busy(machine) if plan.device == "cuda" else None)
        except KeyboardInterrupt:
            stack.close()
            console.complain("gpucheck: stopped by Ctrl-C: no verdict is given")
            raise
    _refuse_where_nothing_was_measured(machine, bench)
    key = _key(machine, bench)
    if baseline is not None:
        bench = replace(bench, baseline=_baseline(earlier, key))
        if save_baseline:
            run_now = _Run(key=key, figures=value(bench.figures) or ())
            within(WRITE_SECONDS, str(baseline), partial(_save, baseline, run_now))
    judged_by = ("PRF",) if plan.device == "cpu" else ("PRF", "LNK", "GPU001", "GPU010", "GPU012")
    return examine(replace(machine, bench=bench), select=judged_by)


def _busy(machine: Snapshot) -> dict[int, str]:
    """Return the GPUs on which somebody computes: the bench would disturb, and be disturbed."""
    found = {gpu.index: why_busy(gpu) for gpu in value(machine.nvml.gpus) or ()}
    return {index: why for index, why in found.items() if why is not None}


def _refuse_where_nothing_was_measured(machine: Snapshot, bench: Bench) -> None:
    """Raise UsageError where nothing is known of any GPU: that is no verdict on the machine.

    A GPU that did not answer is one, and is judged.
    """
    figures = value(bench.figures) or ()
    if any(figure.best is not None or has_last_words(figure) for figure in figures):
        return
    reasons = [each.value.why for each in figures if isinstance(each.value, Unknown)]
    if not reasons:
        raise UsageError("nothing was measured: CUDA shows no GPU (see gpucheck doctor)")
    if "No module named 'torch'" in reasons[0]:
        raise UsageError(f"nothing was measured: {lacks_torch(machine)}")
    raise UsageError(f"nothing was measured: {reasons[0]}")


class _Progress:
    """Passes on what is measured now to whoever shows it."""

    show: Progress | None = None

    def __call__(self, text: str) -> None:
        if self.show is not None:
            self.show(text)


# ------------------------------------------------------------------------------------ baseline


def baseline_file() -> Path:
    """Return where this machine's baseline is kept."""
    from platformdirs import user_state_path

    return user_state_path("gpucheck", appauthor=False) / "bench.json"


def _key(machine: Snapshot, bench: Bench) -> str:
    """Return what has to be the same for two runs to be compared."""
    from hashlib import sha256

    driver = derived.driver_version(machine) or ""
    gpus = [f"{gpu.name} {value(gpu.uuid)}" for gpu in value(bench.gpus) or ()]
    limits = [str(value(gpu.power_limit_enforced_watts)) for gpu in value(machine.nvml.gpus) or ()]
    torch = ".".join((value(bench.torch) or "").split(".")[:2])
    parts = (str(bench.method), torch, driver.split(".")[0], *limits, *gpus)
    return sha256("\n".join(parts).encode()).hexdigest()[:16]


def _runs(file: Path) -> tuple[_Run, ...]:
    try:
        return msgspec.json.decode(file.read_bytes(), type=tuple[_Run, ...])
    except FileNotFoundError:
        return ()
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"{file}: the baseline cannot be read: {error}") from error


def _baseline(runs: Sequence[_Run], key: str) -> tuple[Figure, ...] | None:
    """Return the median of each figure over the runs that may be compared; None: there are none."""
    found: dict[tuple[str, tuple[int, ...], int], list[Figure]] = {}
    for run in runs:
        for figure in run.figures if run.key == key else ():
            if figure.best is not None:
                found.setdefault((figure.measure, figure.gpus, figure.size), []).append(figure)
    if not found:
        return None
    return tuple(
        Figure(
            measure=measure,
            gpus=gpus,
            size=size,
            value=float(median(each.best or 0.0 for each in figures)),
        )
        for (measure, gpus, size), figures in found.items()
    )


def _save(file: Path, run: _Run) -> None:
    """Add *run* to those that are kept, the oldest going first."""
    kept = [*_runs(file), run][-_KEPT_RUNS:]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=1))
        fresh.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: the baseline cannot be kept: {error.strerror}") from error
