"""Tells which processes hold memory of a GPU, by NVML's lists and by /proc."""

import os
from pathlib import Path
from typing import Literal

from gpucheck.probes.nvml_readings import Answers, integer
from gpucheck.snapshot import NOT_SUPPORTED, GpuProcess, Maybe, NotSupported, Reading, Unknown


def gpu_processes(answers: Answers, root: Path) -> Reading[tuple[GpuProcess, ...]]:
    """Put the three lists of processes together; one that computes and draws computes."""
    found: dict[int, GpuProcess] = {}
    compute = answers.get("compute", _process_sizes)
    if isinstance(compute, Unknown | NotSupported):
        return compute
    kinds: tuple[Literal["compute", "mps", "graphics"], ...] = ("compute", "mps", "graphics")
    for kind in kinds:
        listed = answers.get(kind, _process_sizes)
        for process, used_bytes in () if isinstance(listed, Unknown | NotSupported) else listed:
            if process in found:
                continue
            name, is_zombie = process_name(process, root)
            found[process] = GpuProcess(
                pid=process,
                name=name,
                used_bytes=NOT_SUPPORTED if used_bytes is None else used_bytes,
                kind=kind,
                is_zombie=is_zombie,
            )
    return tuple(found[process] for process in sorted(found))


def _process_sizes(value: list[list[int | None]]) -> list[tuple[int, int | None]]:
    return [
        (integer(process), None if used_bytes is None else integer(used_bytes))
        for process, used_bytes in value
    ]


def process_name(process: int, root: Path = Path("/")) -> tuple[Maybe[str], bool]:
    """Return the name of a process and whether it is a zombie; None: there is none here."""
    try:
        stat = (root / "proc" / str(process) / "stat").read_text("utf-8", "replace")
    except OSError:
        return _unseen(process) if root == Path("/") else None, False
    # "4242 (python3) Z 1 …": the name may hold blanks and brackets of its own
    name, _, rest = stat.partition("(")[2].rpartition(")")
    return name or None, rest.split()[:1] == ["Z"]


def _unseen(process: int) -> Unknown | None:
    """Tell a process that /proc does not show to this user (mounted with hidepid) from none."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return Unknown(f"process {process} is hidden from this user", "no permission")
    except (OSError, OverflowError):
        pass
    return None
