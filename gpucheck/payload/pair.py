"""Adds up whole numbers over the GPUs of two nodes: one process for each GPU, on both of them.

NCCL on GPUs, gloo on the CPU. The first node's first process keeps the store in which the others
meet; each node's first process says there how many GPUs it brings.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any

from . import channel
from .exact_sums import numbers, wrong_sums

WARM_UP = 5
SAMPLES = 5

torch: Any = None


def main(order: str) -> None:
    """Meet the other node as *order*, a JSON object, says."""
    global torch  # noqa: PLW0603
    channel.reserve_stdout()
    step = "torch"
    try:
        import torch

        channel.emit("pair step", step="meet")
        step = "meet"
        facts = json.loads(order)
        rank, world = join(facts)
        channel.emit("pair step", step="add")
        step = "add"
        found = add_up(facts, rank, world)
        channel.emit("pair met", rank=rank, world=world, **found)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this meeting's
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        text = f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
        channel.emit("pair failed", step=step, error=text)
    os._exit(0)  # NCCL's teardown waits for those that are gone


def join(order: dict[str, Any]) -> tuple[int, int]:
    """Join the ranks of both nodes; return this one's number, and how many there are."""
    from torch import distributed

    patience = timedelta(seconds=order["patience_seconds"])
    is_first, local, count = order["is_first"], order["local"], order["count"]
    store = distributed.TCPStore(
        order["address"],
        order["port"],
        is_master=is_first and local == 0,
        wait_for_workers=False,
        timeout=patience,
    )
    if local == 0:
        store.set("first" if is_first else "second", str(count))
    counts = int(store.get("first")), int(store.get("second"))
    rank, world = local + (0 if is_first else counts[0]), sum(counts)
    if order["device"] == "cuda":
        torch.cuda.set_device(local)
    elif order["address"].startswith("127."):  # gloo would ask what the host's own name means
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    distributed.init_process_group(
        "nccl" if order["device"] == "cuda" else "gloo",
        store=distributed.PrefixStore("group", store),
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=order["add_seconds"]),
    )
    return rank, world


def add_up(order: dict[str, Any], rank: int, world: int) -> dict[str, Any]:
    """All-reduce again and again; return the bus bandwidth, and how many sums are wrong."""
    from torch import distributed

    is_cuda = order["device"] == "cuda"
    device = torch.device("cuda", order["local"]) if is_cuda else torch.device("cpu")
    count = order["size"] // 4
    given = numbers(torch, rank, count, device)
    work = given.clone()

    def once() -> None:
        work.copy_(given)
        distributed.all_reduce(work)

    def timed(repeats: int) -> float:
        if is_cuda:
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(repeats):
            once()
        if is_cuda:
            torch.cuda.synchronize(device)
        return (time.perf_counter() - began) / repeats

    timed(WARM_UP)
    durations = sorted(timed(max(1, order["repeats"] // SAMPLES)) for _ in range(SAMPLES))
    wrong = wrong_sums(torch, work, world)
    moved = 1e-9 * order["size"] * 2 * (world - 1) / world
    return {"rate": moved / durations[len(durations) // 2], "wrong": wrong, "count": count}
