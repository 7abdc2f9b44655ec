"""Torch lives in one Python and gpucheck in another: the usual case."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from interpreters import VERSIONS, interpreters
from torch_elsewhere import venv_with_the_stand_in, venv_with_torch

from gpucheck.snapshot import Training, Unknown
from gpucheck.workloads import deep
from gpucheck.workloads.plan import Plan
from gpucheck.workloads.smoke import Smoke

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
)


@pytest.fixture(scope="module")
def torch_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return venv_with_torch(tmp_path_factory.mktemp("users") / "venv")


def has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0


def smoke(*options: str, cache: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", "smoke", "--device", "cpu", "--json", *options],
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, "XDG_CACHE_HOME": str(cache), **variables},
    )


@needs_torch
@pytest.mark.torch
def test_a_training_needs_torch_and_nothing_else(torch_python: str, tmp_path: Path):
    assert has(torch_python, "torch")
    assert not has(torch_python, "msgspec")

    ended = smoke("--python", torch_python, "--data", "synthetic", cache=tmp_path)

    report = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert report["findings"] == []
    assert report["training"]["parity"] < 1e-5


@needs_torch
@pytest.mark.torch
def test_the_active_environments_torch_is_put_to_work_by_ranks_too(
    torch_python: str, tmp_path: Path
):
    active = str(Path(torch_python).parents[1])
    options = ("--data", "synthetic", "--strategy", "ddp", "--gpus", "2")

    ended = smoke(*options, cache=tmp_path, VIRTUAL_ENV=active)

    report = json.loads(ended.stdout)
    assert ended.returncode == 0, ended.stderr
    assert report["findings"] == []
    assert len(report["training"]["replicas"]) == 2


@needs_torch
@pytest.mark.torch
def test_the_deep_workload_needs_torch_and_nothing_else(torch_python: str):
    found, mapped = deep.run(torch_python, deadline_seconds=100)

    assert found.import_error is None
    assert found.device_count == 0
    assert isinstance(mapped, tuple)


def test_what_lies_in_our_packages_does_not_shadow_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    names = ("assignment", "channel", "training", "recipe", "mnist")
    for name in names:
        (tmp_path / f"{name}.py").write_text("mine = True")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text(
        f"import {', '.join(names)}\nassert {' and '.join(f'{name}.mine' for name in names)}\n"
        "raise ImportError('all mine')"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found, _ = deep.run(sys.executable, deadline_seconds=60)

    assert found.import_error == "ImportError: all mine"


@pytest.fixture(params=VERSIONS)
def other_python(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An environment of each Python that is here, with a stand-in for torch."""
    if request.param not in interpreters():
        pytest.skip(f"no other Python {request.param} on this machine")
    return venv_with_the_stand_in(tmp_path / "venv", interpreters()[request.param])


def test_the_deep_workload_runs_under_every_python(other_python: str):
    found, _ = deep.run(other_python, deadline_seconds=60)

    assert found.import_error is None
    assert found.is_available is False
    assert found.warning == "AssertionError: Torch not compiled with CUDA enabled"
    assert found.gpus == ()


def test_a_training_starts_under_every_python(other_python: str, tmp_path: Path):
    def train(**plan: Any) -> Training:
        with Smoke(Plan(cache=str(tmp_path), **plan), python=other_python) as started:
            return started.finish()

    training = train()
    ranks = train(strategy="ddp", gpus="1")

    for each in (training, ranks):
        assert each.torch == "2.0.0+cpu"
        assert each.cuda_unavailable == "torch 2.0.0+cpu is built without CUDA"
        assert each.gpus_visible == 0
        assert isinstance(each.accuracy, Unknown)
