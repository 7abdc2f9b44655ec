"""A child can hang, crash, flood and vanish: its parent is told, and never waits long."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from fakes import stuck

from gpucheck.probes import child as children
from gpucheck.probes.child import Child, kill_all, run


def shell(script: str, deadline_seconds: float = 10.0) -> children.Ended:
    return run(["/bin/sh", "-c", script], deadline_seconds=deadline_seconds)


def test_what_a_child_writes_and_how_it_ends_is_told():
    ended = shell("echo out; echo err >&2; exit 3")

    assert (ended.stdout, ended.stderr, ended.exit_code) == (b"out\n", b"err\n", 3)
    assert ended.why == "exit status 3"


def test_a_child_that_ends_well_needs_no_reason():
    assert shell("true").why is None


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_crash_is_told_by_its_signal(name: str):
    assert shell(f"kill -{name.removeprefix('SIG')} $$").why == f"crashed with {name}"


@pytest.mark.parametrize(
    "script", ["sleep 30", "trap '' TERM INT HUP; while :; do sleep 30; done", "sleep 30 & exit 0"]
)
def test_a_late_child_is_ended_within_the_deadline_and_a_second(script: str):
    began = time.monotonic()

    ended = shell(script, deadline_seconds=0.3)

    assert time.monotonic() - began < 1.3
    assert ended.why == "no answer in 0.3 s"


def test_what_a_late_child_started_is_ended_too():
    ended = shell("sleep 30 & echo $!; wait", deadline_seconds=0.3)

    grandchild = int(ended.stdout)
    for _ in range(100):
        if _state(grandchild) == "Z":
            break
        time.sleep(0.02)
    else:
        pytest.fail("the child of a late child lives on")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


def test_a_flood_is_cut_off():
    began = time.monotonic()

    ended = run(["yes"], deadline_seconds=20.0, limit_bytes=1 << 20)

    assert time.monotonic() - began < 10
    assert ended.why == "wrote more than 1 MiB"
    assert len(ended.stdout) == 1 << 20


def test_a_program_that_is_not_there_is_told():
    assert run(["/nonexistent"], deadline_seconds=1.0).why == (
        "could not start /nonexistent: No such file or directory"
    )


def test_lines_come_while_the_child_still_works():
    with Child(["/bin/sh", "-c", "echo one; sleep 30"], deadline_seconds=20.0) as child:
        began = time.monotonic()

        first = next(child.lines())

        assert first == b"one"
        assert time.monotonic() - began < 10


def test_a_child_that_falls_silent_is_late():
    with Child(["/bin/sh", "-c", "echo one; sleep 30"], deadline_seconds=20.0) as child:
        lines = list(child.lines(stall_seconds=0.3))

        ended = child.end()

    assert lines == [b"one"]
    assert ended.why == "no answer in 0.3 s"


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
def test_a_child_stuck_in_the_kernel_is_left_behind(tmp_path: Path):
    with stuck.stuck_file_system(tmp_path) as place:
        began = time.monotonic()

        ended = run(["cat", str(place / "file")], deadline_seconds=0.3)

        assert ended.why == "no answer in 0.3 s"
        assert time.monotonic() - began < 1.3


def test_nothing_is_left_of_a_child_that_is_not_waited_for():
    with Child([sys.executable, "-c", "import time; time.sleep(30)"], deadline_seconds=20.0) as c:
        pid = c.pid

    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)


def test_a_fork_that_ends_its_children_leaves_those_of_its_parent_alone():
    with Child([sys.executable, "-c", "import time; time.sleep(60)"], deadline_seconds=20) as child:
        pid = os.fork()
        if pid == 0:
            kill_all()
            os._exit(0)
        os.waitpid(pid, 0)

        assert child.pid is not None
        os.kill(child.pid, 0)
        assert not os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
