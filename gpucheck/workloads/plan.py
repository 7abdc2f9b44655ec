"""Describes a smoke training as the command line asks for it."""

from dataclasses import dataclass
from typing import Literal

from gpucheck.payload.assignment import GpuChoiceError, chosen_gpus

Strategy = Literal["dp", "ddp"]
Device = Literal["cuda", "cpu"]
DEFAULT_GPUS = "all"


class PlanError(ValueError):
    """What was asked for cannot be done; the message is for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to train, and on what."""

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
    cache: str = ""  # the folder in which data sets are kept; "": the user's


def check(plan: Plan, *, is_one_of_a_job: bool = False) -> None:
    """Raise PlanError where the parts of *plan* contradict each other."""
    try:
        numbers = chosen_gpus(plan.gpus or DEFAULT_GPUS, 1)
    except GpuChoiceError as error:
        raise PlanError(str(error)) from None
    if plan.strategy == "ddp" and plan.device == "cuda" and len(set(numbers)) < len(numbers):
        raise PlanError("--strategy ddp takes each GPU once: NCCL refuses two ranks on one GPU")
    if is_one_of_a_job and plan.strategy == "dp":
        raise PlanError(
            "this is one of several processes of a job (torchrun or srun): use --strategy ddp"
        )
    if is_one_of_a_job and plan.gpus is not None:
        raise PlanError("the job decides how many GPUs take part: omit --gpus")
