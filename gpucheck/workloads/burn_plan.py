"""Says what a burn is to do: which phases, for how long, with products of which size and kind."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gpucheck.payload.assignment import GpuChoiceError, chosen_gpus
from gpucheck.versions import version_tuple
from gpucheck.workloads.bench import LEAST_CAPABILITY

PHASES = ("tensor", "core", "memory", "copy", "peer", "allreduce")
#: Not in a burn unless it is named: a whole rack that pulses in step is hard on its power supply.
OPTIONAL_PHASES = ("pulse",)
BETWEEN_GPUS = ("peer", "allreduce")
_PHASE_SECONDS = 20.0
_KEEP_SECONDS = 10.0
_MOST_LINES = 20_000  # of one GPU
_ON_CPU_BYTES = 4 << 20

#: A product by the data type and its sums: short ones, or long ones of smaller numbers. Comparing
#: costs 6 percent of a short bf16 product, and 1 percent of a long one.
Kind = tuple[str, str]
TENSOR: tuple[Kind, ...] = (
    ("bf16", "long"),
    ("fp16", "long"),
    ("tf32", "short"),
    ("int8", "long"),
    ("bf16", "short"),
)
CORE: tuple[Kind, ...] = (("fp32", "short"), ("fp64", "short"))
_LOADS: tuple[Kind, ...] = (("bf16", "long"), ("fp16", "long"), ("fp32", "short"))


class BurnPlanError(ValueError):
    """What was asked for cannot be done; the message is for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnPlan:
    """What to burn in, how, and how long."""

    gpus: str = "all"  # as for smoke; on the CPU a count
    minutes: float = 2.0
    phases: tuple[str, ...] = PHASES
    memory: float = 0.9  # share of what is free
    device: str = "cuda"

    def check(self) -> None:
        """Raise BurnPlanError where this cannot be done."""
        try:
            numbers = chosen_gpus(self.gpus, 1)
        except GpuChoiceError as error:
            raise BurnPlanError(str(error)) from None
        if len(set(numbers)) < len(numbers):
            raise BurnPlanError(f"--gpus {self.gpus}: each GPU is burned in once")
        for name in self.phases:
            if name not in (*PHASES, *OPTIONAL_PHASES):
                known = ", ".join((*PHASES, *OPTIONAL_PHASES))
                raise BurnPlanError(f"--phases {name}: choose among {known}")

    @property
    def seconds(self) -> float:
        return 60.0 * self.minutes

    def phase_seconds(self) -> float:
        """Return how long a phase lasts, so that each has its turn."""
        return min(_PHASE_SECONDS, self.seconds / len(self.phases))

    def keep_seconds(self) -> float:
        """Return how long may pass between two lines of a GPU in the journal.

        Each phase has some, and a month gives no more than memory holds.
        """
        return max(min(_KEEP_SECONDS, self.seconds / 60), 0.5, self.seconds / _MOST_LINES)

    def as_record(self) -> dict[str, Any]:
        """Return the plan as the journal keeps it."""
        return {**asdict(self), "phases": list(self.phases)}

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "BurnPlan":
        """Return the plan that the journal kept; BurnPlanError where it is none."""
        try:
            return cls(**{**record, "phases": tuple(record["phases"])})
        except (TypeError, KeyError) as error:
            raise BurnPlanError(f"the journal's plan cannot be read: {error}") from None


def shapes(arena_bytes: int, *, on_cpu: bool) -> dict[str, list[int]] | None:
    """Return the products that fit into the smallest memory under test; None: none does.

    Order, inner size of a block, blocks, largest number, rows that differ. The numbers are such
    that fp32 holds every partial sum: `payload/exact.py` proves that of the very numbers.
    """
    orders = (128,) if on_cpu else (8192, 4096, 2048, 1024)
    for order in orders:
        if 56 * order * order <= arena_bytes:
            period = order // (4 if on_cpu else 32)  # 8 MiB of reference, which stay in the L2
            return {
                "short": [order, order, 1, 120, period],
                "long": [order, order, 8, 42, period],
            }
    return None


def most_memory(plan: BurnPlan) -> int | None:
    """Return how many bytes are tested at most; None: as many as the share allows."""
    return _ON_CPU_BYTES if plan.device == "cpu" else None


def possible(kinds: Sequence[Kind], capability: str | None) -> list[Kind]:
    """Return those *kinds* that a GPU of this compute capability has; the CPU has them all."""
    if capability is None:
        return list(kinds)
    has = version_tuple(capability)
    return [kind for kind in kinds if has >= LEAST_CAPABILITY.get(kind[0], (0, 0))]


def orders(
    phase: str, seconds: float, turn: int, *, shared: dict[str, Any], capability: str | None
) -> dict[str, Any]:
    """Return what one GPU is ordered in *phase*; while all copy to each other, it computes."""
    common = {"phase": phase, "seconds": seconds, "turn": turn}
    if phase == "memory":
        return {**common, "work": "memory"}
    load = possible(_LOADS, capability)[:1]
    products = {**common, **shared, "work": "products", "kinds": load}
    if phase == "tensor":
        products["kinds"] = possible(TENSOR, capability) or load
    elif phase == "core":
        products["kinds"] = possible(CORE, capability)
    elif phase == "copy":
        products |= {"work": "copy", "size": (1 << 16) if capability is None else (128 << 20)}
    elif phase == "pulse":
        products["rest"] = 0.5
    return products


def orders_between(
    phase: str, seconds: float, turn: int, gpus: Sequence[int], *, room_bytes: int
) -> dict[str, Any]:
    """Return what the process that has all GPUs is ordered; *room_bytes* are free on each.

    The contexts of two processes and their libraries need about 1.5 GB of that.
    """
    common: dict[str, Any] = {"phase": phase, "seconds": seconds, "turn": turn, "gpus": list(gpus)}
    large = 256 << 20 if room_bytes > 4 << 30 else 16 << 20
    if room_bytes < 64 << 20:  # the CPU
        large = 1 << 16
    if phase == "peer":
        return {**common, "work": "peer", "size": min(large, 64 << 20)}
    return {**common, "work": "all-reduce", "sizes": sorted({min(large, 16 << 20), large})}
