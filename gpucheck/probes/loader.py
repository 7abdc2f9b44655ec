"""Resolves which shared libraries `import torch` would map, and where each one comes from."""

from collections.abc import Mapping
from pathlib import Path

from gpucheck.probes.ld_so import (
    Cache,
    CacheError,
    Loader,
    hwcaps_of,
    legacy_subfolders_of,
    read_cache,
    read_interpreter,
)

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i686"}


def this_loader(
    variables: Mapping[str, str],
    interpreter: str,
    *,
    root: Path = Path("/"),
    machine: int = 62,
    working_directory: str = "/",
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
    if str(root) != "/":
        directories = tuple(f"{root}{directory}" for directory in directories)
    try:
        cache: Cache | None = read_cache(_bytes(root / "etc/ld.so.cache", 64 << 20))
    except CacheError:
        cache = None
    return Loader(
        cache=cache,
        system_directories=directories,
        lib=_lib(directories),
        platform=platform,
        hwcaps=hwcaps_of(flags) if name == "x86_64" and (version or (2, 33)) >= (2, 33) else (),
        legacy_subfolders=folders,
        library_path=variables.get("LD_LIBRARY_PATH", ""),
        preload=variables.get("LD_PRELOAD", ""),
        working_directory=working_directory,
    )


def _lib(directories: tuple[str, ...]) -> str:
    """Return what $LIB stands for: the first default directory, without its slash."""
    return directories[0].lstrip("/").removeprefix("usr/")


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except OSError:
        return b""


def _processor(root: Path) -> tuple[str, tuple[str, ...]]:
    """Return the vendor and the flags of the first processor in /proc/cpuinfo."""
    vendor, flags = "", ()
    try:
        # One read only: the kernel makes this text up, processor by processor, as it is read.
        with (root / "proc/cpuinfo").open("rb", buffering=0) as file:
            text = file.read(8192).decode("ascii", "replace")
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
