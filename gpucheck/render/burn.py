"""What `gpucheck burn` did and found, in words and as JSON."""

from collections.abc import Iterator

import msgspec

from gpucheck import burn_evidence as evidence
from gpucheck.snapshot import Burn, BurnFault, BurnGpu, BurnWork, Snapshot, Unknown, value
from gpucheck.wording import count

REHEARSAL = "BURNED IN ON THE CPU: NO GPU WAS TESTED."


class WorkEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one kind, whatever the phase, every result of it compared."""

    kind: str
    size: str
    count: int
    amount: float  # operations or bytes
    seconds: float


class BurnGpuEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU as the JSON shows it."""

    index: int
    memory_bytes: int | None
    load_share: float | None
    stopped: str | None
    work: tuple[WorkEntry, ...]
    temperature_maximum_celsius: float | None
    power_mean_watts: float | None


class FaultEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Something that came out wrong."""

    kind: str
    size: str
    gpus: tuple[int, ...]
    phase: str
    seconds: float
    words: int
    bits: tuple[int, ...]
    repeated: int | None
    repeats: int | None
    inputs: str | None  # null: they were intact


class BurnEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A burn as the JSON shows it."""

    device: str
    torch: str | None
    phases: tuple[str, ...]
    planned_seconds: float
    elapsed_seconds: float
    turns: int
    stopped: str | None  # why it ended early
    gpus: tuple[BurnGpuEntry, ...]
    between_gpus: tuple[WorkEntry, ...]
    faults: tuple[FaultEntry, ...]
    faults_left_out: int
    alarms: int
    alarms_found: int
    interruptions: int
    coverage: tuple[str, ...]


def entry(burn: Burn) -> BurnEntry:
    """Return *burn* in the shape of the JSON."""
    return BurnEntry(
        device=burn.device,
        torch=value(burn.torch),
        phases=burn.phases,
        planned_seconds=burn.planned_seconds,
        elapsed_seconds=burn.elapsed_seconds,
        turns=burn.turns,
        stopped=burn.stopped.why if isinstance(burn.stopped, Unknown) else burn.stopped,
        gpus=tuple(_gpu(gpu, burn) for gpu in value(burn.gpus) or ()),
        between_gpus=_work(burn.work),
        faults=tuple(_fault(fault) for fault in burn.faults),
        faults_left_out=burn.faults_left_out,
        alarms=burn.alarms,
        alarms_found=burn.alarms_found,
        interruptions=len(burn.interruptions),
        coverage=tuple(evidence.coverage(burn)),
    )


def _gpu(gpu: BurnGpu, burn: Burn) -> BurnGpuEntry:
    return BurnGpuEntry(
        index=gpu.index,
        memory_bytes=value(gpu.memory_bytes),
        load_share=evidence.load_share(gpu, burn),
        stopped=value(gpu.stopped),
        work=_work(gpu.work),
        temperature_maximum_celsius=hottest(gpu),
        power_mean_watts=mean_watts(gpu),
    )


def _work(work: tuple[BurnWork, ...]) -> tuple[WorkEntry, ...]:
    kinds = dict.fromkeys((each.kind, each.size) for each in work)
    found = [(kind, size, evidence.done(work, kind, size)) for kind, size in kinds]
    return tuple(
        WorkEntry(kind=kind, size=size, count=all_.count, amount=all_.amount, seconds=all_.seconds)
        for kind, size, all_ in found
    )


def _fault(fault: BurnFault) -> FaultEntry:
    return FaultEntry(
        kind=fault.kind,
        size=fault.size,
        gpus=fault.gpus,
        phase=fault.phase,
        seconds=fault.seconds,
        words=fault.count,
        bits=fault.bits,
        repeated=value(fault.repeated),
        repeats=value(fault.repeats),
        inputs=value(fault.inputs),
    )


def hottest(gpu: BurnGpu) -> float | None:
    """Return the highest temperature that was seen."""
    return max(
        (t for point in gpu.points if (t := value(point.temperature_celsius)) is not None),
        default=None,
    )


def mean_watts(gpu: BurnGpu) -> float | None:
    """Return the mean power."""
    watts = [w for point in gpu.points if (w := value(point.power_watts)) is not None]
    return round(sum(watts) / len(watts), 1) if watts else None


# ------------------------------------------------------------------------------------- in words


def line(machine: Snapshot) -> str:
    """Say in one line what was done."""
    burn = machine.burn
    if burn is None:
        return ""
    if isinstance(burn.gpus, Unknown):
        return f"not burned in: {burn.gpus.why}"
    gpus = "the CPU, a rehearsal" if burn.device == "cpu" else count(len(burn.gpus), "GPU")
    text = f"{gpus} for {_minutes(burn.elapsed_seconds)}"
    wrong = len(burn.faults) + burn.faults_left_out
    text += (
        f", {count(wrong, 'wrong result')}" if wrong else ", no wrong result in what was checked"
    )
    why = burn.stopped.why if isinstance(burn.stopped, Unknown) else burn.stopped
    return f"{text}; ended early: {why}" if why else text


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.3g} minutes"


def details(burn: Burn) -> Iterator[str]:
    """Yield what was covered, what shows that the alarm works, and a row for each GPU."""
    if burn.device == "cpu":
        yield REHEARSAL
    yield from evidence.coverage(burn)
    if burn.alarms:
        found = f"{burn.alarms_found} of {burn.alarms}"
        yield f"bits flipped on purpose, to test the comparison: {found} found"
    for gpu in value(burn.gpus) or ():
        yield f"GPU {gpu.index}: {_row(gpu, burn)}"
    if burn.phases and not any(isinstance(burn.proof, kind) for kind in (str, Unknown)):
        yield "a fault that this work does not provoke was not looked for"


def _row(gpu: BurnGpu, burn: Burn) -> str:
    parts = []
    share = evidence.load_share(gpu, burn)
    if share is not None:
        parts.append(f"under load {min(share, 1.0):.1%} of the time")
    heat, watts = hottest(gpu), mean_watts(gpu)
    if heat is not None:
        parts.append(f"up to {heat:.0f} °C")
    if watts is not None:
        parts.append(f"{watts:.0f} W on average")
    if burn.device == "cuda":
        rates = [text for kind in evidence.PRODUCTS if (text := _rate(gpu, kind))]
        parts += [f"{', '.join(rates)} TFLOP/s"] if rates else []
    stopped = value(gpu.stopped)
    return ", ".join([*parts, f"stopped: {stopped}"] if stopped else parts)


def _rate(gpu: BurnGpu, kind: str) -> str:
    work = [each for each in gpu.work if each.phase in evidence.ALONE]
    found = evidence.done(work, kind)
    rate = found.amount / found.seconds / 1e12 if found.seconds else 0.0
    return f"{kind} {rate:,.3g}" if rate else ""
