"""Root runs nothing as root that another user may write."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpucheck.probes.child import run
from gpucheck.probes.run_as import NOBODY, Identity, identity_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has root's powers to lose")
OWNER = 4711


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others may enter, whose every parent is root's."""
    folder = Path("/opt") / f"gpucheck-test-{os.getpid()}-{os.urandom(4).hex()}"
    folder.mkdir(mode=0o755)
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def program(folder: Path, text: str = "id -u") -> str:
    path = folder / "nvcc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def ran_as(command: str) -> int:
    return int(run([command], deadline_seconds=10).stdout)


def test_what_is_roots_alone_runs_as_root(place: Path):
    command = program(place)

    assert identity_for(command) is None
    assert ran_as(command) == 0


def test_what_another_user_owns_runs_as_that_user(place: Path):
    command = program(place)
    os.chown(command, OWNER, OWNER)

    assert ran_as(command) == OWNER


def test_what_lies_in_another_users_folder_runs_as_that_user(place: Path):
    (place / "venv").mkdir()
    command = program(place / "venv")
    os.chown(place / "venv", OWNER, OWNER)

    assert identity_for(command) == Identity(OWNER, OWNER)
    assert ran_as(command) == OWNER


def test_what_everybody_may_write_runs_as_nobody(place: Path):
    command = program(place)
    Path(command).chmod(0o777)

    assert ran_as(command) == NOBODY


def test_a_link_is_judged_by_what_it_leads_to(place: Path):
    (place / "mine").mkdir()
    command = program(place / "mine")
    os.chown(command, OWNER, OWNER)
    link = place / "nvcc"
    link.symlink_to(command)

    assert ran_as(str(link)) == OWNER


def test_a_sticky_folder_is_safe(place: Path):
    (place / "tmp").mkdir()
    (place / "tmp").chmod(0o1777)

    assert identity_for(program(place / "tmp")) is None


def test_its_home_is_not_roots(place: Path):
    command = program(place, 'echo "$HOME"')
    os.chown(command, OWNER, OWNER)

    assert run([command], deadline_seconds=10).stdout == b"/nonexistent\n"


def test_it_still_dies_with_its_parent(place: Path):
    command = program(place, "grep -c . /proc/self/status >/dev/null; exec sleep 30")
    os.chown(command, OWNER, OWNER)

    ended = run([command], deadline_seconds=0.3)

    assert ended.late_after_seconds == 0.3
