"""Rules about what a smoke training reached: TRN001 to TRN004, TRN007, TRN008."""

from collections.abc import Generator

from gpucheck.conditions import was_trained
from gpucheck.knowledge import recipe
from gpucheck.rule import (
    Answers,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import NotFinite, Snapshot, Training, TrainingGpu, Unknown, value
from gpucheck.training_evidence import (
    accuracies_differ,
    first_difference,
    gpus_named,
    wrong_alone,
    wrong_together,
)
from gpucheck.wording import listed

#: Whatever works on a GPU holds a CUDA context of hundreds of MiB there.
_LEAST_CONTEXT_BYTES = 64 << 20
_BROKEN_GPU = ("GPU001", "GPU003", "GPU004", "GPU011", "GPU023")
_DEEP = command("gpucheck doctor --deep")
_FIND_THE_GPU = Remedy(
    "Train on each GPU alone to find the one that does not learn, and examine it",
    steps=(command("gpucheck smoke --gpus 0,"), _DEEP),
)


def _training(machine: Snapshot) -> Training:
    """Return the training that `was_trained` has seen."""
    return machine.training or Training()


def _bounds(training: Training) -> Generator[NotChecked, None, recipe.Bounds | None]:
    """Return what the recipe reaches with the training's data."""
    given = (training.batch_size, training.learning_rate)
    if given != (recipe.BATCH_SIZE, recipe.LEARNING_RATE):
        yield NotChecked(
            why=f"what to expect is measured for batches of {recipe.BATCH_SIZE} and a learning "
            f"rate of {recipe.LEARNING_RATE}",
            kind="by design",
        )
        return None
    if isinstance(training.data, Unknown):
        yield NotChecked.because(training.data)
        return None
    return recipe.BOUNDS.get(training.data or "")


@rule(
    "TRN001",
    Severity.ERROR,
    "The training loss is higher than the recipe's",
    caused_by=("LNK014", "TRN002", "TRN003", *_BROKEN_GPU),
    when=was_trained,
)
def loss_too_high(machine: Snapshot) -> Answers:
    """The training ran to its end, but the network did not learn what it learns elsewhere.

    The smoke training always takes the same images, the same network and the same steps. Over
    many seeds the loss at the end falls in a narrow band, and yours is above it. Something on the
    way from the images to the weights is wrong: memory, a copy between two GPUs, or a GPU that
    computes wrongly. Look at TRN003 and LNK014 first, since they say which GPU it is; then run
    `gpucheck doctor --deep`.
    """
    training = _training(machine)
    # A training that did not end has an unknown accuracy, and maybe some losses.
    if (yield from known(training.accuracy)) is None:
        return
    bounds = yield from _bounds(training)
    losses = yield from known(training.losses)
    if bounds is None or losses is None:
        return
    if not losses or losses[-1] > bounds.loss_at_most:
        last = f"{losses[-1]:.3f}" if losses else "none"
        low, high = bounds.loss_seen
        yield Symptom(
            saw=f"the last loss is {last}; the recipe ends between {low:.2f} and {high:.2f} "
            f"({bounds.seeds} seeds), and {bounds.loss_at_most:.2f} is the limit",
            remedy=_FIND_THE_GPU,
        )


@rule(
    "TRN002",
    Severity.ERROR,
    "A loss or gradient is not a finite number",
    caused_by=("LNK014", *_BROKEN_GPU),
    when=was_trained,
)
def not_finite(machine: Snapshot) -> Answers:
    """With the recipe's learning rate no number in this training grows without bound.

    NaN or infinity in a loss or a gradient then comes from broken memory, from a corrupted copy
    between GPUs, or from a GPU that computes wrongly. After it was seen, each GPU was trained
    alone: the one that does it again is the culprit. With a far larger learning rate than the
    recipe's 0.01, though, any training can diverge.
    """
    training = _training(machine)
    found = yield from known(training.not_finite)
    if found is None:
        return
    wrong = wrong_alone(training)
    alone = f"; alone, {listed(wrong)} fails too" if wrong else ""
    if training.learning_rate > 10 * recipe.LEARNING_RATE:
        remedy = Remedy(
            f"Try the recipe's learning rate first: {recipe.LEARNING_RATE}",
            steps=(command("gpucheck smoke --lr {rate}", rate=str(recipe.LEARNING_RATE)),),
        )
    elif wrong:
        remedy = Remedy(f"Take {listed(wrong)} out of service and examine it", steps=(_DEEP,))
    else:
        remedy = Remedy(
            "Each GPU alone computes correctly: examine the copies between them", steps=(_DEEP,)
        )
    yield Symptom(
        saw=f"{found.what} of batch {found.step} is not a finite number{alone}",
        remedy=remedy,
        subject=wrong[0] if len(wrong) == 1 else "",
        gpus=gpus_named(wrong, training),
    )


@rule(
    "TRN003",
    Severity.ERROR,
    "Training on several GPUs gives other results than on one",
    caused_by=("LNK014", "TRN002", *_BROKEN_GPU, "LNK010"),
    when=was_trained,
)
def parity_lost(machine: Snapshot) -> Answers:
    """The same seed gives the same loss curve on one GPU and on many, to the last digits.

    Here the curves differ, so data changes on its way or is computed wrongly: a broken path
    between two GPUs (peer-to-peer copies through an IOMMU that translates, a bad NVLink), a GPU
    with broken memory, or a replica that does not take part. This is how a machine trains for
    weeks and learns nothing. Each GPU was then trained alone, with the CPU as the arbiter: a GPU
    whose own curve is off is broken; where every GPU alone is right, the path between them is not.
    """
    training = _training(machine)
    reference = yield from known(training.reference_losses)
    losses = yield from known(training.losses)
    if reference is None or losses is None:
        return
    at = first_difference(losses, reference)
    if at is not None:
        seen = (
            f"from batch {at * training.log_interval + 1} on the losses differ: {losses[at]:.6f} "
            f"together, {reference[at]:.6f} on one alone"
        )
    elif accuracies_differ(training):
        seen = (
            f"after one epoch {training.first_epoch_accuracy:.2%} of the test images are "
            f"recognized; one GPU alone reaches {training.reference_accuracy:.2%}"
        )
    else:
        return
    alone, together = wrong_alone(training), wrong_together(training)
    if alone:
        seen += f"; trained alone, {listed(alone)} is off"
        text = f"Take {listed(alone)} out of service, and examine it"
    elif together:
        seen += f"; each is right alone, but together {listed(together)} answers differently"
        text = "Examine the path to that GPU: the link, the IOMMU, peer-to-peer copies"
    else:
        seen += "; each GPU alone is right"
        text = "Examine the paths between the GPUs: links, the IOMMU, peer-to-peer copies"
    names = alone or together
    yield Symptom(
        saw=seen,
        remedy=Remedy(
            text,
            steps=(_DEEP,),
            verify=command("NCCL_P2P_DISABLE=1 gpucheck smoke", needs="gpucheck"),
        ),
        subject=names[0] if len(names) == 1 else "",
        gpus=gpus_named(names, training),
    )


@rule(
    "TRN004",
    Severity.ERROR,
    "A GPU that was asked for did no work",
    caused_by=("TRN006", "TRN005", "TRN011"),
    when=was_trained,
)
def idle_gpu(machine: Snapshot) -> Answers:
    """A training that quietly runs on fewer GPUs looks healthy, and proves nothing of the rest.

    Each replica notes how many images it was given, and NVML says how much memory was in use on
    each GPU in the meantime. DataParallel, for one, passes a model through unchanged where it
    finds no CUDA, and says nothing. Look at CUDA_VISIBLE_DEVICES, and at what else runs there.
    """
    training = _training(machine)
    replicas = yield from known(training.replicas)
    if replicas is None:
        return
    if isinstance(training.not_finite, NotFinite):
        yield NotChecked(why="the training was stopped early, for a number that is not finite")
        return
    for replica in replicas:
        expected = training.epochs * _images_for(
            replica.position, len(replicas), training.batch_size
        )
        number = value(replica.gpu)
        subject = f"replica {replica.position}" if number is None else f"gpu {number}"
        images = yield from known(replica.images, subject)
        if images is not None and images < expected:
            yield Symptom(
                saw=f"replica {replica.position} was given {images:,} of its {expected:,} images",
                remedy=Remedy(
                    "Find what keeps it from its part: CUDA_VISIBLE_DEVICES, MIG, exclusive "
                    "compute mode",
                    steps=(command("gpucheck doctor"),),
                ),
                subject=subject,
                gpus=() if number is None else (number,),
            )
    if training.device == "cuda" and training.strategy == "dp":
        for one in (yield from known(training.gpus)) or ():
            yield from _held_memory(one)


def _held_memory(gpu: TrainingGpu) -> Answers:
    subject = f"gpu {gpu.index}"
    watched = yield from known(gpu.watched, subject)
    if watched is None:
        return
    if not watched.samples:
        yield NotChecked(why="NVML gave no reading during the training", subject=subject)
        return
    before = yield from known(watched.memory_used_before_bytes, subject)
    most = yield from known(watched.memory_used_maximum_bytes, subject)
    if before is None or most is None:
        return
    grown = max(0, most - before)
    if grown < _LEAST_CONTEXT_BYTES:
        yield Symptom(
            saw=f"its memory in use grew by {grown >> 20} MiB during the training",
            remedy=Remedy(
                "Find what keeps the GPU from its part: CUDA_VISIBLE_DEVICES, MIG",
                steps=(command("gpucheck doctor"),),
            ),
            subject=subject,
            gpus=(gpu.index,),
        )


def _images_for(position: int, parts: int, batch: int) -> int:
    """Return how many images of one epoch part *position* of *parts* gets (as torch.chunk cuts)."""
    full, rest = divmod(recipe.TRAINING_IMAGES, batch)
    return full * _part(batch, position, parts) + _part(rest, position, parts)


def _part(batch: int, position: int, parts: int) -> int:
    size = -(-batch // parts)
    return max(0, min(size, batch - position * size))


@rule(
    "TRN007",
    Severity.ERROR,
    "The test accuracy is lower than the recipe's",
    caused_by=("LNK014", "TRN002", "TRN003", "TRN001", *_BROKEN_GPU),
    when=was_trained,
)
def accuracy_too_low(machine: Snapshot) -> Answers:
    """After the training the network has to recognize images that it never saw.

    Over many seeds the recipe recognizes nearly the same share of them, and yours is below it by
    far more than chance explains: what was learned is not what the images show. The causes are
    those of TRN001: memory, copies between GPUs, a GPU that computes wrongly.
    """
    training = _training(machine)
    accuracy = yield from known(training.accuracy)
    if accuracy is None:
        return
    bounds = yield from _bounds(training)
    if bounds is not None and accuracy < bounds.accuracy_at_least:
        low, high = bounds.accuracy_seen
        yield Symptom(
            saw=f"{accuracy:.1%} of the test images are recognized; the recipe reaches "
            f"{low:.1%} to {high:.1%} ({bounds.seeds} seeds)",
            remedy=_FIND_THE_GPU,
        )


@rule("TRN008", Severity.ERROR, "The MNIST files cannot be used", when=was_trained)
def data_unreadable(machine: Snapshot) -> Answers:
    """The training compares its result with what the recipe reaches on exactly these images.

    So every file is checked before: its size, its magic number, its labels, and the checksum of
    its unpacked content. A download that was cut off is the usual cause. Fetch the files again,
    or let gpucheck draw its own digits with `--data synthetic`, which needs no network.
    """
    fault = yield from known(_training(machine).data_fault)
    if fault is not None:
        yield Symptom(
            saw=f"{fault.path}: {fault.problem}; expected {fault.expected}",
            remedy=Remedy(
                "Fetch the file again, or train on synthetic digits",
                steps=(command("gpucheck smoke --data synthetic"),),
            ),
            subject=fault.path,
        )
