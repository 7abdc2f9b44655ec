"""The smoke training on real GPUs; skipped where torch sees none."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interpreters import patched_python


@functools.cache
def gpus() -> int:
    """How many GPUs torch sees, asked in a child."""
    program = "import torch; print(torch.cuda.device_count())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return int(ended.stdout) if ended.returncode == 0 else 0


pytestmark = [pytest.mark.gpu, pytest.mark.torch]


@pytest.fixture(autouse=True)
def a_gpu() -> None:
    if not gpus():
        pytest.skip("torch sees no GPU here")


def smoke(digits: Path, tmp_path: Path, *options: str, fault: str = "", expect: int = 0) -> Any:
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    if fault:
        variables["GPUCHECK_TEST_FAULT"] = fault
        faults = Path(__file__).with_name("faults.py").read_text()
        options = (*options, "--python", patched_python(tmp_path / "faulty", "training", faults))
    ended = subprocess.run(
        [sys.executable, "-m", "gpucheck", "smoke", "--data", str(digits), "--json", *options],
        capture_output=True,
        text=True,
        timeout=110,
        env=variables,
    )
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def training_codes(report: Any) -> list[str]:
    return [f["code"] for f in report["findings"] if f["code"].startswith("TRN")]


def needs(count: int) -> None:
    if gpus() < count:
        pytest.skip(f"torch sees fewer than {count} GPUs here")


@pytest.mark.parametrize("wanted", ["all", "0,", "1"])
def test_the_gpus_that_are_there_train_alike(digits: Path, tmp_path: Path, wanted: str):
    report = smoke(digits, tmp_path, "--gpus", wanted)

    training = report["training"]
    assert training_codes(report) == []
    assert training["parity"] <= 1e-5
    assert training["losses"][-1] < 1.466
    assert len(training["replicas"]) == (gpus() if wanted == "all" else 1)


def test_four_replicas_fit_on_two_gpus(digits: Path, tmp_path: Path):
    needs(2)

    report = smoke(digits, tmp_path, "--gpus", "0,1,0,1")

    assert training_codes(report) == []
    assert report["training"]["parity"] <= 1e-5
    assert [one["images"] for one in report["training"]["replicas"]] == [15_000] * 4
    for gpu in report["training"]["per_gpu"]:
        assert gpu["share"] == 0.5
        assert gpu["memory_used_maximum_bytes"] > 64 << 20


def test_ranks_over_nccl_train_alike(digits: Path, tmp_path: Path):
    needs(2)

    report = smoke(digits, tmp_path, "--gpus", "2", "--strategy", "ddp")

    assert training_codes(report) == []
    assert report["training"]["parity"] <= 1e-5


def test_more_gpus_than_there_are_is_an_error(digits: Path, tmp_path: Path):
    report = smoke(digits, tmp_path, "--gpus", str(gpus() + 1), expect=1)

    assert training_codes(report) == ["TRN006"]


def test_a_gpu_that_computes_wrongly_is_named(digits: Path, tmp_path: Path):
    needs(2)

    report = smoke(digits, tmp_path, "--gpus", "0,1", fault="wrong gpu:1", expect=1)

    [parity] = [f for f in report["findings"] if f["code"] == "TRN003"]
    assert parity["subject"] == "gpu 1"


def test_a_copy_that_flips_a_bit_names_the_pair(digits: Path, tmp_path: Path):
    needs(2)

    report = smoke(digits, tmp_path, "--gpus", "0,1", fault="flipped bit:1", expect=1)

    [copy] = [f for f in report["findings"] if f["code"] == "LNK014"]
    assert copy["subject"] == "gpu 0 → gpu 1"


def test_a_kernel_that_never_ends_is_a_hang(digits: Path, tmp_path: Path):
    options = ["--gpus", "0,", "--timeout", "10"]

    report = smoke(digits, tmp_path, *options, fault="hang on gpu:50", expect=1)

    [hang] = [f for f in report["findings"] if f["code"] == "TRN005"]
    assert hang["subject"] == "gpu 0"


def test_memory_that_runs_out_names_the_gpu(digits: Path, tmp_path: Path):
    report = smoke(digits, tmp_path, "--gpus", "0,", fault="out of memory:20", expect=1)

    [memory] = [f for f in report["findings"] if f["code"] == "TRN010"]
    assert memory["subject"] == "gpu 0"
