"""Snapshots of real machines, and the reports that they give: the golden ones.

`make generated` writes the reports anew; look at the difference before committing.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "recorded"
MACHINES = sorted(path.stem for path in RECORDED.glob("*.json") if path.stem != "h200_nvml")


def report(name: str, *options: str) -> str:
    ended = subprocess.run(
        [
            Path(sys.executable).with_name("gpucheck"),
            "doctor",
            "--from",
            RECORDED / f"{name}.json",
            *options,
        ],
        capture_output=True,
        text=True,
        env={
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "84",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        },
        timeout=60,
    )
    assert ended.returncode in (0, 1), ended.stderr
    return ended.stdout


@pytest.mark.parametrize("name", MACHINES)
def test_a_recorded_machine_gives_its_golden_report(name: str):
    assert report(name, "-v") == (RECORDED / f"{name}.txt").read_text(encoding="utf-8")


def test_the_two_h200s_are_healthy_and_torch_gets_the_cudnn_of_its_wheel():
    found = json.loads(report("h200x2", "--json"))

    assert found["verdict"] == "healthy"
    assert [f for f in found["findings"] if f["severity"] != "info"] == []
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA H200", "NVIDIA H200"]
    assert found["host"]["driver"] == "580.159.04"
    assert found["host"]["torch_cuda"] == found["host"]["driver_cuda"] == "13.0"
    assert found["host"]["cudnn"] == "9.19.0"
    assert not [one for one in found["not_checked"] if one["kind"] != "by design"]


def test_a_machine_without_a_gpu_has_one_root():
    found = json.loads(report("no-gpu", "--json"))

    serious = [f["code"] for f in found["findings"] if f["severity"] != "info"]
    assert serious == ["DRV001"]
