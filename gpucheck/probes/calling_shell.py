"""Finds out which shell called us, and whether it is a user's own session."""

import os
import pwd
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from gpucheck.knowledge.shells import shell_of
from gpucheck.probes.files import read_text

ANCESTORS_AT_MOST = 32
#: The daemons of cron, by the names of their processes.
_CRON = ("cron", "crond", "CROND", "cronie", "fcron", "anacron")
_PLAIN_CRON_PATHS = ("/usr/bin:/bin", "/bin:/usr/bin")  # what cron sets where nothing else does


def callers(proc: Path = Path("/proc"), pid: int | None = None) -> tuple[str, ...]:
    """Return the names of the programs that called us, the nearest first."""
    return tuple(_ancestors(proc, os.getppid() if pid is None else pid))


def _ancestors(proc: Path, pid: int) -> Iterator[str]:
    for _ in range(ANCESTORS_AT_MOST):
        text = read_text(proc / str(pid) / "stat", 4096)
        process = parse_stat(text) if isinstance(text, str) else None
        if process is None:
            return
        name, parent = process
        try:  # the process of a script is named after the script
            program = (proc / str(pid) / "exe").readlink().name
        except OSError:
            program = name
        yield name if name == "sh" or program == "busybox" else program
        pid = parent


def parse_stat(text: str) -> tuple[str, int] | None:
    """Return the name and the parent of the process in a /proc/PID/stat."""
    found = re.match(r"[0-9]+ \((.*)\) \S ([0-9]{1,10}) ", text, re.S)
    return (found[1], int(found[2])) if found else None


def nearest(programs: tuple[str, ...], variables: Mapping[str, str]) -> str | None:
    """Return the shell that reads what we print: the nearest above us, else the login shell."""
    rows = (shell_of(program) for program in programs)
    row = next(filter(None, rows), None) or shell_of(_login_shell(variables))
    return row.name if row is not None else None


def of_user(programs: tuple[str, ...], variables: Mapping[str, str]) -> str | None:
    """Return the shell that the user works in.

    `sh` is most often the middleman of `make` or of a script: a shell above it, and then the login
    shell, are believed before it.
    """
    rows = [row for row in map(shell_of, programs) if row is not None]
    login = shell_of(_login_shell(variables))
    row = next((row for row in rows if row.name != "sh"), login or next(iter(rows), None))
    return row.name if row is not None else None


def _login_shell(variables: Mapping[str, str]) -> str:
    if variables.get("SHELL"):
        return variables["SHELL"]
    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return ""


def session(
    programs: tuple[str, ...], variables: Mapping[str, str]
) -> Literal["sudo", "cron", "systemd"] | None:
    """Return what started us where that is no shell of the user's own; None: a plain session.

    sudo sets SUDO_USER (sudo(8)); cron gives neither TERM nor more than a plain PATH (crontab(5));
    systemd sets INVOCATION_ID for a unit (systemd.exec(5)), which terminals under it inherit, with
    a TERM.
    """
    if variables.get("SUDO_USER"):
        return "sudo"
    if variables.get("TERM"):
        return None
    if any(program in _CRON for program in programs):
        return "cron"
    if variables.get("INVOCATION_ID"):
        return "systemd"
    return "cron" if variables.get("PATH") in _PLAIN_CRON_PATHS else None


def home_of_sudo_user(variables: Mapping[str, str]) -> Path | None:
    """Return the home of the user who called us through sudo; None where nobody did."""
    name = variables.get("SUDO_USER")
    if not name or name == "root":
        return None
    try:
        return Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        return None
