"""What a fleet's nodes can be asked for: one table of gpucheck's own commands."""

from dataclasses import dataclass

from gpucheck.fleet.pairs import ALLREDUCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Words after `gpucheck` that print a snapshot, and what the command needs."""

    words: tuple[str, ...]
    takes_gpus: bool  # puts them to work: a scheduler has to give them first
    timeout_seconds: float
    help: str


#: Named, since mpirun gives each rank a terminal to write to, where a snapshot is refused.
_STDOUT = "-"

JOBS = {
    "doctor": Job(
        words=("snapshot", "--output", _STDOUT),
        takes_gpus=False,
        timeout_seconds=120,
        help="what is wrong there",
    ),
    "quick": Job(
        words=("snapshot", "--output", _STDOUT, "--quick"),
        takes_gpus=False,
        timeout_seconds=60,
        help="the same from files and NVML alone",
    ),
    "bench": Job(
        words=("bench", "--snapshot", _STDOUT),
        takes_gpus=True,
        timeout_seconds=600,
        help="how fast each GPU computes and copies",
    ),
    "burn": Job(
        words=("burn", "--snapshot", _STDOUT),
        takes_gpus=True,
        timeout_seconds=900,
        help="whether each GPU computes right under load for two minutes",
    ),
    "smoke": Job(
        words=("smoke", "--snapshot", _STDOUT),
        takes_gpus=True,
        timeout_seconds=900,
        help="whether each GPU trains",
    ),
    # No snapshot comes of this one: see fleet/pairs.
    ALLREDUCE: Job(
        words=("fleet", "meet"),
        takes_gpus=True,
        timeout_seconds=300,
        help="whether nodes add up numbers right and as fast as others, two by two",
    ),
}
