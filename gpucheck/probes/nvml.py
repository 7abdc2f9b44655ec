"""Asks NVML about every GPU, through children that a dead GPU may take down with it.

The session talks to the children; here their answers become the facts of the machine's GPUs, and
counters are read twice: in the same child while somebody waits for cuInit anyway, or in a second
one later.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gpucheck.held_memory import SECOND_LOOK_SECONDS, wants_second_look
from gpucheck.payload import nvml_queries as queries
from gpucheck.poverty import is_own, lack
from gpucheck.probes import nvml_child
from gpucheck.probes.child import Child
from gpucheck.probes.messages import NvmlAnswer
from gpucheck.probes.nvml_gpu import gpu_facts, sample_facts
from gpucheck.probes.nvml_links import pairs, with_link_ends
from gpucheck.probes.nvml_readings import Answers, text
from gpucheck.probes.nvml_session import NvmlSession, State, why
from gpucheck.probes.sampling import Sampling
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    ConfidentialComputing,
    Gpu,
    Nvml,
    NvmlError,
    Reading,
    Unknown,
    replace,
    unknown_section,
    value,
)

WATCH_SECONDS = 1.0  # between the two readings of --deep

T = TypeVar("T")


def probe(
    *,
    deep: bool = False,
    quick: bool = False,
    deadline_seconds: float,
    watch_seconds: float = 0.0,
    before_later_sample: Callable[[], bool] | None = None,
    sampling: Sampling | None = None,
    sees_all_processes: Callable[[], bool] | None = None,
    started: Child | None = None,
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Nvml:
    """Read all that NVML knows, and its counters a second time where there is time for that.

    With *deep* or *watch_seconds* there is: all of it ends within *deadline_seconds*, and half a
    second for the later sample where the time was over before. Between the readings
    *before_later_sample* is called, if given: it may wait, and returns whether the GPUs are under
    load now; then *watch_seconds* pass (1 s where it is 0). Else *sampling* says how long the child
    may go on. Memory that nobody owns is looked at again a second later, where
    *sees_all_processes* says that its owner would be visible.

    *quick* leaves out whether pairs of GPUs would use NVLink. *started* is the first child, where
    `nvml_child.start` made it already. *environment* is the children's; None: this process's own.
    """
    ends_at = time.monotonic() + deadline_seconds
    watch = deep or watch_seconds > 0
    session = NvmlSession(
        deep=deep,
        watch=watch,
        later=False,
        capabilities=nvml_child.capabilities(quick=quick),
        environment=environment,
        started=started,
        sampling=None if watch else sampling,
    )
    session.run(deadline_seconds)
    since = session.ended_at or time.monotonic()
    nvml = _nvml(session, root)
    if isinstance(nvml.gpus, Unknown) or not nvml.gpus:
        return nvml
    if watch:
        under_load = before_later_sample() if before_later_sample is not None else False
        left = max(0.0, ends_at - time.monotonic())
        time.sleep(min(left, watch_seconds if watch_seconds > 0 else WATCH_SECONDS))
    else:
        nvml = _with_samples(nvml, session, root)
        if sees_all_processes is None or not any(map(wants_second_look, value(nvml.gpus) or ())):
            return nvml
        if not sees_all_processes():
            return nvml
        under_load = False
        time.sleep(max(0.0, since + SECOND_LOOK_SECONDS - time.monotonic()))
    return later_sample(
        nvml,
        since=since,
        under_load=under_load,
        deadline_seconds=max(0.5, ends_at - time.monotonic()),
        environment=environment,
        root=root,
    )


def later_sample(
    nvml: Nvml,
    *,
    since: float,
    under_load: bool,
    deadline_seconds: float,
    environment: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Nvml:
    """Return *nvml* with the counters of every sound GPU read a second time, by a child of its own.

    *since* is `time.monotonic()` at the end of the first reading. A GPU that is lost or hangs only
    now keeps what it said before, and its state says so.
    """
    if isinstance(nvml.gpus, Unknown):
        return nvml
    sound = [gpu.index for gpu in nvml.gpus if gpu.state == "ok"]
    if not sound:
        return nvml
    session = NvmlSession(
        deep=False,
        watch=True,
        later=True,
        capabilities=(),
        environment=environment,
        only=sound,
    )
    after_seconds = time.monotonic() - since
    session.run(deadline_seconds)
    gpus = tuple(
        _with_later(gpu, session, root, after_seconds, under_load=under_load)
        if gpu.state == "ok"
        else gpu
        for gpu in nvml.gpus
    )
    return msgspec.structs.replace(nvml, gpus=gpus)


def _nvml(session: NvmlSession, root: Path) -> Nvml:
    """Put together all that was said."""

    def system(key: str, convert: Callable[[Any], T]) -> T | Unknown:
        answer = session.system.get(key)
        symbol = queries.SYSTEM_SYMBOLS[key]
        if answer is None:
            failed = session.error
            return Unknown(failed.message if failed is not None else "NVML did not answer")
        if answer.outcome == "value":
            try:
                return convert(answer.value)
            except (TypeError, ValueError):
                return Unknown(f"{symbol}: unexpected value {answer.value!r}")
        return Unknown(why(answer, symbol))

    library = session.system.get("open")
    facts: dict[str, Any] = {
        "library": None,
        "error": session.error,
        "driver_version": system("driver", text),
        "cuda_version": system("cuda", lambda n: f"{n // 1000}.{n % 1000 // 10}"),
        "count": system("count", int),
        "confidential_computing": _confidential_computing(session),
    }
    if library is not None and library.outcome == "value":
        facts["library"] = library.value or Unknown("the path cannot be determined")
    if session.error is not None and (lacking := _own_lack(session.error)) is not None:
        return replace(unknown_section(Nvml, lacking), library=facts["library"])
    if session.error is not None:
        call = session.error.call if session.error.call != "open" else "NVML does not load"
        unknown = Unknown(f"{call}: {session.error.message}")
        facts |= {"gpus": unknown, "pairs": unknown}
        if session.error.call == "open" and library is None:
            facts["library"] = unknown
        return Nvml(**facts)
    gpus = _gpus(session, root)
    facts |= {"gpus": gpus, "pairs": pairs(session, gpus, root)}
    return Nvml(**facts)


def _own_lack(error: NvmlError) -> str | None:
    """Return what gpucheck lacked, where that may be why NVML failed."""
    message = str(error.message)
    return message if is_own(message) else lack() or None


def _confidential_computing(session: NvmlSession) -> Reading[ConfidentialComputing]:
    def reading(key: str) -> Reading[bool]:
        answer: NvmlAnswer | None = session.system.get(key)
        if answer is None:
            return Unknown("NVML did not answer")
        if answer.outcome == "not supported":
            return NOT_SUPPORTED
        if answer.outcome == "value" and isinstance(answer.value, int):
            return bool(answer.value)
        return Unknown(why(answer, queries.SYSTEM_SYMBOLS[key]))

    is_on = reading("confidential")
    if not isinstance(is_on, bool):
        return is_on
    return ConfidentialComputing(is_on=is_on, gpus_are_ready=reading("ready"))


def _gpus(session: NvmlSession, root: Path) -> tuple[Gpu, ...]:
    count = max([session.count(), *(n + 1 for n in session.errors)])
    gpus = []
    for index in range(count):
        state: State
        fault: str | None
        state, fault = session.errors.get(index, ("ok", None))
        answered = session.gpus.get(index)
        if answered is None and fault is None:
            state, fault = "failed", "NVML did not answer"
        answers = Answers(answered or {}, session.plan, fault)
        gpus.append(gpu_facts(index, state, fault, answers, root))
    return with_link_ends(_with_last_bus_id(gpus, root))


def _with_last_bus_id(gpus: list[Gpu], root: Path) -> list[Gpu]:
    """Tell which GPU it is that cannot say so itself, where the driver knows one more than NVML."""
    silent = [gpu for gpu in gpus if not isinstance(gpu.bus_id, str)]
    if len(silent) != 1:
        return gpus
    try:
        listed = {entry.name for entry in (root / "proc/driver/nvidia/gpus").iterdir()}
    except OSError:
        return gpus
    [gpu] = silent
    left = listed - {other.bus_id for other in gpus if isinstance(other.bus_id, str)}
    if len(listed) == len(gpus) and len(left) == 1:
        gpus[gpu.index] = msgspec.structs.replace(gpu, bus_id=left.pop())
    return gpus


# --------------------------------------------------------------------------------- later samples


def _with_samples(nvml: Nvml, session: NvmlSession, root: Path) -> Nvml:
    """Return *nvml* with what the first child read after all was said, as far as it came."""
    if isinstance(nvml.gpus, Unknown) or not session.samples:
        return nvml
    gpus = tuple(_with_newest(gpu, session, root) for gpu in nvml.gpus)
    return msgspec.structs.replace(nvml, gpus=gpus)


def _with_newest(gpu: Gpu, session: NvmlSession, root: Path) -> Gpu:
    """Return *gpu* with its newest sample that came whole."""
    whole = [
        (number, readings[gpu.index])
        for number, readings in session.samples.items()
        if _is_whole(readings.get(gpu.index, {}))
    ]
    if gpu.state != "ok" or not whole:
        return gpu
    _, readings = max(whole, key=lambda each: each[0])
    plan = [query for query in queries.LATER if query[0] in readings]
    answers = Answers(readings, plan, None)
    began = min(answer.at for answer in readings.values())
    sample = sample_facts(answers, root, after_seconds=began - session.ended_at, under_load=False)
    return msgspec.structs.replace(gpu, later_sample=sample)


def _is_whole(readings: Mapping[str, NvmlAnswer]) -> bool:
    """Whether a sample has all that is judged by how it grows; the rest may not have been asked."""
    return all(query[0] in readings for query in queries.RATES)


def _with_later(
    gpu: Gpu, session: NvmlSession, root: Path, after_seconds: float, *, under_load: bool
) -> Gpu:
    """Return *gpu* with the sample that a second child took."""
    state, fault = session.errors.get(gpu.index, ("ok", None))
    if fault is not None:
        fault += ", in the second reading"
    elif session.error is not None:
        fault = f"{session.error.call}: {session.error.message}"
    answers = Answers(session.gpus.get(gpu.index, {}), session.plan, fault)
    sample = sample_facts(answers, root, after_seconds=after_seconds, under_load=under_load)
    gpu = msgspec.structs.replace(gpu, later_sample=sample)
    return gpu if state == "ok" else msgspec.structs.replace(gpu, state=state, error=fault)
