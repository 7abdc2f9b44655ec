"""Puts one GPU under load, phase by phase, and checks all it computes: `gpucheck burn` has several.

An order is a line of JSON on stdin: {"id": 3, "work": "products", …}, the rest being arguments.
What was done and found is reported about once a second. The end of stdin is the end.
"""

# ruff: noqa: ANN401 - torch is imported later, and its tensors are Any

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Iterator

from . import bench
from .channel import emit

_refused: set[tuple[str, str]] = set()  # kinds of products that failed once
_held: dict[str, Any] = {}  # this process's GPU, most of its memory, and the references


def main(device: str = "cuda") -> None:
    """Import torch, and carry out orders."""
    if not bench.start(device):
        return
    for line in sys.stdin:
        order = json.loads(line)
        number, work = order.pop("id"), order.pop("work")
        try:
            facts = _carry_out(number, work, order)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this order's
            facts = {"error": bench.text_of(error)}
        if bench.DEVICE == "cuda":
            bench.torch.cuda.empty_cache()  # another process needs memory in the next phase
        emit("burned", id=number, is_finished=True, **facts)
    os._exit(0)  # CUDA's teardown takes time, and may hang


def _carry_out(number: int, work: str, order: dict[str, Any]) -> dict[str, Any]:
    """Do what was ordered; return what is left to report at its end."""
    if work in PREPARATIONS:
        return PREPARATIONS[work](**order)
    from .burn_report import Report

    report = Report(order.pop("phase"))
    for _ in PHASES[work](report, **order):
        emit("burned", id=number, is_finished=False, **report.take())
    return report.take()


# --------------------------------------------------------------------------------- preparation


def prepare(gpu: int, share: float, most: int | None = None) -> dict[str, Any]:
    """Say which GPU it is, and take *share* of its free memory (at most *most* bytes)."""
    from .burn_products import Arena

    device = bench.place(gpu)
    facts = bench.describe(gpu)
    free = facts["device"].get("free_bytes") or most or 0
    wanted = min(int(free * share), most or free) // 4096 * 512
    _held["arena"] = Arena(_memory(wanted, device))
    _held["device"], _held["gpu"] = device, gpu
    return {**facts, "arena_bytes": 8 * _held["arena"].memory.numel(), "free_bytes": free}


def _memory(count: int, device: Any) -> Any:
    """Return *count* words of a GPU's memory; less where they do not come in one piece."""
    while True:
        try:
            return bench.torch.zeros(count, dtype=bench.torch.int64, device=device)
        except bench.torch.cuda.OutOfMemoryError:
            if count < 1 << 24:
                raise
            count = count * 15 // 16


def reference(shapes: dict[str, list[int]], folder: str) -> dict[str, Any]:
    """Compute the reference of each shape on the CPU, prove it, and keep it in *folder*."""
    from . import exact

    if bench.DEVICE == "cuda":  # the others wait for it
        bench.torch.set_num_threads(len(os.sched_getaffinity(0)))
    for name, numbers in shapes.items():
        exact.prove(exact.Shape(*numbers), os.path.join(folder, f"{name}.reference"))
    return {}


# -------------------------------------------------------------------------------------- phases


def _products(
    report: Any,
    seconds: float,
    kinds: list[list[str]],
    turn: int,
    shapes: dict[str, list[int]],
    folder: str,
    rest: float = 0.0,
    meanwhile: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Compute products of *kinds*, pairs of a data type and a shape, one kind after the other."""
    from . import burn_products, exact

    burn_products.set_precision()
    possible = [(kind, name) for kind, name in kinds if (kind, name) not in _refused]
    if bench.DEVICE == "cuda" and not burn_products.has_wide_output():
        possible = [one for one in possible if one[0] != "fp16"]  # whose sums do not fit into it
    if not possible:
        raise RuntimeError("no product can be computed")
    for kind, name in possible:
        shape = exact.Shape(*shapes[name])
        if name not in _held:
            _held[name] = exact.read(shape, os.path.join(folder, f"{name}.reference"))
        arena, device = _held["arena"], _held["device"]
        try:
            product = burn_products.Product(kind, shape, arena, _held[name], device)
            yield from burn_products.burn(
                product,
                seconds / len(possible),
                report,
                number=turn,
                meanwhile=meanwhile,
                rest=rest,
            )
        except Exception as error:  # this torch may lack one of them
            text = bench.text_of(error)
            if "CUDA error" in text:  # nothing works in this process from now on
                raise
            _refused.add((kind, name))
            report.leave_out(f"{kind}: {text}")
            yield


def _memory_patterns(report: Any, seconds: float, turn: int) -> Iterator[None]:
    from .burn_memory import burn_memory

    yield from burn_memory(_held["arena"], _held["device"], seconds, report, turn)


def _host_copies(
    report: Any, seconds: float, size: int, turn: int, **products: Any
) -> Iterator[None]:
    """Copy both ways between host and GPU while the GPU computes."""
    from .burn_memory import HostCopies

    copies = HostCopies(size, _held["device"], report)
    yield from _products(report, seconds, turn=turn, meanwhile=copies.step, **products)
    copies.alarm(turn)
    yield


def _peers(report: Any, seconds: float, gpus: list[int], size: int, turn: int) -> Iterator[None]:
    from .burn_memory import burn_peers

    devices = [bench.place(gpu) for gpu in gpus]
    yield from burn_peers(gpus, devices, size, seconds, report, turn)


def _all_reduce(
    report: Any, seconds: float, gpus: list[int], sizes: list[int], turn: int
) -> Iterator[None]:
    from .burn_memory import burn_all_reduce

    devices = [bench.place(gpu) for gpu in gpus]
    yield from burn_all_reduce(gpus, devices, sizes, seconds, report, turn)


PREPARATIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "prepare": prepare,
    "reference": reference,
}
PHASES: dict[str, Callable[..., Iterator[None]]] = {
    "products": _products,
    "memory": _memory_patterns,
    "copy": _host_copies,
    "peer": _peers,
    "all-reduce": _all_reduce,
}
