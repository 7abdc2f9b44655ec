"""Who this user is to this machine: what they may do, with what, and beside whom."""

import os
from pathlib import Path

import pytest

from gpucheck.probes import privileges
from gpucheck.snapshot import Unknown


def program(folder: Path, name: str, mode: int = 0o755) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(mode)


def test_programs_are_found_on_the_path_and_only_where_they_can_be_run(tmp_path: Path):
    program(tmp_path, "gpucheck-test-program")
    if os.geteuid():
        program(tmp_path, "gpucheck-test-text", 0o644)
    names = ("gpucheck-test-program", "gpucheck-test-text", "gpucheck-test-absent", "sh")

    found = privileges.programs(names, {"PATH": f"relative:{tmp_path}"})

    assert found == ("gpucheck-test-program", "sh")


@pytest.mark.parametrize(
    ("groups", "expected"), [(("alice", "sudo"), True), (("wheel",), True), (("alice",), False)]
)
def test_sudo_counts_for_whom_a_group_lets_use_it(
    tmp_path: Path, groups: tuple[str, ...], expected: bool
):
    program(tmp_path, "sudo")

    assert privileges.has_sudo(groups, {"PATH": str(tmp_path)}) is expected


def test_groups_that_are_not_known_leave_sudo_unknown(tmp_path: Path):
    program(tmp_path, "sudo")

    found = privileges.has_sudo(Unknown("no groups"), {"PATH": str(tmp_path)})

    assert isinstance(found, Unknown)


def test_without_sudo_nobody_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(privileges, "SYSTEM_PROGRAMS", "")

    assert privileges.has_sudo(("sudo",), {"PATH": ""}) is False


def test_the_processes_of_this_user_and_of_the_system_are_nobody_else(tmp_path: Path):
    (tmp_path / "proc/1").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir()

    assert privileges.other_users(tmp_path, {os.getuid()}) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_people_are_counted_once_each(tmp_path: Path):
    for pid, user in ((10, 1001), (11, 1001), (12, 1002), (13, 33), (14, 65534), (15, 1003)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        os.chown(tmp_path / f"proc/{pid}", user, user)

    assert privileges.other_users(tmp_path, {1003}) == 2


def test_a_proc_that_is_not_there_is_unknown(tmp_path: Path):
    assert isinstance(privileges.other_users(tmp_path, ()), Unknown)


def test_whoever_called_sudo_is_this_user_too():
    assert privileges.own_users({"SUDO_UID": "1000"}) == {os.getuid(), 1000}
