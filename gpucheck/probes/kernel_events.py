"""Counts what the kernel itself reports around GPUs: PCI Express, IOMMU, memory, hung tasks."""

import re
from collections.abc import Iterable

import msgspec

from gpucheck.snapshot import KernelLine, PciPort

LINES_KEPT = 32  # of each kind
LINE_LENGTH = 300
TRACE_SECONDS = 1.0  # a hung task's call trace follows it at once

_ADDRESS = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
_BUS_ERROR = re.compile(rf"(?P<bus>{_ADDRESS}): (?:AER: )?PCIe Bus Error: severity=(?P<kind>[^,]+)")
_RECEIVED = re.compile(
    r"AER: (?:Multiple )?(?P<kind>Corrected|Correctable|Uncorrected \(Non-Fatal\)|"
    r"Uncorrected \(Fatal\)|Uncorrectable \(Non-Fatal\)|Uncorrectable \(Fatal\)) error "
    rf"(?:message )?received(?: from|:)? (?P<bus>{_ADDRESS})"
)
#: BAR 0 or 1 only: ROMs and I/O ports without an address are common and harmless
_NO_ADDRESS = (
    re.compile(r"\bBAR ?[01] is 0M\b.*?\(PCI:(?P<bus>[0-9a-fA-F:.]{7,18})\)"),
    re.compile(
        rf"(?P<bus>{_ADDRESS}): BAR [01](?: \[[^\]]*\])?: "
        r"(?:can't assign|no space for|failed to assign)"
    ),
)
_NO_POWER = re.compile(
    rf"(?P<bus>{_ADDRESS}): (?:Unable to change power state|can't change power state) "
    r"from D3(?:cold|hot)? to D0|(?P<other>"
    rf"{_ADDRESS}): Refused to change power state, currently in D3"
)
_KILLED = re.compile(r"Killed process [0-9]{1,10} \((?P<process>[^)]{1,64})\)")
_IOMMU = re.compile(
    r"DMAR: \[[^\]]*\] Request device \[(?P<intel>[0-9a-fA-F:.]{7,12})\] (?:PASID \S+ )?fault addr"
    rf"|(?P<amd>{_ADDRESS}): AMD-Vi: Event logged \[IO_PAGE_FAULT"
    r"|AMD-Vi: Event logged \[IO_PAGE_FAULT device=(?P<old>[0-9a-fA-F:.]{7,12})"
)
_HUNG = re.compile(r"INFO: task (?P<process>\S{1,64}?):[0-9]{1,10} blocked for more than")
_OWN_TASKS = ("nv_", "nvidia", "UVM ")
_IN_MODULE = re.compile(r"\[nvidia(?:_\w+)?[\] ]")


class KernelEvents:
    """Takes records in the order of the log and counts them by kind and device."""

    def __init__(self) -> None:
        self._errors: dict[str, list[int]] = {}  # reported by the device: correctable, non-, fatal
        self._messages: dict[str, list[int]] = {}  # received by the port above
        self._lines: dict[str, dict[str, KernelLine]] = {}
        self._hung: tuple[float | None, str, str] | None = None

    def add(self, seconds: float | None, record: str) -> None:
        """Count *record*, a message without its time, if it is of one of the kinds."""
        if found := _BUS_ERROR.search(record):
            _count(self._errors, found["bus"], found["kind"])
        elif found := _RECEIVED.search(record):
            _count(self._messages, found["bus"], found["kind"])
        elif found := next(filter(None, (p.search(record) for p in _NO_ADDRESS)), None):
            self._keep("address", record, bus_id=_bus_id(found["bus"]))
        elif found := _NO_POWER.search(record):
            self._keep("power", record, bus_id=_bus_id(found["bus"] or found["other"]))
        elif found := _KILLED.search(record):
            self._keep("oom", record, process=found["process"])
        elif found := _IOMMU.search(record):
            bus = found["intel"] or found["amd"] or found["old"]
            self._keep("iommu", record, bus_id=_bus_id(bus))
        elif found := _HUNG.search(record):
            self._hung = (seconds, found["process"], record)
            if found["process"].startswith(_OWN_TASKS):
                self._take_hung()
        elif self._hung is not None and _IN_MODULE.search(record):
            at = self._hung[0]
            if at is None or seconds is None or seconds - at <= TRACE_SECONDS:
                self._take_hung()

    def _take_hung(self) -> None:
        if self._hung is not None:
            self._keep("hung", self._hung[2], process=self._hung[1])
            self._hung = None

    def _keep(self, kind: str, text: str, *, bus_id: str = "", process: str = "") -> None:
        lines = self._lines.setdefault(kind, {})
        key = bus_id or process
        before = lines.get(key)
        if before is not None:
            lines[key] = msgspec.structs.replace(before, count=before.count + 1)
        elif len(lines) < LINES_KEPT:
            line = " ".join(text.replace("NVRM:", "").split())[:LINE_LENGTH]
            lines[key] = KernelLine(text=line, bus_id=bus_id, process=process)

    def _of(self, kind: str) -> tuple[KernelLine, ...]:
        return tuple(self._lines.get(kind, {}).values())

    def address_failures(self) -> tuple[KernelLine, ...]:
        return self._of("address")

    def power_failures(self) -> tuple[KernelLine, ...]:
        return self._of("power")

    def oom_kills(self) -> tuple[KernelLine, ...]:
        return self._of("oom")

    def iommu_faults(self) -> tuple[KernelLine, ...]:
        return self._of("iommu")

    def hung_tasks(self) -> tuple[KernelLine, ...]:
        return self._of("hung")

    def aer_ports(self) -> tuple[PciPort, ...]:
        """Return the errors of each device. A message and its error are one event, not two."""
        names = dict.fromkeys((*self._errors, *self._messages))
        none = [0, 0, 0]
        return tuple(
            PciPort(
                bus_id=name,
                aer_correctable=max(errors[0], messages[0]),
                aer_nonfatal=max(errors[1], messages[1]),
                aer_fatal=max(errors[2], messages[2]),
            )
            for name in list(names)[:LINES_KEPT]
            for errors, messages in [(self._errors.get(name, none), self._messages.get(name, none))]
        )


def _count(counts: dict[str, list[int]], bus: str, kind: str) -> None:
    kind = kind.lower()
    place = 0 if kind.startswith("correct") else 1 if "non-fatal" in kind else 2
    counts.setdefault(_bus_id(bus), [0, 0, 0])[place] += 1


def _bus_id(text: str) -> str:
    """Write a PCI address as sysfs does: "17:00.0" and "0000:17:00" → "0000:17:00.0"."""
    parts: Iterable[str] = (
        text.lower().rpartition(".")[0::2] if "." in text else (text.lower(), "0")
    )
    address, function = parts
    words = address.split(":")
    domain = int(words[-3], 16) if len(words) > 2 and words[-3] else 0
    return f"{domain:04x}:{':'.join(words[-2:])}.{function}"
