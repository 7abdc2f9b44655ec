"""Reads which symbol versions an ELF file needs of others, and which it defines itself.

Layout: the Linux Standard Base, "Symbol Versioning"; elf.h. Files are read in pieces, not mapped.
"""

import os
import struct
from collections.abc import Mapping

_DT_STRTAB, _DT_VERDEF, _DT_VERDEFNUM = 5, 0x6FFFFFFC, 0x6FFFFFFD
_DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
_MOST = 4096  # versions, or files that versions are needed of
_MOST_NAME_BYTES = 256
_WEAK = 2  # the loader goes on without a weak version


def needed_versions(path: str) -> Mapping[str, frozenset[str]]:
    """Return the versions that the file *path* needs, by the SONAME of the library that has them.

    A file that cannot be read, or is no 64-bit little-endian ELF object, needs none.
    """
    try:
        with _File(path) as file:
            return file.needed()
    except (OSError, ValueError, struct.error, OverflowError):
        return {}


def defined_versions(path: str) -> frozenset[str] | None:
    """Return the versions that the library *path* defines; None where it cannot be read."""
    try:
        with _File(path) as file:
            return file.defined()
    except (OSError, ValueError, struct.error, OverflowError):
        return None


class _File:
    """One ELF file, opened."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._loads: list[tuple[int, int, int]] = []
        self._tags: dict[int, int] = {}

    def __enter__(self) -> "_File":
        try:
            self._read_headers()
        except BaseException:
            os.close(self._descriptor)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def _read(self, size: int, at: int) -> bytes:
        return os.pread(self._descriptor, size, at)

    def _read_headers(self) -> None:
        head = self._read(64, 0)
        if head[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no 64-bit little-endian ELF object")
        (segments_at,) = struct.unpack_from("<Q", head, 32)
        size, count = struct.unpack_from("<HH", head, 54)
        if size < 56 or count > _MOST:
            raise ValueError("damaged ELF headers")
        table = self._read(size * count, segments_at)
        dynamic = (0, 0)
        for at in range(0, len(table) - size + 1, size):
            kind, _, offset, address, _, length, _, _ = struct.unpack_from("<IIQQQQQQ", table, at)
            if kind == 1:
                self._loads.append((address, length, offset))
            elif kind == 2:
                dynamic = (offset, min(length, 1 << 16))
        section = self._read(dynamic[1], dynamic[0])
        for tag, value in struct.iter_unpack("<qQ", section[: len(section) - len(section) % 16]):
            if tag == 0:
                break
            self._tags.setdefault(tag & 0xFFFFFFFF, value)

    def _offset(self, address: int) -> int:
        for start, length, offset in self._loads:
            if start <= address < start + length:
                return offset + address - start
        raise ValueError("an address outside of the file")

    def _name(self, at: int) -> str:
        data = self._read(_MOST_NAME_BYTES, self._offset(self._tags.get(_DT_STRTAB, 0)) + at)
        return data.partition(b"\0")[0].decode("ascii", "replace")

    def needed(self) -> dict[str, frozenset[str]]:
        if _DT_VERNEED not in self._tags:
            return {}
        at = self._offset(self._tags[_DT_VERNEED])
        found: dict[str, frozenset[str]] = {}
        for _ in range(min(self._tags.get(_DT_VERNEEDNUM, 0), _MOST)):
            _, count, file, first, following = struct.unpack("<HHIII", self._read(16, at))
            versions: set[str] = set()
            aux = at + first
            for _ in range(min(count, _MOST)):
                _, flags, _, name, further = struct.unpack("<IHHII", self._read(16, aux))
                if not flags & _WEAK:
                    versions.add(self._name(name))
                aux += further
            found[self._name(file)] = frozenset(versions)
            at += following
        return found

    def defined(self) -> frozenset[str]:
        if _DT_VERDEF not in self._tags:
            return frozenset()
        at = self._offset(self._tags[_DT_VERDEF])
        found: set[str] = set()
        for _ in range(min(self._tags.get(_DT_VERDEFNUM, 0), _MOST)):
            _, _, _, _, _, first, following = struct.unpack("<HHHHIII", self._read(20, at))
            (name,) = struct.unpack("<I", self._read(4, at + first))
            found.add(self._name(name))
            at += following
        return frozenset(found)
