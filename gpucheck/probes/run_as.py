"""Says as whom root starts a program that another user may write: as that user, never as root.

Examining a machine as root must not hand root's powers to whoever owns a `python` or an `nvcc` on
the way. The program is run all the same, with its owner's own rights.
"""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

NOBODY = 65534
#: /proc/self/uid_map of the first user namespace: root elsewhere is no more than some user.
_REAL_ROOT = ("0", "0", "4294967295")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user and group to run a program as."""

    uid: int
    gid: int

    @property
    def home(self) -> str:
        """Where its programs may keep what they keep: the user's home, else no place at all."""
        import pwd

        try:
            return pwd.getpwuid(self.uid).pw_dir
        except KeyError:
            return "/nonexistent"

    def take(self) -> None:
        """Become that user, for good. Called between fork and exec."""
        os.setgroups([])
        os.setgid(self.gid)
        os.setuid(self.uid)


def identity_for(program: str) -> Identity | None:
    """Return as whom to run *program*; None: as we are.

    Root runs as root what only root may change. What has another owner, it or a folder above it,
    runs as that owner; what is root's and open to others runs as nobody.
    """
    if os.geteuid() != 0 or not _is_real_root():
        return None
    path = _found(program)
    if path is None:
        return None
    strangers: dict[int, int] = {}
    is_open = False
    while True:
        try:
            status = Path(path).stat()
        except OSError:
            return None  # starting it will say what is wrong
        if status.st_uid != 0:
            strangers.setdefault(status.st_uid, status.st_gid)
        is_sticky = stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX)
        may_write = status.st_mode & stat.S_IWOTH
        if status.st_gid != 0:
            may_write |= status.st_mode & stat.S_IWGRP
        is_open = is_open or (bool(may_write) and not is_sticky)
        if path == "/":
            break
        path = os.path.dirname(path)  # noqa: PTH120 - bytes that are no Unicode stay as they are
    if strangers:
        uid, gid = next(iter(strangers.items()))
        return Identity(uid, gid)
    return Identity(NOBODY, NOBODY) if is_open else None


def _found(program: str) -> str | None:
    if "/" in program:
        return os.path.realpath(program)
    for folder in os.environ.get("PATH", os.defpath).split(":"):
        candidate = os.path.join(folder, program)  # noqa: PTH118
        if folder.startswith("/") and os.access(candidate, os.X_OK):
            return os.path.realpath(candidate)
    return None


def _is_real_root() -> bool:
    try:
        with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123
            return tuple(file.read().split()) == _REAL_ROOT
    except OSError:
        return True
