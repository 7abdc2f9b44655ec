"""On real GPUs: in an environment that is set wrongly, the doctor says what torch then does.

Each row is an environment; torch is put to work in it, in its own Python, and the doctor's verdict
has to agree: no error where all work passes, an error where any fails; and the libcuda that it
predicts is the one that torch's process has mapped. GPUCHECK_TORCH_PYTHON names the Python.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not Path("/proc/driver/nvidia/version").exists(), reason="no NVIDIA driver is loaded here"
    ),
]

TOOLKIT = Path("/usr/local/cuda")
SYSTEM = Path("/usr/lib/x86_64-linux-gnu")
WORK = """
import json, os, sys
failed, count, libcuda = [], None, None
def attempt(name, work):
    try:
        return work()
    except BaseException as error:
        failed.append(f"{name}: {type(error).__name__}: {error}")
try:
    import torch
except BaseException as error:
    print(json.dumps({"failed": [f"import: {error}"], "count": None, "libcuda": None})); os._exit(0)
count = attempt("count", torch.cuda.device_count)
attempt("first call", lambda: torch.zeros(1).cuda())
if not failed:
    nn = torch.nn
    x = torch.randn(4, 3, 32, 32, device="cuda", requires_grad=True)
    attempt("convolution", lambda: nn.Conv2d(3, 8, 3).cuda()(x).sum().backward())
    attempt("lstm", lambda: nn.LSTM(16, 16).cuda()(torch.randn(5, 2, 16, device="cuda")))
    attempt("product", lambda: torch.randn(64, 64, device="cuda") @ torch.randn(64, 64).cuda())
    attempt("svd", lambda: torch.linalg.svd(torch.randn(8, 8, device="cuda")))
    attempt("fft", lambda: torch.fft.fft(torch.randn(64, device="cuda")))
    attempt("sparse", lambda: torch.eye(8).to_sparse_csr().cuda() @ torch.ones(8, 1).cuda())
    attempt("synchronize", torch.cuda.synchronize)
for line in open("/proc/self/maps"):
    if "/libcuda.so" in line:
        libcuda = line.split(None, 5)[5].strip()
print(json.dumps({"failed": failed, "count": count, "libcuda": libcuda}))
os._exit(0)
"""


def torch_python() -> str:
    return os.environ.get("GPUCHECK_TORCH_PYTHON") or shutil.which("python3") or sys.executable


def library(folder: Path, source: Path, *names: str) -> str:
    """A folder that holds links to some of *source*'s libraries."""
    folder.mkdir(exist_ok=True)
    for pattern in names:
        found = sorted(source.glob(pattern))
        if not found:
            pytest.skip(f"{source} has no {pattern}")
        for path in found:
            (folder / path.name).symlink_to(path)
    return str(folder)


def stubs_by_soname(folder: Path) -> str:
    stub = TOOLKIT / "lib64/stubs/libcuda.so"
    if not stub.exists():
        pytest.skip(f"there is no {stub}")
    (folder / "libcuda.so.1").symlink_to(stub)
    return str(folder)


def environments(folder: Path) -> dict[str, Mapping[str, str]]:
    """Every row that this machine can have, by name."""
    lib64 = TOOLKIT / "lib64"
    rows: dict[str, Any] = {
        "sound": dict,
        "ld stubs with .so.1": lambda: {"LD_LIBRARY_PATH": stubs_by_soname(folder)},
        "ld compat": lambda: {"LD_LIBRARY_PATH": str(TOOLKIT / "compat")},
        "ld stubs": lambda: {"LD_LIBRARY_PATH": str(lib64 / "stubs")},
        "ld toolkit": lambda: {"LD_LIBRARY_PATH": str(lib64)},
        "ld system": lambda: {"LD_LIBRARY_PATH": str(SYSTEM)},
        "ld front of system cudnn": lambda: {
            "LD_LIBRARY_PATH": library(folder, SYSTEM, "libcudnn.so.9")
        },
        "ld all of system cudnn": lambda: {
            "LD_LIBRARY_PATH": library(folder, SYSTEM, "libcudnn*.so.9")
        },
        "ld toolkit cublas": lambda: {
            "LD_LIBRARY_PATH": library(folder, lib64, "libcublas.so.*", "libcublasLt.so.*")
        },
        "ld toolkit nvrtc": lambda: {"LD_LIBRARY_PATH": library(folder, lib64, "libnvrtc*.so.*")},
        "ld toolkit nvJitLink": lambda: {
            "LD_LIBRARY_PATH": library(folder, lib64, "libnvJitLink.so.*")
        },
        "preload toolkit cublas": lambda: {"LD_PRELOAD": _one(lib64, "libcublas.so.*")},
        "preload missing": lambda: {"LD_PRELOAD": "/nowhere/libx.so"},
        "ld empty element": lambda: {"LD_LIBRARY_PATH": ":/usr/lib"},
        "launch blocking": lambda: {"CUDA_LAUNCH_BLOCKING": "1"},
    }
    for value in (
        *("0x1", "0,0", '"0,1"', "1a", "all", "0;1", "0,,1", "0 1", "-0", "+1", "1,-1,0"),
        *("1,9,0", "0,1", "", "9"),
    ):
        rows[f"cvd {value or 'empty'}"] = lambda value=value: {"CUDA_VISIBLE_DEVICES": value}
    return rows


def _one(folder: Path, pattern: str) -> str:
    found = sorted(folder.glob(pattern))
    if not found:
        pytest.skip(f"{folder} has no {pattern}")
    return str(found[0])


def base() -> dict[str, str]:
    left_out = ("LD_LIBRARY_PATH", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
    return {name: value for name, value in os.environ.items() if name not in left_out}


def worked(environment: Mapping[str, str], python: str) -> dict[str, Any]:
    ended = subprocess.run(
        [python, "-c", WORK], env=environment, capture_output=True, text=True, cwd="/"
    )
    lines = ended.stdout.strip().splitlines()
    if not lines:
        return {"failed": [f"status {ended.returncode}"], "count": None, "libcuda": None}
    facts: dict[str, Any] = json.loads(lines[-1])
    return facts


def asked(*words: str, environment: Mapping[str, str], python: str) -> dict[str, Any]:
    ended = subprocess.run(
        [sys.executable, "-m", "gpucheck", *words, "--python", python],
        env=environment,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert ended.returncode in (0, 1), ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts


NAMES = tuple(environments(Path("/nowhere")))


@pytest.mark.parametrize("name", NAMES)
def test_the_verdict_agrees_with_what_torch_does(name: str, tmp_path: Path):
    environment = {**base(), **environments(tmp_path)[name]()}  # type: ignore[operator]
    python = torch_python()

    truth = worked(environment, python)
    report = asked("doctor", "--json", environment=environment, python=python)

    errors = [finding for finding in report["findings"] if finding["severity"] == "error"]
    said = [(finding["code"], finding["saw"]) for finding in errors]
    if truth["failed"]:
        assert errors, f"torch: {truth['failed']}; the doctor: {report['verdict']}"
    else:
        there = sum(not gpu["error"] for gpu in report["gpus"])
        hidden = truth["count"] != there
        allowed = {"ENV018", "ENV019", "ENV020"} if hidden else set()
        assert {code for code, _ in said} <= allowed, f"torch works: {truth}; said {said}"


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(("ld", "sound"))])
def test_the_libcuda_that_is_predicted_is_the_one_that_is_mapped(name: str, tmp_path: Path):
    environment = {**base(), **environments(tmp_path)[name]()}  # type: ignore[operator]
    python = torch_python()

    truth = worked(environment, python)
    facts = asked("snapshot", "--quick", "--identify", environment=environment, python=python)

    selected = [
        each
        for each in facts["driver"]["libraries"]
        if each["soname"] == "libcuda.so.1" and each.get("is_selected")
    ]
    if truth["libcuda"] is None:
        pytest.skip(f"torch loaded no libcuda here: {truth['failed']}")
    assert [os.path.realpath(each["path"]) for each in selected] == [
        os.path.realpath(truth["libcuda"])
    ]


def link_farm(place: Path, python: str, missing: str) -> str:
    """An environment of links to *python*'s packages, without the files that match *missing*."""
    site = subprocess.run(
        [python, "-c", "import torch, os; print(os.path.dirname(os.path.dirname(torch.__file__)))"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run([python, "-m", "venv", "--without-pip", str(place)], check=True)
    [target] = place.glob("lib/python3*/site-packages")
    left_out = 0
    for source in Path(site).iterdir():
        if source.name != "nvidia":
            (target / source.name).symlink_to(source)
            continue
        for path in source.rglob("*"):
            copy = target / path.relative_to(site)
            if path.is_dir():
                copy.mkdir(parents=True, exist_ok=True)
            elif path.match(missing):
                left_out += 1
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.symlink_to(path)
    if not left_out:
        pytest.skip(f"no wheel has {missing}")
    return str(place / "bin/python3")


@pytest.mark.parametrize(
    "missing",
    [
        *("libcudnn_engines_precompiled.so.9", "libcudnn_cnn.so.9", "libcudnn*.so.9"),
        *("libcusparseLt.so.0", "libnvrtc.so.1*", "libnvJitLink.so.1*", "libnccl.so.2"),
        *("libcupti.so.1*", "libcublasLt.so.1*"),
    ],
)
def test_a_wheel_without_a_library_is_an_error_where_work_fails(missing: str, tmp_path: Path):
    python = link_farm(tmp_path / "env", torch_python(), missing)

    truth = worked(base(), python)
    report = asked("doctor", "--json", environment=base(), python=python)

    errors = [f["code"] for f in report["findings"] if f["severity"] == "error"]
    found = [f["code"] for f in report["findings"]]
    assert bool(errors) == bool(truth["failed"]), f"torch: {truth}; said {found}"
    assert "LIB003" in found
