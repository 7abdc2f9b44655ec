"""Describes what one process of a smoke training is to do, and its place among the others."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class Assignment:
    """The argument of `smoke`, as JSON."""

    gpus: str  # "4", "all", "0,2,5"
    strategy: str  # "dp", "ddp"
    device: str  # "cuda", "cpu"
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    data: str | None  # a folder, "download", "synthetic"; None: what is at hand
    timeout_seconds: float  # the longest silence that the parent bears
    log_interval: int  # batches from one reported loss to the next
    cache: str  # the folder in which data sets are kept
    # under DDP
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""  # where rank 0 listens
    port: int = 0
    joined: bool = False  # torchrun or srun started the ranks, not gpucheck
    agent_store: bool = False  # torchrun itself keeps the store
    rendezvous_id: str = ""  # distinguishes one attempt of a job from the next

    @classmethod
    def from_json(cls, text: str) -> Assignment:
        """Read what the parent wrote."""
        return cls(**json.loads(text))


CPU_REPLICAS = 4  # of "all" on the CPU: as many as the recipe has GPUs


class GpuChoiceError(ValueError):
    """A choice of GPUs that cannot be used; the message is for whoever made it."""


def chosen_gpus(wanted: str, visible: int) -> list[int]:
    """Return CUDA's numbers of the GPUs that *wanted* names, of *visible* that there are.

    "4" is a count: the first four. "0,2,5" are numbers, one replica each, and a number may come
    twice. One GPU by its number is "3,". "all" is all. The answer may name GPUs that are not
    there: whoever asks finds out.
    """
    if wanted == "all":
        return list(range(visible))
    parts = wanted.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts if part) or not parts[0]:
        raise GpuChoiceError(
            f"--gpus {wanted}: give a count (4), numbers (0,2,5; a single one as 3,) or all"
        )
    if any(not part for part in parts[:-1]):
        raise GpuChoiceError(f"--gpus {wanted}: a number is missing between two commas")
    if len(parts) > 1:
        return [int(part) for part in parts if part]
    if not 1 <= int(wanted) <= 1024:
        raise GpuChoiceError(f"--gpus {wanted}: a count from 1 to 1024 was expected")
    return list(range(int(wanted)))
