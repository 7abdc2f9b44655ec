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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpucheck.probes.elf import Elf, ElfError, read_elf
from gpucheck.probes.ld_so_cache import CACHE_FLAGS, FLAGS_ANY_ELF, LEGACY_BITS, Cache


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
        return sum(bit for word, bit in LEGACY_BITS.items() if word in words)

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
