"""Reads out of torch's own library for which GPUs it was compiled, without loading it."""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path

_LIST_LIMIT_BYTES = 1000
_PIECE_BYTES = 1 << 20
_READ_ONLY_DATA_LIMIT_BYTES = 256 << 20
_SECTIONS_LIMIT = 2000
_FLAGS = re.compile(rb"(?:sm|compute)_[0-9]{2,3}[af]?(?: (?:sm|compute)_[0-9]{2,3}[af]?)*(?=\0)")


def compiled_architectures(library: Path) -> tuple[str, ...] | None:
    """Return the list that `torch.cuda.get_arch_list()` prints, out of the library that holds it.

    torch compiles it in as one string, "sm_75 sm_80 … compute_120", among the read-only data. The
    file is read in pieces, not mapped: a disk error, or a file that somebody cuts short meanwhile,
    is then an error of a call and no SIGBUS.
    """
    try:
        descriptor = os.open(library, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        place = read_only_data(descriptor)
        found = [] if place is None else list(_flags(descriptor, *place))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    longest = max(found, key=len, default=b"")
    return tuple(longest.decode("ascii").split()) or None


def _flags(descriptor: int, start: int, size: int) -> Iterator[bytes]:
    """Yield every list of architectures; `find` skips megabytes far faster than a pattern does."""
    before = b"\0"  # the end of the last piece: a list may stand across two
    for offset in range(start, start + size, _PIECE_BYTES):
        data = os.pread(descriptor, min(_PIECE_BYTES, start + size - offset), offset)
        if not data:
            return
        piece = before + data
        at = piece.find(b"sm_")
        while at >= 0:
            string = piece.rfind(b"\0", max(0, at - _LIST_LIMIT_BYTES), at) + 1
            found = _FLAGS.match(piece, string) if string else None
            if found is not None and found.end() > at:
                yield found.group()
                at = found.end()
            at = piece.find(b"sm_", at + 1)
        before = piece[-2 * _LIST_LIMIT_BYTES :]


def read_only_data(descriptor: int) -> tuple[int, int] | None:
    """Return offset and size of the section .rodata of a 64-bit little-endian ELF file."""
    try:
        head = os.pread(descriptor, 64, 0)
        if head[:6] != b"\x7fELF\x02\x01":
            return None
        (start,) = struct.unpack_from("<Q", head, 0x28)
        size, count, names_index = struct.unpack_from("<HHH", head, 0x3A)
        if size < 64 or count > _SECTIONS_LIMIT or names_index >= count:
            return None
        table = os.pread(descriptor, size * count, start)
        section = struct.Struct("<IIQQQQ")
        names_header = section.unpack_from(table, names_index * size)
        names = os.pread(descriptor, min(names_header[5], 1 << 20), names_header[4])
        for index in range(count):
            header = section.unpack_from(table, index * size)
            if names[header[0] : header[0] + 8] == b".rodata\0":
                return header[4], min(header[5], _READ_ONLY_DATA_LIMIT_BYTES)
    except (struct.error, OverflowError):
        pass
    return None
