"""Benches as healthy machines give them, to break one figure of."""

from collections.abc import Mapping
from typing import Any

import machines
from gpucheck.snapshot import Bench, BenchGpu, Figure, GpuPair, Snapshot, replace
from machines import gpu, machine

#: 2 H200s as measured; what was not measured is H100's in proportion.
TYPICAL: Mapping[str, float] = {
    "fp32": 52.0,
    "tf32": 410.0,
    "fp16": 700.0,
    "bf16": 700.0,
    "fp8": 1400.0,
    "int8": 890.0,
    "memory": 4290.0,
    "h2d": 55.0,
    "d2h": 55.2,
    "h2d together": 50.0,
    "d2h together": 50.0,
}
PEER, SIZE = 396.0, 256 << 20


def seen(**changes: Any) -> dict[str, Any]:
    """What NVML saw of a GPU at full load, at its power limit."""
    return {
        "clock_sm_mhz": 1500.0,
        "clock_sm_maximum_mhz": 1980.0,
        "power_watts": 690.0,
        "temperature_celsius": 60.0,
        "clocks_event_reasons": 4,
        "pcie_generation": 5,
        "pcie_width": 16,
        **changes,
    }


def figure(measure: str, *gpus: int, value: Any = None, **changes: Any) -> Figure:
    rate = TYPICAL.get(measure, PEER) if value is None else value
    return Figure(measure=measure, gpus=gpus, size=SIZE, value=rate, **{**seen(), **changes})


def figures(count: int) -> tuple[Figure, ...]:
    """All figures of *count* healthy GPUs."""
    everywhere = [figure(measure, index) for measure in TYPICAL for index in range(count)]
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    return (*everywhere, *(figure("peer", *pair) for pair in pairs))


def measured(
    *changed: Figure, count: int = 8, bench: Mapping[str, Any] | None = None, **gpus: Any
) -> Snapshot:
    """Return a healthy machine of *count* H200s with *changed* in place of its own figures."""
    replaced = {(one.measure, one.gpus): one for one in changed}
    kept = tuple(replaced.pop((one.measure, one.gpus), one) for one in figures(count))
    rows = tuple(
        BenchGpu(
            index=index,
            name="NVIDIA H200",
            compute_capability="9.0",
            multiprocessors=132,
            memory_bus_bits=6016,
        )
        for index in range(count)
    )
    facts = {"torch": "2.11.0", "nvls": False, **(bench or {})}
    pairs = tuple(
        GpuPair(a=a, b=b, topology="NV18", p2p_read="OK", p2p_write="OK", p2p_nvlink="OK")
        for a in range(count)
        for b in range(a + 1, count)
    )
    return machine(
        replace(
            machines.HEALTHY,
            bench=Bench(gpus=rows, figures=(*kept, *replaced.values()), **facts),
        ),
        nvml={
            "gpus": tuple(gpu(index, **gpus) for index in range(count)),
            "count": count,
            "pairs": pairs,
        },
    )
