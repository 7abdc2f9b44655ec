"""What the programs of `payload/` report, type by type, and the one decoder of it.

A message that is not exactly as described here is our own fault, and raises: a typo must not read
as "nothing was reported". A test holds every `emit(…)` of the programs against these types.

It is long because it is one table: a type for each thing that a program can report.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from gpucheck.payload.channel import PREFIX
from gpucheck.snapshot import BurnFault, BurnWork

_PREFIX = PREFIX.encode()

#: What `deep` has each GPU do.
Work = Literal["kernel", "matrix_product", "convolution"]


class MessageError(ValueError):
    """A line of ours is not as the types say."""


class Message(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True
):
    """Base of all messages; *at* is the system's monotonic clock, in seconds."""

    at: float


class Done(Message, frozen=True, kw_only=True, tag="done"):
    """The program came to its end."""


# ------------------------------------------------------------------------- cuda_init, open_cudnn


class Calling(Message, frozen=True, kw_only=True, tag="calling"):
    """A call into a library begins; where no answer follows, it is the one that failed."""

    call: str


class LoadError(Message, frozen=True, kw_only=True, tag="load error"):
    """The dynamic loader's message."""

    text: str


class MappedFrom(Message, frozen=True, kw_only=True, tag="library"):
    """The file that a library was mapped from."""

    path: str


class Answered(Message, frozen=True, kw_only=True, tag="answered"):
    """What a call returned."""

    call: str
    value: int


class CudnnAnswer(Message, frozen=True, kw_only=True, tag="cudnn"):
    """What a cuDNN says of itself; *error* is the loader's message."""

    version: int | None
    cuda: int | None
    error: str | None


# ------------------------------------------------------------------------------- describe_python


class PythonAnswer(Message, frozen=True, kw_only=True, tag="python"):
    """A Python's own description."""

    version: str
    prefix: str
    base_prefix: str
    path: tuple[str, ...]
    user_site: str | None


# ------------------------------------------------------------------------------------------ deep


class Step(Message, frozen=True, kw_only=True, tag="step"):
    """What is tried next; where nothing follows, it is the step that failed."""

    text: str  # "a small kernel on gpu 0"
    gpu: int | None = None
    work: Work | None = None
    source: int | None = None
    target: int | None = None


class TorchImported(Message, frozen=True, kw_only=True, tag="torch"):
    """Torch was imported, or was not."""

    import_error: str | None
    cuda: str | None


class CudaInTorch(Message, frozen=True, kw_only=True, tag="cuda"):
    """What torch says of CUDA."""

    is_available: bool
    device_count: int
    warning: str | None


class Architectures(Message, frozen=True, kw_only=True, tag="architectures"):
    """What torch was compiled for."""

    names: tuple[str, ...] | None
    error: str | None


class CudnnInTorch(Message, frozen=True, kw_only=True, tag="torch cudnn"):
    """The number of the cuDNN that torch uses: 91900 is 9.19.0. None: it has none."""

    number: int | None
    error: str | None


class GpuFound(Message, frozen=True, kw_only=True, tag="gpu"):
    """Where CUDA's GPU is on the bus."""

    gpu: int
    bus_id: str | None


class Worked(Message, frozen=True, kw_only=True, tag="work"):
    """A piece of work on one GPU is over; *error* is what went wrong."""

    gpu: int
    work: Work
    error: str | None


class Copied(Message, frozen=True, kw_only=True, tag="copied"):
    """A copy between two GPUs (or ranks) was compared; *error* is what came back different."""

    source: int
    target: int
    error: str | None


class AllWorked(Message, frozen=True, kw_only=True, tag="worked"):
    """All GPUs and all ways between them have had their turn."""


class Mapped(Message, frozen=True, kw_only=True, tag="mapped"):
    """Files of CUDA's libraries in the process."""

    paths: tuple[str, ...] | None
    error: str | None


class Loaded(Message, frozen=True, kw_only=True, tag="loaded"):
    """The GPUs are under load from now on."""


# ----------------------------------------------------------------------------------------- smoke


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what is inside a message."""


class Phase(Message, frozen=True, kw_only=True, tag="phase"):
    """A part of the training begins."""

    name: str  # "import", "CUDA start", "rendezvous", "data", "copies", "training", "parity"
    torch: str | None = None  # its version
    alone: str | None = None  # "GPU 1", "the CPU": what trains alone


class TrainingDevice(Part, frozen=True, kw_only=True):
    """A GPU as torch shows it to one process."""

    index: int  # CUDA's number in that process
    name: str
    uuid: str | None
    bus_id: str | None
    free_bytes: int
    total_bytes: int


class TrainingDevices(Message, frozen=True, kw_only=True, tag="gpus"):
    """Which GPUs torch sees, and which of those asked for are not there."""

    visible: int
    wanted: int  # replicas
    unavailable: str | None  # why torch has no CUDA
    missing: tuple[int, ...]
    gpus: tuple[TrainingDevice, ...]


class Failed(Message, frozen=True, kw_only=True, tag="failed"):
    """The process gives up."""

    kind: Literal["error", "out of memory"]
    gpu: int | None
    message: str


class DataRead(Message, frozen=True, kw_only=True, tag="data"):
    """The images are there."""

    kind: Literal["mnist", "synthetic"]
    directory: str


class DataFaulty(Message, frozen=True, kw_only=True, tag="data fault"):
    """A file of the data set cannot be used."""

    path: str
    problem: str
    expected: str


class Notice(Message, frozen=True, kw_only=True, tag="notice"):
    """Something that the user should know while it goes on."""

    text: str


class Downloading(Message, frozen=True, kw_only=True, tag="downloading"):
    """How much of MNIST is there."""

    bytes: int


class Drawing(Message, frozen=True, kw_only=True, tag="drawing"):
    """Some thousand synthetic digits are drawn."""


class Copying(Message, frozen=True, kw_only=True, tag="copying"):
    """A copy between two GPUs (or ranks) begins."""

    source: int
    target: int


class CopiesDone(Message, frozen=True, kw_only=True, tag="copies done"):
    """All copies were compared."""


class Batch(Message, frozen=True, kw_only=True, tag="batch"):
    """A batch of images begins; *number* counts from 1, over all epochs."""

    number: int


class Loss(Message, frozen=True, kw_only=True, tag="loss"):
    """The loss of a batch."""

    epoch: int
    images: int
    count: int
    loss: float


class Curve(Message, frozen=True, kw_only=True, tag="trained"):
    """What the training reached."""

    losses: tuple[float, ...]
    accuracy: float
    first_epoch_accuracy: float
    images_per_second: float


class ReferenceCurve(Message, frozen=True, kw_only=True, tag="reference"):
    """What one device alone reached."""

    losses: tuple[float, ...]
    accuracy: float
    first_epoch_accuracy: float
    images_per_second: float


class ReplicaWork(Part, frozen=True, kw_only=True):
    """What one replica or rank did."""

    position: int
    gpu: int | None  # CUDA's number in its process
    images: int
    share: float
    output_difference: float
    host: str | None = None
    device: TrainingDevice | None = None  # under DDP


class ReplicasDone(Message, frozen=True, kw_only=True, tag="replicas"):
    """What each replica or rank did."""

    replicas: tuple[ReplicaWork, ...]


class TrainedAlone(Message, frozen=True, kw_only=True, tag="solo"):
    """The first epoch on one device alone."""

    gpu: int | None
    rank: int | None  # neither of the two: the CPU
    losses: tuple[float, ...]
    error: str | None


class NotFiniteNumber(Message, frozen=True, kw_only=True, tag="not finite"):
    """A loss or a weight was no finite number."""

    step: int
    what: str


class Lagging(Message, frozen=True, kw_only=True, tag="lagging"):
    """The GPUs that have not come to the batch that began last."""

    gpus: tuple[int, ...]


class Waiting(Message, frozen=True, kw_only=True, tag="waiting"):
    """The rank has done its part and waits for the others."""


class RankSign(Part, frozen=True, kw_only=True):
    """The last sign of life of one rank."""

    rank: int
    silent_seconds: float
    count: int
    host: str
    stands: str  # where its main thread was: "training.py:210 train"
    step: int
    phase: str


class RankSigns(Message, frozen=True, kw_only=True, tag="ranks"):
    """What rank 0 hears of the others."""

    ranks: tuple[RankSign, ...]


# ------------------------------------------------------------------------------------ watch_gpus


class GpuReading(Part, frozen=True, kw_only=True):
    """What NVML says of one GPU at one moment; None: it does not say."""

    index: int
    uuid: str | None
    bus_id: str | None
    memory_used_bytes: int | None = None
    utilization_percent: int | None = None
    temperature_celsius: int | None = None
    power_watts: float | None = None
    clocks_event_reasons: int | None = None
    clock_sm_mhz: int | None = None
    memory_bus_bits: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    corrected_ecc: int | None = None
    uncorrected_ecc: int | None = None
    pcie_replays: int | None = None  # from here on: where counters are asked for, now and then
    remapped_rows: tuple[int, ...] | None = None  # corrected, uncorrected, pending, failed
    slowdowns: tuple[tuple[int, int], ...] | None = None  # error and nanoseconds of each
    nvlink_errors: tuple[tuple[int | tuple[int], ...], ...] | None = None  # of each link


class GpuReadings(Message, frozen=True, kw_only=True, tag="readings"):
    """All GPUs at one moment."""

    gpus: tuple[GpuReading, ...]


class NvmlFailed(Message, frozen=True, kw_only=True, tag="nvml error"):
    """NVML does not work."""

    text: str


# ------------------------------------------------------------------------------------------- nvml


class NvmlAnswer(Message, frozen=True, kw_only=True, tag="nvml answer"):
    """What became of a query; *text* is NVML's own of an error, or the name of what is missing."""

    gpu: int | None  # NVML's index; None: it belongs to no single GPU
    other: int | None = None  # of a query about the way between two GPUs
    query: str  # a key of the tables in payload/nvml_queries.py
    outcome: Literal["value", "not supported", "missing", "lost", "error"]
    value: Any = None
    code: int | None = None
    text: str = ""
    sample: int = 0  # 0 is the first reading


class NvmlRound(Message, frozen=True, kw_only=True, tag="nvml round"):
    """The first reading of all GPUs is complete."""


# ----------------------------------------------------------------------------------------- bench


class BenchReady(Message, frozen=True, kw_only=True, tag="bench ready"):
    """torch is imported; orders are awaited."""

    torch: str
    cuda: str | None


class BenchDevice(Part, frozen=True, kw_only=True):
    """A GPU as torch shows it."""

    index: int  # CUDA's
    name: str
    uuid: str | None = None
    bus_id: str | None = None
    compute_capability: str | None = None
    multiprocessors: int | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    l2_bytes: int = 0
    cpus: str | None = None  # of its NUMA node, to which the process keeps


class Measured(Message, frozen=True, kw_only=True, tag="measured"):
    """An order was carried out. Rates are 10^12 operations or 10^9 bytes a second."""

    id: int
    began: float
    value: float | None = None  # median over batches
    low: float | None = None  # 5th and 95th percentile
    high: float | None = None
    burst: float | None = None
    samples: int = 0
    wrong: str | None = None  # contents that came back different
    error: str | None = None
    device: BenchDevice | None = None  # answers "describe"


# ------------------------------------------------------------------------------------------ pair


class PairStep(Message, frozen=True, kw_only=True, tag="pair step"):
    """What a process of a meeting of two nodes does now."""

    step: Literal["meet", "add"]


class PairMet(Message, frozen=True, kw_only=True, tag="pair met"):
    """The sums are there: the rate is bus bandwidth in 10^9 bytes a second."""

    rank: int
    world: int
    rate: float
    wrong: int
    count: int


class PairFailed(Message, frozen=True, kw_only=True, tag="pair failed"):
    """The process failed in a step."""

    step: Literal["torch", "meet", "add"]
    error: str


# ------------------------------------------------------------------------------------------ burn


class Burned(Message, frozen=True, kw_only=True, tag="burned"):
    """What was done and found since the last message; *is_finished*: the order is carried out."""

    id: int
    is_finished: bool
    work: tuple[BurnWork, ...] = ()
    faults: tuple[BurnFault, ...] = ()
    faults_left_out: int = 0
    left_out: tuple[str, ...] = ()  # parts of the phase that cannot be carried out, and why
    loaded_seconds: float = 0.0
    alarms: int = 0
    alarms_found: int = 0
    error: str | None = None
    device: BenchDevice | None = None  # these three answer "prepare"
    arena_bytes: int | None = None
    free_bytes: int | None = None


# ------------------------------------------------------------------------------------- ray_nodes


class RayRefused(Message, frozen=True, kw_only=True, tag="ray refused"):
    """There is no Ray, or no cluster of it."""

    why: str


class RayNode(Message, frozen=True, kw_only=True, tag="ray node"):
    """A machine that is or was one of the cluster's."""

    node_id: str
    host: str
    is_alive: bool
    died_unexpectedly: bool
    why_dead: str
    gpus: int  # that it had when Ray started there


class RayListed(Message, frozen=True, kw_only=True, tag="ray listed"):
    """All nodes have been named."""


class RayAnswer(Message, frozen=True, kw_only=True, tag="ray answer"):
    """What the command on one node wrote, or why there is nothing."""

    index: int
    content: str
    why: str
    seconds: float


def types() -> tuple[type[Message], ...]:
    """Return every type of message."""

    def below(kind: type[Message]) -> Iterator[type[Message]]:
        for each in kind.__subclasses__():
            yield each
            yield from below(each)

    return tuple(below(Message))


@functools.cache
def _decoder() -> "msgspec.json.Decoder[Any]":
    union: Any = types()[0]
    for kind in types()[1:]:
        union = union | kind
    return msgspec.json.Decoder(union)


def decode(line: bytes) -> Message | None:
    """Return the message in *line*; None where the line is not ours.

    Raises MessageError where it is ours and not as the types say.
    """
    if not line.startswith(_PREFIX):
        return None
    content = line[len(_PREFIX) :]
    try:
        if b"\\ud" in content:  # a file name that is not UTF-8: msgspec refuses half a pair
            return _convert(json.loads(content))
        message: Message = _decoder().decode(content)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise MessageError(f"{error}: {line[:200]!r}") from error
    return message


def _convert(content: object) -> Message:
    message: Message = msgspec.convert(content, type=_decoder().type)
    return message


def decode_all(output: bytes) -> list[Message]:
    """Return the messages in all that a child wrote.

    What stands behind the last newline was cut off when the child was ended.
    """
    complete = output[: output.rfind(b"\n") + 1]
    return list(messages_in(complete.splitlines()))


def messages_in(lines: Iterable[bytes]) -> Iterator[Message]:
    """Yield the messages in the lines of a child."""
    for line in lines:
        message = decode(line)
        if message is not None:
            yield message
