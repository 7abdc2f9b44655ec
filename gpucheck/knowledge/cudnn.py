"""Knows cuDNN: how its versions are counted, what it is made of, which GPUs it serves.

The table is `cudnn.json`; each row names its sources. A version that it does not know gives None,
which rules report as not checked.
"""

import functools
from typing import Literal

import msgspec

from gpucheck.knowledge import published
from gpucheck.versions import version_tuple

Confidence = Literal["high", "medium", "low"]


class Encoding(msgspec.Struct, frozen=True):
    """How cudnnGetVersion counts: major × `thousands` + minor × 100 + patch."""

    major: int
    thousands: int
    example_version: str
    example_number: int
    source: tuple[str, ...]
    confidence: Confidence


class Support(msgspec.Struct, frozen=True):
    """The GPUs that a span of cuDNN versions, built for one CUDA major, has kernels for."""

    first: str
    last: str
    cuda_major: int
    oldest_capability: str
    newest_capability: str | None  # None: not known; a newer minor of one major always runs
    source: tuple[str, ...]
    confidence: Confidence


class Part(msgspec.Struct, frozen=True):
    """A library that cuDNN opens by name when it first needs it."""

    stem: str  # "libcudnn_ops"
    major: int
    since: str  # the first version that surely brings it
    tried_since: str  # the first that may open it
    opened_by: str  # the stem of the library that opens it: its DT_RPATH or DT_RUNPATH decides
    source: tuple[str, ...]
    confidence: Confidence

    @property
    def soname(self) -> str:
        return f"{self.stem}.so.{self.major}"


class Table(msgspec.Struct, frozen=True):
    """The whole of `cudnn.json`."""

    sources: dict[str, str]
    encoding: tuple[Encoding, ...]
    support: tuple[Support, ...]
    part: tuple[Part, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("cudnn.json", Table)


def version_of(number: int) -> str | None:
    """Turn what cudnnGetVersion returns into a version: 91900 → "9.19.0", 8907 → "8.9.7"."""
    thousands = 10000 if number >= 10000 else 1000
    major, rest = divmod(number, thousands)
    if major < 1 or number < 1000:
        return None
    return f"{major}.{rest // 100}.{rest % 100}"


@functools.cache
def parts_of(version: str) -> tuple[Part, ...]:
    """Return the libraries that this version of cuDNN may open, in the order it does."""
    parsed = version_tuple(version)
    return tuple(
        part
        for part in table().part
        if parsed[:1] == (part.major,) and parsed >= version_tuple(part.tried_since)[: len(parsed)]
    )


def is_sure(part: Part, version: str) -> bool:
    """Say whether this version of cuDNN surely brings *part*, so that its absence is a fault."""
    return version_tuple(version) >= version_tuple(part.since)


@functools.cache
def capabilities_of(version: str, cuda_major: int | None) -> tuple[str, str | None] | None:
    """Return the oldest and the newest compute capability that this cuDNN serves.

    The newest is None where it is not known. With *cuda_major* None the widest of all builds is
    given. A version that no row knows gives None.
    """
    parsed = version_tuple(version)[:3]
    if len(parsed) < 2:
        return None
    rows = [
        row
        for row in table().support
        if version_tuple(row.first) <= (*parsed, 0, 0)[:3] <= version_tuple(row.last)
        and cuda_major in (None, row.cuda_major)
    ]
    if not rows:
        return None
    oldest = min((row.oldest_capability for row in rows), key=version_tuple)
    newest = [row.newest_capability for row in rows]
    known = [capability for capability in newest if capability is not None]
    return oldest, max(known, key=version_tuple) if len(known) == len(newest) else None
