"""Keeps which nodes each run of a fleet flagged, a file for each run."""

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gpucheck.probes.apart import ACCESS_SECONDS, WRITE_SECONDS, within
from gpucheck.usage_error import UsageError

KEPT_RUNS = 10


class _Run(msgspec.Struct, frozen=True):
    flagged: tuple[str, ...]


def read(folder: Path) -> tuple[frozenset[str], ...]:
    """Return the flagged nodes of earlier runs, newest first; a folder that is not there has none.

    UsageError: a file of the folder cannot be read. NoAnswerError: its file system is silent.
    """
    return within(ACCESS_SECONDS, f"--history {folder}", lambda: _read(folder))


def _read(folder: Path) -> tuple[frozenset[str], ...]:
    runs = []
    for path in sorted(folder.glob("run-*.json"), reverse=True)[: KEPT_RUNS - 1]:
        try:
            runs.append(frozenset(msgspec.json.decode(path.read_bytes(), type=_Run).flagged))
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(f"--history {path}: {error}") from None
    return tuple(runs)


def add(folder: Path, flagged: Sequence[str]) -> None:
    """Add this run to *folder*. UsageError: it cannot be written."""
    within(WRITE_SECONDS, f"--history {folder}", lambda: _add(folder, flagged))


def _add(folder: Path, flagged: Sequence[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        name = time.strftime("run-%Y%m%dT%H%M%S", time.gmtime())
        path = folder / f"{name}-{time.time_ns() % 1_000_000_000:09d}.json"
        path.write_bytes(msgspec.json.encode(_Run(tuple(flagged))))
    except OSError as error:
        raise UsageError(f"--history {folder}: {error.strerror}") from None
