"""Looks at the driver's device files: which are there, and who may open them.

A device file is never opened: opening /dev/nvidiaN initializes that GPU, which takes seconds and
wakes a sleeping laptop's, and may hang where the driver does. access(2) asks the kernel instead,
which asks the device cgroup too (devcgroup_inode_permission in the kernel's fs/namei.c).
"""

import errno
import os
import re
import stat
from pathlib import Path

from gpucheck.probes.files import names_in, read_text
from gpucheck.snapshot import DeviceNode, Unknown, replace, unread

_GPU_NODE = re.compile(r"nvidia(?P<minor>\d{1,4})\Z")


def probe(
    root: Path, gpus: dict[str, dict[str, str]] | Unknown, module_version: str | Unknown | None
) -> tuple[DeviceNode, ...] | Unknown:
    """Return the device files that the driver needs, there or not, and those that are there."""
    names = names_in(root / "dev")
    if not isinstance(names, tuple):
        return names or Unknown("/dev is not there")
    wanted: list[str] = [name for name in ("dxg", "nvidiactl", "nvidia-uvm") if name in names]
    minors = {int(found["minor"]) for name in names if (found := _GPU_NODE.match(name))}
    if module_version is not None and "dxg" not in names:
        wanted += ["nvidiactl", "nvidia-uvm"]
        for said in () if isinstance(gpus, Unknown) else gpus.values():
            minor = said.get("Device Minor", "")
            if minor.isascii() and minor.isdigit() and len(minor) < 5:
                minors.add(int(minor))
    wanted += [f"nvidia{minor}" for minor in sorted(minors)]
    bus_ids = {
        f"nvidia{said.get('Device Minor', '')}": bus_id
        for bus_id, said in ({} if isinstance(gpus, Unknown) else gpus).items()
    }
    return tuple(
        replace(_device_node(root, f"/dev/{name}"), bus_id=bus_ids.get(name, ""))
        for name in dict.fromkeys(wanted)
    )


def _device_node(root: Path, path: str) -> DeviceNode:
    inside = root / path.lstrip("/")
    try:
        status = inside.stat()
    except FileNotFoundError:
        return DeviceNode(path=path)
    except OSError as error:
        unknown = unread("", error)
        return DeviceNode(path=path, exists=True, mode=unknown, group=unknown, can_open=unknown)
    try:
        can_open = os.access(
            inside, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids
        )
    except OSError as error:
        return DeviceNode(path=path, exists=True, can_open=Unknown(str(error)))
    is_denied = not can_open and permissions_allow(
        status, os.geteuid(), frozenset((*os.getgroups(), os.getegid()))
    )
    return DeviceNode(
        path=path,
        exists=True,
        mode=stat.filemode(status.st_mode),
        group=_group_name(root, status.st_gid),
        can_open=can_open,
        error=None if can_open else os.strerror(errno.EPERM if is_denied else errno.EACCES),
        is_denied_by_cgroup=is_denied,
    )


def permissions_allow(status: os.stat_result, user: int, groups: frozenset[int]) -> bool:
    """Whether a file's owner, group and mode let *user* read and write it."""
    if user == 0:
        return True
    if status.st_uid == user:
        return status.st_mode & 0o600 == 0o600
    if status.st_gid in groups:
        return status.st_mode & 0o060 == 0o060
    return status.st_mode & 0o006 == 0o006


def _group_name(root: Path, number: int) -> str:
    """Return a group's name; its number where the file of groups does not know it."""
    text = read_text(root / "etc/group")
    for line in text.splitlines() if isinstance(text, str) else ():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(number):
            return fields[0]
    return str(number)
