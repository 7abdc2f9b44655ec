"""Runs a probe in a process of its own: whatever ends it costs that probe's facts alone.

A start-up file whose values grow without end, an environment whose files break off under a read, a
parser that does not come back: each ends, or is ended, with its process. It is a fork, so that the
modules that are loaded already cost nothing again; it has to be started before any thread is.
"""

import contextlib
import os
import pickle
import resource
import select
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

from gpucheck.poverty import lack
from gpucheck.probes.child import die_with, disown_all, kill_all
from gpucheck.usage_error import NoAnswerError, UsageError

MEMORY_LIMIT_BYTES = 4 << 30
#: For a file system to say what is at a path, where somebody waits for the answer.
ACCESS_SECONDS = 1.0
WRITE_SECONDS = 5.0
_GRACE_SECONDS = 0.1
_LAST_SECONDS = 0.02  # for the kernel to take down what was killed; the stuck take no signal
_SIZE = struct.Struct("=Q")
T = TypeVar("T")


class ProbeError(Exception):
    """A probe gave no facts; the message says why, as a sentence fragment for people."""


def within(seconds: float, whom: str, work: Callable[[], T]) -> T:
    """Return what *work* gives in a process of its own, or raise what it raises of ours.

    For whatever the user names: a dead file system would hold up our own process beyond SIGKILL.
    NoAnswerError: nothing came within *seconds*.
    """

    def attempt() -> Iterator[tuple[T | None, Exception | None]]:
        try:
            yield work(), None
        except (UsageError, NoAnswerError) as error:
            yield None, error

    process = ProbeProcess[tuple[Any, Exception | None]]("file", attempt)
    try:
        result, error = _or_no_answer(process.next_facts, seconds, whom)
    finally:
        process.end()
    if error is not None:
        raise error
    given: T = result
    return given


def stream(seconds: float, whom: str, work: Callable[[], Iterable[T]]) -> Iterator[T]:
    """Yield what *work* yields in a process of its own, each within *seconds* of asking for it.

    It raises what `within` raises, and keeps nothing that it has yielded.
    """

    def attempt() -> Iterator[tuple[T | None, Exception | None, bool]]:
        try:
            for item in work():
                yield item, None, False
            yield None, None, True
        except (UsageError, NoAnswerError) as error:
            yield None, error, True

    process = ProbeProcess[tuple[Any, Exception | None, bool]]("file", attempt)
    try:
        while True:
            item, error, is_over = _or_no_answer(process.next_facts, seconds, whom)
            if error is not None:
                raise error
            if is_over:
                return
            yield item
    finally:
        process.end()


def _or_no_answer(facts: Callable[[float], T], seconds: float, whom: str) -> T:
    try:
        return facts(time.monotonic() + seconds)
    except ProbeError as problem:
        if "in time" in str(problem):
            raise NoAnswerError(f"{whom} did not answer in {seconds:g} s") from None
        raise NoAnswerError(f"{whom}: {problem}") from None


class ProbeProcess(Generic[T]):
    """Probes at work in a process of their own, which gives their facts one after another."""

    def __init__(self, name: str, probe: Callable[[], Iterator[T]]) -> None:
        """Start it. Where no process can be started, `facts` says so."""
        self.name = name
        self.elapsed_ms: list[float] = []
        self._given: list[T] = []
        self._why = ""
        self._received = bytearray()
        self._reading = threading.Lock()
        self._pid = 0
        parent = os.getpid()
        try:
            self._pipe, sending = os.pipe()
        except OSError as error:
            self._why = f"gpucheck could not start the {name} probe: {error.strerror}"
            return
        try:
            self._pid = os.fork()
        except OSError as error:
            self._why = f"gpucheck could not start the {name} probe: {error.strerror}"
            os.close(sending)
            os.close(self._pipe)
            return
        if self._pid == 0:
            os.close(self._pipe)
            _work(sending, parent, probe)
        os.close(sending)

    def facts(self, number: int, until: float) -> T:
        """Wait for the facts of that *number* to *until*. ProbeError: there are none.

        Any thread may ask; *until* is of the monotonic clock.
        """
        with self._reading:
            while len(self._given) <= number and not self._why:
                self._take(until)
        if len(self._given) <= number:
            raise ProbeError(self._why)
        return self._given[number]

    def next_facts(self, until: float) -> T:
        """Wait for the next facts, for one thread that needs none of them twice."""
        facts = self.facts(0, until)
        self._given.clear()
        return facts

    def end(self, *, is_late: bool = False) -> str:
        """Say how the process ended; end it where it has not, and leave it where it is stuck.

        One that *is_late* had its time, and gets none to end by itself.
        """
        if not self._pid:
            return "did not start"
        pid, self._pid = self._pid, 0
        os.close(self._pipe)
        killed = is_late
        if is_late:
            os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + (_LAST_SECONDS if is_late else _GRACE_SECONDS)
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                if code >= 0:
                    return f"ended with status {code}"
                return f"was ended by {signal.Signals(-code).name}"
            if time.monotonic() >= until:
                if killed:
                    return "does not end"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed, until = True, time.monotonic() + _GRACE_SECONDS
            time.sleep(0.001)

    def _take(self, until: float) -> None:
        """Take one message, or learn why there is none."""
        received = self._received
        while len(received) < _SIZE.size or len(received) < self._end_of_message():
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                self._why = f"the {self.name} probe did not end in time"
                self.end(is_late=True)
                return
            chunk = os.read(self._pipe, 1 << 20)
            if not chunk:
                self._why = f"the {self.name} probe {self.end()}"
                return
            received += chunk
        size = self._end_of_message()
        why, facts, elapsed_ms = pickle.loads(received[_SIZE.size : size])  # noqa: S301 - our fork's
        del received[:size]
        if why:
            self._why = why
            self.end()
            return
        self._given.append(facts)
        self.elapsed_ms.append(elapsed_ms)

    def _end_of_message(self) -> int:
        (size,) = _SIZE.unpack_from(self._received)
        return _SIZE.size + int(size)


def _let_go_of_streams(kept: int) -> None:
    """Hold none of the parent's streams: who reads them would wait for a probe that is stuck."""
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in {0, 1, 2} - {kept, null}:
            os.dup2(null, stream)


def _work(sending: int, parent: int, probe: Callable[[], Iterator[T]]) -> NoReturn:
    """Be the process that looks; it never returns into its parent's code."""
    began = time.monotonic()

    def give(why: str, facts: object = None) -> None:
        data = pickle.dumps((why, facts, (time.monotonic() - began) * 1000))
        pipe.write(_SIZE.pack(len(data)) + data)
        pipe.flush()

    try:
        disown_all()
        die_with(parent)
        _let_go_of_streams(sending)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_AS, (min(bound, MEMORY_LIMIT_BYTES), hard))
        with os.fdopen(sending, "wb") as pipe:
            try:
                for facts in probe():
                    give("", facts)
            except MemoryError:
                give(lack() or f"more than {MEMORY_LIMIT_BYTES >> 30} GiB of memory was needed")
            except RecursionError:
                give("it is nested too deeply")
            except Exception as error:  # noqa: BLE001 - a probe must not cost the report
                give(f"gpucheck's own probe failed: {error!r}")
    finally:
        kill_all()
        os._exit(0)
