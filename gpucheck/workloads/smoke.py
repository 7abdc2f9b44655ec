"""Runs a smoke training in children, watches over them, and gathers what happened as facts.

The children are ended whatever happens: when they are done, when no step comes within the
deadline, when they crash, and when we are interrupted.
"""

import dataclasses
import json
import os
import queue
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gpucheck.probes.child import Child, Ended, python_command
from gpucheck.probes.pytorch import choose_python
from gpucheck.snapshot import (
    NOT_EXAMINED,
    NOT_SUPPORTED,
    DataFault,
    KernelLog,
    Known,
    NotFinite,
    PeerCopy,
    Reading,
    Replica,
    SoloRun,
    Training,
    TrainingFailure,
    TrainingGpu,
    Unknown,
    WatchedGpu,
    Xid,
)
from gpucheck.workloads import launch
from gpucheck.workloads.plan import DEFAULT_GPUS, Plan, check, chosen_gpus

_WHOLE_RUN_SECONDS = 7 * 24 * 3600.0  # silence is what ends a child, not length
_LIMIT_BYTES = 1 << 30  # a line for each step of however many epochs
_STACK_SECONDS = 0.7  # for the child to write its stack after our signal
_ENDING_SECONDS = 5.0  # for the driver to take a killed process's GPU memory back
_GATHER_SECONDS = 2.0  # after a first failure, for others to show that they failed earlier
_LOST_SECONDS = 3.0  # six missed signs of life
_LINGER_SECONDS = 10.0  # for rank 0 to give its verdict before torchrun ends all for our status
_LAST_LINES = 12

Event = Mapping[str, Any]
Listener = Callable[[Event], None]


class _Process:
    """One child and what is known of it."""

    def __init__(self, plan: Plan, child: Child) -> None:
        self.plan = plan
        self.child = child
        self.phase = "import"
        self.step: int | None = None
        self.pair: tuple[int, int] | None = None
        self.heard = time.monotonic()
        self.told_failure: Event | None = None
        self.lagging: tuple[int, ...] = ()
        self.is_done = False
        self.is_waiting = False
        self.ended: Ended | None = None
        self.gpu: int | None = None

    @property
    def has_failed(self) -> bool:
        return self.told_failure is not None or (self.ended is not None and not self.is_done)


class Smoke:
    """A smoke training under way: `with Smoke(plan) as smoke: training = smoke.finish()`.

    The children start at once and import torch, so that the caller can examine the machine in
    the meantime. Raises PlanError where *plan* makes no sense.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        python: str | None = None,
        variables: Mapping[str, str] | None = None,
        listener: Listener = lambda event: None,  # noqa: ARG005
    ) -> None:
        self._variables = dict(os.environ if variables is None else variables)
        if plan.strategy == "ddp" or _is_one_of_many(self._variables):
            plan = launch.joined(plan, self._variables)
        check(plan)
        if not plan.cache:
            from platformdirs import user_cache_path

            plan = dataclasses.replace(
                plan, cache=str(user_cache_path("gpucheck", appauthor=False))
            )
        self.plan = plan
        self._python = choose_python(python, self._variables)
        self._listener = listener
        self._events: queue.SimpleQueue[tuple[_Process | None, Event | Ended]] = queue.SimpleQueue()
        self._started = time.monotonic()
        self._processes: list[_Process] = []
        self._watcher: Child | None = None
        self._facts = _Facts(plan)
        self._ranks: dict[int, Event] = {}
        self._shared_before: set[Path] = set()

    # ------------------------------------------------------------------------- start and end

    def __enter__(self) -> "Smoke":
        self._started = time.monotonic()
        self._facts.phases.start(self._started)
        self._shared_before = shared_memory()
        if self.plan.device == "cuda":
            self._watcher = Child(
                python_command("gpucheck.workloads.watch"),
                deadline_seconds=_WHOLE_RUN_SECONDS,
                limit_bytes=_LIMIT_BYTES,
            )
            threading.Thread(target=self._watch, args=(self._watcher,), daemon=True).start()
        try:
            for plan in self._plans():
                self._start(plan)
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

    def _plans(self) -> list[Plan]:
        plan = self.plan
        if plan.strategy == "dp" or plan.joined:
            return [plan]
        visible = int(DEFAULT_GPUS)
        if plan.device == "cuda" and plan.wanted == "all":
            visible = launch.visible_gpus(self._variables, self._facts.watch.count(deadline=10.0))
        return launch.on_this_host(plan, max(1, len(chosen_gpus(plan.wanted, visible))))

    def _start(self, plan: Plan) -> None:
        variables = dict(self._variables)
        # CUDA's numbers are then those of nvidia-smi.
        variables.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        own_ranks = plan.strategy == "ddp" and not plan.joined
        if own_ranks and plan.device == "cpu" and sys.platform == "linux":
            variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
        child = Child(
            self._command(plan),
            deadline_seconds=_WHOLE_RUN_SECONDS,
            environment=variables,
            limit_bytes=_LIMIT_BYTES,
        )
        process = _Process(plan, child)
        self._processes.append(process)
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def _command(self, plan: Plan) -> list[str]:
        module = "gpucheck.workloads.child"
        if self._python is None or self._python[0] == sys.executable:
            return python_command(module, plan.to_json())
        root = str(Path(__file__).parents[2])
        start = (
            f"import sys; sys.path[:] = [p for p in sys.path if p] + [{root!r}]; "
            f"import runpy; sys.argv[1:] = {[plan.to_json()]!r}; "
            f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        )
        return [self._python[0], "-c", start]

    def _listen(self, process: _Process) -> None:
        for line in process.child.lines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # not ours: something wrote to the descriptor that it should not have
            self._events.put((process, event))
        self._events.put((process, process.child.end()))

    def _watch(self, watcher: Child) -> None:
        for line in watcher.lines():
            self._facts.watch.add(json.loads(line))
        ended = watcher.end()
        self._facts.watch.close(ended.why or "NVML's child ended")

    def gpus_now(self) -> list[Event]:
        """Return NVML's newest reading of each GPU."""
        return self._facts.watch.newest()

    # -------------------------------------------------------------------------- the training

    def finish(self, kernel_log: KernelLog | None = None) -> Training:
        """Wait for the training's end, or end it, and return what happened.

        *kernel_log* is what the kernel had said before: what is new is counted.
        """
        failure = self._follow() or self._facts.not_begun()
        self._facts.phases.end(time.monotonic())
        self._facts.failure = failure
        if self.plan.device == "cuda" and kernel_log is not None:
            self._facts.new_xids = _new_xids(kernel_log)
        if failure is not None and self.plan.joined and self.plan.rank > 0:
            self._linger()
        self.__exit__()
        return self._facts.training()

    def give_up(self, why: str) -> Training:
        """End the training before it began, since the machine is not fit for it."""
        self.__exit__()
        self._facts.failure = TrainingFailure(kind="blocked", phase="import", message=why)
        return self._facts.training()

    def _follow(self) -> TrainingFailure | None:
        """Take what the children tell until all are done; return what stopped them, or None."""
        gather_until: float | None = None
        while True:
            running = [process for process in self._processes if process.ended is None]
            if not running or (gather_until is not None and time.monotonic() >= gather_until):
                break
            process, said = self._next(running, gather_until)
            if process is None:
                silent = self._silent(running)
                if silent and gather_until is None:
                    return self._hung(silent)
                continue
            if isinstance(said, Ended):
                process.ended = said
            else:
                self._take(process, said)
            if process.has_failed and gather_until is None:
                gather_until = time.monotonic() + self._gathering_seconds()
            if all(p.is_done and not p.has_failed for p in self._processes):
                return None
        failed = [process for process in self._processes if process.has_failed]
        if failed:
            return self._failure(min(failed, key=self._blame))
        return None

    def _gathering_seconds(self) -> float:
        if len(self._processes) > 1:
            return _GATHER_SECONDS
        # Rank 0 of a job hears for a while who has fallen silent.
        return _LOST_SECONDS + 1.0 if self.plan.joined else 0.0

    def _next(
        self, running: list[_Process], gather_until: float | None
    ) -> "tuple[_Process | None, Event | Ended]":
        until = min(process.heard for process in running) + self.plan.timeout_seconds
        if gather_until is not None:
            until = min(until, gather_until)
        try:
            return self._events.get(timeout=max(0.01, min(until - time.monotonic(), 0.5)))
        except queue.Empty:
            return None, {}

    def _silent(self, running: list[_Process]) -> list[_Process]:
        late = time.monotonic() - self.plan.timeout_seconds
        waiting_is_fine = any(not process.is_waiting for process in running)
        return [
            process
            for process in running
            if process.heard < late and not (process.is_waiting and waiting_is_fine)
        ]

    def _take(self, process: _Process, event: Event) -> None:
        name = event["event"]
        if name == "ranks":  # tells of others, not of the rank itself
            for line in event["ranks"]:
                self._ranks[line["rank"]] = line
            return
        if name == "lagging":
            process.lagging = tuple(event["gpus"])
            return
        process.heard = time.monotonic()
        if name == "phase":
            process.phase = event["name"]
            process.is_waiting = False
        elif name == "step":
            process.step = event["step"]
        elif name == "copying":
            process.pair = (event["source"], event["target"])
        elif name == "waiting":
            process.is_waiting = True
        elif name == "failed":
            process.told_failure = event
        elif name == "done":
            process.is_done = True
        elif name == "gpus" and event["gpus"]:
            process.gpu = event["gpus"][0]["index"]
        self._facts.take(process.plan.rank, event)
        if process is self._processes[0]:
            self._listener(event)

    # -------------------------------------------------------------------------- what went wrong

    @staticmethod
    def _blame(process: _Process) -> tuple[int, int]:
        """Put the process first that failed by itself, not because another one went away."""
        reported = process.told_failure
        if process.ended is not None and process.ended.signal_name and reported is None:
            return 0, process.plan.rank
        if reported is not None and reported["kind"] == "out of memory":
            return 1, process.plan.rank
        if reported is None:
            return 2, process.plan.rank
        by_others = re.search(
            r"[Cc]onnection|[Tt]imed out|closed by peer", str(reported["message"])
        )
        return (4 if by_others else 3), process.plan.rank

    def _failure(self, process: _Process) -> TrainingFailure:
        ended = process.ended
        if ended is None:
            process.child.kill()
            ended = self._wait_for(process)
        reported = process.told_failure
        lost = self._lost()
        if (
            lost is not None
            and self.plan.joined
            and (reported is None or self._blame(process)[0] == 4)
        ):
            return lost
        lines = _last_lines(ended)
        common: dict[str, Any] = {
            "phase": process.phase,
            "step": process.step,
            "gpus": () if process.gpu is None or not self._is_ddp else (process.gpu,),
            "rank": process.plan.rank if self._is_ddp else None,
            "host": socket.gethostname() if self._is_ddp else None,
            "stack": _stack(ended.stderr),
            "last_lines": lines,
        }
        if reported is not None:
            if reported.get("gpu") is not None:
                common["gpus"] = (reported["gpu"],)
            return TrainingFailure(kind=reported["kind"], message=reported["message"], **common)
        if ended.signal_name is not None:
            return TrainingFailure(kind="crash", signal=ended.signal_name, **common)
        message = ended.error or f"exit status {ended.exit_code}"
        return TrainingFailure(kind="exit", message=message, **common)

    def _hung(self, silent: list[_Process]) -> TrainingFailure:
        """Say which of the *silent* processes holds the others up, and end them all."""
        lost = self._lost()
        if lost is not None and self.plan.joined:
            return lost
        held_up_by = self._held_up_by()
        mine = [p for p in silent if held_up_by and p.plan.rank == held_up_by["rank"]]
        process = mine[0] if mine else min(silent, key=lambda p: (p.step or 0, p.plan.rank))
        state = _ask_for_the_stack(process.child.pid)
        seconds = time.monotonic() - process.heard
        for other in self._processes:
            other.child.kill()
        ended = self._wait_for(process)
        gpus = process.lagging
        if process.phase == "copies" and process.pair is not None and not self._is_ddp:
            gpus = process.pair
        elif not gpus and process.gpu is not None and mine:
            gpus = (process.gpu,)
        failure = TrainingFailure(
            kind="hang",
            phase=process.phase,
            step=process.step,
            after_seconds=round(seconds, 1),
            gpus=gpus if self.plan.device == "cuda" else (),
            stack=_stack(ended.stderr),
            message=state,
            last_lines=_last_lines(ended),
        )
        if held_up_by is None:
            return failure
        failure = msgspec.structs.replace(
            failure, rank=held_up_by["rank"], host=held_up_by["host"], step=held_up_by["step"]
        )
        if not mine:  # another host's: all that is known of its stack is where it stood
            stack = (held_up_by["stands"],)
            failure = msgspec.structs.replace(failure, stack=stack, message=None, last_lines=())
        return failure

    def _held_up_by(self) -> Event | None:
        """Return the rank that all others wait for: silent, behind, or standing elsewhere."""
        lines = list(self._ranks.values())
        if len(lines) < self.plan.world and len(lines) < len(self._processes):
            return None
        least = min((line["step"] for line in lines), default=0)
        stands = [line["stands"] for line in lines]
        for odd in (
            [line for line in lines if line["silent_seconds"] > _LOST_SECONDS],
            [line for line in lines if line["step"] == least],
            [line for line in lines if stands.count(line["stands"]) == 1],
        ):
            if len(odd) == 1 and len(lines) > 1:
                return odd[0]
        return None

    def _lost(self) -> TrainingFailure | None:
        """Return the rank that has given no sign of life for longest, if one is missing."""
        missing = [line for line in self._ranks.values() if line["silent_seconds"] > _LOST_SECONDS]
        if missing:
            line = max(missing, key=lambda one: float(one["silent_seconds"]))
            return TrainingFailure(
                kind="lost",
                phase=str(line["phase"]),
                step=line["step"],
                after_seconds=round(float(line["silent_seconds"]), 1),
                rank=line["rank"],
                host=line["host"],
            )
        if self._ranks and len(self._ranks) < self.plan.world:
            rank = next(rank for rank in range(self.plan.world) if rank not in self._ranks)
            return TrainingFailure(kind="lost", phase="rendezvous", rank=rank)
        return None

    def _wait_for(self, process: _Process) -> Ended:
        until = time.monotonic() + _ENDING_SECONDS
        while process.ended is None and time.monotonic() < until:
            try:
                other, said = self._events.get(timeout=0.1)
            except queue.Empty:
                continue
            if other is not None and isinstance(said, Ended):
                other.ended = said
        return process.ended or Ended(error="it cannot be ended: it is stuck in the kernel")

    def _linger(self) -> None:
        time.sleep(min(_LINGER_SECONDS, self.plan.timeout_seconds))

    @property
    def _is_ddp(self) -> bool:
        return self.plan.strategy == "ddp"


def shared_memory(folder: Path = Path("/dev/shm")) -> set[Path]:  # noqa: S108 - it is meant
    """Return our user's files of NCCL in shared memory: killed ranks may leave some behind."""
    found = set()
    for path in folder.glob("nccl-*"):
        try:
            if path.stat().st_uid == os.geteuid():
                found.add(path)
        except OSError:
            pass  # gone meanwhile
    return found


def remove_unused(files: set[Path], processes: Path = Path("/proc")) -> None:
    """Remove those of *files* that no process maps: another job of this user may use the others."""
    if not files:
        return
    for maps in processes.glob("[0-9]*/maps"):
        try:
            text = maps.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        files = {path for path in files if str(path) not in text}
    for path in files:
        path.unlink(missing_ok=True)


def _is_one_of_many(variables: Mapping[str, str]) -> bool:
    return variables.get("WORLD_SIZE", "1") != "1" and "RANK" in variables


def _ask_for_the_stack(pid: int | None) -> str | None:
    """Let the child write its stack to its stderr; return what the kernel says where it cannot."""
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return None
    time.sleep(_STACK_SECONDS)
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state = next((line.split(":", 1)[1] for line in status.splitlines() if "State" in line), "")
    return f"state {' '.join(state.split())}" if state.split()[:1] != ["S"] else None


def _stack(stderr: bytes) -> tuple[str, ...]:
    """Return the frames of the thread in question out of what faulthandler wrote, innermost last.

    That is the current thread of a crash, and else the main thread, which comes last.
    """
    text = stderr.decode(errors="replace")
    header = re.compile(r"^(Current thread|Thread) 0x.*\(most recent call first\):$", flags=re.M)
    parts = header.split(text)
    blocks = list(zip(parts[1::2], parts[2::2], strict=True))
    if not blocks:
        return ()
    current = [block for name, block in blocks if name == "Current thread"]
    block = current[0] if current and "Fatal Python error" in text else blocks[-1][1]
    frames = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', block, flags=re.M)
    return tuple(
        f"{Path(file).name}:{line} {name}"
        for file, line, name in reversed(frames)
        if not file.startswith("<")
    )


def _last_lines(ended: Ended) -> tuple[str, ...]:
    """Return the last lines that say something, without the stack."""
    lines = ended.stderr.decode(errors="replace").splitlines()
    telling = [
        line.rstrip()[:500]
        for line in lines
        if line.strip()
        and not re.match(r"(  File |Thread 0x|Current thread|Extension modules)", line)
    ]
    return tuple(telling[-_LAST_LINES:])


def _new_xids(before: KernelLog) -> Known[tuple[Xid, ...]]:
    from gpucheck.probes import kernel_log

    if isinstance(before.xids, Unknown):
        return before.xids
    now = kernel_log.probe().xids
    if isinstance(now, Unknown):
        return now
    counts = {(xid.bus_id, xid.number): xid.count for xid in before.xids}
    return tuple(
        msgspec.structs.replace(xid, count=xid.count - counts.get((xid.bus_id, xid.number), 0))
        for xid in now
        if xid.count > counts.get((xid.bus_id, xid.number), 0)
    )


# --------------------------------------------------------------------------- gathering the facts


class _Phases:
    """How long each phase took, in milliseconds."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._name = "import"
        self._since = self._first = 0.0

    def start(self, now: float) -> None:
        self._since = self._first = now

    def begin(self, name: str, now: float) -> None:
        self._spent[self._name] = self._spent.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now

    def end(self, now: float) -> None:
        self.begin("", now)

    def milliseconds(self) -> dict[str, float]:
        spent = {name: round(seconds * 1000, 1) for name, seconds in self._spent.items() if name}
        return {**spent, "total": round((self._since - self._first) * 1000, 1)}


class Watch:
    """What NVML said while the model trained; filled by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._readings: list[Event] = []
        self._error: str | None = None

    def add(self, line: Event) -> None:
        with self._lock:
            if "error" in line:
                self._error = line["error"]
            else:
                self._readings.append(line)
            self._lock.notify_all()

    def close(self, why: str) -> None:
        with self._lock:
            self._error = self._error or why
            self._lock.notify_all()

    def count(self, deadline: float) -> int:
        """Return how many GPUs NVML shows, 0 where it does not say in time."""
        with self._lock:
            self._lock.wait_for(lambda: self._readings or self._error, timeout=deadline)
            return len(self._readings[-1]["gpus"]) if self._readings else 0

    def newest(self) -> list[Event]:
        """Return the newest reading of each GPU."""
        with self._lock:
            return list(self._readings[-1]["gpus"]) if self._readings else []

    def of(
        self, uuid: object, bus_id: object, *, cuda_start: float, since: float, until: float
    ) -> Known[WatchedGpu]:
        """Sum up the readings of one GPU from *since* to *until*."""
        with self._lock:
            readings = list(self._readings)
            error = self._error
        mine = [
            (line["at"], gpu)
            for line in readings
            for gpu in line["gpus"]
            if gpu["uuid"] == uuid or (bus_id is not None and gpu["bus_id"] == bus_id)
        ]
        if not mine:
            return Unknown(error or "NVML showed no GPU of this UUID or bus id")
        # A first reading that came when CUDA was up already says nothing of the time before.
        before = mine[0][1]["memory_used_bytes"] if mine[0][0] < cuda_start else None
        during = [gpu for at, gpu in mine if since <= at <= until]
        seen = during or [mine[-1][1]]
        reasons = [g["clocks_event_reasons"] for g in seen if g["clocks_event_reasons"] is not None]
        # Hardware slowdown flashes up when clocks change: a reason has to be seen twice.
        seen_twice = [bit for bit in range(64) if sum(r >> bit & 1 for r in reasons) > 1]
        return WatchedGpu(
            index=mine[0][1]["index"],
            samples=len(during),
            memory_used_before_bytes=before if before is not None else NOT_SUPPORTED,
            memory_used_maximum_bytes=_highest(seen, "memory_used_bytes"),
            utilization_maximum_percent=_highest(seen, "utilization_percent"),
            temperature_maximum_celsius=_highest(seen, "temperature_celsius"),
            power_maximum_watts=_highest(seen, "power_watts"),
            clocks_event_reasons=sum(1 << b for b in seen_twice) if reasons else NOT_SUPPORTED,
            corrected_ecc_added=_added(mine, "corrected_ecc"),
            uncorrected_ecc_added=_added(mine, "uncorrected_ecc"),
        )


def _highest(readings: list[Event], name: str) -> Any:  # noqa: ANN401
    numbers = [reading[name] for reading in readings if reading[name] is not None]
    return max(numbers) if numbers else NOT_SUPPORTED


def _added(readings: list[tuple[float, Event]], name: str) -> Reading[int]:
    first, last = readings[0][1][name], readings[-1][1][name]
    return NOT_SUPPORTED if first is None or last is None else max(0, last - first)


class _Facts:
    """What the children told, as it comes, and as facts in the end."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._told: dict[str, Any] = {}
        self._gpus: dict[int, Event] = {}
        self._copies: list[PeerCopy] = []
        self._solo: list[SoloRun] = []
        self._losses: list[float] = []
        # moments of the training, to which NVML's readings are held
        self._cuda_start = self._from = self._until = float("inf")
        self.phases = _Phases()
        self.watch = Watch()
        self.failure: TrainingFailure | None = None
        self.new_xids: Known[tuple[Xid, ...]] = NOT_EXAMINED

    def take(self, rank: int, event: Event) -> None:
        """Note what a child told."""
        name = event["event"]
        if name == "gpus":
            self._gpus.update({gpu["index"]: gpu for gpu in event["gpus"]})
        if rank not in (0, self._plan.rank):
            return
        if name == "phase":
            self._enter(event)
        elif name == "gpus":
            self._told |= {
                "replicas_wanted": event["wanted"],
                "gpus_visible": event["visible"],
                "gpus_missing": tuple(event["missing"]),
            }
            if self._plan.device == "cuda":
                self._told["cuda_unavailable"] = event["unavailable"]
        elif name == "data":
            self._told |= {
                "data": event["kind"],
                "data_directory": event["directory"],
                "data_fault": None,
            }
        elif name == "data fault":
            self._told["data_fault"] = DataFault(
                path=event["path"], problem=event["problem"], expected=event["expected"]
            )
        elif name == "copied":
            self._copies.append(
                PeerCopy(source=event["source"], target=event["target"], error=event["error"])
            )
        elif name == "copies done":
            self._told["copies"] = tuple(self._copies)
        else:
            self._take_result(name, event)

    def _enter(self, event: Event) -> None:
        self.phases.begin(event["name"], event["at"])
        if "torch" in event:
            self._told["torch"] = event["torch"]
        if event["name"] == "CUDA start":
            self._cuda_start = event["at"]
        elif event["name"] == "training":
            self._from = event["at"]
        elif event["name"] == "parity":
            self._until = min(self._until, event["at"])

    def _take_result(self, name: str, event: Event) -> None:
        if name == "loss":
            self._losses.append(event["loss"])
        elif name == "trained":
            self._told |= {
                "losses": tuple(event["losses"]),
                "accuracy": event["accuracy"],
                "first_epoch_accuracy": event["first_epoch_accuracy"],
                "images_per_second": event["images_per_second"],
                "not_finite": None,
            }
        elif name == "reference":
            self._told |= {
                "reference_losses": tuple(event["losses"]),
                "reference_accuracy": event["accuracy"],
                "reference_images_per_second": event["images_per_second"],
            }
        elif name == "replicas":
            self._told["replicas"] = tuple(Replica(**replica) for replica in event["replicas"])
        elif name == "solo":
            finite = tuple(event["losses"])
            self._solo.append(SoloRun(where=event["where"], losses=finite, error=event["error"]))
        elif name == "not finite":
            self._told["not_finite"] = NotFinite(step=event["step"], what=event["what"])

    def training(self) -> Training:
        """Return all that is known."""
        plan = self._plan
        reported = dict(self._told)
        if self._losses:
            reported.setdefault("losses", tuple(self._losses))
        if self._solo:
            reported["solo"] = tuple(self._solo)
        if self._gpus:
            reported["gpus"] = tuple(
                TrainingGpu(**gpu, watched=self._watched(gpu))
                for _, gpu in sorted(self._gpus.items())
            )
        elif "gpus_visible" in reported:
            reported["gpus"] = ()
        for field in msgspec.structs.fields(Training):
            if field.default is NOT_EXAMINED and field.name not in reported:
                reported[field.name] = Unknown(self._why_unknown())
        reported |= {"failure": self.failure, "new_xids": self.new_xids}
        return Training(
            strategy=plan.strategy,
            device=plan.device,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            log_interval=plan.log_interval,
            gpus_wanted=plan.wanted,
            phases_ms=self.phases.milliseconds(),
            **reported,
        )

    def not_begun(self) -> TrainingFailure | None:
        """Return why a training that nothing stopped has no result, None where it has one."""
        if self._plan.rank or "accuracy" in self._told or "not_finite" in self._told:
            return None  # in a job rank 0 alone has results
        if isinstance(self._told.get("data_fault"), DataFault):
            return TrainingFailure(kind="blocked", phase="data", message="the data cannot be used")
        return TrainingFailure(kind="blocked", phase="CUDA start", message="there are too few GPUs")

    def _why_unknown(self) -> str:
        if self.failure is not None and self.failure.kind == "blocked":
            return "the training was not begun"
        return "the training did not come so far"

    def _watched(self, gpu: Event) -> Known[WatchedGpu]:
        return self.watch.of(
            gpu["uuid"],
            gpu["bus_id"],
            cuda_start=self._cuda_start,
            since=self._from,
            until=self._until,
        )
