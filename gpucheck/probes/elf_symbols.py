"""Reads which symbols an ELF file leaves to others, which it defines, and which libraries it names.

Only what the dynamic loader reads is read: the dynamic section, .gnu.hash, the symbol and string
tables; files are mapped, so a library of a gigabyte costs the few pages that are looked at. Layout:
the System V ABI, and "GNU Hash ELF Sections" (binutils' and glibc's own sources).
"""

import contextlib
import mmap
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
        """Map *path*. Raises `OSError`, or `SymbolError` for what is no object of this machine."""
        with open(path, "rb") as file:  # noqa: PTH123 - thousands of files: a Path costs more
            try:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError:
                raise SymbolError("the file is empty") from None
        try:
            self._segments, self._tags = _dynamic(self._data)
            self._symbols_at = self._offset(self._tags[_DT_SYMTAB])
            self._strings_at = self._offset(self._tags[_DT_STRTAB])
            at = self._tags.get(_DT_GNU_HASH)
            self._hash = None if at is None else self._gnu_hash(self._offset(at))
        except (struct.error, KeyError, IndexError, OverflowError) as error:
            self._data.close()
            raise SymbolError(f"damaged ELF headers: {error!r}") from None
        except SymbolError:
            self._data.close()
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
        """Give the mapping back."""
        self._data.close()

    def undefined(self, prefixes: tuple[bytes, ...]) -> Iterator[bytes]:
        """Yield the symbols with one of *prefixes* that other files have to define; not weak ones.

        The undefined ones stand before all that .gnu.hash knows.
        """
        data = self._data
        end = self._symbols_at + _SYMBOL.size * self._count_of_unhashed()
        try:
            rows = _SYMBOL.iter_unpack(data[self._symbols_at : end])
            for name_at, information, _, section, _, _ in rows:
                if section or not name_at or information >> 4 == _WEAK:
                    continue
                start = self._strings_at + name_at
                if data[start : start + 8].startswith(prefixes):
                    yield self._name(start)
        except struct.error:
            return

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
        except (struct.error, IndexError):
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
        buckets, first, words, shift = struct.unpack_from("<IIII", self._data, at)
        if not buckets or not words:
            raise SymbolError(".gnu.hash is empty")
        buckets_at = at + 16 + 8 * words
        chains_at = buckets_at + 4 * buckets
        return _GnuHash(buckets, first, words, shift, at + 16, buckets_at, chains_at)

    def _count_of_unhashed(self) -> int:
        if self._hash is not None:
            table = self._hash
            size = min(4 * table.buckets, 1 << 20)
            if any(self._data[table.buckets_at : table.buckets_at + size]):
                return min(table.first, _MOST_SYMBOLS)
        elif _DT_HASH in self._tags:
            (_, count) = struct.unpack_from("<II", self._data, self._offset(self._tags[_DT_HASH]))
            return min(int(count), _MOST_SYMBOLS)
        # Nothing is defined for others: the symbols end where their names begin, in what ld writes.
        room = self._strings_at - self._symbols_at
        return min(room // _SYMBOL.size, _MOST_SYMBOLS) if room > 0 else 0

    def _candidates(self, table: _GnuHash, number: int) -> Iterator[int]:
        data = self._data
        (word,) = struct.unpack_from(
            "<Q", data, table.bloom_at + 8 * ((number // 64) % table.bloom_words)
        )
        if not (word >> (number % 64) & 1 and word >> ((number >> table.bloom_shift) % 64) & 1):
            return
        (index,) = struct.unpack_from("<I", data, table.buckets_at + 4 * (number % table.buckets))
        if index < table.first:
            return
        for _ in range(_MOST_SYMBOLS):
            (chain,) = struct.unpack_from("<I", data, table.chains_at + 4 * (index - table.first))
            if chain | 1 == number | 1:
                yield index
            if chain & 1:
                return
            index += 1

    def _is_defined_as(self, index: int, symbol: bytes) -> bool:
        row = _SYMBOL.unpack_from(self._data, self._symbols_at + _SYMBOL.size * index)
        start = self._strings_at + row[0]
        return bool(row[3]) and self._data[start : start + len(symbol) + 1] == symbol + b"\0"

    def _name(self, start: int) -> bytes:
        end = self._data.find(b"\0", start, start + _MOST_NAME_BYTES)
        return self._data[start:end] if end >= 0 else b""


def gnu_hash(symbol: bytes) -> int:
    """Return the number under which .gnu.hash keeps *symbol*."""
    number = 5381
    for byte in symbol:
        number = (number * 33 + byte) & 0xFFFFFFFF
    return number


def _segments(data: mmap.mmap) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield kind, flags, offset, address and size in the file of each segment."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise SymbolError("no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for number in range(count):
        kind, flags, offset, address, _, length = struct.unpack_from(
            "<IIQQQQ", data, table + size * number
        )
        yield kind, flags, offset, address, length


def _dynamic(data: mmap.mmap) -> tuple[list[tuple[int, int, int]], dict[int, int]]:
    """Return the loaded segments (address, size, offset) and the entries of the dynamic section."""
    segments: list[tuple[int, int, int]] = []
    section = b""
    for kind, _, offset, address, length in _segments(data):
        if kind == _PT_LOAD:
            segments.append((address, length, offset))
        elif kind == _PT_DYNAMIC:
            section = data[offset : offset + min(length, 1 << 16)]
    tags: dict[int, int] = {}
    for tag, value in struct.iter_unpack("<qQ", section[: len(section) // 16 * 16]):
        if tag == 0:
            break
        tags[tag] = value
    return segments, tags


_NAME = re.compile(rb"(?<=\0)lib[A-Za-z][\w-]{0,40}\.so(?:\.\d{1,5}){0,3}(?=\0)")


def library_names(path: str) -> tuple[str, ...]:
    """Return the `lib….so.N` texts in the read-only data of *path*: what it may open by name.

    Only the first megabytes are searched; a text that is put together from pieces is not found.
    """
    with contextlib.suppress(OSError, ValueError, struct.error), open(path, "rb") as file:  # noqa: PTH123
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with contextlib.closing(content):
            names: dict[str, None] = {}
            for start, size in _read_only(content):
                found = _NAME.findall(content, start, start + min(size, _MOST_TEXT_BYTES))
                names.update(dict.fromkeys(name.decode("ascii") for name in found))
            return tuple(names)
    return ()


def _read_only(data: mmap.mmap) -> list[tuple[int, int]]:
    """Return offset and size of the segments that are only read; older linkers put text to code."""
    found: dict[int, list[tuple[int, int]]] = {}
    for kind, flags, offset, _, size in _segments(data):
        if kind == _PT_LOAD:
            found.setdefault(flags, []).append((offset, size))
    return found.get(_READ) or found.get(_READ | _EXECUTE) or []
