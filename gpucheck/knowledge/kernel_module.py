"""Knows which kernel module, open or closed, drives a GPU, by its PCI device id.

The table is `kernel_module.json`; each row names its sources. It answers before NVML does: a GPU
that the driver cannot drive is on the PCI bus and nowhere else.
"""

import functools
from typing import Literal

import msgspec

from gpucheck.knowledge import published


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """A range of PCI device ids of one architecture, both ends included."""

    first_id: str  # "0x2900"
    last_id: str
    architecture: str
    compute_capability: str  # of the family, as driver_cuda knows it
    module: Literal["closed", "either", "open"]
    source: tuple[str, ...]
    confidence: str


class Table(msgspec.Struct, frozen=True):
    """The whole of `kernel_module.json`."""

    sources: dict[str, str]
    families: tuple[Family, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("kernel_module.json", Table)


@functools.cache
def family_of(device_id: str) -> Family | None:
    """Return the family of a PCI device id, "0x2335"; None where the table does not know it."""
    try:
        number = int(device_id, 16)
    except ValueError:
        return None
    for family in table().families:
        if int(family.first_id, 16) <= number <= int(family.last_id, 16):
            return family
    return None


def has_nvlink5_fabric(device_id: str) -> bool:
    """Whether a GPU is of a board whose NVLink 5 switches are not on the PCI bus (B200, B300)."""
    family = family_of(device_id)
    return family is not None and family.compute_capability in ("10.0", "10.3")
