"""Says what to examine of this machine, how far, and for how long."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpucheck.usage_error import UsageError

#: How long the whole examination may take, where nobody says. A driver without persistence may need
#: seconds a GPU to wake eight of them, and a machine that is slow is not a machine that hangs.
TIMEOUT_SECONDS = 30.0
DEEP_TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What one examination covers. Raises `UsageError` where that is a contradiction.

    *python* is the interpreter whose torch is examined (None: the active environment's). *deep*
    imports torch in a child and puts every GPU to work; *quick* reads files and NVML alone.
    *watch_seconds* is the time between two readings of the counters (with *deep*, at least 1).
    *expect_gpus* is how many GPUs there have to be.
    """

    python: str | None = None
    deep: bool = False
    quick: bool = False
    watch_seconds: float = 0.0
    expect_gpus: int | None = None
    timeout_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.deep and self.quick:
            raise UsageError("--deep and --quick contradict each other")
        if self.python is not None:
            from gpucheck.probes.apart import ACCESS_SECONDS, within

            python = self.python
            whom = f"--python {python}"
            within(ACCESS_SECONDS, whom, lambda: _refuse_what_cannot_run(python))

    @property
    def seconds(self) -> float:
        """How long the examination may take."""
        if self.timeout_seconds is not None:
            return self.timeout_seconds
        return (DEEP_TIMEOUT_SECONDS if self.deep else TIMEOUT_SECONDS) + self.watch_seconds


def _refuse_what_cannot_run(python: str) -> None:
    """Refuse a *python* that is no program, no name on PATH and no environment, before a wait."""
    path = Path(python)
    if "/" not in python:
        fault = "" if shutil.which(python) else "is not on PATH"
    elif not os.path.lexists(path):
        fault = "is not there"
    elif not path.exists():
        fault = "is a link to nothing"
    elif path.is_dir():
        has_python = any(os.path.lexists(path / "bin" / name) for name in ("python", "python3"))
        fault = "" if has_python else "is a directory without bin/python"
    else:
        fault = "" if os.access(path, os.X_OK) else "is not a program (it is not executable)"
    if fault:
        raise UsageError(f"--python {python}: {fault}")
