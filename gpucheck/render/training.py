"""The smoke training in words and numbers: what was reached, and what it cost."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gpucheck.knowledge import recipe
from gpucheck.snapshot import (
    NotSupported,
    Replica,
    Snapshot,
    Training,
    TrainingGpu,
    Unknown,
    WatchedGpu,
)
from gpucheck.wording import ranges

REHEARSAL = "A REHEARSAL ON THE CPU: NO GPU WAS PROVEN."


class GpuEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU in the training. null: not known."""

    index: int
    name: str | None
    bus_id: str | None
    images: int | None
    share: float | None
    memory_used_maximum_bytes: int | None
    utilization_maximum_percent: int | None
    temperature_maximum_celsius: int | None
    power_maximum_watts: float | None


class ReplicaEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One replica or rank, and its part of the work."""

    position: int
    gpu: int | None
    host: str | None
    images: int | None
    share: float | None


class TrainingEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The smoke training as the JSON shows it. null: not known, or it was not reached."""

    strategy: str
    device: str
    gpus: tuple[int, ...] | None
    replicas: tuple[ReplicaEntry, ...] | None
    data: str | None
    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    losses: tuple[float, ...] | None
    reference_losses: tuple[float, ...] | None
    parity: float | None  # largest difference between the two curves
    accuracy: float | None
    images_per_second: float | None
    reference_images_per_second: float | None
    phases_ms: Mapping[str, float]
    per_gpu: tuple[GpuEntry, ...] | None


def entry(training: Training) -> TrainingEntry:
    """Return *training* in the shape of the JSON."""
    gpus = _known(training.gpus)
    replicas = _known(training.replicas)
    return TrainingEntry(
        strategy=training.strategy,
        device=training.device,
        gpus=None if gpus is None else tuple(gpu.index for gpu in gpus),
        replicas=None if replicas is None else tuple(_replica(one) for one in replicas),
        data=_known(training.data),
        epochs=training.epochs,
        batch_size=training.batch_size,
        learning_rate=training.learning_rate,
        seed=training.seed,
        losses=_known(training.losses),
        reference_losses=_known(training.reference_losses),
        parity=parity(training),
        accuracy=_known(training.accuracy),
        images_per_second=_known(training.images_per_second),
        reference_images_per_second=_known(training.reference_images_per_second),
        phases_ms=training.phases_ms,
        per_gpu=None if gpus is None else tuple(_gpu(one, replicas or ()) for one in gpus),
    )


def parity(training: Training) -> float | None:
    """Return the largest difference between the curve and that of one GPU alone."""
    losses, reference = _known(training.losses), _known(training.reference_losses)
    if not losses or not reference:
        return None
    pairs = zip(losses, reference, strict=False)
    return float(max(abs(one - other) for one, other in pairs))


def _replica(replica: Replica) -> ReplicaEntry:
    return ReplicaEntry(
        position=replica.position,
        gpu=_known(replica.gpu),
        host=_known(replica.host),
        images=_known(replica.images),
        share=_known(replica.share),
    )


def _gpu(gpu: TrainingGpu, replicas: tuple[Replica, ...]) -> GpuEntry:
    mine = [one for one in replicas if one.gpu == gpu.index]
    images = [one.images for one in mine if isinstance(one.images, int)]
    shares = [one.share for one in mine if isinstance(one.share, float)]
    watched = gpu.watched if isinstance(gpu.watched, WatchedGpu) else WatchedGpu(index=-1)
    return GpuEntry(
        index=gpu.index,
        name=_known(gpu.name),
        bus_id=_known(gpu.bus_id),
        images=sum(images) if images else None,
        share=sum(shares) if shares else None,
        memory_used_maximum_bytes=_known(watched.memory_used_maximum_bytes),
        utilization_maximum_percent=_known(watched.utilization_maximum_percent),
        temperature_maximum_celsius=_known(watched.temperature_maximum_celsius),
        power_maximum_watts=_known(watched.power_maximum_watts),
    )


def _known(fact: Any) -> Any:  # noqa: ANN401 - a fact of any type
    return None if isinstance(fact, Unknown | NotSupported) else fact


# ------------------------------------------------------------------------------------- in words


def line(machine: Snapshot) -> str:
    """Say in one line what the training did."""
    training = machine.training
    if training is None:
        return ""
    data = {"mnist": "MNIST", "synthetic": "synthetic digits"}.get(str(training.data), "MNIST")
    strategy = "DDP" if training.strategy == "ddp" else "DataParallel"
    replicas = _known(training.replicas)
    where = "the CPU, a rehearsal" if training.device == "cpu" else _where(training)
    gpus = {replica.gpu for replica in replicas or ()}
    parts = f" in {len(replicas)} parts" if replicas and len(replicas) != len(gpus) else ""
    accuracy = _known(training.accuracy)
    failure = _known(training.failure)
    if accuracy is not None:
        end = f"test accuracy {accuracy:.1%}"
    elif failure is not None and failure.kind == "blocked":
        end = f"not begun, {failure.message}"
    else:
        end = "not finished"
    return f"{data}, {strategy} on {where}{parts}: {end}"


def _where(training: Training) -> str:
    replicas = _known(training.replicas) or ()
    numbers = sorted({replica.gpu for replica in replicas if isinstance(replica.gpu, int)})
    numbers = numbers or [gpu.index for gpu in _known(training.gpus) or ()]
    if not numbers:
        return f"--gpus {training.gpus_wanted}"
    return f"GPU{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def details(training: Training) -> Iterator[str]:
    """Yield what was reached and what it cost, line by line."""
    if training.device == "cpu":
        yield REHEARSAL
    losses, reference = _known(training.losses), _known(training.reference_losses)
    if losses:
        every = f"loss, every {training.log_interval} batches"
        if _is_the_published(training):
            # Names of one length, so that the curves stand under each other on 80 columns.
            yield f"{every}, next to the curve published for the recipe:"
            yield f"this training {_numbers(losses)}"
            yield f"the published {_numbers(recipe.PUBLISHED_LOSSES)}"
            yield "(2.388 as printed there, and without normalized inputs)"
        else:
            yield f"{every}: {_numbers(losses)}"
    gap = parity(training)
    if gap is not None and reference:
        alone = "the CPU in one part" if training.device == "cpu" else "one GPU alone"
        yield f"{alone}, same seed: the curves differ by at most {gap:.1e}"
    if (accuracy := _known(training.accuracy)) is not None:
        yield f"test accuracy {accuracy:.2%}"
    yield from _shares(training)
    yield from _speed(training)
    if len(training.phases_ms) > 1:  # a total alone: it was not begun
        yield _phases(training.phases_ms)


def _is_the_published(training: Training) -> bool:
    """Tell whether this was the training whose curve was published, but for normalized images."""
    batches = (training.batch_size, training.learning_rate, training.epochs)
    return batches == (recipe.BATCH_SIZE, recipe.LEARNING_RATE, 1) and training.data == "mnist"


def _numbers(losses: tuple[float, ...]) -> str:
    shown = " ".join(f"{loss:.3f}" for loss in losses[-10:])
    return f"… {shown}" if len(losses) > 10 else shown


def _shares(training: Training) -> Iterator[str]:
    replicas = _known(training.replicas) or ()
    if not replicas:
        return
    parts = []
    for replica in replicas:
        gpu = _known(replica.gpu)
        name = f"replica {replica.position}" if gpu is None else f"gpu {gpu}"
        if training.strategy == "ddp":
            name = f"rank {replica.position}"
        share = _known(replica.share)
        parts.append(f"{name} {share:.0%}" if share is not None else f"{name} ?")
    yield f"share of the work: {', '.join(parts)}"
    used = [gpu for gpu in (_known(one.gpu) for one in replicas) if gpu is not None]
    if training.strategy == "dp" and len(set(used)) < len(used):
        yield f"{len(used)} replicas on {len(set(used))} GPUs"


def _speed(training: Training) -> Iterator[str]:
    speed = _known(training.images_per_second)
    alone = _known(training.reference_images_per_second)
    if speed is None:
        return
    if alone is None or training.device == "cpu":
        yield f"{speed:,.0f} images/s"
        return
    ratio = speed / alone
    yield f"{speed:,.0f} images/s; one GPU alone {alone:,.0f}: {ratio:.2f} times as fast"
    if ratio < 1:
        yield (
            "For a network this small several GPUs are slower than one: sharing out the work "
            "costs more than the work. This training proves the GPUs, not their speed."
        )


#: What a phase was for, in two words.
_PHASES = {
    "import": "torch import",
    "rendezvous": "waiting for ranks",
    "data": "images",
    "copies": "checked copies",
    "parity": "one device alone",
}


def _phases(phases: Mapping[str, float]) -> str:
    parts = [
        f"{_PHASES.get(name, name)} {spent / 1000:.2f} s"
        for name, spent in phases.items()
        if name != "total"
    ]
    total = phases.get("total", 0.0)
    return f"{', '.join(parts)}; in all {total / 1000:.2f} s"
