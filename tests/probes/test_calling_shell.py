"""Which shell called us, and from what kind of session."""

import os
from pathlib import Path

import pytest

from gpucheck.probes import calling_shell


def processes(folder: Path, *names: str) -> Path:
    """A /proc in which we were called by *names*, the nearest first."""
    pid = os.getppid()
    for name in names:
        (folder / str(pid)).mkdir()
        (folder / str(pid) / "stat").write_text(f"{pid} ({name}) S {pid + 1} 0 0 0\n")
        pid += 1
    return folder


@pytest.mark.parametrize(
    ("names", "nearest", "user"),
    [
        (("zsh",), "zsh", "zsh"),
        (("python3", "make", "fish", "bash"), "fish", "fish"),
        (("mksh",), "ksh", "ksh"),
        (("sh", "make", "zsh"), "sh", "zsh"),
        (("dash",), "sh", "tcsh"),
        (("odd) name (", "tcsh"), "tcsh", "tcsh"),
        (("cron",), "tcsh", "tcsh"),
    ],
)
def test_the_nearest_shell_reads_what_we_print_and_sh_is_the_users_middleman(
    names: tuple[str, ...], nearest: str, user: str, tmp_path: Path
):
    programs = calling_shell.callers(processes(tmp_path, *names))

    login = {"SHELL": "/usr/bin/tcsh"}
    assert calling_shell.nearest(programs, login) == nearest
    assert calling_shell.of_user(programs, login) == user


@pytest.mark.parametrize(
    ("programs", "variables", "session"),
    [
        (("bash", "sudo"), {"SUDO_USER": "ada", "TERM": "xterm"}, "sudo"),
        (("sh", "CRON", "cron"), {"PATH": "/opt:/usr/bin:/bin"}, "cron"),
        (("sh",), {"PATH": "/usr/bin:/bin"}, "cron"),
        (("systemd",), {"INVOCATION_ID": "abc", "PATH": "/usr/bin"}, "systemd"),
        (("bash", "gnome-terminal-"), {"INVOCATION_ID": "abc", "TERM": "xterm"}, None),
        (("bash", "sshd"), {"PATH": "/usr/local/bin:/usr/bin:/bin"}, None),
    ],
)
def test_sudo_cron_and_systemd_are_told_from_a_users_own_shell(programs, variables, session):
    assert calling_shell.session(programs, variables) == session
