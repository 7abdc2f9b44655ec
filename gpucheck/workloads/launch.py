"""Finds the ranks of a DDP training: those of the job that this is part of, or new ones here."""

import dataclasses
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from gpucheck.payload.assignment import Assignment
from gpucheck.probes.apart import ACCESS_SECONDS, within
from gpucheck.probes.pytorch import choose_python
from gpucheck.workloads.plan import DEFAULT_GPUS, Plan, PlanError

_ENVIRONMENTS = ("VIRTUAL_ENV", "CONDA_PREFIX")
_SLURM_FIRST_PORT = 20_000  # torchrun's own default is 29500; Slurm gives none


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of one process among those that train together; by default it is alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0
    joined: bool = False
    agent_store: bool = False
    rendezvous_id: str = ""


def python_for(python: str | None, variables: Mapping[str, str]) -> str:
    """Return the Python to work with. The caller must have no threads (it forks).

    NoAnswerError: the file system that it is on does not answer; starting it would hang us too.
    """

    def chosen() -> str:
        choice = choose_python(python, variables)
        path = sys.executable if choice is None else choice[0]
        os.path.exists(path)  # noqa: PTH110 - for its wait alone: a link may lead elsewhere
        return path

    named = (f"--python {python}" if python else None, *map(variables.get, _ENVIRONMENTS))
    whom = next(filter(None, named), "PATH")
    return within(ACCESS_SECONDS, whom, chosen)


def place_in_job(variables: Mapping[str, str]) -> Place | None:
    """Return this process's place in the job that torchrun or srun started; None: no such job.

    Raises PlanError where the job's variables contradict each other.
    """
    try:
        if "RANK" in variables and int(variables.get("WORLD_SIZE", "1")) > 1:
            return Place(
                joined=True,
                rank=int(variables["RANK"]),
                world=int(variables["WORLD_SIZE"]),
                local_rank=int(variables.get("LOCAL_RANK", variables["RANK"])),
                address=variables["MASTER_ADDR"],
                port=int(variables["MASTER_PORT"]),
                agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                rendezvous_id=variables.get("TORCHELASTIC_RESTART_COUNT", "0"),
            )
        if "SLURM_PROCID" in variables and int(variables.get("SLURM_NTASKS", "1")) > 1:
            job = int(variables.get("SLURM_JOB_ID", "0"))
            hosts = variables.get("SLURM_STEP_NODELIST") or variables["SLURM_JOB_NODELIST"]
            return Place(
                joined=True,
                rank=int(variables["SLURM_PROCID"]),
                world=int(variables["SLURM_NTASKS"]),
                local_rank=int(variables.get("SLURM_LOCALID", "0")),
                address=variables.get("MASTER_ADDR") or first_host(hosts),
                port=int(variables.get("MASTER_PORT") or _SLURM_FIRST_PORT + job % 10_000),
                rendezvous_id=variables.get("SLURM_STEP_ID", "0"),
            )
    except KeyError as error:
        raise PlanError(f"this is one process of a job, but {error.args[0]} is not set") from error
    except ValueError as error:
        raise PlanError(f"a variable of the job is not a number: {error}") from error
    return None


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: "node[03-05,9],gpu1" → "node03"."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def places_on_this_host(ranks: int) -> list[Place]:
    """Return a place for each of *ranks* processes of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        Place(rank=rank, local_rank=rank, world=ranks, address="127.0.0.1", port=port)
        for rank in range(ranks)
    ]


def assignment(plan: Plan, place: Place) -> Assignment:
    """Return what the process at *place* is to do for *plan*."""
    work = dataclasses.asdict(plan) | {"gpus": plan.gpus or DEFAULT_GPUS}
    return Assignment(**work, **dataclasses.asdict(place))


def to_json(work: Assignment) -> str:
    """Return *work* as the program takes it."""
    return json.dumps(dataclasses.asdict(work))


def visible_gpus(variables: Mapping[str, str], on_the_machine: int) -> int:
    """Return how many GPUs CUDA will show, of those *on_the_machine*."""
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return on_the_machine
    return len([part for part in chosen.split(",") if part.strip()])
