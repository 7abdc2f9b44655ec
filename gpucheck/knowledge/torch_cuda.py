"""Knows which torch builds exist: their CUDA, their GPUs, their partners, and the index to ask.

The table is `torch_cuda.json`; each row names its sources. A version that it does not know gives
None, which rules report as not checked.
"""

import functools
import re
from typing import Literal

import msgspec

from gpucheck.knowledge import published
from gpucheck.versions import version_tuple

INDEX = "https://download.pytorch.org/whl"

Confidence = Literal["high", "medium", "low"]


class Release(msgspec.Struct, frozen=True):
    """A torch release, as the default package index gives it for Linux on x86_64."""

    torch: str
    torchvision: str
    torchvision_is_exact: bool  # False: that torchvision allows later releases of torch too
    default_variant: str  # "cu130"
    python: tuple[str, str]  # the oldest and the newest CPython that its wheels are for
    cudnn: str
    nccl: str
    source: tuple[str, ...]
    confidence: Confidence
    torchaudio: str | None = None  # None: no one release belongs to it
    triton: str | None = None  # a version, or a specifier such as "~=3.8.0"


class Variant(msgspec.Struct, frozen=True):
    """A build of a torch minor release for Linux on x86_64, from the wheel index of its name."""

    torch: str  # "2.11"
    variant: str  # "cu130"
    cuda: str  # "13.0"
    cudnn: str
    architectures: tuple[str, ...]  # "sm_90": code for it; "compute_120": PTX
    source: tuple[str, ...]
    confidence: Confidence
    nccl: str | None = None

    @property
    def index_url(self) -> str:
        return f"{INDEX}/{self.variant}"


class StrictMinor(msgspec.Struct, frozen=True):
    """A companion that refuses a torch of another CUDA minor too, up to a release."""

    package: str
    last: str
    source: tuple[str, ...]
    confidence: Confidence


class Table(msgspec.Struct, frozen=True):
    """The whole of `torch_cuda.json`."""

    sources: dict[str, str]
    newest_torchaudio: str
    strict_minor: tuple[StrictMinor, ...]
    release: tuple[Release, ...]
    variant: tuple[Variant, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("torch_cuda.json", Table)


@functools.cache
def release_of(torch: str) -> Release | None:
    """Return the row of a torch version: "2.11.0+cu130" → that of 2.11.0; not for pre-releases."""
    public = torch.partition("+")[0]
    return next((row for row in table().release if row.torch == public), None)


@functools.cache
def release_with_torchvision(torchvision: str) -> Release | None:
    """Return the torch release that a torchvision was made for, where it allows no other."""
    public = torchvision.partition("+")[0]
    for row in table().release:
        if row.torchvision == public and row.torchvision_is_exact:
            return row
    return None


@functools.cache
def release_with_torchaudio(torchaudio: str) -> Release | None:
    """Return the torch release that a torchaudio was made for, where it allows no other."""
    public = torchaudio.partition("+")[0]
    return next((row for row in table().release if row.torchaudio == public), None)


@functools.cache
def torchaudio_for(torch: str) -> str | None:
    """Return the torchaudio that goes with a torch release; None: the table knows none.

    Its version is torch's own from 2.1 on; the newest is 2.11.0, which serves later torches too.
    """
    row = release_of(torch)
    if row is None:
        return None
    if row.torchaudio is not None:
        return row.torchaudio
    newest = table().newest_torchaudio
    return row.torch if version_tuple(row.torch) <= version_tuple(newest) else None


def refuses_other_minor(package: str, version: str) -> bool:
    """Tell whether this companion refuses a torch that is built for another CUDA minor."""
    return any(
        row.package == package and version_tuple(version) <= version_tuple(row.last)
        for row in table().strict_minor
    )


def cuda_of_variant(variant: str) -> str | None:
    """Return the CUDA version of a variant's name: "cu130" → "13.0"; None for "cpu" and others."""
    digits = variant.removeprefix("cu")
    if digits == variant or not digits.isascii() or not digits.isdigit() or len(digits) < 3:
        return None
    return f"{digits[:-1]}.{digits[-1]}"


@functools.cache
def variant_of(torch: str, cuda: str) -> Variant | None:
    """Return the build of a torch version for a CUDA version: ("2.11.0+cu130", "13.0")."""
    minor = version_tuple(torch)[:2]
    wanted = version_tuple(cuda)[:2]
    for row in table().variant:
        if version_tuple(row.torch) == minor and version_tuple(row.cuda) == wanted:
            return row
    return None


_ARCHITECTURE = re.compile(r"(sm|compute)_([0-9]+)([0-9])([af]?)")


@functools.cache
def has_kernels(architectures: tuple[str, ...], compute_capability: str) -> bool:
    """Tell whether a build with these architectures has code that this GPU can run.

    Code for X.Y runs on X.Z where Z is at least Y, and never on another major (CUDA programming
    guide, binary compatibility); PTX of any older capability is compiled by the driver. The suffix
    "a" means that one capability alone, "f" its family within the major.
    """
    wanted = version_tuple(compute_capability)[:2]
    for text in architectures:
        found = _ARCHITECTURE.fullmatch(text)
        if found is None:
            continue
        kind, major, minor, suffix = found.groups()
        have = (int(major), int(minor))
        if suffix == "a":
            fits = have == wanted
        elif kind == "sm" or suffix == "f":
            fits = have[:1] == wanted[:1] and have <= wanted
        else:
            fits = have <= wanted
        if fits:
            return True
    return False
