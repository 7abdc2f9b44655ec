"""Asks CUDA whether it works: `cuInit(0)` in a bare child process."""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from gpucheck.poverty import is_own, lack
from gpucheck.probes.child import Child, payload_command

if TYPE_CHECKING:
    from gpucheck.probes.messages import Message
    from gpucheck.snapshot import CudaInit, Driver, Unknown

LIMIT_BYTES = 1 << 20
#: How long cuInit may take: half a second is usual, and a driver that has to wake its GPUs first
#: takes up to about two seconds for each.
LEAST_SECONDS = 10.0
SECONDS_PER_SLEEPING_GPU = 2.5
MOST_SECONDS = 30.0


def patience(driver: "Driver") -> float:
    """Return how long a cuInit that still works may take on this machine."""
    if driver.persistenced_running is True:
        return LEAST_SECONDS
    gpus = driver.proc_gpus
    number = len(gpus) if isinstance(gpus, tuple) else 8
    return min(LEAST_SECONDS + SECONDS_PER_SLEEPING_GPU * number, MOST_SECONDS)


def start(deadline_seconds: float) -> Child:
    """Start the child, with this process's environment: the user's own LD_LIBRARY_PATH counts.

    It works while the other probes do: `cuInit` is the slowest part of the doctor (0.6 s with two
    H200s, nearly all of it the driver's own).
    """
    return Child(
        payload_command(sys.executable, "cuda_init", isolated=True),
        deadline_seconds=deadline_seconds,
        limit_bytes=LIMIT_BYTES,
    )


def finish(child: Child) -> "CudaInit | Unknown":
    """Return what the child found out, at the latest when its deadline is over.

    A call that did not come back, or that killed the child, is a fact of its own
    (`CudaInit.error`); a child that gave nothing to go by is Unknown.
    """
    # Not above: the child is started before anything that takes time to import.
    from gpucheck.probes.messages import Done, Message, MessageError, messages_in
    from gpucheck.snapshot import Unknown

    answers: list[Message] = []
    with child:
        try:
            for message in messages_in(child.lines()):
                if isinstance(message, Done):
                    child.leave()
                    return judge(answers)
                answers.append(message)
        except MessageError as error:
            return Unknown(f"the answer of the child is unreadable: {error}")
        return judge(answers, child.end().why or "the child ended")


def judge(answers: "Iterable[Message]", why: str | None = None) -> "CudaInit | Unknown":
    """Make a fact of the child's answers; *why* says how it ended before all was said."""
    from gpucheck.probes.messages import Answered, Calling, LoadError, MappedFrom
    from gpucheck.snapshot import CudaInit, Unknown

    library = load_error = call = None
    values: dict[str, int] = {}
    for answer in answers:
        if isinstance(answer, Calling):
            call = answer.call
        elif isinstance(answer, LoadError):
            load_error = answer.text
        elif isinstance(answer, MappedFrom):
            library = answer.path
        elif isinstance(answer, Answered):
            values[answer.call] = answer.value
    if why is not None and (call is None or is_own(why)):
        return Unknown(why)
    if (load_error is not None or values.get("cuInit")) and (lacking := lack()):
        return Unknown(lacking)
    error = None
    if why is not None:
        error = f"{why} to {call}" if why.startswith("no answer") else f"{why} in {call}"
    return CudaInit(
        library=library,
        load_error=load_error if "cuInit" not in values else None,
        code=values.get("cuInit"),
        driver_version=_version(values.get("cuDriverGetVersion")),
        device_count=values.get("cuDeviceGetCount"),
        error=error,
    )


def _version(number: int | None) -> str | None:
    """Turn cuDriverGetVersion's number, major * 1000 + minor * 10, into "13.0"."""
    if number is None or number <= 0:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"
