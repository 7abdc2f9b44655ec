"""A probe in a process of its own costs nobody else anything, however it ends."""

import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from gpucheck.probes.apart import ProbeError, ProbeProcess, stream
from gpucheck.probes.child import Child
from gpucheck.usage_error import NoAnswerError, UsageError

T = TypeVar("T")


def probe_of(look: Callable[[], T]) -> ProbeProcess[T]:
    """A process that gives what *look* returns, and nothing more."""

    def probe() -> Iterator[T]:
        faulthandler.disable()  # pytest's own, which would print the crash that is meant
        yield look()

    return ProbeProcess("test", probe)


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def test_its_facts_come_over_with_every_byte():
    probe = probe_of(lambda: ("/opt/caf\udce9", 3))

    assert probe.facts(0, soon()) == ("/opt/caf\udce9", 3)
    assert probe.facts(0, soon()) == ("/opt/caf\udce9", 3)
    assert len(probe.elapsed_ms) == 1


def test_facts_come_one_after_another():
    def probe() -> Iterator[str]:
        faulthandler.disable()
        yield "first"
        os.kill(os.getpid(), signal.SIGBUS)
        yield "second"

    process = ProbeProcess("test", probe)

    assert process.facts(0, soon()) == "first"
    with pytest.raises(ProbeError, match="SIGBUS"):
        process.facts(1, soon())
    assert process.facts(0, soon()) == "first"


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV, signal.SIGKILL])
def test_one_that_dies_says_of_what(number: signal.Signals):
    probe = probe_of(lambda: os.kill(os.getpid(), number))

    with pytest.raises(ProbeError, match=f"the test probe was ended by {number.name}"):
        probe.facts(0, soon())


def test_one_that_never_ends_is_ended():
    probe = probe_of(lambda: time.sleep(60))

    began = time.monotonic()
    with pytest.raises(ProbeError, match="did not end in time"):
        probe.facts(0, soon(0.2))
    assert time.monotonic() - began < 2


def test_one_that_needs_too_much_memory_says_so():
    probe = probe_of(lambda: len(bytearray(8 << 30)))

    with pytest.raises(ProbeError, match="GiB of memory"):
        probe.facts(0, soon())


def nested(depth: int) -> int:
    return nested(depth + 1)


def test_one_that_fails_says_how():
    with pytest.raises(ProbeError, match="nested too deeply"):
        probe_of(lambda: nested(0)).facts(0, soon())
    with pytest.raises(ProbeError, match="ZeroDivisionError"):
        probe_of(lambda: 1 // 0).facts(0, soon())


def test_large_facts_come_whole():
    probe = probe_of(lambda: "x" * (8 << 20))

    assert len(probe.facts(0, soon())) == 8 << 20


def test_it_ends_none_of_its_parents_children():
    with Child(["sleep", "0.4"], deadline_seconds=5) as child:
        assert probe_of(lambda: 1).facts(0, soon()) == 1

        assert child.end().why is None


def test_a_stream_comes_piece_by_piece_to_its_end():
    assert list(stream(5, "files", lambda: range(3))) == [0, 1, 2]
    assert list(stream(5, "files", lambda: ())) == []


def test_a_stream_passes_on_what_it_met_after_what_it_gave():
    def pieces() -> Iterator[int]:
        yield 1
        raise UsageError("b.json: no such file")

    given = stream(5, "files", pieces)

    assert next(given) == 1
    with pytest.raises(UsageError, match="no such file"):
        next(given)


def test_each_piece_of_a_stream_has_its_own_deadline():
    def pieces() -> Iterator[int]:
        yield 1
        time.sleep(30)

    given = stream(0.2, "/mnt/dead", pieces)

    assert next(given) == 1
    with pytest.raises(NoAnswerError, match=r"/mnt/dead did not answer in 0.2 s"):
        next(given)


def test_a_stream_that_is_left_leaves_no_process():
    given = stream(5, "files", lambda: iter(os.getpid, None))
    worker = next(given)

    given.close()  # type: ignore[attr-defined]

    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
