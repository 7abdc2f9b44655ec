"""Resolves which shared libraries `import torch` would map, and where each one comes from."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH110, PTH112, PTH119, PTH120

import fnmatch
import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.knowledge import cudnn as cudnn_table
from gpucheck.probes import cxx_library, loader_conf
from gpucheck.probes.files import names_in, read_bytes, read_text
from gpucheck.probes.ld_so import (
    Cache,
    CacheError,
    ElfError,
    Loaded,
    Loader,
    Missing,
    Process,
    hwcaps_of,
    legacy_subfolders_of,
    read_cache,
    read_elf,
    read_interpreter,
)
from gpucheck.probes.readable import readable
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

#: What the catalogue's LIB family looks at: the CUDA libraries that wheels bring.
CUDA_LIBRARY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|cufft|cufftw|curand|cusolver|cusolverMg|cusparse"
    r"|cusparseLt|nvJitLink|nvrtc|nvrtc-builtins|nccl|cupti|nvshmem_host|cufile|nvToolsExt)\.so\b"
)
#: What torch opens only when it first needs it (a GPU's first linear algebra, a fused kernel).
OPENED_LATE = ("libtorch_cuda_linalg.so", "libcaffe2_nvrtc.so")
DRIVER_LIBRARIES = ("libcuda.so.1", "libnvidia-ml.so.1")

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i686"}


def probe(pytorch: PyTorch, variables: Mapping[str, str], root: Path = Path("/")) -> Libraries:
    """Return what the loader would give `import torch`, without importing or running anything.

    *root* is where the system's own files are looked for (the cache, the default directories).
    """
    _wheels_in.cache_clear()
    _conda_prefix.cache_clear()
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


# -------------------------------------------------------------------------- this machine's loader


def this_loader(
    variables: Mapping[str, str],
    interpreter: str,
    *,
    root: Path = Path("/"),
    machine: int = 62,
    working_directory: str | None = None,
) -> Loader:
    """Describe the loader *interpreter* of this machine as *variables* would steer it.

    What cannot be read is left at what glibc has without it: no cache, no subfolders.
    """
    name = _MACHINES.get(machine, "")
    directories, version = read_interpreter(_bytes(root / interpreter.lstrip("/"), 4 << 20))
    vendor, flags = _processor(root)
    folders, platform = legacy_subfolders_of(name, vendor, flags, version)
    if not directories:
        directories = ("/lib64", "/usr/lib64") if name == "x86_64" else ("/lib", "/usr/lib")
    lib = directories[0].lstrip("/").removeprefix("usr/")
    if root != Path("/"):
        directories = tuple(f"{root}{directory}" for directory in directories)
    preload = _bytes(root / "etc/ld.so.preload", 1 << 16).decode("utf-8", "surrogateescape")
    return Loader(
        cache=_cache(root),
        system_directories=directories,
        lib=lib,
        platform=platform,
        hwcaps=hwcaps_of(flags) if name == "x86_64" and (version or (2, 33)) >= (2, 33) else (),
        legacy_subfolders=folders,
        library_path=variables.get("LD_LIBRARY_PATH", ""),
        preload=" ".join([variables.get("LD_PRELOAD", ""), *preload.split()]),
        working_directory=_working_directory() if working_directory is None else working_directory,
    )


def _cache(root: Path) -> Cache | None:
    try:
        return read_cache(_bytes(root / "etc/ld.so.cache", 64 << 20))
    except CacheError:
        return None


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - a string is wanted
    except OSError:
        return "/"


def _bytes(path: Path, limit: int) -> bytes:
    data = read_bytes(path, limit)
    return data if isinstance(data, bytes) else b""


def _processor(root: Path) -> tuple[str, tuple[str, ...]]:
    """Return the vendor and the flags of the first processor in /proc/cpuinfo."""
    vendor = ""
    flags: tuple[str, ...] = ()
    try:
        # One read only: the kernel makes this text up, processor by processor, as it is read.
        with (root / "proc/cpuinfo").open("rb", buffering=0) as file:
            text = (file.read(8192) or b"").decode("ascii", "replace")
    except OSError:
        return vendor, flags
    for line in text.splitlines():
        key, _, value = line.partition(":")
        match key.strip():
            case "vendor_id" if not vendor:
                vendor = value.strip()
            case "flags" | "Features" if not flags:
                flags = tuple(value.split())
    return vendor, flags


# ------------------------------------------------------------------------- torch's own preloading


@dataclass(frozen=True, slots=True)
class Preload:
    """A library that torch opens by full path, if a wheel brings it."""

    folder: str  # "cublas"
    pattern: str  # "libcublas.so.*[0-9]"
    is_required: bool = True  # where it is missing, torch leaves out those after it


@dataclass(frozen=True, slots=True)
class Preloading:
    """What this torch's `__init__.py` preloads, and when."""

    marker: str | None = None  # text that /proc/self/maps must hold; None: never unasked
    always: tuple[Preload, ...] = ()  # after libtorch_global_deps.so was opened
    on_failure: tuple[Preload, ...] = ()  # after it could not be
    looks_in_cu_folder: bool = False  # nvidia/cu13/lib
    looks_beside: bool = False  # cudnn/lib, straight in an element of sys.path


_FUNCTION = r"^def {}\(.*?(?=^\S)(?:\).*?(?=^\S))?"
_PAIR = re.compile(
    r"""\(?["'](\w+)["']\s*[,:]\s*["'](lib[^"']+)["']\s*(,\s*required\s*=\s*False)?"""
)
_MARKER = re.compile(r"""if\s+["']([^"']+)["']\s+not\s+in\s+_maps""")


def read_preloading(source: str) -> Preloading:
    """Read out of torch's `__init__.py` which wheel libraries it opens itself.

    The text says more than a table of versions could: the list changed often, and vendors patch
    it. A text without these functions (torch before 2.0) preloads nothing.
    """
    load = _function(source, "_load_global_deps")
    everything = tuple(_preloads(_function(source, "_preload_cuda_deps")))
    attempt, _, rescue = load.partition("except OSError")
    marker = _MARKER.search(attempt)
    always: tuple[Preload, ...] = ()
    if marker is not None:
        after = attempt[marker.end() :]
        always = tuple(_preloads(after)) or everything
    paths = _function(source, "_get_cuda_dep_paths") + _function(source, "_preload_cuda_deps")
    return Preloading(
        marker=None if marker is None else marker[1],
        always=always,
        on_failure=tuple(_preloads(rescue)) or (everything if rescue else ()),
        looks_in_cu_folder='f"cu{' in paths or "f'cu{" in paths,
        looks_beside=bool(re.search(r"join\(\s*path,\s*lib_folder,", paths)),
    )


def _function(source: str, name: str) -> str:
    start = source.find(f"\ndef {name}(")
    if start < 0:
        return ""
    end = re.compile(r"^(?=[^\s#)])", re.MULTILINE).search(source, start + 5)
    return source[start : end.start() if end else len(source)]


def _preloads(text: str) -> Iterator[Preload]:
    for match in _PAIR.finditer(text):
        yield Preload(match[1], match[2], is_required=match[3] is None)


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


def cuda_major(torch: Torch) -> int | None:
    """Return the CUDA major that *torch* was built for."""
    text = torch.cuda if isinstance(torch.cuda, str) else ""
    head = text.partition(".")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 4 else None


# -------------------------------------------------------------------------------- files and wheels

#: Which NVIDIA wheel brings a library, without the -cu12 or -cu13 that some names end in.
_WHEELS = {
    "cudart": "cuda-runtime",
    "cublas": "cublas",
    "cublasLt": "cublas",
    "cudnn": "cudnn",
    "cufft": "cufft",
    "cufftw": "cufft",
    "curand": "curand",
    "cusolver": "cusolver",
    "cusolverMg": "cusolver",
    "cusparse": "cusparse",
    "cusparseLt": "cusparselt",
    "nvJitLink": "nvjitlink",
    "nvrtc": "cuda-nvrtc",
    "nvrtc-builtins": "cuda-nvrtc",
    "nccl": "nccl",
    "cupti": "cuda-cupti",
    "nvshmem_host": "nvshmem",
    "cufile": "cufile",
    "nvToolsExt": "nvtx",
}
_IN_WHEEL = re.compile(r"(.*)/nvidia/([^/]+)/lib/([^/]+)")
_FILE_VERSION = re.compile(r"\.so\.(\d+(?:\.\d+)+)$")
_NAME = re.compile(r"lib([\w-]+?)\.so")


def wheel_libraries(sites: Sequence[str], major: int | None) -> dict[str, str]:
    """Return the CUDA libraries that the wheels below *sites* bring: path by SONAME.

    Where two folders hold one SONAME, the one of torch's own CUDA *major* counts. Older torch
    wheels hold the libraries themselves, in torch/lib.
    """
    found: dict[str, str] = {}
    for site in sites:
        names = names_in(f"{site}/torch/lib")
        for name in names if isinstance(names, tuple) else ():
            if CUDA_LIBRARY.match(name):
                found.setdefault(name, f"{site}/torch/lib/{name}")
        folders = names_in(f"{site}/nvidia")
        if not isinstance(folders, tuple):
            continue
        own = f"cu{major}"
        for folder in sorted(folders, key=lambda name: (name != own, name)):
            names = names_in(f"{site}/nvidia/{folder}/lib")
            for name in names if isinstance(names, tuple) else ():
                if CUDA_LIBRARY.match(name):
                    found.setdefault(name, f"{site}/nvidia/{folder}/lib/{name}")
    return found


def conda_libraries(prefix: str) -> dict[str, str]:
    """Return the CUDA libraries of the conda environment at *prefix*: path by SONAME."""
    names = names_in(f"{prefix}/lib") if os.path.isdir(f"{prefix}/conda-meta") else None
    return {
        name: f"{prefix}/lib/{name}"
        for name in (names if isinstance(names, tuple) else ())
        if CUDA_LIBRARY.match(name)
    }


def version_of(path: str) -> str | Unknown:
    """Return the version of the library file *path*, as the best witness next to it says.

    Witnesses: the metadata of the wheel that it lies in, a cudnn_version.h that belongs to it, the
    name of the file itself. CUPTI's file names count years, not CUDA versions: unknown.
    """
    real = os.path.realpath(path)
    for candidate in (path, real):
        inside = _IN_WHEEL.fullmatch(candidate)
        if inside is not None:
            version = _wheel_version(inside[1], inside[2], inside[3])
            if version is not None and inside[3].startswith("libcudnn"):
                # The fourth number counts builds; cuDNN itself and its file names leave it out.
                version = ".".join(version.split(".")[:3])
            if version is not None:
                return version
    named = _FILE_VERSION.search(real)
    if named is not None:
        if int(named[1].partition(".")[0][:9]) >= 1000:
            return Unknown("the name of its file counts years")
        return named[1]
    return Unknown(readable(f"{path} does not tell its version"))


def _wheel_version(site: str, folder: str, file: str) -> str | None:
    name = _NAME.match(file)
    if name is None:
        return None
    stem = "cudnn" if name[1].startswith("cudnn") else name[1]
    wanted = _WHEELS.get(stem)
    if wanted is None:
        return None
    found = {v for n, v in _wheels_in(site) if re.sub(r"-cu\d+$", "", n) == f"nvidia-{wanted}"}
    if len(found) > 1 and folder.startswith("cu") and folder[2:].isdigit():
        # CUDA 13 has its own folder, and wheels whose names have no ending.
        plain = {v for n, v in _wheels_in(site) if n == f"nvidia-{wanted}"}
        found = plain or found
    elif len(found) > 1 and stem not in ("cudnn", "nccl", "cusparseLt", "nvshmem_host"):
        found = {v for n, v in _wheels_in(site) if n == f"nvidia-{wanted}-cu12"} or found
    if stem == "cudnn" and len(found) != 1:
        header = read_text(f"{site}/nvidia/{folder}/include/cudnn_version.h")
        return header_version(header) if isinstance(header, str) else None
    return found.pop() if len(found) == 1 else None


@functools.lru_cache(maxsize=16)
def _wheels_in(site: str) -> tuple[tuple[str, str], ...]:
    """Return name and version of the NVIDIA wheels in a site-packages folder."""
    names = names_in(site)
    found = []
    for name in names if isinstance(names, tuple) else ():
        if name.startswith("nvidia_") and name.endswith(".dist-info"):
            distribution, _, version = name.removesuffix(".dist-info").partition("-")
            found.append((distribution.replace("_", "-").lower(), version))
    return tuple(found)


_MACRO = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+CUDNN_(MAJOR|MINOR|PATCHLEVEL)[ \t]+(\d{1,4})\b", re.MULTILINE
)


def header_version(text: str) -> str | None:
    """Return the version that a cudnn_version.h defines: "9.19.0"; None where it defines none."""
    found = dict(_MACRO.findall(text))
    try:
        return ".".join(str(int(found[key])) for key in ("MAJOR", "MINOR", "PATCHLEVEL"))
    except KeyError:
        return None


def origin_of(
    path: str,
    real: str,
    via: str,
    system_directories: Sequence[str],
    sys_path: Sequence[str] = (),
) -> Origin:
    """Say in one word where a library comes from."""
    if _IN_WHEEL.fullmatch(path) or _IN_WHEEL.fullmatch(real):
        return "wheel"
    folder = os.path.dirname(real)
    if any(
        real.startswith(f"{os.path.realpath(site)}/") for site in sys_path if "packages" in site
    ):
        return "wheel"
    if _TOOLKIT.search(folder):
        return "toolkit"
    if _conda_prefix(folder) is not None:
        return "conda"
    system = {*system_directories, "/usr/lib64", "/lib64", "/usr/lib", "/lib"}
    if folder in system or folder in {os.path.realpath(directory) for directory in system}:
        return "system"
    return "LD_LIBRARY_PATH" if via == "LD_LIBRARY_PATH" else "other"


_TOOLKIT = re.compile(r"/cuda(-\d[\d.]*)?/|/cuda-\d[^/]*/|/targets/[a-z0-9_]+-linux/lib$|/hpc_sdk/")


@functools.lru_cache(maxsize=256)
def _conda_prefix(folder: str) -> str | None:
    """Return the conda environment that *folder* lies in."""
    while len(folder) > 1:
        if os.path.isdir(f"{folder}/conda-meta"):
            return folder
        folder = os.path.dirname(folder)
    return None
