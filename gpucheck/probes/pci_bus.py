"""Finds NVIDIA's devices on the PCI bus: GPUs, what lies above them, NVSwitches."""

import os
import re
from pathlib import Path

from gpucheck.probes import pci_errors
from gpucheck.probes.files import first_line, names_in, read_bytes
from gpucheck.snapshot import PciGpu, PciPort, Unknown, unread

NVIDIA = "0x10de"
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\Z")
#: GT/s of a PCI Express link → its generation (PCI Express base specification).


def _pci_devices(root: Path) -> list[tuple[Path, str]] | Unknown:
    """Return the NVIDIA devices on the bus with their class codes."""
    folder = root / "sys/bus/pci/devices"
    names = names_in(folder)
    if isinstance(names, Unknown):
        return names
    if names is None:
        if (root / "sys/bus").is_dir():
            return []  # a machine with no PCI bus at all
        return Unknown("/sys/bus is not there")
    found = []
    for name in names:
        if first_line(folder / name / "vendor") == NVIDIA:
            code = first_line(folder / name / "class")
            found.append((folder / name, code if isinstance(code, str) else ""))
    return found


def nvswitches(root: Path) -> int | Unknown:
    """Return how many NVSwitches the bus shows."""
    devices = _pci_devices(root)
    if isinstance(devices, Unknown):
        return devices
    return sum(code.startswith("0x0680") for _, code in devices)


def gpus(root: Path) -> tuple[PciGpu, ...] | Unknown:
    """Return the GPUs on the bus, whoever drives them."""
    devices = _pci_devices(root)
    if isinstance(devices, Unknown):
        return devices
    ports: dict[str, PciPort] = {}
    return tuple(
        _pci_gpu(device, ports) for device, code in devices if code.startswith(("0x0300", "0x0302"))
    )


def _pci_gpu(device: Path, ports: dict[str, PciPort]) -> PciGpu:
    device_id = first_line(device / "device")
    bridges = _bridges_above(device)
    port = bridges[0] if bridges else None
    width = None if port is None else first_line(port / "max_link_width")
    return PciGpu(
        bus_id=device.name,
        device_id=device_id if isinstance(device_id, str) else "",
        driver=_link_name(device / "driver"),
        numa_node=_numa_node(device),
        slot_max_width=parse_width(width),
        acs_redirecting_bridges=_redirecting(bridges),
        unassigned_bars=pci_errors.unassigned_bars(device),
        power_state=pci_errors.power_state(device),
        aer=pci_errors.port(device),
        bridges=pci_errors.ports(bridges, ports),
    )


def _link_name(link: Path) -> str | Unknown | None:
    try:
        return os.path.basename(os.readlink(link))  # noqa: PTH115, PTH119 - plain text is wanted
    except FileNotFoundError:
        return None
    except OSError as error:
        return unread(link, error)


def _numa_node(device: Path) -> int | Unknown | None:
    text = first_line(device / "numa_node")
    if not isinstance(text, str):
        return text
    if not re.fullmatch(r"-?[0-9]{1,6}", text):
        return Unknown(f"numa_node reads {text!r}")
    return int(text) if int(text) >= 0 else None


def _bridges_above(device: Path) -> list[Path]:
    """Return the bridges between *device* and the root of its bus, nearest first."""
    try:
        real = device.resolve()
    except (OSError, RuntimeError):
        return []
    bridges = []
    for parent in real.parents:
        if not _PCI_ADDRESS.match(parent.name):
            break
        bridges.append(parent)
    return bridges


def parse_width(text: str | Unknown | None) -> int | Unknown | None:
    """Return the number of lanes; 0 and 255 are what the kernel shows where it does not know."""
    if not isinstance(text, str):
        return text
    if not re.fullmatch(r"[0-9]{1,3}", text) or int(text) in (0, 255):
        return Unknown(f"the link width reads {text!r}")
    return int(text)


def _redirecting(bridges: list[Path]) -> tuple[str, ...] | Unknown:
    found = []
    for bridge in bridges:
        data = read_bytes(bridge / "config", 4096)
        if data is None:
            return Unknown(f"the PCI configuration space of {bridge.name} is not shown")
        if isinstance(data, Unknown):
            return data
        redirects = parse_request_redirect(data)
        if redirects is None:
            return Unknown(
                f"the PCI configuration space of {bridge.name} may not be read: only root may"
            )
        if redirects:
            found.append(bridge.name)
    return tuple(found)


def parse_request_redirect(config: bytes) -> bool | None:
    """Whether a bridge's ACS control has P2P request redirect on; None: too little may be read.

    The extended capabilities of PCI Express begin at byte 256. Each header holds the id in bits
    0-15 and the next one's place in bits 20-31; ACS is 0x000D, its control register is at +6,
    and bit 2 of that is the redirect (linux/pci_regs.h). Users other than root see 64 bytes.
    """
    if len(config) < 256:
        return None
    place = 256
    for _ in range(960):  # as many headers as there is room for, so that a circle ends
        header = int.from_bytes(config[place : place + 4], "little")
        if header in (0, 0xFFFFFFFF) or place + 8 > len(config):
            return False
        if header & 0xFFFF == 0x000D:
            return bool(int.from_bytes(config[place + 6 : place + 8], "little") & 0x4)
        place = header >> 20 & ~3
        if place < 256:
            return False
    return False
