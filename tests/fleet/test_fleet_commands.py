"""The commands of `gpucheck fleet`, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

from gpucheck import snapshot_file
from machines import HEALTHY, gpu, machine

LOST = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="gone \x1b[31mred"))})


def fleet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", "fleet", *arguments],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
    )


def node(folder: Path, name: str, facts: object = HEALTHY) -> None:
    snapshot_file.save(snapshot_file.as_json(facts), folder / f"{name}.json")  # type: ignore[arg-type]


def test_a_healthy_fleet_exits_with_0(tmp_path: Path):
    for number in range(3):
        node(tmp_path, f"gpu{number}")

    done = fleet("judge", str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("3 of 3 nodes examined, 3 healthy")


def test_a_lost_gpu_is_named_with_its_node_and_no_control_sequence(tmp_path: Path):
    node(tmp_path, "gpu1")
    node(tmp_path, "gpu2", LOST)

    done = fleet("judge", str(tmp_path))

    assert done.returncode == 1
    assert "GPU001" in done.stdout
    assert "nodes gpu2" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_node_that_was_asked_and_gave_nothing_fails_the_fleet(tmp_path: Path):
    node(tmp_path, "gpu1")

    done = fleet("judge", str(tmp_path), "--asked", "gpu[1-2]", "--format", "json")

    report = json.loads(done.stdout)
    assert (done.returncode, report["verdict"], report["nodes"]) == (1, "incomplete", 2)
    assert [f["nodes"] for f in report["findings"] if f["code"] == "FLT003"] == ["gpu2"]
    assert fleet("judge", str(tmp_path), "--asked", "gpu[1-2]", "--allow-missing").returncode == 0


def test_runs_keep_a_history(tmp_path: Path):
    nodes, past = tmp_path / "nodes", tmp_path / "past"
    nodes.mkdir()
    for number in range(12):
        node(nodes, f"gpu{number}", LOST if number == 7 else HEALTHY)

    for _ in range(3):
        done = fleet("judge", str(nodes), "--history", str(past))

    assert "FLT012" in done.stdout
    assert len(list(past.iterdir())) == 3


def test_local_nodes_are_examined_kept_and_judged(tmp_path: Path):
    done = fleet(
        *("run", "quick", "--engine", "local", "--nodes", "a,b", "--out", str(tmp_path / "out")),
        *("--remote-command", f"{sys.executable} -m gpucheck"),
    )

    assert done.returncode in (0, 1), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == ["a.json", "b.json"]
    assert "2 of 2 nodes examined" in done.stdout


def test_a_wrong_call_is_one_line_and_2(tmp_path: Path):
    for arguments in (
        ["judge", str(tmp_path / "absent")],
        ["judge", str(tmp_path)],
        ["judge", str(tmp_path), "--asked", "gpu[3-1]"],
        ["run", "--out", str(tmp_path)],
        ["hook", "cron"],
        ["plan", "allreduce", "--nodes", "a,b"],
        ["run", "doctor", "--device", "cpu", "--nodes", "a", "--out", str(tmp_path / "o")],
        ["run", "allreduce", "--device", "tpu", "--nodes", "a", "--out", str(tmp_path / "o")],
    ):
        done = fleet(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), (arguments, done.stderr)


def test_a_plan_starts_nothing():
    done = fleet("plan", "--nodes", "gpu[1-2]")

    assert done.returncode == 0
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [
        "answers",
        "answers/gpu1.json",
        "answers/gpu2.json",
    ]
