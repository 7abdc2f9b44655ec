"""Finds the driver's daemons: persistence daemon, fabric manager, subnet manager."""

import os
import re
from pathlib import Path

from gpucheck.probes.driver_libraries import find_version
from gpucheck.probes.files import names_in, read_bytes, read_text
from gpucheck.probes.kernel_module import RELEASE, parse_fields
from gpucheck.snapshot import FabricManager, Unknown

#: The PID namespace that the kernel starts with has this inode (linux/proc_ns.h): in any other,
#: the host's processes are out of sight.
FIRST_PID_NAMESPACE = "pid:[4026531836]"
#: /proc/PID/comm holds 15 characters of the name.
PERSISTENCED = "nvidia-persistenced"[:15]
FABRIC_MANAGER = "nv-fabricmanager"[:15]
MPS = "nvidia-cuda-mps-control"[:15]  # the server's name begins alike
#: the subnet manager of NVLink 5 switches (NVIDIA's fabric manager user guide)
SUBNET_MANAGERS = ("usr/bin/nvlsm", "usr/sbin/nvlsm", "opt/nvidia/nvlsm/sbin/nvlsm")
_RELEASE_BYTES = re.compile(rb"(?<![\d.])\d{3}\.\d{2,3}\.\d{2}(?![\d.])")


def running_programs(root: Path) -> frozenset[str] | Unknown:
    """Return the short names of the processes that we look for and that run here."""
    names = names_in(root / "proc")
    if not isinstance(names, tuple):
        return names or Unknown("/proc is not there")
    running = set()
    for name in names:
        if name.isascii() and name.isdigit():
            try:
                handle = os.open(root / "proc" / name / "comm", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it ended meanwhile
            try:
                comm = os.read(handle, 64).strip().decode("utf-8", "replace")
            except OSError:
                continue
            finally:
                os.close(handle)
            if comm in (PERSISTENCED, FABRIC_MANAGER, MPS):
                running.add(comm)
    if not running:
        try:
            namespace = str((root / "proc/self/ns/pid").readlink())
        except OSError:
            namespace = FIRST_PID_NAMESPACE
        if namespace != FIRST_PID_NAMESPACE:
            return Unknown("the host's processes are not visible from here")
    return frozenset(running)


def persistenced(root: Path, running: frozenset[str] | Unknown) -> bool | Unknown:
    """Whether nvidia-persistenced runs."""
    # A container that was given its GPUs has the host daemon's socket.
    if (root / "run/nvidia-persistenced/socket").exists():
        return True
    return running if isinstance(running, Unknown) else PERSISTENCED in running


def mps(running: frozenset[str] | Unknown) -> bool | Unknown:
    """Whether a daemon of the Multi-Process Service runs."""
    return running if isinstance(running, Unknown) else MPS in running


def fabric_manager(
    root: Path, running: frozenset[str] | Unknown, module_version: str | Unknown | None
) -> FabricManager | Unknown | None:
    """Return the fabric manager; None: it is not installed."""
    binary = root / "usr/bin/nv-fabricmanager"
    if not isinstance(running, Unknown) and FABRIC_MANAGER in running:
        return FabricManager(
            is_running=True, version=_fabric_manager_version(root, binary, module_version)
        )
    if binary.is_file():
        return FabricManager(
            is_running=running if isinstance(running, Unknown) else False,
            version=_fabric_manager_version(root, binary, module_version),
        )
    return running if isinstance(running, Unknown) else None


def _fabric_manager_version(
    root: Path, binary: Path, module_version: str | Unknown | None
) -> str | Unknown:
    """Read the version from the program's bytes, else from dpkg's list; it is not run."""
    if isinstance(module_version, str) and find_version(binary, (module_version,)):
        return module_version
    text = read_text(root / "var/lib/dpkg/status", 64 << 20)
    if isinstance(text, str) and (version := parse_package_version(text)):
        return version
    data = read_bytes(binary, 64 << 20)
    if isinstance(data, bytes) and (found := _RELEASE_BYTES.search(data)):
        return found[0].decode()
    return Unknown("neither the program nor dpkg names its version")


def parse_package_version(text: str) -> str | None:
    """Find the version of an installed nvidia-fabricmanager in dpkg's status file."""
    found: str | None = None
    for entry in text.split("\n\n"):
        if not entry.lstrip("\n").startswith(_FABRIC_MANAGER):
            continue
        fields = parse_fields(entry)
        name = fields.get("Package", "")
        if not fields.get("Status", "").endswith(" installed") or "-dev" in name:
            continue
        release = RELEASE.search(fields.get("Version", ""))
        if name == "nvidia-fabricmanager" and release:
            return release[0]
        found = found or (release[0] if release else None)
    return found


_FABRIC_MANAGER = ("Package: nvidia-fabricmanager\n", "Package: nvidia-fabricmanager-")


def has_subnet_manager(root: Path) -> bool:
    """Whether nvlsm is installed."""
    return any((root / path).is_file() for path in SUBNET_MANAGERS)
