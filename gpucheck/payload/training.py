"""Trains a small network on MNIST and proves the GPUs by it: a program to read top to bottom.

It runs in a child of `gpucheck smoke`, and reports each thing as it happens. It judges nothing: the
rules TRN001 to TRN012 do that, with the facts that it reported.

It is long because the training is read from top to bottom, as the recipe is.
"""

from __future__ import annotations

import itertools
import math
import re
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from typing import Callable, Sequence

# torch does not bring numpy, and warns when it is not there; we do not need it.
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from . import mnist  # noqa: E402
from .assignment import CPU_REPLICAS, Assignment, chosen_gpus  # noqa: E402
from .recipe import PARITY_TOLERANCE, PIXEL_DEVIATION, PIXEL_MEAN  # noqa: E402

Emit = Callable[..., None]
COPY_BYTES = (4, 65_539, 1 << 20, 16 << 20)  # odd sizes and large ones take different ways
# float images and their shuffled copy: 2 × 188 MB; cuBLAS and the model: tens of MB
NEEDED_BYTES = 768 << 20
NEEDED_BYTES_ELSEWHERE = 256 << 20


class NotReadyError(Exception):
    """The training cannot begin; why was reported already."""


# ------------------------------------------------------------------------------------ the model


class Classifier(nn.Sequential):  # type: ignore[misc]
    """Flatten, Linear, ReLU, Linear; and a note of who worked on how many images.

    DataParallel's replicas are shallow copies: all of them write into the one list. (It copies
    every module again for each batch: a module around the layers would cost time.)
    """

    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))
        self.done: list[tuple[int | None, int]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = super().forward(images)
        if self.training:
            self.done.append((scores.device.index, len(images)))
        return scores


class CpuDataParallel(nn.Module):  # type: ignore[misc]
    """Does on the CPU what DataParallel does on GPUs: parts to replicas, answers together again.

    nn.DataParallel itself passes everything through where there is no CUDA, and says nothing.
    """

    def __init__(self, module: Classifier, replicas: int) -> None:
        super().__init__()
        self.module = module
        self.replicas = replicas

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.module(part) for part in images.chunk(self.replicas)])


# ------------------------------------------------------------------------------------- the GPUs


def choose_gpus(work: Assignment, emit: Emit) -> list[torch.device]:
    """Return a device for each replica; raises NotReadyError where there are too few."""
    emit("phase", name="CUDA start", torch=str(torch.__version__))
    if work.device == "cpu":
        # On a busy machine threads that wait for each other take fifty times as long.
        torch.set_num_threads(1)
        visible = 1 if work.joined else len(chosen_gpus(work.gpus, CPU_REPLICAS))
        wanted_ranks = work.world if work.joined else visible
        emit("gpus", visible=0, wanted=wanted_ranks, unavailable=None, missing=[], gpus=[])
        return [torch.device("cpu")] * visible
    why = why_no_cuda()
    visible = 0 if why else torch.cuda.device_count()
    if work.joined:
        # Slurm may show each task one GPU, as number 0.
        wanted = [0 if visible == 1 else work.local_rank]
    else:
        wanted = chosen_gpus(work.gpus, max(visible, work.world if work.world > 1 else 0))
    numbers = sorted({number for number in wanted if number < visible})
    # Under DDP each rank describes its own GPU; all look whether all are there.
    mine = [wanted[work.rank]] if work.world > 1 and not work.joined else numbers
    emit(
        "gpus",
        visible=visible,
        wanted=work.world if work.joined else len(wanted),
        unavailable=why,
        missing=sorted({number for number in wanted if number >= visible}),
        gpus=[described(number, emit) for number in mine if number in numbers],
    )
    if not wanted or any(number >= visible for number in wanted):
        raise NotReadyError
    for number in mine:
        free, total = torch.cuda.mem_get_info(number)
        needed = NEEDED_BYTES_ELSEWHERE
        if work.world > 1 or number == wanted[0]:  # it holds the images
            needed = NEEDED_BYTES
        if free < needed:
            emit(
                "failed",
                kind="out of memory",
                gpu=number,
                message=f"GPU {number} has {free >> 20:,} MiB free of {total >> 20:,}; "
                f"this training needs {needed >> 20}",
            )
            raise NotReadyError
    return [torch.device("cuda", number) for number in wanted]


def why_no_cuda() -> str | None:
    """Say in torch's own words why it has no CUDA, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # noqa: BLE001 - its own classes differ from version to version
        return last_line(error)
    return None


def described(number: int, emit: Emit) -> dict[str, object]:
    """Return what identifies a GPU; where CUDA does not start on it, say so and give up."""
    try:
        return describe(number)
    except RuntimeError as error:
        short = "out of memory" in str(error)
        kind = "out of memory" if short else "error"
        emit("failed", kind=kind, gpu=number, message=f"GPU {number}: {last_line(error)}")
        raise NotReadyError from error


def describe(number: int) -> dict[str, object]:
    """Return what identifies a GPU; the first call of CUDA on it happens here."""
    free, total = torch.cuda.mem_get_info(number)
    properties = torch.cuda.get_device_properties(number)
    bus = getattr(properties, "pci_bus_id", None)  # since torch 2.8
    uuid = getattr(properties, "uuid", None)  # since torch 2.4
    bus_id = None
    if bus is not None:
        bus_id = f"{properties.pci_domain_id:04x}:{bus:02x}:{properties.pci_device_id:02x}.0"
    return {
        "index": number,
        "name": properties.name,
        "uuid": None if uuid is None else f"GPU-{uuid}",
        "bus_id": bus_id,
        "free_bytes": free,
        "total_bytes": total,
    }


# ------------------------------------------------------------------------------------- the data


@dataclass(frozen=True)
class Data:
    """The digits on one device: normalized images, and their labels."""

    images: torch.Tensor
    labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor

    @classmethod
    def on(cls, device: torch.device, digits: mnist.Digits) -> Data:
        def images(pixels: memoryview) -> torch.Tensor:
            raw = torch.frombuffer(pixels, dtype=torch.uint8).to(device).reshape(-1, 28, 28)
            return raw.float().div_(255).sub_(PIXEL_MEAN).div_(PIXEL_DEVIATION)

        def labels(classes: memoryview) -> torch.Tensor:
            return torch.frombuffer(classes, dtype=torch.uint8).to(device).long()

        return cls(
            images(digits.train_images),
            labels(digits.train_labels),
            images(digits.test_images),
            labels(digits.test_labels),
        )


# ----------------------------------------------------------------------------------- the copies


def check_copies(devices: Sequence[torch.device], emit: Emit) -> None:
    """Copy bytes from every GPU to every other, and compare them with what came by the host."""
    places = list(dict.fromkeys(devices)) if devices[0].type == "cuda" else list(devices)
    generator = torch.Generator().manual_seed(20_251)
    patterns = [random_bytes(size, generator) for size in COPY_BYTES]
    there = [[pattern.to(place) for pattern in patterns] for place in places]
    for source, target in itertools.permutations(range(len(places)), 2):
        numbers = {"source": number_of(places, source), "target": number_of(places, target)}
        emit("copying", **numbers)
        error = None
        for sent, expected in zip(there[source], there[target]):
            wrong = copy(sent, places[target]) != expected
            if wrong.any():
                first = int(wrong.nonzero()[0])
                error = f"{int(wrong.sum()):,} of {len(sent):,} bytes differ, first at {first:,}"
                break
        emit("copied", **numbers, error=error)


def random_bytes(size: int, generator: torch.Generator) -> torch.Tensor:
    """Return *size* random bytes; drawn eight at a time, which takes an eighth of the time."""
    words = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-size // 8),), generator=generator)
    return words.view(torch.uint8)[:size]


def copy(tensor: torch.Tensor, target: torch.device) -> torch.Tensor:
    """Return *tensor* on *target*, copied even where it is there already."""
    return tensor.to(target, copy=True)


def number_of(places: Sequence[torch.device], position: int) -> int:
    """Return CUDA's number of a place, or on the CPU its position."""
    number = places[position].index
    return position if number is None else number


# --------------------------------------------------------------------------------- the training


@dataclass
class Curve:
    """What a training gave."""

    losses: list[float]
    first_epoch_losses: list[float]
    accuracy: float
    first_epoch_accuracy: float
    images_per_second: float  # of the quickest epoch; the very first batch does not count


class NotFiniteError(Exception):
    """A loss or a weight is not a finite number."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"{what} of batch {step} is not finite")
        self.step = step
        self.what = what


Sum = Callable[[torch.Tensor], torch.Tensor]


def train(
    model: nn.Module,
    classifier: Classifier,
    data: Data,
    work: Assignment,
    emit: Emit,
    *,
    epochs: int,
    rank: int = 0,
    world: int = 1,
    total: Sum = lambda loss: loss,
    begin: Callable[[], None] = lambda: None,
) -> Curve:
    """Train *model*, which holds *classifier*, and report it.

    Of *world* processes, this one takes the *rank*-th part of each batch; *total* adds up a
    number over them all. The images and their order depend on the seed alone, so that the same
    curve comes from one GPU, from several, and from several processes.
    """
    device = data.images.device
    count = len(data.images)
    parameters = list(classifier.parameters())
    losses: list[float] = []
    first_losses: list[float] = []
    first_accuracy = math.nan
    images_per_second = 0.0
    recent: list[torch.Tensor] = []  # losses that nobody has looked at yet
    step = 0
    for epoch in range(1, epochs + 1):
        began, timed = time.perf_counter(), count
        generator = torch.Generator().manual_seed(work.seed * 1_000 + epoch)
        order = torch.randperm(count, generator=generator).to(device)
        batches = data.images[order].split(work.batch_size)
        answers = data.labels[order].split(work.batch_size)
        # Gradients are those of the mean over the whole batch; DDP divides by the number of ranks.
        scales = {
            len(batch): torch.tensor(world / len(batch), device=device)
            for batch in (batches[0], batches[-1])
        }
        for number, (images, labels) in enumerate(zip(batches, answers)):
            step += 1
            emit("batch", number=step)
            begin()
            whole = len(images)
            if world > 1:
                size = -(-whole // world)
                mine = slice(rank * size, (rank + 1) * size)
                images, labels = images[mine], labels[mine]  # noqa: PLW2901 - our part of them
            loss = functional.cross_entropy(model(images), labels, reduction="sum")
            for parameter in parameters:
                parameter.grad = None
            loss.backward(scales[whole])
            descend(parameters, work.learning_rate)
            recent.append(loss.detach())
            if number % work.log_interval == 0:
                value = look_at(recent, step, total) / whole
                losses.append(value)
                emit("loss", epoch=epoch, images=number * work.batch_size, count=count, loss=value)
            if step == 1:  # libraries start up in the first step
                began, timed = time.perf_counter(), count - whole
        if recent:
            look_at(recent, step, total)
        images_per_second = max(images_per_second, timed / (time.perf_counter() - began))
        if epoch == 1:
            first_losses = list(losses)
            first_accuracy = test(classifier, data)
    look_at_weights(classifier, step)
    accuracy = first_accuracy if epochs == 1 else test(classifier, data)
    return Curve(losses, first_losses, accuracy, first_accuracy, images_per_second)


def descend(parameters: Sequence[nn.Parameter], learning_rate: float) -> None:
    """Take one step of plain SGD, as torch.optim.SGD does: which imports torch's compiler first.

    That takes more than a second, which is longer than the whole training.
    """
    with torch.no_grad():
        for parameter in parameters:
            parameter.sub_(parameter.grad, alpha=learning_rate)


def look_at(recent: list[torch.Tensor], step: int, total: Sum) -> float:
    """Wait for the GPUs, and return the newest loss, a sum; raises NotFiniteError.

    A gradient that is not finite shows in the loss of the next batch, and ever after.
    """
    values = total(torch.stack(recent)).tolist()
    recent.clear()
    for place, value in enumerate(values, start=step - len(values) + 1):
        if not math.isfinite(value):
            raise NotFiniteError(place, "the loss")
    return float(values[-1])


def look_at_weights(classifier: Classifier, step: int) -> None:
    """Raise NotFiniteError for what the last step did: no loss comes after it."""
    for name, weights in classifier.named_parameters():
        if not torch.isfinite(weights).all():
            raise NotFiniteError(step, f"the parameter {name} after the step")


def test(classifier: Classifier, data: Data) -> float:
    """Return the share of the test images that are recognized."""
    classifier.eval()
    with torch.no_grad():
        right = classifier(data.test_images).argmax(1) == data.test_labels
    classifier.train()
    return float(right.double().mean())


def alone(
    device: torch.device,
    digits: mnist.Digits,
    work: Assignment,
    emit: Emit,
    data: Data | None = None,
) -> Curve:
    """Train one epoch on *device* alone, from the same seed."""
    torch.manual_seed(work.seed)
    classifier = Classifier().to(device)
    data = data or Data.on(device, digits)

    def quietly(event: str, **facts: object) -> None:
        if event == "batch":
            emit(event, **facts)

    return train(classifier, classifier, data, work, quietly, epochs=1)


def differs(curve: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether two curves differ by more than rounding."""
    return len(curve) != len(other) or any(
        abs(a - b) > PARITY_TOLERANCE for a, b in zip(curve, other)
    )


def find_the_odd_one(
    devices: Sequence[torch.device], digits: mnist.Digits, work: Assignment, emit: Emit
) -> None:
    """Train on each GPU alone, and on the CPU as the arbiter."""
    for device in dict.fromkeys((*devices, torch.device("cpu"))):
        where = "the CPU" if device.type == "cpu" else f"GPU {device.index}"
        emit("phase", name="parity", alone=where)
        try:
            losses, wrong = alone(device, digits, work, emit).first_epoch_losses, None
        except NotFiniteError as error:
            losses, wrong = [], str(error)
        except RuntimeError as error:
            losses, wrong = [], last_line(error)
        emit("solo", gpu=device.index, rank=None, losses=losses, error=wrong)


# ---------------------------------------------------------------------------------- the program


def run(work: Assignment, emit: Emit, read: Callable[[], mnist.Digits]) -> None:
    """Do it all in one process: DataParallel, or its rehearsal on the CPU."""
    devices = choose_gpus(work, emit)
    first = devices[0]

    emit("phase", name="data")
    digits = read()
    data = Data.on(first, digits)
    emit("data", kind=digits.kind, directory=str(digits.directory))

    emit("phase", name="copies")
    check_copies(devices, emit)
    emit("copies done")

    emit("phase", name="training")
    torch.manual_seed(work.seed)
    classifier = Classifier().to(first)
    model: nn.Module
    if first.type == "cuda":
        model = nn.DataParallel(classifier, device_ids=[device.index for device in devices])
    else:
        model = CpuDataParallel(classifier, len(devices))
    progress_events = ProgressEvents(devices, work, emit)
    try:
        curve = train(
            model, classifier, data, work, emit, epochs=work.epochs, begin=progress_events.begin
        )
    except NotFiniteError as error:
        emit("not finite", step=error.step, what=error.what)
        find_the_odd_one(devices, digits, work, emit)
        return
    emit("trained", **facts_of(curve))
    emit_replicas(model, classifier, devices, data, work, emit)

    emit("phase", name="parity")
    reference = alone(first, digits, work, emit, data)
    emit("reference", **facts_of(reference))
    if differs(curve.first_epoch_losses, reference.first_epoch_losses):
        find_the_odd_one(devices, digits, work, emit)


def facts_of(curve: Curve) -> dict[str, object]:
    """Return what is reported of a training."""
    return {
        "losses": curve.losses,
        "accuracy": curve.accuracy,
        "first_epoch_accuracy": curve.first_epoch_accuracy,
        "images_per_second": curve.images_per_second,
    }


def emit_replicas(
    model: nn.Module,
    classifier: Classifier,
    devices: Sequence[torch.device],
    data: Data,
    work: Assignment,
    emit: Emit,
) -> None:
    """Report what each replica did, and how far its answers are from those of the first GPU."""
    images = [0] * len(devices)
    turn = {
        device: itertools.cycle([at for at, other in enumerate(devices) if other == device])
        for device in devices
    }
    for number, count in classifier.done:
        device = torch.device("cpu") if number is None else torch.device("cuda", number)
        if device in turn:
            images[next(turn[device])] += count
    batch = data.test_images[: work.batch_size]
    with torch.no_grad():
        together, by_one = model(batch), classifier(batch)
    gaps = [
        float((a - b).abs().max())
        for a, b in zip(together.chunk(len(devices)), by_one.chunk(len(devices)))
    ]
    gaps += [0.0] * (len(devices) - len(gaps))  # a small batch leaves the last ones idle
    total = len(data.images) * work.epochs
    emit(
        "replicas",
        replicas=[
            {
                "position": position,
                "gpu": device.index,
                "images": count,
                "share": count / total,
                "output_difference": gap if math.isfinite(gap) else 1e9,
            }
            for position, (device, count, gap) in enumerate(zip(devices, images, gaps))
        ],
    )


class ProgressEvents:
    """Records an event on each GPU's queue before a batch, and reports which GPUs lag.

    That happens when no batch began for half of the parent's patience: whoever waits for a GPU
    cannot say for which one.
    """

    def __init__(self, devices: Sequence[torch.device], work: Assignment, emit: Emit) -> None:
        numbers = sorted({device.index for device in devices if device.type == "cuda"})
        self._events = {number: torch.cuda.Event() for number in numbers}
        self._patience = work.timeout_seconds / 2
        self._began = time.monotonic()
        self._emit = emit
        if numbers:
            threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Record the events."""
        self._began = time.monotonic()
        for number, event in self._events.items():
            event.record(torch.cuda.current_stream(number))

    def _watch(self) -> None:
        while time.monotonic() - self._began < self._patience:
            time.sleep(min(0.25, self._patience / 4))
        self._emit(
            "lagging", gpus=[number for number, event in self._events.items() if not event.query()]
        )


def last_line(error: BaseException) -> str:
    """Return the line of an error that says most: the last that is not a hint."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if re.search(r"error|memory|fail|refused|timed out", line, re.I)
    ]
    return (telling or lines or [type(error).__name__])[0][:500]


def explain(error: BaseException, emit: Emit) -> None:
    """Report the error that ended the training."""
    text = str(error)
    out_of_memory = (
        isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
    )
    place = re.search(r"on device (\d+)|GPU (\d+) has a total|cuda:(\d+)", text)
    emit(
        "failed",
        kind="out of memory" if out_of_memory else "error",
        gpu=int(next(filter(None, place.groups()))) if place else None,
        message=f"{type(error).__name__}: {last_line(error)}",
    )
    print(text, file=sys.stderr)  # noqa: T201 - the parent keeps the last lines
