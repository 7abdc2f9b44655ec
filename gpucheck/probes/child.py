"""Runs foreign code in a child process that can neither hang us nor flood us.

A C call that hangs holds Python, so nothing foreign runs in our own process; and waiting for a
killed child that is stuck in the kernel (state D) would hang us too, so after the kill we wait a
bounded moment and then leave it behind. A child never outlives the process that started it: the
kernel ends it when its parent is gone, however that came (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gpucheck.poverty import lack
from gpucheck.probes.run_as import identity_for

GRACE_SECONDS = 0.25  # how long a killed child may take to go
OUTPUT_LIMIT_BYTES = 8 << 20
_LONGEST_WAIT_SECONDS = 86_400.0  # epoll takes at most 24 days at a time

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h

#: `importlib.resources` would serve zipped packages too, at 12 ms of every start.
_BOOTSTRAP = f"{__file__.rpartition('/probes/')[0]}/payload/__main__.py"

_living: "weakref.WeakSet[Child]" = weakref.WeakSet()
_left: list[int] = []  # children that said all, and may still be there
_starting = threading.RLock()  # held while a child comes to be, so that none is overlooked


def die_with(parent: int) -> None:
    """Have the kernel kill this process when *parent*, which forked it, is gone.

    Called between fork and exec. The signal comes when the *thread* that forked ends, so whoever
    starts a child waits for it. A parent that is gone already is noticed by its process id.
    """
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a child ended, and what it wrote. Exactly one of the four ways is set."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    signal_name: str | None = None  # "SIGSEGV"
    late_after_seconds: float | None = None  # it was killed for this deadline
    error: str | None = None  # it did not start, or wrote more than the limit

    @property
    def why(self) -> str | None:
        """Say in a few words why there is no good answer; None after exit status 0."""
        if self.error is not None:
            return self.error
        if self.late_after_seconds is not None:
            return f"no answer in {self.late_after_seconds:.3g} s"
        if self.signal_name is not None:
            return f"crashed with {self.signal_name}"
        return None if self.exit_code == 0 else f"exit status {self.exit_code}"


def _unless_poor(ended: Ended) -> Ended:
    """Return *ended*; where it failed under limits of ours that are too low, that is the reason."""
    if ended.why is None or not (lacking := lack()):
        return ended
    return Ended(stdout=ended.stdout, stderr=ended.stderr, error=f"{ended.why}; {lacking}")


class Child:
    """A child in its own session, with a deadline that runs from its start.

    Start it, do other work, then call `end()`; or iterate over `lines()` as they come, and then
    call `end()`. As a context manager it is killed on the way out whatever happens.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        deadline_seconds: float,
        environment: Mapping[str, str] | None = None,
        working_directory: str = "/",
        limit_bytes: int = OUTPUT_LIMIT_BYTES,
        takes_orders: bool = False,
        keeps_lines: bool = True,
    ) -> None:
        """Start it. Without *keeps_lines* what `lines()` has handed out is forgotten."""
        self._keeps_lines = keeps_lines
        self.deadline_seconds = deadline_seconds
        self.started_at = time.monotonic()
        self._ends_at = self.started_at + deadline_seconds
        self._limit_bytes = limit_bytes
        self._buffers: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._taken = 0  # bytes of stdout already handed out by lines()
        self._trouble: str | None = None
        self._late: float | None = None
        self._selector = selectors.DefaultSelector()
        self._process: subprocess.Popen[bytes] | None = None
        self.started_by = parent = os.getpid()
        # Our own Python is as trustworthy as we are: it runs this very code.
        user = None if command[0] == sys.executable else identity_for(command[0])
        if user is not None and environment is None:
            environment = os.environ
        if user is not None and environment is not None:
            environment = {**environment, "HOME": user.home}

        def become() -> None:
            if user is not None:
                user.take()
            die_with(parent)  # last: taking another identity takes the signal back

        try:
            with _starting:
                self._process = subprocess.Popen(
                    command,
                    preexec_fn=become,  # noqa: PLW1509 - a few calls of C's
                    stdin=subprocess.PIPE if takes_orders else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    env=None if environment is None else dict(environment),
                    cwd=working_directory,
                )
                _living.add(self)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self._trouble = f"could not start {command[0]}: {getattr(error, 'strerror', error)}"
            return
        for name in self._buffers:
            pipe = getattr(self._process, name)
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, name)

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._close()

    def shorten(self, deadline_seconds: float) -> None:
        """Bring the deadline forward to *deadline_seconds* after the start; it never moves back."""
        if deadline_seconds < self.deadline_seconds:
            self.deadline_seconds = deadline_seconds
            self._ends_at = self.started_at + deadline_seconds

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def lines(self, *, stall_seconds: float | None = None) -> Iterator[bytes]:
        """Yield each line of stdout as it comes, until the child closes it or is late.

        With *stall_seconds* the child is late too when it is silent for that long.
        """
        last = time.monotonic()
        while True:
            buffer = self._buffers["stdout"]
            newline = buffer.find(b"\n", self._taken)
            if newline >= 0:
                line = bytes(buffer[self._taken : newline])
                self._taken = newline + 1
                if not self._keeps_lines:
                    del buffer[: self._taken]
                    self._taken = 0
                last = time.monotonic()
                yield line
                continue
            until = self._ends_at
            if stall_seconds is not None:
                until = min(until, last + stall_seconds)
            if not self._read(until):
                if self._late is not None and stall_seconds is not None:
                    self._late = min(stall_seconds, self._late)
                return

    def order(self, line: str) -> None:
        """Write *line* to the child's stdin; one that is gone shows in how it ended."""
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # its end of the pipe is closed, or ours
            pass

    def end(self) -> Ended:
        """Wait for the child up to its deadline, end it if it is late, and tell how it went."""
        while self._read(self._ends_at):
            pass
        code = self._wait(self._ends_at) if self._is_undisturbed() else None
        if code is None and self._is_undisturbed() and self._process is not None:
            self._late = self.deadline_seconds
        self.kill()
        self._close()
        return _unless_poor(
            Ended(
                stdout=bytes(self._buffers["stdout"]),
                stderr=bytes(self._buffers["stderr"]),
                exit_code=code if code is not None and code >= 0 else None,
                signal_name=_signal_name(-code) if code is not None and code < 0 else None,
                late_after_seconds=self._late,
                error=self._trouble,
            )
        )

    def kill(self) -> None:
        """End the child and all it started; leave it behind if the kernel does not let it go."""
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        self._wait(time.monotonic() + GRACE_SECONDS)

    def send_kill(self) -> None:
        """End the child, from whatever thread, without waiting until it is gone."""
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass

    def leave(self) -> None:
        """End the child, and wait until the kernel has taken it down only in `reap_left`.

        A process that used CUDA takes a tenth of a second for that.
        """
        self.send_kill()
        if self.is_running and self.pid is not None:
            _left.append(self.pid)
        self._close()
        self._process = None

    def _is_undisturbed(self) -> bool:
        return self._late is None and self._trouble is None

    def _read(self, until: float) -> bool:
        """Read what there is, waiting at most to *until*; False when there is no more to come."""
        if not self._selector.get_map() or not self._is_undisturbed():
            return False
        left = min(_LONGEST_WAIT_SECONDS, until - time.monotonic())
        ready = self._selector.select(max(0.0, left))
        if not ready and time.monotonic() >= until:
            self._late = self.deadline_seconds
            return False
        for key, _ in ready:
            buffer = self._buffers[key.data]
            try:
                chunk = os.read(key.fd, 1 << 16)
            except BlockingIOError:
                continue
            except OSError:
                chunk = b""
            if not chunk:
                self._selector.unregister(key.fileobj)
            buffer += chunk
            if len(buffer) > self._limit_bytes:
                del buffer[self._limit_bytes :]
                self._trouble = f"wrote more than {self._limit_bytes >> 20} MiB"
                return False
        return True

    def _wait(self, until: float) -> int | None:
        """Return the exit status, or None where the child is still there at *until*."""
        if self._process is None:
            return None
        pause = 0.0005
        while (code := self._process.poll()) is None:
            left = until - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, 0.02)
        return code

    def _close(self) -> None:
        self._selector.close()
        if self._process is None:
            return
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # an order that the child did not take
                    pipe.close()
        if self._process.returncode is None:
            # Python would warn about, and later wait for, a child that we left behind on purpose.
            self._process.returncode = -signal.SIGKILL


def run(
    command: Sequence[str],
    *,
    deadline_seconds: float,
    environment: Mapping[str, str] | None = None,
    working_directory: str = "/",
    limit_bytes: int = OUTPUT_LIMIT_BYTES,
) -> Ended:
    """Run *command* to its end or its deadline."""
    with Child(
        command,
        deadline_seconds=deadline_seconds,
        environment=environment,
        working_directory=working_directory,
        limit_bytes=limit_bytes,
    ) as child:
        return child.end()


def payload_command(
    python: str, program: str, *arguments: str, isolated: bool = False, pynvml: bool = False
) -> list[str]:
    """Return the command that runs a program of `payload/` under *python*.

    *isolated* is for our own Python: nothing of the user's comes in, neither PYTHONPATH nor a .pth
    file. With *pynvml* it still finds what our `sys.path` holds.
    """
    options = ["-I", "-S"] if isolated else []
    folders = [f"--path={entry}" for entry in sys.path if entry] if pynvml else []
    return [python, *options, _BOOTSTRAP, *folders, program, *arguments]


def reap_left(seconds: float) -> None:
    """Wait for every child that was left, so that no zombie stays; *seconds* at most."""
    until = time.monotonic() + seconds
    while _left and time.monotonic() < until:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(_left[-1], os.WNOHANG) == (0, 0):
                time.sleep(0.002)
                continue
        _left.pop()


def disown_all() -> None:
    """Forget every child: a fork is not the parent of what its parent started."""
    _living.clear()
    _left.clear()


def kill_all() -> None:
    """Send SIGKILL to every child of this process that is still there, without waiting for any.

    A fork knows its parent's children, too, and leaves them alone.

    For a process that leaves at once: no further child can be started after this.
    """
    _starting.acquire(timeout=GRACE_SECONDS)
    for child in list(_living):
        if child.is_running and child.pid is not None and child.started_by == os.getpid():
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
