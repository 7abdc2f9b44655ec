"""Finds the copies of the driver's libraries, and which of them the loader takes.

Which one wins is the answer of the loader's model (`ld_so`), the same that torch's libraries get.
"""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH113, PTH118, PTH120

import mmap
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace as changed
from pathlib import Path

from gpucheck.probes.elf import Elf, ElfError, read_elf
from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.kernel_module import section, seen_from
from gpucheck.probes.ld_so import Loader, Missing, Process
from gpucheck.probes.ld_so_cache import CACHE_FLAGS, Cache
from gpucheck.probes.package_owner import owners_of
from gpucheck.snapshot import DriverLibrary, Unknown, replace

SONAMES = ("libcuda.so.1", "libnvidia-ml.so.1")
#: e_machine by the kernel's name of the machine (elf.h)
MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21}
#: what ld.so searches after its cache, with Debian's folders first, where it does not say so itself
DEFAULT_DIRECTORIES = (
    "/lib/{machine}-linux-gnu",
    "/usr/lib/{machine}-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
NOWHERE = "nowhere the loader looks"
#: where driver libraries also lie, though the loader does not look there by itself
OTHER_DIRECTORIES = (
    ("/usr/lib/wsl/lib", "WSL"),
    ("/usr/local/nvidia/lib64", NOWHERE),  # managed Kubernetes nodes
    ("/usr/lib64-nvidia", NOWHERE),  # Colab
    ("/run/opengl-driver/lib", NOWHERE),  # NixOS
    ("/.singularity.d/libs", NOWHERE),  # Apptainer --nv
    ("/usr/lib/aarch64-linux-gnu/nvidia", NOWHERE),  # JetPack 6
    ("/usr/lib/aarch64-linux-gnu/tegra", NOWHERE),  # older JetPack
    ("/usr/lib/nvidia", NOWHERE),
    ("/usr/lib64/nvidia", NOWHERE),
)
LIBRARY_LIMIT_BYTES = 512 << 20
#: Mounts that hold a whole system say nothing of a library's origin.
WHOLE_SYSTEMS = frozenset(("/", "/usr", "/usr/local", "/opt", "/var", "/home", "/lib", "/usr/lib"))

_LIBRARY_NAME = re.compile(r"\.so\.(?P<version>\d{3,4}\.\d+(?:\.\d+)?)\Z")


def probe(
    root: Path, library_path: str | None, module_version: str | Unknown | None
) -> tuple[DriverLibrary, ...]:
    """Return the copies of the driver's libraries, each file once, in the loader's order."""
    loader = _loader(root, library_path)
    process = Process(loader, sys.executable)
    mounts = _mount_points(root)
    found: list[DriverLibrary] = []
    for soname in SONAMES:
        found += _copies(root, process, soname, mounts)
    known = _with_compat(root, _with_versions(root, found, module_version), module_version)
    return _with_packages(root, known, module_version)


# ----------------------------------------------------------------------------- the loader's answer


def _loader(root: Path, library_path: str | None) -> Loader:
    """Describe this machine's loader; below another *root*, every path is moved there."""
    # Not above: the module is read while the other probes wait.
    from gpucheck.probes.this_loader import this_loader

    elf = read_elf(os.path.realpath(sys.executable))
    loader = this_loader(
        {"LD_LIBRARY_PATH": library_path or ""},
        elf.interpreter or "",
        root=root,
        machine=elf.machine,
    )
    top = "" if root == Path("/") else str(root)
    if not top and elf.interpreter is not None:
        return loader
    machine = os.uname().machine
    elements = re.split("[:;]", library_path or "")
    return changed(
        loader,
        cache=None if loader.cache is None else _moved(loader.cache, top),
        system_directories=tuple(
            f"{top}{directory.format(machine=machine)}" for directory in DEFAULT_DIRECTORIES
        ),
        library_path=":".join(f"{top}{e}" if e.startswith("/") else e for e in elements),
    )


def _moved(cache: Cache, top: str) -> Cache:
    return Cache(
        {
            soname: tuple(e._replace(path=f"{top}{e.path}") for e in cache.entries[soname])
            for soname in SONAMES
            if soname in cache.entries
        }
    )


def _copies(
    root: Path, process: Process, soname: str, mounts: frozenset[str]
) -> Iterator[DriverLibrary]:
    """Yield the copies of *soname*: the one that the loader takes, at its place in the order."""
    selected = process.find_plainly(soname)
    chosen, via = "", ""
    if isinstance(selected, Missing):  # the loader stops at a file that it cannot make sense of
        chosen = selected.path or ""
    elif selected is not None:
        chosen, _, via, _ = selected
    working_directory = process.loader.working_directory
    chosen_real = os.path.realpath(os.path.join(working_directory, chosen)) if chosen else ""
    candidates = list(_candidates(root, process.loader, soname))
    if chosen and chosen_real not in {os.path.realpath(path) for path, _ in candidates}:
        candidates.insert(0, (os.path.join(working_directory, chosen), via or "LD_LIBRARY_PATH"))
    seen: set[str] = set()
    for path, found_via in candidates:
        real = os.path.realpath(path)
        if real in seen or not _is_loadable(real, process.program.elf):
            continue
        seen.add(real)
        inside, shown = seen_from(root.resolve(), real), seen_from(root, path)
        yield DriverLibrary(
            soname=soname,
            path=shown,
            real_path=inside,
            version=_version_in_name(inside),
            is_stub="stubs" in (*shown.split("/"), *inside.split("/")),
            is_compat=_has_compat_folder(shown) or _has_compat_folder(inside),
            is_mounted=_is_mounted(inside, mounts),
            found_via=found_via,
            is_selected=real == chosen_real,
        )


def _candidates(root: Path, loader: Loader, soname: str) -> Iterator[tuple[str, str]]:
    """Yield the files that answer to *soname*, or are a driver's copy without the link to it."""
    top = "" if root == Path("/") else str(root)
    folders = [
        (os.path.join(loader.working_directory, e), "LD_LIBRARY_PATH")
        for e in re.split("[:;]", loader.library_path)
        if e and "$" not in e
    ]
    yield from ((f"{folder.rstrip('/')}/{soname}", via) for folder, via in folders)
    machine = MACHINES.get(os.uname().machine, 0)
    if loader.cache is not None:
        for path in loader.cache.paths(soname, CACHE_FLAGS.get(machine, 1)):
            yield path, "ld.so.cache"
            folders.append((os.path.dirname(path), "ld.so.cache"))
    for directory in loader.system_directories:
        yield f"{directory}/{soname}", "default directory"
        folders.append((directory, "default directory"))
    others = [(d.format(machine=os.uname().machine), NOWHERE) for d in DEFAULT_DIRECTORIES]
    for directory, via in (*OTHER_DIRECTORIES, *others):
        yield f"{top}{directory}/{soname}", via
        folders.append((f"{top}{directory}", via))
    stem = soname.removesuffix("1")
    for folder in dict(folders):
        names = names_in(folder)
        for name in names if isinstance(names, tuple) else ():
            if name.startswith(stem) and _LIBRARY_NAME.search(name):
                yield f"{folder}/{name}", "its full name only"


def _is_loadable(real: str, program: Elf) -> bool:
    """Whether a file is there and no other machine's: the loader passes over those."""
    try:
        if not os.path.isfile(real):
            return False
        elf = read_elf(real)
    except ElfError as error:
        return error.is_fatal
    except OSError:
        return True  # it may not be read, by us or by any program of this user
    except ValueError:  # a NUL byte in the name
        return False
    return elf.machine == program.machine and elf.is_64_bit == program.is_64_bit


def _version_in_name(path: str) -> str | Unknown:
    found = _LIBRARY_NAME.search(path)
    return found["version"] if found else Unknown("its file name carries no version")


# ------------------------------------------------------------------------ where a copy comes from


def _has_compat_folder(path: str) -> bool:
    return any(part == "compat" or part.startswith("cuda-compat") for part in path.split("/"))


def _with_compat(
    root: Path, libraries: Iterable[DriverLibrary], module_version: str | Unknown | None
) -> tuple[DriverLibrary, ...]:
    """Mark the copies that are a compatibility library under another name.

    The container toolkit mounts one over the driver's place; an image copies it there. The same
    file is one by device and inode, a copy by size and version, unless it is of the module's own
    version: then it may as well be the driver's.
    """
    libraries = tuple(libraries)
    originals = _compat_files(root)
    if not originals:
        return libraries
    inodes: dict[tuple[int, int], str | Unknown] = {}
    for path, status in originals:
        version = _version_in_name(path)
        if isinstance(version, str) or (status.st_dev, status.st_ino) not in inodes:
            inodes[status.st_dev, status.st_ino] = version
    sizes = {(_version_in_name(path), status.st_size) for path, status in originals}

    def marked(library: DriverLibrary) -> DriverLibrary:
        try:
            status = (root / library.real_path.lstrip("/")).stat()
        except OSError:
            return library
        inode, version = (status.st_dev, status.st_ino), library.version
        if inode in inodes:  # what is mounted over the driver's file bears the driver's version
            return replace(library, is_compat=True, version=inodes[inode])
        is_copy = (
            isinstance(version, str)
            and version != module_version
            and (version, status.st_size) in sizes
        )
        return replace(library, is_compat=True) if is_copy else library

    return tuple(library if library.is_compat else marked(library) for library in libraries)


def _compat_files(root: Path) -> list[tuple[str, os.stat_result]]:
    """Return the files of the compatibility packages, which lie in each toolkit's compat folder."""
    found = []
    homes = names_in(root / "usr/local")
    for home in homes if isinstance(homes, tuple) else ():
        if not home.startswith("cuda"):
            continue
        for below in ("compat", "compat/lib", "compat/lib.real"):
            folder = root / "usr/local" / home / below
            names = names_in(folder)
            for name in names if isinstance(names, tuple) else ():
                if name.startswith(("libcuda.so", "libnvidia-ml.so")):
                    try:
                        found.append((str(folder / name), (folder / name).stat()))
                    except OSError:
                        continue
    return found


def _mount_points(root: Path) -> frozenset[str]:
    text = read_text(root / "proc/self/mountinfo", 8 << 20)
    return parse_mount_points(text) if isinstance(text, str) else frozenset()


def parse_mount_points(text: str) -> frozenset[str]:
    """Return where something is mounted, by /proc/self/mountinfo (proc(5)): its fifth field."""
    points = set()
    for line in text.splitlines():
        fields = line.split(" ", 5)
        if len(fields) == 6:
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            points.add(point)
    return frozenset(points - WHOLE_SYSTEMS)


def _is_mounted(path: str, mounts: frozenset[str]) -> bool:
    """Whether *path*, or a folder above it that is no whole system, is a mount of its own."""
    while path not in ("", "/"):
        if path in mounts:
            return True
        path = path.rpartition("/")[0]
    return False


def _with_packages(
    root: Path, libraries: tuple[DriverLibrary, ...], module_version: str | Unknown | None
) -> tuple[DriverLibrary, ...]:
    """Name the package that owns each copy, where two versions are here and one has to go."""
    versions = {library.version for library in libraries if isinstance(library.version, str)}
    if isinstance(module_version, str):
        versions.add(module_version)
    if len(versions) < 2:
        return libraries
    paths = [path for library in libraries for path in (library.real_path, library.path)]
    owners = owners_of(paths, ("nvidia", "cuda"), root)
    if isinstance(owners, Unknown) or not owners:
        return libraries
    return tuple(
        replace(library, package=owners.get(library.real_path) or owners.get(library.path))
        for library in libraries
    )


# ------------------------------------------------------------------------------------ versions


def _with_versions(
    root: Path, libraries: list[DriverLibrary], module_version: str | Unknown | None
) -> tuple[DriverLibrary, ...]:
    """Find out the version of the copies whose name does not say it.

    First by the build id: a copy of a file is the same file. Then by looking in its bytes for the
    versions that are known here: the driver's libraries carry their own.
    """
    by_build: dict[bytes, str] = {}
    versions = [module_version] if isinstance(module_version, str) else []
    nameless = [library for library in libraries if not isinstance(library.version, str)]
    for library in libraries:
        if isinstance(library.version, str):
            versions.append(library.version)
            if nameless and (build := _build_id(root / library.real_path.lstrip("/"))):
                by_build[build] = library.version
    known: dict[str, str] = {}
    for library in nameless:
        if library.is_stub or library.real_path.startswith("/usr/lib/wsl/"):
            continue  # these carry none
        file = root / library.real_path.lstrip("/")
        build = _build_id(file)
        version = by_build.get(build) if build else None
        likely = dict.fromkeys((*versions, *_versions_beside(file)))
        version = version or find_version(file, tuple(likely))
        if version:
            known[library.real_path] = version
    return tuple(
        library
        if isinstance(library.version, str) or library.real_path not in known
        else replace(library, version=known[library.real_path])
        for library in libraries
    )


def _versions_beside(path: Path) -> tuple[str, ...]:
    """Return the versions that the names of the driver's other libraries in that folder carry."""
    names = names_in(path.parent)
    found = (
        _LIBRARY_NAME.search(name)
        for name in (names if isinstance(names, tuple) else ())
        if name.startswith(("libnvidia-", "libcuda"))
    )
    return tuple(dict.fromkeys(match["version"] for match in found if match))[:8]


def _build_id(path: Path) -> bytes | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    try:
        note = section(handle, b".note.gnu.build-id", 256)
        return note or None
    except (OSError, struct.error, OverflowError):
        return None
    finally:
        os.close(handle)


def find_version(path: Path, versions: tuple[str, ...]) -> str | None:
    """Return the first of *versions* that is in the bytes of *path*, else None."""
    try:
        with path.open("rb") as file:
            if not 0 < os.fstat(file.fileno()).st_size <= LIBRARY_LIMIT_BYTES:
                return None
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                for version in versions:
                    if data.find(version.encode()) >= 0:
                        return version
    except (OSError, ValueError):
        pass
    return None
