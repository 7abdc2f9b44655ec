"""Imports torch in a child, and puts it and every GPU to work: what `doctor --deep` asks."""

import os
import re
from collections.abc import Sequence
from typing import TypeVar

from gpucheck.probes import messages
from gpucheck.probes.child import Child, Ended, payload_command
from gpucheck.probes.elf import ElfError, read_elf
from gpucheck.probes.messages import Message, MessageError
from gpucheck.snapshot import (
    Deep,
    GpuWork,
    Known,
    MappedLibrary,
    Maybe,
    PeerCopy,
    Unknown,
    unknown_section,
)

Outcome = tuple[Deep, Known[tuple[MappedLibrary, ...]]]
Kind = TypeVar("Kind", bound=Message)

#: A step that gave no answer for this long has failed; a shorter wait, at the end of a deadline
#: that an earlier step used up, says nothing. A GPU's first use takes seconds at most.
STALL_SECONDS = 20.0


def run(python: str, *, deadline_seconds: float) -> Outcome:
    """Import torch in *python* and put every GPU to work; what was not reached is unknown."""
    return finish(start(python, deadline_seconds))


def start(python: str, deadline_seconds: float, load_seconds: float = 0.0) -> Child:
    """Start the workload; at its end the GPUs stay loaded for *load_seconds*.

    When the load begins the child writes a line that `is_loaded` knows.
    """
    environment = {
        **os.environ,
        # CUDA's numbers are then NVML's, and nothing is written next to the torch examined.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = payload_command(python, "deep", f"{load_seconds:g}")
    return Child(command, deadline_seconds=deadline_seconds, environment=environment)


def is_loaded(line: bytes) -> bool:
    """Return whether a line of the child says that the GPUs are under load now."""
    try:
        return isinstance(messages.decode(line), messages.Loaded)
    except MessageError:
        return False  # `finish` will say so


def finish(child: Child) -> Outcome:
    """Wait for the workload to its end or its deadline, and return what it did."""
    return judge(child.end())


def judge(ended: Ended) -> Outcome:
    """Make facts of what the child wrote, and of how it ended."""
    try:
        reported = messages.decode_all(ended.stdout)
    except MessageError as error:
        unreadable = Unknown(f"gpucheck's own program reported nonsense: {error}")
        return unknown_section(Deep, unreadable.why), unreadable
    last = reported[-1] if reported else None
    fault = _fault(ended, last)
    verdict = _verdict(ended, reported, fault)
    unknown = Unknown(fault or "not reached")
    imported = _first(reported, messages.TorchImported)
    if imported is not None:
        import_error: Maybe[str] = imported.import_error
    elif isinstance(last, messages.Step) and fault and ended.late_after_seconds is None:
        import_error = fault
    else:  # a slow disk may need long for torch's gigabytes: late is not broken
        import_error = unknown
    if isinstance(import_error, str):
        unknown = Unknown("torch cannot be imported")
    cuda = _first(reported, messages.CudaInTorch)
    cudnn = _first(reported, messages.CudnnInTorch)
    architectures = _first(reported, messages.Architectures)
    deep = Deep(
        import_error=import_error,
        is_available=unknown if cuda is None else cuda.is_available,
        warning=unknown if cuda is None else cuda.warning,
        device_count=unknown if cuda is None else cuda.device_count,
        torch_cuda=imported.cuda if imported and import_error is None else unknown,
        cudnn=unknown if cudnn is None else _cudnn(cudnn),
        architectures=unknown
        if architectures is None
        else _or_why(architectures.names, architectures.error),
        gpus=unknown if cuda is None else _gpus(reported, cuda.device_count, verdict, unknown),
        copies=_copies(reported, verdict, unknown),
    )
    mapped = _first(reported, messages.Mapped)
    paths = unknown if mapped is None else _or_why(mapped.paths, mapped.error)
    if isinstance(paths, Unknown):
        return deep, paths
    return deep, tuple(MappedLibrary(soname=soname_of(path), path=path) for path in paths)


def _first(reported: Sequence[Message], kind: type[Kind]) -> Kind | None:
    return next((message for message in reported if isinstance(message, kind)), None)


def _or_why(names: tuple[str, ...] | None, error: str | None) -> Known[tuple[str, ...]]:
    return Unknown(error or "no answer") if names is None else names


def _fault(ended: Ended, last: Message | None) -> str | None:
    """Say how the child came to an early end, and at which step; None: it went through."""
    if ended.why is None or not isinstance(last, messages.Step):
        return ended.why
    step = last.text
    doing = step if step.split(" ", 1)[0].endswith("ing") else f"running {step}"
    return f"{ended.why} while {doing}"


def _verdict(ended: Ended, reported: Sequence[Message], fault: str | None) -> str | None:
    """Return the error of the step at which the child ended, where that is the step's own fault."""
    if fault is None:
        return None
    if ended.late_after_seconds is None:
        return ended.why
    began, last = (reported[0].at, reported[-1].at) if reported else (0.0, 0.0)
    waited = ended.late_after_seconds - (last - began)
    return f"no answer in {waited:.0f} s" if waited >= STALL_SECONDS else None


def _cudnn(answer: messages.CudnnInTorch) -> Maybe[str]:
    if answer.error is not None:
        return Unknown(answer.error)
    return None if answer.number is None else cudnn_version(answer.number)


def cudnn_version(number: int) -> str:
    """Return cuDNN's number as a version: 91900 → "9.19.0", 8902 → "8.9.2"."""
    if number >= 90000:
        return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return f"{number // 1000}.{number // 100 % 10}.{number % 100}"


def _gpus(
    reported: Sequence[Message], count: int, verdict: str | None, unknown: Unknown
) -> tuple[GpuWork, ...]:
    works: tuple[messages.Work, ...] = ("kernel", "matrix_product", "convolution")
    answers: dict[int, dict[str, Maybe[str]]] = {
        index: {**dict.fromkeys(works, unknown), "bus_id": unknown} for index in range(count)
    }
    for message in reported:
        if isinstance(message, messages.Step) and message.gpu in answers:
            # Where this is the last line, the child ended in this step; else its answer follows.
            answers[message.gpu][message.work or "kernel"] = unknown if verdict is None else verdict
        elif isinstance(message, messages.GpuFound) and message.gpu in answers:
            answers[message.gpu] |= {"bus_id": message.bus_id, "kernel": unknown}
        elif isinstance(message, messages.Worked) and message.gpu in answers:
            answers[message.gpu][message.work] = message.error
    return tuple(GpuWork(index=index, **answer) for index, answer in answers.items())


def _copies(
    reported: Sequence[Message], verdict: str | None, unknown: Unknown
) -> Known[tuple[PeerCopy, ...]]:
    found: dict[tuple[int, int], Maybe[str]] = {}
    for message in reported:
        if isinstance(message, messages.Step):
            if message.source is not None and message.target is not None:
                found[message.source, message.target] = unknown if verdict is None else verdict
        elif isinstance(message, messages.Copied):
            found[message.source, message.target] = message.error
    if not found and _first(reported, messages.AllWorked) is None:
        return unknown
    return tuple(PeerCopy(source=a, target=b, error=error) for (a, b), error in found.items())


def soname_of(path: str) -> str:
    """Return the SONAME of a mapped library, by its name or, where that holds more, its header."""
    name = path.rpartition("/")[2]
    if re.fullmatch(r"lib[\w+.-]+?\.so\.[0-9]+", name):
        return name
    try:
        return read_elf(path).soname or name
    except (OSError, ValueError, ElfError):
        return name
