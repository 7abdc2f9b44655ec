"""Knows what Python packages with GPU code open by name, and which of them exclude one another.

The table is `packages.json`; each row names its sources. A package that it does not know is judged
by its ELF files alone.
"""

import functools
import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from gpucheck.knowledge import published
from gpucheck.versions import version_tuple

Confidence = Literal["high", "medium", "low"]


class Sonames(msgspec.Struct, frozen=True):
    """The names of CUDA's own libraries in one major release."""

    cuda: int
    names: tuple[str, ...]
    source: tuple[str, ...]
    confidence: Confidence


class Opens(msgspec.Struct, frozen=True, kw_only=True):
    """What a span of a package's versions opens by name, and where it looks."""

    distributions: tuple[str, ...]
    files: tuple[str, ...]  # patterns below site-packages: which of its files may open them
    source: tuple[str, ...]
    confidence: Confidence
    since: str = ""
    before: str = ""
    names: tuple[str, ...] = ()
    by_build_info: bool = False  # the names follow from the CUDA and cuDNN that it was built for
    #: "plain": as the loader does; "own": its code also looks into the folders of NVIDIA's wheels;
    #: "on call": that code runs where a program calls it
    search: Literal["plain", "own", "on call"] = "plain"
    finds_toolkit: bool = False  # … and into CUDA_PATH, CUDA_HOME and /usr/local/cuda
    is_on_demand: bool = False  # a program that never asks for the GPU does not open them
    help: str = ""  # what its authors advise
    brings: str = ""  # the requirement that brings the libraries, by their authors: "jax[cuda12]"
    fits: dict[str, str] = {}  # a library that may be here, and the version of the package for it


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel of NVIDIA's that brings libraries; its name ends in -cu11 or -cu12, and from CUDA 13
    on in nothing, unless it is *always_suffixed*."""

    libraries: tuple[str, ...]
    name: str
    source: tuple[str, ...]
    confidence: Confidence
    always_suffixed: bool = False


class OnTorchIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Packages of which PyTorch's wheel index has a build for each CUDA."""

    distributions: tuple[str, ...]
    source: tuple[str, ...]
    confidence: Confidence


class Optional(msgspec.Struct, frozen=True, kw_only=True):
    """Files that serve a part of a package which many programs never use."""

    distributions: tuple[str, ...]
    files: tuple[str, ...]
    source: tuple[str, ...]
    confidence: Confidence


class OneOf(msgspec.Struct, frozen=True, kw_only=True):
    """Distributions that unpack into one folder, of which only one may be installed."""

    family: str
    distributions: tuple[str, ...]
    gpu: tuple[str, ...]  # those that are the GPU build
    lost: str  # what a program misses where another's files lie there
    source: tuple[str, ...]
    confidence: Confidence


class Table(msgspec.Struct, frozen=True):
    """The whole of `packages.json`."""

    sources: dict[str, str]
    sonames: tuple[Sonames, ...]
    opens: tuple[Opens, ...]
    wheels: tuple[Wheel, ...]
    on_torch_index: tuple[OnTorchIndex, ...]
    known_families: tuple[str, ...]
    optional_files: tuple[Optional, ...]
    one_of: tuple[OneOf, ...]


@functools.cache
def table() -> Table:
    """Return the table, read once."""
    return published("packages.json", Table)


def opens(distribution: str, version: str) -> tuple[Opens, ...]:
    """Return the rows that hold for this version of *distribution*."""
    rows = _by_distribution().get(distribution, ())
    have = version_tuple(version) if rows else ()
    return tuple(
        row
        for row in rows
        if have >= version_tuple(row.since) and (not row.before or have < version_tuple(row.before))
    )


@functools.cache
def _by_distribution() -> dict[str, list[Opens]]:
    found: dict[str, list[Opens]] = {}
    for row in table().opens:
        for name in row.distributions:
            found.setdefault(name, []).append(row)
    return found


def optional_files(distribution: str) -> tuple[str, ...]:
    """Return patterns of the files of *distribution* that work or do not, and nobody minds."""
    rows = (row for row in table().optional_files if distribution in row.distributions)
    return tuple(pattern for row in rows for pattern in row.files)


def wheels_with(sonames: Iterable[str]) -> tuple[str, ...]:
    """Return NVIDIA's wheels that bring *sonames*; () where one of them is in none, or the CUDA
    major does not show in the names."""
    names = list(sonames)
    cuda = cuda_major_of(names) or _cuda_of_others(names)
    found: dict[str, None] = {}
    for soname in names:
        stem, number = split_soname(soname)
        row = next((row for row in table().wheels if stem.split("_")[0] in row.libraries), None)
        if row is None or cuda is None:
            return ()
        name = row.name if cuda >= 13 and not row.always_suffixed else f"{row.name}-cu{cuda}"
        found[f"{name}=={number}.*" if stem.startswith("libcudnn") else name] = None
    return tuple(found)


def _cuda_of_others(sonames: Iterable[str]) -> int | None:
    """Return the one CUDA major that has all of *sonames* among its libraries."""
    asked = set(sonames)
    majors = [row.cuda for row in table().sonames if asked <= set(row.names)]
    return majors[0] if len(majors) == 1 else None


def is_on_torch_index(distribution: str) -> bool:
    """Say whether PyTorch's wheel index has builds of *distribution* for each CUDA."""
    return any(distribution in row.distributions for row in table().on_torch_index)


def is_known_family(distribution: str) -> bool:
    """Say whether the names in the read-only data of *distribution* are those that it opens."""
    return distribution in table().known_families


def family_of(distributions: Iterable[str]) -> OneOf | None:
    """Return the family that all of *distributions* belong to, of which one alone may be here."""
    names = set(distributions)
    return next((row for row in table().one_of if names <= set(row.distributions)), None)


def names_for(cuda: str, cudnn: str | None) -> tuple[str, ...]:
    """Return the SONAMEs of the CUDA libraries for a build with these versions: "12.5.1", "9"."""
    major = version_tuple(cuda)[:1]
    names = next((row.names for row in table().sonames if (row.cuda,) == major), ())
    number = version_tuple(cudnn or "")[:1]
    return (*names, f"libcudnn.so.{number[0]}") if names and number else names


_LIBRARY = re.compile(r"(lib[\w-]+?)\.so(?:\.([\d.]+))?")


def split_soname(soname: str) -> tuple[str, str]:
    """Return stem and number: "libcudart.so.11.0" → ("libcudart", "11.0")."""
    found = _LIBRARY.fullmatch(soname)
    return (soname, "") if found is None else (found[1], found[2] or "")


def cuda_major_of(sonames: Iterable[str]) -> int | None:
    """Return the CUDA major whose runtime or cuBLAS is among *sonames*, the newest; None: neither.

    These two, NVRTC and nvJitLink count as CUDA does; cuFFT, cuSPARSE and cuSOLVER do not.
    """
    found = []
    for soname in sonames:
        stem, number = split_soname(soname)
        if stem in _COUNT_AS_CUDA and number[:2].isdigit():
            found.append(int(number[:2]))
    return max(found, default=None)


_COUNT_AS_CUDA = frozenset({"libcudart", "libcublas", "libcublasLt", "libnvrtc", "libnvJitLink"})
