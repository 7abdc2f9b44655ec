"""Reads the GPUs by NVML again and again while they work, and reports each reading as it comes."""

from __future__ import annotations

import os
import time
from typing import Any

from .channel import emit, silence

#: Not oftener: each query takes the driver's lock for up to 2 ms, and the work wants it too.
PAUSE_SECONDS = 0.25


def main(pause_seconds: str = f"{PAUSE_SECONDS}") -> None:
    """Report all GPUs every *pause_seconds*, until nobody reads it."""
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
            "uuid": _ask(pynvml.nvmlDeviceGetUUID, handle),
            "bus_id": _bus_id(handle),
            "memory_bus_bits": _ask(pynvml.nvmlDeviceGetMemoryBusWidth, handle),
        }
        for index, handle in enumerate(handles)
    ]
    parent = os.getppid()
    while os.getppid() == parent:
        readings = [{**identity, **_read(handle)} for identity, handle in zip(identities, handles)]
        try:
            emit("readings", gpus=readings)
        except BrokenPipeError:
            os._exit(0)
        time.sleep(float(pause_seconds))


def _read(handle: Any) -> dict[str, object]:  # noqa: ANN401 - NVML's own
    import pynvml as nvml

    memory = _ask(nvml.nvmlDeviceGetMemoryInfo, handle)
    utilization = _ask(nvml.nvmlDeviceGetUtilizationRates, handle)
    power = _ask(nvml.nvmlDeviceGetPowerUsage, handle)
    reasons = getattr(
        nvml,
        "nvmlDeviceGetCurrentClocksEventReasons",
        nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
    )
    return {
        "memory_used_bytes": getattr(memory, "used", None),
        "utilization_percent": getattr(utilization, "gpu", None),
        "temperature_celsius": _ask(
            nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU
        ),
        "power_watts": None if power is None else power / 1000,
        "clocks_event_reasons": _ask(reasons, handle),
        "clock_sm_mhz": _ask(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        "pcie_generation": _ask(nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        "pcie_width": _ask(nvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
        **{
            name: _ask(nvml.nvmlDeviceGetTotalEccErrors, handle, kind, nvml.NVML_VOLATILE_ECC)
            for name, kind in (
                ("corrected_ecc", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
                ("uncorrected_ecc", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            )
        },
    }


def _bus_id(handle: Any) -> str | None:  # noqa: ANN401
    import pynvml

    info = _ask(pynvml.nvmlDeviceGetPciInfo, handle)
    if info is None:
        return None
    return f"{info.domain:04x}:{info.bus:02x}:{info.device:02x}.0"


def _ask(query: Any, *arguments: Any) -> Any:  # noqa: ANN401
    """Return NVML's answer, or None where it has none for this question."""
    import pynvml

    try:
        return query(*arguments)
    except pynvml.NVMLError:
        return None
