"""Finds the driver's kernel module: loaded or not, its file, and what was built.

Only files are read, and modinfo is run for a compressed module file where it matters.
"""

import mmap
import os
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpucheck.probes.child import run
from gpucheck.probes.files import names_in, read_text
from gpucheck.snapshot import Unknown
from gpucheck.versions import version_tuple

MODULE_FOLDERS = (
    *("updates", "updates/dkms", "extra", "extra/nvidia", "kernel/drivers/video"),
    # Enterprise Linux links modules of other kernels here, which it takes for compatible.
    *("weak-updates", "weak-updates/nvidia", "weak-updates/extra", "weak-updates/extra/nvidia"),
    *("weak-updates/updates", "weak-updates/updates/dkms"),
)
#: besides NVIDIA's own and nouveau: what NVLink 5 boards and laptops' switches need
OTHER_MODULES = ("nouveau", "nv_peer_mem", "mlx5_ib", "ib_umad", "bbswitch")
MODULE_LIMIT_BYTES = 256 << 20

RELEASE = re.compile(r"(?<![\d.])\d{3}\.\d{2,3}(?:\.\d{2})?(?![\d.])")
_MODULE_NAME = re.compile(r"nvidia(?:-current|-tesla|-legacy)?[\w-]*\.ko(?:\.zst|\.xz|\.gz)?\Z")
_MODULE_LINE = re.compile(
    r"^(?P<path>(?:\S*/)?nvidia(?:-current(?:-open)?|-tesla[\w-]*|-legacy[\w-]*)?"
    r"\.ko(?:\.zst|\.xz|\.gz)?):",
    re.MULTILINE,
)


def module_version(root: Path, version_text: str | Unknown | None) -> str | Unknown | None:
    """Return the loaded module's version, None where nvidia.ko is not loaded."""
    text = read_text(root / "sys/module/nvidia/version", 1 << 12)
    if isinstance(text, str) and (found := RELEASE.search(text)):
        return found[0]
    if isinstance(version_text, str):
        found = RELEASE.search(version_text.split("\n", 1)[0])
        return found[0] if found else Unknown("/proc/driver/nvidia/version names no version")
    if version_text is None and text is None:
        return None
    return version_text if isinstance(version_text, Unknown) else text


def module_kind(
    version: str | Unknown | None, version_text: str | Unknown | None
) -> Literal["open", "closed"] | Unknown | None:
    """Return which of the two kernel modules is loaded; None: none is."""
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


def loaded_modules(root: Path) -> tuple[str, ...] | Unknown:
    """Return the loaded modules that GPUs and their links need."""
    text = read_text(root / "proc/modules")
    # What is built into the kernel has a folder in sysfs, and no line there.
    folders = names_in(root / "sys/module")
    if not isinstance(text, str) and not isinstance(folders, tuple):
        return text or Unknown("/proc/modules is not there")
    lines = text if isinstance(text, str) else ""
    names = folders if isinstance(folders, tuple) else ()
    return parse_modules("\n".join((lines, *names)))


def parse_modules(text: str) -> tuple[str, ...]:
    """Return the names in /proc/modules that have to do with NVIDIA GPUs, sorted."""
    names = {line.split(None, 1)[0] for line in text.splitlines() if line.strip()}
    return tuple(sorted(n for n in names if n.startswith("nvidia") or n in OTHER_MODULES))


def is_loaded(modules: tuple[str, ...] | Unknown, names: Iterable[str]) -> bool | Unknown:
    """Whether one of the modules called *names* is loaded."""
    return modules if isinstance(modules, Unknown) else any(name in modules for name in names)


def dma_buf(
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


def kernel_release(root: Path) -> str:
    """Return the running kernel's release."""
    text = read_text(root / "proc/sys/kernel/osrelease", 1 << 12)
    return text.strip() if isinstance(text, str) and text.strip() else os.uname().release


def parse_fields(text: str) -> dict[str, str]:
    """Read lines of "Name: value", as in /proc/driver/nvidia/params and gpus/*/information."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), value.strip().strip('"'))
    return fields


# ------------------------------------------------------------- module files, DKMS, kernel headers


def _modules_folder(root: Path, release: str) -> Path:
    folder = root / "lib/modules" / release
    return folder if folder.is_dir() else root / "usr/lib/modules" / release


def module_file(root: Path, release: str) -> str | Unknown | None:
    """Return the nvidia.ko that modprobe would load on the running kernel."""
    folder = _modules_folder(root, release)
    index = read_text(folder / "modules.dep", 16 << 20)
    if isinstance(index, str) and (found := _MODULE_LINE.search(index)):
        path = found["path"]
        file = root / path.lstrip("/") if path.startswith("/") else folder / path
        if file.is_file():  # an index that nobody renewed names files that are gone
            return seen_from(root, file)
    folders = [folder / name for name in MODULE_FOLDERS]
    below = names_in(folder / "kernel")
    if isinstance(below, tuple):  # Ubuntu's signed modules: kernel/nvidia-580
        folders += [folder / "kernel" / name for name in below if name.startswith("nvidia")]
    for candidate in folders:
        names = names_in(candidate)
        for name in names if isinstance(names, tuple) else ():
            if _MODULE_LINE.match(f"{name}:") and (candidate / name).is_file():
                return seen_from(root, candidate / name)
    return index if isinstance(index, Unknown) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFile:
    """What a module's file says of itself."""

    version: str | Unknown | None = None
    is_signed: bool | Unknown | None = None
    kind: Literal["open", "closed"] | Unknown | None = None
    kernel: str | Unknown | None = None  # that it was built for


def _unread(why: str) -> ModuleFile:
    unknown = Unknown(why)
    return ModuleFile(version=unknown, is_signed=unknown, kind=unknown, kernel=unknown)


def examine_file(
    root: Path, file: str | Unknown | None, is_needed: bool, deadline_seconds: float
) -> ModuleFile:
    """Return what a module file says of itself.

    A compressed one is left to modinfo, and only where it matters: the module that is loaded says
    its own version, and unpacking a hundred megabytes takes time.
    """
    if file is None:
        return ModuleFile()
    if isinstance(file, Unknown):
        return _unread(file.why)
    path = root / file.lstrip("/")
    if file.endswith(".ko"):
        return _read_module(path)
    if not is_needed:
        return _unread("not read: the loaded module and the libraries agree")
    # Debian's users do not have /sbin on their PATH.
    modinfo = next(
        (p for p in ("/sbin/modinfo", "/usr/sbin/modinfo") if Path(p).exists()), "modinfo"
    )
    ended = run([modinfo, str(path)], deadline_seconds=deadline_seconds, limit_bytes=1 << 20)
    if ended.why is not None:
        return _unread(f"modinfo: {ended.why}")
    fields = parse_fields(ended.stdout.decode("utf-8", "replace"))
    return _said(fields, is_signed=bool(fields.get("signer") or fields.get("sig_id")))


def _said(fields: dict[str, str], *, is_signed: bool) -> ModuleFile:
    words = fields.get("vermagic", "").split()
    return ModuleFile(
        version=fields.get("version", Unknown("the module file names no version")),
        is_signed=is_signed,
        kind=parse_license(fields.get("license", "")),
        kernel=words[0] if words else Unknown("the module file names no kernel"),
    )


def parse_license(text: str) -> Literal["open", "closed"] | Unknown:
    """Tell the open module from the closed one by its license (kernel-open/nvidia/nv.c)."""
    if "GPL" in text or "MIT" in text:
        return "open"
    return "closed" if text == "NVIDIA" else Unknown("the module file names no license of NVIDIA's")


#: what the kernel's sign-file appends (linux/module_signature.h)
_SIGNATURE_END = b"~Module signature appended~\n"


def _read_module(path: Path) -> ModuleFile:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_SIGNATURE_END)))
            is_signed = file.read() == _SIGNATURE_END
            information = section(file.fileno(), b".modinfo") or _loose_information(file.fileno())
    except (OSError, ValueError, struct.error, OverflowError) as error:
        return _unread(f"{path.name}: {error}")
    return _said(parse_module_information(information), is_signed=is_signed)


def _loose_information(handle: int) -> bytes:
    """Find the strings of .modinfo in a file whose table of sections does not show them."""
    if not 0 < os.fstat(handle).st_size <= MODULE_LIMIT_BYTES:
        return b""
    found = []
    with mmap.mmap(handle, 0, access=mmap.ACCESS_READ) as data:
        for name in (b"version=", b"license=", b"vermagic="):
            at = data.find(name)
            while at > 0 and data[at - 1 : at] not in (b"\0", b"\n"):
                at = data.find(name, at + 1)
            if at >= 0:
                found.append(re.split(b"[\0\n]", data[at : at + 256], maxsplit=1)[0])
    return b"\0".join(found)


def parse_module_information(section: bytes) -> dict[str, str]:
    """Read a kernel module's .modinfo section: strings of "name=value"."""
    fields: dict[str, str] = {}
    for part in section.split(b"\0"):
        name, is_set, value = part.decode("utf-8", "replace").partition("=")
        if is_set:
            fields.setdefault(name, value)
    return fields


def section(handle: int, wanted: bytes, limit: int = 1 << 20) -> bytes:
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


def dkms(root: Path) -> tuple[str | Unknown | None, tuple[str, ...] | Unknown]:
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


def has_headers(root: Path, release: str) -> bool:
    """Tell whether a module can be built: the build link leads to the kernel's headers."""
    return (_modules_folder(root, release) / "build").is_dir()


def seen_from(root: Path, path: Path | str) -> str:
    """Return *path* as it is called inside *root*."""
    text, top = str(path), str(root)
    if top != "/" and text.startswith(top):
        text = text[len(top) :]
    return text if text.startswith("/") else f"/{text}"
