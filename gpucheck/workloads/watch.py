"""Reads the GPUs by NVML again and again while they train, and writes each reading as it comes."""

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Write a JSON line with all GPUs four times a second, until nobody reads them.

    Not oftener: each query takes the driver's lock for up to 2 ms, and the training wants it too.
    """
    import pynvml

    try:
        pynvml.nvmlInit()
        handles = [
            pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
        ]
    except pynvml.NVMLError as error:
        _write({"error": str(error)})
        return
    identities = [
        {
            "index": index,
            "uuid": _ask(pynvml.nvmlDeviceGetUUID, handle),
            "bus_id": _bus_id(handle),
        }
        for index, handle in enumerate(handles)
    ]
    parent = os.getppid()
    while os.getppid() == parent:
        readings = [
            {**identity, **_read(handle)}
            for identity, handle in zip(identities, handles, strict=True)
        ]
        _write({"at": time.monotonic(), "gpus": readings})
        time.sleep(0.25)


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


def _write(line: dict[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
