"""Reads what sysfs shows of a GPU on PCI Express: addresses, power state, error counters."""

import re
from collections.abc import Sequence
from pathlib import Path

from gpucheck.probes.files import read_text
from gpucheck.snapshot import PciPort, Unknown

#: the total that ends each file (Documentation/ABI/testing/sysfs-bus-pci-devices-aer_stats)
_TOTALS = {
    "aer_dev_correctable": "TOTAL_ERR_COR",
    "aer_dev_nonfatal": "TOTAL_ERR_NONFATAL",
    "aer_dev_fatal": "TOTAL_ERR_FATAL",
}


def port(device: Path) -> PciPort:
    """Return the error counters of the PCI device whose folder in sysfs is *device*."""
    correctable, nonfatal, fatal = (
        _total(read_text(device / file, 4096), total) for file, total in _TOTALS.items()
    )
    return PciPort(
        bus_id=device.name, aer_correctable=correctable, aer_nonfatal=nonfatal, aer_fatal=fatal
    )


def ports(bridges: Sequence[Path], known: dict[str, PciPort]) -> tuple[PciPort, ...]:
    """Return the counters of *bridges*; *known* holds those that another GPU had read already."""
    for bridge in bridges:
        if bridge.name not in known:
            known[bridge.name] = port(bridge)
    return tuple(known[bridge.name] for bridge in bridges)


def _total(text: str | Unknown | None, name: str) -> int | Unknown | None:
    return parse_total(text, name) if isinstance(text, str) else text


def parse_total(text: str, name: str) -> int | Unknown:
    """Return the number behind *name* in an aer_dev_* file, else the sum of all its lines."""
    counts = dict(re.findall(r"^(\w+) ([0-9]{1,15})$", text, re.MULTILINE))
    if name in counts:
        return int(counts[name])
    if not counts:
        return Unknown("the counter of PCI Express errors has an unexpected value")
    return sum(map(int, counts.values()))


def unassigned_bars(device: Path) -> tuple[int, ...] | Unknown:
    """Return which of BAR 0 (registers) and BAR 1 (memory) have no address."""
    text = read_text(device / "resource", 4096)
    if not isinstance(text, str):
        return text or Unknown("the device's resources are not shown")
    return parse_resources(text)


def parse_resources(text: str) -> tuple[int, ...] | Unknown:
    """Judge the first two lines of sysfs's `resource`: start, end, flags.

    A line that is zero by nature (the upper half of a 64-bit BAR, an I/O port that nobody asked
    for) comes later on a GPU: its BAR 0 and BAR 1 are memory, always.
    """
    lines = text.splitlines()[:2]
    starts = [re.match(r"(0x[0-9a-fA-F]{1,16}) 0x[0-9a-fA-F]{1,16} ", line) for line in lines]
    if len(lines) < 2 or None in starts:
        return Unknown("the device's resources have unexpected values")
    return tuple(n for n, found in enumerate(starts) if found and int(found[1], 16) == 0)


def power_state(device: Path) -> str | Unknown | None:
    """Return the PCI power state that the kernel last put the device into."""
    text = read_text(device / "power_state", 64)
    return text.strip() or None if isinstance(text, str) else text
