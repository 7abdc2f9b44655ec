"""Knows which findings can explain an error code of CUDA or NVML, nearest first.

The table is `error_causes.json`; each row names its sources.
"""

import functools

import msgspec

from gpucheck.knowledge import published


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """One code, and the codes of gpucheck's findings that it may follow from."""

    code: int
    findings: tuple[str, ...]
    source: tuple[str, ...]


class Table(msgspec.Struct, frozen=True):
    """The whole of `error_causes.json`."""

    sources: dict[str, str]
    cuda: tuple[Causes, ...]
    nvml: tuple[Causes, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("error_causes.json", Table)


def causes_of_cuda(code: int) -> tuple[str, ...]:
    """Return the findings that may stand behind a CUresult."""
    return next((row.findings for row in table().cuda if row.code == code), ())


def causes_of_nvml(code: int) -> tuple[str, ...]:
    """Return the findings that may stand behind an nvmlReturn_t."""
    return next((row.findings for row in table().nvml if row.code == code), ())
