"""Runs a smoke training from its start to the verdict on it."""

import dataclasses
import sys
from contextlib import ExitStack
from pathlib import Path

from gpucheck import console
from gpucheck.knowledge import torch_cuda
from gpucheck.payload import mnist
from gpucheck.remedies import python_packages
from gpucheck.report import Report, examine
from gpucheck.rule import Remedy, Severity
from gpucheck.snapshot import (
    Python,
    Snapshot,
    Training,
    replace,
    value,
)
from gpucheck.usage_error import UsageError
from gpucheck.workloads.plan import Plan, PlanError
from gpucheck.workloads.smoke import Listener, Smoke

#: With one of these errors no GPU can train: nobody waits for torch to find that out.
BLOCKERS = (
    "HST004",
    "DRV001",
    "DRV002",
    "DRV003",
    "DRV004",
    "DRV005",
    "DRV006",
    "DRV007",
    "DRV008",
    "DRV012",
    "TOR002",
    "TOR003",
    "TOR004",
)


def prove(plan: Plan, *, python: str | None, quiet: bool) -> tuple[Report, bool]:
    """Train as *plan* says, and judge the machine with what happened.

    The machine is examined while the children import torch. A rehearsal on the CPU is judged by
    the training's own rules alone: it asks nothing of a GPU. While it trains, progress is shown,
    unless *quiet*. With the report comes whether to print it: of the processes of a job rank 0
    alone speaks. Raises UsageError where the plan cannot be carried out, or where the Python that
    is to train has no torch.
    """
    from gpucheck.forked_collector import ForkedCollector
    from gpucheck.scope import Scope

    plan = _with_data(plan)
    scope = Scope(python=python, quick=True)
    with ExitStack() as stack:
        relay = _Relay()
        try:
            workload = Smoke(plan, python=python, listener=relay)
        except PlanError as error:
            raise UsageError(str(error)) from None
        speaks = workload.place.rank == 0
        # It forks: before there are threads.
        forked_collector = stack.enter_context(ForkedCollector(scope))
        if speaks:
            relay.listener = _progress(plan.epochs, quiet, workload, stack)
        stack.enter_context(workload)
        try:
            machine = forked_collector.facts()
            blockers = _blockers(machine) if plan.device == "cuda" else ()
            if blockers:
                training = workload.give_up(f"see {', '.join(blockers)}")
            else:
                training = workload.finish(machine.kernel_log)
        except KeyboardInterrupt:
            stack.close()
            if speaks:
                console.complain(
                    "gpucheck: stopped by Ctrl-C: the training was ended, and no verdict is given"
                )
            raise
    _refuse_what_is_missing(plan, machine, training)
    if not speaks:
        _say_what_failed(training)
    machine = replace(
        machine,
        training=training,
        elapsed_ms={**machine.elapsed_ms, "total": training.phases_ms["total"]},
    )
    return examine(machine, select=("TRN",) if plan.device == "cpu" else ()), speaks


class _Relay:
    """Passes events on to a listener that may be chosen later."""

    listener: Listener | None = None

    def __call__(self, event: object) -> None:
        if self.listener is not None:
            self.listener(event)  # type: ignore[arg-type]


def _progress(epochs: int, quiet: bool, workload: Smoke, stack: ExitStack) -> Listener | None:
    """Choose how progress is shown: a bar where a terminal is, log lines elsewhere."""
    from gpucheck.render import progress

    if console.is_terminal(sys.stderr) and (quiet or console.is_terminal(sys.stdout)):
        return stack.enter_context(progress.Live(epochs, workload.gpus_now))
    return None if quiet else progress.write_log


def _blockers(machine: Snapshot) -> tuple[str, ...]:
    report = examine(machine, select=BLOCKERS)
    codes = [found.code for found in report.roots if found.severity is Severity.ERROR]
    return tuple(dict.fromkeys(codes))


def _say_what_failed(training: Training) -> None:
    """Let a rank that is not the first say in a line on stderr why it failed."""
    report = examine(Snapshot(training=training), select=("TRN",))
    for finding in report.roots:
        console.complain(f"gpucheck: {finding.code} {finding.subject}: {finding.saw}")


def _with_data(plan: Plan) -> Plan:
    """Return *plan* with the folder of its data as a whole path; UsageError where it has none."""
    if plan.data in (None, "download", "synthetic"):
        return plan
    from gpucheck.probes.apart import ACCESS_SECONDS, within

    folder = Path(str(plan.data)).absolute()
    within(ACCESS_SECONDS, f"--data {plan.data}", lambda: _refuse_without_data(folder, plan))
    return dataclasses.replace(plan, data=str(folder))


def _refuse_without_data(folder: Path, plan: Plan) -> None:
    if mnist.find(folder) is None:
        problem = "no MNIST there" if folder.is_dir() else "no such directory"
        raise UsageError(
            f"--data {plan.data}: {problem}. Expected: {mnist.TRAIN_IMAGES.name} and the other "
            "three files, gzipped or not, in it, in its raw/, or in its MNIST/raw/. "
            "--data synthetic needs no files"
        )


def _refuse_what_is_missing(plan: Plan, machine: Snapshot, training: Training) -> None:
    """Raise UsageError where torch, or the torchvision that is to download, is not installed.

    Nothing is known then of any GPU: that is no verdict on the machine.
    """
    python = machine.pytorch.python
    if not isinstance(python, Python):
        return
    failure, fault = value(training.failure), value(training.data_fault)
    missing = "No module named"
    if failure is not None and f"{missing} 'torch'" in str(failure.message):
        raise UsageError(lacks_torch(machine, device=plan.device))
    if plan.data == "download" and fault and f"{missing} 'torchvision" in fault.problem:
        remedy = python_packages.install(machine, ("torchvision",), text="")
        raise UsageError(
            f"{python.path} has no torchvision, which downloads MNIST. Install it: {_line(remedy)} "
            "(or choose --data synthetic)"
        )


def lacks_torch(machine: Snapshot, *, device: str = "cuda") -> str:
    """Say that the examined Python has no torch, and the line that installs it."""
    python = machine.pytorch.python
    path = python.path if isinstance(python, Python) else "this Python"
    if device == "cpu":  # a rehearsal needs no gigabytes of CUDA
        remedy = python_packages.install(
            machine, ("torch", "torchvision"), text="", index=f"{torch_cuda.INDEX}/cpu"
        )
    else:
        remedy = python_packages.replace_torch(machine)
    if not remedy.steps:
        remedy = python_packages.install(machine, ("torch", "torchvision"), text="")
    return f"{path} has no torch. Install it: {_line(remedy)} (or name another Python: --python)"


def _line(remedy: Remedy) -> str:
    return " && ".join(step.text for step in remedy.steps)
