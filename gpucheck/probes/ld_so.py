"""A model of glibc's dynamic loader: which file answers to which library name, without running it.

The order of the search, the matching by names already loaded, and the file formats follow
ld.so(8) and what glibc 2.26 to 2.42 do; the tests hold this model against the real loader on
generated trees. Left out, because no CUDA or torch library uses them: DT_FILTER and DT_AUXILIARY,
LD_AUDIT, secure (set-uid) execution, and the prelink cache formats before glibc 2.2.
"""
# The loader glues strings together, and what it sees ("a//b", "./x") must stay as it is:
# ruff: noqa: PTH112, PTH118, PTH120

import errno
import functools
import os
import re
import stat
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

# ------------------------------------------------------------------------------ /etc/ld.so.cache

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
_LEGACY_BITS = {
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


# ----------------------------------------------------------------------------------- ELF headers

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
        rpath=text(_DT_RPATH) if runpath is None else None,  # glibc ignores it beside a RUNPATH
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


# -------------------------------------------------------------------------------- the loader here


@dataclass(frozen=True, kw_only=True)
class Loader:
    """One machine's dynamic loader: what it was built with, and what it was given."""

    cache: Cache | None = None  # None: there is none
    system_directories: tuple[str, ...] = ("/lib", "/usr/lib")
    lib: str = "lib"  # what $LIB stands for
    platform: str = "x86_64"  # what $PLATFORM stands for
    hwcaps: tuple[str, ...] = ()  # glibc-hwcaps subfolders for this processor, best first
    legacy_subfolders: tuple[str, ...] = ()  # "tls/x86_64", ...: before glibc 2.37
    library_path: str = ""  # LD_LIBRARY_PATH
    preload: str = ""  # LD_PRELOAD, and what /etc/ld.so.preload adds
    working_directory: str = "/"

    @functools.cached_property
    def legacy_bits(self) -> int:
        """What the cache's entries may ask of the hardware, in glibc before 2.37."""
        words = {word for folder in self.legacy_subfolders for word in folder.split("/")}
        return sum(bit for word, bit in _LEGACY_BITS.items() if word in words)

    @functools.cached_property
    def subfolders(self) -> tuple[str, ...]:
        """Where to look below each directory of a search path, the directory itself last."""
        return (*(f"glibc-hwcaps/{name}" for name in self.hwcaps), *self.legacy_subfolders, "")


@dataclass(slots=True, eq=False)
class Loaded:
    """An object in the process."""

    path: str  # as the loader spells it
    elf: Elf
    by: "Loaded | None"  # the object whose DT_NEEDED brought it in; None after dlopen
    found_via: str = ""  # "DT_RPATH of /opt/x.so", "LD_LIBRARY_PATH", ..., "" for a plain path
    directory: str = ""  # the entry of the search path, as written
    origin: str = ""  # what $ORIGIN stands for in it
    names: set[str] = field(default_factory=set)  # those it answers to


@dataclass(frozen=True, slots=True)
class Missing:
    """A name that nothing answers to, or whose file the loader refuses."""

    name: str
    needed_by: str
    why: str = "not found"
    path: str | None = None  # of the file that was refused


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What opening a library would bring into a process, and what it would lack."""

    added: tuple[Loaded, ...]
    missing: tuple[Missing, ...]
    answers: Mapping[str, Loaded]  # which object answers to each name that they need
    opened: Mapping[str, "Loaded | Missing"]  # by name, on top of that


class Process:
    """A program's objects in load order, filled as the loader would fill it."""

    def __init__(self, loader: Loader, program: str, like: "Process | None" = None) -> None:
        """Start with the file *program* alone. Raises `OSError` or `ElfError` for a bad one.

        *like* is another process on this machine, whose look at files and folders serves both.
        """
        self.loader = loader
        real = os.path.realpath(program)
        elf = read_elf(real)
        self.program = Loaded(real, elf, None, origin=os.path.dirname(real))
        self.objects: list[Loaded] = [self.program]
        self.missing: list[Missing] = []
        self._by_name: dict[str, Loaded] = {}
        self._by_identity: dict[tuple[int, int], Loaded] = {elf.identity: self.program}
        self._directories: dict[str, bool] = {} if like is None else like._directories
        self._files: dict[str, Elf | ElfError | None] = {} if like is None else like._files
        self._search_lists: dict[tuple[str, str, str], tuple[tuple[str, str], ...]] = {}

    def start(self) -> None:
        """Load what LD_PRELOAD and the program itself ask for."""
        if self.program.elf.interpreter is not None:
            try:
                elf = self._open(self.program.elf.interpreter)
            except ElfError:
                elf = None
            if elf is not None:
                self._add(self.program.elf.interpreter, elf, None, "", "")
        preloaded = [
            self._map(name, self.program, "LD_PRELOAD")
            for name in re.split(r"[ :]", self.loader.preload)
            if name
        ]
        self._load_needed([self.program, *(o for o in preloaded if isinstance(o, Loaded))])

    def open(self, name: str, caller: Loaded | None = None) -> "Loaded | Missing":
        """Do what dlopen(*name*) does when *caller* calls it, and keep nothing where it fails.

        What is missing below it comes back as the `Missing` that made it fail.
        """
        marks = len(self.objects), len(self.missing)
        names = {id(o): set(o.names) for o in self.objects}
        found = self._map(name, caller or self.program, "dlopen")
        if isinstance(found, Loaded):
            self._load_needed([found])
            if len(self.missing) == marks[1]:
                return found
            found = self.missing[marks[1]]
        self._forget(*marks, names)
        return found

    def trace(self, name: str, caller: Loaded | None = None) -> "Loaded | Missing":
        """Open *name* as `open` does, and keep what was found even where something is missing."""
        found = self._map(name, caller or self.program, "dlopen")
        if isinstance(found, Loaded):
            self._load_needed([found])
        else:
            self.missing.append(found)
        return found

    def rehearse(
        self, name: str, *, first: Sequence[str] = (), then_open: Sequence[str] = ()
    ) -> "Rehearsal":
        """Open *first* and *name*, let that open *then_open*, say what came of it, undo it all."""
        marks = len(self.objects), len(self.missing)
        names = {id(o): set(o.names) for o in self.objects}
        for each in first:
            self.open(each)
        top = self.trace(name)
        missing = tuple(self.missing[marks[1] :])
        opened: dict[str, Loaded | Missing] = {}
        if isinstance(top, Loaded):
            opened = {each: self.open(each, top) for each in then_open}
        added = tuple(self.objects[marks[0] :])
        needed = (needed for thing in added for needed in thing.elf.needed)
        answers = {each: found for each in needed if (found := self.loaded(each)) is not None}
        self._forget(*marks, names)
        return Rehearsal(added, missing, answers, opened)

    def loaded(self, name: str) -> Loaded | None:
        """Return the object that answers to *name* by now, or None."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        for thing in self.objects:
            if thing.elf.soname == name:
                thing.names.add(name)
                self._by_name[name] = thing
                return thing
        return None

    def find(self, name: str, caller: Loaded) -> "tuple[str, Elf, str, str] | Missing | None":
        """Search the directories for *name*: path, headers, found_via and the search-path entry.

        A `Missing` is a file that ends the search because the loader refuses it.
        """
        try:
            return self._find(name, caller)
        except _RefusedError as refused:
            return Missing(name, caller.path, str(refused), refused.path)

    def find_plainly(self, name: str) -> "tuple[str, Elf, str, str] | Missing | None":
        """Search as `find` does for a program that has neither DT_RPATH nor DT_RUNPATH."""
        bare = Loaded("", Elf(True, self.program.elf.machine, runpath=""), None)
        return self.find(name, bare)

    # ---- loading

    def _load_needed(self, start: list[Loaded]) -> None:
        """Load what *start* needs, breadth first."""
        queue = list(start)
        seen = {id(thing) for thing in queue}
        for thing in queue:
            for needed in thing.elf.needed:
                name = self._expand(needed, thing.origin)
                found = self._map(name, thing, "") if name is not None else None
                if isinstance(found, Loaded):
                    if id(found) not in seen:
                        seen.add(id(found))
                        queue.append(found)
                else:
                    self.missing.append(found or Missing(needed, thing.path))

    def _map(self, name: str, caller: Loaded, how: str) -> "Loaded | Missing":
        """Return the object that answers to *name*, loading it where none does yet.

        What dlopen brings in is searched for along its caller's RPATH, but does not hand that
        RPATH down to what it needs in turn: as glibc does, and the manual page does not say.
        """
        loaded = self.loaded(name)
        if loaded is not None:
            return loaded
        by = None if how == "dlopen" else caller
        if "/" in name:
            path = self._expand(name, caller.origin) or name
            try:
                elf = self._open(path)
            except ElfError as error:
                return Missing(name, caller.path, str(error), path)
            if elf is None:
                return Missing(name, caller.path)
            return self._add(path, elf, by, how, "", name)
        found = self.find(name, caller)
        if found is None:
            return Missing(name, caller.path)
        if isinstance(found, Missing):
            return found
        path, elf, via, directory = found
        return self._add(path, elf, by, how if how == "LD_PRELOAD" else via, directory, name)

    def _add(
        self, path: str, elf: Elf, by: Loaded | None, via: str, directory: str, name: str = ""
    ) -> Loaded:
        thing = self._by_identity.get(elf.identity)
        if thing is None:
            origin = os.path.dirname(os.path.join(self.loader.working_directory, path)) or "/"
            thing = Loaded(path, elf, by, via, directory, origin)
            self.objects.append(thing)
            self._by_identity[elf.identity] = thing
            self._name(thing, path)
        if name:
            self._name(thing, name)
        return thing

    def _name(self, thing: Loaded, name: str) -> None:
        thing.names.add(name)
        self._by_name.setdefault(name, thing)

    def _forget(self, objects: int, missing: int, names: dict[int, set[str]]) -> None:
        for thing in self.objects[objects:]:
            self._by_identity.pop(thing.elf.identity, None)
        del self.objects[objects:], self.missing[missing:]
        self._by_name = {}
        for thing in self.objects:
            thing.names = names[id(thing)]
            for name in thing.names:
                self._by_name.setdefault(name, thing)

    # ---- searching

    def _find(self, name: str, caller: Loaded) -> "tuple[str, Elf, str, str] | None":
        if caller.elf.runpath is None:
            asker: Loaded | None = caller
            did_program = False
            while asker is not None:
                did_program |= asker is self.program
                if found := self._in_path(name, asker, asker.elf.rpath, "DT_RPATH"):
                    return found
                asker = asker.by
            if not did_program:
                found = self._in_path(name, self.program, self.program.elf.rpath, "DT_RPATH")
                if found:
                    return found
        if self.loader.library_path:
            found = self._in_path(name, self.program, self.loader.library_path, "LD_LIBRARY_PATH")
            if found:
                return found
        if found := self._in_path(name, caller, caller.elf.runpath, "DT_RUNPATH"):
            return found
        return self._in_cache(name, caller) or self._in_system_directories(name, caller)

    def _in_path(
        self, name: str, owner: Loaded, text: str | None, kind: str
    ) -> "tuple[str, Elf, str, str] | None":
        if not text:
            return None
        for written, directory in self._search_list(text, owner.origin, kind):
            found = self._in_directory(directory, name)
            if found:
                via = kind if kind == "LD_LIBRARY_PATH" else f"{kind} of {owner.path}"
                return (*found, via, written)
        return None

    def _search_list(self, text: str, origin: str, kind: str) -> tuple[tuple[str, str], ...]:
        """Split a search path: (as written, expanded) for each element that can be expanded."""
        key = (text, origin, kind)
        known = self._search_lists.get(key)
        if known is None:
            separators = r"[:;]" if kind == "LD_LIBRARY_PATH" else ":"
            elements = ((e, self._expand(e, origin)) for e in re.split(separators, text))
            known = tuple((e, d) for e, d in elements if d is not None)
            self._search_lists[key] = known
        return known

    def _in_cache(self, name: str, caller: Loaded) -> "tuple[str, Elf, str, str] | None":
        if self.loader.cache is None:
            return None
        flags = CACHE_FLAGS.get(self.program.elf.machine, FLAGS_ANY_ELF)
        path = self.loader.cache.lookup(name, flags, self.loader.hwcaps, self.loader.legacy_bits)
        if path is None:
            return None
        if caller.elf.no_default_directories and path.startswith(
            tuple(f"{directory}/" for directory in self.loader.system_directories)
        ):
            return None
        elf = self._try(path)
        return None if elf is None else (path, elf, "ld.so.cache", os.path.dirname(path))

    def _in_system_directories(
        self, name: str, caller: Loaded
    ) -> "tuple[str, Elf, str, str] | None":
        if caller.elf.no_default_directories:
            return None
        for directory in self.loader.system_directories:
            found = self._in_directory(directory, name)
            if found:
                return (*found, "default directory", directory)
        return None

    def _in_directory(self, directory: str, name: str) -> "tuple[str, Elf] | None":
        top = directory.rstrip("/") + "/" if directory else ""
        if not self._is_directory(top or "."):
            return None
        for subfolder in self.loader.subfolders:
            folder = f"{top}{subfolder}/" if subfolder else top
            if subfolder and not self._is_directory(folder):
                continue
            elf = self._try(folder + name)
            if elf is not None:
                return folder + name, elf
        return None

    def _is_directory(self, path: str) -> bool:
        known = self._directories.get(path)
        if known is None:
            known = os.path.isdir(os.path.join(self.loader.working_directory, path))
            self._directories[path] = known
        return known

    def _try(self, path: str) -> Elf | None:
        """Return the headers of a candidate; None where the search goes on."""
        try:
            return self._open(path)
        except ElfError as error:
            raise _RefusedError(path, str(error)) from None

    def _open(self, path: str) -> Elf | None:
        if path not in self._files:
            try:
                elf: Elf | ElfError | None = read_elf(
                    os.path.join(self.loader.working_directory, path)
                )
            except OSError as error:
                gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES)
                elf = None if gone else ElfError(str(error.strerror))
            except ElfError as error:
                elf = error
            except ValueError:  # a null byte in the name
                elf = None
            self._files[path] = elf
        elf = self._files[path]
        if isinstance(elf, ElfError):
            raise elf
        program = self.program.elf
        if elf is None or (elf.is_64_bit, elf.machine) != (program.is_64_bit, program.machine):
            return None  # another architecture's copy: the loader goes on to the next directory
        return elf

    def _expand(self, text: str, origin: str) -> str | None:
        """Put in what $ORIGIN, $LIB and $PLATFORM stand for."""
        if "$" not in text:
            return text
        values = {"ORIGIN": origin, "LIB": self.loader.lib, "PLATFORM": self.loader.platform}
        return _TOKEN.sub(lambda match: values[match[1] or match[2]], text)


_TOKEN = re.compile(r"\$(?:\{(ORIGIN|LIB|PLATFORM)\}|(ORIGIN|LIB|PLATFORM))(?![A-Za-z0-9_])")


class _RefusedError(Exception):
    def __init__(self, path: str, why: str) -> None:
        super().__init__(why)
        self.path = path


# ------------------------------------------------------------------- what this machine's loader is

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
