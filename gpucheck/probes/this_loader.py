"""Describes this machine's dynamic loader as it is built and as variables steer it."""

import os
from collections.abc import Mapping
from pathlib import Path

from gpucheck.probes.files import read_bytes
from gpucheck.probes.ld_so import Loader
from gpucheck.probes.ld_so_cache import Cache, CacheError, read_cache
from gpucheck.probes.ld_so_interpreter import hwcaps_of, legacy_subfolders_of, read_interpreter

_MACHINES = {62: "x86_64", 183: "aarch64", 3: "i686"}


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
