"""How each engine starts one command per node: the words of its launch, and who is out of reach.

Transport, rank and node lists are the engines' own: OpenSSH, Slurm's srun and sinfo. A node's
answer comes as one file of the shared folder or on its command's standard output.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gpucheck.usage_error import UsageError

Engine = Literal["local", "ssh", "slurm"]
SSH_CONNECT_SECONDS = 10
SINFO_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One node, and the command whose standard output is its snapshot."""

    node: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be started, and the nodes that cannot be, with the reason."""

    launches: tuple[Launch, ...]
    out_of_reach: dict[str, str]


def plan(engine: Engine, nodes: Sequence[str], remote: Sequence[str]) -> Plan:
    """Return how *engine* starts *remote* on each of *nodes*. UsageError: it cannot."""
    if engine == "local":
        return Plan(
            launches=tuple(Launch(node=node, command=tuple(remote)) for node in nodes),
            out_of_reach={},
        )
    if engine == "ssh":
        return Plan(
            launches=tuple(Launch(node=node, command=_ssh(node, remote)) for node in nodes),
            out_of_reach={},
        )
    states = slurm_states(nodes)
    away = {node: why for node, why in states.items() if why}
    return Plan(
        launches=tuple(
            Launch(node=node, command=_srun(node, remote)) for node in nodes if node not in away
        ),
        out_of_reach=away,
    )


def _ssh(node: str, remote: Sequence[str]) -> tuple[str, ...]:
    """Ask nothing, share no connection, and give the remote shell one quoted line."""
    if node.startswith("-"):
        raise UsageError(f"{node!r} is no name of a node")
    options = (
        "BatchMode=yes",
        f"ConnectTimeout={SSH_CONNECT_SECONDS}",
        "ControlMaster=no",
        "ControlPath=none",
        "LogLevel=ERROR",
    )
    return (
        *("ssh", "-T"),
        *(word for option in options for word in ("-o", option)),
        *(node, shlex.join(remote)),
    )


def _srun(node: str, remote: Sequence[str]) -> tuple[str, ...]:
    """Take the node's GPUs too: a step without them sees none where devices are constrained."""
    return (
        *("srun", "--nodes=1", "--ntasks=1", f"--nodelist={node}", "--input=none", "--mpi=none"),
        *("--kill-on-bad-exit=0", "--wait=0", "--gpus-per-node=all", "--job-name=gpucheck"),
        *remote,
    )


def slurm_states(nodes: Sequence[str]) -> dict[str, str]:
    """Return for each node why Slurm does not give it; "" where it does. UsageError: no Slurm."""
    command = ["sinfo", "--noheader", "--Node", "--format=%N|%T|%E"]
    if nodes:
        command.append(f"--nodes={','.join(nodes)}")
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
    return parse_sinfo(ended.stdout)


def parse_sinfo(text: str) -> dict[str, str]:
    """Read sinfo's `node|state|reason` lines; a node is listed in each of its partitions."""
    states: dict[str, str] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if not name:
            continue
        plain = state.rstrip("*~#!%$@^-").lower()
        away = plain.startswith(("drain", "down", "fail", "maint", "power", "unknown", "reserved"))
        silent = "*" in state
        why = f"{state}: {reason}" if reason and reason != "none" else state
        states[name] = (f"{why}, does not respond" if silent else why) if away or silent else ""
    return states


def slurm_nodes() -> tuple[str, ...]:
    """Return the nodes of this job, else all that Slurm knows."""
    text = os.environ.get("SLURM_JOB_NODELIST")
    if text:
        from gpucheck.fleet.nodes import expanded

        try:
            return expanded(text)
        except ValueError as error:
            raise UsageError(f"SLURM_JOB_NODELIST: {error}") from None
    return tuple(slurm_states(()))
