"""Writes tiny ELF objects, which the real loader takes, without calling a linker for each."""

import struct
from collections.abc import Sequence

X86_64 = 62
AARCH64 = 183
I386 = 3
NODEFLIB = 0x800


def elf(
    *,
    soname: str | None = None,
    needed: Sequence[str] = (),
    rpath: str | None = None,
    runpath: str | None = None,
    flags_1: int = 0,
    interpreter: str | None = None,
    machine: int = X86_64,
    strings: bytes = b"",
) -> bytes:
    """Return a shared object, or with *interpreter* a program that is good for tracing only.

    *strings* is put into the string table, for those who look for text in a library.
    """
    wide = machine != I386
    table = bytearray(b"\0")

    def put(text: str) -> int:
        at = len(table)
        table.extend(text.encode("utf-8", "surrogateescape") + b"\0")
        return at

    entries = [(1, put(name)) for name in needed]
    for tag, text in ((14, soname), (15, rpath), (29, runpath)):
        if text is not None:
            entries.append((tag, put(text)))
    if flags_1:
        entries.append((0x6FFFFFFB, flags_1))
    table.extend(strings)
    header_bytes, segment_bytes, symbol_bytes = (64, 56, 24) if wide else (52, 32, 16)
    segments = 4 if interpreter is not None else 2
    interpreter_at = header_bytes + segments * segment_bytes
    interpreter_text = b"" if interpreter is None else interpreter.encode() + b"\0"
    dynamic_at = -(-(interpreter_at + len(interpreter_text)) // 16) * 16
    entry = struct.Struct("<qQ" if wide else "<iI")
    symbols_at = dynamic_at + entry.size * (len(entries) + 5)
    strings_at = symbols_at + symbol_bytes
    entries += [(5, strings_at), (6, symbols_at), (10, len(table)), (11, symbol_bytes), (0, 0)]
    total = strings_at + len(table)

    def segment(kind: int, flags: int, at: int, size: int, align: int) -> bytes:
        if wide:
            return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, align)
        return struct.pack("<IIIIIIII", kind, at, at, at, size, size, flags, align)

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    tail = (0, header_bytes, 0, 0, header_bytes, segment_bytes, segments, 0, 0, 0)
    head = ident + struct.pack(
        "<HHI" + ("QQQ" if wide else "III") + "IHHHHHH", 3, machine, 1, *tail
    )
    parts = [head]
    if interpreter is not None:
        parts.append(segment(6, 4, header_bytes, segments * segment_bytes, 8))
        parts.append(segment(3, 4, interpreter_at, len(interpreter_text), 1))
    parts.append(segment(1, 6, 0, total, 4096))
    parts.append(segment(2, 6, dynamic_at, entry.size * len(entries), 8))
    parts.append(interpreter_text)
    data = b"".join(parts).ljust(dynamic_at, b"\0")
    data += b"".join(entry.pack(*pair) for pair in entries)
    return data.ljust(strings_at, b"\0") + bytes(table)
