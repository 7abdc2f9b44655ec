"""Finds the NVIDIA driver: its kernel modules, its libraries and its device files.

Only files are read. What the driver answers is asked of NVML and `cuInit`, each in a child of its
own.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from gpucheck.probes import (
    daemons,
    device_nodes,
    driver_libraries,
    kernel_module,
    module_obstacles,
)
from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.kernel_log import normal_bus_id
from gpucheck.probes.kernel_module import parse_fields
from gpucheck.snapshot import Driver, DriverLibrary, Unknown
from gpucheck.versions import version_tuple

DEFAULT_DEADLINE_SECONDS = 2.0

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
    module_version = kernel_module.module_version(root, version_text)
    kind = kernel_module.module_kind(module_version, version_text)
    release = kernel_module.kernel_release(root)
    modules = kernel_module.loaded_modules(root)
    gpus = _proc_gpus(root)
    libraries = driver_libraries.probe(root, library_path, module_version)
    file = kernel_module.module_file(root, release)
    needs_file = not isinstance(module_version, str) or _differs(libraries, module_version)
    said = kernel_module.examine_file(root, file, needs_file, deadline_seconds)
    dkms_version, dkms_kernels = kernel_module.dkms(root)
    running = daemons.running_programs(root)
    return Driver(
        module_version=module_version,
        module_kind=kind,
        loaded_modules=modules,
        excluded_gpus=_excluded(root, gpus),
        proc_gpus=gpus if isinstance(gpus, Unknown) else tuple(gpus),
        module_file=file,
        module_file_version=said.version,
        module_is_signed=said.is_signed,
        module_file_kind=said.kind,
        module_file_kernel=said.kernel,
        module_blocks=module_obstacles.blocks(root),
        prime_profile=module_obstacles.prime_profile(root),
        passthrough_option=module_obstacles.passthrough_option(root),
        firmware_versions=module_obstacles.firmware_versions(root),
        uvm_disables_hmm=module_obstacles.uvm_disables_hmm(root),
        dkms_version=dkms_version,
        dkms_kernels=dkms_kernels,
        dkms_failure=module_obstacles.dkms_failure(root, release, dkms_kernels),
        has_kernel_headers=kernel_module.has_headers(root, release),
        libraries=libraries,
        device_nodes=device_nodes.probe(root, gpus, module_version),
        persistenced_running=daemons.persistenced(root, running),
        mps_is_running=daemons.mps(running),
        fabric_manager=daemons.fabric_manager(root, running, module_version),
        has_nvlsm=daemons.has_subnet_manager(root),
        peermem=kernel_module.is_loaded(modules, ("nvidia_peermem", "nv_peer_mem")),
        peer_memory_clients=names_in(root / "sys/kernel/mm/memory_peers"),
        dma_buf=kernel_module.dma_buf(kind, module_version, release),
    )


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


def _differs(libraries: Iterable[DriverLibrary], module_version: str) -> bool:
    return any(
        library.is_selected
        and isinstance(library.version, str)
        and version_tuple(library.version) != version_tuple(module_version)
        for library in libraries
    )
