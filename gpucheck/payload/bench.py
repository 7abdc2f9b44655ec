"""Measures what GPUs do, order by order: `gpucheck bench` has one such process for each GPU.

An order is a line of JSON on stdin: {"id": 3, "measure": "gemm", …}, the rest being arguments.
No GPU is touched before the first order. The end of stdin is the end.
"""

# ruff: noqa: ANN401 - torch is imported later, and its tensors are Any

from __future__ import annotations

import json
import os
import re
import sys
import time
from typing import Any, Callable

from . import channel
from .cuda_device import bus_id
from .exact_sums import numbers, wrong_sums

DEVICE = "cuda"
BATCH_SECONDS = 0.02  # shorter ones measure the launch
SEED = 20_251

torch: Any = None
_pinned: dict[int, Any] = {}  # pinning takes 0.1 s for 256 MiB: once for each size


def start(device: str) -> bool:
    """Import torch, and say that orders are awaited; False where it cannot be imported."""
    global DEVICE, torch  # noqa: PLW0603
    DEVICE = device
    channel.reserve_stdout()
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - an import of torch may raise anything
        message = f"import torch: {type(error).__name__}: {error}"
        channel.emit("failed", kind="error", gpu=None, message=message)
        return False
    if DEVICE == "cpu":
        torch.set_num_threads(1)  # workers share the CPU
    channel.emit("bench ready", torch=str(torch.__version__), cuda=torch.version.cuda)
    return True


def main(device: str = "cuda") -> None:
    """Import torch, and carry out orders."""
    if not start(device):
        return
    for line in sys.stdin:
        order = json.loads(line)
        number, measure = order.pop("id"), MEASURES[order.pop("measure")]
        began = time.monotonic()
        try:
            facts = measure(**order)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this measure's
            facts = {"error": text_of(error)}
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
        channel.emit("measured", id=number, began=began, **facts)
    os._exit(0)  # CUDA's teardown takes time, and may hang


def text_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


# --------------------------------------------------------------------------------------- timing


def timed(
    work: Callable[[], object], device: Any, *, seconds: float, warm_up: float = 0.0
) -> dict[str, Any]:
    """Do *work* for *seconds*; return the durations of one, in seconds, by batches.

    `burst` is the quickest of the first batches: a cold chip has not met its power limit yet.
    """
    run = _timed_on_gpu if device.type == "cuda" else _timed_on_cpu
    run(work, device, 1, 0.0)  # libraries start in the first
    once = run(work, device, 1, 0.0)[0]
    count = max(1, int(BATCH_SECONDS / max(once, 1e-7)))
    early = run(work, device, count, warm_up)
    durations = sorted(run(work, device, count, seconds))
    return {
        "median": durations[len(durations) // 2],
        "slow": durations[int(0.95 * (len(durations) - 1))],
        "quick": durations[int(0.05 * (len(durations) - 1))],
        "burst": min(early[:3]),
        "samples": len(durations),
    }


def _timed_on_gpu(
    work: Callable[[], object], device: Any, count: int, seconds: float
) -> list[float]:
    stream = torch.cuda.current_stream(device)
    batches: list[tuple[Any, Any]] = []
    until = time.monotonic() + seconds
    while not batches or time.monotonic() < until:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        for _ in range(count):
            work()
        end.record(stream)
        batches.append((start, end))
        if len(batches) > 2:  # two batches ahead keep the GPU busy, and no more wait at the end
            batches[-3][1].synchronize()
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) / 1000 / count for start, end in batches]


def _timed_on_cpu(work: Callable[[], object], _: Any, count: int, seconds: float) -> list[float]:
    durations: list[float] = []
    until = time.monotonic() + seconds
    while not durations or time.monotonic() < until:
        began = time.perf_counter()
        for _repeat in range(count):
            work()
        durations.append((time.perf_counter() - began) / count)
    return durations


def rate(times: dict[str, Any], amount: float) -> dict[str, Any]:
    """Return what is reported of a measure that does *amount* of something each time."""
    return {
        "value": amount / times["median"],
        "low": amount / times["slow"],
        "high": amount / times["quick"],
        "burst": amount / times["burst"],
        "samples": times["samples"],
    }


def place(gpu: int) -> Any:
    """Return torch's device for *gpu*, and make it the current one."""
    if DEVICE == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(gpu)
    return torch.device("cuda", gpu)


# ------------------------------------------------------------------------------------- measures


def describe(gpu: int) -> dict[str, Any]:
    """Say which GPU it is; its CPUs become this process's, before any host memory is pinned."""
    device = place(gpu)
    if DEVICE == "cpu":
        return {"device": {"index": gpu, "name": "CPU"}}
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    bus = bus_id(gpu)
    return {
        "device": {
            "index": gpu,
            "name": properties.name,
            "uuid": f"GPU-{properties.uuid}" if hasattr(properties, "uuid") else None,
            "bus_id": bus,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "free_bytes": free,
            "total_bytes": total,
            "l2_bytes": getattr(properties, "L2_cache_size", 0),
            "cpus": None if bus is None else stay_near(bus),
        }
    }


def stay_near(bus: str) -> str | None:
    """Keep to the CPUs of the GPU's NUMA node; return them as the kernel writes them."""
    try:
        with open(f"/sys/bus/pci/devices/{bus}/local_cpulist", encoding="ascii") as file:
            text = file.read().strip()
        near = set()
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
            near |= set(range(int(first), int(last or first) + 1))
        allowed = near & os.sched_getaffinity(0)
        if not allowed:
            return None
        os.sched_setaffinity(0, allowed)
    except (OSError, ValueError):
        return None
    return text


def gemm(gpu: int, dtype: str, size: int, seconds: float, warm_up: float) -> dict[str, Any]:
    """Multiply square matrices of random normal numbers (int8: whole ones up to 120)."""
    device = place(gpu)
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    generator = torch.Generator(device=device).manual_seed(SEED)

    def matrix() -> Any:
        return torch.randn(size, size, device=device, generator=generator)

    if dtype == "int8":
        whole = [
            torch.randint(-120, 121, (size, size), device=device, generator=generator).to(
                torch.int8
            )
            for _ in range(2)
        ]
        left, right = whole[0], whole[1].t()  # the layout that the tensor cores read
        work = lambda: torch._int_mm(left, right)  # noqa: E731
    elif dtype == "fp8":
        left, right = (matrix().to(torch.float8_e4m3fn) for _ in range(2))
        right, one = right.t(), torch.ones((), device=device)
        work = lambda: torch._scaled_mm(  # noqa: E731
            left, right, scale_a=one, scale_b=one, out_dtype=torch.bfloat16
        )
    else:
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(dtype, torch.float32)
        left, right = (matrix().to(kind) for _ in range(2))
        out = torch.empty_like(left)
        work = lambda: torch.mm(left, right, out=out)  # noqa: E731
    return rate(timed(work, device, seconds=seconds, warm_up=warm_up), 2e-12 * size**3)


def memory(gpu: int, size: int, seconds: float) -> dict[str, Any]:
    """Copy device memory to device memory; read and written bytes count both."""
    device = place(gpu)
    source = torch.ones(size // 8, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    times = timed(lambda: target.copy_(source), device, seconds=seconds, warm_up=seconds / 3)
    return rate(times, 2e-9 * size)


def host_copy(gpu: int, direction: str, size: int, seconds: float) -> dict[str, Any]:
    """Copy between page-locked host memory and the GPU."""
    device = place(gpu)
    if size not in _pinned:
        _pinned[size] = torch.ones(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    host, there = _pinned[size], torch.ones(size, dtype=torch.uint8, device=device)
    source, target = (host, there) if direction == "h2d" else (there, host)
    times = timed(lambda: target.copy_(source, non_blocking=True), device, seconds=seconds)
    return rate(times, 1e-9 * size)


def pattern(count: int, start: int, device: Any) -> Any:
    """Return whole numbers that say where they are, and from whom they come."""
    return torch.arange(count, device=device).mul_(2_654_435_761).add_(start)


def peer_copy(source: int, target: int, size: int, seconds: float) -> dict[str, Any]:
    """Copy from one GPU to another, and compare what arrived."""
    here, there = place(target), place(source)
    count, start = size // 8, (source << 40) + (target << 32)
    sent, arrived = pattern(count, start, there), torch.zeros(count, dtype=torch.int64, device=here)
    times = timed(lambda: arrived.copy_(sent, non_blocking=True), there, seconds=seconds)
    differ = arrived != pattern(count, start, here)
    wrong = int(differ.sum())
    facts = rate(times, 1e-9 * size)
    if wrong:
        first = int(differ.nonzero()[0])
        facts["wrong"] = f"{wrong:,} of {count:,} words differ, first at {first:,}"
    return facts


def all_reduce(gpus: list[int], size: int, rounds: int) -> dict[str, Any]:
    """Add up whole numbers over all GPUs, exact in fp32; the rate is NCCL's bus bandwidth."""
    count = size // 4
    devices = [place(gpu) for gpu in gpus]

    if DEVICE == "cuda":
        from torch.cuda import nccl
    given = [numbers(torch, rank, count, device) for rank, device in enumerate(devices)]
    sums = [torch.empty_like(each) for each in given]

    def once() -> None:
        if DEVICE == "cuda":
            nccl.all_reduce(given, sums)
        else:
            for each in sums:
                torch.sum(torch.stack(given), 0, out=each)

    def synchronize() -> None:
        for device in devices if DEVICE == "cuda" else ():
            torch.cuda.synchronize(device)

    for _ in range(5):
        once()
    durations = []
    for _ in range(4):
        synchronize()
        began = time.perf_counter()
        for _repeat in range(max(1, rounds // 4)):
            once()
        synchronize()
        durations.append((time.perf_counter() - began) / max(1, rounds // 4))
    errors = []
    for gpu, found in zip(gpus, sums):
        wrong = wrong_sums(torch, found, len(gpus))
        if wrong:
            errors.append(f"{wrong:,} of {count:,} sums on GPU {gpu} are wrong")
    durations.sort()
    times = {
        "median": durations[len(durations) // 2],
        "slow": durations[-1],
        "quick": durations[0],
        "burst": durations[0],
        "samples": len(durations),
    }
    moved = 1e-9 * size * 2 * (len(gpus) - 1) / len(gpus)
    return {**rate(times, moved), "wrong": "; ".join(errors) or None}


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "describe": describe,
    "gemm": gemm,
    "memory": memory,
    "host": host_copy,
    "peer": peer_copy,
    "all-reduce": all_reduce,
}
