"""Asks the CUDA driver, which torch has started, where on the PCI bus a GPU is."""

from __future__ import annotations

import ctypes


def bus_id(index: int) -> str | None:
    """Return "0000:65:00.0" for CUDA's GPU *index*; None where the driver does not say."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    handle = ctypes.c_int()
    name = ctypes.create_string_buffer(32)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(handle), index):
        return None
    if driver.cuDeviceGetPCIBusId(name, len(name), handle):
        return None
    return name.value.decode().lower()
