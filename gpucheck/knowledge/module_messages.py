"""Knows what nvidia.ko means by the lines that it prints when it does not get a GPU to work.

The table is `module_messages.json`; each row names its sources. The order is that of precision: the
first that matches says most.
"""

import functools
import re
from typing import Literal

import msgspec

from gpucheck.knowledge import published

Kind = Literal[
    "legacy",  # dropped by this branch: the line names the last one
    "needs_closed",  # no GPU System Processor
    "needs_open",
    "wrong_release",
    "off_the_bus",
    "no_address",
    "firmware",
    "wpr2",  # the GPU's protected memory is set up already: it was not reset
    "gfw_boot",  # the GPU's own firmware did not come up
    "power",
    "other_driver",
    "nothing_probed",
]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A pattern of the module's lines, and what it means."""

    kind: Kind
    pattern: str
    source: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """The whole of `module_messages.json`."""

    sources: dict[str, str]
    messages: tuple[Message, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("module_messages.json", Table)


@functools.cache
def _patterns() -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    return tuple((row.kind, re.compile(row.pattern)) for row in table().messages)


def meaning(line: str) -> "tuple[Kind, re.Match[str]] | None":
    """Return what *line* means, and the match with its named parts; None: nothing known."""
    for kind, pattern in _patterns():
        if found := pattern.search(line):
            return kind, found
    return None
