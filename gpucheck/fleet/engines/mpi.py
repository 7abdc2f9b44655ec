"""Asks each node by Open MPI's `mpirun`, one rank for each node.

Each rank has an mpirun of its own: Open MPI ends all ranks of a job when one of them fails, and
starts none when one node cannot be reached
(https://docs.open-mpi.org/en/v5.0.x/man-openmpi/man1/mpirun.1.html, "Exit status").
"""

import os
import re
import shutil
from pathlib import Path

from gpucheck.fleet.engines.interface import Task
from gpucheck.fleet.engines.processes import ProcessEngine
from gpucheck.usage_error import UsageError

#: Files with the hosts of a job, a line for each slot: of PBS, and of LSF.
NODE_FILES = ("PBS_NODEFILE", "LSB_DJOB_HOSTFILE")
_FRAME = "-" * 60  # around a message of Open MPI's own
_DIED = re.compile(r"process rank \d+ .*exited on signal \d+.*")


class OpenMpi(ProcessEngine):
    """One `mpirun` for each node."""

    grace_seconds = 5.0  # to end what it started on the node

    def __init__(self) -> None:
        if shutil.which("mpirun") is None:
            raise UsageError("--engine mpi: there is no mpirun here")

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes of this job of PBS or LSF."""
        for name in NODE_FILES:
            if file := os.environ.get(name):
                try:
                    lines = Path(file).read_text(encoding="utf-8").split()
                except OSError as error:
                    raise UsageError(f"{name}={file}: {error.strerror}") from None
                return tuple(dict.fromkeys(lines))
        raise UsageError("--engine mpi needs --nodes outside a job of PBS or LSF")

    def command(self, task: Task, timeout_seconds: float) -> tuple[str, ...]:
        """Bind to no core: the rank is a whole machine's."""
        del timeout_seconds
        if task.node.startswith("-"):
            raise UsageError(f"{task.node!r} is no name of a node")
        # Open MPI refuses root unless told; gpucheck sees more as root, so that it is common here.
        root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
        return (
            *("mpirun", *root, "-np", "1", "--host", task.node, "--bind-to", "none"),
            *task.words,
        )

    def reason(self, errors: str) -> str:
        """Return the signal that ended the rank, else what was said before Open MPI's advice."""
        if died := _DIED.search(errors):
            return died.group()
        said, _, advice = errors.partition(_FRAME)
        if said.strip():
            return super().reason(said)
        first_sentence = re.split(r"[.:]\s", advice.strip(" -\n"), maxsplit=1)[0]
        return " ".join(first_sentence.split())
