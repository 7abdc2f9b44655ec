"""Two nodes add up numbers by gloo on the CPU: well, and with one that is slow, wrong or dead."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from interpreters import patched_python

from gpucheck.workloads import launch
from gpucheck.workloads.pair import Meeting, Met, meet

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]

SLOW = """
really_join = join
def join(order):
    place = really_join(order)
    import time
    from torch import distributed
    really = distributed.all_reduce
    distributed.all_reduce = lambda tensor: (time.sleep(0.02), really(tensor))
    return place
"""
WRONG = """
right = numbers
def numbers(torch, rank, count, device):
    given = right(torch, rank, count, device)
    given[5] += 1
    return given
"""
DEAD = """
def add_up(order, rank, world):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
"""
NO_TORCH = "import sys\nsys.modules['torch'] = None\n"

Python = Callable[[str], str]


@pytest.fixture
def python(tmp_path: Path) -> Python:
    return lambda code: patched_python(tmp_path / "faulty", "pair", code)


def both(
    first: str, second: str, *, gpus: tuple[int, int] = (1, 1), device: str = "cpu"
) -> tuple[Met, Met]:
    port = launch.places_on_this_host(1)[0].port

    def one(number: int, python: str) -> Met:
        meeting = Meeting(is_first=number == 0, address="127.0.0.1", port=port, device=device)
        variables = {**os.environ, "CUDA_VISIBLE_DEVICES": str(number)}  # each "node" has one GPU
        return meet(meeting, python=python, gpus=gpus[number], variables=variables)

    with ThreadPoolExecutor(2) as pool:
        met = pool.map(one, (0, 1), (first, second))
        return tuple(met)  # type: ignore[return-value]


def test_two_well_nodes_have_their_sums_and_the_same_rate():
    first, second = both(sys.executable, sys.executable, gpus=(2, 1))

    assert (first.wrong, first.why, first.gpus) == ("", "", 2)
    assert (second.wrong, second.why, second.gpus) == ("", "", 1)
    assert first.rate is not None
    assert second.rate == pytest.approx(first.rate, rel=1)


def test_a_wrong_number_is_a_wrong_sum_on_both(python: Python):
    first, second = both(sys.executable, python(WRONG))

    assert first.wrong == second.wrong == "1 of 262,144 sums on GPU 0 are wrong"


def test_a_slow_node_shows_in_the_rate_of_both(python: Python):
    first, second = both(python(SLOW), sys.executable)

    assert max(first.rate or 0, second.rate or 0) < 0.06  # 1 MiB in 20 ms
    assert (first.wrong, first.why, second.wrong, second.why) == ("", "", "", "")


def test_a_node_that_dies_says_so_and_its_partner_is_not_held_up(python: Python):
    first, second = both(sys.executable, python(DEAD))

    assert second.why == "GPU 0 could not add up with it: its process crashed with SIGKILL"
    assert first.why.startswith("GPU 0 could not add up with it: ")
    assert first.rate is None


def test_a_node_without_torch_says_so(python: Python, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gpucheck.workloads.pair.PATIENCE_SECONDS", 8.0)

    first, second = both(sys.executable, python(NO_TORCH))

    assert second.why.startswith("GPU 0 could not import torch: ")
    assert first.why.startswith("GPU 0 could not meet the other node: ")


def gpus() -> int:
    program = "import torch; print(torch.cuda.device_count())"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return int(ended.stdout) if ended.returncode == 0 else 0


@pytest.mark.gpu
@pytest.mark.parametrize("fault", ["", WRONG, DEAD])
def test_two_real_gpus_meet_as_if_they_were_two_nodes(python: Python, fault: str):
    if gpus() < 2:
        pytest.skip("torch sees fewer than two GPUs here")

    first, second = both(sys.executable, python(fault) if fault else sys.executable, device="cuda")

    if fault == DEAD:
        assert "SIGKILL" in second.why
        assert first.why.startswith("GPU 0 could not add up with it: ")
    elif fault == WRONG:
        assert first.wrong == second.wrong == "1 of 268,435,456 sums on GPU 0 are wrong"
    else:
        assert (first.wrong, first.why, second.wrong, second.why) == ("", "", "", "")
        assert (first.rate or 0) > 1
