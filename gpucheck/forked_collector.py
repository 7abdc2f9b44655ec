"""Looks at the machine in a process of its own, so that nothing on it can hold ours up.

A thread that waits for a dead file system can be left behind, but the process that it belongs to
cannot exit. So the process that reads files is a fork of the one that prints: it sends the facts
when they are there, and if it is stuck in the kernel by then, it is left behind like any child. The
parent, meanwhile, is free to import what it will judge and print with.

The fork comes before nearly all imports, and the children that ask cuInit and NVML right after it:
nobody gets an answer sooner than they give it, so they have to be asked first.
"""

import os
import select
import signal
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from gpucheck.pending import Board
from gpucheck.scope import Scope
from gpucheck.usage_error import CollectionError

if TYPE_CHECKING:
    from gpucheck.snapshot import Snapshot

#: What the examination may take beyond its own deadline to send what it knows.
SENDING_SECONDS = 0.9
_GRACE_SECONDS = 0.25
_STILL_THERE = "broke off"
_SIZE = struct.Struct("=Q")


#: What a collector that has sent all may take until the kernel has taken its children down.
_REAPING_SECONDS = 0.5

_begun: "list[ForkedCollector]" = []


def begin(scope: Scope) -> "ForkedCollector":
    """Start an examination that `end_all` ends; the one of this *scope* that runs is taken."""
    for collector in _begun:
        if collector.scope == scope:
            return collector
    collector = ForkedCollector(scope)
    _begun.append(collector)
    return collector


def end_all() -> None:
    """End what `begin` began: after the report is out, for that waits for the last child to go."""
    while _begun:
        _begun.pop().end()


class ForkedCollector:
    """An examination under way in another process."""

    def __init__(self, scope: Scope, *, look: "Callable[[], Snapshot] | None" = None) -> None:
        """Start it. The caller must have no threads (it forks).

        *look* is called in place of `collect`. What it returns comes over with every byte of a
        path, be it Unicode or not.
        """
        if look is None:  # a site's modules are loaded here: the fork has them, and no thread yet
            from gpucheck.probes import plugin_search

            if plugin_search.has_any():
                from gpucheck.probes import plugins

                plugins.loaded()
        self.scope = scope
        self.ends_at = time.monotonic() + scope.seconds
        self._until = self.ends_at + SENDING_SECONDS
        self._board = Board()
        self._is_exact = look is not None
        self._is_over = False
        self._sent_all = False
        parent = os.getpid()
        try:
            self._pipe, sending = os.pipe()
            self._pid = os.fork()
        except OSError as error:
            why = f"the examination could not be started: {error.strerror}"
            raise CollectionError(_with_lack(why)) from None
        if self._pid == 0:
            os.close(self._pipe)
            _examine(sending, parent, scope, look, self._board)
        os.close(sending)

    def __enter__(self) -> "ForkedCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the collector and all that it started."""
        if self._is_over:
            return
        self._is_over = True
        os.close(self._pipe)
        if self._sent_all and self._reap(_GRACE_SECONDS) != _STILL_THERE:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):  # a stopped process takes only the second
            try:
                os.kill(self._pid, number)
            except ProcessLookupError:
                return
            if self._reap(_GRACE_SECONDS) != _STILL_THERE:
                return

    def pending(self) -> str:
        """Return what the examination still waits for: "cuInit, nvml"."""
        return self._board.read()

    def facts(self) -> "Snapshot":
        """Wait for the facts. ExaminationError: none came (what one probe lost is a fact)."""
        import msgspec

        from gpucheck.snapshot import Snapshot

        data = self._receive()
        self._sent_all = bool(data)
        if data is None:
            raise CollectionError("the examination did not end in time")
        if not data:
            raise CollectionError(_with_lack(f"the examination {self._reap(_GRACE_SECONDS)}"))
        if self._is_exact:
            import pickle

            machine: Snapshot = pickle.loads(data)  # noqa: S301 - our own fork's
            return machine
        return msgspec.msgpack.decode(data, type=Snapshot)

    def _receive(self) -> bytes | None:
        """Return what was sent; None where it did not come in time, b"" where it broke off."""
        received = bytearray()
        while len(received) < _SIZE.size or len(received) < self._size(received):
            left = self._until - time.monotonic()
            if left <= 0 or not select.select([self._pipe], [], [], left)[0]:
                return None
            chunk = os.read(self._pipe, 1 << 16)
            if not chunk:
                return b""
            received += chunk
        return bytes(received[_SIZE.size :])

    @staticmethod
    def _size(received: bytearray) -> int:
        (size,) = _SIZE.unpack_from(received)
        return _SIZE.size + int(size)

    def _reap(self, seconds: float) -> str:
        """Say how the process ended, waiting at most *seconds* for that."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                return "has ended"
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return f"ended with status {code}" if code >= 0 else f"was ended by signal {-code}"
            time.sleep(0.005)
        return _STILL_THERE


def _with_lack(why: str) -> str:
    from gpucheck.poverty import lack

    return f"{why}; {lacking}" if (lacking := lack()) else why


def _examine(
    sending: int,
    parent: int,
    scope: Scope,
    look: "Callable[[], Snapshot] | None",
    board: Board,
) -> NoReturn:
    """Be the process that looks; it never returns into its parent's code."""
    try:
        from gpucheck.probes.child import die_with, reap_left

        die_with(parent)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
        signal.signal(signal.SIGTERM, _leave)
        # A closed terminal ends us too; our children, in sessions of their own, it would leave.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # unless run by nohup
            signal.signal(signal.SIGHUP, _leave)
        # Whoever reads the report must not wait for a process that is stuck.
        try:
            null = os.open(os.devnull, os.O_RDWR)
        except OSError:  # a machine without /dev/null is examined too
            null = os.memfd_create("null")
        for descriptor in range(3):
            os.dup2(null, descriptor)
        if look is not None:
            import pickle

            data = pickle.dumps(look())
        else:
            from gpucheck.probes.first_children import Children

            children = Children.start(scope)

            from gpucheck.collect import collect

            data = _packed(collect(scope, children=children, board=board))
        with os.fdopen(sending, "wb") as pipe:
            pipe.write(_SIZE.pack(len(data)) + data)
        reap_left(_REAPING_SECONDS)
    except BaseException:  # noqa: BLE001 - a fork must never run on as its parent
        _leave()
    os._exit(0)


def _packed(machine: "Snapshot") -> bytes:
    """Return *machine* as msgpack. What is no Unicode in a path or a variable becomes "�"."""
    import msgspec

    try:
        return msgspec.msgpack.encode(machine)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(_as_unicode(msgspec.to_builtins(machine)))


def _as_unicode(tree: object) -> object:
    if isinstance(tree, str):
        return "".join("\ufffd" if "\ud800" <= letter <= "\udfff" else letter for letter in tree)
    if isinstance(tree, (list, tuple)):
        return [_as_unicode(item) for item in tree]
    if isinstance(tree, dict):
        return {_as_unicode(key): _as_unicode(value) for key, value in tree.items()}
    return tree


def _leave(*_: object) -> NoReturn:
    from gpucheck.probes import child

    child.kill_all()
    os._exit(1)
