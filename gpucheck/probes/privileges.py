"""Finds what this user may do here, with which programs, and who else is at work."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpucheck.probes.files import names_in
from gpucheck.snapshot import Known, Unknown, unread

#: Groups whose members may use sudo as distributions set it up.
ADMINISTRATORS = frozenset({"sudo", "wheel", "admin", "google-sudoers"})
#: Where system programs lie that the PATH of a plain user may leave out; sudo has them on its own.
SYSTEM_PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
#: The first user id of a person, and "nobody" (login.defs, UID_MIN; systemd's uid ranges).
FIRST_USER, NOBODY = 1000, 65534


def programs(names: Iterable[str], variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return those of *names* that are on the PATH of *variables* or in the system's folders.

    A folder is listed once: that is five times as fast as asking for each name in each folder.
    """
    wanted = set(names)
    found: set[str] = set()
    for folder in dict.fromkeys(f"{variables.get('PATH', '')}:{SYSTEM_PROGRAMS}".split(":")):
        here = names_in(folder) if folder.startswith("/") else ()
        for name in (wanted - found).intersection(here if isinstance(here, tuple) else ()):
            if os.access(f"{folder}/{name}", os.X_OK):
                found.add(name)
    return tuple(sorted(found))


def has_sudo(groups: Known[tuple[str, ...]], variables: Mapping[str, str]) -> Known[bool]:
    """Return whether sudo is here, and this user in a group that may use it.

    sudo itself is not asked: it would log the question, or want a password.
    """
    if not programs(["sudo"], variables):
        return False
    return groups if isinstance(groups, Unknown) else bool(ADMINISTRATORS.intersection(groups))


def other_users(root: Path, own: Iterable[int]) -> Known[int]:
    """Return how many people other than *own* have processes; the system's users do not count."""
    users: set[int] = set()
    try:
        with os.scandir(root / "proc") as entries:
            for entry in entries:
                if entry.name.isdecimal():
                    try:
                        users.add(entry.stat().st_uid)
                    except OSError:  # it has ended since
                        continue
    except OSError as error:
        return unread(root / "proc", error)
    return len({user for user in users if FIRST_USER <= user != NOBODY} - set(own))


def own_users(variables: Mapping[str, str]) -> set[int]:
    """Return the ids of the person at work: of this process, and of who called sudo."""
    caller = variables.get("SUDO_UID", "")
    return {os.getuid(), *([int(caller)] if caller.isdecimal() else [])}
