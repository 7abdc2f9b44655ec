"""Reads /etc/ld.so.conf and what it includes: which folders feed the loader's cache."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH207

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.readable import readable
from gpucheck.snapshot import LoaderFolder, Unknown

_DEPTH = 4  # includes within includes


def folders(root: Path = Path("/")) -> tuple[LoaderFolder, ...] | Unknown:
    """Return each folder that the cache is made from, with the file that names it.

    Links are followed: what comes back is where the libraries really lie.
    """
    conf = root / "etc/ld.so.conf"
    text = read_text(conf)
    if isinstance(text, Unknown):
        return text
    top = "" if root == Path("/") else str(root)
    found: list[LoaderFolder] = []
    for directory, file in _directories(text or "", conf, root, depth=0):
        folder = f"{top}{directory}"
        names = names_in(folder)
        found.append(
            LoaderFolder(
                directory=readable(os.path.realpath(folder)),
                file=readable(str(file).removeprefix(top)),
                has_cudart=isinstance(names, tuple)
                and any(name.startswith("libcudart.so") for name in names),
            )
        )
    return tuple(dict.fromkeys(found))


def _directories(text: str, file: Path, root: Path, depth: int) -> Iterator[tuple[str, Path]]:
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words:
            continue
        if words[0] == "include" and depth < _DEPTH:
            for pattern in words[1:]:
                for path in _matching(pattern, file.parent, root):
                    included = read_text(path)
                    if isinstance(included, str):
                        yield from _directories(included, path, root, depth + 1)
        elif words[0].startswith("/"):
            yield words[0].partition("=")[0].rstrip("/") or "/", file


def _matching(pattern: str, folder: Path, root: Path) -> list[Path]:
    start, relative = (root, pattern.lstrip("/")) if pattern.startswith("/") else (folder, pattern)
    try:
        # Path.glob stumbles over patterns such as "./".
        return sorted(start / name for name in glob.glob(relative, root_dir=start))
    except (ValueError, OSError):
        return []
