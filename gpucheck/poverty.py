"""Says what gpucheck itself lacks: what fails for want of it says nothing about the machine."""

import os

#: The driver opens some files for each GPU, and every child takes three for its streams.
FEW_FILES = 64
FEW_PROCESSES = 64  # processes and threads of the user, all that run already among them
LITTLE_MEMORY_BYTES = 1 << 30  # of address space
_PHRASE = "gpucheck may "
#: How the C library and Python say it, where it was met first (errno(3): EMFILE, ENFILE, ENOMEM,
#: EAGAIN of fork; threading and MemoryError).
_SIGNS = (
    *("Too many open files", "Cannot allocate memory", "Resource temporarily unavailable"),
    *("MemoryError", "can't start new thread", _PHRASE),
)


def lack() -> str:
    """Return which limit of this process is too low for what it starts; "" where none is."""
    import resource

    def is_below(limit: int, least: int) -> bool:
        return limit != resource.RLIM_INFINITY and limit < least

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if is_below(files, FEW_FILES):
        return f"{_PHRASE}open only {files} files (ulimit -n)"
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    if is_below(memory, LITTLE_MEMORY_BYTES):
        return f"{_PHRASE}use only {memory >> 20} MiB of memory (ulimit -v)"
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() != 0 and is_below(processes, FEW_PROCESSES):
        return f"{_PHRASE}start only {processes} processes (ulimit -u)"
    return ""


def is_own(why: str) -> bool:
    """Whether *why* says that gpucheck lacked something, rather than the machine."""
    return any(sign in why for sign in _SIGNS)
