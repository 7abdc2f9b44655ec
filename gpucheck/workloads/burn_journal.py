"""Keeps what happens in a burn, line by line, and makes the facts of it.

A line is on the disk before the burn goes on: what was found outlives a kill or a power failure,
and the burn can go on from there.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Union

import msgspec

from gpucheck.snapshot import (
    NOT_EXAMINED,
    NOT_SUPPORTED,
    Burn,
    BurnCounters,
    BurnFault,
    BurnGpu,
    BurnInterruption,
    BurnPoint,
    BurnWork,
    Known,
    Maybe,
    Reading,
    Unknown,
    Xid,
    replace,
)

FILE = "journal.jsonl"
_MOST_FAULTS = 20  # of a kind on a GPU, whose details are kept in the facts
_MOST_POINTS = 240  # of each GPU: a plot has no more pixels to show
_SAG_SECONDS = 60.0


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Something that happened; *seconds* is the burn's own clock, which stops between two parts."""

    seconds: float


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """A part of the burn begins: the first, or one that goes on."""

    at: str  # ISO 8601 in UTC
    boot: str  # the kernel's id of this boot; "": not known
    plan: dict[str, Any]
    gpus: tuple[BurnGpu, ...]
    torch: str
    cuda: str | None
    xids: Known[tuple[Xid, ...]]  # that the kernel had logged before


class Proven(Event, frozen=True, kw_only=True, tag="proven"):
    """The reference was computed; *error* is why it is not proven."""

    error: str | None


class Turned(Event, frozen=True, kw_only=True, tag="turned"):
    """A phase begins."""

    turn: int
    phase: str


class Worked(Event, frozen=True, kw_only=True, tag="worked"):
    """What one GPU, or all together (gpu is None), did since it was written down last."""

    gpu: int | None
    work: tuple[BurnWork, ...]
    loaded_seconds: float = 0.0
    faults: tuple[BurnFault, ...] = ()
    faults_left_out: int = 0
    alarms: int = 0
    alarms_found: int = 0


class Counters(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A GPU's counters at one moment; None: it does not say."""

    corrected_ecc: int | None = None
    uncorrected_ecc: int | None = None
    remapped_rows: int | None = None
    remap_failures: int | None = None
    remaps_pending: int | None = None
    pcie_replays: int | None = None
    nvlink_errors: int | None = None
    thermal_slowdown_seconds: float | None = None
    power_brake_seconds: float | None = None


class Seen(Event, frozen=True, kw_only=True, tag="seen"):
    """What NVML said of one GPU in the last seconds."""

    gpu: int
    point: BurnPoint
    counters: Counters


class Stopped(Event, frozen=True, kw_only=True, tag="stopped"):
    """One GPU stopped answering; the others go on. gpu is None: what all do together."""

    gpu: int | None
    why: str


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """A phase could not be carried out."""

    gpu: int | None
    why: str


class Ended(Event, frozen=True, kw_only=True, tag="ended"):
    """The burn is over; *why* it ended early, None: it was planned."""

    why: str | None
    new_xids: Known[tuple[Xid, ...]]


AnyEvent = Union[Started, Proven, Turned, Worked, Seen, Stopped, Failed, Ended]  # noqa: UP007


class JournalError(ValueError):
    """A folder has no journal, or one that cannot be read, or cannot be written."""


class Journal:
    """The events of one burn, in a file (where there is one) and in memory."""

    def __init__(self, folder: Path | None, *, resume: bool) -> None:
        self.events: list[AnyEvent] = []
        self._file: int | None = None
        if folder is None:
            return
        path = folder / FILE
        if resume:
            self.events = list(_read(path))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, flags | (0 if resume else os.O_EXCL), 0o644)
            if resume:
                self._end_the_last_line(path)
        except FileExistsError:
            raise JournalError(
                f"{folder} has the journal of a burn: go on with it by --resume {folder}"
            ) from None
        except OSError as error:
            raise JournalError(f"{folder}: {error.strerror}") from None

    def _end_the_last_line(self, path: Path) -> None:
        """A line that a kill cut off must not swallow the next."""
        content = path.read_bytes()
        if content and not content.endswith(b"\n") and self._file is not None:
            os.write(self._file, b"\n")

    def add(self, event: AnyEvent) -> None:
        """Keep *event*: it is on the disk when this returns."""
        self.events.append(event)
        if self._file is None:
            return
        line = msgspec.json.encode(event) + b"\n"
        try:
            while line:
                line = line[os.write(self._file, line) :]
            os.fsync(self._file)
        except OSError:  # a full disk must not end the burn: the facts in memory are whole
            pass

    @property
    def seconds(self) -> float:
        """Return where the burn's clock was at the last event."""
        return max((event.seconds for event in self.events), default=0.0)

    @property
    def first(self) -> Started | None:
        return next((event for event in self.events if isinstance(event, Started)), None)

    @property
    def is_over(self) -> bool:
        """Whether the burn came to its planned end."""
        return bool(self.events) and any(
            isinstance(event, Ended) and event.why is None for event in self.events
        )


def _read(path: Path) -> Iterator[AnyEvent]:
    decoder = msgspec.json.Decoder(AnyEvent)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            event: AnyEvent = decoder.decode(line)
        except (msgspec.DecodeError, ValueError) as error:
            if "truncated" in str(error):
                continue  # cut off by a kill
            raise JournalError(f"{path}:{number}: {error}") from None
        yield event


# --------------------------------------------------------------------------------------- facts


def facts(events: Sequence[AnyEvent], *, device: str) -> Burn:
    """Return what the events of a burn come to."""
    starts = [event for event in events if isinstance(event, Started)]
    if not starts:
        why = next((event.why for event in events if isinstance(event, Ended)), None)
        return Burn(
            device="cpu" if device == "cpu" else "cuda",
            gpus=Unknown("it did not come to its start"),
            stopped=why,
        )
    first, last = starts[0], starts[-1]
    worked = [event for event in events if isinstance(event, Worked)]
    turned = [event for event in events if isinstance(event, Turned)]
    ends = [event for event in events if isinstance(event, Ended)]
    proofs = [event for event in events if isinstance(event, Proven)]
    faults = _kept([fault for event in worked for fault in event.faults])
    return Burn(
        device="cpu" if device == "cpu" else "cuda",
        torch=last.torch,
        cuda=last.cuda,
        phases=tuple(first.plan.get("phases", ())),
        planned_seconds=60.0 * float(first.plan.get("minutes", 0.0)),
        elapsed_seconds=round(max(event.seconds for event in events), 1),
        turns=max((event.turn for event in turned), default=0),
        gpus=tuple(_gpu(gpu, events) for gpu in _gpus_of(starts)),
        work=_work([event for event in worked if event.gpu is None]),
        stopped_between=_why_stopped(events, None),
        proof=_proof(proofs),
        faults=faults,
        faults_left_out=_left_out(worked),
        alarms=sum(event.alarms for event in worked),
        alarms_found=sum(event.alarms_found for event in worked),
        interruptions=tuple(_interruptions(events)),
        stopped=ends[-1].why if ends and ends[-1] is events[-1] else Unknown("it did not end"),
        errors=tuple(
            dict.fromkeys(
                f"gpu {event.gpu}: {event.why}" if event.gpu is not None else event.why
                for event in events
                if isinstance(event, Failed)
            )
        ),
        new_xids=ends[-1].new_xids if ends else NOT_EXAMINED,
    )


def _kept(faults: Sequence[BurnFault]) -> tuple[BurnFault, ...]:
    """Return the first of each kind on each GPU."""
    counts: dict[object, int] = {}
    kept = []
    for fault in faults:
        key = (fault.gpus, fault.kind, fault.size)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= _MOST_FAULTS:
            kept.append(fault)
    return tuple(kept)


def _left_out(worked: Sequence[Worked]) -> int:
    """Return of how many wrong results no details are kept."""
    faults = [fault for event in worked for fault in event.faults]
    return sum(event.faults_left_out for event in worked) + len(faults) - len(_kept(faults))


def _gpus_of(starts: Sequence[Started]) -> Iterable[BurnGpu]:
    """Return each GPU that took part, as it was described first."""
    found: dict[int, BurnGpu] = {}
    for start in starts:
        for gpu in start.gpus:
            found.setdefault(gpu.index, gpu)
    return found.values()


def _proof(proofs: Sequence[Proven]) -> Maybe[str]:
    if not proofs:
        return Unknown("no reference was computed")
    return next((each.error for each in proofs if each.error is not None), None)


def _gpu(gpu: BurnGpu, events: Sequence[AnyEvent]) -> BurnGpu:
    mine = [event for event in events if isinstance(event, Worked) and event.gpu == gpu.index]
    seen = [event for event in events if isinstance(event, Seen) and event.gpu == gpu.index]
    return replace(
        gpu,
        work=_work(mine),
        loaded_seconds=round(sum(event.loaded_seconds for event in mine), 3),
        faults_left_out=_left_out(mine),
        stopped=_why_stopped(events, gpu.index),
        counters=_growth([event.counters for event in seen]),
        points=_thinned([event.point for event in seen]),
    )


def _why_stopped(events: Sequence[AnyEvent], gpu: int | None) -> str | None:
    ends = [event for event in events if isinstance(event, Stopped) and event.gpu == gpu]
    return ends[-1].why if ends else None


def _work(events: Sequence[Worked]) -> tuple[BurnWork, ...]:
    """Add up the same work, and compare its rate in the first minute and in the last."""
    parts: dict[tuple[str, str, str], list[tuple[float, BurnWork]]] = {}
    for event in events:
        for work in event.work:
            key = (work.phase, work.kind, work.size)
            parts.setdefault(key, []).append((event.seconds, work))
    return tuple(
        BurnWork(
            phase=phase,
            kind=kind,
            size=size,
            count=sum(work.count for _, work in mine),
            amount=sum(work.amount for _, work in mine),
            seconds=round(sum(work.seconds for _, work in mine), 3),
            first_rate=_rate(mine, since=mine[0][0], until=mine[0][0] + _SAG_SECONDS),
            last_rate=_rate(mine, since=mine[-1][0] - _SAG_SECONDS, until=mine[-1][0]),
        )
        for (phase, kind, size), mine in parts.items()
    )


def _rate(parts: Sequence[tuple[float, BurnWork]], *, since: float, until: float) -> float | None:
    """Return 10^12 a second from *since* to *until*; None where it did not last long enough."""
    if parts[-1][0] - parts[0][0] < 3 * _SAG_SECONDS:
        return None
    mine = [work for at, work in parts if since <= at <= until]
    seconds = sum(work.seconds for work in mine)
    return 1e-12 * sum(work.amount for work in mine) / seconds if seconds > 0 else None


def _growth(readings: Sequence[Counters]) -> Known[BurnCounters]:
    """Return by how much each counter grew; one that starts again counts from 0."""
    if not readings:
        return Unknown("NVML showed nothing of this GPU")

    def grown(name: str) -> "Reading[Any]":
        values = [number for each in readings if (number := getattr(each, name)) is not None]
        if not values:
            return NOT_SUPPORTED
        return sum(new - old if new >= old else new for old, new in pairwise(values))

    return BurnCounters(**{name: grown(name) for name in Counters.__struct_fields__})


def _thinned(points: Sequence[BurnPoint]) -> tuple[BurnPoint, ...]:
    """Keep as many points as a plot can show; the extremes of each stretch stay."""
    step = -(-len(points) // _MOST_POINTS) if points else 1
    if step == 1:
        return tuple(points)
    thinned = []
    for at in range(0, len(points), step):
        stretch = points[at : at + step]
        hot = [each.temperature_celsius for each in stretch]
        reasons = 0
        for each in stretch:
            mask = each.clocks_event_reasons
            reasons |= mask if isinstance(mask, int) else 0
        thinned.append(
            replace(
                stretch[-1],
                temperature_celsius=max(
                    (t for t in hot if isinstance(t, (int, float))), default=None
                ),
                clocks_event_reasons=reasons,
            )
        )
    return tuple(thinned)


def _interruptions(events: Sequence[AnyEvent]) -> Iterator[BurnInterruption]:
    """Yield where the burn broke off without an end of its own, and went on later."""
    phase, boot = "", ""
    before: AnyEvent | None = None
    for event in events:
        if isinstance(event, Turned):
            phase = event.phase
        if isinstance(event, Started):
            if before is not None and not isinstance(before, Ended):
                reboot = event.boot != boot if event.boot and boot else Unknown("no boot id")
                yield BurnInterruption(seconds=before.seconds, phase=phase, is_reboot=reboot)
            boot = event.boot
        before = event
