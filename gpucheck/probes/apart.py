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
import time
from collections.abc import Callable
from typing import Generic, NoReturn, TypeVar

from gpucheck.probes.child import die_with, kill_all

MEMORY_LIMIT_BYTES = 4 << 30
_GRACE_SECONDS = 0.1
_SIZE = struct.Struct("=Q")
T = TypeVar("T")


class ProbeError(Exception):
    """A probe gave no facts; the message says why, as a sentence fragment for people."""


class ProbeProcess(Generic[T]):
    """One probe at work in a process of its own."""

    def __init__(self, name: str, probe: Callable[[], T]) -> None:
        """Start it. Where no process can be started, `facts` says so."""
        self.name = name
        self.elapsed_ms: float | None = None
        self._started = time.monotonic()
        self._given: T | None = None
        self._why = ""
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

    def facts(self, until: float) -> T:
        """Wait for the facts to *until* (of the monotonic clock). ProbeError: there are none."""
        if self._given is None and not self._why:
            self._receive(until)
        if self._given is None:
            raise ProbeError(self._why)
        return self._given

    def _receive(self, until: float) -> None:
        received = bytearray()
        while len(received) < _SIZE.size or len(received) < self._size(received):
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                self._why = f"the {self.name} probe did not end in time"
                break
            chunk = os.read(self._pipe, 1 << 20)
            if not chunk:
                break
            received += chunk
        else:
            status, facts, elapsed_ms = pickle.loads(received[_SIZE.size :])  # noqa: S301 - our fork's
            self.elapsed_ms = elapsed_ms
            if status:
                self._why = status
            else:
                self._given = facts
        os.close(self._pipe)
        ended = self._end()
        if self._given is None and not self._why:
            self._why = f"the {self.name} probe {ended}"

    @staticmethod
    def _size(received: bytearray) -> int:
        (size,) = _SIZE.unpack_from(received)
        return _SIZE.size + int(size)

    def _end(self) -> str:
        """Say how the process ended; end it where it has not, and leave it where it is stuck."""
        until = time.monotonic() + _GRACE_SECONDS
        killed = False
        while True:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                if code >= 0:
                    return f"ended with status {code}"
                return f"was ended by {signal.Signals(-code).name}"
            if time.monotonic() >= until:
                if killed:
                    return "does not end"
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, signal.SIGKILL)
                killed, until = True, time.monotonic() + _GRACE_SECONDS
            time.sleep(0.001)


def _work(sending: int, parent: int, probe: Callable[[], T]) -> NoReturn:
    """Be the process that looks; it never returns into its parent's code."""
    began = time.monotonic()
    try:
        die_with(parent)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        bound = MEMORY_LIMIT_BYTES if hard == resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_AS, (min(bound, MEMORY_LIMIT_BYTES), hard))
        why, facts = "", None
        try:
            facts = probe()
        except MemoryError:
            why = f"more than {MEMORY_LIMIT_BYTES >> 30} GiB of memory was needed"
        except RecursionError:
            why = "it is nested too deeply"
        except Exception as error:  # noqa: BLE001 - a probe that fails must not cost the report
            why = f"gpucheck's own probe failed: {error!r}"
        data = pickle.dumps((why, facts, (time.monotonic() - began) * 1000))
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(_SIZE.pack(len(data)) + data)
    finally:
        kill_all()
        os._exit(0)
