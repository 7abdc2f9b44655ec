"""Knows the programs that remedies name: which package brings each, and whose system it acts on.

The table is `programs.json`, which names its sources. A program that every system has (sed, ln,
chmod) is not in it.
"""

import functools
from typing import Literal

import msgspec

from gpucheck.knowledge import published


class Program(msgspec.Struct, frozen=True):
    """A program, and what a container means for it.

    *belongs_to_host* says when it acts on the host's kernel or boot, whatever container it is
    called in: "always", where it needs root ("as root"), or in containers without an init system
    of their own ("docker").
    """

    name: str
    packages: dict[str, str] = {}  # by the family of the distribution
    belongs_to_host: Literal["never", "always", "as root", "docker"] = "never"


class Table(msgspec.Struct, frozen=True):
    """The whole of `programs.json`."""

    sources: dict[str, str]
    programs: tuple[Program, ...]


@functools.cache
def table() -> dict[str, Program]:
    """Return the programs by their names, read once."""
    return {program.name: program for program in published("programs.json", Table).programs}
