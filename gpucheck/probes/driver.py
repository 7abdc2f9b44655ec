"""Finds the NVIDIA driver: its kernel modules, its libraries and its device files.

Only files are read. A device file is never opened: opening /dev/nvidiaN initialises that GPU, which
takes seconds and wakes a sleeping laptop's, and may hang where the driver does. Whether the user
may open it is asked of the permissions; what they do not show (a container's device rules) shows
in what NVML and `cuInit` say, each in a child of its own.
"""

import errno
import mmap
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from gpucheck.probes.child import run
from gpucheck.probes.files import names_in, read_bytes, read_text
from gpucheck.probes.kernel_log import normal_bus_id
from gpucheck.probes.ld_so import CACHE_FLAGS, CacheError, ElfError, read_cache, read_elf
from gpucheck.snapshot import (
    DeviceNode,
    Driver,
    DriverLibrary,
    FabricManager,
    Unknown,
    replace,
    unread,
)
from gpucheck.versions import version_tuple

SONAMES = ("libcuda.so.1", "libnvidia-ml.so.1")
#: e_machine by the kernel's name of the machine (elf.h)
MACHINES = {"x86_64": 62, "aarch64": 183, "ppc64le": 21}
#: what ld.so searches after its cache, with Debian's folders first, where the distribution has them
DEFAULT_DIRECTORIES = (
    "/lib/{machine}-linux-gnu",
    "/usr/lib/{machine}-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
)
#: where driver libraries also lie, though the loader does not look there by itself
OTHER_DIRECTORIES = (
    ("/usr/lib/wsl/lib", "WSL"),
    ("/usr/local/nvidia/lib64", "nowhere the loader looks"),  # managed Kubernetes nodes
    ("/run/opengl-driver/lib", "nowhere the loader looks"),  # NixOS
    ("/.singularity.d/libs", "nowhere the loader looks"),  # Apptainer --nv
    ("/usr/lib/aarch64-linux-gnu/nvidia", "nowhere the loader looks"),  # JetPack 6
    ("/usr/lib/aarch64-linux-gnu/tegra", "nowhere the loader looks"),  # older JetPack
    ("/usr/lib/nvidia", "nowhere the loader looks"),
    ("/usr/lib64/nvidia", "nowhere the loader looks"),
)
MODULE_FOLDERS = ("updates", "updates/dkms", "extra", "extra/nvidia", "kernel/drivers/video")
LIBRARY_LIMIT_BYTES = 512 << 20
#: The PID namespace that the kernel starts with has this inode (linux/proc_ns.h): in any other,
#: the host's processes are out of sight.
FIRST_PID_NAMESPACE = "pid:[4026531836]"
#: /proc/PID/comm holds 15 characters of the name.
PERSISTENCED = "nvidia-persistenced"[:15]
FABRIC_MANAGER = "nv-fabricmanager"[:15]
DEFAULT_DEADLINE_SECONDS = 2.0

_RELEASE = re.compile(r"(?<![\d.])\d{3}\.\d{2,3}(?:\.\d{2})?(?![\d.])")
_RELEASE_BYTES = re.compile(rb"(?<![\d.])\d{3}\.\d{2,3}\.\d{2}(?![\d.])")
_LIBRARY_NAME = re.compile(r"\.so\.(?P<version>\d{3,4}\.\d+(?:\.\d+)?)\Z")
_GPU_NODE = re.compile(r"nvidia(?P<minor>\d{1,4})\Z")
_MODULE_NAME = re.compile(r"nvidia(?:-current|-tesla|-legacy)?[\w-]*\.ko(?:\.zst|\.xz|\.gz)?\Z")
_MODULE_LINE = re.compile(
    r"^(?P<path>(?:\S*/)?nvidia(?:-current(?:-open)?|-tesla[\w-]*|-legacy[\w-]*)?"
    r"\.ko(?:\.zst|\.xz|\.gz)?):",
    re.MULTILINE,
)
_BUS_ID = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\Z")


def probe(
    root: Path = Path("/"),
    library_path: str | None = None,
    deadline_seconds: float = DEFAULT_DEADLINE_SECONDS,
) -> Driver:
    """Return all of the driver but what `cuInit` says, for the file tree *root*.

    *library_path* is the user's LD_LIBRARY_PATH. *deadline_seconds* bounds the one program that
    may run: modinfo, for a compressed module that is not loaded.
    """
    version_text = read_text(root / "proc/driver/nvidia/version", 1 << 16)
    module_version = _module_version(root, version_text)
    kind = _module_kind(module_version, version_text)
    release = _kernel_release(root)
    modules = _loaded_modules(root)
    gpus = _proc_gpus(root)
    libraries = _libraries(root, library_path, module_version)
    file = _module_file(root, release)
    needs_file = not isinstance(module_version, str) or _differs(libraries, module_version)
    file_version, is_signed = _examine_module(root, file, needs_file, deadline_seconds)
    dkms_version, dkms_kernels = _dkms(root)
    running = _running_programs(root)
    return Driver(
        module_version=module_version,
        module_kind=kind,
        loaded_modules=modules,
        excluded_gpus=_excluded(root, gpus),
        proc_gpus=gpus if isinstance(gpus, Unknown) else tuple(gpus),
        module_file=file,
        module_file_version=file_version,
        module_is_signed=is_signed,
        dkms_version=dkms_version,
        dkms_kernels=dkms_kernels,
        has_kernel_headers=_has_headers(root, release),
        libraries=libraries,
        device_nodes=_device_nodes(root, gpus, module_version),
        persistenced_running=_persistenced(root, running),
        fabric_manager=_fabric_manager(root, running, module_version),
        peermem=_is_loaded(modules, ("nvidia_peermem", "nv_peer_mem")),
        peer_memory_clients=names_in(root / "sys/kernel/mm/memory_peers"),
        dma_buf=_dma_buf(kind, module_version, release),
    )


# ------------------------------------------------------------------------------- kernel modules


def _module_version(root: Path, version_text: str | Unknown | None) -> str | Unknown | None:
    """Return the loaded module's version, None where nvidia.ko is not loaded."""
    text = read_text(root / "sys/module/nvidia/version", 1 << 12)
    if isinstance(text, str) and (found := _RELEASE.search(text)):
        return found[0]
    if isinstance(version_text, str):
        found = _RELEASE.search(version_text.split("\n", 1)[0])
        return found[0] if found else Unknown("/proc/driver/nvidia/version names no version")
    if version_text is None and text is None:
        return None
    return version_text if isinstance(version_text, Unknown) else text


def _module_kind(
    version: str | Unknown | None, version_text: str | Unknown | None
) -> Literal["open", "closed"] | Unknown | None:
    if version is None:
        return None
    if not isinstance(version_text, str):
        return version_text or Unknown("/proc/driver/nvidia/version is not there")
    return parse_module_kind(version_text)


def parse_module_kind(text: str) -> Literal["open", "closed"] | Unknown:
    """Tell from /proc/driver/nvidia/version which of the two kernel modules is loaded."""
    first = text.split("\n", 1)[0]
    if "Open Kernel Module" in first:
        return "open"
    if "Kernel Module" in first:
        return "closed"
    return Unknown("/proc/driver/nvidia/version does not say which kernel module this is")


def _loaded_modules(root: Path) -> tuple[str, ...] | Unknown:
    text = read_text(root / "proc/modules")
    if not isinstance(text, str):
        return text or Unknown("/proc/modules is not there")
    return parse_modules(text)


def parse_modules(text: str) -> tuple[str, ...]:
    """Return the names in /proc/modules that have to do with NVIDIA GPUs, sorted."""
    names = {line.split(None, 1)[0] for line in text.splitlines() if line.strip()}
    return tuple(sorted(n for n in names if n.startswith(("nvidia", "nouveau", "nv_peer_mem"))))


def _is_loaded(modules: tuple[str, ...] | Unknown, names: Iterable[str]) -> bool | Unknown:
    return modules if isinstance(modules, Unknown) else any(name in modules for name in names)


def _dma_buf(
    kind: str | Unknown | None, version: str | Unknown | None, release: str
) -> bool | Unknown:
    """Tell whether GPU memory can be shared as a dma-buf: Linux 5.12, open module 515 and newer.

    Source: NVIDIA's GPUDirect RDMA documentation.
    """
    if isinstance(kind, Unknown) or isinstance(version, Unknown):
        return Unknown("the kind of the kernel module is not known")
    if kind is None or version is None:
        return False
    return kind == "open" and version_tuple(version) >= (515,) and version_tuple(release) >= (5, 12)


def _kernel_release(root: Path) -> str:
    text = read_text(root / "proc/sys/kernel/osrelease", 1 << 12)
    return text.strip() if isinstance(text, str) and text.strip() else os.uname().release


def _proc_gpus(root: Path) -> dict[str, dict[str, str]] | Unknown:
    """Return what the driver says of each GPU it knows, by bus id."""
    folder = root / "proc/driver/nvidia/gpus"
    names = names_in(folder)
    if isinstance(names, Unknown):
        return names
    gpus: dict[str, dict[str, str]] = {}
    for name in names or ():
        if _BUS_ID.match(name.lower()):
            text = read_text(folder / name / "information", 1 << 16)
            gpus[normal_bus_id(name)] = parse_fields(text) if isinstance(text, str) else {}
    return gpus


def parse_fields(text: str) -> dict[str, str]:
    """Read lines of "Name: value", as in /proc/driver/nvidia/params and gpus/*/information."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip().strip('"'))
    return fields


def _excluded(root: Path, gpus: dict[str, dict[str, str]] | Unknown) -> tuple[str, ...] | Unknown:
    """Return the GPUs that a module parameter tells the driver to leave alone."""
    text = read_text(root / "proc/driver/nvidia/params", 1 << 16)
    if isinstance(text, Unknown):
        return text
    excluded: list[str] = []
    fields = parse_fields(text or "")
    for parameter in ("ExcludedGpus", "GpuBlacklist"):
        for name in fields.get(parameter, "").split(","):
            if name := name.strip().strip('"'):
                excluded.append(
                    normal_bus_id(name) if re.match(r"[0-9a-fA-F]{4,8}:", name) else name
                )
    if not isinstance(gpus, Unknown):
        excluded += [bus for bus, said in gpus.items() if said.get("GPU Excluded") == "Yes"]
    return tuple(dict.fromkeys(excluded))


# ------------------------------------------------------------- module files, DKMS, kernel headers


def _modules_folder(root: Path, release: str) -> Path:
    folder = root / "lib/modules" / release
    return folder if folder.is_dir() else root / "usr/lib/modules" / release


def _module_file(root: Path, release: str) -> str | Unknown | None:
    """Return the nvidia.ko that modprobe would load on the running kernel."""
    folder = _modules_folder(root, release)
    index = read_text(folder / "modules.dep", 16 << 20)
    if isinstance(index, str) and (found := _MODULE_LINE.search(index)):
        path = found["path"]
        file = root / path.lstrip("/") if path.startswith("/") else folder / path
        if file.is_file():  # an index that nobody renewed names files that are gone
            return _seen_from(root, file)
    folders = [folder / name for name in MODULE_FOLDERS]
    below = names_in(folder / "kernel")
    if isinstance(below, tuple):  # Ubuntu's signed modules: kernel/nvidia-580
        folders += [folder / "kernel" / name for name in below if name.startswith("nvidia")]
    for candidate in folders:
        names = names_in(candidate)
        for name in names if isinstance(names, tuple) else ():
            if _MODULE_LINE.match(f"{name}:") and (candidate / name).is_file():
                return _seen_from(root, candidate / name)
    return index if isinstance(index, Unknown) else None


def _examine_module(
    root: Path, file: str | Unknown | None, is_needed: bool, deadline_seconds: float
) -> tuple[str | Unknown | None, bool | Unknown | None]:
    """Return version and "is signed" of a module file.

    A compressed one is left to modinfo, and only where it matters: the module that is loaded says
    its own version, and unpacking a hundred megabytes takes time.
    """
    if not isinstance(file, str):
        return file, file
    path = root / file.lstrip("/")
    if file.endswith(".ko"):
        return _read_module(path)
    if not is_needed:
        unread = Unknown("not read: the loaded module and the libraries agree")
        return unread, unread
    # Debian's users do not have /sbin on their PATH.
    modinfo = next(
        (p for p in ("/sbin/modinfo", "/usr/sbin/modinfo") if Path(p).exists()), "modinfo"
    )
    ended = run([modinfo, str(path)], deadline_seconds=deadline_seconds, limit_bytes=1 << 20)
    if ended.why is not None:
        unread = Unknown(f"modinfo: {ended.why}")
        return unread, unread
    fields = parse_fields(ended.stdout.decode("utf-8", "replace"))
    version = fields.get("version")
    return (
        version if version is not None else Unknown("modinfo names no version"),
        bool(fields.get("signer") or fields.get("sig_id")),
    )


#: what the kernel's sign-file appends (linux/module_signature.h)
_SIGNATURE_END = b"~Module signature appended~\n"


def _read_module(path: Path) -> tuple[str | Unknown | None, bool | Unknown | None]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_SIGNATURE_END)))
            is_signed = file.read() == _SIGNATURE_END
            section = _section(file.fileno(), b".modinfo")
    except (OSError, struct.error, OverflowError) as error:
        unread = Unknown(f"{path.name}: {error}")
        return unread, unread
    return parse_module_information(section), is_signed


def parse_module_information(section: bytes) -> str | Unknown:
    """Find the version in a kernel module's .modinfo section: strings of "name=value"."""
    for part in section.split(b"\0"):
        if part.startswith(b"version="):
            return part[8:].decode("utf-8", "replace")
    return Unknown("the module file names no version")


def _section(handle: int, wanted: bytes, limit: int = 1 << 20) -> bytes:
    """Return a section of a 64-bit little-endian ELF file, b"" where it has none (elf.h)."""
    header = os.pread(handle, 64, 0)
    if header[:6] != b"\x7fELF\x02\x01":
        return b""
    (at,) = struct.unpack_from("<Q", header, 40)
    size, count, names_index = struct.unpack_from("<HHH", header, 58)
    if size != 64 or not count or names_index >= count:
        return b""
    table = os.pread(handle, size * count, at)
    rows = [struct.unpack_from("<IIQQQQ", table, n) for n in range(0, len(table) - 63, 64)]
    if names_index >= len(rows):
        return b""
    names = os.pread(handle, min(rows[names_index][5], limit), rows[names_index][4])
    for name, _, _, _, offset, length in rows:
        if names[name : name + len(wanted) + 1] == wanted + b"\0":
            return os.pread(handle, min(length, limit), offset)
    return b""


def _dkms(root: Path) -> tuple[str | Unknown | None, tuple[str, ...] | Unknown]:
    """Return the newest driver version in the DKMS tree, and the kernels that it is built for."""
    top = root / "var/lib/dkms"
    names = names_in(top)
    if isinstance(names, Unknown):
        return names, names
    found: dict[str, set[str]] = {}
    for name in names or ():
        versions = names_in(top / name) if name.startswith("nvidia") else ()
        for version in versions if isinstance(versions, tuple) else ():
            # nvidia-fs and the like number themselves from 1; the driver stands at hundreds.
            if version_tuple(version) >= (100,):
                kernels = found.setdefault(version, set())
                builds = names_in(top / name / version)
                for kernel in builds if isinstance(builds, tuple) else ():
                    if kernel not in ("source", "build") and _is_built(
                        top / name / version / kernel
                    ):
                        kernels.add(kernel)
    if not found:
        return None, ()
    newest = max(found, key=version_tuple)
    return newest, tuple(sorted(found[newest]))


def _is_built(folder: Path) -> bool:
    """Tell whether VERSION/KERNEL/MACHINE/module holds the driver."""
    machines = names_in(folder)
    for machine in machines if isinstance(machines, tuple) else ():
        modules = names_in(folder / machine / "module")
        if isinstance(modules, tuple) and any(_MODULE_NAME.match(name) for name in modules):
            return True
    return False


def _has_headers(root: Path, release: str) -> bool:
    """Tell whether a module can be built: the build link leads to the kernel's headers."""
    return (_modules_folder(root, release) / "build").is_dir()


# ------------------------------------------------------------------------------------ libraries


def _seen_from(root: Path, path: Path | str) -> str:
    """Return *path* as it is called inside *root*."""
    text, top = str(path), str(root)
    if top != "/" and text.startswith(top):
        text = text[len(top) :]
    return text if text.startswith("/") else f"/{text}"


def _libraries(
    root: Path, library_path: str | None, module_version: str | Unknown | None
) -> tuple[DriverLibrary, ...]:
    """Return the copies of the driver's libraries, each file once, in the loader's order."""
    found: list[DriverLibrary] = []
    for soname in SONAMES:
        seen: set[str] = set()
        has_winner = False
        for path, via in _candidates(root, soname, library_path):
            real = _real_path(root, path)
            if real is None or real in seen:
                continue
            try:
                elf = read_elf(str(root / real.lstrip("/")))
            except (OSError, ElfError, ValueError) as error:
                # The loader stops at a file that it cannot make sense of.
                loadable = not isinstance(error, ElfError) or error.is_fatal
            else:
                wanted = MACHINES.get(os.uname().machine)
                loadable = wanted in (None, elf.machine)
            if not loadable:
                continue  # another machine's copy (32-bit): the loader goes on
            seen.add(real)
            is_searched = via in ("LD_LIBRARY_PATH", "ld.so.cache", "default directory")
            parts = (*path.split("/"), *real.split("/"))
            found.append(
                DriverLibrary(
                    soname=soname,
                    path=path,
                    real_path=real,
                    version=_version_in_name(real),
                    is_stub="stubs" in parts,
                    is_compat=any(p == "compat" or p.startswith("cuda-compat") for p in parts),
                    found_via=via,
                    is_selected=is_searched and not has_winner,
                )
            )
            has_winner |= is_searched
    return _with_versions(root, found, module_version)


def _candidates(root: Path, soname: str, library_path: str | None) -> Iterator[tuple[str, str]]:
    """Yield the paths where *soname* may be, in the order in which the loader would look."""
    for directory in re.split("[:;]", library_path or ""):
        if directory.startswith("/"):  # relative ones are a finding of their own, and no driver's
            yield f"{directory.rstrip('/')}/{soname}", "LD_LIBRARY_PATH"
    machine = os.uname().machine
    data = read_bytes(root / "etc/ld.so.cache", 64 << 20)
    if isinstance(data, bytes):
        try:
            cache = read_cache(data)
        except (CacheError, struct.error):
            pass  # the loader goes on to the default directories, and so do we
        else:
            for path in cache.paths(soname, CACHE_FLAGS.get(MACHINES.get(machine, 0), 1)):
                yield path, "ld.so.cache"
    for directory in DEFAULT_DIRECTORIES:
        yield f"{directory.format(machine=machine)}/{soname}", "default directory"
    for directory, via in OTHER_DIRECTORIES:
        yield f"{directory}/{soname}", via


def _real_path(root: Path, path: str) -> str | None:
    """Follow the links of *path*, which stands inside *root*; None where it leads to no file."""
    inside = root / path.lstrip("/")
    try:
        if not inside.is_file():
            return None
        return _seen_from(root.resolve(), inside.resolve())
    except (OSError, ValueError, RuntimeError):  # a circle of links; a NUL byte in the name
        return None


def _version_in_name(path: str) -> str | Unknown:
    found = _LIBRARY_NAME.search(path)
    return found["version"] if found else Unknown("its file name carries no version")


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
        version = version or _find_version(file, tuple(likely))
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
        note = _section(handle, b".note.gnu.build-id", 256)
        return note or None
    except (OSError, struct.error, OverflowError):
        return None
    finally:
        os.close(handle)


def _find_version(path: Path, versions: tuple[str, ...]) -> str | None:
    """Return the first of *versions* that stands in the bytes of *path*, else None."""
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


def _differs(libraries: Iterable[DriverLibrary], module_version: str) -> bool:
    return any(
        library.is_selected
        and isinstance(library.version, str)
        and version_tuple(library.version) != version_tuple(module_version)
        for library in libraries
    )


# --------------------------------------------------------------------------------- device files


def _device_nodes(
    root: Path, gpus: dict[str, dict[str, str]] | Unknown, module_version: str | Unknown | None
) -> tuple[DeviceNode, ...] | Unknown:
    """Return the device files that the driver needs, there or not, and those that are there."""
    names = names_in(root / "dev")
    if not isinstance(names, tuple):
        return names or Unknown("/dev is not there")
    wanted: list[str] = [name for name in ("dxg", "nvidiactl", "nvidia-uvm") if name in names]
    minors = {int(found["minor"]) for name in names if (found := _GPU_NODE.match(name))}
    if module_version is not None and "dxg" not in names:
        wanted += ["nvidiactl", "nvidia-uvm"]
        for said in () if isinstance(gpus, Unknown) else gpus.values():
            minor = said.get("Device Minor", "")
            if minor.isascii() and minor.isdigit() and len(minor) < 5:
                minors.add(int(minor))
    wanted += [f"nvidia{minor}" for minor in sorted(minors)]
    return tuple(_device_node(root, f"/dev/{name}") for name in dict.fromkeys(wanted))


def _device_node(root: Path, path: str) -> DeviceNode:
    inside = root / path.lstrip("/")
    try:
        status = inside.stat()
    except FileNotFoundError:
        return DeviceNode(path=path)
    except OSError as error:
        unknown = unread("", error)
        return DeviceNode(path=path, exists=True, mode=unknown, group=unknown, can_open=unknown)
    try:
        can_open = os.access(
            inside, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids
        )
    except OSError as error:
        return DeviceNode(path=path, exists=True, can_open=Unknown(str(error)))
    return DeviceNode(
        path=path,
        exists=True,
        mode=stat.filemode(status.st_mode),
        group=_group_name(root, status.st_gid),
        can_open=can_open,
        error=None if can_open else os.strerror(errno.EACCES),
    )


def _group_name(root: Path, number: int) -> str:
    """Return a group's name; its number where the file of groups does not know it."""
    text = read_text(root / "etc/group")
    for line in text.splitlines() if isinstance(text, str) else ():
        fields = line.split(":")
        if len(fields) > 2 and fields[2] == str(number):
            return fields[0]
    return str(number)


# -------------------------------------------------------------------------------------- daemons


def _running_programs(root: Path) -> frozenset[str] | Unknown:
    """Return the short names of the processes that we look for and that run here."""
    names = names_in(root / "proc")
    if not isinstance(names, tuple):
        return names or Unknown("/proc is not there")
    running = set()
    for name in names:
        if name.isascii() and name.isdigit():
            try:
                handle = os.open(root / "proc" / name / "comm", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it ended meanwhile
            try:
                comm = os.read(handle, 64).strip().decode("utf-8", "replace")
            except OSError:
                continue
            finally:
                os.close(handle)
            if comm in (PERSISTENCED, FABRIC_MANAGER):
                running.add(comm)
    if not running:
        try:
            namespace = str((root / "proc/self/ns/pid").readlink())
        except OSError:
            namespace = FIRST_PID_NAMESPACE
        if namespace != FIRST_PID_NAMESPACE:
            return Unknown("the host's processes are not visible from here")
    return frozenset(running)


def _persistenced(root: Path, running: frozenset[str] | Unknown) -> bool | Unknown:
    # A container that was given its GPUs has the host daemon's socket.
    if (root / "run/nvidia-persistenced/socket").exists():
        return True
    return running if isinstance(running, Unknown) else PERSISTENCED in running


def _fabric_manager(
    root: Path, running: frozenset[str] | Unknown, module_version: str | Unknown | None
) -> FabricManager | Unknown | None:
    binary = root / "usr/bin/nv-fabricmanager"
    if not isinstance(running, Unknown) and FABRIC_MANAGER in running:
        return FabricManager(
            is_running=True, version=_fabric_manager_version(root, binary, module_version)
        )
    if binary.is_file():
        return FabricManager(
            is_running=running if isinstance(running, Unknown) else False,
            version=_fabric_manager_version(root, binary, module_version),
        )
    return running if isinstance(running, Unknown) else None


def _fabric_manager_version(
    root: Path, binary: Path, module_version: str | Unknown | None
) -> str | Unknown:
    """Read the version from the program's bytes, else from dpkg's list; it is not run."""
    if isinstance(module_version, str) and _find_version(binary, (module_version,)):
        return module_version
    text = read_text(root / "var/lib/dpkg/status", 64 << 20)
    if isinstance(text, str) and (version := parse_package_version(text)):
        return version
    data = read_bytes(binary, 64 << 20)
    if isinstance(data, bytes) and (found := _RELEASE_BYTES.search(data)):
        return found[0].decode()
    return Unknown("neither the program nor dpkg names its version")


def parse_package_version(text: str) -> str | None:
    """Find the version of an installed nvidia-fabricmanager in dpkg's status file."""
    for name in ("Package: nvidia-fabricmanager\n", "Package: nvidia-fabricmanager-"):
        at = text.find(name)
        while at >= 0:
            entry = text[at : text.find("\n\n", at) if "\n\n" in text[at:] else len(text)]
            fields = parse_fields(entry)
            if fields.get("Status", "").endswith(" installed") and "-dev" not in fields["Package"]:
                found = _RELEASE.search(fields.get("Version", ""))
                return found[0] if found else None
            at = text.find(name, at + 1)
    return None
