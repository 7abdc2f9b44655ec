"""Resolves what one installed package needs of CUDA and of torch, as the loader would do it.

It is long because one walk over an environment's files keeps one state from end to end.
"""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH119

import contextlib
import fnmatch
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpucheck.knowledge import packages as table
from gpucheck.probes import library_files, loader
from gpucheck.probes.elf_symbols import SymbolError, Symbols
from gpucheck.probes.files import names_in, read_bytes, read_text
from gpucheck.probes.ld_so import Loaded, Missing, Process, Rehearsal
from gpucheck.probes.package_files import (
    CUDA_LIBRARY,
    TORCH_LIBRARY,
    ElfNotes,
    Installed,
    Site,
)
from gpucheck.probes.readable import readable
from gpucheck.snapshot import (
    Framework,
    GpuPackage,
    Maybe,
    PackageLibrary,
    Python,
    PyTorch,
    Torch,
    TorchMismatch,
    Unknown,
)

#: The C++ namespaces that torch's libraries define.
TORCH_SYMBOLS = (b"_ZN3c10", b"_ZNK3c10", b"_ZN2at", b"_ZNK2at", b"_ZN5torch")
_PYTHON_TAG = re.compile(r"\.cpython-(\d+)")
_TORCH_TAG = re.compile(r"torch_?\d+[^/]*$")  # one file for each release of torch
_SHOWN_SYMBOLS = 3
_SHOWN_PATHS = 4
_REQUIRES_TORCH = re.compile(rb"^Requires-Dist:\s*torch\s*(?![\w.-])(?!.*extra)", re.MULTILINE)


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What all packages of one Python share: its folders, and the processes that they join."""

    pytorch: PyTorch
    variables: Mapping[str, str]
    root: Path
    sites: Sequence[Site]
    sys_path: Sequence[str]
    prefix: str
    fresh: Process  # Python as it starts
    frameworks: Sequence[Framework] = ()
    _with_torch: Process | Unknown | None = None
    _torch_symbols: "tuple[Symbols, ...] | None" = None
    _torch_key: str = ""
    _are_torchs: dict[bytes, bool] = field(default_factory=dict)
    _index: dict[str, list[str]] | None = None
    _wheels: dict[str, str] | None = None
    _toolkits: tuple[str, ...] | None = None
    _by_stem: dict[str, list[str]] | None = None
    _versions: dict[str, Maybe[str]] = field(default_factory=dict)

    def may_be_loaded(self, file: str) -> bool:
        """Whether *file* is not an extension for another Python than this one."""
        built_for = _PYTHON_TAG.search(file)
        python = self.pytorch.python
        version = python.version if isinstance(python, Python) else None
        if built_for is None or not isinstance(version, str):
            return True
        return built_for[1] == "".join(version.split(".")[:2])

    # ---- torch

    @property
    def torch_location(self) -> str:
        """The folder of the torch that would be imported; "" where there is none."""
        torch = self.pytorch.torch
        return torch.location if isinstance(torch, Torch) else ""

    def with_torch(self) -> Process | Unknown:
        """Return the process as it is after `import torch`."""
        if self._with_torch is None:
            self._with_torch = loader.after_import(self.pytorch, self.fresh)
        return self._with_torch

    def torch_symbols(self) -> tuple[Symbols, ...]:
        """Return the symbols of torch's own libraries in the process after `import torch`."""
        if self._torch_symbols is None:
            paths = self._torch_libraries()
            opened = tuple(_opened(paths))
            # What cannot be read may define what is looked for: then nothing is said.
            is_whole = len(opened) == len(paths) and any(each.has_hash for each in opened)
            self._torch_symbols = opened if is_whole else ()
        return self._torch_symbols

    def is_torchs(self, symbol: bytes) -> bool:
        """Whether a library of torch's defines *symbol*; packages ask for the same ones."""
        known = self._are_torchs.get(symbol)
        if known is None:
            known = any(symbols.defines(symbol) for symbols in self.torch_symbols())
            self._are_torchs[symbol] = known
        return known

    def torch_key(self) -> str:
        """Return what stands for the very torch that is here, in the cache."""
        if not self._torch_key:
            digest = hashlib.blake2b(digest_size=8)
            for path in self._torch_libraries():
                with contextlib.suppress(OSError):
                    status = os.stat(path)  # noqa: PTH116
                    digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
            self._torch_key = digest.hexdigest()
        return self._torch_key

    def _torch_libraries(self) -> list[str]:
        process = self.with_torch()
        if isinstance(process, Unknown):
            return []
        top = os.path.realpath(self.torch_location) + "/"
        paths = (os.path.realpath(thing.path) for thing in process.objects)
        return sorted((path for path in paths if path.startswith(top)), key=_likely_first)

    def close(self) -> None:
        """Give the mapped libraries back."""
        for symbols in self._torch_symbols or ():
            symbols.close()

    # ---- libraries at hand

    def wheels(self) -> Mapping[str, str]:
        """Return the CUDA libraries of NVIDIA's wheels and of torch: path by SONAME."""
        if self._wheels is None:
            self._wheels = library_files.wheel_libraries([site.path for site in self.sites], None)
        return self._wheels

    def index(self) -> Mapping[str, list[str]]:
        """Return where in this environment CUDA libraries lie, on a search path or not, by name."""
        if self._index is None:
            index: dict[str, list[str]] = {}
            for name, path in self.wheels().items():
                index.setdefault(name, []).append(path)
            for site in self.sites:
                for each in site.distributions:
                    for file in each.files:
                        name = file.path.rpartition("/")[2]
                        if CUDA_LIBRARY.match(name) and site.notes(file.path) is not None:
                            _put(index, name, f"{site.path}/{file.path}")
            for folder in (f"{self.prefix}/lib", f"{self.prefix}/nvvm/lib64"):
                self._list(index, folder)
            self._index = index
        return self._index

    def toolkits(self) -> tuple[str, ...]:
        """Return the toolkits that a package's own code may look into."""
        if self._toolkits is None:
            named = [self.variables.get(name, "") for name in ("CUDA_PATH", "CUDA_HOME")]
            homes = [home for home in named if home.startswith("/")]
            default = str(self.root / "usr/local/cuda")
            self._toolkits = tuple(dict.fromkeys([*homes, default]))
        return self._toolkits

    def in_toolkits(self) -> Mapping[str, list[str]]:
        """Return the CUDA libraries in those toolkits, by name."""
        found: dict[str, list[str]] = {}
        for home in self.toolkits():
            for folder in ("lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib"):
                self._list(found, f"{home}/{folder}")
            self._list(found, f"{home}/nvvm/lib64")
        return found

    def version(self, path: str) -> Maybe[str]:
        """Return the version of the library file *path*."""
        if path not in self._versions:
            self._versions[path] = library_files.version_of(path)
        return self._versions[path]

    def is_loaded_by_torch(self, name: str) -> bool:
        """Whether a program that imports torch first has the library *name* by then."""
        if not self.torch_location:
            return False
        process = self.with_torch()
        return isinstance(process, Process) and process.loaded(name) is not None

    def at_hand(self, soname: str) -> Iterator[str]:
        """Yield the paths of the library of *soname* under whatever number, best known first."""
        stem = _stem(soname)
        process = self._with_torch if isinstance(self._with_torch, Process) else self.fresh
        for thing in process.objects:
            name = thing.elf.soname or os.path.basename(thing.path)
            if _stem(name) == stem:
                yield thing.path
        for name, paths in self.index().items():
            if _stem(name) == stem:
                yield from paths
        yield from self._in_cache().get(stem, ())

    def _in_cache(self) -> Mapping[str, list[str]]:
        """Return the paths in the loader's cache by the stem of their names."""
        if self._by_stem is None:
            self._by_stem = {}
            cache = self.fresh.loader.cache
            for name, entries in cache.entries.items() if cache is not None else ():
                stem, found, _ = name.partition(".so.")
                if found and entries:
                    self._by_stem.setdefault(stem, []).append(entries[0].path)
        return self._by_stem

    @staticmethod
    def _list(index: dict[str, list[str]], folder: str) -> None:
        names = names_in(folder)
        for name in names if isinstance(names, tuple) else ():
            if CUDA_LIBRARY.match(name):
                _put(index, name, f"{folder}/{name}")


def _put(index: dict[str, list[str]], name: str, path: str) -> None:
    paths = index.setdefault(name, [])
    if path not in paths:
        paths.append(path)


def _stem(soname: str) -> str:
    """Return what stays of a name from one major to the next; cuDNN's parts change theirs."""
    stem = table.split_soname(soname)[0]
    return "libcudnn" if stem.startswith("libcudnn") else stem


def _likely_first(path: str) -> tuple[int, str]:
    order = ("libc10.so", "libtorch_cpu.so", "libtorch_python.so", "libtorch_cuda.so")
    name = os.path.basename(path)
    return order.index(name) if name in order else len(order), path


def _opened(paths: Iterable[str]) -> Iterator[Symbols]:
    for path in paths:
        with contextlib.suppress(OSError, SymbolError):
            yield Symbols(path)


# ---------------------------------------------------------------------------------- one package


def resolve(around: Surroundings, site: Site, package: Installed) -> GpuPackage | None:
    """Return what *package* gets of CUDA's and torch's libraries; None: it wants none of them."""
    rows = table.opens(package.name, package.version)
    is_known = bool(rows) or table.is_known_family(package.name)
    if not is_known and not site.asks(package):
        return None
    files = {
        file.path: notes
        for file in package.files
        if around.may_be_loaded(file.path) and (notes := site.notes(file.path)) is not None
    }
    asking = {path for path, notes in files.items() if notes.asks}
    opened = [
        (openers, names)
        for row in rows
        if (names := _names(around, row, package))
        and ((openers := _matching(files, row.files)) or not row.files)
    ]
    if not opened and table.is_known_family(package.name):
        opened = [((path,), texts) for path in files if (texts := _texts(site, path))]
    if not asking and not opened:
        return None
    uses_torch = bool(around.torch_location) and _uses_torch(files, package)
    process = around.with_torch() if uses_torch else around.fresh
    if isinstance(process, Unknown):
        process, uses_torch = around.fresh, False
    look = _Look(around, site, package, files, rows, process)
    look.follow_links(asking)
    for openers, names in opened:
        look.open_names(openers, names)
    if uses_torch:
        look.compare_with_torch()
    return GpuPackage(
        name=package.name,
        version=package.version,
        location=readable(package.site),
        files=len(files),
        uses_torch=uses_torch,
        libraries=tuple(look.libraries.values()),
        mismatches=tuple(look.mismatches),
    )


def _matching(files: Iterable[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return those of *files* that a pattern fits, in the order of the patterns; three at most."""
    found = (path for pattern in patterns for path in files if fnmatch.fnmatchcase(path, pattern))
    return tuple(dict.fromkeys(found))[:3]


def _texts(site: Site, path: str) -> tuple[str, ...]:
    """Return the CUDA libraries that *path* names; of one under several numbers, any will do."""
    names = [name for name in site.names_opened(path) if CUDA_LIBRARY.match(name)]
    stems = [table.split_soname(name)[0] for name in names]
    return tuple(
        name
        for name, stem in zip(names, stems, strict=True)
        if table.split_soname(name)[1] and stems.count(stem) == 1
    )


def _uses_torch(files: Mapping[str, ElfNotes], package: Installed) -> bool:
    """Whether torch is imported before these files: they are linked to it, or it is required."""
    if any(TORCH_LIBRARY.fullmatch(name) for notes in files.values() for name in notes.needed):
        return True
    metadata = read_bytes(f"{package.described}/METADATA", 256 << 10)
    return isinstance(metadata, bytes) and _REQUIRES_TORCH.search(metadata) is not None


def _names(around: Surroundings, row: table.Opens, package: Installed) -> tuple[str, ...]:
    if not row.by_build_info:
        return row.names
    for framework in around.frameworks:
        if framework.distribution == package.name and isinstance(framework.cuda, str):
            cudnn = framework.cudnn if isinstance(framework.cudnn, str) else None
            return table.names_for(framework.cuda, cudnn)
    return ()


class _Look:
    """One package, put into a process piece by piece."""

    def __init__(
        self,
        around: Surroundings,
        site: Site,
        package: Installed,
        files: Mapping[str, ElfNotes],
        rows: Sequence[table.Opens],
        process: Process,
    ) -> None:
        self.around = around
        self.site = site
        self.package = package
        self.files = files
        self.rows = rows
        self.process = process
        self.libraries: dict[str, PackageLibrary] = {}
        self.mismatches: list[TorchMismatch] = []
        self._rehearsals: dict[tuple[str, tuple[str, ...], str], Rehearsal] = {}

    # ---- what its files are linked to

    def follow_links(self, asking: set[str]) -> None:
        """Note the CUDA libraries that the package's files get, or lack."""
        optional = table.optional_files(self.package.name)
        for variants in self._variants(self._roots(asking)):
            if _matching(variants, optional) and any(map(_lacks, map(self._rehearsal, variants))):
                continue
            # Of equals the last is the one for the newest CUDA.
            best = min(variants[::-1], key=lambda path: len(_lacks(self._rehearsal(path))))
            rehearsal = self._rehearsal(best)
            for name, thing in rehearsal.answers.items():
                if CUDA_LIBRARY.match(name):
                    self._note_found(name, _asker(rehearsal.added, name), thing)
            for missing in _lacks(rehearsal):
                self._note_missing(missing.name, missing.needed_by, self._is_on_demand(best))

    def _roots(self, asking: set[str]) -> list[str]:
        """Return the files that no other of the package brings in, and that lead to *asking*."""
        by_name: dict[str, str] = {}
        for path, notes in self.files.items():
            by_name.setdefault(path.rpartition("/")[2], path)
            if notes.soname:
                by_name.setdefault(notes.soname, path)
        below = {
            path: {by_name[name] for name in notes.needed if name in by_name} - {path}
            for path, notes in self.files.items()
        }
        brought = {path for needs in below.values() for path in needs}
        return [
            path
            for path in self.files
            if path not in brought and not asking.isdisjoint(_reach(path, below))
        ] or sorted(asking)

    def _variants(self, roots: Sequence[str]) -> Iterator[list[str]]:
        """Group files of which one is chosen when the package runs: one for each CUDA or FFmpeg."""
        groups: dict[str, list[str]] = {}
        for path in roots:
            groups.setdefault(re.sub(r"\d+", "#", path), []).append(path)
        yield from groups.values()

    def _rehearsal(self, path: str) -> Rehearsal:
        """Return what opening *path* brings; files of one folder that ask the same get the same."""
        notes = self.files[path]
        key = (path.rpartition("/")[0], notes.needed, notes.search)
        if key not in self._rehearsals:
            self._rehearsals[key] = self.process.rehearse(f"{self.site.path}/{path}")
        return self._rehearsals[key]

    def _is_on_demand(self, path: str) -> bool:
        return (
            any(
                row.is_on_demand and any(fnmatch.fnmatchcase(path, each) for each in row.files)
                for row in self.rows
            )
            or "_providers_" in path.rpartition("/")[2]
        )

    # ---- what it opens by name

    def open_names(self, openers: Sequence[str], names: Sequence[str]) -> None:
        """Note what the package gets for the libraries that one of *openers* opens by name."""
        first = self._preloaded()
        found: dict[str, Loaded] = {}
        for opener in openers:
            rehearsal = self.process.rehearse(
                f"{self.site.path}/{opener}", first=first, then_open=names
            )
            for name, thing in rehearsal.opened.items():
                if isinstance(thing, Loaded):
                    found.setdefault(name, thing)
            for name, thing in rehearsal.answers.items():
                if CUDA_LIBRARY.match(name) and name not in names:
                    self._note_found(name, _asker(rehearsal.added, name), thing)
        by = f"{self.site.path}/{openers[0]}" if openers else self.package.name
        for name in names:
            if name in found:
                self._note_found(name, by, found[name], is_opened=True)
            else:
                self._note_missing(name, by, on_demand=True, is_opened=True)

    def _preloaded(self) -> tuple[str, ...]:
        """Return the libraries that jax's plugin opens by full path before anything else."""
        for path in self.files:
            if path.startswith("jax_plugins/") and path.endswith("/xla_cuda_plugin.so"):
                text = read_text(f"{self.site.path}/{path.rpartition('/')[0]}/__init__.py")
                paths = (
                    f"{site.path}/nvidia/{module}/lib/{name}"
                    for module, name in jax_preloads(text if isinstance(text, str) else "")
                    for site in self.around.sites
                )
                return tuple(path for path in paths if os.path.exists(path))  # noqa: PTH110
        return ()

    # ---- torch

    def compare_with_torch(self) -> None:
        """Note the files that need a library or symbols that this torch does not have."""
        linked = [
            path
            for path, notes in self.files.items()
            if any(TORCH_LIBRARY.fullmatch(name) for name in notes.needed)
            and not _TORCH_TAG.search(path)
        ]
        for variants in self._variants(linked):
            found = [self._mismatch(path) for path in variants]
            if all(found):
                self.mismatches.append(next(each for each in found if each))

    def _mismatch(self, path: str) -> TorchMismatch | None:
        rehearsal = self._rehearsal(path)
        for missing in rehearsal.missing:
            if TORCH_LIBRARY.fullmatch(missing.name):
                return TorchMismatch(file=readable(missing.needed_by), library=missing.name)
        notes = self.files[path]
        key = self.around.torch_key()
        if notes.torch != key:
            missing_symbols = self._missing_symbols(path, rehearsal)
            other = any(
                self.around.is_torchs(twin)
                for symbol in missing_symbols
                if (twin := with_other_abi(symbol)) is not None
            )
            texts = tuple(symbol.decode("ascii", "replace") for symbol in missing_symbols)
            self.site.remember(notes, key, texts, other)
        if not notes.missing:
            return None
        return TorchMismatch(
            file=readable(f"{self.site.path}/{path}"),
            symbols=notes.missing[:_SHOWN_SYMBOLS],
            count=len(notes.missing),
            has_other_abi=notes.has_other_abi,
        )

    def _missing_symbols(self, path: str, rehearsal: Rehearsal) -> list[bytes]:
        file = f"{self.site.path}/{path}"
        if not self.around.torch_symbols():
            return []
        try:
            with Symbols(file) as own:
                wanted = [
                    each for each in own.undefined(TORCH_SYMBOLS) if not self.around.is_torchs(each)
                ]
        except (OSError, SymbolError):
            return []
        if not wanted:
            return []
        siblings = [f"{self.site.path}/{each}" for each in self.files if each != path]
        others = dict.fromkeys([*(thing.path for thing in rehearsal.added), *siblings])
        for other in others:
            with contextlib.suppress(OSError, SymbolError), Symbols(other) as symbols:
                wanted = [each for each in wanted if not symbols.defines(each)]
            if not wanted:
                break
        return wanted

    # ---- noting

    def _note_found(self, name: str, by: str, thing: Loaded, *, is_opened: bool = False) -> None:
        known = self.libraries.get(name)
        if known is not None:
            return
        path = os.path.normpath(thing.path)
        wheel = self.around.wheels().get(name)
        self.libraries[name] = PackageLibrary(
            soname=name,
            needed_by=readable(by),
            is_opened=is_opened,
            path=readable(path),
            version=self.around.version(path),
            found_via=readable(thing.found_via),
            directory=readable(thing.directory),
            wheel_path=None if wheel is None else readable(wheel),
            wheel_version=None if wheel is None else self.around.version(wheel),
        )

    def _note_missing(
        self, name: str, by: str, on_demand: bool = False, *, is_opened: bool = False
    ) -> None:
        known = self.libraries.get(name)
        if known is not None and known.path is None:
            return
        has_number = bool(table.split_soname(name)[1])
        stem = table.split_soname(name)[0]
        places = [self.around.index()]
        if any(row.finds_toolkit for row in self.rows):
            places.append(self.around.in_toolkits())
        elsewhere = [
            path
            for place in places
            for other, paths in place.items()
            if (other == name if has_number else table.split_soname(other)[0] == stem)
            for path in paths
        ]
        others = dict.fromkeys(map(os.path.normpath, self.around.at_hand(name)))
        self.libraries[name] = PackageLibrary(
            soname=name,
            needed_by=readable(by),
            is_opened=is_opened,
            is_on_demand=on_demand,
            path=None,
            version=None,
            is_loaded_by_torch=bool(elsewhere) and self.around.is_loaded_by_torch(name),
            elsewhere=tuple(map(readable, elsewhere[:_SHOWN_PATHS])),
            other_majors=tuple(
                readable(path)
                for path in list(others)[:_SHOWN_PATHS]
                if not _is_same_number(path, name)
            ),
        )


def _is_same_number(path: str, name: str) -> bool:
    number, wanted = table.split_soname(os.path.basename(path))[1], table.split_soname(name)[1]
    return number == wanted or number.startswith(f"{wanted}.")


def _lacks(rehearsal: Rehearsal) -> list[Missing]:
    return [each for each in rehearsal.missing if CUDA_LIBRARY.match(each.name)]


def _asker(added: Iterable[Loaded], name: str) -> str:
    return next((thing.path for thing in added if name in thing.elf.needed), "")


def _reach(start: str, below: Mapping[str, set[str]]) -> set[str]:
    seen = {start}
    queue = [start]
    for path in queue:
        queue += (new := below.get(path, set()) - seen)
        seen |= new
    return seen


_LOAD = re.compile(r"""_load\(\s*["'](\w+)["'],\s*\[([^\]]*)\]""")


def jax_preloads(source: str) -> list[tuple[str, str]]:
    """Read out of a jax plugin's `__init__.py` which wheel libraries it opens: (module, name)."""
    return [
        (found[1], name)
        for found in _LOAD.finditer(source)
        for name in re.findall(r"""["']([^"']+)["']""", found[2])
    ]


_NEW_STRING = b"NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"


@functools.lru_cache(maxsize=256)
def with_other_abi(symbol: bytes) -> bytes | None:
    """Return *symbol* as the other C++ ABI of libstdc++ spells its strings; None: it has none.

    Source: GCC's manual, "Dual ABI". Back references in a name that has more types than that count
    differently; those symbols are left.
    """
    if _NEW_STRING in symbol:
        return symbol.replace(_NEW_STRING, b"Ss")
    if b"Ss" in symbol:
        return symbol.replace(b"Ss", _NEW_STRING)
    return None
