"""Tells GPU memory that nobody owns from memory that somebody may hold, in one look at a GPU."""

from gpucheck.snapshot import Gpu, GpuProcess, Memory, NotSupported, Unknown, value
from gpucheck.wording import listed

HELD_MEMORY_BYTES = 64 << 20
#: A console, a login screen or a compositor without a process of its own stays under this.
DISPLAY_BYTES = 1 << 30
#: Two looks at a process that ends must not be one: a zombie is collected within a second.
SECOND_LOOK_SECONDS = 1.0
NOBODY = "by no living process"
#: how the names of virtual GPUs end: memory in GB, and the kind of license
_VIRTUAL = tuple(f"{digit}{kind}" for digit in "0123456789" for kind in "QCBA")


def held_by(memory: Memory, processes: tuple[GpuProcess, ...]) -> str | None:
    """Say who uses memory that nobody owns; None where its owners live, or it is too little."""
    zombies = [process for process in processes if process.is_zombie]
    if zombies:
        names = [f"{value(each.name) or '?'} ({each.pid})" for each in zombies]
        return f"by a zombie: {listed(names)}"
    if memory.used_bytes <= HELD_MEMORY_BYTES:
        return None
    return NOBODY if all(process.name is None for process in processes) else None


def other_holder(gpu: Gpu, memory: Memory) -> str | None:
    """Say who but a process may hold memory of this GPU; None where nobody may."""
    if isinstance(memory.reserved_bytes, Unknown | NotSupported):
        return "this driver counts its own share as used"
    if gpu.mig_is_on is True:
        return "MIG is on"
    if isinstance(gpu.numa_node, int):
        return "the kernel uses this GPU's memory as its own (a NUMA node)"
    if gpu.virtualization == "vgpu" or _is_virtual(gpu):
        return "a virtual GPU holds memory for its host"
    if gpu.display_active is True and memory.used_bytes < DISPLAY_BYTES:
        return "it drives a display, which holds memory too"
    return None


def _is_virtual(gpu: Gpu) -> bool:
    """Tell a vGPU by its name: "NVIDIA A40-48Q", "GRID T4-16Q", "NVIDIA A100-4-20C"."""
    name = value(gpu.name) or ""
    return name.startswith("GRID ") or ("-" in name and name.endswith(_VIRTUAL))


def wants_second_look(gpu: Gpu) -> bool:
    """Whether a first look at *gpu* found memory that nobody owns."""
    memory, processes = value(gpu.memory), value(gpu.processes)
    if gpu.state != "ok" or memory is None or processes is None:
        return False
    by_whom = held_by(memory, processes)
    return by_whom is not None and (by_whom != NOBODY or other_holder(gpu, memory) is None)
