"""Reads what a machine is built of and runs beneath the system: board, BIOS, CPU, RDMA adapters.

Peers of a fleet should have these in common; a board that was replaced shows up by them.
"""

import re
from pathlib import Path

from gpucheck.probes.files import first_line, names_in, read_text
from gpucheck.snapshot import Platform, RdmaDevice, RdmaPort, Unknown

_CPUINFO = re.compile(r"^(model name|microcode)\s*:\s*(.*)$", re.MULTILINE)
_CHOSEN = re.compile(r"\[([^\]]*)\]")
#: What firmware makers leave in a field that they do not fill.
_BLANK = re.compile(
    r"(?i)to be filled.*|default string|not specified|none|system product name|x\.?x"
)


def platform(root: Path) -> Platform:
    """Return the facts of the machine whose file tree is *root*; nothing that names one machine."""
    dmi, cpu = root / "sys/class/dmi/id", root / "sys/devices/system/cpu/cpu0"
    info = read_text(root / "proc/cpuinfo", 1 << 16)
    return Platform(
        vendor=_named(dmi / "sys_vendor"),
        product=_named(dmi / "product_name"),
        board=_named(dmi / "board_name"),
        bios_version=_named(dmi / "bios_version"),
        cpu_model=_of_cpuinfo(info, "model name"),
        microcode=_of_cpuinfo(info, "microcode"),
        cpu_governor=first_line(cpu / "cpufreq/scaling_governor"),
        transparent_hugepages=_chosen(root / "sys/kernel/mm/transparent_hugepage/enabled"),
        numa_nodes=_numa_nodes(root),
    )


def _named(path: Path) -> str | Unknown | None:
    line = first_line(path)
    if not isinstance(line, str):
        return line
    return None if _BLANK.fullmatch(line.strip()) else line.strip() or None


def _of_cpuinfo(text: str | Unknown | None, name: str) -> str | Unknown | None:
    """Return what the first CPU has under *name*; ARM's kernel writes neither."""
    if not isinstance(text, str):
        return text
    return next((found for key, found in _CPUINFO.findall(text) if key == name), None)


def _chosen(path: Path) -> str | Unknown | None:
    """Return the word in brackets: "always [madvise] never"."""
    line = first_line(path)
    if not isinstance(line, str):
        return line
    found = _CHOSEN.search(line)
    return found[1] if found else Unknown(f"{path} is unreadable")


def _numa_nodes(root: Path) -> int | Unknown | None:
    names = names_in(root / "sys/devices/system/node")
    if not isinstance(names, tuple):
        return names
    return sum(re.fullmatch(r"node\d+", name) is not None for name in names)


def rdma(root: Path) -> tuple[RdmaDevice, ...] | Unknown:
    """Return every RDMA adapter with its firmware and ports (sysfs-class-infiniband)."""
    folder = root / "sys/class/infiniband"
    names = names_in(folder)
    if not isinstance(names, tuple):
        return () if names is None and (root / "sys").is_dir() else Unknown("/sys is not there")
    return tuple(
        RdmaDevice(
            name=name,
            firmware=first_line(folder / name / "fw_ver"),
            board=first_line(folder / name / "board_id"),
            ports=_ports(folder / name / "ports"),
        )
        for name in names
    )


def _ports(folder: Path) -> tuple[RdmaPort, ...] | Unknown:
    names = names_in(folder)
    if not isinstance(names, tuple):
        return () if names is None else names
    return tuple(
        RdmaPort(
            number=int(name),
            state=_without_number(folder / name / "state"),
            rate=first_line(folder / name / "rate"),
            link_layer=first_line(folder / name / "link_layer"),
        )
        for name in names
        if name.isdecimal()
    )


def _without_number(path: Path) -> str | Unknown | None:
    """Return "ACTIVE" of "4: ACTIVE"."""
    line = first_line(path)
    return line.rpartition(": ")[2] if isinstance(line, str) else line
