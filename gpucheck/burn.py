"""Runs a burn from its start to the verdict on it, whatever ends it."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from gpucheck import console
from gpucheck.bench_evidence import why_busy
from gpucheck.probes.apart import ACCESS_SECONDS, within
from gpucheck.report import Report, examine
from gpucheck.smoke import lacks_torch
from gpucheck.snapshot import Burn, Snapshot, Unknown, replace, value
from gpucheck.usage_error import UsageError
from gpucheck.workloads.burn import BurnRun, Progress
from gpucheck.workloads.burn_journal import FILE, Journal, JournalError
from gpucheck.workloads.burn_plan import BurnPlan, BurnPlanError

if TYPE_CHECKING:
    from gpucheck.forked_collector import ForkedCollector

_JUDGED_BY = ("BRN", "LNK", "GPU001", "GPU010", "GPU012")
_SIGNALS = {
    signal.SIGINT: "stopped by Ctrl-C",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}


def burn(plan: BurnPlan, *, python: str | None, quiet: bool, folder: Path, resume: bool) -> Report:
    """Burn as *plan* says (with *resume* as the journal in *folder* does), and judge that.

    The machine is examined while torch is imported, before any GPU is touched. Ctrl-C, SIGTERM and
    SIGHUP end the burn, and what was found until then is judged. Raises UsageError where the plan
    cannot be carried out, or the Python has no torch.
    """
    from gpucheck.forked_collector import ForkedCollector
    from gpucheck.scope import Scope

    with ExitStack() as stack:
        plan, journal = _opened(plan, folder, resume=resume)
        progress = _Progress()
        try:
            run = BurnRun(plan, journal=journal, folder=folder, python=python, progress=progress)
        except BurnPlanError as error:
            raise UsageError(str(error)) from None
        # It forks: before there are threads.
        collector = stack.enter_context(ForkedCollector(Scope(python=python, quick=True)))
        stack.enter_context(_ended_by_signals(run))
        stack.enter_context(run)
        if not quiet:
            progress.show = stack.enter_context(console.last_line("Burning: {} ..."))
        machine = _examined(collector, run)
        busy = _busy(machine) if plan.device == "cuda" else {}
        found = run.burn(busy, machine.kernel_log)
    _refuse_where_nothing_was_burned(machine, found, busy)
    judged_by = ("BRN",) if plan.device == "cpu" else _JUDGED_BY
    return examine(replace(machine, burn=found), select=judged_by)


def _examined(collector: "ForkedCollector", run: BurnRun) -> Snapshot:
    """Return the machine's facts; a signal to all our processes ends that one, too."""
    from gpucheck.usage_error import CollectionError

    try:
        return collector.facts()
    except CollectionError:
        if not run.is_stopping:
            raise
        return Snapshot()


def new_folder(state: Path) -> Path:
    """Return the folder below *state* for the journal of a burn that begins now."""
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return state / "burn" / f"{moment}-{os.getpid()}"


def default_state() -> Path:
    """Return where this user's burns are kept."""
    from platformdirs import user_state_path

    return user_state_path("gpucheck", appauthor=False)


def _opened(plan: BurnPlan, folder: Path, *, resume: bool) -> tuple[BurnPlan, Journal]:
    """Return the journal in *folder*, and the plan that counts: that of the first part."""
    try:
        plan.check()
        # For its wait alone: a journal that cannot be reached would hold up the whole burn.
        within(ACCESS_SECONDS, str(folder), lambda: os.path.exists(folder / FILE))  # noqa: PTH110
        journal = Journal(folder, resume=resume)
        if not resume:
            return plan, journal
        if journal.first is None:
            raise UsageError(f"{folder}: the burn did not come to its start: begin a new one")
        if journal.is_over:
            raise UsageError(f"{folder}: the burn is over: there is nothing to resume")
        return BurnPlan.of_record(journal.first.plan), journal
    except (JournalError, BurnPlanError) as error:
        raise UsageError(str(error)) from None


@contextmanager
def _ended_by_signals(run: BurnRun) -> Iterator[None]:
    """Have a signal end the burn with a verdict; a second one ends the program as ever."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def stop(number: int, _: object) -> None:
        run.stop(_SIGNALS[signal.Signals(number)])
        signal.signal(number, before[signal.Signals(number)])

    for number in _SIGNALS:
        if before[number] is not signal.SIG_IGN:  # as nohup asked
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _busy(machine: Snapshot) -> dict[int, str]:
    """Return the GPUs on which somebody computes, and who."""
    found = {gpu.index: why_busy(gpu) for gpu in value(machine.nvml.gpus) or ()}
    return {index: why for index, why in found.items() if why is not None}


def _refuse_where_nothing_was_burned(
    machine: Snapshot, burn: Burn, busy: Mapping[int, str]
) -> None:
    """Raise UsageError where no GPU came to be burned in: that is no verdict on the machine."""
    gpus = value(burn.gpus) or ()
    if any(gpu.memory_bytes for gpu in gpus if not isinstance(gpu.memory_bytes, Unknown)):
        return
    reasons = [why for gpu in gpus if (why := value(gpu.stopped))]
    if reasons and "No module named 'torch'" in reasons[0]:
        raise UsageError(f"nothing was burned in: {lacks_torch(machine)}")
    if busy:
        index, why = next(iter(busy.items()))
        raise UsageError(f"nothing was burned in: gpu {index}: {why}")
    if not gpus and burn.stopped is None:
        raise UsageError("nothing was burned in: CUDA shows no GPU (see gpucheck doctor)")
    if reasons and burn.device == "cpu":
        raise UsageError(f"nothing was burned in: {reasons[0]}")


class _Progress:
    """Passes on what is done now to whoever shows it."""

    show: Progress | None = None

    def __call__(self, text: str) -> None:
        if self.show is not None:
            self.show(text)
