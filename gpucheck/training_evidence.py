"""Answers the questions that several rules ask of a smoke training's facts."""

from collections.abc import Iterator, Sequence

from gpucheck.payload.recipe import PARITY_TOLERANCE
from gpucheck.snapshot import (
    NotSupported,
    Snapshot,
    SoloRun,
    Training,
    TrainingFailure,
    Unknown,
    value,
)
from gpucheck.wording import listed

#: A GPU's arithmetic and the CPU's differ in rounding alone; a wrong one is off by far more.
_ARBITER_TOLERANCE = 1e-2
#: Accuracy of the same weights: 20 of the 10,000 test images.
_ACCURACY_TOLERANCE = 0.002

#: What goes on in each phase, for people: "while importing torch".
PHASES = {
    "import": "importing torch",
    "CUDA start": "starting CUDA",
    "rendezvous": "waiting for all ranks",
    "data": "reading the images",
    "copies": "copying between GPUs",
    "training": "training",
    "parity": "training on one GPU alone, to compare",
}


def where(failure: TrainingFailure) -> str:
    """Say how far a training had come: "in batch 50", "while importing torch"."""
    if failure.step:
        return f"in batch {failure.step}"
    return f"while {PHASES.get(failure.phase, failure.phase)}"


def suspects(failure: TrainingFailure) -> str:
    """Name the suspects: the GPUs, or the rank and its host."""
    if isinstance(failure.rank, int):
        host = f" on {failure.host}" if isinstance(failure.host, str) else ""
        return f"rank {failure.rank}{host}"
    return listed([f"gpu {gpu}" for gpu in failure.gpus])


def first_difference(curve: Sequence[float], reference: Sequence[float]) -> int | None:
    """Return where *curve* leaves *reference* by more than rounding, or None."""
    for at, (one, other) in enumerate(zip(curve, reference, strict=False)):
        if abs(one - other) > PARITY_TOLERANCE:
            return at
    return None


def accuracies_differ(training: Training) -> bool:
    """Return whether one GPU alone reached another accuracy than all together."""
    one, other = training.first_epoch_accuracy, training.reference_accuracy
    if isinstance(one, Unknown) or isinstance(other, Unknown):
        return False
    return abs(one - other) > _ACCURACY_TOLERANCE


def wrong_alone(training: Training) -> tuple[str, ...]:
    """Return which devices, trained alone, do not do what the CPU does: ("gpu 1",)."""
    runs = value(training.solo) or ()
    arbiter = next((run for run in runs if run.where == "cpu" and run.error is None), None)
    return tuple(run.where for run in runs if run.where != "cpu" and _is_wrong(run, arbiter))


def _is_wrong(run: SoloRun, arbiter: SoloRun | None) -> bool:
    if isinstance(run.error, str):
        return True
    return arbiter is not None and any(
        abs(one - other) > _ARBITER_TOLERANCE
        for one, other in zip(run.losses, arbiter.losses, strict=False)
    )


def wrong_together(training: Training) -> tuple[str, ...]:
    """Name the replicas whose answers are not those of the first GPU."""
    found = []
    for replica in value(training.replicas) or ():
        gap = value(replica.output_difference)
        if gap is not None and gap > _ARBITER_TOLERANCE:
            gpu = value(replica.gpu)
            found.append(f"replica {replica.position}" if gpu is None else f"gpu {gpu}")
    return tuple(found)


def gpus_named(names: Sequence[str], training: Training) -> tuple[int, ...]:
    """Return the NVML indexes of the GPUs among *names*: ("gpu 1", "rank 0") → (1, …)."""
    by_name = {f"gpu {gpu.index}": gpu.index for gpu in value(training.gpus) or ()}
    for replica in value(training.replicas) or ():
        gpu = value(replica.gpu)
        if gpu is not None:
            by_name[f"rank {replica.position}"] = gpu
    return tuple(sorted({by_name[name] for name in names if name in by_name}))


def holders(machine: Snapshot, training: Training, gpus: Sequence[int]) -> Iterator[str]:
    """Name the processes that hold memory on *gpus*, or on all GPUs of the training."""
    if isinstance(machine.nvml.gpus, Unknown) or isinstance(training.gpus, Unknown):
        return
    wanted = [gpu for gpu in training.gpus if not gpus or gpu.index in gpus]
    for gpu in machine.nvml.gpus:
        if isinstance(gpu.processes, (Unknown, NotSupported)):
            continue
        if not any(_is_same(gpu.uuid, a.uuid) or _is_same(gpu.bus_id, a.bus_id) for a in wanted):
            continue
        for process in gpu.processes:
            used = process.used_bytes
            size = f", {used >> 20:,} MiB" if isinstance(used, int) else ""
            name = process.name if isinstance(process.name, str) else "a process"
            yield f"{name} (pid {process.pid}{size})"


def _is_same(one: object, other: object) -> bool:
    return isinstance(one, str) and one == other
