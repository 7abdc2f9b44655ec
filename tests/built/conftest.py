"""Fixtures for tests on built machines."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from built.machine import BuiltMachine, build_layer


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every built machine has, built once for all test processes of this run."""
    if (why := _why_not()) is not None:
        pytest.skip(why)
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "layer"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done").exists():
            build_layer(shared / "root")
            (shared / "done").touch()
    return shared / "root"


def _why_not() -> str | None:
    if os.geteuid() != 0:
        return "private mount namespaces need root here"
    if shutil.which("gcc") is None:
        return "the fake driver libraries need gcc"
    ended = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, text=True
    )
    return None if ended.returncode == 0 else f"no private mount namespaces: {ended.stderr.strip()}"


@pytest.fixture
def machine(tmp_path: Path, layer: Path) -> BuiltMachine:
    """A healthy server with two H200s."""
    return BuiltMachine(place=tmp_path / "machine", layer=layer)
