"""The whole examination in a process of its own: it comes back whatever the machine does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from fakes import stuck

from gpucheck.snapshot import Snapshot, Unknown

PROGRAM = """
import sys, msgspec
from gpucheck.forked_collector import ForkedCollector
from gpucheck.scope import Scope
with ForkedCollector(Scope({options})) as examination:
    sys.stdout.buffer.write(msgspec.json.encode(examination.facts()))
"""


def look(options: str, **variables: str) -> tuple[Snapshot, float]:
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(options=options)],
        capture_output=True,
        env={**os.environ, **variables},
        timeout=60,
    )
    took = time.monotonic() - began
    assert ended.returncode == 0, ended.stderr.decode()
    return msgspec.json.decode(ended.stdout, type=Snapshot), took


def test_the_facts_come_over():
    machine, _ = look("quick=True, expect_gpus=3")

    assert machine.host.system == "Linux"
    assert machine.expected_gpus == 3
    assert machine.driver.cuda_init is None


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
def test_a_home_on_a_dead_file_system_costs_only_what_lies_there(tmp_path: Path):
    with stuck.stuck_file_system(tmp_path) as home:
        machine, took = look("timeout_seconds=2.0", HOME=str(home))

    assert took < 5.0
    assert isinstance(machine.startup_files.files, Unknown)
    assert machine.host.system == "Linux"
    assert not isinstance(machine.environment.path, Unknown)


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
def test_whoever_reads_our_output_does_not_wait_for_what_is_stuck(tmp_path: Path):
    with stuck.stuck_file_system(tmp_path) as home:
        began = time.monotonic()

        ended = subprocess.run(
            [sys.executable, "-m", "gpucheck", "doctor", "--timeout", "2"],
            capture_output=True,
            env={**os.environ, "HOME": str(home)},
            timeout=30,
        )

    assert time.monotonic() - began < 5.0
    assert ended.returncode in (0, 1)
    assert ended.stdout


def test_an_examination_that_breaks_off_is_our_failure_and_never_healthy():
    crash = (
        "import gpucheck.collect, os, sys; module = sys.modules['gpucheck.collect']; "
        "module.collect = lambda *_, **__: os.abort()"
    )
    program = (
        f"{crash}; import sys; sys.argv = ['gpucheck', 'doctor']; import gpucheck.__main__ as m"
    )

    ended = subprocess.run(
        [sys.executable, "-c", f"{program}; m.main()"], capture_output=True, text=True, timeout=60
    )

    assert ended.returncode == 3
    assert not ended.stdout
    assert "the examination was ended by signal 6" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("which", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGHUP, -signal.SIGHUP)],
    ids=["Ctrl-C", "timeout", "closed terminal"],
)
def test_whatever_ends_gpucheck_ends_what_it_started(tmp_path: Path, which: int, status: int):
    if signal.getsignal(which) is signal.SIG_IGN:
        pytest.skip(f"signal {which} is ignored here")
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    python.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-m", "gpucheck", "doctor", "--python", str(python)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as doctor:
        for _ in range(400):
            if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().strip():
                break
            time.sleep(0.02)
        else:
            doctor.kill()
            pytest.skip("the examined Python needed no child")
        os.killpg(doctor.pid, which)
        doctor.communicate(timeout=10)

    assert doctor.returncode == status
    grandchild = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{grandchild}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    pytest.fail("what the examination started lives on")
