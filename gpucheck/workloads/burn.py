"""Runs a burn: the phases in turn on all GPUs in step, what is found, and who stops answering.

A process for each GPU, so that one that dies costs only itself, and one that owns them all for what
goes between them, while the others keep computing.

It is long because the phases share the processes, the clock and what was found.
"""

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from gpucheck.payload.assignment import chosen_gpus
from gpucheck.probes.child import Child
from gpucheck.probes.messages import BenchDevice, BenchReady, Burned, Message
from gpucheck.snapshot import (
    NOT_EXAMINED,
    Burn,
    BurnFault,
    BurnGpu,
    BurnWork,
    KernelLog,
    Known,
    Xid,
    replace,
)
from gpucheck.workloads import burn_journal as journals
from gpucheck.workloads import burn_plan as plans
from gpucheck.workloads import launch, watch
from gpucheck.workloads.bench_worker import Worker, WorkerError, environment
from gpucheck.workloads.burn_journal import Journal
from gpucheck.workloads.burn_plan import BurnPlan
from gpucheck.workloads.burn_seen import boot_id, counters_of, point_of, rate_of_bf16, together
from gpucheck.workloads.gather import new_xids

_START_SECONDS = 120.0  # a cold disk takes long over torch's gigabytes
_PROOF_SECONDS = 600.0  # the reference, on a slow CPU
_SILENCE_SECONDS = 60.0  # a GPU reports once a second; loading its libraries takes longer
_SAMPLE_SECONDS = 1.0
_COUNTERS_SECONDS = 30.0
_WHOLE_RUN_SECONDS = 60 * 24 * 3600.0
_PAUSE_SECONDS = 0.01
_ENDS_A_CONTEXT = ("CUDA error", "AcceleratorError", "EXECUTION_FAILED", "NCCL Error")

Progress = Callable[[str], None]


class _Over(Exception):  # noqa: N818 - no error
    """The burn ends before its time."""


@dataclass(slots=True)
class _Member:
    """One GPU, or (gpu is None) the process that has all of them."""

    worker: Worker
    cuda: int | None = None
    gpu: int | None = None  # NVML's index
    device: BenchDevice | None = None
    arena_bytes: int | None = None
    free_bytes: int | None = None
    #: what is not yet in the journal
    work: list[BurnWork] = field(default_factory=list)
    loaded_seconds: float = 0.0
    faults: list[BurnFault] = field(default_factory=list)
    left_out: int = 0
    alarms: int = 0
    alarms_found: int = 0
    wrong: int = 0  # over the whole run
    refused: set[str] = field(default_factory=set)  # phases that failed once

    @property
    def capability(self) -> str | None:
        return None if self.device is None else self.device.compute_capability


class BurnRun:
    """A burn under way: `with BurnRun(plan, journal=…) as run: burn = run.burn(…)`.

    Its processes import torch at once; no GPU is touched before `burn`.
    """

    def __init__(
        self,
        plan: BurnPlan,
        *,
        journal: Journal,
        folder: Path,
        python: str | None = None,
        variables: Mapping[str, str] = os.environ,
        progress: Progress = lambda text: None,  # noqa: ARG005
    ) -> None:
        plan.check()
        self.plan = plan
        self._journal, self._folder = journal, folder
        self._variables = variables
        self._python = launch.python_for(python, variables)
        self._progress = progress
        self._watch = watch.Watch()
        self._watcher: Child | None = None
        self._members: list[_Member] = []
        self._all: _Member | None = None
        self._shapes: dict[str, list[int]] = {}
        self._before = journal.seconds  # of earlier parts
        self._began: float | None = None
        self._kept = 0.0
        self._stop: str | None = None
        self._log: KernelLog = KernelLog()

    def stop(self, why: str) -> None:
        """Have the burn end now, from a signal's handler; what was found so far is judged."""
        self._stop = why

    @property
    def is_stopping(self) -> bool:
        """Whether somebody asked it to end."""
        return self._stop is not None

    def __enter__(self) -> "BurnRun":
        if self.plan.device == "cuda":
            self._watcher = watch.start(_SAMPLE_SECONDS, _COUNTERS_SECONDS)
            threading.Thread(target=self._watch.follow, args=(self._watcher,), daemon=True).start()
        try:
            for gpu in self._gpus():
                self._members.append(_Member(self._worker(), cuda=gpu, gpu=gpu))
            if len(self._members) > 1 and set(self.plan.phases) & set(plans.BETWEEN_GPUS):
                self._all = _Member(self._worker())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_all()
        for member in (*self._members, *((self._all,) if self._all else ())):
            member.worker.end()
        if self._watcher is not None:
            self._watcher.kill()
        for name in self._shapes:
            (self._folder / f"{name}.reference").unlink(missing_ok=True)

    def _kill_all(self) -> None:
        """End all at once: each may take a while to go, with tens of gigabytes to give back."""
        for member in (*self._members, *((self._all,) if self._all else ())):
            member.worker.send_kill()

    def _worker(self) -> Worker:
        return Worker(
            self._python,
            self.plan.device,
            environment(self._variables),
            program="burn",
            deadline_seconds=_WHOLE_RUN_SECONDS,
        )

    def _gpus(self) -> list[int]:
        if self.plan.device == "cpu":
            return chosen_gpus(self.plan.gpus, 2)
        visible = launch.visible_gpus(self._variables, self._watch.count(deadline_seconds=10.0))
        return chosen_gpus(self.plan.gpus, visible)

    # ------------------------------------------------------------------------------- the run

    def burn(self, busy: Mapping[int, str] | None = None, log: KernelLog | None = None) -> Burn:
        """Burn to the end of the plan, or until `stop`; return what came of it.

        *busy* are GPUs, by NVML's index, that are left alone, and why. *log* is what the kernel
        had said before.
        """
        self._log = log or KernelLog()
        why: str | None = None
        try:
            if self._start_up(busy or {}):
                self._prove()
                self._began = self._kept = time.monotonic()
                self._go_round()
        except _Over:
            pass
        why = self._stop
        self._kill_all()
        self._keep(is_last=True)
        logged = NOT_EXAMINED if self.plan.device == "cpu" else self._new_xids()
        self._journal.add(journals.Ended(seconds=self._seconds(), why=why, new_xids=logged))
        return journals.facts(self._journal.events, device=self.plan.device)

    def _seconds(self) -> float:
        """Return the burn's own clock."""
        here = 0.0 if self._began is None else time.monotonic() - self._began
        return round(self._before + here, 3)

    def _left(self) -> float:
        return self.plan.seconds - self._seconds()

    def _new_xids(self) -> Known[tuple[Xid, ...]]:
        """Return what the kernel logged since the first part that this boot has seen."""
        boot, before = boot_id(), self._log
        for event in self._journal.events:
            if isinstance(event, journals.Started) and event.boot == boot:
                before = replace(before, xids=event.xids)
                break
        return new_xids(before)

    # ------------------------------------------------------------------------------ start-up

    def _start_up(self, busy: Mapping[int, str]) -> bool:
        """Start CUDA on every GPU at once; return whether any is there to be burned in."""
        self._progress("importing torch")
        ready = self._ready()
        self._progress("starting CUDA on every GPU, and taking its memory")
        asked = [(member, member.worker.send(**self._prepare(member))) for member in self._members]
        until = time.monotonic() + _START_SECONDS
        failed: list[tuple[int | None, str]] = []
        left_out: list[tuple[int | None, str]] = []
        for member, number in asked:
            try:
                self._described(member, self._answer(member, number, until))
            except WorkerError as error:
                failed.append((member.gpu, str(error)))
                member.worker.end()
                continue
            if member.gpu is not None and member.gpu in busy:
                left_out.append((member.gpu, busy[member.gpu]))
                member.worker.end()
                member.device = None
        self._members = [member for member in self._members if member.device is not None]
        gpus = tuple(self._gpu(member) for member in self._members)
        gone = tuple(BurnGpu(index=gpu) for gpu, _ in failed if gpu is not None)
        self._journal.add(
            journals.Started(
                seconds=self._before,
                at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
                boot=boot_id(),
                plan=self.plan.as_record(),
                gpus=(*gpus, *gone),
                torch="" if ready is None else ready.torch,
                cuda=None if ready is None else ready.cuda,
                xids=self._log.xids,
            )
        )
        for gpu, why in failed:
            self._journal.add(journals.Stopped(seconds=self._before, gpu=gpu, why=why))
        for gpu, why in left_out:
            self._journal.add(journals.Failed(seconds=self._before, gpu=gpu, why=why))
        return bool(self._members)

    def _ready(self) -> BenchReady | None:
        ready = None
        until = time.monotonic() + _START_SECONDS
        for member in (*self._members, *((self._all,) if self._all else ())):
            try:
                while time.monotonic() < until:
                    self._look_out()
                    message = member.worker.poll(0.1)
                    if isinstance(message, BenchReady):
                        ready = message
                    if message is not None:
                        if not isinstance(message, BenchReady):
                            member.worker.error = getattr(message, "message", "no start")
                        break
                else:  # it is not asked for more, and waited for again
                    member.worker.error = f"torch was not imported in {_START_SECONDS:g} s"
                    member.worker.end()
            except WorkerError:  # `_described` meets it again
                pass
        return ready

    def _prepare(self, member: _Member) -> dict[str, object]:
        most = plans.most_memory(self.plan)
        return {"work": "prepare", "gpu": member.cuda, "share": self.plan.memory, "most": most}

    def _answer(self, member: _Member, number: int, until: float) -> Burned:
        """Return the answer to an order; WorkerError where there is none in time."""
        began = time.monotonic()
        while time.monotonic() < until:
            self._look_out()
            message = member.worker.poll(0.1)
            if isinstance(message, Burned) and message.id == number and message.is_finished:
                if message.error is not None:
                    raise WorkerError(message.error)
                return message
        raise WorkerError(f"no answer in {until - began:.0f} s")

    def _described(self, member: _Member, answer: Burned) -> None:
        member.device = answer.device
        member.arena_bytes, member.free_bytes = answer.arena_bytes, answer.free_bytes
        if answer.device is not None:
            number = self._watch.number(answer.device.uuid, answer.device.bus_id)
            member.gpu = answer.device.index if number is None else number

    def _gpu(self, member: _Member) -> BurnGpu:
        device = member.device or BenchDevice(index=member.cuda or 0, name="")
        return BurnGpu(
            index=member.gpu if member.gpu is not None else device.index,
            name=device.name,
            uuid=device.uuid,
            bus_id=device.bus_id,
            free_bytes=member.free_bytes,
            memory_bytes=member.arena_bytes,
        )

    def _prove(self) -> None:
        """Have a process compute the reference on the CPU, and prove it."""
        self._progress("computing the right results on the CPU, and proving them")
        smallest = min(member.arena_bytes or 0 for member in self._members)
        found = plans.shapes(smallest, on_cpu=self.plan.device == "cpu")
        error: str | None = None
        if found is None:
            error = f"{smallest >> 20} MiB of memory are too few for a product"
        else:
            self._shapes = found
            order = {"work": "reference", "shapes": found, "folder": str(self._folder)}
            first = self._members[0]
            try:
                number = first.worker.send(**order)
                self._answer(first, number, time.monotonic() + _PROOF_SECONDS)
            except WorkerError as failure:
                error = str(failure)
        self._journal.add(journals.Proven(seconds=self._seconds(), error=error))
        if error is not None:
            self._stop = f"there is no reference: {error}"
            raise _Over

    # -------------------------------------------------------------------------------- phases

    def _go_round(self) -> None:
        turn, done = self._where_it_was()
        first = turn + 1
        while turn < first or self._left() > 0:
            turn += 1
            phases = [phase for phase in self.plan.phases[done:] if self._has_work(phase)]
            done = 0
            if not phases:
                self._stop = "no phase could be carried out"
                return
            for phase in phases:
                seconds = min(self.plan.phase_seconds(), self._left())
                if seconds <= 0 and turn > first:
                    break  # of the first turn each phase has a share, however late it is
                seconds = max(seconds, self.plan.phase_seconds() / 10)
                self._journal.add(journals.Turned(seconds=self._seconds(), turn=turn, phase=phase))
                self._phase(phase, seconds, turn)

    def _where_it_was(self) -> tuple[int, int]:
        """Return how many turns are over, and how many phases of the one that was broken off."""
        turned = [e for e in self._journal.events if isinstance(e, journals.Turned)]
        if not turned or turned[-1].phase not in self.plan.phases:
            return 0, 0
        return turned[-1].turn - 1, self.plan.phases.index(turned[-1].phase)

    def _has_work(self, phase: str) -> bool:
        if phase in plans.BETWEEN_GPUS:
            return self._is_together(phase)
        return any(phase not in member.refused for member in self._members)

    def _is_together(self, phase: str) -> bool:
        return self._all is not None and len(self._members) > 1 and phase not in self._all.refused

    def _phase(self, phase: str, seconds: float, turn: int) -> None:
        """Carry out one phase on all GPUs; leave out who stops answering."""
        shared = {"shapes": self._shapes, "folder": str(self._folder)}
        waiting: list[tuple[_Member, int]] = []
        for member in self._members:
            if phase not in member.refused:
                order = plans.orders(
                    phase, seconds, turn, shared=shared, capability=member.capability
                )
                waiting.append((member, member.worker.send(**order)))
        if phase in plans.BETWEEN_GPUS and self._all is not None:
            live = [member.cuda for member in self._members if member.cuda is not None]
            room = min((each.free_bytes or 0) - (each.arena_bytes or 0) for each in self._members)
            order = plans.orders_between(phase, seconds, turn, live, room_bytes=room)
            waiting.append((self._all, self._all.worker.send(**order)))
        self._gather(phase, waiting)

    def _gather(self, phase: str, waiting: list[tuple[_Member, int]]) -> None:
        heard = {id(member): time.monotonic() for member, _ in waiting}
        while waiting:
            self._look_out()
            said = False
            for member, number in tuple(waiting):
                try:
                    message = _next(member.worker, heard[id(member)])
                except WorkerError as error:
                    waiting.remove((member, number))
                    self._stopped(member, phase, str(error))
                    continue
                if not isinstance(message, Burned) or message.id != number:
                    continue
                said = True
                heard[id(member)] = time.monotonic()
                self._take(member, message)
                for why in message.left_out:
                    self._note(member, phase, why)
                if message.is_finished:
                    waiting.remove((member, number))
                    self._failed(member, phase, message.error)
            self._keep()
            if not said:
                time.sleep(_PAUSE_SECONDS)
                self._progress(self._state(phase))

    def _look_out(self) -> None:
        if self._stop is not None:
            raise _Over

    def _state(self, phase: str) -> str:
        wrong = sum(
            member.wrong for member in (*self._members, *([self._all] if self._all else []))
        )
        text = f"{phase}, {self._seconds():.0f} of {self.plan.seconds:.0f} s"
        return f"{text}, {wrong} wrong results" if wrong else text

    def _take(self, member: _Member, message: Burned) -> None:
        """Take in what a GPU did and found; a fault goes to the journal at once."""
        member.work += message.work
        member.loaded_seconds += message.loaded_seconds
        member.left_out += message.faults_left_out
        member.alarms += message.alarms
        member.alarms_found += message.alarms_found
        member.wrong += len(message.faults) + message.faults_left_out
        if message.faults:
            member.faults += [self._located(member, fault) for fault in message.faults]
            self._keep_work(member)

    def _located(self, member: _Member, fault: BurnFault) -> BurnFault:
        """Return *fault* with NVML's numbers, and when it was."""
        numbers = {each.cuda: each.gpu for each in self._members}
        gpus = tuple(numbers.get(gpu, gpu) for gpu in fault.gpus) or (member.gpu,)
        known = tuple(gpu for gpu in gpus if gpu is not None)
        return replace(fault, gpus=known, seconds=self._seconds())

    def _stopped(self, member: _Member, phase: str, why: str) -> None:
        """Go on without a GPU that does not answer."""
        self._keep_work(member)
        text = f"{why} ({phase})"
        self._journal.add(journals.Stopped(seconds=self._seconds(), gpu=member.gpu, why=text))
        if member is self._all:
            member.refused |= set(plans.BETWEEN_GPUS)
        else:
            self._members.remove(member)
        if not self._members:
            self._stop = "no GPU is left"
            raise _Over

    def _failed(self, member: _Member, phase: str, error: str | None) -> None:
        if error is None:
            return
        if any(words in error for words in _ENDS_A_CONTEXT):
            member.worker.end()
            self._stopped(member, phase, error)
            return
        member.refused.add(phase)
        self._note(member, phase, error)

    def _note(self, member: _Member, phase: str, why: str) -> None:
        """Write down what could not be carried out."""
        text = f"{phase}: {why}"
        self._journal.add(journals.Failed(seconds=self._seconds(), gpu=member.gpu, why=text))

    # ------------------------------------------------------------------------------ keeping

    def _keep(self, *, is_last: bool = False) -> None:
        """Write down what was done and seen, every few seconds."""
        now = time.monotonic()
        if not is_last and now - self._kept < self.plan.keep_seconds():
            return
        since, self._kept = self._kept, now
        for member in self._members:
            rate = rate_of_bf16(member.work)
            self._keep_work(member)
            self._keep_point(member, since, now, rate)
        self._watch.forget(now)
        if self._all is not None:
            self._keep_work(self._all)

    def _keep_work(self, member: _Member) -> None:
        if not (member.work or member.faults or member.alarms):
            return
        self._journal.add(
            journals.Worked(
                seconds=self._seconds(),
                gpu=member.gpu,
                work=tuple(together(member.work)),
                loaded_seconds=round(member.loaded_seconds, 4),
                faults=tuple(member.faults),
                faults_left_out=member.left_out,
                alarms=member.alarms,
                alarms_found=member.alarms_found,
            )
        )
        member.work, member.faults = [], []
        member.loaded_seconds = 0.0
        member.left_out = member.alarms = member.alarms_found = 0

    def _keep_point(self, member: _Member, since: float, now: float, rate: float | None) -> None:
        device = member.device
        if device is None or member.gpu is None:
            return
        seen = list(self._watch.between(device.uuid, device.bus_id, since, now))
        point = point_of(seen, self._seconds())
        point = replace(point, teraflops=rate, wrong=member.wrong)
        if not seen and rate is None:
            return
        self._journal.add(
            journals.Seen(
                seconds=self._seconds(), gpu=member.gpu, point=point, counters=counters_of(seen)
            )
        )


def _next(worker: Worker, heard: float) -> Message | None:
    """Return what a worker says now, if anything; WorkerError where it is silent since *heard*."""
    message = worker.poll(0.0)
    if message is None and time.monotonic() - heard > _SILENCE_SECONDS:
        worker.end()
        raise WorkerError(f"no answer in {_SILENCE_SECONDS:g} s")
    return message
