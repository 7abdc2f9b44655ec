"""Burns as healthy machines give them, to break one thing of."""

from typing import Any

import machines
from gpucheck.snapshot import (
    Burn,
    BurnCounters,
    BurnFault,
    BurnGpu,
    BurnPoint,
    BurnWork,
    Snapshot,
    WrongWord,
    replace,
)
from machines import gpu, machine

SIZE = "8192 x 8192 x 65536"
OPERATIONS = 2.0 * 8192 * 8192 * 65536
QUIET = dict.fromkeys(BurnCounters.__struct_fields__, 0)


def work(kind: str = "bf16", *, rate: float = 690.0, seconds: float = 2700.0, **more: Any) -> Any:
    """Return products at *rate* TFLOP/s."""
    count = int(rate * 1e12 * seconds / OPERATIONS)
    facts = {"first_rate": rate, "last_rate": rate, **more}
    return BurnWork(
        phase="tensor",
        kind=kind,
        size=SIZE,
        count=count,
        amount=count * OPERATIONS,
        seconds=seconds,
        **facts,
    )


def point(minute: int, **changes: Any) -> BurnPoint:
    facts = {
        "temperature_celsius": 62.0,
        "power_watts": 690.0,
        "clock_sm_mhz": 1500.0,
        "clocks_event_reasons": 4,
        "pcie_width": 16,
        "pcie_generation": 5,
        "teraflops": 690.0,
    }
    return BurnPoint(seconds=60.0 * minute, **{**facts, **changes})


def burned(index: int, **changes: Any) -> BurnGpu:
    """Return a healthy GPU after 5 hours."""
    facts: dict[str, Any] = {
        "name": "NVIDIA H200",
        "memory_bytes": 130 << 30,
        "free_bytes": 144 << 30,
        "loaded_seconds": 17_900.0,
        "work": (
            work(),
            work("fp32", rate=51.0),
            BurnWork(phase="memory", kind="memory", count=9000, amount=2.5e15, seconds=2600.0),
            BurnWork(phase="copy", kind="h2d", count=9000, amount=1.2e12, seconds=2600.0),
        ),
        "counters": BurnCounters(**QUIET),
        "points": tuple(point(minute) for minute in range(1, 301, 5)),
    }
    return BurnGpu(index=index, **{**facts, **changes})


def counted(**counters: Any) -> BurnCounters:
    return BurnCounters(**{**QUIET, **counters})


def fault(gpu: int = 1, **changes: Any) -> BurnFault:
    """Return an element of a product that was wrong once."""
    facts: dict[str, Any] = {
        "phase": "tensor",
        "kind": "bf16",
        "size": SIZE,
        "gpus": (gpu,),
        "seconds": 4000.0,
        "count": 1,
        "words": (
            WrongWord(place="row 5, column 77", expected="0" * 16, found="0" * 11 + "100000"),
        ),
        "bits": (20,),
        "second_look": True,
        "repeated": 0,
        "repeats": 10,
    }
    return BurnFault(**{**facts, **changes})


def burn(*gpus: BurnGpu, **changes: Any) -> Burn:
    facts: dict[str, Any] = {
        "torch": "2.11.0",
        "phases": ("tensor", "core", "memory", "copy"),
        "planned_seconds": 18_000.0,
        "elapsed_seconds": 18_000.0,
        "turns": 225,
        "gpus": gpus or tuple(burned(index) for index in range(4)),
        "proof": None,
        "alarms": 900,
        "alarms_found": 900,
        "stopped": None,
        "new_xids": (),
    }
    return Burn(**{**facts, **changes})


def after(*gpus: BurnGpu, **changes: Any) -> Snapshot:
    """Return a healthy machine of 4 GPUs after a burn with *gpus* in place of its own."""
    mine = {index: burned(index) for index in range(4)} | {one.index: one for one in gpus}
    return machine(
        replace(machines.HEALTHY, burn=burn(*mine.values(), **changes)),
        nvml={"gpus": tuple(gpu(index) for index in range(4)), "count": 4},
    )
