"""However gpucheck is ended, and whenever: what it started is gone a second later."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import cuda
from fakes.nvml import FakeNvml, h200

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
ROUNDS = 100 if os.environ.get("GPUCHECK_SOAK") else 4
MARK = "GPUCHECK_TEST_MARK"


@pytest.fixture(scope="module")
def hanging_cuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a libcuda whose cuInit never answers (under FAKE_CUDA=cuInit=hang)."""
    folder = tmp_path_factory.mktemp("cuda")
    cuda.build(folder / "libcuda.so.1")
    return folder


def marked(mark: str) -> set[int]:
    """The processes whose environment holds *mark*, zombies left out."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def gone_within(mark: str, seconds: float) -> set[int]:
    """Wait for all marked processes to go, and return those that are still there."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.02)
    return left


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize(
    "arguments", [["doctor"], ["doctor", "--quick"], ["snapshot"]], ids=" ".join
)
def test_nothing_is_left_after_a_signal_at_any_moment(
    number: signal.Signals, arguments: list[str], tmp_path: Path, hanging_cuda: Path
):
    """NVML and cuInit never answer here: every child is at work when the signal comes."""
    fake = FakeNvml(tmp_path, gpus=[h200().hangs("nvmlDeviceGetName")])
    chance = random.Random(f"{number}{arguments}")
    for turn in range(ROUNDS):
        mark = f"{os.getpid()}-{number}-{turn}-{'-'.join(arguments)}"
        environment = {**os.environ, **fake.environment(), MARK: mark}
        environment["LD_LIBRARY_PATH"] += f":{hanging_cuda}"
        environment["FAKE_CUDA"] = "cuInit=hang"
        process = subprocess.Popen(
            [sys.executable, "-m", "gpucheck", *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(chance.uniform(0.0, 1.2))
        os.kill(process.pid, number)
        process.wait(timeout=10)

        assert gone_within(mark, 1.0) == set()


def test_nothing_is_left_after_a_quick_doctor_that_ends_well(tmp_path: Path):
    fake = FakeNvml(tmp_path, gpus=[h200()])
    mark = f"{os.getpid()}-quick"

    subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--quick"],
        env={**os.environ, **fake.environment(), MARK: mark},
        capture_output=True,
    )

    assert marked(mark) == set()


def test_a_stopped_examination_leaves_nothing(tmp_path: Path):
    """The process that reads files is stopped (SIGSTOP): SIGTERM alone would not end it."""
    fake = FakeNvml(tmp_path, gpus=[h200().hangs("nvmlDeviceGetName")])
    mark = f"{os.getpid()}-stopped"
    process = subprocess.Popen(
        [sys.executable, "-m", "gpucheck", "doctor", "--timeout", "20"],
        env={**os.environ, **fake.environment(), MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.8)
    for pid in marked(mark) - {process.pid}:
        os.kill(pid, signal.SIGSTOP)

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)

    assert gone_within(mark, 1.0) == set()
