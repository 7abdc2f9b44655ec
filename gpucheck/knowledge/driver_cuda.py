"""Knows which driver runs which CUDA, and which GPU needs which driver and toolkit.

The table is `driver_cuda.json`; each row names its sources. A version or GPU that it does not know
gives None, which rules report as not checked.
"""

import functools
import re
from typing import Literal

import msgspec

from gpucheck.knowledge import published
from gpucheck.versions import version_tuple

Confidence = Literal["high", "medium", "low"]


class MinorFloor(msgspec.Struct, frozen=True):
    """The oldest driver that runs any minor version of a CUDA major."""

    cuda_major: int
    driver: str
    source: tuple[str, ...]
    confidence: Confidence


class Release(msgspec.Struct, frozen=True):
    """A CUDA toolkit release, and the Linux driver that NVIDIA pairs with it."""

    cuda: str
    driver: str
    source: tuple[str, ...]
    confidence: Confidence


class Branch(msgspec.Struct, frozen=True):
    """A driver branch (the first number of its version), and the newest CUDA that it knows."""

    branch: int
    newest_cuda: str
    source: tuple[str, ...]
    confidence: Confidence


class Capability(msgspec.Struct, frozen=True):
    """A compute capability: the toolkits that compile for it, the branches that drive it."""

    compute_capability: str
    architecture: str
    first_cuda: str
    source: tuple[str, ...]
    confidence: Confidence
    last_cuda: str | None = None  # None: still compiled for
    first_branch: int | None = None  # None: the table does not say
    last_branch: int | None = None  # None: still driven


class Table(msgspec.Struct, frozen=True):
    """The whole of `driver_cuda.json`."""

    sources: dict[str, str]
    minor_floor: tuple[MinorFloor, ...]
    release: tuple[Release, ...]
    branch: tuple[Branch, ...]
    capability: tuple[Capability, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("driver_cuda.json", Table)


def branch_of(driver: str) -> int | None:
    """Return the branch of a driver version: "580.159.04" → 580."""
    parts = version_tuple(driver)
    return parts[0] if parts else None


@functools.cache
def oldest_driver_for(cuda_major: int) -> str | None:
    """Return the oldest driver that runs programs of this CUDA major (minor-version compatibility).

    Such a driver runs every minor version of the major, with the features that it knows. CUDA 10
    and older have no such promise.
    """
    return next((f.driver for f in table().minor_floor if f.cuda_major == cuda_major), None)


@functools.cache
def driver_paired_with(cuda: str) -> str | None:
    """Return the driver that NVIDIA pairs with a toolkit: "13.0" or "13.0.2" → its version.

    With major and minor alone, the first release of that minor counts.
    """
    wanted = version_tuple(cuda)[:3]
    if len(wanted) < 2:
        return None
    for release in table().release:
        if version_tuple(release.cuda)[: len(wanted)] == wanted:
            return release.driver
    return None


@functools.cache
def newest_cuda_of(driver: str) -> str | None:
    """Return the newest CUDA that a driver knows by its branch: "580.159.04" → "13.0"."""
    branch = branch_of(driver)
    return next((b.newest_cuda for b in table().branch if b.branch == branch), None)


@functools.cache
def driver_runs(driver: str, cuda: str) -> bool | None:
    """Tell whether a driver runs programs built with this CUDA; None where the table cannot say.

    A newer driver runs everything older, of every major. Within a major, a driver at or above the
    major's floor runs newer minors too. Drivers compare as numbers: 570.86 is older than 570.124.
    """
    wanted = version_tuple(cuda)[:2]
    have = version_tuple(driver)
    if not wanted or not have:
        return None
    newest = newest_cuda_of(driver)
    if newest is not None and version_tuple(newest) >= wanted:
        return True
    floor = oldest_driver_for(wanted[0])
    if floor is None:
        newer_majors = [f for f in table().minor_floor if f.cuda_major > wanted[0]]
        if newer_majors and have >= version_tuple(newer_majors[0].driver):
            return True
        return None
    return have >= version_tuple(floor)


@functools.cache
def _capability(compute_capability: str) -> Capability | None:
    for row in table().capability:
        if row.compute_capability == compute_capability:
            return row
    return None


def minimum_branch_for(compute_capability: str) -> int | None:
    """Return the first driver branch that can drive a GPU of this compute capability."""
    row = _capability(compute_capability)
    return None if row is None else row.first_branch


def last_branch_for(compute_capability: str) -> int | None:
    """Return the last driver branch that drives such a GPU; None: still driven, or not known."""
    row = _capability(compute_capability)
    return None if row is None else row.last_branch


def cuda_window_for(compute_capability: str) -> tuple[str, str | None] | None:
    """Return the first and the last CUDA that compile for a GPU; the last is None while ongoing."""
    row = _capability(compute_capability)
    return None if row is None else (row.first_cuda, row.last_cuda)


@functools.cache
def architectures_of_toolkit(cuda: str) -> tuple[str, ...] | None:
    """Return what the nvcc of a toolkit compiles for: "13.0" → ("sm_75", …, "sm_121").

    None for a toolkit newer than the newest release in the table, or older than CUDA 11.
    """
    wanted = version_tuple(cuda)[:2]
    releases = table().release
    if not version_tuple(releases[0].cuda)[:2] <= wanted <= version_tuple(releases[-1].cuda)[:2]:
        return None
    return tuple(
        "sm_" + row.compute_capability.replace(".", "")
        for row in table().capability
        if version_tuple(row.first_cuda) <= wanted
        and (row.last_cuda is None or wanted <= version_tuple(row.last_cuda))
    )


# NVIDIA's compatibility guide allows the forward-compatibility libraries on data-center GPUs, on
# chosen RTX boards and on Jetson; elsewhere cuInit answers 804.
_DATA_CENTRE = re.compile(r"TESLA|T4G?|(?:A|B|GB|GH|H|L|P|V)[0-9]{1,3}[GSX]?")
_NEVER = ("GEFORCE", "TITAN")


@functools.cache
def allows_forward_compatibility(gpu_name: str) -> bool | None:
    """Tell whether cuda-compat libraries work on this GPU; None for boards where it depends."""
    words = gpu_name.upper().removeprefix("NVIDIA ").replace("-", " ").split()
    if not words:
        return None
    if words[0] in _NEVER:
        return False
    return True if _DATA_CENTRE.fullmatch(words[0]) else None
