"""What gpucheck itself may not have is no fault of the machine: not checked, and incomplete."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from built.machine import BuiltMachine
from fakes.nvml import FakeNvml
from soak import IS_SOAK, rounds

pytestmark = pytest.mark.namespaces

LAUNCHER = """
import json, os, resource, sys
for name, value in json.loads(sys.argv[1]).items():
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
os.execv(sys.executable, [sys.executable, "-m", "gpucheck", *sys.argv[2:]])
"""
MIB = 1 << 20
LIMITS = [
    *({"NOFILE": count} for count in range(8, 17)),
    *({"NOFILE": count} for count in (5, 6, 7, *range(17, 26), 64) if IS_SOAK),
    *({"AS": size * MIB} for size in (60, 100, 150, 250, 400)),
    *({"AS": size * MIB} for size in (40, 80, 120, 200, 300, 600, 900) if IS_SOAK),
    *({"DATA": size * MIB} for size in (10, 40, 80)),
]
#: Of one user, all of whose processes and threads are counted: those of this test alone.
PROCESSES = [{"NPROC": count} for count in (range(1, 25) if IS_SOAK else (1, 3, 6, 10, 15))]


def under(machine: BuiltMachine, limits: dict[str, int], *words: str) -> Any:
    reported = Path(tempfile.mkdtemp(dir=machine.place))
    reported.chmod(0o755)
    fake = FakeNvml(reported, machine.gpus, installed=False, **machine.nvml_options)
    command = [sys.executable, "-c", LAUNCHER, json.dumps(limits), *words]
    return machine.execute(
        ["/bin/sh", "-c", '/sbin/ldconfig 2>/dev/null; exec "$@"', "sh", *command],
        {"FAKE_NVML": str(fake.reported)},
        timeout=rounds(60, 600),
    )


def faults(ended: Any) -> str:
    """What is wrong with a report of a healthy machine, or with the line in its place."""
    if ended.returncode == 3 and not ended.stdout:
        lines = ended.stderr.splitlines()
        return "" if len(lines) == 1 and lines[0].startswith("gpucheck: ") else ended.stderr
    if ended.stderr:
        return str(ended.stderr)
    report = json.loads(ended.stdout)
    found = [
        f"{one['code']}: {one['saw']}" for one in report["findings"] if one["severity"] != "info"
    ]
    if found:
        return f"blamed on the machine: {found}"
    silent = [one["why"] for one in report["not_checked"] if one["kind"] == "no answer"]
    if report["verdict"] == "healthy" and silent:
        return f"healthy, and no answer: {silent}"
    return ""


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_a_limit_of_ours_is_not_blamed_on_the_machine(
    machine: BuiltMachine, limits: dict[str, int]
):
    assert faults(under(machine, limits, "doctor", "--json")) == ""


@pytest.mark.parametrize("limits", PROCESSES, ids=str)
def test_processes_that_may_not_be_started_are_not_blamed_on_the_machine(
    machine: BuiltMachine, limits: dict[str, int]
):
    machine.ordinary_user(uid=54000 + limits["NPROC"])

    assert faults(under(machine, limits, "doctor", "--json")) == ""


def test_a_machine_that_takes_no_file_from_us_is_examined_all_the_same(machine: BuiltMachine):
    ended = under(machine, {"FSIZE": 0}, "doctor", "--json")

    assert faults(ended) == ""
    assert json.loads(ended.stdout)["verdict"] == "healthy"


def test_limits_as_they_mostly_are_leave_a_healthy_machine_healthy(machine: BuiltMachine):
    ended = under(machine, {"NOFILE": 1024, "STACK": MIB, "MEMLOCK": 0}, "doctor", "--json")

    assert json.loads(ended.stdout)["verdict"] == "healthy"
