"""Wherever and by whomever it is called: a true report, or one line that says why there is none."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from built.machine import BuiltMachine
from soak import rounds

pytestmark = pytest.mark.namespaces

VARIABLES: dict[str, dict[str, str]] = {
    "HOME is ~": {"HOME": "~"},
    "HOME is empty": {"HOME": ""},
    "HOME is not there": {"HOME": "/nonexistent"},
    "HOME is a file": {"HOME": "/etc/passwd"},
    "Turkish": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
    "Japanese, in EUC": {"LC_ALL": "ja_JP.eucJP"},
    "no such locale": {"LC_ALL": "xx_YY.UTF-16"},
}


def faults(ended: Any) -> str:
    """What is wrong with a report of a healthy machine."""
    if ended.returncode != 0 or ended.stderr:
        return f"ended with {ended.returncode}: {ended.stderr}"
    report = json.loads(ended.stdout)
    return "" if report["verdict"] == "healthy" else str(report["findings"])


@pytest.mark.parametrize("name", VARIABLES)
def test_odd_variables_change_no_verdict(machine: BuiltMachine, name: str):
    machine.environment |= VARIABLES[name]

    assert faults(machine.run("doctor", "--json")) == ""


def test_nobody_gets_a_report(machine: BuiltMachine):
    machine.ordinary_user(uid=65534)
    machine.environment["HOME"] = "/nonexistent"

    assert faults(machine.run("doctor", "--json")) == ""


@pytest.mark.parametrize("width", ["1", "20", "40", "1000"])
def test_the_text_is_written_for_any_width(machine: BuiltMachine, width: str):
    machine.environment["COLUMNS"] = width

    ended = machine.run("doctor", "-v")

    assert ended.returncode == 0
    assert not ended.stderr
    assert "Healthy" in " ".join(ended.stdout.split())


def test_without_proc_nothing_is_invented(machine: BuiltMachine):
    """A chroot in which nobody mounted /proc: neither driver nor mounts can be seen."""
    doctor = [sys.executable, "-m", "gpucheck", "doctor", "--json", "--timeout", "60"]
    ended = machine.execute(["/bin/sh", "-c", 'umount -l /proc && exec "$@"', "sh", *doctor], {})

    assert ended.returncode in (0, 1), ended.stderr
    assert not ended.stderr
    report = json.loads(ended.stdout)
    assert not [one for one in report["not_checked"] if "gpucheck's own" in one["why"]]


def test_a_start_up_file_of_many_megabytes_costs_only_itself(machine: BuiltMachine):
    machine.write("/root/.bashrc", "export PATH=$PATH:/opt/x/bin:$PATH\n" * (15 << 15))
    machine.environment["HOME"] = "/root"

    report = machine.doctor("--timeout", "60")

    assert report["verdict"] == "healthy"
    assert [one for one in report["not_checked"] if "larger than 512 KiB" in one["why"]]


@pytest.mark.timeout(1800)
def test_many_doctors_at_once_hold_up_each_other_by_no_more_than_their_work():
    count = rounds(20, 200)

    def examined(_: int) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "gpucheck", "doctor", "--quick", "--json", "--timeout", "120"],
            env={**os.environ, "LD_LIBRARY_PATH": ""},
            capture_output=True,
            text=True,
        )
        if ended.returncode not in (0, 1) or ended.stderr:
            return f"ended with {ended.returncode}: {ended.stderr}"
        late = [one["why"] for one in json.loads(ended.stdout)["not_checked"]]
        return "; ".join(why for why in late if "in time" in why or "own probe failed" in why)

    with ThreadPoolExecutor(count) as pool:
        assert [each for each in pool.map(examined, range(count)) if each] == []
