"""Knows the error codes of the CUDA driver and of NVML: their names, usual causes and fixes.

The table is `cuda_errors.json`; each row names its sources. A code that it does not know is
reported by its number.
"""

import functools

import msgspec

from gpucheck.knowledge import published


class ErrorCode(msgspec.Struct, frozen=True, kw_only=True):
    """One code: its name in the driver or in NVML, and next to it the runtime's own."""

    code: int
    name: str
    meaning: str
    causes: tuple[str, ...]
    fix: tuple[str, ...]
    fault: tuple[str, ...]
    source: tuple[str, ...]
    confidence: str
    runtime_name: str | None = None


class ErrorName(msgspec.Struct, frozen=True, kw_only=True):
    """A code with the names and the text that CUDA itself has for it."""

    code: int
    name: str | None = None
    runtime_name: str | None = None
    text: str | None = None


class Table(msgspec.Struct, frozen=True):
    """The whole of `cuda_errors.json`."""

    sources: dict[str, str]
    cuda: tuple[ErrorCode, ...]
    nvml: tuple[ErrorCode, ...]
    names_source: str
    names: tuple[ErrorName, ...]


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


def cuda_name(code: int) -> ErrorName | None:
    """Return the names and the text that CUDA has for *code*."""
    return next((row for row in table().names if row.code == code), None)


@functools.cache
def cuda_codes() -> dict[str, int]:
    """Return the code of each name, of the driver and of the runtime, in upper case."""
    return {
        name.upper(): row.code
        for row in table().names
        for name in (row.name, row.runtime_name)
        if name is not None
    }


@functools.cache
def nvml_codes() -> dict[str, int]:
    """Return the code of each of NVML's names that the table knows."""
    return {row.name: row.code for row in table().nvml}
