"""Reads the GPUs by NVML again and again while they work, and reports each reading as it comes."""

from __future__ import annotations

import os
import time
from typing import Any

from . import nvml_queries as queries
from .channel import emit, silence

#: Not oftener: each query takes the driver's lock for up to 2 ms, and the work wants it too.
PAUSE_SECONDS = 0.25
#: what the message calls each reading: the query of the table, and how its answer is taken
READINGS: tuple[tuple[str, str, Any], ...] = (
    ("memory_used_bytes", "memory", lambda value: value[1]),
    ("utilization_percent", "utilization", int),
    ("temperature_celsius", "temperature", int),
    ("power_watts", "power", lambda milliwatts: milliwatts / 1000),
    ("clocks_event_reasons", "event_reasons", int),
    ("clock_sm_mhz", "clock_sm", int),
    ("pcie_generation", "pcie_generation", int),
    ("pcie_width", "pcie_width", int),
    ("corrected_ecc", "corrected_volatile", int),
    ("uncorrected_ecc", "uncorrected_volatile", int),
)
#: what changes seldom and takes longer (all links' errors 55 ms on an H200)
COUNTERS: tuple[tuple[str, str, Any], ...] = (
    ("pcie_replays", "pcie_replays", int),
    ("remapped_rows", "remapped_rows", list),
    ("slowdowns", "later_fields", list),
    ("nvlink_errors", "nvlink_errors", list),
)
MEMORY_BUS: queries.Query = ("memory_bus", "nvmlDeviceGetMemoryBusWidth", ())
LATER_FIELDS: queries.Query = (
    "later_fields",
    "nvmlDeviceGetFieldValues",
    queries.later_fields,
)
TABLE = {
    query[0]: query for query in (*queries.GPU, MEMORY_BUS, LATER_FIELDS, queries.NVLINK_ERRORS)
}


def main(pause_seconds: str = f"{PAUSE_SECONDS}", counters_seconds: str = "inf") -> None:
    """Report all GPUs every *pause_seconds*, until nobody reads it.

    Every *counters_seconds* their counters are read, too.
    """
    silence()
    try:
        import pynvml
    except ImportError as error:
        emit("nvml error", text=f"pynvml: {error}")
        return
    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError as error:
        emit("nvml error", text=str(error))
        return
    identities = [
        {
            "index": index,
            "uuid": _ask(pynvml, "uuid", handle, str),
            "bus_id": _ask(pynvml, "pci", handle, lambda value: queries.bus_id(value[0])),
            "memory_bus_bits": _ask(pynvml, "memory_bus", handle, int),
        }
        for index, handle in enumerate(handles)
    ]
    parent = os.getppid()
    next_counters = time.monotonic() if float(counters_seconds) < float("inf") else float("inf")
    while os.getppid() == parent:
        table = READINGS
        if time.monotonic() >= next_counters:
            next_counters = time.monotonic() + float(counters_seconds)
            table = (*READINGS, *COUNTERS)
        readings = [
            {**identity, **{name: _ask(pynvml, key, handle, take) for name, key, take in table}}
            for identity, handle in zip(identities, handles)
        ]
        try:
            emit("readings", gpus=readings)
        except BrokenPipeError:
            os._exit(0)
        time.sleep(float(pause_seconds))


def _ask(nvml: Any, key: str, handle: Any, take: Any) -> Any:  # noqa: ANN401 - NVML's own
    """Return what *take* makes of NVML's answer, or None where there is none to this question."""
    outcome, value, _, _ = queries.ask(nvml, TABLE[key], handle)
    return take(value) if outcome == "value" else None
