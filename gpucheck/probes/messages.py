"""What the programs of `payload/` report, type by type, and the one decoder of it.

A message that is not exactly as described here is our own fault, and raises: a typo must not read
as "nothing was reported". A test holds every `emit(…)` of the programs against these types.
"""

import functools
import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from gpucheck.payload.channel import PREFIX

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
