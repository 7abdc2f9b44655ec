"""Runs one local process per node, such as ssh or srun, and reads what each one writes."""

import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from abc import abstractmethod
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

from gpucheck.fleet.engines.interface import Engine, Output, Task
from gpucheck.probes.child import die_with
from gpucheck.usage_error import UsageError

ANSWER_LIMIT_BYTES = 64 << 20
GRACE_SECONDS = 0.5  # for a process to end by SIGTERM, and then by SIGKILL
STRAGGLING_SECONDS = 0.5  # for what a process left in its pipes, once it has ended
_KEPT_ERROR_BYTES = 64 << 10
_LOOK_SECONDS = 0.2
_SHOWN_CHARACTERS = 300


class ProcessEngine(Engine):
    """An engine whose way to a node is a command of this machine."""

    #: How long a command that is late may take to end by itself.
    grace_seconds = GRACE_SECONDS

    @abstractmethod
    def command(self, task: Task, timeout_seconds: float) -> tuple[str, ...]:
        """Return the local command that runs *task* on its node."""

    def reason(self, errors: str) -> str:
        """Return what is worth reading of a failed command's standard error."""
        lines = [line.strip() for line in errors.splitlines() if line.strip()]
        return "; ".join(lines[-2:])[-_SHOWN_CHARACTERS:]

    def pause_before_retry(self, ended: "Ended", tries: int) -> float | None:
        """Return the seconds to wait before *ended* is tried again; None: it is final."""
        del ended, tries
        return None

    def out_of_reach(self, nodes: Sequence[str]) -> dict[str, str]:
        """Nobody is known to be out of reach before it is tried."""
        del nodes
        return {}

    def run(
        self, tasks: Sequence[Task], *, timeout_seconds: float, fan_out: int
    ) -> Generator[Output, None, None]:
        """Run each task's command in a thread of its own."""
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=max(1, min(fan_out, len(tasks)))) as pool:
            asked = [pool.submit(self._ask, task, timeout_seconds, stop) for task in tasks]
            try:
                for future in as_completed(asked):
                    yield future.result()
            finally:
                stop.set()
                for future in asked:
                    future.cancel()

    def plan(self, tasks: Sequence[Task], *, timeout_seconds: float, out: Path) -> str:
        """Print the commands, each with the file that it fills."""
        return f"mkdir -p {shlex.quote(str(out))}\n" + "".join(
            f"{shlex.join(self.command(task, timeout_seconds))} > "
            f"{shlex.quote(str(out / f'{task.node}.json'))}\n"
            for task in tasks
        )

    def _ask(self, task: Task, timeout_seconds: float, stop: threading.Event) -> Output:
        began = time.monotonic()
        command = self.command(task, timeout_seconds)
        tries = 0
        while True:
            ended = run_process(command, began + timeout_seconds, stop, self.grace_seconds)
            tries += 1
            pause = self.pause_before_retry(ended, tries)
            if pause is None or time.monotonic() + pause > began + timeout_seconds:
                break
            if stop.wait(pause):
                break
        return Output(
            node=task.node,
            content=ended.output,
            why=self._why(ended, command[0], timeout_seconds),
            seconds=time.monotonic() - began,
        )

    def _why(self, ended: "Ended", program: str, timeout_seconds: float) -> str:
        said = self.reason(ended.errors)
        if ended.failure == "late":
            return f"late: {timeout_seconds:g} s" + (f"; {said}" if said else "")
        if ended.failure:
            return ended.failure
        if ended.status == 0:
            return ""
        if ended.status < 0:
            return f"{program} was ended by signal {-ended.status}"
        return f"{program} ended with status {ended.status}: {said or 'no message'}"


class Local(ProcessEngine):
    """Runs here, under the names of the nodes: for trying things."""

    def nodes(self) -> tuple[str, ...]:
        """There is no list of such names."""
        raise UsageError("--engine local needs --nodes")

    def command(self, task: Task, timeout_seconds: float) -> tuple[str, ...]:
        """Return the words as they are."""
        del timeout_seconds
        return task.words


# ------------------------------------------------------------------------------ one process


@dataclass(slots=True, kw_only=True)
class Ended:
    """What a process wrote, and how it ended."""

    output: bytes = b""
    errors: str = ""
    status: int = 0
    failure: str = ""  # "late", or why there is no status


@dataclass(slots=True)
class _Written:
    """The two streams of a process, as far as they are kept."""

    output: bytearray = field(default_factory=bytearray)
    errors: bytearray = field(default_factory=bytearray)

    def ended(self, *, status: int = 0, failure: str = "") -> Ended:
        errors = self.errors.decode("utf-8", "replace")
        return Ended(output=bytes(self.output), errors=errors, status=status, failure=failure)


def run_process(
    command: Sequence[str],
    until: float,
    stop: threading.Event,
    grace_seconds: float = GRACE_SECONDS,
) -> Ended:
    """Run *command* until it ends, *stop* is set or the monotonic clock shows *until*.

    It is ended with this process, and left behind where the kernel does not let it go.
    """
    parent = os.getpid()
    try:
        process = subprocess.Popen(
            command,
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - a few calls of C's
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return Ended(failure=f"could not start {command[0]}: {error.strerror}")
    written = _Written()
    assert process.stdout is not None  # noqa: S101 - for the type: they are pipes
    assert process.stderr is not None  # noqa: S101
    with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ, written.output)
        selector.register(process.stderr, selectors.EVENT_READ, written.errors)
        failure = _read_until_end(process, selector, written, until, stop)
        if failure:
            _end(process, selector, grace_seconds)
    if process.poll() is None:
        process.returncode = -signal.SIGKILL  # left behind: Python would wait for it at its end
    return written.ended(status=process.returncode, failure=failure)


def _read_until_end(
    process: "subprocess.Popen[bytes]",
    selector: selectors.BaseSelector,
    written: _Written,
    until: float,
    stop: threading.Event,
) -> str:
    """Keep what *process* writes until it has ended; return why it has to be ended, or ""."""
    given_up_at = until
    while selector.get_map() or process.poll() is None:
        if stop.is_set():
            return "stopped by the caller"
        now = time.monotonic()
        if now >= given_up_at:
            return "" if process.poll() is not None else "late"
        if process.poll() is not None:  # a child of its own may hold the pipes open for ever
            given_up_at = min(given_up_at, now + STRAGGLING_SECONDS)
        _take(selector, min(_LOOK_SECONDS, given_up_at - now))
        if len(written.output) > ANSWER_LIMIT_BYTES:
            written.output.clear()
            return f"sent more than {ANSWER_LIMIT_BYTES >> 20} MiB"
        del written.errors[:-_KEPT_ERROR_BYTES]
    return ""


def _take(selector: selectors.BaseSelector, seconds: float) -> None:
    if not selector.get_map():
        time.sleep(seconds)
        return
    for key, _ in selector.select(seconds):
        chunk = os.read(key.fd, 1 << 16)
        if not chunk:
            selector.unregister(key.fileobj)
        elif key.data is not None:
            key.data.extend(chunk)


def _end(
    process: "subprocess.Popen[bytes]", selector: selectors.BaseSelector, grace_seconds: float
) -> None:
    """End the process and its children, first gently, and read over what they say to that."""
    for key in tuple(selector.get_map().values()):
        selector.modify(key.fileobj, selectors.EVENT_READ)  # read, and not kept
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, GRACE_SECONDS)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        until = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < until:
            _take(selector, 0.05)
        if process.poll() is not None:
            return
