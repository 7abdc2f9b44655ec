"""Runs a smoke training in children, and watches over them.

The children are ended whatever happens: when they are done, when no batch comes within the
deadline, when they crash, and when we are interrupted.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as with_changes
from pathlib import Path

from gpucheck.payload.assignment import CPU_REPLICAS, chosen_gpus
from gpucheck.probes.child import Child, Ended, payload_command
from gpucheck.probes.messages import (
    GpuReading,
    Message,
    MessageError,
    RankSign,
    RankSigns,
    messages_in,
)
from gpucheck.snapshot import KernelLog, Training, TrainingFailure
from gpucheck.workloads import diagnose, launch, watch
from gpucheck.workloads.gather import Gathered, new_xids
from gpucheck.workloads.launch import Place
from gpucheck.workloads.plan import DEFAULT_GPUS, Plan, check
from gpucheck.workloads.shared_memory import remove_unused, shared_memory
from gpucheck.workloads.training_process import TrainingProcess

_WHOLE_RUN_SECONDS = 7 * 24 * 3600.0  # silence is what ends a child, not length
_LIMIT_BYTES = 1 << 30  # a line for each batch of however many epochs
_ENDING_SECONDS = 5.0  # for the driver to take a killed process's GPU memory back
_GRACE_SECONDS = 0.5  # where it held none
_GATHER_SECONDS = 2.0  # after a first failure, for others to show that they failed earlier
_LINGER_SECONDS = 10.0  # for rank 0 to give its verdict before torchrun ends all for our status

Listener = Callable[[Message], None]


class Smoke:
    """A smoke training under way: `with Smoke(plan) as smoke: training = smoke.finish()`.

    The children start at once and import torch, so that the caller can examine the machine in
    the meantime. Raises PlanError where *plan* cannot be carried out.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
        listener: Listener = lambda message: None,  # noqa: ARG005
    ) -> None:
        self._variables = dict(os.environ if variables is None else variables)
        self.place = self._place(plan)
        check(plan, is_one_of_a_job=self.place.joined)
        if not plan.cache:
            from platformdirs import user_cache_path

            plan = with_changes(plan, cache=str(user_cache_path("gpucheck", appauthor=False)))
        self.plan = plan
        self._python = launch.python_for(python, self._variables)
        self._listener = listener
        self._events: queue.SimpleQueue[tuple[TrainingProcess, Message | MessageError | Ended]]
        self._events = queue.SimpleQueue()
        self._started = time.monotonic()
        self._processes: list[TrainingProcess] = []
        self._watcher: Child | None = None
        self._gathered = Gathered(plan, self.place)
        self._signs: dict[int, RankSign] = {}
        self._shared_before: set[Path] = set()

    def _place(self, plan: Plan) -> Place:
        """Return this process's place in the job that it is part of; alone where there is none.

        Under Slurm one task of many is an ordinary thing, so `--strategy dp` joins nothing there.
        """
        under_torchrun = self._variables.get("WORLD_SIZE", "1") != "1" and "RANK" in self._variables
        if plan.strategy == "ddp" or under_torchrun:
            return launch.place_in_job(self._variables) or Place()
        return Place()

    # ------------------------------------------------------------------------- start and end

    def __enter__(self) -> "Smoke":
        self._started = time.monotonic()
        self._gathered.phases.start(self._started)
        self._shared_before = shared_memory()
        if self.plan.device == "cuda":
            self._watcher = watch.start()
            threading.Thread(
                target=self._gathered.watch.follow, args=(self._watcher,), daemon=True
            ).start()
        try:
            for place in self._places():
                self._start(place)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.child.kill()
        if self._watcher is not None:
            self._watcher.kill()
        if self._is_ddp and self.plan.device == "cuda":
            remove_unused(shared_memory() - self._shared_before)

    def _places(self) -> list[Place]:
        plan = self.plan
        if plan.strategy == "dp" or self.place.joined:
            return [self.place]
        wanted = plan.gpus or DEFAULT_GPUS
        visible = CPU_REPLICAS
        if plan.device == "cuda" and wanted == "all":
            there = self._gathered.watch.count(deadline_seconds=10.0)
            visible = launch.visible_gpus(self._variables, there)
        return launch.places_on_this_host(max(1, len(chosen_gpus(wanted, visible))))

    def _start(self, place: Place) -> None:
        # CUDA's numbers are then those of nvidia-smi; nothing is written next to the user's torch.
        variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", **self._variables}
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
        is_own_rank = self._is_ddp and not place.joined
        if is_own_rank and self.plan.device == "cpu" and sys.platform == "linux":
            variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
        work = launch.assignment(self.plan, place)
        child = Child(
            payload_command(self._python, "smoke", launch.to_json(work)),
            deadline_seconds=_WHOLE_RUN_SECONDS,
            environment=variables,
            limit_bytes=_LIMIT_BYTES,
        )
        process = TrainingProcess(work, child)
        self._processes.append(process)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def _listen(self, process: TrainingProcess) -> None:
        try:
            for message in messages_in(process.child.lines()):
                self._events.put((process, message))
        except MessageError as error:
            self._events.put((process, error))
        self._events.put((process, process.child.end()))

    def gpus_now(self) -> Sequence[GpuReading]:
        """Return NVML's newest reading of each GPU."""
        return self._gathered.watch.newest()

    # -------------------------------------------------------------------------- the training

    def finish(self, kernel_log: KernelLog | None = None) -> Training:
        """Wait for the training's end, or end it, and return what happened.

        *kernel_log* is what the kernel had said before: what is new is counted.
        """
        failure = self._follow() or self._gathered.not_begun()
        self._gathered.phases.end(time.monotonic())
        self._gathered.failure = failure
        if self.plan.device == "cuda" and kernel_log is not None:
            self._gathered.new_xids = new_xids(kernel_log)
        if failure is not None and self.place.joined and self.place.rank > 0:
            time.sleep(min(_LINGER_SECONDS, self.plan.timeout_seconds))
        self.__exit__()
        return self._gathered.training()

    def give_up(self, why: str) -> Training:
        """End the training before it began, since the machine is not fit for it."""
        self.__exit__()
        self._gathered.failure = TrainingFailure(kind="blocked", phase="import", message=why)
        return self._gathered.training()

    def _follow(self) -> TrainingFailure | None:
        """Take what the children report until all are done; return what stopped them, or None."""
        gather_until: float | None = None
        while True:
            running = [process for process in self._processes if process.ended is None]
            if not running or (gather_until is not None and time.monotonic() >= gather_until):
                break
            if not self._take_next(running, gather_until):
                silent = self._silent(running)
                if silent and gather_until is None:
                    return self._hung(silent)
                continue
            if gather_until is None and any(process.has_failed for process in self._processes):
                gather_until = time.monotonic() + self._gathering_seconds()
            if all(p.is_done and not p.has_failed for p in self._processes):
                return None
        failed = [process for process in self._processes if process.has_failed]
        return self._failure(min(failed, key=diagnose.blame)) if failed else None

    def _gathering_seconds(self) -> float:
        if len(self._processes) > 1:
            return _GATHER_SECONDS
        # Rank 0 of a job hears for a while who has fallen silent.
        return diagnose.LOST_SECONDS + 1.0 if self.place.joined else 0.0

    def _take_next(self, running: list[TrainingProcess], gather_until: float | None) -> bool:
        """Take what comes next; False where nothing came for a moment."""
        until = min(process.heard for process in running) + self.plan.timeout_seconds
        if gather_until is not None:
            until = min(until, gather_until)
        try:
            process, said = self._events.get(timeout=max(0.01, min(until - time.monotonic(), 0.5)))
        except queue.Empty:
            return False
        if isinstance(said, MessageError):
            raise said  # our own fault, not the machine's
        if isinstance(said, Ended):
            process.ended = said
        elif isinstance(said, RankSigns):  # says nothing of the rank itself
            self._signs.update({sign.rank: sign for sign in said.ranks})
        else:
            process.take(said)
            self._gathered.take(process.work.rank, said)
            if process is self._processes[0]:
                self._listener(said)
        return True

    def _silent(self, running: list[TrainingProcess]) -> list[TrainingProcess]:
        late = time.monotonic() - self.plan.timeout_seconds
        waiting_is_fine = any(not process.is_waiting for process in running)
        return [
            process
            for process in running
            if process.heard < late and not (process.is_waiting and waiting_is_fine)
        ]

    # -------------------------------------------------------------------------- what went wrong

    def _failure(self, process: TrainingProcess) -> TrainingFailure:
        if process.ended is None:
            process.child.kill()
        ended = process.ended or self._wait_for(process)
        lost = diagnose.lost_rank(list(self._signs.values()), self.place.world)
        is_innocent = process.failed is None or diagnose.is_by_others(process)
        if lost is not None and self.place.joined and is_innocent:
            return lost
        return diagnose.failure_of(process, ended)

    def _hung(self, silent: list[TrainingProcess]) -> TrainingFailure:
        """Say which of the *silent* processes holds the others up, and end them all."""
        signs = list(self._signs.values())
        lost = diagnose.lost_rank(signs, self.place.world)
        if lost is not None and self.place.joined:
            return lost
        culprit = diagnose.culprit_of(signs)
        mine = [p for p in silent if culprit is not None and p.work.rank == culprit.rank]
        process = mine[0] if mine else min(silent, key=lambda p: (p.batch or 0, p.work.rank))
        state = diagnose.ask_for_the_stack(process.child.pid)
        seconds = time.monotonic() - process.heard
        for other in self._processes:
            other.child.kill()
        ended = self._wait_for(process)
        return diagnose.hang_of(process, ended, seconds=seconds, state=state, culprit=culprit)

    def _wait_for(self, process: TrainingProcess) -> Ended:
        held = _ENDING_SECONDS if self.plan.device == "cuda" else _GRACE_SECONDS
        until = time.monotonic() + held
        while process.ended is None and time.monotonic() < until:
            try:
                other, said = self._events.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(said, Ended):
                other.ended = said
        return process.ended or Ended(error="it cannot be ended: it is stuck in the kernel")

    @property
    def _is_ddp(self) -> bool:
        return self.plan.strategy == "ddp"
