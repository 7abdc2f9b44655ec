"""Reads which libraries torch's own `__init__.py` opens by their full path, and when."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preload:
    """A library that torch opens by full path, if a wheel brings it."""

    folder: str  # "cublas"
    pattern: str  # "libcublas.so.*[0-9]"
    is_required: bool = True  # where it is missing, torch leaves out those after it


@dataclass(frozen=True, slots=True)
class Preloading:
    """What this torch's `__init__.py` preloads, and when."""

    marker: str | None = None  # text that /proc/self/maps must hold; None: never unasked
    always: tuple[Preload, ...] = ()  # after libtorch_global_deps.so was opened
    on_failure: tuple[Preload, ...] = ()  # after it could not be
    looks_in_cu_folder: bool = False  # nvidia/cu13/lib
    looks_beside: bool = False  # cudnn/lib, straight in an element of sys.path


_FUNCTION = r"^def {}\(.*?(?=^\S)(?:\).*?(?=^\S))?"
_PAIR = re.compile(
    r"""\(?["'](\w+)["']\s*[,:]\s*["'](lib[^"']+)["']\s*(,\s*required\s*=\s*False)?"""
)
_MARKER = re.compile(r"""if\s+["']([^"']+)["']\s+not\s+in\s+_maps""")


def read_preloading(source: str) -> Preloading:
    """Read out of torch's `__init__.py` which wheel libraries it opens itself.

    The text says more than a table of versions could: the list changed often, and vendors patch
    it. A text without these functions (torch before 2.0) preloads nothing.
    """
    load = _function(source, "_load_global_deps")
    everything = tuple(_preloads(_function(source, "_preload_cuda_deps")))
    attempt, _, rescue = load.partition("except OSError")
    marker = _MARKER.search(attempt)
    always: tuple[Preload, ...] = ()
    if marker is not None:
        after = attempt[marker.end() :]
        always = tuple(_preloads(after)) or everything
    paths = _function(source, "_get_cuda_dep_paths") + _function(source, "_preload_cuda_deps")
    return Preloading(
        marker=None if marker is None else marker[1],
        always=always,
        on_failure=tuple(_preloads(rescue)) or (everything if rescue else ()),
        looks_in_cu_folder='f"cu{' in paths or "f'cu{" in paths,
        looks_beside=bool(re.search(r"join\(\s*path,\s*lib_folder,", paths)),
    )


def _function(source: str, name: str) -> str:
    start = source.find(f"\ndef {name}(")
    if start < 0:
        return ""
    end = re.compile(r"^(?=[^\s#)])", re.MULTILINE).search(source, start + 5)
    return source[start : end.start() if end else len(source)]


def _preloads(text: str) -> Iterator[Preload]:
    for match in _PAIR.finditer(text):
        yield Preload(match[1], match[2], is_required=match[3] is None)
