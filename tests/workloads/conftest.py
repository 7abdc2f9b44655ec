import importlib.util
import os
import sys
from pathlib import Path

import pytest
from interpreters import patched_python

from gpucheck.payload import mnist

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits: the real MNIST where GPUCHECK_MNIST names it, else synthetic ones."""
    if "GPUCHECK_MNIST" in os.environ:
        return Path(os.environ["GPUCHECK_MNIST"])
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch, which draws the digits, is not in this environment")
    folder = tmp_path_factory.mktemp("digits")
    # In a child: torch warns where numpy is missing, and takes its time to import.
    from gpucheck.probes.child import run

    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from pathlib import Path; "
        f"from gpucheck.payload import mnist; mnist.draw(Path({str(folder)!r}))"
    )
    ended = run([sys.executable, "-I", "-S", "-c", program], deadline_seconds=100)
    assert ended.exit_code == 0, ended.stderr.decode()
    assert mnist.find(folder) == folder
    return folder


@pytest.fixture(scope="session")
def faulty_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python whose smoke training does what GPUCHECK_TEST_FAULT says."""
    faults = Path(__file__).with_name("faults.py").read_text()
    return patched_python(tmp_path_factory.mktemp("faulty"), "training", faults)
