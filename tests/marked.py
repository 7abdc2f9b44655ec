"""Starts gpucheck so that all it started can be found again, whoever their parents are by then."""

import time
import uuid
from pathlib import Path

MARK = "GPUCHECK_TEST_MARK"


def new_mark() -> str:
    return uuid.uuid4().hex


def marked(mark: str) -> dict[int, str]:
    """The processes whose environment holds *mark*, and their states; zombies are left out."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                    state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                    found[int(folder.name)] = state
            except OSError:
                continue
    return found


def left_after(mark: str, seconds: float) -> dict[int, str]:
    """Wait for all marked processes to go, and return those that are still there."""
    until = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.02)
    return left
