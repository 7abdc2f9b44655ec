"""Says what this machine's dynamic loader was built with, and what its processor may use."""

import re
from collections.abc import Iterable

_VERSION = re.compile(
    rb"(?:GLIBC|GNU libc|GNU C Library)[^\n\0]{0,100}?version (\d{1,3})\.(\d{1,3})"
)
_MOST_PATH_BYTES = 4096
_MOST_INTERPRETER_BYTES = 4 << 20


def read_interpreter(data: bytes) -> tuple[tuple[str, ...], tuple[int, int] | None]:
    """Return the default directories and the version that an ld-linux*.so was built with.

    They are in its read-only data. Nothing found gives `()` and `None`; before 2.33 the file
    did not tell its version, and did not know the glibc-hwcaps subfolders: (2, 32) stands for all.
    """
    directories = _system_directories(data)
    version = _VERSION.search(data)
    if version is not None:
        return directories, (int(version[1]), int(version[2]))
    return directories, (2, 32) if directories and b"glibc-hwcaps" not in data else None


def _system_directories(data: bytes) -> tuple[str, ...]:
    """Return the first two or more strings in a row that are folders of libraries.

    String by string that ends in a slash: one pattern over all of them would search hostile data
    without end.
    """
    run: list[str] = []
    next_start = -1
    end = data.find(b"/\0")
    while end >= 0:
        before = data.rfind(b"\0", max(0, end - _MOST_PATH_BYTES), end)
        string = data[before + 1 : end + 1]
        if run and before + 1 != next_start:
            if len(run) > 1:
                return tuple(run)
            run = []
        folder = string if run else string[max(0, string.find(b"/")) :]
        is_folder = folder.startswith(b"/") and not folder.translate(None, _PATH_BYTES)
        if 2 < len(folder) < _MOST_PATH_BYTES and is_folder and b"lib" in folder:
            run.append(folder.decode("ascii").rstrip("/"))
            next_start = end + 2
        elif len(run) > 1:
            return tuple(run)
        else:
            run = []
        end = data.find(b"/\0", end + 2)
    return tuple(run) if len(run) > 1 else ()


_PATH_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+-"


def hwcaps_of(flags: Iterable[str]) -> tuple[str, ...]:
    """Return the glibc-hwcaps subfolders for an x86-64 processor with these flags, best first.

    Levels: the x86-64 psABI; names of flags: the Linux kernel's /proc/cpuinfo.
    """
    have = frozenset(flags)
    levels: list[str] = []
    for name, wanted in _LEVELS:
        if not wanted <= have:
            break
        levels.insert(0, name)
    return tuple(levels)


_LEVELS = (
    ("x86-64-v2", frozenset(("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"))),
    (
        "x86-64-v3",
        frozenset(("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave")),
    ),
    ("x86-64-v4", frozenset(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"))),
)


def legacy_subfolders_of(
    machine: str, vendor: str, flags: Iterable[str], version: tuple[int, int] | None
) -> tuple[tuple[str, ...], str]:
    """Return the subfolders that glibc before 2.37 searches, best first, and its $PLATFORM."""
    have = frozenset(flags)
    platform = machine
    bits: tuple[str, ...] = ()
    if machine == "x86_64":
        bits = ("x86_64",)
        if vendor == "GenuineIntel" and (version or (0, 0)) >= (2, 26):
            if {"avx2", "bmi1", "bmi2", "abm", "movbe", "popcnt", "fma"} <= have:
                platform = "haswell"
            if {"avx512cd", "avx512bw", "avx512dq", "avx512vl"} <= have:
                bits = ("avx512_1", "x86_64")
    elif machine == "aarch64" and "atomics" in have:
        bits = ("atomics",)
    if version is None or version >= (2, 37):
        return (), machine
    parts = ("tls", platform, *bits)
    folders: list[str] = []
    for mask in range(2 ** len(parts) - 1, 0, -1):
        chosen = [part for n, part in enumerate(parts) if mask >> (len(parts) - 1 - n) & 1]
        folder = "/".join(chosen)
        if folder not in folders:
            folders.append(folder)
    return tuple(folders), platform
