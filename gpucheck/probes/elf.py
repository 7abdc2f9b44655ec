"""Reads the headers of ELF files, and refuses those that glibc's loader refuses."""

import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass

_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
_DT_NEEDED, _DT_STRTAB, _DT_SONAME, _DT_RPATH, _DT_RUNPATH = 1, 5, 14, 15, 29
_DT_FLAGS_1 = 0x6FFFFFFB
_DF_1_NODEFLIB = 0x800
_MOST_SEGMENTS = 512
_MOST_DYNAMIC_BYTES = 1 << 16
_MOST_STRING_BYTES = 1 << 15


class ElfError(ValueError):
    """The loader would not take this file; `is_fatal` where it stops there instead of going on."""

    def __init__(self, why: str, *, is_fatal: bool = True) -> None:
        super().__init__(why)
        self.is_fatal = is_fatal


@dataclass(frozen=True, slots=True)
class Elf:
    """What the loader reads of an object before it maps it."""

    is_64_bit: bool
    machine: int  # e_machine: 62 x86-64, 183 aarch64
    needed: tuple[str, ...] = ()
    soname: str | None = None
    rpath: str | None = None
    runpath: str | None = None
    no_default_directories: bool = False  # linked with -z nodeflib
    interpreter: str | None = None  # "/lib64/ld-linux-x86-64.so.2" in a program
    identity: tuple[int, int] = (0, 0)  # device and inode


def read_elf(path: str) -> Elf:
    """Read the header and the dynamic section of the file *path*, and nothing else of it.

    Raises `OSError` where it cannot be opened, `ElfError` where it is not an object that glibc's
    loader takes. Layout: the System V ABI, elf.h.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ElfError("cannot read file data: not a regular file")
        return parse_elf(
            lambda size, at: os.pread(handle, size, at),
            (status.st_dev, status.st_ino),
            status.st_size,
        )
    except (OverflowError, OSError) as error:
        raise ElfError(f"cannot read file data: {error}") from None
    finally:
        os.close(handle)


def parse_elf(
    read: Callable[[int, int], bytes],
    identity: tuple[int, int] = (0, 0),
    file_bytes: int | None = None,
) -> Elf:
    """Make sense of an object through *read(size, offset)*, which may return less.

    A segment that ends behind *file_bytes* is an error too: the loader maps it, and dies (SIGBUS).

    Raises `ElfError` for whatever the loader refuses, and for a header with unexpected values.
    """
    head = read(1024, 0)
    if len(head) < 52:
        raise ElfError("file too short")
    if head[:4] != b"\x7fELF":
        raise ElfError("invalid ELF header")
    if head[4] not in (1, 2) or head[5] not in (1, 2) or head[6] != 1:
        raise ElfError("invalid ELF header")
    wide = head[4] == 2
    order = "<" if head[5] == 1 else ">"
    if wide and len(head) < 64:
        raise ElfError("file too short")
    kind, machine = struct.unpack_from(order + "HH", head, 16)
    if kind not in (2, 3):
        raise ElfError("only ET_DYN and ET_EXEC can be loaded")
    if wide:
        (segments_at,) = struct.unpack_from(order + "Q", head, 32)
        size, count = struct.unpack_from(order + "HH", head, 54)
        segment, entry = struct.Struct(order + "IIQQQQQQ"), struct.Struct(order + "qQ")
    else:
        (segments_at,) = struct.unpack_from(order + "I", head, 28)
        size, count = struct.unpack_from(order + "HH", head, 42)
        segment, entry = struct.Struct(order + "IIIIIIII"), struct.Struct(order + "iI")
    if size != segment.size:
        raise ElfError("ELF file's phentsize not the expected size")
    if count > _MOST_SEGMENTS:
        raise ElfError("too many program headers")
    end = segments_at + size * count
    table = head[segments_at:end] if end <= len(head) else read(size * count, segments_at)
    loads: list[tuple[int, int, int]] = []
    dynamic: tuple[int, int] | None = None
    interpreter: str | None = None
    for at in range(0, len(table) - size + 1, size):
        if wide:
            what, _, offset, address, _, file_size, _, _ = segment.unpack_from(table, at)
        else:
            what, offset, address, _, file_size, _, _, _ = segment.unpack_from(table, at)
        if what == _PT_LOAD:
            loads.append((address, file_size, offset))
            if file_bytes is not None and offset + file_size > file_bytes:
                raise ElfError(f"the file is cut short at {file_bytes} bytes")
        elif what == _PT_DYNAMIC:
            dynamic = (offset, file_size)
        elif what == _PT_INTERP:
            interpreter = _string(read, offset)
    if dynamic is None:
        if interpreter is None and kind == 2:
            return Elf(wide, machine, identity=identity)  # a static program
        raise ElfError("object file has no dynamic section")
    section = read(min(dynamic[1], _MOST_DYNAMIC_BYTES), dynamic[0])
    values: dict[int, int] = {}
    needed_at: list[int] = []
    for tag, value in entry.iter_unpack(section[: len(section) - len(section) % entry.size]):
        if tag == 0:
            break
        if tag == _DT_NEEDED:
            needed_at.append(value)
        else:
            values[tag] = value
    strings_address = values.get(_DT_STRTAB, 0)
    strings_at = next(
        (
            offset + strings_address - start
            for start, length, offset in loads
            if start <= strings_address < start + length
        ),
        None,
    )
    if strings_at is None:
        raise ElfError("object file has no string table")

    def text(tag: int) -> str | None:
        return _string(read, strings_at + values[tag]) if tag in values else None

    runpath = text(_DT_RUNPATH)
    return Elf(
        is_64_bit=wide,
        machine=machine,
        needed=tuple(_string(read, strings_at + at) for at in needed_at),
        soname=text(_DT_SONAME),
        rpath=text(_DT_RPATH)
        if runpath is None
        else None,  # glibc ignores it where there is a RUNPATH
        runpath=runpath,
        no_default_directories=bool(values.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
        interpreter=interpreter,
        identity=identity,
    )


def _string(read: Callable[[int, int], bytes], at: int) -> str:
    """Return the string at *at*: the table of a big library is megabytes, its strings are short."""
    size = 256
    while True:
        data = read(size, at)
        end = data.find(b"\0")
        if end >= 0:
            return data[:end].decode("utf-8", "surrogateescape")
        if len(data) < size or size >= _MOST_STRING_BYTES:
            raise ElfError("a string of the dynamic section has no end")
        size *= 8
