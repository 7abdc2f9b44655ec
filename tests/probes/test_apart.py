"""A probe in a process of its own costs nobody else anything, however it ends."""

import os
import signal
import time

import pytest

from gpucheck.probes.apart import ProbeError, ProbeProcess


def soon(seconds: float = 5.0) -> float:
    return time.monotonic() + seconds


def test_its_facts_come_over_with_every_byte():
    probe = ProbeProcess("test", lambda: ("/opt/caf\udce9", 3))

    assert probe.facts(soon()) == ("/opt/caf\udce9", 3)
    assert probe.facts(soon()) == ("/opt/caf\udce9", 3)
    assert probe.elapsed_ms is not None


@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGSEGV, signal.SIGKILL])
def test_one_that_dies_says_of_what(number: signal.Signals):
    probe = ProbeProcess("test", lambda: os.kill(os.getpid(), number))

    with pytest.raises(ProbeError, match=f"the test probe was ended by {number.name}"):
        probe.facts(soon())


def test_one_that_never_ends_is_ended():
    probe = ProbeProcess("test", lambda: time.sleep(60))

    began = time.monotonic()
    with pytest.raises(ProbeError, match="did not end in time"):
        probe.facts(soon(0.2))
    assert time.monotonic() - began < 2


def test_one_that_needs_too_much_memory_says_so():
    probe = ProbeProcess("test", lambda: len(bytearray(8 << 30)))

    with pytest.raises(ProbeError, match="GiB of memory"):
        probe.facts(soon())


def nested(depth: int) -> int:
    return nested(depth + 1)


def test_one_that_fails_says_how():
    with pytest.raises(ProbeError, match="nested too deeply"):
        ProbeProcess("test", lambda: nested(0)).facts(soon())
    with pytest.raises(ProbeError, match="ZeroDivisionError"):
        ProbeProcess("test", lambda: 1 // 0).facts(soon())


def test_large_facts_come_whole():
    probe = ProbeProcess("test", lambda: "x" * (8 << 20))

    assert len(probe.facts(soon())) == 8 << 20
