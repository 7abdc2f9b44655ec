"""The burn on real GPUs; skipped where torch sees none.

A short one by default; GPUCHECK_BURN_MINUTES=5 for the one that is to be done before a release.
"""

import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from interpreters import patched_python

MINUTES = float(os.environ.get("GPUCHECK_BURN_MINUTES", "1"))


@functools.cache
def gpus() -> int:
    """How many GPUs torch sees, asked in a child."""
    program = "import torch; print(torch.cuda.device_count())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return int(ended.stdout) if ended.returncode == 0 else 0


pytestmark = [pytest.mark.gpu, pytest.mark.torch, pytest.mark.timeout(60 * MINUTES + 240)]


@pytest.fixture(autouse=True)
def a_gpu() -> None:
    if not gpus():
        pytest.skip("torch sees no GPU here")


def burn(folder: Path, *options: str, expect: int = 0) -> Any:
    command = [sys.executable, "-m", "gpucheck", "burn", "--json", "-o", str(folder / "burn")]
    ended = subprocess.run([*command, *options], capture_output=True, text=True)
    assert ended.returncode == expect, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def serious(report: Any) -> list[str]:
    return [f"{f['code']} {f['saw']}" for f in report["findings"] if f["severity"] != "info"]


def test_healthy_gpus_are_under_load_and_nothing_is_found(tmp_path: Path):
    page = tmp_path / "burn.html"

    report = burn(tmp_path, "--minutes", str(MINUTES), "--html", str(page))

    assert serious(report) == []
    found = report["burn"]
    assert found["alarms"] == found["alarms_found"] > 10
    assert len(found["gpus"]) == gpus()
    for gpu in found["gpus"]:
        assert gpu["load_share"] > (0.99 if MINUTES >= 5 else 0.95)
        kinds = {work["kind"] for work in gpu["work"]}
        assert kinds >= {"bf16", "fp16", "tf32", "int8", "fp32", "fp64", "memory", "h2d", "d2h"}
    assert page.stat().st_size < 1_000_000
    assert "Temperature" in page.read_text()


#: what GPU 0 does wrong, and the finding that names it
FAULTS = {
    "result": (
        """
multiply, calls = burn_products.Product.multiply, []
def wrong(self, slot):
    multiply(self, slot)
    calls.append(1)
    if len(calls) == 9:
        exact.words(slot)[5] ^= 1 << 20
burn_products.Product.multiply = wrong""",
        "tensor",
        ("BRN001", "its inputs were intact"),
    ),
    "nan": (
        """
multiply, calls = burn_products.Product.multiply, []
def wrong(self, slot):
    multiply(self, slot)
    calls.append(1)
    if len(calls) == 9:
        slot[7, 7] = float("nan")
burn_products.Product.multiply = wrong""",
        "core",
        ("BRN001", "row 7, column 7"),
    ),
    "factor": (
        """
restore, calls = burn_products.Product.restore, []
def damaged(self):
    restore(self)
    calls.append(1)
    if len(calls) == 1:
        exact.words(self.left)[3] ^= 1 << 21
burn_products.Product.restore = damaged""",
        "core",
        ("BRN001", "numbers of the left factor had changed"),
    ),
    "memory": (
        """
fill, calls = burn_memory._Pattern.fill, []
def damaged(self, block, at):
    fill(self, block, at)
    calls.append(1)
    if len(calls) == 2:
        block[77] ^= 1 << 9
burn_memory._Pattern.fill = damaged""",
        "memory",
        ("BRN002", "bit 9"),
    ),
    "copy": (
        """
start, calls = burn_memory.HostCopies._start, []
def damaged(self):
    start(self)
    calls.append(1)
    if len(calls) == 3:
        burn_memory.synchronize(self._device)
        self._back[5] ^= 1 << 33
burn_memory.HostCopies._start = damaged""",
        "copy",
        ("BRN002", "bit 33"),
    ),
}

ON_GPU_0 = """
ready = PREPARATIONS["prepare"]
def prepare_and_spoil(gpu, **order):
    from gpucheck_payload import burn_memory, burn_products, exact
    facts = ready(gpu=gpu, **order)
    if gpu == 0:
        {spoil}
    return facts
PREPARATIONS["prepare"] = prepare_and_spoil
"""


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named(tmp_path: Path, name: str):
    spoil, phase, (code, words) = FAULTS[name]
    code_of_it = ON_GPU_0.format(spoil=spoil.replace("\n", "\n        "))
    python = patched_python(tmp_path / "faulty", "burn", code_of_it)
    options = ("--python", python, "--phases", phase, "--minutes", "0.15")

    report = burn(tmp_path, *options, expect=1)

    [finding] = report["findings"]
    assert (finding["code"], finding["gpus"]) == (code, [0])
    assert words in finding["saw"]


def journal_says(folder: Path, word: str) -> None:
    """Wait until the journal of a burn has *word*."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        path = folder / "burn/journal.jsonl"
        if path.exists() and word in path.read_text():
            return
        time.sleep(0.2)
    raise AssertionError(f"the journal has no {word} after two minutes")


def started(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "gpucheck", "burn", "--json", "-o", str(folder / "burn")]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)


HOG = """
import time, torch
torch.cuda.set_device({gpu})
matrix = torch.ones(8192, 8192, device="cuda", dtype=torch.bfloat16)
until = time.monotonic() + {seconds}
while time.monotonic() < until:
    for _ in range(50):
        matrix @ matrix
    torch.cuda.synchronize()
"""


def test_a_gpu_on_which_somebody_else_computes_is_slow(tmp_path: Path):
    if gpus() < 2:
        pytest.skip("torch sees one GPU here, and it has no sibling")
    process = started(tmp_path, "--minutes", "0.6", "--phases", "tensor")
    journal_says(tmp_path, '"worked"')
    hog = subprocess.Popen([sys.executable, "-c", HOG.format(gpu=1, seconds=60)])

    output, _ = process.communicate()
    hog.kill()
    hog.wait()

    slow = [f for f in json.loads(output)["findings"] if f["code"] == "BRN006"]
    assert [f["gpus"] for f in slow] == [[1]]


def test_a_busy_gpu_is_left_alone(tmp_path: Path):
    hog = subprocess.Popen([sys.executable, "-c", HOG.format(gpu=0, seconds=60)])
    time.sleep(10)

    command = [sys.executable, "-m", "gpucheck", "burn", "--gpus", "0,", "-o", str(tmp_path / "b")]
    ended = subprocess.run(command, capture_output=True, text=True)
    hog.kill()
    hog.wait()

    assert ended.returncode == 2
    assert "another process works on the GPU" in ended.stderr


def test_a_signal_ends_it_with_a_verdict_within_five_seconds(tmp_path: Path):
    process = started(tmp_path, "--minutes", "5")
    journal_says(tmp_path, '"worked"')

    began = time.monotonic()
    process.terminate()
    output, _ = process.communicate()

    assert time.monotonic() - began < 5
    assert json.loads(output)["verdict"] == "incomplete"


def test_a_burn_that_was_killed_goes_on(tmp_path: Path):
    process = started(tmp_path, "--minutes", "0.7", "--phases", "tensor")
    journal_says(tmp_path, '"worked"')
    process.kill()
    process.communicate()
    time.sleep(5)  # until the kernel has taken its children's memory back

    command = [sys.executable, "-m", "gpucheck", "burn", "--json"]
    ended = subprocess.run(
        [*command, "--resume", str(tmp_path / "burn")], capture_output=True, text=True
    )

    report = json.loads(ended.stdout)
    assert [f["code"] for f in report["findings"]] == ["BRN012"]
    assert report["burn"]["interruptions"] == 1
    assert report["burn"]["elapsed_seconds"] > 40
