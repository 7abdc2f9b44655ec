"""Finds the ranks of a DDP training: those of the job that we are in, or new ones on this host."""

import dataclasses
import re
import socket
from collections.abc import Mapping

from gpucheck.workloads.plan import Plan, PlanError

_SLURM_FIRST_PORT = 20_000  # torchrun's own default is 29500; Slurm gives none


def joined(plan: Plan, variables: Mapping[str, str]) -> Plan:
    """Return *plan* as one rank of the job that torchrun or srun started, else *plan* itself.

    Raises PlanError where the job's variables do not make sense.
    """
    try:
        if "RANK" in variables and int(variables.get("WORLD_SIZE", "1")) > 1:
            return dataclasses.replace(
                plan,
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
            return dataclasses.replace(
                plan,
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
        raise PlanError(f"the job's variables make no sense: {error}") from error
    return plan


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: "node[03-05,9],gpu1" → "node03"."""
    match = re.match(r"([^\[,]*)(?:\[([^\],-]*)[^\]]*\])?([^\[,]*)", nodes)
    return "".join(part or "" for part in match.groups()) if match else nodes


def on_this_host(plan: Plan, ranks: int) -> list[Plan]:
    """Return a plan for each of *ranks* processes of this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        dataclasses.replace(
            plan, rank=rank, local_rank=rank, world=ranks, address="127.0.0.1", port=port
        )
        for rank in range(ranks)
    ]


def visible_gpus(variables: Mapping[str, str], on_the_machine: int) -> int:
    """Return how many GPUs CUDA will show, of those *on_the_machine*."""
    chosen = variables.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return on_the_machine
    return len([part for part in chosen.split(",") if part.strip()])
