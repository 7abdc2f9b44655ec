"""Finds out whether a site has rules and probes of its own, at next to no cost where it has none.

An installed distribution names its module in the entry point group `gpucheck.rules`. Asking
`importlib.metadata` for it would take 20 ms, so the folders of `sys.path` are searched for the
group's name first; nothing else is imported where nobody names it.
"""

import os
import sys
from functools import cache

GROUP = "gpucheck.rules"
_METADATA = (".dist-info", ".egg-info")
_chosen: tuple[str, ...] = ()


def choose(files: tuple[str, ...]) -> None:
    """Take these files of rules for the rest of this process, too."""
    global _chosen  # noqa: PLW0603 - what the command line names holds for its whole process
    _chosen = files


def chosen() -> tuple[str, ...]:
    """Return the files that the command line names."""
    return _chosen


def has_any() -> bool:
    """Whether there are rules or probes of a site to be loaded."""
    return bool(_chosen or folders())


@cache
def folders() -> tuple[str, ...]:
    """Return the folders of `sys.path` with a distribution that names the group.

    The directory of the caller is none of them: whoever can write there may not run code by it.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib takes three times as long, here and below
    except OSError:  # somebody removed it
        here = ""
    searched = dict.fromkeys(folder for folder in sys.path if folder not in ("", here))
    return tuple(folder for folder in searched if _has_group(folder))


def _has_group(folder: str) -> bool:
    group = f"[{GROUP}]".encode()
    try:
        names = os.listdir(folder)  # noqa: PTH208
    except OSError:  # not there, or a zip file
        return False
    for name in names:
        if name.endswith(_METADATA):
            try:
                with open(f"{folder}/{name}/entry_points.txt", "rb") as file:  # noqa: PTH123
                    if group in file.read():
                        return True
            except OSError:
                continue
    return False
