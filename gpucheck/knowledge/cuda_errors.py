"""Knows the error codes of the CUDA driver and of NVML: their names, usual causes and fixes.

The table is `cuda_errors.json`; each row names its sources. A code that it does not know is told
by its number.
"""

import functools

import msgspec

from gpucheck.knowledge import published


class ErrorCode(msgspec.Struct, frozen=True, kw_only=True):
    """One code: its name in the driver or in NVML, and beside it the runtime's own."""

    code: int
    name: str
    meaning: str
    causes: tuple[str, ...]
    fix: tuple[str, ...]
    source: tuple[str, ...]
    confidence: str
    runtime_name: str | None = None


class Table(msgspec.Struct, frozen=True):
    """The whole of `cuda_errors.json`."""

    sources: dict[str, str]
    cuda: tuple[ErrorCode, ...]
    nvml: tuple[ErrorCode, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("cuda_errors.json", Table)


def cuda_error(code: int) -> ErrorCode | None:
    """Return what is known of a CUresult (or cudaError_t: where both have a code, they agree)."""
    return next((row for row in table().cuda if row.code == code), None)


def nvml_error(code: int) -> ErrorCode | None:
    """Return what is known of an nvmlReturn_t."""
    return next((row for row in table().nvml if row.code == code), None)
