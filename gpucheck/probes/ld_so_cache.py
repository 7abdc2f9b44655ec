"""Reads the dynamic loader's cache, /etc/ld.so.cache, and looks names up in it as glibc does."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

_OLD_MAGIC = b"ld.so-1.7.0"
_NEW_MAGIC = b"glibc-ld.so.cache"
_NEW_VERSION = b"1.1"
_NEW_HEADER_BYTES = 48
_NEW_ENTRY_BYTES = 24
_OLD_ENTRY_BYTES = 12
_EXTENSION_MAGIC = 0xEAA42174
_HWCAPS_SECTION = 1
_HWCAP_IS_NAMED = 1 << 62  # the entry's low 32 hwcap bits are an index of named subfolders
_HWCAP_KIND = 0xFFFFFC00 << 32  # without the bits of the x86 level that a file itself demands
#: What ldconfig before 2.37 sets for a legacy subfolder (glibc: dl-hwcap.h, dl-procinfo.c)
LEGACY_BITS = {
    "tls": 1 << 63,
    "x86_64": 1 << 1,
    "avx512_1": 1 << 2,
    "haswell": 1 << 50,
    "xeon_phi": 1 << 51,
    "atomics": 1 << 8,
}

FLAGS_ANY_ELF = 1
#: by ELF machine number (and 64-bit): what ldconfig writes into the flags of an entry
CACHE_FLAGS = {
    62: 0x0303,  # x86-64, libc6
    183: 0x0A03,  # aarch64, libc6
    3: 0x0003,  # i386, libc6
    21: 0x0503,  # ppc64
    243: 0x1003,  # riscv64, double-float ABI
}


class CacheError(ValueError):
    """This is no ld.so.cache, or a damaged one."""


class CacheEntry(NamedTuple):  # a tuple, because a big cache has ten thousand of them
    """One line of `ldconfig -p`."""

    name: str  # "libcuda.so.1"
    path: str
    flags: int  # 0x0303 is x86-64, 0x0a03 aarch64, 0x0003 i386 (all libc6)
    hwcaps: str | None = None  # "x86-64-v3" for a glibc-hwcaps subfolder; "" for an unknown one
    hwcap_mask: int = 0  # legacy hardware bits of glibc before 2.37


@dataclass(frozen=True, slots=True)
class Cache:
    """The loader's cache: entries by name, each list in the file's own order, best first."""

    entries: Mapping[str, tuple[CacheEntry, ...]]

    def lookup(
        self, name: str, flags: int, hwcaps: Sequence[str] = (), legacy_bits: int = 0
    ) -> str | None:
        """Return the path that the loader takes for *name*, None where there is none.

        *flags* are those of the machine (`CACHE_FLAGS`), *hwcaps* the glibc-hwcaps subfolders that
        this processor may use, best first; *legacy_bits* stand for the subfolders that glibc
        before 2.37 uses here.
        """
        best: str | None = None
        best_rank = len(hwcaps)
        for entry in self.entries.get(name, ()):
            if entry.flags not in (FLAGS_ANY_ELF, flags):
                continue
            if entry.hwcaps is not None:
                if entry.hwcaps in hwcaps and hwcaps.index(entry.hwcaps) < best_rank:
                    best_rank = hwcaps.index(entry.hwcaps)
                    best = entry.path
                continue
            if best_rank < len(hwcaps):
                break  # a subfolder's copy beats the plain one, which stands behind it
            if entry.hwcap_mask & ~legacy_bits:
                continue
            best = entry.path
            if entry.flags == flags:
                break
        return best

    def paths(self, name: str, flags: int) -> tuple[str, ...]:
        """Return every path that the cache knows for *name* on this machine, best first."""
        return tuple(e.path for e in self.entries.get(name, ()) if e.flags in (1, flags))


def read_cache(data: bytes) -> Cache:
    """Read the bytes of an ld.so.cache: the new format, alone or behind the old one.

    Raises `CacheError` for anything else. Formats: glibc's dl-cache.h, and ldconfig's own output.
    """
    start = 0
    if data.startswith(_OLD_MAGIC):
        order = _old_byte_order(data)
        (count,) = struct.unpack_from(order + "I", data, 12)
        start = 16 + count * _OLD_ENTRY_BYTES
        start += -start % 8
        if data[start : start + len(_NEW_MAGIC)] != _NEW_MAGIC:
            return _read_old(data, order, count)
    if data[start : start + len(_NEW_MAGIC)] != _NEW_MAGIC:
        raise CacheError("not an ld.so.cache: the magic number is missing")
    if data[start + 17 : start + 20] != _NEW_VERSION:
        raise CacheError(f"unknown version {data[start + 17 : start + 20]!r} of ld.so.cache")
    return _read_new(data[start:] if start else data, data)


def _old_byte_order(data: bytes) -> str:
    if len(data) < 16:
        raise CacheError("ld.so.cache is cut short")
    for order in ("<", ">"):
        if struct.unpack_from(order + "I", data, 12)[0] * _OLD_ENTRY_BYTES <= len(data) - 16:
            return order
    raise CacheError("ld.so.cache is cut short")


def _read_old(data: bytes, order: str, count: int) -> Cache:
    strings = data[16 + count * _OLD_ENTRY_BYTES :]
    rows = struct.iter_unpack(order + "iII", data[16 : 16 + count * _OLD_ENTRY_BYTES])
    return _cache((strings, flags, key, value, None, 0) for flags, key, value in rows)


def _read_new(data: bytes, whole: bytes) -> Cache:
    if len(data) < _NEW_HEADER_BYTES:
        raise CacheError("ld.so.cache is cut short")
    order = _new_byte_order(data)
    count, _, _, extension_at = struct.unpack_from(order + "IIB3xI", data, 20)
    end = _NEW_HEADER_BYTES + count * _NEW_ENTRY_BYTES
    if end > len(data):
        raise CacheError(
            f"ld.so.cache is cut short: {count} entries do not fit in {len(data)} bytes"
        )
    names = _hwcaps_names(whole, order, extension_at)  # counts from the start of the file
    rows = struct.iter_unpack(order + "iIIIQ", data[_NEW_HEADER_BYTES:end])
    return _cache(
        (data, flags, key, value, _hwcaps_of(hwcap, names), hwcap)
        for flags, key, value, _, hwcap in rows
    )


def _new_byte_order(data: bytes) -> str:
    """Tell the byte order: by the header's flag, or for older files by which count fits."""
    flag = data[28] & 3
    if flag in (2, 3):
        return "<" if flag == 2 else ">"
    for order in ("<", ">"):
        count, strings = struct.unpack_from(order + "II", data, 20)
        if _NEW_HEADER_BYTES + count * _NEW_ENTRY_BYTES + strings <= len(data):
            return order
    raise CacheError("ld.so.cache is cut short")


def _hwcaps_names(data: bytes, order: str, extension_at: int) -> tuple[str, ...]:
    """Return the glibc-hwcaps subfolders that entries name by index (glibc 2.33 and newer)."""
    try:
        if not extension_at or extension_at % 4:
            return ()
        magic, count = struct.unpack_from(order + "II", data, extension_at)
        if magic != _EXTENSION_MAGIC:
            return ()
        for number in range(min(count, 64)):
            tag, _, offset, size = struct.unpack_from(
                order + "IIII", data, extension_at + 8 + 16 * number
            )
            if tag == _HWCAPS_SECTION:
                offsets = struct.unpack_from(f"{order}{min(size // 4, 1024)}I", data, offset)
                return tuple(_text(data, at) or "" for at in offsets)
    except struct.error as error:
        raise CacheError(f"the extension section of ld.so.cache is cut short: {error}") from None
    return ()


def _hwcaps_of(hwcap: int, names: Sequence[str]) -> str | None:
    if hwcap & _HWCAP_KIND != _HWCAP_IS_NAMED:
        return None
    index = hwcap & 0xFFFFFFFF
    return names[index] if index < len(names) else ""


def _cache(rows: "Iterable[tuple[bytes, int, int, int, str | None, int]]") -> Cache:
    found: dict[str, list[CacheEntry]] = {}
    for strings, flags, key, value, hwcaps, mask in rows:
        name, path = _text(strings, key), _text(strings, value)
        if name is not None and path is not None:
            found.setdefault(name, []).append(
                CacheEntry(name, path, flags, hwcaps, 0 if hwcaps is not None else mask)
            )
    return Cache({name: tuple(entries) for name, entries in found.items()})


def _text(data: bytes, at: int) -> str | None:
    if at >= len(data):
        return None
    end = data.find(b"\0", at, at + 4096)
    return None if end < 0 else data[at:end].decode("utf-8", "surrogateescape")
