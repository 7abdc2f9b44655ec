"""Why a GPU holds its clocks down: the bits of NVML's clocks event reasons, with their source."""

from functools import cache

import msgspec

from gpucheck.knowledge import published

SW_THERMAL_SLOWDOWN = 0x20
HW_SLOWDOWN = 0x8
HW_THERMAL_SLOWDOWN = 0x40
HW_POWER_BRAKE_SLOWDOWN = 0x80


class Reason(msgspec.Struct, frozen=True):
    """One bit of the mask, with the words nvidia-smi has for it."""

    bit: int
    name: str
    label: str
    meaning: str
    verdict: str
    action: str
    source: tuple[str, ...]
    confidence: str


class Table(msgspec.Struct, frozen=True):
    """The file as it is."""

    sources: dict[str, str]
    reasons: tuple[Reason, ...]


@cache
def table() -> Table:
    """Return all bits."""
    return published("clocks_event_reasons.json", Table)


def names(mask: int) -> tuple[str, ...]:
    """Return nvidia-smi's words for every bit of *mask*; an unknown bit is given in hex."""
    known = [(reason.bit, reason.label) for reason in table().reasons if mask & reason.bit]
    rest = mask & ~sum(bit for bit, _ in known)
    unknown = [f"{1 << n:#x}" for n in range(rest.bit_length()) if rest >> n & 1]
    return tuple(label for _, label in known) + tuple(unknown)
