"""Rules about the smoke training: what it reached, and what stopped it."""

from collections.abc import Generator, Iterator, Sequence

from gpucheck.knowledge import recipe
from gpucheck.payload.recipe import PARITY_TOLERANCE
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    NotFinite,
    NotSupported,
    Snapshot,
    SoloRun,
    Training,
    TrainingFailure,
    TrainingGpu,
    Unknown,
    WatchedGpu,
)

#: A GPU's arithmetic and the CPU's differ in rounding alone; a wrong one is off by far more.
_ARBITER_TOLERANCE = 1e-2
#: Accuracy of the same weights: 20 of the 10,000 test images.
_ACCURACY_TOLERANCE = 0.002
#: Whatever works on a GPU holds a CUDA context of hundreds of MiB there.
_LEAST_CONTEXT_BYTES = 64 << 20
#: nvmlClocksEventReasons (nvml.h): bits that mean trouble, and what they are called
_THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
}
_BROKEN_GPU = ("GPU001", "GPU003", "GPU004", "GPU011", "GPU023")
_NO_DRIVER = ("DRV001", "DRV002", "DRV003", "DRV006", "DRV007", "DRV008", "DRV009")


def _training(machine: Snapshot) -> Generator[NotApplicable, None, Training | None]:
    """Return the training's facts; where none was run, the question does not arise."""
    if machine.training is None:
        yield NotApplicable(why="no smoke training was run")
    return machine.training


def _is_the_recipe(training: Training) -> bool:
    return (training.batch_size, training.learning_rate) == (
        recipe.BATCH_SIZE,
        recipe.LEARNING_RATE,
    )


def _bounds(training: Training) -> Generator[NotChecked, None, recipe.Bounds | None]:
    """Return what the recipe reaches with the training's data."""
    if not _is_the_recipe(training):
        yield NotChecked(
            why=f"what to expect is measured for batches of {recipe.BATCH_SIZE} and a learning "
            f"rate of {recipe.LEARNING_RATE}"
        )
        return None
    if isinstance(training.data, Unknown):
        yield NotChecked(why=training.data.why)
        return None
    return recipe.BOUNDS.get(training.data or "")


@rule(
    "TRN001",
    Severity.ERROR,
    "The loss did not fall to the level that the recipe reaches",
    caused_by=("LNK014", "TRN002", "TRN003", *_BROKEN_GPU),
)
def loss_too_high(machine: Snapshot) -> Answers:
    """The training ran to its end, but the network did not learn what it learns elsewhere.

    The smoke training always takes the same images, the same network and the same steps. Over
    many seeds the loss at the end lies in a narrow band, and yours lies above it. Something on
    the way from the images to the weights is wrong: memory, a copy between two GPUs, or a GPU
    that computes wrongly. Look at TRN003 and LNK014 first, since they say which GPU it is; then
    run `gpucheck doctor --deep`.
    """
    training = yield from _training(machine)
    if training is None:
        return
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
            fix="Train on each GPU alone to find the one that does not learn, and examine it.",
            commands=("gpucheck smoke --gpus 0,", "gpucheck doctor --deep"),
        )


@rule(
    "TRN002",
    Severity.ERROR,
    "A loss or a gradient is not a finite number",
    caused_by=("LNK014", *_BROKEN_GPU),
)
def not_finite(machine: Snapshot) -> Answers:
    """With the recipe's learning rate no number in this training ever grows without bound.

    NaN or infinity in a loss or a gradient then comes from broken memory, from a corrupted copy
    between GPUs, or from a GPU that computes wrongly. After it was seen, each GPU was trained
    alone: the one that does it again is the culprit. With a far larger learning rate than the
    recipe's 0.01, though, any training can diverge.
    """
    training = yield from _training(machine)
    if training is None:
        return
    if isinstance(training.not_finite, Unknown):
        yield NotChecked(why=training.not_finite.why)
        return
    if training.not_finite is None:
        return
    found = training.not_finite
    odd = _odd_ones(training)
    alone = f"; alone, {_and(odd)} fails too" if odd else ""
    if training.learning_rate > 10 * recipe.LEARNING_RATE:
        fix = f"Try the recipe's learning rate first: {recipe.LEARNING_RATE}."
        commands: tuple[str, ...] = (f"gpucheck smoke --lr {recipe.LEARNING_RATE}",)
    elif odd:
        fix = f"Take {_and(odd)} out of service and examine it."
        commands = ("gpucheck doctor --deep",)
    else:
        fix = "Each GPU alone computes rightly: examine the copies between them."
        commands = ("gpucheck doctor --deep", "gpucheck smoke --gpus 0,")
    yield Symptom(
        saw=f"{found.what} of batch {found.step} is not a finite number{alone}",
        fix=fix,
        commands=commands,
        subject=odd[0] if len(odd) == 1 else "",
    )


@rule(
    "TRN003",
    Severity.ERROR,
    "Several GPUs together do not compute what one computes alone",
    caused_by=("LNK014", "TRN002", *_BROKEN_GPU, "LNK010"),
)
def parity_lost(machine: Snapshot) -> Answers:
    """The same seed gives the same loss curve on one GPU and on many, to the last digits.

    Here the curves part, so data changes on its way or is computed wrongly: a broken path between
    two GPUs (peer-to-peer copies through an IOMMU that translates, a bad NVLink), a GPU with
    broken memory, or a replica that does not take part. This is how a machine trains for weeks
    and learns nothing. Each GPU was then trained alone, with the CPU as the arbiter: a GPU whose
    own curve is off is broken; where every GPU alone is right, the way between them is not.
    """
    training = yield from _training(machine)
    if training is None:
        return
    if isinstance(training.reference_losses, Unknown):
        yield NotChecked(why=training.reference_losses.why)
        return
    losses = yield from known(training.losses)
    if losses is None:
        return
    at = _parting(losses, training.reference_losses)
    if at is None and not _accuracies_differ(training):
        return
    if at is None:
        seen = (
            f"after one epoch {training.first_epoch_accuracy:.2%} of the test images are "
            f"recognised; one GPU alone reaches {training.reference_accuracy:.2%}"
        )
    else:
        batch = at * training.log_interval + 1
        seen = (
            f"from batch {batch} on the losses part: {losses[at]:.6f} together, "
            f"{training.reference_losses[at]:.6f} on one alone"
        )
    odd = _odd_ones(training)
    replicas = tuple(_odd_replicas(training))
    if odd:
        seen += f"; trained alone, {_and(odd)} is the one that is off"
        fix = f"Take {_and(odd)} out of service, and examine it."
    elif replicas:
        seen += f"; each is right alone, but together {_and(replicas)} answers differently"
        fix = "Examine the way to that GPU: the link, the IOMMU, peer-to-peer copies."
    else:
        seen += "; each GPU alone is right"
        fix = "Examine the ways between the GPUs: links, the IOMMU, peer-to-peer copies."
    subjects = odd or replicas
    yield Symptom(
        saw=seen,
        fix=fix,
        subject=subjects[0] if len(subjects) == 1 else "",
        commands=("gpucheck doctor --deep", "NCCL_P2P_DISABLE=1 gpucheck smoke"),
    )


@rule(
    "TRN004",
    Severity.ERROR,
    "A GPU that was asked for did no work",
    caused_by=("TRN006", "TRN005", "TRN011"),
)
def idle_gpu(machine: Snapshot) -> Answers:
    """A training that quietly runs on fewer GPUs looks healthy, and proves nothing of the rest.

    Each replica notes how many images it was given, and NVML tells how much memory was held on
    each GPU in the meantime. DataParallel, for one, passes a model through unchanged where it
    finds no CUDA, and says nothing. Look at CUDA_VISIBLE_DEVICES, and at what else runs there.
    """
    training = yield from _training(machine)
    if training is None:
        return
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
        gpu = f"gpu {replica.gpu}" if isinstance(replica.gpu, int) else ""
        images = yield from known(replica.images, gpu)
        if images is not None and images < expected:
            yield Symptom(
                saw=f"replica {replica.position} was given {images:,} of its {expected:,} images",
                fix="Look for what keeps it from its part: CUDA_VISIBLE_DEVICES, MIG, exclusive "
                "compute mode.",
                subject=gpu or f"replica {replica.position}",
                commands=("gpucheck doctor",),
            )
    if training.device == "cuda" and training.strategy == "dp":
        gpus = yield from known(training.gpus)
        for one in gpus or ():
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
            saw=f"its memory in use grew by {grown >> 20} MiB while it was to train",
            fix="Look for what keeps the GPU from its part: CUDA_VISIBLE_DEVICES, MIG.",
            subject=subject,
            commands=("gpucheck doctor",),
        )


@rule(
    "TRN005",
    Severity.ERROR,
    "The training stood still",
    caused_by=("LNK014", "GPU002", *_BROKEN_GPU, "DRV010", "LNK006", "LNK004", "LNK010"),
)
def stood_still(machine: Snapshot) -> Answers:
    """No step was finished within the deadline: the training would have waited for ever.

    The child was asked where it stood and was ended; nothing of it is left. A hang in the copies
    or in the first steps is mostly a broken way between two GPUs (peer-to-peer through an IOMMU
    or access control services that redirect, an NVSwitch fabric that is not up); a hang later is
    mostly a GPU that fell off the bus. Under DDP a rank that is heard no more has crashed, or
    its host has lost the network.
    """
    training = yield from _training(machine)
    if training is None:
        return
    failure = yield from _failure(training)
    if failure is None or failure.kind not in ("hang", "lost"):
        return
    who = _who(failure)
    seconds = (
        f" for {failure.after_seconds:g} s" if isinstance(failure.after_seconds, float) else ""
    )
    at = f"in batch {failure.step}" if failure.step else f'in the phase "{failure.phase}"'
    if failure.kind == "lost":
        saw = f"{who} gave no sign of life{seconds}; it was last heard of {at}"
        fix = "Look at that process and its host: its own output says why it ended."
        commands: tuple[str, ...] = ("gpucheck doctor",)
    else:
        saw = f"nothing came{seconds} {at}"
        saw += f", waiting for {who}" if who else ""
        saw += f"; it stood in {failure.stack[-1]}" if failure.stack else ""
        saw += f"; {failure.message}" if isinstance(failure.message, str) else ""
        fix = "Rule out the ways between the GPUs, then look at the GPU itself."
        commands = ("NCCL_P2P_DISABLE=1 gpucheck smoke", "gpucheck doctor --deep")
    yield Symptom(saw=saw, fix=fix, subject=who, commands=commands)


@rule(
    "TRN006",
    Severity.ERROR,
    "There are fewer GPUs than the training was asked to use",
    caused_by=(
        *_NO_DRIVER,
        "HST004",
        "TOR001",
        "TOR002",
        "TOR003",
        "TOR004",
        "TOR007",
        "TOR008",
        "ENV018",
        "ENV019",
        "ENV020",
        "DRV015",
        "GPU001",
        "GPU017",
        "GPU016",
    ),
)
def too_few_gpus(machine: Snapshot) -> Answers:
    """The training asks for four GPUs unless told otherwise, and never makes do with fewer.

    A proof on other GPUs than the ones meant would prove something else. `--gpus all` takes what
    is there, `--gpus 0,1,0,1` puts four replicas on two GPUs. Where GPUs should be there and are
    not, `gpucheck doctor` says why; CUDA_VISIBLE_DEVICES and MIG both hide GPUs.
    """
    training = yield from _training(machine)
    if training is None:
        return
    if training.device == "cpu":
        yield NotApplicable(why="a rehearsal on the CPU")
        return
    visible = yield from known(training.gpus_visible)
    missing = yield from known(training.gpus_missing)
    if visible is None or missing is None or (visible and not missing):
        return
    saw = f"--gpus {training.gpus_wanted} was asked for; torch sees {_count(visible, 'GPU')}"
    if isinstance(training.cuda_unavailable, str):
        saw += f": {training.cuda_unavailable}"
    chosen = machine.environment.variable("CUDA_VISIBLE_DEVICES")
    if isinstance(chosen, str):
        saw += f" (CUDA_VISIBLE_DEVICES={chosen})"
    commands: tuple[str, ...] = ("gpucheck doctor",)
    fix = "Find out why torch sees no GPU. A rehearsal on the CPU is `gpucheck smoke --device cpu`."
    if visible:
        fix = "Ask for what is there"
        commands = ("gpucheck smoke --gpus all",)
        if visible < 4:
            pattern = ",".join(str(number % visible) for number in range(4))
            fix += f"; or put four replicas on {_count(visible, 'GPU')} with --gpus {pattern}"
        fix += "."
    yield Symptom(saw=saw, fix=fix, commands=commands)


@rule(
    "TRN007",
    Severity.ERROR,
    "The test images are recognised worse than the recipe does",
    caused_by=("LNK014", "TRN002", "TRN003", "TRN001", *_BROKEN_GPU),
)
def accuracy_too_low(machine: Snapshot) -> Answers:
    """After the training the network has to recognise images that it never saw.

    Over many seeds the recipe recognises nearly the same share of them, and yours lies under it
    by far more than chance explains: what was learned is not what the images show. The causes
    are those of TRN001: memory, copies between GPUs, a GPU that computes wrongly.
    """
    training = yield from _training(machine)
    if training is None:
        return
    accuracy = yield from known(training.accuracy)
    if accuracy is None:
        return
    bounds = yield from _bounds(training)
    if bounds is not None and accuracy < bounds.accuracy_at_least:
        low, high = bounds.accuracy_seen
        yield Symptom(
            saw=f"{accuracy:.1%} of the test images are recognised; the recipe reaches "
            f"{low:.1%} to {high:.1%} ({bounds.seeds} seeds)",
            fix="Train on each GPU alone to find the one that does not learn, and examine it.",
            commands=("gpucheck smoke --gpus 0,", "gpucheck doctor --deep"),
        )


@rule("TRN008", Severity.ERROR, "The data set cannot be used")
def data_unreadable(machine: Snapshot) -> Answers:
    """The training compares its result with what the recipe reaches on exactly these images.

    So every file is checked before: its size, its magic number, its labels, and the checksum of
    its unpacked content. A download that was cut off is the usual cause. Fetch the files again,
    or let gpucheck draw its own digits with `--data synthetic`, which needs no network.
    """
    training = yield from _training(machine)
    if training is None:
        return
    fault = training.data_fault
    if isinstance(fault, Unknown):
        yield NotChecked(why=fault.why)
    elif fault is not None:
        yield Symptom(
            saw=f"{fault.path}: {fault.problem}; expected {fault.expected}",
            fix="Fetch the file again, or train on synthetic digits.",
            subject=fault.path,
            commands=("gpucheck smoke --data synthetic",),
        )


@rule(
    "TRN010",
    Severity.ERROR,
    "There was not enough memory to train",
    caused_by=("GPU019",),
)
def out_of_memory(machine: Snapshot) -> Answers:
    """This training needs less than a gigabyte on the first GPU: somebody else holds the rest.

    The processes that hold memory on the GPU are named where the driver tells; end them, or
    choose other GPUs. Memory that is held with no process shown for it belongs to a process of
    another container, or to one that died badly (GPU019).
    """
    training = yield from _training(machine)
    if training is None:
        return
    failure = yield from _failure(training)
    if failure is None or failure.kind != "out of memory":
        return
    holders = tuple(_holders(machine, training, failure.gpus))
    held = f"; memory is held by {_and(holders)}" if holders else ""
    yield Symptom(
        saw=f"{_text(failure.message)}{held}",
        fix="End what holds the memory, or train on other GPUs.",
        subject=_who(failure),
        commands=("nvidia-smi",) if training.device == "cuda" else (),
    )


@rule(
    "TRN011",
    Severity.ERROR,
    "The training crashed",
    caused_by=(
        "TOR001",
        "TOR007",
        "TOR003",
        "TOR004",
        "TOR005",
        "TOR006",
        "TOR009",
        "LIB001",
        "LIB002",
        "LIB003",
        "DNN001",
        "DNN003",
        *_BROKEN_GPU,
        "GPU016",
        "DRV009",
    ),
)
def crashed(machine: Snapshot) -> Answers:
    """The child that trains ended in another way than by coming to its end.

    SIGSEGV and SIGBUS come from a broken library, or from libraries that do not belong together;
    SIGKILL from the system's out-of-memory killer, or from somebody; SIGABRT from a library that
    gave up, and its last lines say why. A CUDA error is named with its GPU: `gpucheck explain`
    followed by its text says more. The kernel log may show an Xid at the same moment (GPU020).
    """
    training = yield from _training(machine)
    if training is None:
        return
    failure = yield from _failure(training)
    if failure is None or failure.kind not in ("crash", "exit", "error"):
        return
    who = _who(failure)
    where = f"in batch {failure.step}" if failure.step else f'in the phase "{failure.phase}"'
    what = failure.signal if failure.kind == "crash" else failure.message
    saw = f"{_text(what)} {where}" if failure.kind != "error" else f"{where}: {_text(what)}"
    if failure.stack:
        saw += f"; it stood in {failure.stack[-1]}"
    last = [line for line in failure.last_lines if line.strip() not in saw]
    if last:
        saw += f"; its last line: {last[-1].strip()}"
    if failure.signal == "SIGKILL":
        fix = "Look for the out-of-memory killer in the kernel log; else somebody killed it."
        commands: tuple[str, ...] = ("dmesg -T | tail",)
    else:
        fix = "Read its last lines, and let the doctor look at torch and its libraries."
        commands = ("gpucheck doctor --deep",)
    yield Symptom(saw=saw, fix=fix, subject=who, commands=commands)


@rule(
    "TRN012",
    Severity.WARNING,
    "A GPU throttled, logged an Xid or counted memory errors during the training",
    caused_by=("GPU001", "GPU004", "GPU010", "GPU012", "GPU013", "GPU020"),
)
def trouble_under_load(machine: Snapshot) -> Answers:
    """A GPU that is well at rest may not be under load, and this training is a light load.

    Thermal slowdown and power brake point to cooling and power supply, an Xid to what its number
    says, memory errors to the memory. Whatever shows up in a minute of light work gets worse in a
    week of hard work.
    """
    training = yield from _training(machine)
    if training is None:
        return
    if training.device == "cpu":
        yield NotApplicable(why="a rehearsal on the CPU")
        return
    gpus = yield from known(training.gpus)
    for gpu in gpus or ():
        subject = f"gpu {gpu.index}"
        watched = yield from known(gpu.watched, subject)
        if watched is None:
            continue
        troubles = tuple(_troubles(watched))
        if troubles:
            yield Symptom(
                saw=f"during the training: {_and(troubles)}",
                fix="Look at this GPU's cooling, power and memory.",
                subject=subject,
                commands=("gpucheck doctor --deep", "nvidia-smi -q -d PERFORMANCE,ECC"),
            )
    xids = yield from known(training.new_xids)
    for xid in xids or ():
        yield Symptom(
            saw=f"the kernel logged Xid {xid.number} for {xid.bus_id} during the training"
            + (f": {xid.text}" if xid.text else ""),
            fix="Look up what this Xid asks for.",
            subject=xid.bus_id,
            commands=("gpucheck explain GPU020",),
        )


def _troubles(watched: WatchedGpu) -> Iterator[str]:
    if isinstance(watched.clocks_event_reasons, int):
        for bit, name in _THROTTLES.items():
            if watched.clocks_event_reasons & bit:
                yield name
    for count, name in (
        (watched.corrected_ecc_added, "corrected"),
        (watched.uncorrected_ecc_added, "uncorrected"),
    ):
        if isinstance(count, int) and count:
            yield f"{_count(count, f'{name} memory error')}"


# ------------------------------------------------------------------------------ what they share


def _failure(training: Training) -> Generator[NotChecked, None, TrainingFailure | None]:
    """Return what stopped the training, None where nothing did."""
    if isinstance(training.failure, Unknown):
        yield NotChecked(why=training.failure.why)
        return None
    if training.failure is not None and training.failure.kind == "blocked":
        yield NotChecked(why=_text(training.failure.message))
    return training.failure


def _who(failure: TrainingFailure) -> str:
    """Name the suspects: the GPUs, or the rank and its host."""
    if isinstance(failure.rank, int):
        host = f" on {failure.host}" if isinstance(failure.host, str) else ""
        return f"rank {failure.rank}{host}"
    return _and(tuple(f"gpu {gpu}" for gpu in failure.gpus))


def _parting(curve: Sequence[float], reference: Sequence[float]) -> int | None:
    """Return where *curve* leaves *reference* by more than rounding, or None."""
    for at, (one, other) in enumerate(zip(curve, reference, strict=False)):
        if abs(one - other) > PARITY_TOLERANCE:
            return at
    return None


def _accuracies_differ(training: Training) -> bool:
    one, other = training.first_epoch_accuracy, training.reference_accuracy
    if isinstance(one, Unknown) or isinstance(other, Unknown):
        return False
    return abs(one - other) > _ACCURACY_TOLERANCE


def _odd_ones(training: Training) -> tuple[str, ...]:
    """Return which GPUs, trained alone, do not do what the CPU does."""
    runs = training.solo
    if runs is None or isinstance(runs, Unknown):
        return ()
    arbiter = next((run for run in runs if run.where == "cpu" and run.error is None), None)
    return tuple(run.where for run in runs if run.where != "cpu" and _is_odd(run, arbiter))


def _is_odd(run: SoloRun, arbiter: SoloRun | None) -> bool:
    if isinstance(run.error, str):
        return True
    return arbiter is not None and any(
        abs(one - other) > _ARBITER_TOLERANCE
        for one, other in zip(run.losses, arbiter.losses, strict=False)
    )


def _odd_replicas(training: Training) -> Iterator[str]:
    """Name the replicas whose answers are not those of the first GPU."""
    replicas = () if isinstance(training.replicas, Unknown) else training.replicas
    for replica in replicas:
        gap = replica.output_difference
        if not isinstance(gap, Unknown) and gap > _ARBITER_TOLERANCE:
            gpu = f"gpu {replica.gpu}" if isinstance(replica.gpu, int) else ""
            yield gpu or f"replica {replica.position}"


def _images_for(position: int, parts: int, batch: int) -> int:
    """Return how many images of one epoch part *position* of *parts* gets (as torch.chunk cuts)."""
    full, rest = divmod(recipe.TRAINING_IMAGES, batch)
    return full * _part(batch, position, parts) + _part(rest, position, parts)


def _part(batch: int, position: int, parts: int) -> int:
    size = -(-batch // parts)
    return max(0, min(size, batch - position * size))


def _holders(machine: Snapshot, training: Training, suspects: Sequence[int]) -> Iterator[str]:
    """Name the processes that hold memory on the GPUs that ran out of it."""
    if isinstance(machine.nvml.gpus, Unknown) or isinstance(training.gpus, Unknown):
        return
    wanted = [gpu for gpu in training.gpus if not suspects or gpu.index in suspects]
    for gpu in machine.nvml.gpus:
        if isinstance(gpu.processes, Unknown | NotSupported):
            continue
        if not any(
            _is_same(gpu.uuid, one.uuid) or _is_same(gpu.bus_id, one.bus_id) for one in wanted
        ):
            continue
        for process in gpu.processes:
            used = process.used_bytes
            size = f", {used >> 20:,} MiB" if isinstance(used, int) else ""
            name = process.name if isinstance(process.name, str) else "a process"
            yield f"{name} (pid {process.pid}{size})"


def _is_same(one: object, other: object) -> bool:
    return isinstance(one, str) and one == other


def _text(fact: object) -> str:
    return fact if isinstance(fact, str) else ""


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def _and(names: Sequence[str]) -> str:
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
