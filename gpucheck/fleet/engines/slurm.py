"""Asks each node by Slurm's own `srun`; `sinfo` says who is out of its reach, and why."""

import math
import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.fleet.engines.interface import Task
from gpucheck.fleet.engines.processes import ProcessEngine
from gpucheck.fleet.nodes import expanded, folded
from gpucheck.usage_error import UsageError

SINFO_SECONDS = 30.0
#: One that fails ends no other; MPI is not ours to start.
_STEP = ("--input=none", "--mpi=none", "--kill-on-bad-exit=0", "--wait=0")
_AWAY = ("drain", "down", "fail", "maint", "power", "unknown", "reserved", "inval", "perfctrs")
_GPUS = re.compile(r"gpu(?::[^:,()]+)*:(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What sinfo says of a node: its GPUs, and why Slurm does not give it ("" where it does)."""

    gpus: int
    away: str


class Slurm(ProcessEngine):
    """One `srun` for each node: a step inside a job, else an allocation of its own."""

    grace_seconds = 5.0  # to give an allocation back

    def __init__(self, gpus: int | None = None) -> None:
        self._gpus = gpus
        self._states: dict[str, NodeState] = {}
        self._is_in_job = "SLURM_JOB_ID" in os.environ

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes of this job, else all that Slurm knows."""
        text = os.environ.get("SLURM_JOB_NODELIST")
        if not text:
            return tuple(self._known(()))
        try:
            return expanded(text)
        except ValueError as error:
            raise UsageError(f"SLURM_JOB_NODELIST: {error}") from None

    def out_of_reach(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return what Slurm does not start anything on."""
        return {node: state.away for node, state in self._known(nodes).items() if state.away}

    def command(self, task: Task, timeout_seconds: float) -> tuple[str, ...]:
        """Take the node's GPUs too: a step without them sees none where devices are constrained."""
        words = ["srun", "--nodes=1", "--ntasks=1", f"--nodelist={task.node}", *_STEP]
        if self._is_in_job:
            return (*words, "--overlap", *task.words)
        words += ["--job-name=gpucheck", f"--time={_minutes(timeout_seconds)}"]
        if gpus := self._gpus_of(task.node):
            words.append(f"--gres=gpu:{gpus}")
        if task.takes_gpus:
            words.append("--exclusive")
        return (*words, *task.words)

    def plan(self, tasks: Sequence[Task], *, timeout_seconds: float, out: Path) -> str:
        """Print a script for sbatch, which waits until all nodes are free together."""
        if not tasks:
            return "# no node can be asked\n"
        nodes = folded(task.node for task in tasks)
        counts = sorted({self._gpus_of(task.node) for task in tasks})
        folder = shlex.quote(str(out))
        lines = [
            "#!/bin/sh",
            "#SBATCH --job-name=gpucheck",
            f"#SBATCH --nodes={len(tasks)}",
            f"#SBATCH --nodelist={nodes}",
            "#SBATCH --ntasks-per-node=1",
            f"#SBATCH --time={_minutes(timeout_seconds)}",
            "#SBATCH --no-kill",
        ]
        gpus = [f"--gres=gpu:{counts[0]}"] if counts[0] else []
        if len(counts) > 1:
            numbers = " or ".join(map(str, counts))
            lines.append(f"# The nodes have {numbers} GPUs; one job takes as many of each.")
        lines += [f"#SBATCH {word}" for word in gpus]
        if tasks[0].takes_gpus:
            lines.append("#SBATCH --exclusive")
        # Slurm's own %N of --output is the host's name, which need not be the node's.
        to_file = f'exec "$@" > {folder}/"$SLURMD_NODENAME".json'
        lines += [
            f"# Then: gpucheck fleet judge {folder} --asked {shlex.quote(nodes)}",
            "# The folder has to be one that all nodes share.",
            f"mkdir -p {folder}",
            shlex.join(("srun", *_STEP, *gpus, "sh", "-c", to_file, "sh", *tasks[0].words)),
        ]
        return "".join(f"{line}\n" for line in lines)

    def _gpus_of(self, node: str) -> int:
        if self._gpus is not None:
            return self._gpus
        return self._known((node,))[node].gpus

    def _known(self, nodes: Sequence[str]) -> dict[str, NodeState]:
        """Ask sinfo once for all of *nodes* (none: every node) that it was not asked for yet."""
        if not nodes or any(node not in self._states for node in nodes):
            unknown = NodeState(gpus=0, away="Slurm knows no node of this name")
            self._states |= dict.fromkeys(nodes, unknown) | parse_sinfo(_sinfo(nodes))
        return {node: self._states[node] for node in nodes or self._states}


def _minutes(seconds: float) -> int:
    """Slurm counts whole minutes, and starts its clock before ours."""
    return math.ceil(seconds / 60) + 1


def _sinfo(nodes: Sequence[str]) -> str:
    command = ["sinfo", "--noheader", "--Node", "--format=%N|%T|%G|%E"]
    if nodes:
        command.append(f"--nodes={folded(nodes)}")
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=SINFO_SECONDS, check=False
        )
    except FileNotFoundError:
        raise UsageError("--engine slurm: there is no sinfo here") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"sinfo did not answer in {SINFO_SECONDS:g} s") from None
    if ended.returncode != 0:
        raise UsageError(f"sinfo: {ended.stderr.strip().rpartition(chr(10))[2]}")
    return ended.stdout


def parse_sinfo(text: str) -> dict[str, NodeState]:
    """Read sinfo's `node|state|gres|reason` lines; a node is listed in each of its partitions."""
    states: dict[str, NodeState] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition("|")
        state, _, rest = rest.partition("|")
        gres, _, reason = rest.partition("|")
        if not name:
            continue
        plain = state.rstrip("*~#!%$@^-").lower()
        silent = "*" in state
        why = ""
        if plain.startswith(_AWAY) or silent:
            why = f"{state}: {reason}" if reason and reason != "none" else state
            why += ", does not respond" if silent else ""
        gpus = sum(int(number) for number in _GPUS.findall(gres))
        states[name] = NodeState(gpus=gpus, away=why)
    return states
