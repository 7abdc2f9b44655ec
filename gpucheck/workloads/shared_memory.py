"""Removes what killed ranks leave of NCCL in shared memory."""

import os
from pathlib import Path


def shared_memory(folder: Path = Path("/dev/shm")) -> set[Path]:  # noqa: S108 - it is meant
    """Return our user's files of NCCL in shared memory."""
    found = set()
    for path in folder.glob("nccl-*"):
        try:
            if path.stat().st_uid == os.geteuid():
                found.add(path)
        except OSError:
            pass  # gone meanwhile
    return found


def remove_unused(files: set[Path], processes: Path = Path("/proc")) -> None:
    """Remove those of *files* that no process maps: another job of this user may use the others."""
    if not files:
        return
    for maps in processes.glob("[0-9]*/maps"):
        try:
            text = maps.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        files = {path for path in files if str(path) not in text}
    for path in files:
        path.unlink(missing_ok=True)
