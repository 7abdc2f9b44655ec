"""The bench on the CPU: the same program, small sizes, and faults slipped in."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interpreters import patched_python

from gpucheck.bench import _refuse_where_nothing_was_measured
from gpucheck.report import examine
from gpucheck.snapshot import Bench, Figure, Snapshot, Unknown
from gpucheck.usage_error import UsageError
from gpucheck.workloads import bench as benches
from gpucheck.workloads.bench import BenchPlan, BenchPlanError, BenchRun

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]


def run(python: str = sys.executable, **plan: Any) -> Bench:
    with BenchRun(BenchPlan(device="cpu", **plan), python=python) as started:
        return started.measure()


def of(bench: Bench, measure: str) -> list[Figure]:
    assert isinstance(bench.figures, tuple)
    return [one for one in bench.figures if one.measure == measure]


def test_every_measure_is_made_on_every_gpu_and_between_every_two():
    bench = run(gpus="2")

    assert isinstance(bench.figures, tuple)
    assert all(isinstance(one.value, float) and one.value > 0 for one in bench.figures)
    assert not [one for one in bench.figures if one.wrong]
    for measure in ("fp32", "bf16", "memory", "h2d", "d2h", "h2d together"):
        assert [one.gpus for one in of(bench, measure)] == [(0,), (1,)], measure
    assert [one.gpus for one in of(bench, "peer")] == [(0, 1), (1, 0)]
    assert [one.gpus for one in of(bench, "all-reduce")] == [(0, 1)]


def test_a_copy_that_changes_a_word_is_found(tmp_path: Path):
    spoil = """
faithful = timed
def timed(work, device, **times):
    found = faithful(work, device, **times)
    names = work.__code__.co_freevars
    if "arrived" in names:
        work.__closure__[names.index("arrived")].cell_contents[5] ^= 4
    return found
"""

    bench = run(patched_python(tmp_path, "bench", spoil), only=("peer",))

    assert of(bench, "peer")[0].wrong == "1 of 131,072 words differ, first at 5"


def test_an_all_reduce_that_adds_up_wrongly_is_found(tmp_path: Path):
    spoil = """
import torch as _torch
right = _torch.sum
def wrong(*given, out=None, **more):
    right(*given, out=out, **more)
    if out is not None:
        out[7] += 1
_torch.sum = wrong
"""

    bench = run(patched_python(tmp_path, "bench", spoil), only=("allreduce",))

    assert "sums on GPU 0 are wrong" in str(of(bench, "all-reduce")[0].wrong)


ON_GPU_1 = """
import os, signal, time as _time
whole = gemm
def gemm(gpu, **order):
    if gpu == 1:
        {act}
    return whole(gpu, **order)
MEASURES["gemm"] = gemm
"""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benches, "_ANSWER_SECONDS", 6.0)


@pytest.mark.parametrize(
    ("act", "why"),
    [
        ("_time.sleep(3600)", "no answer in 6 s"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crashed with SIGKILL"),
        ("raise RuntimeError('CUDA error: unspecified launch failure')", "unspecified launch"),
    ],
)
def test_a_gpu_that_hangs_or_dies_costs_only_itself(
    tmp_path: Path, impatient: None, act: str, why: str
):
    python = patched_python(tmp_path, "bench", ON_GPU_1.format(act=act))

    bench = run(python, gpus="2", only=("gemm",))

    sound, broken = of(bench, "fp32")
    assert isinstance(sound.value, float)
    assert isinstance(broken.value, Unknown)
    assert why in broken.value.why


def test_a_gpu_that_was_slow_is_measured_once_more_alone(tmp_path: Path):
    """Slow in company and right alone: that is chance, or the neighbors."""
    slow_once = """
whole, times = memory, []
def memory(gpu, **order):
    found = whole(gpu, **order)
    times.append(1)
    if gpu == 1 and len(times) == 1:
        found["value"] = 1e-3
    return found
MEASURES["memory"] = memory
"""

    bench = run(patched_python(tmp_path, "bench", slow_once), gpus="2", only=("memory",))

    _, second = of(bench, "memory")
    assert second.value == 1e-3
    assert isinstance(second.repeated, float)
    assert second.best == second.repeated


@pytest.mark.parametrize("plan", [{"gpus": "two"}, {"gpus": "0,0"}, {"only": ("gemm", "speed")}])
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, Any]):
    with pytest.raises(BenchPlanError):
        BenchRun(BenchPlan(**plan))


# --------------------------------------------------------------------------------- the command


def command(*options: str, home: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", "bench", *options],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "XDG_STATE_HOME": str(home)},
    )


def test_the_command_prints_a_table_keeps_a_baseline_and_writes_facts(tmp_path: Path):
    facts = tmp_path / "facts.json"
    options = ("--device", "cpu", "--gpus", "1", "--only", "memory", "--save-baseline")

    first = command(*options, "--snapshot", str(facts), home=tmp_path)
    second = command(*options, "--json", home=tmp_path)

    assert first.returncode == 0, first.stderr
    assert "MEASURED ON THE CPU: NO GPU WAS MEASURED." in first.stdout
    assert "memory" in first.stdout
    report = json.loads(second.stdout)
    assert report["verdict"] == "rehearsal"
    assert [one["measure"] for one in report["bench"]["figures"]] == ["memory"]
    assert json.loads(facts.read_text())["bench"]["device"] == "cpu"
    kept = json.loads((tmp_path / "gpucheck/bench.json").read_text())
    assert len(kept) == 2
    assert len({run["key"] for run in kept}) == 1


def test_a_wrong_call_is_refused_in_one_line(tmp_path: Path):
    ended = command("--device", "cpu", "--only", "speed", home=tmp_path)

    assert ended.returncode == 2
    assert ended.stderr.splitlines() == [
        "gpucheck: --only speed: choose among gemm, memory, copy, peer, allreduce"
    ]


def test_a_gpu_on_which_somebody_computes_is_left_alone():
    plan = BenchPlan(device="cpu", gpus="2", only=("memory",))

    with BenchRun(plan, python=sys.executable) as started:
        bench = started.measure(busy={1: "another process works on the GPU (pid 7)"})

    assert [one.gpus for one in of(bench, "memory")] == [(0,)]
    [left] = of(bench, "start")
    assert (left.gpus, left.value) == ((1,), Unknown("another process works on the GPU (pid 7)"))


def measured(*figures: Figure) -> Bench:
    return Bench(gpus=(), figures=figures)


def start(why: str) -> Figure:
    return Figure(measure="start", gpus=(0,), size=0, value=Unknown(why))


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ((), "CUDA shows no GPU"),
        ((start("another process works on the GPU (pid 7)"),), "pid 7"),
        ((start("import torch: ModuleNotFoundError: No module named 'torch'"),), "has no torch"),
        ((start("AssertionError: Torch not compiled with CUDA enabled"),), "not compiled"),
    ],
)
def test_where_nothing_was_measured_there_is_no_verdict(figures: tuple[Figure, ...], said: str):
    with pytest.raises(UsageError, match=said):
        _refuse_where_nothing_was_measured(Snapshot(), measured(*figures))


def test_a_single_gpu_that_did_not_answer_is_judged():
    _refuse_where_nothing_was_measured(Snapshot(), measured(start("no answer in 30 s")))

    report = examine(Snapshot(bench=measured(start("no answer in 30 s"))), select=("PRF",))

    assert report.verdict == "broken"


def test_a_python_without_torch_is_refused_with_the_line_that_installs_it(tmp_path: Path):
    made = [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")]
    subprocess.run(made, check=True)
    python = str(tmp_path / "bare/bin/python")

    ended = command("--device", "cpu", "--python", python, home=tmp_path)

    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert f"{python} has no torch. Install it: " in line
