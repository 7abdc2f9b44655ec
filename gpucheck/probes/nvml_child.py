"""Starts the child that asks NVML; what it takes to talk to it is imported while it works."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from gpucheck.probes.child import Child, payload_command

if TYPE_CHECKING:
    from gpucheck.scope import Scope

#: nvmlGpuP2PCapsIndex_t
P2P_READ, P2P_WRITE, P2P_NVLINK = 0, 1, 2


def start(scope: "Scope") -> Child:
    """Start the child that asks all GPUs side by side what *scope* wants to know."""
    watch = scope.deep or scope.watch_seconds > 0
    return Child(
        nvml_command(
            capabilities=capabilities(quick=scope.quick),
            deep=scope.deep,
            watch=watch,
            parallel=True,
            sample=not watch and not scope.quick,
        ),
        deadline_seconds=scope.seconds,
    )


def capabilities(*, quick: bool) -> tuple[int, ...]:
    """Return what is asked of each pair of GPUs; *quick* leaves out whether they use NVLink."""
    return (P2P_READ, P2P_WRITE) if quick else (P2P_READ, P2P_WRITE, P2P_NVLINK)


def nvml_command(
    *,
    capabilities: Iterable[int],
    deep: bool = False,
    watch: bool = False,
    later: bool = False,
    parallel: bool = False,
    sample: bool = False,
    only: Sequence[int] | None = None,
    also: Iterable[int] = (),
) -> list[str]:
    """Return what starts a child; `payload/nvml.py` says what each word means to it."""
    flags = {"deep": deep, "watch": watch, "later": later, "parallel": parallel, "sample": sample}
    words = [name for name, is_on in flags.items() if is_on]
    if only is not None:
        words.append(f"only={_listed(only)}")
        if not later:
            words.append(f"also={_listed(also)}")
    words.append(f"capabilities={_listed(capabilities)}")
    return payload_command(sys.executable, "nvml", *words, isolated=True, pynvml=True)


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))
