"""Resolves which shared libraries `import torch` would map, and where each one comes from."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH110, PTH119, PTH120

import fnmatch
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gpucheck.knowledge import cudnn as cudnn_table
from gpucheck.probes import cxx_library, library_files, loader_conf
from gpucheck.probes.elf import ElfError, read_elf
from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.ld_so import Loaded, Missing, Process
from gpucheck.probes.library_files import (
    CUDA_LIBRARY,
    conda_libraries,
    cuda_major,
    origin_of,
    version_of,
    wheel_libraries,
)
from gpucheck.probes.readable import readable
from gpucheck.probes.this_loader import this_loader
from gpucheck.probes.torch_preloading import Preload, Preloading, read_preloading
from gpucheck.snapshot import (
    Libraries,
    Library,
    Maybe,
    Origin,
    Python,
    PyTorch,
    Torch,
    Unknown,
)

#: What torch opens only when it first needs it (a GPU's first linear algebra, a fused kernel).
OPENED_LATE = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")
DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")


def probe(pytorch: PyTorch, variables: Mapping[str, str], root: Path = Path("/")) -> Libraries:
    """Return what the loader would give `import torch`, without importing or running anything.

    *root* is where the system's own files are looked for (the cache, the default directories).
    """
    library_files.forget()
    conf = loader_conf.folders(root)
    if isinstance(pytorch.torch, Unknown):
        return Libraries(
            resolved=Unknown(pytorch.torch.why),
            not_found=Unknown(pytorch.torch.why),
            cxx=Unknown(pytorch.torch.why),
            ld_so_conf=conf,
        )
    if pytorch.torch is None or not pytorch.torch.location:
        return Libraries(resolved=None, not_found=(), cxx=None, ld_so_conf=conf)
    process = start(pytorch, variables, root)
    if isinstance(process, Unknown):
        return Libraries(
            resolved=process,
            not_found=Unknown(process.why),
            cxx=Unknown(process.why),
            ld_so_conf=conf,
        )
    found = _Import(process, pytorch, pytorch.torch)
    found.run()
    return Libraries(
        resolved=tuple(found.libraries()),
        not_found=tuple(dict.fromkeys(readable(missing.name) for missing in found.missing)),
        cxx=cxx_library.look(process, found.prefix),
        ld_so_conf=conf,
    )


def after_import(pytorch: PyTorch, fresh: Process) -> Process | Unknown:
    """Return *fresh* as it is once `import torch` is done, for what is loaded after it."""
    if not isinstance(pytorch.torch, Torch) or not pytorch.torch.location:
        return Unknown("there is no torch to import")
    process = Process(fresh.loader, fresh.program.path, fresh)
    process.start()
    _Import(process, pytorch, pytorch.torch).load()
    return process


def start(pytorch: PyTorch, variables: Mapping[str, str], root: Path) -> Process | Unknown:
    """Return the Python that was asked for as the loader starts it, with nothing imported yet."""
    python = pytorch.python
    if python is None:
        return Unknown("no Python was found")
    if isinstance(python, Unknown):
        return Unknown(python.why)
    fault = ""
    candidates = (python.path, f"{python.prefix}/bin/python3", f"{python.prefix}/bin/python")
    for program in candidates:  # the path may be a script that starts the real one (pyenv)
        try:
            elf = read_elf(os.path.realpath(program))
        except (OSError, ElfError, ValueError) as error:
            fault = fault or readable(f"{program}: {error}")
            continue
        interpreter = elf.interpreter
        if interpreter is None:
            return Unknown(f"{program} is linked statically")
        if "ld-musl" in interpreter:
            return Unknown(f"{program} uses musl's loader, whose search order is another")
        loader = this_loader(variables, interpreter, root=root, machine=elf.machine)
        process = Process(loader, program)
        process.start()
        return process
    return Unknown(fault)


# ----------------------------------------------------------------------------------- import torch


class _Import:
    """`import torch`, followed step by step in a modelled process."""

    def __init__(self, process: Process, pytorch: PyTorch, torch: Torch) -> None:
        self.process = process
        self.torch = torch
        self.package = torch.location
        python = pytorch.python
        self.sys_path: Sequence[str] = (
            python.sys_path if python is not None and not isinstance(python, Unknown) else ()
        )
        self.prefix = python.prefix if isinstance(python, Python) else ""
        self.missing: list[Missing] = []
        sites = [*dict.fromkeys([os.path.dirname(self.package), *self.sys_path])]
        self.wheels = {
            **conda_libraries(self.prefix),
            **wheel_libraries(sites, cuda_major(torch)),
        }
        self.preloaded: set[int] = set()
        self.parts: list[Library] = []

    def load(self) -> None:
        """Load what `import torch` loads."""
        source = read_text(f"{self.package}/__init__.py", 1 << 20)
        preloading = read_preloading(source) if isinstance(source, str) else Preloading()
        self._open_global_dependencies(preloading)
        for extension in self._extensions():
            self._trace(extension)

    def run(self) -> None:
        """Load what `import torch` loads, then what torch and cuDNN open later."""
        self.load()
        self.missing = list(self.process.missing)
        for name in OPENED_LATE:
            path = f"{self.package}/lib/{name}"
            if os.path.exists(path):
                before = len(self.process.missing)
                self._trace(path)
                late = self.process.missing[before:]
                self.missing += [m for m in late if m.name not in DRIVER_LIBRARIES]
        # What one object missed and a later one brought in answers to its name by now.
        self.missing = [
            each
            for each in self.missing
            if each.path is not None or self.process.loaded(each.name) is None
        ]
        self._open_cudnn_parts()

    def libraries(self) -> Iterator[Library]:
        """Yield the CUDA libraries among what was loaded or is missing, in load order."""
        asked = self._first_askers()
        for thing in self.process.objects:
            name = self._soname(thing)
            if CUDA_LIBRARY.match(name):
                via = "preloaded by torch" if id(thing) in self.preloaded else thing.found_via
                yield self._library(
                    name,
                    asked.get(name, f"{self.package}/__init__.py"),
                    thing.path,
                    via,
                    thing.directory or os.path.dirname(thing.path),
                )
        yield from self.parts
        for missing in {m.name: m for m in self.missing if CUDA_LIBRARY.match(m.name)}.values():
            if missing.path is None:
                yield self._library(missing.name, missing.needed_by, None, "", "")
            else:
                yield self._library(
                    missing.name, missing.needed_by, missing.path, "", "", damage=missing.why
                )

    # ---- steps

    def _open_global_dependencies(self, preloading: Preloading) -> None:
        path = f"{self.package}/lib/libtorch_global_deps.so"
        if not os.path.exists(path):
            return
        if isinstance(self.process.open(path), Loaded):
            maps = "\n".join(os.path.realpath(thing.path) for thing in self.process.objects)
            if preloading.marker is not None and preloading.marker in maps:
                self._preload(preloading, preloading.always)
        else:
            self._preload(preloading, preloading.on_failure)
            self._trace(path)

    def _preload(self, preloading: Preloading, libraries: Iterable[Preload]) -> None:
        for preload in libraries:
            path = self._wheel_file(preloading, preload)
            if path is None:
                if preload.is_required:
                    return  # torch raises ValueError there, and swallows it
                continue
            before = {id(thing) for thing in self.process.objects}
            found = self.process.open(path)
            if isinstance(found, Missing):
                return
            if id(found) not in before:
                self.preloaded.add(id(found))

    def _wheel_file(self, preloading: Preloading, preload: Preload) -> str | None:
        for path in self.sys_path:
            folders = [f"{path}/nvidia/{preload.folder}/lib"]
            major = cuda_major(self.torch)
            if preloading.looks_in_cu_folder and major is not None:
                folders.append(f"{path}/nvidia/cu{major}/lib")
            if preloading.looks_beside:
                folders.append(f"{path}/{preload.folder}/lib")
            for folder in folders:
                try:
                    names = os.listdir(folder)  # noqa: PTH208 - the order that glob gives
                except OSError:
                    continue
                for name in names:
                    if fnmatch.fnmatchcase(name, preload.pattern):
                        return f"{folder}/{name}"
        return None

    def _extensions(self) -> list[str]:
        names = names_in(self.package)
        if not isinstance(names, tuple):
            return []
        return [f"{self.package}/{n}" for n in names if n.startswith("_C.") and n.endswith(".so")]

    def _trace(self, path: str) -> None:
        self.process.trace(path)

    def _open_cudnn_parts(self) -> None:
        """Follow cuDNN as it opens its parts by name: the full version first, the major last."""
        front = next((t for t in self.process.objects if _FRONT.fullmatch(self._soname(t))), None)
        if front is None:
            return
        soname = self._soname(front)
        version = version_of(front.path)
        known = version if isinstance(version, str) else soname.rpartition(".")[2]
        openers = {"libcudnn": front}
        for part in cudnn_table.parts_of(known):
            opener = openers.get(part.opened_by)
            if opener is None:
                continue
            found: Loaded | Missing = Missing(part.soname, opener.path)
            for suffix in _suffixes(known, part.major):
                attempt = self.process.open(f"{part.stem}.so{suffix}", opener)
                if isinstance(attempt, Loaded):
                    found = attempt
                    break
                if attempt.name != f"{part.stem}.so{suffix}" or attempt.path is not None:
                    found = attempt  # it is there, and will not load: worth more than "missing"
            if isinstance(found, Loaded):
                openers[part.stem] = found
            elif cudnn_table.is_sure(part, known):
                self.parts.append(self._missing_part(part.soname, found))

    def _missing_part(self, soname: str, missing: Missing) -> Library:
        damage = None
        if missing.path is not None:
            damage = readable(f"{missing.path}: {missing.why}")
        elif missing.name != soname and not missing.name.startswith(soname.partition(".so")[0]):
            damage = readable(f"it needs {missing.name}, which is {missing.why}")
        return self._library(soname, missing.needed_by, None, "", "", damage=damage)

    # ---- telling

    def _first_askers(self) -> dict[str, str]:
        asked: dict[str, str] = {}
        for thing in self.process.objects:
            for name in thing.elf.needed:
                asked.setdefault(name, thing.path)
        return asked

    def _soname(self, thing: Loaded) -> str:
        return thing.elf.soname or os.path.basename(thing.path)

    def _library(
        self,
        name: str,
        needed_by: str,
        path: str | None,
        via: str,
        directory: str,
        damage: str | None = None,
    ) -> Library:
        wheel = self.wheels.get(name)
        plain = self.process.find_plainly(name)
        plain_path = plain[0] if isinstance(plain, tuple) else None
        real = None if path is None else os.path.realpath(path)
        if path is not None and os.path.realpath(os.path.normpath(path)) == real:
            path = os.path.normpath(path)  # "torch/lib/../../nvidia" reads badly
        version: Maybe[str] = None if path is None else version_of(path)
        where: Maybe[str] = path
        if damage is not None:
            version = Unknown(damage)
            where = Unknown(damage) if path is None else path
        return Library(
            soname=readable(name),
            needed_by=readable(needed_by),
            path=readable(where) if isinstance(where, str) else where,
            real_path=None if real is None else readable(real),
            version=version,
            origin="other" if path is None else self._origin(path, real or path, via),
            found_via=readable(via),
            directory=readable(directory),
            wheel_path=None if wheel is None else readable(wheel),
            wheel_version=_known(version_of(wheel)) if wheel else None,
            system_path=None if plain_path is None else readable(plain_path),
            system_version=_known(version_of(plain_path)) if plain_path else None,
        )

    def _origin(self, path: str, real: str, via: str) -> Origin:
        if real.startswith(os.path.realpath(self.package) + "/"):
            return "torch"
        return origin_of(path, real, via, self.process.loader.system_directories, self.sys_path)


_FRONT = re.compile(r"libcudnn\.so\.\d+")


def _known(version: Maybe[str]) -> str | None:
    return version if isinstance(version, str) else None


def _suffixes(version: str, major: int) -> list[str]:
    """Return the endings that cuDNN tries, in its order: .9.19.0, .9.19, .9, and none."""
    parts = version.split(".")[:3]
    if major < 9:
        return [f".{major}"]
    longer = ["." + ".".join(parts[:n]) for n in (3, 2) if len(parts) >= n]
    return [*longer, f".{major}", ""]
