"""Machines on which looking itself is hard: the report comes in time, true and clean."""

import json
import os
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from built.machine import MULTIARCH, SITE, TOOLKIT, BuiltMachine
from fakes.nvml import h200

pytestmark = pytest.mark.namespaces

TIMEOUT = 4.0
#: what Linux, the mounts and Python's own start add on a busy machine
SLACK = 4.0


def in_time(machine: BuiltMachine, *arguments: str) -> dict[str, Any]:
    began = time.monotonic()
    report = machine.doctor("--timeout", str(TIMEOUT), *arguments)
    assert time.monotonic() - began < TIMEOUT + 1 + SLACK
    assert report["elapsed_ms"]["total"] < (TIMEOUT + 1) * 1000
    return report


def codes(report: dict[str, Any]) -> set[str]:
    return {f["code"] for f in report["findings"] if f["severity"] != "info"}


@pytest.mark.parametrize("fault", ["hang", "crash", "exit"])
def test_whatever_cuinit_does_the_rest_is_told(machine: BuiltMachine, fault: str):
    machine.environment["FAKE_CUDA"] = f"cuInit={fault}"

    report = in_time(machine)

    assert report["host"]["driver"] == "580.159.04"
    assert len(report["gpus"]) == 2
    assert codes(report) == {"DRV009"}


def test_a_driver_that_prints_megabytes_works_all_the_same(machine: BuiltMachine):
    machine.environment["FAKE_CUDA"] = "cuInit=flood"

    report = in_time(machine)

    assert report["verdict"] == "healthy"


@pytest.mark.parametrize(
    "gpu",
    [
        h200().hangs("*", after=3),
        h200().hangs("*", deaf=True),
        h200().crashes("nvmlDeviceGetName"),
        h200().exits("nvmlDeviceGetName", 3),
        h200().lost(after=10),
    ],
    ids=["hangs", "hangs deaf", "crashes", "exits", "is lost"],
)
def test_whatever_one_gpu_does_the_others_are_told(machine: BuiltMachine, gpu: Any):
    machine.gpus = [h200(), gpu]

    report = in_time(machine)

    first, second = report["gpus"]
    assert first["state"] == "ok"
    assert first["temperature_celsius"] == 37
    assert second["state"] != "ok"
    assert codes(report) <= {"GPU001", "GPU002"}
    assert codes(report)


def test_a_library_that_prints_megabytes_and_garbage_changes_nothing(machine: BuiltMachine):
    machine.gpus = [h200().prints("nvmlDeviceGetName", 4 << 20), h200()]

    report = in_time(machine)

    assert report["verdict"] == "healthy"


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("sleep 60", "hangs"),
        ("kill -SEGV $$", "crashes"),
        ("head -c 20000000 /dev/urandom", "writes garbage by the megabyte"),
        ("exit 1", "fails"),
    ],
)
def test_whatever_nvcc_does_the_rest_is_told(machine: BuiltMachine, script: str, name: str):
    machine.write(f"{TOOLKIT}/bin/nvcc", f"#!/bin/sh\n{script}\n", mode=0o755)

    report = in_time(machine)

    assert len(report["gpus"]) == 2
    assert codes(report) <= {"CUD005"}


@pytest.mark.parametrize("script", ["sleep 60", "kill -SEGV $$", "head -c 20000000 /dev/urandom"])
def test_whatever_the_examined_python_does_the_rest_is_told(machine: BuiltMachine, script: str):
    machine.write("/opt/odd/bin/python3", f"#!/bin/sh\n{script}\n", mode=0o755)

    report = in_time(machine, "--python", "/opt/odd/bin/python3")

    assert len(report["gpus"]) == 2
    assert not codes(report) - {"TOR001"}


def test_a_cudnn_that_hangs_when_it_is_opened_costs_only_itself(machine: BuiltMachine):
    machine.compiled(
        f"{SITE}/nvidia/cudnn/lib/libcudnn.so.9",
        "int pause(void); __attribute__((constructor)) void start(void) { for (;;) pause(); }",
        *("-shared", "-fPIC", "-Wl,-soname,libcudnn.so.9"),
    )

    report = in_time(machine)

    assert len(report["gpus"]) == 2
    assert codes(report) <= {"LIB003", "DNN006"}


def test_without_any_tool_on_path_the_facts_still_come(machine: BuiltMachine):
    machine.environment["PATH"] = "/nonexistent"

    report = in_time(machine)

    assert report["host"]["driver"] == "580.159.04"
    assert len(report["gpus"]) == 2


HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x9b2J\u202eevil\r\n[bold]x[/bold] `|<b>"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def make_hostile(machine: BuiltMachine) -> None:
    text = HOSTILE.replace("\n", "")
    machine.write(f"{TOOLKIT}/version.json", json.dumps({"cuda": {"version": f"13.0{HOSTILE}"}}))
    machine.write(f"/opt/{text.replace('/', '')}/libcudnn.so.9", b"\x7fELF")
    machine.environment["LD_LIBRARY_PATH"] = f"/opt/{text.replace('/', '')}:/tmp/{text}"
    machine.environment["CUDA_HOME"] = f"/opt/{text}"
    machine.kernel_log(
        f"NVRM: Xid (PCI:0000:00:06): 79, pid=1, name=\\x1b[31m{text}, {text}",
        f"NVRM: Xid (PCI:0000:00:07): 999, {text}",
    )
    machine.gpus = [h200(name=f"NVIDIA {text}"), h200()]
    machine.write("/etc/os-release", f'PRETTY_NAME="{text}"\n')


@pytest.mark.parametrize("form", ["text", "markdown", "json"])
@pytest.mark.parametrize("verbose", [(), ("-v",)], ids=["short", "verbose"])
def test_hostile_text_never_reaches_the_reader_raw(
    machine: BuiltMachine, form: str, verbose: tuple[str, ...]
):
    make_hostile(machine)

    ended = machine.run("doctor", "--format", form, *verbose)

    assert ended.returncode in (0, 1), ended.stderr
    assert not CONTROL.search(ended.stdout)
    assert "owned" in ended.stdout
    if form == "json":
        assert json.loads(ended.stdout)["schema"] == "gpucheck.report/1"


def test_a_snapshot_of_a_hostile_machine_is_judged_the_same(machine: BuiltMachine):
    make_hostile(machine)
    there = machine.doctor()
    snapshot = machine.run("snapshot").stdout

    elsewhere = subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--json", "--from", "-"],
        input=snapshot,
        capture_output=True,
        text=True,
    )

    assert not elsewhere.stderr
    found = [f["code"] for f in json.loads(elsewhere.stdout)["findings"]]
    assert found == [f["code"] for f in there["findings"]]


def test_an_ordinary_user_without_a_home_in_a_c_locale_reads_a_clean_report(machine: BuiltMachine):
    machine.ordinary_user()
    for name in ("HOME", "LANG", "SHELL"):
        del machine.environment[name]
    machine.environment |= {"LC_ALL": "C", "COLUMNS": "60"}

    ended = machine.run("doctor", "-v")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()
    assert not ended.stderr
    assert max(map(len, ended.stdout.splitlines())) <= 60


def test_nothing_has_to_be_written(machine: BuiltMachine):
    machine.read_only = True

    ended = machine.run("doctor", refresh_cache=False)

    assert ended.returncode == 0, ended.stderr
    assert not ended.stderr
    assert "Healthy" in ended.stdout


def test_a_reader_that_leaves_early_hears_no_complaint(machine: BuiltMachine):
    ended = machine.execute(
        ["/bin/sh", "-c", f"{sys.executable} -m gpucheck doctor -v | head -1; echo end"], {}
    )

    assert ended.stdout.splitlines()[0].startswith("gpucheck")
    assert ended.stdout.endswith("end\n")
    assert not ended.stderr


def test_no_secret_of_the_machine_is_in_a_snapshot(machine: BuiltMachine):
    machine.environment["SECRET_TOKEN"] = "hunter2"
    machine.environment["CUDA_HOME"] = "/home/user/cuda"

    snapshot = machine.run("snapshot").stdout

    assert "hunter2" not in snapshot
    assert os.uname().nodename not in re.findall(r'"name":"([^"]*)"', snapshot)
    assert "/home/user" not in snapshot
    assert "GPU-00000001-0000" not in snapshot
    assert "1650923" not in snapshot


def test_the_driver_library_of_a_module_system_is_found_where_it_says(machine: BuiltMachine):
    """A driver container's folder, that LD_LIBRARY_PATH alone leads to."""
    for name in ("libcuda", "libnvidia-ml"):
        built = machine.layer / f"{MULTIARCH}/{name}.so.580.159.04".lstrip("/")
        machine.write(f"/run/nvidia/lib/{name}.so.580.159.04", built.read_bytes(), mode=0o755)
        machine.link(f"/run/nvidia/lib/{name}.so.1", f"{name}.so.580.159.04")
        for ending in (".so", ".so.1", ".so.580.159.04"):
            machine.remove(f"{MULTIARCH}/{name}{ending}")
    machine.environment["LD_LIBRARY_PATH"] = "/run/nvidia/lib"

    report = machine.doctor()

    assert report["verdict"] == "healthy", report["findings"]
    assert len(report["gpus"]) == 2
