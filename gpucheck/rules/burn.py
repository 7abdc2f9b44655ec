"""Rules about what `gpucheck burn` found: wrong results first, then counters, heat and speed."""

from collections.abc import Sequence

from gpucheck import burn_evidence as evidence
from gpucheck.burn_evidence import burn_of
from gpucheck.conditions import was_burned, was_burned_on_gpus
from gpucheck.knowledge import xid as xids
from gpucheck.rule import Answers, NotChecked, Remedy, Severity, Symptom, command, known, rule
from gpucheck.snapshot import BurnFault, Snapshot, Unknown, value
from gpucheck.wording import count, listed

_DEAD = ("GPU001", "GPU002", "GPU003", "GPU004")
_CORRECTED = 100
_TIMES_SIBLINGS = 10
_REPLAYS_PER_MINUTE = 10
_OUT = Remedy(
    "Take this GPU out of service, keep the report for the vendor, and repeat the burn on it alone",
    steps=(command("gpucheck doctor --deep"),),
    verify=command("gpucheck burn --minutes 30"),
)


def _by_gpus(faults: Sequence[BurnFault], machine: Snapshot) -> Answers:
    """Yield one symptom for the GPUs that have the same kind of fault."""
    groups: dict[tuple[tuple[int, ...], str, str], list[BurnFault]] = {}
    for fault in faults:
        groups.setdefault((fault.gpus, fault.kind, fault.size), []).append(fault)
    for (gpus, _, _), mine in groups.items():
        yield Symptom(
            saw=evidence.described(mine, machine),
            remedy=_OUT,
            subject=" → ".join(f"gpu {gpu}" for gpu in gpus),
            gpus=tuple(sorted(gpus)),
        )


@rule(
    "BRN001",
    Severity.ERROR,
    "A GPU computed a wrong matrix product",
    caused_by=("BRN011", "BRN003", "GPU004"),
    when=was_burned,
)
def wrong_product(machine: Snapshot) -> Answers:
    """A product of whole numbers has one right result, and this GPU's is not it, bit for bit.

    The right result was computed by the CPU and proven in whole numbers; no order of additions can
    round it, so that no library, data type or chip gives another. The finding says which elements
    and bits were wrong, whether the same product is wrong again, whether the factors in memory were
    intact (else it is the memory), and whether the other GPUs computed the same product rightly.

    A training on such a GPU learns from wrong numbers, and may not notice. That nothing was found
    proves nothing beyond what was computed: the report says how much that was.
    """
    burn = burn_of(machine)
    yield from _by_gpus([one for one in burn.faults if evidence.is_product(one)], machine)
    if isinstance(burn.gpus, Unknown):
        yield NotChecked.because(burn.gpus)
    if isinstance(burn.proof, (str, Unknown)):
        why = burn.proof.why if isinstance(burn.proof, Unknown) else burn.proof
        yield NotChecked(why=f"no proven reference to compare with: {why}")
    if isinstance(burn.stopped, (str, Unknown)):
        why = burn.stopped.why if isinstance(burn.stopped, Unknown) else burn.stopped
        ran = f"{burn.elapsed_seconds / 60:.1f} of {burn.planned_seconds / 60:g} minutes"
        yield NotChecked(why=f"{why}, after {ran}")
    for error in burn.errors:
        yield NotChecked(why=error)


@rule(
    "BRN002",
    Severity.ERROR,
    "Memory, a copy or a sum returned other bytes",
    caused_by=("BRN003", "LNK004", "LNK006", "GPU004"),
    when=was_burned,
)
def wrong_bytes(machine: Snapshot) -> Answers:
    """What was written, copied or added up under load did not come back as it was.

    Memory holds patterns that say where each word is; copies between host and GPU and between GPUs
    carry numbers that both ends know; all-reduce adds up whole numbers that fp32 holds exactly. ECC
    should make this impossible in memory, and checksums on PCIe and NVLink.
    """
    burn = burn_of(machine)
    yield from _by_gpus([one for one in burn.faults if not evidence.is_product(one)], machine)


@rule(
    "BRN003",
    Severity.ERROR,
    "New hardware errors during the burn",
    caused_by=("GPU001",),
    when=was_burned_on_gpus,
)
def new_errors(machine: Snapshot) -> Answers:
    """Errors that ECC could not correct, rows of memory that were replaced, and hardware Xids.

    Only what came during the burn counts. One such error under hours of load may be chance; on a
    new machine, or twice, it is a reason to have the GPU replaced.
    """
    for gpu in evidence.gpus(machine):
        counters = yield from known(gpu.counters, f"gpu {gpu.index}")
        if counters is None:
            continue
        found = [
            count(number, name)
            for number, name in (
                (value(counters.uncorrected_ecc), "uncorrected ECC error"),
                (value(counters.remapped_rows), "remapped row"),
                (value(counters.remap_failures), "failed row remap"),
                (value(counters.remaps_pending), "pending row remap"),
            )
            if number
        ]
        if found:
            yield Symptom(
                saw=f"{listed(found)} during the burn",
                remedy=_OUT,
                subject=f"gpu {gpu.index}",
                gpus=(gpu.index,),
            )
    for xid in (yield from known(burn_of(machine).new_xids)) or ():
        meaning = xids.find(xid.number)
        is_critical = meaning is None or meaning.severity == "critical"
        at = evidence.gpu_at(machine, xid.bus_id)
        yield Symptom(
            saw=f"Xid {xid.number}" + (f", {meaning.meaning}" if meaning else f": {xid.text}"),
            severity=Severity.ERROR if is_critical else Severity.WARNING,
            remedy=_OUT if meaning is None else Remedy(meaning.what_to_do),
            subject=f"GPU at {xid.bus_id}" if at is None else at.subject,
            gpus=() if at is None else (at.index,),
        )


@rule(
    "BRN004",
    Severity.WARNING,
    "Many corrected ECC errors during the burn",
    caused_by=("BRN003", "GPU006"),
    when=was_burned_on_gpus,
)
def corrected_errors(machine: Snapshot) -> Answers:
    """ECC corrected far more errors in this GPU's memory than in its siblings'.

    A few are normal. Many come from a cell that fails, and uncorrected ones may follow.
    """
    counts: dict[int, int] = {}
    for gpu in evidence.gpus(machine):
        counters = value(gpu.counters)
        number = None if counters is None else value(counters.corrected_ecc)
        if number is not None:
            counts[gpu.index] = number
    for index, number in counts.items():
        others = [each for other, each in counts.items() if other != index]
        is_outlier = bool(others) and number > _TIMES_SIBLINGS * max(1, *others)
        if number > _CORRECTED or is_outlier:
            yield Symptom(
                saw=f"{number:,} corrected; the others {listed([f'{each:,}' for each in others])}"
                if others
                else f"{number:,} corrected",
                remedy=Remedy(
                    "Watch its ECC counters, and have it replaced if they keep growing",
                    steps=(command("nvidia-smi -q -d ECC,ROW_REMAPPER"),),
                ),
                subject=f"gpu {index}",
                gpus=(index,),
            )


@rule(
    "BRN005",
    Severity.WARNING,
    "The hardware slowed a GPU down for heat or power",
    caused_by=("GPU010", "GPU012"),
    when=was_burned_on_gpus,
)
def slowed_down(machine: Snapshot) -> Answers:
    """Beyond the ordinary power limit, the GPU's own protection cut its clock during the burn.

    Thermal slowdown means that the cooling does not carry the heat away, the power brake that the
    machine's power supply asked for less. The software power cap is no fault: a GPU under full load
    works at its limit.
    """
    burn = burn_of(machine)
    for gpu in evidence.gpus(machine):
        found = [
            (share, name)
            for name, share in evidence.slowdowns(gpu, burn.elapsed_seconds)
            if share > 0.01
        ]
        if found:
            worst = max(share for share, _ in found)
            yield Symptom(
                saw=listed([f"{name} for {share:.0%} of the time" for share, name in found]),
                severity=Severity.ERROR if worst > 0.05 else Severity.WARNING,
                remedy=Remedy(
                    "Examine its cooling and its power supply",
                    steps=(command("nvidia-smi -q -d PERFORMANCE,POWER,TEMPERATURE"),),
                    verify=command("gpucheck burn --minutes 10"),
                ),
                subject=f"gpu {gpu.index}",
                gpus=(gpu.index,),
            )


@rule(
    "BRN006",
    Severity.WARNING,
    "A GPU computed slower than its siblings",
    caused_by=("BRN005", "BRN009", "PRF001", "GPU010", "GPU012"),
    when=was_burned_on_gpus,
)
def slower(machine: Snapshot) -> Answers:
    """All GPUs computed the same products at the same time, and this one fewer of them.

    Healthy GPUs of one model differ by up to 8 percent, since chips differ. Somebody else on the
    GPU, a lower limit or clock, or a fault slows it down; a training that keeps all GPUs in step
    then runs at this one's speed.
    """
    for gpu, saw in evidence.slower_than_siblings(machine):
        yield Symptom(
            saw=saw,
            remedy=Remedy(
                "Look for other processes on it, and compare its clock and limits with the others'",
                steps=(command("nvidia-smi"), command("gpucheck bench --only gemm")),
            ),
            subject=f"gpu {gpu.index}",
            gpus=(gpu.index,),
        )


@rule(
    "BRN007",
    Severity.WARNING,
    "A GPU got slower though its clock did not",
    caused_by=("BRN005", "BRN009"),
    when=was_burned_on_gpus,
)
def sagged(machine: Snapshot) -> Answers:
    """The same products took longer in the last minute than in the first, at the same clock.

    A lower clock as the GPU warms up is normal. Slower work at full clock is not: memory that
    corrects errors, another process, a failing chip.
    """
    for gpu in evidence.gpus(machine):
        found = list(evidence.sagging(gpu))
        if found:
            yield Symptom(
                saw=listed(found),
                remedy=Remedy(
                    "Look for other processes and for ECC errors on it",
                    steps=(command("nvidia-smi -q -d ECC,PIDS"),),
                ),
                subject=f"gpu {gpu.index}",
                gpus=(gpu.index,),
            )


@rule(
    "BRN008",
    Severity.ERROR,
    "A GPU stopped answering during the burn",
    caused_by=("BRN003", *_DEAD),
    when=was_burned,
)
def stopped(machine: Snapshot) -> Answers:
    """The process that worked on this GPU hung or died, or its GPU was lost.

    The others went on. A GPU that hangs under load has fallen off the bus, or its driver waits for
    it for ever: the kernel log has an Xid (GPU020).
    """
    remedy = Remedy(
        "Look for an Xid in the kernel log, and reset the GPU",
        steps=(command("dmesg -T", root=True), command("gpucheck doctor --deep")),
    )
    for gpu in evidence.gpus(machine):
        why = value(gpu.stopped)
        if why is not None:
            subject = f"gpu {gpu.index}"
            yield Symptom(saw=why, remedy=remedy, subject=subject, gpus=(gpu.index,))
    between = value(burn_of(machine).stopped_between)
    if between is not None:
        yield Symptom(saw=f"what goes between the GPUs: {between}", remedy=remedy)


@rule(
    "BRN009",
    Severity.WARNING,
    "A GPU is hotter than its siblings, and slowed for it",
    caused_by=("BRN005", "GPU010"),
    when=was_burned_on_gpus,
)
def hotter(machine: Snapshot) -> Answers:
    """At the same power this GPU is more than 15 °C hotter than the others, and clocks down.

    A place in the chassis explains some degrees. More come from a heat sink that came loose, dust,
    a fan that failed, or a missing air baffle.
    """
    for gpu in evidence.gpus(machine):
        saw = evidence.hotter(machine, gpu)
        if saw is not None:
            yield Symptom(
                saw=saw,
                remedy=Remedy("Examine its heat sink, fans and air flow"),
                subject=f"gpu {gpu.index}",
                gpus=(gpu.index,),
            )


@rule(
    "BRN010",
    Severity.WARNING,
    "The PCIe link of a GPU is bad under load",
    caused_by=("BRN008", "LNK001", "LNK002", "LNK003"),
    when=was_burned_on_gpus,
)
def bad_link(machine: Snapshot) -> Answers:
    """Transfers were repeated, or the link came back with fewer lanes, while it was used.

    A link that retrains narrower under load has a bad contact: slot, riser or cable.
    """
    minutes = max(1.0, burn_of(machine).elapsed_seconds / 60)
    for gpu in evidence.gpus(machine):
        counters = value(gpu.counters)
        replays = (value(counters.pcie_replays) if counters else None) or 0
        widths = [width for point in gpu.points if (width := value(point.pcie_width))]
        found = []
        if widths and widths[-1] < max(widths):
            found.append(f"{widths[-1]} lanes at the end, {max(widths)} before")
        if replays > _REPLAYS_PER_MINUTE * minutes:
            found.append(f"{replays:,} replays, {replays / minutes:.0f} a minute")
        if found:
            narrower = widths and widths[-1] < max(widths)
            yield Symptom(
                saw=listed(found),
                severity=Severity.ERROR if narrower else Severity.WARNING,
                remedy=Remedy(
                    "Reseat the GPU, its riser and its cables",
                    steps=(command("nvidia-smi -q -d PCIE"),),
                ),
                subject=f"gpu {gpu.index}",
                gpus=(gpu.index,),
            )


@rule(
    "BRN011",
    Severity.ERROR,
    "The burn does not notice wrong results",
    when=was_burned,
)
def alarm_is_broken(machine: Snapshot) -> Answers:
    """In each phase a bit is flipped on purpose, and here that was not found.

    The comparison itself runs on the GPU under test, so a GPU may be so broken that it does not see
    its own faults. Whatever this burn called right is then worth nothing.
    """
    burn = burn_of(machine)
    missed = burn.alarms - burn.alarms_found
    if missed:
        yield Symptom(
            saw=f"{missed} of {burn.alarms} bits that were flipped on purpose were not found",
            remedy=Remedy(
                "Repeat the burn on one GPU at a time", steps=(command("gpucheck burn"),)
            ),
        )


@rule(
    "BRN012",
    Severity.WARNING,
    "The burn was interrupted",
    caused_by=("BRN003",),
    when=was_burned,
)
def interrupted(machine: Snapshot) -> Answers:
    """The burn was killed, or the machine restarted, and it was resumed later.

    A machine that restarts by itself under load has a fault in its power supply, its cooling or its
    memory, unless somebody restarted it.
    """
    for one in burn_of(machine).interruptions:
        when = f"after {one.seconds / 60:.1f} minutes, during {one.phase or 'its start'}"
        if value(one.is_reboot) is True:
            yield Symptom(
                saw=f"the machine restarted {when}",
                remedy=Remedy(
                    "Find out who or what restarted it",
                    steps=(command("journalctl -b -1 -n 100 --no-pager", root=True),),
                ),
            )
        else:
            yield Symptom(
                saw=f"it was killed {when}",
                severity=Severity.INFO,
                remedy=Remedy(
                    "Nothing has to be done where somebody ended it; else look for the killer",
                    steps=(command("dmesg -T", root=True),),
                ),
            )
