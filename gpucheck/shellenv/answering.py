"""Makes sure that the file systems answer on which `gpucheck env` is about to read and write.

A process that waits for a dead file system cannot be ended, and would keep its parent from ending.
So another process touches each path first; where it does not come back, it is left there.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpucheck.probes.apart import ProbeError, ProbeProcess
from gpucheck.usage_error import NoAnswerError

PATIENCE_SECONDS = 5.0


def require(paths: Sequence[Path]) -> None:
    """Touch all *paths*, and the folders that they are in.

    Raises NoAnswerError for the first that does not answer. The caller must have no threads.
    """
    process = ProbeProcess("file system", lambda: _touched(paths))
    until = time.monotonic() + PATIENCE_SECONDS
    try:
        for number, path in enumerate(paths):
            try:
                process.facts(number, until)
            except ProbeError:
                raise NoAnswerError(
                    f"{path} did not answer in {PATIENCE_SECONDS:g} s; nothing was changed"
                ) from None
    finally:
        process.end()


def _touched(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        for place in (path, path.parent):
            _touch(place)
        yield str(path)


def _touch(path: Path) -> None:
    """Ask for what the file system alone can say; what it says does not matter."""
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            os.listdir(path)  # noqa: PTH208 - for its wait alone
        elif stat.S_ISREG(path.stat().st_mode):
            with path.open("rb") as file:
                file.read(1)
    except (OSError, ValueError):
        return
