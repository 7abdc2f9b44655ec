"""Reads which symbols an ELF file leaves to others, which it defines, and which libraries it names.

Only what the dynamic loader reads is read: the dynamic section, .gnu.hash, the symbol and string
tables, piece by piece, so that a library of a gigabyte costs a few pages, and one that is cut short
meanwhile costs nothing worse. Layout: the System V ABI; .gnu.hash as binutils and glibc have it.
"""

import contextlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_GNU_HASH = 4, 5, 6, 10, 0x6FFFFEF5
_PT_LOAD, _PT_DYNAMIC = 1, 2
_READ, _EXECUTE = 4, 1
_WEAK = 2
_SYMBOL = struct.Struct("<IBBHQQ")
_MOST_SYMBOLS = 1 << 20
_MOST_NAME_BYTES = 1 << 14
_MOST_STRING_BYTES = 256 << 20
_LONGEST_CHAIN = 1 << 12
_MOST_TEXT_BYTES = 32 << 20  # of a segment that is searched for names


class SymbolError(ValueError):
    """This file has no symbols that could be read: it is no 64-bit little-endian ELF object."""


@dataclass(frozen=True, slots=True)
class _GnuHash:
    buckets: int
    first: int  # index of the first symbol that is in the table
    bloom_words: int
    bloom_shift: int
    bloom_at: int
    buckets_at: int
    chains_at: int


class Symbols:
    """The dynamic symbols of one file, looked up where they lie: `with Symbols(path) as it`."""

    def __init__(self, path: str) -> None:
        """Open *path*. Raises `OSError`, or `SymbolError` for what is no object of this machine."""
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._strings: bytes | None = None
            self._segments, self._tags = _dynamic(self._file)
            self._symbols_at = self._offset(self._tags[_DT_SYMTAB])
            self._strings_at = self._offset(self._tags[_DT_STRTAB])
            at = self._tags.get(_DT_GNU_HASH)
            self._hash = None if at is None else self._gnu_hash(self._offset(at))
        except (struct.error, KeyError, OverflowError) as error:
            self.close()
            raise SymbolError(f"damaged ELF headers: {error!r}") from None
        except (SymbolError, OSError):
            self.close()
            raise

    def __enter__(self) -> "Symbols":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def undefined(self, prefixes: tuple[bytes, ...]) -> Iterator[bytes]:
        """Yield the symbols with one of *prefixes* that other files have to define; not weak ones.

        The undefined ones come before all that .gnu.hash knows.
        """
        try:
            rows = os.pread(self._file, _SYMBOL.size * self._count_of_unhashed(), self._symbols_at)
            rows = rows[: len(rows) // _SYMBOL.size * _SYMBOL.size]
            for name_at, information, _, section, _, _ in _SYMBOL.iter_unpack(rows):
                if section or not name_at or information >> 4 == _WEAK:
                    continue
                name = self._name(name_at)
                if name.startswith(prefixes):
                    yield name
        except (struct.error, OSError, OverflowError, SymbolError):
            return  # damaged: what was read so far counts

    def defines(self, symbol: bytes) -> bool:
        """Say whether this file defines *symbol* for others, by .gnu.hash as the loader does."""
        table = self._hash
        if table is None:
            return False
        number = gnu_hash(symbol)
        try:
            return any(
                self._is_defined_as(index, symbol) for index in self._candidates(table, number)
            )
        except (struct.error, OSError, OverflowError):
            return False

    @property
    def has_hash(self) -> bool:
        """Whether `defines` can be asked at all."""
        return self._hash is not None

    # ---- inside

    def _offset(self, address: int) -> int:
        for start, size, offset in self._segments:
            if start <= address < start + size:
                return offset + address - start
        raise SymbolError(f"address {address:#x} is in no segment")

    def _gnu_hash(self, at: int) -> _GnuHash:
        buckets, first, words, shift = self._unpack("<IIII", at)
        if not buckets or not words:
            raise SymbolError(".gnu.hash is empty")
        buckets_at = at + 16 + 8 * words
        chains_at = buckets_at + 4 * buckets
        return _GnuHash(buckets, first, words, shift, at + 16, buckets_at, chains_at)

    def _unpack(self, layout: str, at: int) -> tuple[int, ...]:
        return struct.unpack(layout, os.pread(self._file, struct.calcsize(layout), at))

    def _count_of_unhashed(self) -> int:
        if self._hash is not None:
            table = self._hash
            size = min(4 * table.buckets, 1 << 20)
            if any(os.pread(self._file, size, table.buckets_at)):
                return min(table.first, _MOST_SYMBOLS)
        elif _DT_HASH in self._tags:
            _, count = self._unpack("<II", self._offset(self._tags[_DT_HASH]))
            return min(count, _MOST_SYMBOLS)
        # Nothing is defined for others: the symbols end where their names begin, in what ld writes.
        room = self._strings_at - self._symbols_at
        return min(room // _SYMBOL.size, _MOST_SYMBOLS) if room > 0 else 0

    def _candidates(self, table: _GnuHash, number: int) -> Iterator[int]:
        (word,) = self._unpack("<Q", table.bloom_at + 8 * ((number // 64) % table.bloom_words))
        if not (word >> (number % 64) & 1 and word >> ((number >> table.bloom_shift) % 64) & 1):
            return
        (index,) = self._unpack("<I", table.buckets_at + 4 * (number % table.buckets))
        if index < table.first:
            return
        for _ in range(_LONGEST_CHAIN):
            (chain,) = self._unpack("<I", table.chains_at + 4 * (index - table.first))
            if chain | 1 == number | 1:
                yield index
            if chain & 1:
                return
            index += 1

    def _is_defined_as(self, index: int, symbol: bytes) -> bool:
        row = os.pread(self._file, _SYMBOL.size, self._symbols_at + _SYMBOL.size * index)
        name_at, _, _, section, _, _ = _SYMBOL.unpack(row)
        start = self._strings_at + name_at
        wanted = symbol + b"\0"
        return bool(section) and os.pread(self._file, len(wanted), start) == wanted

    def _name(self, at: int) -> bytes:
        if self._strings is None:
            size = min(self._tags.get(_DT_STRSZ, 0), _MOST_STRING_BYTES)
            self._strings = os.pread(self._file, size, self._strings_at)
        end = self._strings.find(b"\0", at, at + _MOST_NAME_BYTES)
        return self._strings[at:end] if end >= 0 else b""


def gnu_hash(symbol: bytes) -> int:
    """Return the number under which .gnu.hash keeps *symbol*."""
    number = 5381
    for byte in symbol:
        number = (number * 33 + byte) & 0xFFFFFFFF
    return number


_NAME = re.compile(rb"(?<![^\0])lib[A-Za-z][\w-]{0,40}\.so(?:\.\d{1,5}){0,3}(?=\0)")


def library_names(path: str) -> tuple[str, ...]:
    """Return the `lib….so.N` texts in the read-only data of *path*: what it may open by name.

    Only the first megabytes are searched; a text that is put together from pieces is not found.
    """
    names: dict[str, None] = {}
    with contextlib.suppress(OSError, SymbolError, struct.error, OverflowError):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            for start, size in _read_only(file):
                found = _NAME.findall(os.pread(file, min(size, _MOST_TEXT_BYTES), start))
                names.update(dict.fromkeys(name.decode("ascii") for name in found))
        finally:
            os.close(file)
    return tuple(names)


def _read_only(file: int) -> list[tuple[int, int]]:
    """Return offset and size of the segments that are only read; older linkers put text to code."""
    found: dict[int, list[tuple[int, int]]] = {}
    for kind, flags, offset, _, size in _segments(file):
        if kind == _PT_LOAD:
            found.setdefault(flags, []).append((offset, size))
    return found.get(_READ) or found.get(_READ | _EXECUTE) or []


def _dynamic(file: int) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
    """Return the loaded segments (address, size, offset) and the entries of the dynamic section."""
    segments: list[tuple[int, int, int]] = []
    section = b""
    for kind, _, offset, address, length in _segments(file):
        if kind == _PT_LOAD:
            segments.append((address, length, offset))
        elif kind == _PT_DYNAMIC:
            section = os.pread(file, min(length, 1 << 16), offset)
    tags: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<qQ", section[: len(section) // 16 * 16]):
        if tag == 0:
            break
        tags[tag] = value
    return segments, tags


def _segments(file: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield kind, flags, offset, address and size in the file of each segment."""
    head = os.pread(file, 64, 0)
    if head[:6] != b"\x7fELF\x02\x01" or len(head) < 64:
        raise SymbolError("no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if size < 56:
        raise SymbolError("program headers of another size")
    headers = os.pread(file, size * count, table)
    for at in range(0, len(headers) - size + 1, size):
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", headers, at)
        yield kind, flags, offset, address, length
