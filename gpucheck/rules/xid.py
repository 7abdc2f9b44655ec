"""Judges the Xid errors of the kernel log: whose fault each is, and what the case at hand asks for.

Line formats and meanings: NVIDIA's Xid catalog (https://docs.nvidia.com/deploy/xid-errors/).
"""

import msgspec

from gpucheck import derived
from gpucheck.derived import is_virtual
from gpucheck.knowledge import xid as xids
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import Answers, NotApplicable, Remedy, Severity, Symptom, known, rule
from gpucheck.snapshot import Gpu, RemappedRows, RetiredPages, Snapshot, Xid, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed, ranges

#: Xids of failing memory. Restarting the program is all that some of them ask for, and yet the
#: fault is the GPU's: NVIDIA's documentation of GPU memory errors.
MEMORY_XIDS = frozenset((48, 63, 64, 92, 94, 95, 140, 171, 172))
NVLINK_XIDS = frozenset((74, 136, 144, 145, 146, 147, 148, 149, 150, 155))
#: of NVLink 5 (Blackwell); their lines say "Fatal" or "Nonfatal" and the number of the link
NVLINK_5_XIDS = frozenset(range(144, 151))
NAMES_SHOWN = 3  # of programs
_SEVERITIES = {
    "critical": Severity.ERROR,
    "warning": Severity.WARNING,
    "info": Severity.INFO,
    "follow": Severity.INFO,
}


class _Case(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU's lines of one number, and what else is known when they are judged."""

    entry: Xid
    gpu: Gpu | None  # None: the GPU is none of those that NVML lists
    logged: tuple[Xid, ...]
    machine: Snapshot

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        return value(self.machine.nvml.gpus) or ()

    def also(self, *numbers: int) -> bool:
        """Whether the same GPU logged one of these *numbers* too."""
        return any(one.number in numbers and one.bus_id == self.entry.bus_id for one in self.logged)


class _Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict on one case; equal ones of several GPUs become one finding."""

    number: int
    severity: Severity
    note: str
    remedy: Remedy
    explained_by: tuple[str, ...]


@rule("GPU020", Severity.ERROR, "The kernel logged Xid errors")
def xid_errors(machine: Snapshot) -> Answers:
    """An Xid is the driver's note of an error on a GPU; its number says what went wrong.

    Errors of a program (Xid 13, 31, 43, 45 …) are notes for its owner; the GPU is sound. They are
    raised to a warning where they point at the GPU after all: the same unit, or the same one GPU of
    several, failing for different programs. The others say what the machine needs. The log covers
    this boot; a reset since may have fixed what it reports.

    Where NVML reports the same fault, the log line is reported under that finding. Xid 154 is the
    driver's note of the recovery that it asks for: what NVML says of that now counts more. Xids 144
    to 150 come from NVLink 5: on several links or GPUs, or followed by Xid 45, they mean that the
    fabric as a whole has to be reset.
    """
    gpus = value(machine.nvml.gpus) or ()
    if not gpus and machine.host.pci_gpus == ():
        yield NotApplicable(why="no GPU")
        return
    logged = (yield from known(machine.kernel_log.xids)) or ()
    by_bus_id = {gpu.bus_id: gpu for gpu in gpus if isinstance(gpu.bus_id, str)}
    alike: dict[object, list[_Case]] = {}
    judged: dict[object, _Judged] = {}
    for entry in logged:
        case = _Case(entry=entry, gpu=by_bus_id.get(entry.bus_id), logged=logged, machine=machine)
        verdict = _judge(case)
        remedy = verdict.remedy.text
        what = (verdict.number, verdict.severity, verdict.note, remedy, verdict.explained_by)
        key = (*what, case.gpu is None)
        judged.setdefault(key, verdict)
        alike.setdefault(key, []).append(case)
    for kind, cases in alike.items():
        yield _symptom(judged[kind], cases)


def _symptom(judged: _Judged, cases: list[_Case]) -> Symptom:
    gpus = [case.gpu for case in cases if case.gpu is not None]
    entries = [case.entry for case in cases]
    meaning = xids.find(judged.number)
    what = f"Xid {judged.number}" + (f", {meaning.meaning}" if meaning is not None else "")
    saw = f"{what}; {_times(entries)}{_when(entries)}"
    if programs := sorted({name for entry in entries for name in entry.processes}):
        saw += f"; programs: {listed(programs[:NAMES_SHOWN])}"
        saw += " and others" if len(programs) > NAMES_SHOWN else ""
    if judged.number in NVLINK_5_XIDS:
        saw += _links(entries)
    if meaning is None or meaning.severity == "follow" or judged.number in NVLINK_5_XIDS:
        saw += f": {entries[-1].text}" if entries[-1].text else ""
    saw += f"; {judged.note}" if judged.note else ""
    if gpus:
        indexes = tuple(gpu.index for gpu in gpus)
        subject = gpus[0].subject if len(gpus) == 1 else f"gpus {ranges(indexes)}"
    else:
        indexes = ()
        subject = f"GPU at {listed([entry.bus_id for entry in entries])}"
    steps = dict.fromkeys(step for case in cases for step in _judge(case).remedy.steps)
    return Symptom(
        subject=subject,
        gpus=indexes,
        severity=judged.severity,
        saw=saw,
        remedy=msgspec.structs.replace(judged.remedy, steps=tuple(steps)),
        explained_by=judged.explained_by,
    )


# ------------------------------------------------------------------------------------ one case


def _judge(case: _Case) -> _Judged:
    entry, gpu = case.entry, case.gpu
    severity = _severity(case)
    remedy = _remedy(case)
    note = ""
    if pattern := _pattern(case):
        severity, note = Severity.WARNING, pattern
        remedy = Remedy("Run the vendor's field diagnostic on this GPU")
    in_container = derived.is_container(case.machine)
    if gpu is None and case.gpus and in_container and _all_bus_ids_known(case.gpus):
        severity, note = Severity.INFO, "this container does not have that GPU"
        remedy = Remedy("Report it to whoever runs the machine; this container has other GPUs")
    return _Judged(
        number=entry.number,
        severity=severity,
        note=note,
        remedy=remedy,
        explained_by=_roots(case),
    )


def _all_bus_ids_known(gpus: tuple[Gpu, ...]) -> bool:
    return all(isinstance(gpu.bus_id, str) for gpu in gpus)


def _severity(case: _Case) -> Severity:
    entry, gpu = case.entry, case.gpu
    meaning = xids.find(entry.number)
    if meaning is None:
        return Severity.WARNING
    severity = _SEVERITIES[meaning.severity]
    if entry.number == 154:
        return _recovery_severity(entry, gpu)
    if entry.number == 79 and gpu is not None and gpu.state == "ok":
        return Severity.WARNING  # it answers again, so it was reset since
    if entry.number == 63 and gpu is not None and _is_remapped(gpu):
        return Severity.INFO
    if entry.number in NVLINK_5_XIDS:
        return Severity.ERROR if _is_fatal(case) else Severity.WARNING
    if meaning.action == "restart_app" and severity is Severity.WARNING:
        return severity if entry.number in MEMORY_XIDS else Severity.INFO
    return severity


def _is_remapped(gpu: Gpu) -> bool:
    """Tell whether NVML knows of no row or page any more that waits for a reset."""
    if isinstance(gpu.remapped_rows, RemappedRows):
        return not gpu.remapped_rows.is_pending
    return isinstance(gpu.retired_pages, RetiredPages) and not gpu.retired_pages.is_pending


def _recovery_severity(entry: Xid, gpu: Gpu | None) -> Severity:
    """Judge Xid 154 by its own text, where NVML does not report what is asked for now.

    The text: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)".
    """
    if gpu is not None and isinstance(gpu.recovery_action, int):
        return Severity.INFO
    asked = _asked(entry)
    if "reset" in asked or "reboot" in asked:
        return Severity.ERROR
    return Severity.WARNING if "drain" in asked else Severity.INFO


def _asked(entry: Xid) -> str:
    return entry.text.rpartition(" to ")[2].lower()


def _is_fatal(case: _Case) -> bool:
    """Whether NVLink 5's error took something down: by its line, or by the Xid 45 that follows.

    "45, pid=…, channel … caused by previous Xid 145" is a program that lost its channels by it.
    """
    words = case.entry.text.replace(",", " ").split()
    if "Fatal" in words:
        return True
    return any(
        one.number == 45
        and one.bus_id == case.entry.bus_id
        and f"previous xid {case.entry.number}" in one.text.lower()
        for one in case.logged
    )


def _roots(case: _Case) -> tuple[str, ...]:
    """Return what NVML says of the same fault of the same GPU, if it still stands."""
    entry, gpu = case.entry, case.gpu
    if gpu is None:
        return ("GPU001",) if entry.number == 79 else ()
    if gpu.state != "ok":
        return ("GPU001",) if gpu.state == "lost" else ("GPU002", "GPU001")
    roots: list[str] = []
    if entry.number in MEMORY_XIDS:
        rows, pages = gpu.remapped_rows, gpu.retired_pages
        if isinstance(rows, RemappedRows) and rows.has_failed:
            roots.append("GPU006")
        if value(gpu.uncorrected_ecc_volatile):
            roots.append("GPU004")
        if isinstance(rows, RemappedRows) and rows.is_pending:
            roots.append("GPU005")
        if isinstance(pages, RetiredPages) and pages.is_pending:
            roots.append("GPU008")
    if entry.number in NVLINK_XIDS and _has_dead_link(gpu):
        roots.append("LNK004")
    meaning = xids.find(entry.number)
    asks = meaning is not None and meaning.action in ("reset_gpu", "reboot", "follow_xid_154")
    if asks and isinstance(gpu.recovery_action, int) and gpu.recovery_action:
        roots.append("GPU003")
    return tuple(roots)


def _has_dead_link(gpu: Gpu) -> bool:
    return any(link.is_up is False for link in value(gpu.nvlinks) or ())


def _pattern(case: _Case) -> str:
    """Say what makes an application error look like the GPU's, "" where nothing does."""
    entry = case.entry
    if entry.count < 3 or len(entry.processes) < 2:
        return ""
    programs = f"for {len(entry.processes)} different programs"
    if entry.number == 13 and len(entry.units) == 1:
        return f"always on {entry.units[0]}, {programs}"
    others = any(one.number == 31 and one.bus_id != entry.bus_id for one in case.logged)
    if entry.number == 31 and len(case.gpus) > 1 and not others:
        return f"on this GPU alone of {len(case.gpus)}, {programs}"
    return ""


# ---------------------------------------------------------------------------------- what to do


def _remedy(case: _Case) -> Remedy:
    """Return what this number asks for in this case."""
    entry, machine = case.entry, case.machine
    meaning = xids.find(entry.number)
    if meaning is None:
        return Remedy(
            "Look the number up in NVIDIA's Xid catalog (https://docs.nvidia.com/deploy/xid-errors/)"
        )
    if entry.number == 154:
        return _recovery(case)
    if entry.number in (48, 63, 64, 94, 95, 140):
        return _memory_remedy(case)
    if entry.number in NVLINK_5_XIDS and (_is_fatal(case) or _reaches_far(case)):
        text = (
            "Drain the machine, then reset all GPUs together or reboot: NCCL may hang until then;"
            " keep the lines for the vendor"
        )
        return remedies.reset_all(machine, text)
    if entry.number == 74:
        return remedies.reset_all(machine, meaning.what_to_do)
    if entry.number == 79:
        return remedies.power_cycle(machine, case.gpu)
    if entry.number == 54 and is_virtual(machine):
        return Remedy("Ask whoever runs the host to check the power cables of this GPU")
    if meaning.action == "reset_gpu":
        return _reset(case, meaning.what_to_do)
    if meaning.action == "reboot":
        return remedies.reboot(machine, meaning.what_to_do)
    return Remedy(meaning.what_to_do)


def _reset(case: _Case, text: str) -> Remedy:
    if case.gpu is None:  # NVML does not list it: nvidia-smi cannot reset it
        return remedies.reboot(case.machine, "Drain the machine, then reboot it")
    return remedies.reset(case.gpu, case.machine, text)


def _memory_remedy(case: _Case) -> Remedy:
    """Return what an error of the GPU's memory asks for, by what came of it."""
    number, gpu = case.entry.number, case.gpu
    part = "row remap" if gpu is None or _has_row_remap(gpu) else "page retirement"
    if number == 64 or (number == 48 and case.also(64)):
        return _reset(
            case,
            f"Drain the GPU and reset it: a {part} failed; if it fails again, have the board"
            " replaced",
        )
    if number == 48 and case.also(63):
        return _reset(case, f"Let the running work end, then reset the GPU to complete the {part}")
    if number == 48 and case.also(172):
        return _reset(
            case,
            "Drain the GPU and reset it: the error was in SRAM, which has no spares; if it comes"
            " again, have the board replaced",
        )
    if number == 63:
        if gpu is not None and _is_remapped(gpu):
            return Remedy(f"Nothing has to be done: the {part} took effect at a reset since")
        return _reset(case, f"Reset the GPU when its work has ended: the {part} takes effect then")
    if number == 94:
        text = "Restart the program that was hit; reset the GPU when its work has ended"
        return _reset(case, text)
    if number == 95:
        return _reset(
            case, "End all work on this GPU, also of other users, and reset it: any may be hit"
        )
    if number == 140:
        return _reset(case, "Drain the GPU and reset it; if it comes again, contact the vendor")
    return _reset(case, "Drain the GPU and reset it; if errors come again, have the board replaced")


def _has_row_remap(gpu: Gpu) -> bool:
    """Whether bad memory is replaced by rows (Ampere and newer) and not by pages."""
    capability = value(gpu.compute_capability)
    return capability is None or version_tuple(capability) >= (8, 0)


def _reaches_far(case: _Case) -> bool:
    """Whether an NVLink 5 error is on several links of this GPU, or on several GPUs."""
    links = [unit for unit in case.entry.units if unit.startswith("link ")]
    others = {one.bus_id for one in case.logged if one.number in NVLINK_5_XIDS}
    return len(links) > 1 or len(others) > 1


def _recovery(case: _Case) -> Remedy:
    """Return what Xid 154's own line asks for, unless NVML says that nothing is asked any more."""
    if case.gpu is not None and case.gpu.recovery_action == 0:
        return Remedy("Nothing has to be done: the driver asks for no recovery any more")
    asked = _asked(case.entry)
    if "reboot" in asked:
        return remedies.reboot(case.machine, "Drain the machine, then reboot it")
    if "drain" in asked and "reset" in asked:
        return _reset(case, "Let the running work end, start nothing new, then reset the GPU")
    if "reset" in asked:
        return _reset(case, "End what runs on this GPU and reset it")
    if "drain" in asked:
        return Remedy("End programs that copy between GPUs")
    return Remedy("Nothing has to be done: the line takes an earlier request back")


# ------------------------------------------------------------------------------------ its words


def _links(entries: list[Xid]) -> str:
    """Say on which NVLinks, and on how many, an error was reported."""
    links = {(one.bus_id, unit) for one in entries for unit in one.units if unit[:5] == "link "}
    if len(links) < 2:
        return "".join(f"; {unit}" for _, unit in links)
    return f"; on {len(links)} links"


def _times(entries: list[Xid]) -> str:
    total = sum(entry.count for entry in entries)
    return "once" if total == 1 else f"{total:,} times"


def _when(entries: list[Xid]) -> str:
    first = [seconds for one in entries if (seconds := value(one.first_seconds)) is not None]
    last = [seconds for one in entries if (seconds := value(one.last_seconds)) is not None]
    if not last:
        return ""
    until = _duration(max(last))
    since = _duration(min(first)) if first else until
    return f", {until} after boot" if since == until else f", from {since} to {until} after boot"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
