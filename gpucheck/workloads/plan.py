"""What a smoke training is to do: what the command line asks for, and what each child is told."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Literal

Strategy = Literal["dp", "ddp"]
Device = Literal["cuda", "cpu"]
DEFAULT_GPUS = "4"


class PlanError(ValueError):
    """What was asked for makes no sense; the message is for the one who asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One smoke training, as one process of it sees it."""

    gpus: str | None = None  # "4", "all", "0,2,5"; None: DEFAULT_GPUS, or what a job gives
    strategy: Strategy = "dp"
    device: Device = "cuda"
    epochs: int = 1
    batch_size: int = 256
    learning_rate: float = 0.01
    seed: int = 0
    data: str | None = None  # a folder, "download", "synthetic"; None: what is at hand
    timeout_seconds: float = 60.0  # the longest silence of a child
    log_interval: int = 25  # batches from one reported loss to the next
    cache: str = ""  # the folder in which data sets are kept
    # under DDP
    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""  # where rank 0 listens
    port: int = 0
    joined: bool = False  # torchrun or srun started the ranks, not we
    agent_store: bool = False  # torchrun itself keeps the store
    rendezvous_id: str = ""  # tells one attempt of a job from the next

    @property
    def wanted(self) -> str:
        """Return what was asked for, in words of the command line."""
        return f"{self.world}" if self.joined else self.gpus or DEFAULT_GPUS

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        return cls(**json.loads(text))


def chosen_gpus(wanted: str, visible: int) -> list[int]:
    """Return CUDA's numbers of the GPUs that *wanted* names, of *visible* that there are.

    "4" is a count: the first four. "0,2,5" are numbers, one replica each, and a number may come
    twice. One GPU by its number is "3,". "all" is all. The answer may name GPUs that are not
    there: whoever asks finds out.

    Raises PlanError where *wanted* is none of these.
    """
    if wanted == "all":
        return list(range(visible))
    parts = wanted.split(",")
    if not all(part.isascii() and part.isdigit() for part in parts if part) or not parts[0]:
        raise PlanError(
            f"--gpus {wanted}: give a count (4), numbers (0,2,5; a single one as 3,) or all"
        )
    if any(not part for part in parts[:-1]):
        raise PlanError(f"--gpus {wanted}: a number is missing between two commas")
    if len(parts) > 1:
        return [int(part) for part in parts if part]
    if not 1 <= int(wanted) <= 1024:
        raise PlanError(f"--gpus {wanted}: a count from 1 to 1024 was expected")
    return list(range(int(wanted)))


def check(plan: Plan) -> None:
    """Raise PlanError where the parts of *plan* contradict each other."""
    numbers = chosen_gpus(plan.wanted, 1)
    if plan.strategy == "ddp" and plan.device == "cuda" and len(set(numbers)) < len(numbers):
        raise PlanError("--strategy ddp takes each GPU once: NCCL refuses two ranks on one GPU")
    if plan.joined and plan.strategy == "dp":
        raise PlanError(
            "this is one of several processes of a job (torchrun or srun): use --strategy ddp"
        )
    if plan.joined and plan.gpus is not None:
        raise PlanError("the job decides how many GPUs take part: leave --gpus out")
