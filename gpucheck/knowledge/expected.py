"""What healthy GPUs reach, per model, and what bounds a model that nobody has measured."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Literal

import msgspec

from gpucheck.knowledge import published


class Range(msgspec.Struct, frozen=True):
    """What a healthy unit reaches: the lowest believed, the typical, the highest published."""

    low: float
    typical: float
    high: float
    confidence: Literal["measured", "estimated"] = "measured"
    source: tuple[str, ...] = ()
    by: str = ""
    note: str = ""

    @property
    def is_measured(self) -> bool:
        return self.confidence == "measured"


class _Gpu(msgspec.Struct, frozen=True):
    name: str
    pattern: str
    reached: Mapping[str, Range]


class _TensorRate(msgspec.Struct, frozen=True):
    compute_capability: str
    kind: str
    fp16: float  # operations per multiprocessor and clock
    fp32: float
    checked_on: str


class _Table(msgspec.Struct, frozen=True):
    sources: Mapping[str, str]
    gpus: tuple[_Gpu, ...]
    tensor_rates: tuple[_TensorRate, ...]
    ratios: Mapping[str, Range]


@cache
def table() -> _Table:
    """Return the published table."""
    return published("expected.json", _Table)


@cache
def reached(model: str) -> Mapping[str, Range]:
    """Return what GPUs of NVML's name *model* reach; {} for a model that nobody has measured."""
    for row in table().gpus:
        if re.fullmatch(row.pattern, model):
            return row.reached
    return {}


#: A product's rate next to fp16's, where it is certain on every model.
_BESIDE_FP16 = {"fp16": 1.0, "bf16": 1.0, "tf32": 0.5}


def product_bound(
    model: str, compute_capability: str, dtype: str, multiprocessors: int, clock_mhz: float
) -> float | None:
    """Return the most TFLOP/s at a clock that was seen; None where it is not known."""
    for row in table().tensor_rates:
        if row.compute_capability != compute_capability:
            continue
        if ("GeForce" in row.kind) != ("GeForce" in model):
            continue
        rate = row.fp32 if dtype == "fp32" else row.fp16 * _BESIDE_FP16.get(dtype, 0.0)
        return rate * multiprocessors * clock_mhz / 1e6 or None
    return None


def memory_bound(bus_bits: int, memory_clock_mhz: int) -> float:
    """Return the most GB/s of device memory: two transfers a clock over the whole bus."""
    return 2 * memory_clock_mhz * bus_bits / 8 / 1000


#: GB/s a lane and direction, after the encoding: 8b/10b up to generation 2, then 128b/130b.
_PCIE_LANE_GBS = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}


def pcie_bound(generation: int, lanes: int) -> float | None:
    """Return the most GB/s of a PCIe link in one direction."""
    lane = _PCIE_LANE_GBS.get(generation)
    return None if lane is None else lane * lanes


def nvlink_bound(links: int, compute_capability: str) -> float | None:
    """Return the most GB/s of *links* NVLinks in one direction, of data-center boards."""
    rate = {"7.0": 25.0, "8.0": 25.0, "9.0": 25.0, "10.0": 50.0}.get(compute_capability)
    return None if rate is None or not links else rate * links
