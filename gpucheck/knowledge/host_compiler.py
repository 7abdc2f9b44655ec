"""Knows the newest gcc and clang that each nvcc accepts, where its own header cannot be read.

The table is `host_compiler.json`; each row names its sources. A release that it does not know
gives None.
"""

import functools
from typing import Literal

import msgspec

from gpucheck.knowledge import published
from gpucheck.versions import version_tuple


class Limit(msgspec.Struct, frozen=True):
    """The newest majors of gcc and clang that an nvcc accepts without an override."""

    cuda: str  # "12.4", or "11.1.1" where an update changed it
    max_gcc: int
    max_clang: int
    source: tuple[str, ...]
    confidence: Literal["high", "medium", "low"]


class Table(msgspec.Struct, frozen=True):
    """The whole of `host_compiler.json`."""

    sources: dict[str, str]
    nvcc: tuple[Limit, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("host_compiler.json", Table)


@functools.cache
def limit_of(cuda: str) -> Limit | None:
    """Return the limits of a toolkit release: "12.4" or "12.4.1".

    Where an update raised the limits and the update is not named, the raised ones count: they
    accuse nobody falsely.
    """
    wanted = version_tuple(cuda)[:3]
    found: Limit | None = None
    for row in table().nvcc:
        have = version_tuple(row.cuda)
        if have[:2] == wanted[:2] and (len(wanted) < 3 or have <= wanted):
            found = row
    return found
