"""However gpucheck is ended, and whenever: what it started is gone a second later."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import cuda
from fakes.nvml import FakeNvml, h200
from marked import MARK, left_after, marked, new_mark
from soak import rounds

from gpucheck import snapshot_file
from machines import HEALTHY

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
AT_ONCE = 10
#: The long version runs beside other work, at the lowest priority.
PATIENCE_SECONDS = rounds(10, 120)
_RUN = ["fleet", "run", "--remote-command", f"{sys.executable} -m gpucheck"]

#: Commands, and within how many seconds the signal comes. {} is a folder.
COMMANDS: dict[str, tuple[list[str], float]] = {
    "doctor": (["doctor"], 1.2),
    "doctor --quick": (["doctor", "--quick"], 1.2),
    "doctor --deep": (["doctor", "--deep"], 1.8),
    "doctor --from -": (["doctor", "--from", "-"], 0.6),
    "snapshot": (["snapshot", "-o", "{}/written.json", "--force"], 1.2),
    "explain -": (["explain", "-"], 0.6),
    "env": (["env", "--shell", "bash"], 1.2),
    "env install": (["env", "install", "--yes", "--shell", "bash"], 1.5),
    "smoke": (["smoke", "--device", "cpu", "--data", "synthetic"], 3.0),
    "bench": (["bench", "--device", "cpu", "--quick"], 3.0),
    "burn": (["burn", "--device", "cpu", "--minutes", "0.05", "-o", "{}/{id}"], 3.0),
    "fleet judge": (["fleet", "judge", "{}/nodes.jsonl", "--processes", "2"], 1.2),
    "fleet run": (
        [*_RUN, "--engine", "local", "--nodes", "n1,n2", "--out", "{}/out"],
        1.8,
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home, 1,500 snapshots, a libcuda whose cuInit never answers, and an NVML that hangs."""
    folder = tmp_path_factory.mktemp("signals")
    line = snapshot_file.as_json(HEALTHY).replace("\n", "")
    (folder / "nodes.jsonl").write_text(f"{line}\n" * 1500)
    (folder / "lib").mkdir()
    cuda.build(folder / "lib/libcuda.so.1")
    return folder


@pytest.fixture(scope="module")
def hanging(folder: Path) -> Mapping[str, str]:
    """An environment in which NVML and cuInit never answer: every child is at work for long."""
    fake = FakeNvml(folder, gpus=[h200().hangs("nvmlDeviceGetName")])
    environment = {**os.environ, **fake.environment(), "HOME": str(folder)}
    environment["LD_LIBRARY_PATH"] += f":{folder}/lib"
    return {**environment, "FAKE_CUDA": "cuInit=hang"}


def left_by(command: str, seed: int, folder: Path, environment: Mapping[str, str]) -> str:
    """Start *command*, end it by some signal at some moment, and say what is left of it."""
    chance = random.Random(seed)
    words, seconds = COMMANDS[command]
    number, moment, mark = chance.choice(SIGNALS), chance.uniform(0.0, seconds), new_mark()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gpucheck"),
            *(word.replace("{}", str(folder)).replace("{id}", mark) for word in words),
        ],
        env={**environment, MARK: mark},
        stdin=subprocess.PIPE,  # stays open: who reads it waits
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        time.sleep(moment)
        os.kill(process.pid, number)
        process.wait(timeout=PATIENCE_SECONDS)
        left = left_after(mark, rounds(1, 10))
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return f"{command}, {number.name} after {moment:.2f} s: {left}" if left else ""


@pytest.mark.timeout(7200)
def test_nothing_is_left_after_a_signal_at_any_moment(folder: Path, hanging: Mapping[str, str]):
    count = rounds(208, 1001)
    names = [name for name in COMMANDS for _ in range(count // len(COMMANDS))]
    random.Random(0).shuffle(names)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        left = pool.map(lambda job: left_by(job[1], job[0], folder, hanging), enumerate(names))
        assert [each for each in left if each] == []


def test_nothing_is_left_after_a_quick_doctor_that_ends_well(tmp_path: Path):
    fake = FakeNvml(tmp_path, gpus=[h200()])
    mark = new_mark()

    subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--quick"],
        env={**os.environ, **fake.environment(), MARK: mark},
        capture_output=True,
    )

    assert marked(mark) == {}


def test_a_stopped_examination_leaves_nothing(tmp_path: Path):
    """The process that reads files is stopped (SIGSTOP): SIGTERM alone would not end it."""
    fake = FakeNvml(tmp_path, gpus=[h200().hangs("nvmlDeviceGetName")])
    mark = new_mark()
    process = subprocess.Popen(
        [sys.executable, "-m", "gpucheck", "doctor", "--timeout", "20"],
        env={**os.environ, **fake.environment(), MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(0.8)
    for pid in set(marked(mark)) - {process.pid}:
        os.kill(pid, signal.SIGSTOP)

    process.send_signal(signal.SIGTERM)
    process.wait(timeout=10)

    assert left_after(mark, 1.0) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_whose_exception_is_lost_ends_it_all_the_same(number: signal.Signals):
    """An exception that is raised in a callback of C's, or in a destructor, goes nowhere."""
    program = """
import time
from gpucheck import __main__ as start

def deaf():
    print("ready", flush=True)
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

start._run = deaf
start.main()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        began = time.monotonic()
        status = process.wait(timeout=20)

    assert time.monotonic() - began < 5
    assert status == (130 if number is signal.SIGINT else -number)
