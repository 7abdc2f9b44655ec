"""A call with little to parse is examined early and once, with what it needs later at hand."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import cuda

RECORDED = Path(__file__).with_name("recorded")
pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cuda.build(tmp_path_factory.mktemp("driver") / "libcuda.so.1")


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (("doctor",), 1),
        (("doctor", "--json", "--strict"), 1),
        (("doctor", "--timeout", "20"), 1),
        (("doctor", "--quick"), 0),
        (("doctor", "--help"), 0),
        (("doctor", "--from", str(RECORDED / "no-gpu.json")), 0),
    ],
    ids=["plain", "as JSON", "with an option", "quick", "help", "stored"],
)
def test_cuda_is_asked_once_where_it_is_asked(
    tmp_path: Path, driver: Path, arguments: tuple[str, ...], calls: int
):
    counted = tmp_path / "counted"
    variables = {"LD_LIBRARY_PATH": str(driver.parent), "FAKE_CALLS": str(counted)}

    ended = subprocess.run(
        [sys.executable, "-m", "gpucheck", *arguments],
        env=os.environ | variables,
        capture_output=True,
        timeout=60,
    )

    assert ended.returncode in (0, 1)
    assert ended.stdout
    assert (counted.stat().st_size if counted.exists() else 0) == calls


WARM = """
import sys
from pathlib import Path

import msgspec

from gpucheck.render import Format, Look, render
from gpucheck.report import examine
from gpucheck.snapshot import Snapshot
from gpucheck.warm_up import warm_up

warm_up(Format.TEXT)
warm = set(sys.modules)
for name in sys.argv[1:]:
    machine = msgspec.json.decode(Path(name).read_bytes(), type=Snapshot)
    render(examine(machine), Format.TEXT, Look())
print(*sorted(set(sys.modules) - warm))
"""


def test_a_report_imports_nothing_that_was_not_warmed_up():
    recorded = sorted(RECORDED.glob("*x2*.json"))

    ended = subprocess.run(
        [sys.executable, "-c", WARM, *map(str, recorded)], capture_output=True, timeout=60
    )

    assert recorded
    assert (ended.stdout.decode().split(), ended.stderr) == ([], b"")
