"""Lists the compiled files of installed distributions, and remembers what their headers say.

What was read is kept in the cache directory, one file for each site-packages folder, and holds as
long as a file has the same size and modification time; of a distribution none of whose files asks
for CUDA or torch, as long as its RECORD has. A cache that is damaged, of another
version, or cannot be written costs nothing but the time to read everything again.
"""
# Thousands of files: strings and os calls, where a Path would cost more than the call.
# ruff: noqa: PTH116

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gpucheck.probes.distributions import split_name
from gpucheck.probes.elf import ElfError, read_elf
from gpucheck.probes.elf_symbols import library_names
from gpucheck.probes.files import names_in, read_bytes

#: CUDA's own libraries and those that NVIDIA counts to it; not the driver's, not TensorRT's.
CUDA_LIBRARY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|cufft\w*|curand|cusolver\w*|cusparse\w*|nvJitLink|nvrtc"
    r"|nvrtc-builtins|nvvm|nccl|cupti|nvshmem_host|cufile|nvToolsExt|npp\w+|nvjpeg)\.so(?=\.|$)"
)
TORCH_LIBRARY = re.compile(r"lib(torch(_\w+)?|c10(_\w+)?|caffe2_nvrtc)\.so")
_FORMAT = 2
_RECORD_LIMIT_BYTES = 32 << 20
_MOST_CACHE_FILES = 32
_CACHE_LIMIT_BYTES = 64 << 20


class CompiledFile(msgspec.Struct, array_like=True, frozen=True):
    """A line of a RECORD that names a shared object."""

    path: str  # below site-packages
    size: int  # -1: not recorded
    sum: str  # "sha256=…"; "" where none is recorded


class _Record(msgspec.Struct, array_like=True):
    stamp: tuple[int, int]  # size and modification time of the RECORD
    files: tuple[CompiledFile, ...]


class ElfNotes(msgspec.Struct, array_like=True):
    """What is remembered of one shared object."""

    stamp: tuple[int, int]
    needed: tuple[str, ...] = ()
    soname: str = ""
    search: str = ""  # its DT_RUNPATH or DT_RPATH
    asks: bool = False  # for a library of CUDA's or torch's
    opens: tuple[str, ...] | None = None  # library names in its read-only data; None: not read
    torch: str = ""  # which torch `missing` is about
    missing: tuple[str, ...] = ()  # symbols that this torch does not define
    has_other_abi: bool = False


class _Cache(msgspec.Struct, array_like=True):
    format: int
    site: str
    records: dict[str, _Record]
    files: dict[str, ElfNotes]


@dataclass(slots=True)
class Installed:
    """A distribution and its compiled files."""

    name: str  # normalised
    version: str
    site: str
    described: str  # its dist-info folder
    files: tuple[CompiledFile, ...] = ()
    is_as_before: bool = False  # its RECORD is the one that was read last time


@dataclass(slots=True)
class Site:
    """One site-packages folder, read through the cache."""

    path: str
    cache_file: Path | None
    distributions: list[Installed] = field(default_factory=list)
    _cache: _Cache = field(default_factory=lambda: _Cache(_FORMAT, "", {}, {}))
    _used: set[str] = field(default_factory=set)
    _is_changed: bool = False

    def notes(self, file: str) -> ElfNotes | None:
        """Return what the headers of *file* (below this folder) say; None where it is not there."""
        known = self._cache.files.get(file)
        if file in self._used:
            return known
        path = f"{self.path}/{file}"
        stamp = _stamp(path)
        if stamp is None:
            return None
        self._used.add(file)
        if known is None or known.stamp != stamp:
            known = _read(path, stamp)
            self._cache.files[file] = known
            self._is_changed = True
        return known

    def asks(self, package: Installed) -> bool:
        """Whether a file of *package* is linked to a library of CUDA's or torch's."""
        if package.is_as_before:
            paths = [file.path for file in package.files]
            known = [self._cache.files.get(path) for path in paths]
            if not any(each is None or each.asks for each in known):
                self._used.update(paths)
                return False
        notes = [self.notes(file.path) for file in package.files]
        return any(each is not None and each.asks for each in notes)

    def names_opened(self, file: str) -> tuple[str, ...]:
        """Return the library names in the read-only data of *file*."""
        notes = self.notes(file)
        if notes is None:
            return ()
        if notes.opens is None:
            notes.opens = library_names(f"{self.path}/{file}")
            self._is_changed = True
        return notes.opens

    def remember(self, notes: ElfNotes, torch: str, missing: tuple[str, ...], other: bool) -> None:
        """Keep which symbols a file lacks in one torch."""
        notes.torch, notes.missing, notes.has_other_abi = torch, missing, other
        self._is_changed = True

    def save(self) -> None:
        """Write the cache, if anything in it is new; whatever goes wrong is left."""
        gone = self._cache.files.keys() - self._used
        if self.cache_file is None or not (self._is_changed or gone):
            return
        for file in gone:
            del self._cache.files[file]
        with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError):
            _write(self.cache_file, msgspec.msgpack.encode(self._cache))


def read_site(path: str, cache_directory: Path | None) -> Site:
    """Return the distributions in the folder *path*, each with its compiled files."""
    cache_file = None
    if cache_directory is not None:
        name = hashlib.blake2b(os.fsencode(path), digest_size=12).hexdigest()
        cache_file = cache_directory / f"site-{name}.msgpack"
    site = Site(path, cache_file)
    site._cache = _load(cache_file, path)
    records: dict[str, _Record] = {}
    for folder, name, version in _described(path):
        described = f"{path}/{folder}"
        known = site._cache.records.get(folder)
        record = _record(f"{described}/RECORD", known)
        is_as_before = record is not None and record is known
        if record is None:
            record = _Record((0, 0), ())
        elif not is_as_before:
            site._is_changed = True
        records[folder] = record
        site.distributions.append(
            Installed(name, version, path, described, record.files, is_as_before)
        )
    site._is_changed |= records.keys() != site._cache.records.keys()
    site._cache.records = records
    return site


def cache_directory() -> Path | None:
    """Return where gpucheck may keep what it read; None where nobody says where the home is.

    It is platformdirs' answer on Linux, without its import, which costs as much as the rest here.
    """
    named = os.environ.get("XDG_CACHE_HOME", "")
    place = named if named.startswith("/") else os.path.expanduser("~/.cache")  # noqa: PTH111
    return Path(place, "gpucheck", "packages") if place.startswith("/") else None


def _described(site: str) -> Iterator[tuple[str, str, str]]:
    names = names_in(site)
    for folder in names if isinstance(names, tuple) else ():
        found = split_name(folder)
        if found is not None:
            yield folder, *found


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _record(path: str, known: _Record | None) -> _Record | None:
    stamp = _stamp(path)
    if stamp is None:
        return None
    if known is not None and known.stamp == stamp:
        return known
    data = read_bytes(path, _RECORD_LIMIT_BYTES)
    return _Record(stamp, tuple(compiled_files(data)) if isinstance(data, bytes) else ())


_LINE = re.compile(rb"([^\",\0]+\.so(?:\.[0-9.]+)?),([\w]+=[^,]*|),(\d{0,18})\r?")


def compiled_files(record: bytes) -> Iterator[CompiledFile]:
    """Yield the shared objects that a RECORD lists; the megabytes of headers cost nothing."""
    at = record.find(b".so")
    while at >= 0:
        end = record.find(b"\n", at)
        end = len(record) if end < 0 else end
        found = _LINE.fullmatch(record, record.rfind(b"\n", 0, at) + 1, end)
        if found is not None and not found[1].startswith((b"/", b"..")):
            path = found[1].decode("utf-8", "surrogateescape")
            if path.isprintable():  # what JSON and msgpack can hold, too
                yield CompiledFile(path, int(found[3] or -1), found[2].decode("ascii", "replace"))
        at = record.find(b".so", end)


def _is_ours(name: str) -> bool:
    return bool(CUDA_LIBRARY.match(name) or TORCH_LIBRARY.fullmatch(name))


def _read(path: str, stamp: tuple[int, int]) -> ElfNotes:
    try:
        elf = read_elf(path)
    except (OSError, ElfError, ValueError):
        return ElfNotes(stamp)
    search = f"RUNPATH {elf.runpath}" if elf.runpath is not None else elf.rpath or ""
    names = (*elf.needed, elf.soname or "", search)
    if not all(name.isprintable() for name in names):
        return ElfNotes(stamp)
    return ElfNotes(stamp, elf.needed, elf.soname or "", search, any(map(_is_ours, elf.needed)))


# -------------------------------------------------------------------------------------- the cache


def _load(file: Path | None, site: str) -> _Cache:
    empty = _Cache(_FORMAT, site, {}, {})
    if file is None:
        return empty
    data = read_bytes(file, _CACHE_LIMIT_BYTES)
    if not isinstance(data, bytes):
        return empty
    try:
        known = msgspec.msgpack.decode(data, type=_Cache)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return empty
    return known if (known.format, known.site) == (_FORMAT, site) else empty


def _write(file: Path, data: bytes) -> None:
    """Put *data* in the place of *file* at once: another gpucheck reads the old or the new."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = f"{file}.{os.getpid()}"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.replace(temporary, file)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    _forget_oldest(file.parent)


def _forget_oldest(folder: Path) -> None:
    """Keep the newest files alone: environments come and go."""
    names = names_in(folder)
    files = [(folder / name) for name in names] if isinstance(names, tuple) else []
    stamped = sorted(files, key=lambda each: (_stamp(str(each)) or (0, 0))[1], reverse=True)
    for each in stamped[_MOST_CACHE_FILES:]:
        with contextlib.suppress(OSError):
            each.unlink()
