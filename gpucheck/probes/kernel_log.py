"""Reads what the kernel said of NVIDIA devices since this boot."""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpucheck.probes.child import run
from gpucheck.probes.kernel_events import KernelEvents
from gpucheck.probes.module_messages import ModuleMessages
from gpucheck.snapshot import KernelLog, SXid, Unknown, Xid, unknown_section, unread

LIMIT_BYTES = 16 << 20  # the largest ring buffer that distributions configure
MOST_BYTES = 256 << 20  # read of a log at all, where the time is enough: only what matters is kept
BLOCK_BYTES = 1 << 20
JOURNAL_LINES = 100_000  # the newest ones
RECORD_BYTES = 16 << 10  # read(2) of /dev/kmsg fails with EINVAL where a record does not fit
NAMES_KEPT = 64  # units and processes kept of one Xid: a flood must not fill the snapshot

#: who else may show the kernel log, and what each calls it, in the order in which they are asked
COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dmesg", ("dmesg",)),
    (
        "journal",
        (
            *("journalctl", "-k", "-b", "-o", "short-monotonic", "--no-pager"),
            *("-n", str(JOURNAL_LINES)),
        ),
    ),
)

#: "NVRM: Xid (PCI:0000:3b:00): 79, pid=…", without "PCI:" in old drivers. SXid is an NVSwitch's own
#: numbering. Line formats: leptonai/gpud and NVSentinel sample logs, NVIDIA Xid documentation.
_XID = re.compile(
    r"(?<!S)Xid \((?:PCI:)?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)\): "
    r"(?P<number>[0-9]{1,6})(?:, (?P<text>.*))?"
)
_PROCESS = re.compile(r"pid='?(?P<pid>[0-9]+|<unknown>)'?(?:, name=(?P<name>[^,]*))?")
_UNITS = (
    re.compile(r"GPC (?P<gpc>[0-9]+), TPC (?P<tpc>[0-9]+)(?:, SM (?P<sm>[0-9]+))?"),
    re.compile(
        r"ENGINE (?P<engine>\w+)(?: (?P<part>GPC[0-9]+))?(?: (?P<client>(?:GPC|HUB)CLIENT_\w+))?"
    ),
    re.compile(r"\b[Ll]ink (?P<link>-?[0-9]{1,4})\b"),
)
_ADAPTER = re.compile(r"RmInitAdapter failed|rm_init_adapter failed")
_BUS_ID = re.compile(
    r"GPU (?:at PCI:)?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])"
)
_MINOR = re.compile(r"minor number (?P<minor>[0-9]+)")
#: "module verification failed … tainting kernel" is no refusal: that module was loaded.
_REFUSED = re.compile(
    r"loading of .{0,80}?(?:is|was) (?:rejected|restricted)"
    r"|module loading is restricted"
    r"|key was rejected by service",
    re.IGNORECASE,
)
_NAMED_MODULE = re.compile(r"(?:insert|module) '(?P<module>[^']+)'")
_TIMESTAMPS = (
    # dmesg and the journal, and syslog's files, where it stands behind "kernel: "
    re.compile(r"(?:<[0-9]+>|.{0,300}?kernel: )?\[ *(?P<seconds>[0-9]{1,12}\.[0-9]{1,9})\]"),
    re.compile(r"[0-9]+,[0-9]+,(?P<microseconds>[0-9]{1,18}),[^;]*;"),  # /dev/kmsg
)
#: words of the lines that are read at all
_INTERESTING = (
    *("NVRM", "nvidia", "Xid", "nit_adapter", "InitAdapter", "rejected", "restricted"),
    *("power state", "PCIe Bus Error", "AER: ", "t assign", "no space for", "Killed process"),
    *("DMAR: [", "IO_PAGE_FAULT", "blocked for more than"),
)
_INTERESTING_BYTES = tuple(word.encode() for word in _INTERESTING)
_SXID = re.compile(
    r"SXid \((?:PCI:)?(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)\): "
    r"(?P<number>[0-9]{1,6})(?:, (?P<text>.*))?"
)


def probe(
    root: Path = Path("/"),
    deadline_seconds: float = 2.0,
    commands: Sequence[tuple[str, tuple[str, ...]]] = COMMANDS,
) -> KernelLog:
    """Return what the kernel log says, from the first source that this user may read.

    *commands* read the log of the machine that we run on, so they are asked only where *root* is
    the real one or somebody names them.
    """
    ends_at = time.monotonic() + deadline_seconds
    troubles: list[str] = []
    text = _read_kmsg(root / "dev/kmsg", ends_at)
    if isinstance(text, str):
        return parse(text.split("\n"), source="/dev/kmsg")
    troubles.append(f"/dev/kmsg: {text.why}")
    if root == Path("/") or commands is not COMMANDS:
        for source, command in commands:
            text = _ask(command, ends_at)
            if isinstance(text, str):
                return parse(text.split("\n"), source=source)
            troubles.append(f"{command[0]}: {text.why}")
    return unknown_section(
        KernelLog,
        f"the kernel log may not be read ({'; '.join(troubles)}); "
        "run gpucheck as root, or join the group systemd-journal",
    )


def _read_kmsg(path: Path, ends_at: float) -> str | Unknown:
    """Read the ring buffer from its start: one read(2) gives one record, EAGAIN ends it.

    Only the lines that matter are kept, block by block, so that a log of any size fits.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        return unread("", error)
    except ValueError as error:  # a NUL byte in the name
        return Unknown(str(error))
    kept: list[bytes] = []
    block: list[bytes] = []
    size = total = kept_bytes = 0
    is_empty = True
    try:
        while total < MOST_BYTES and kept_bytes < LIMIT_BYTES and time.monotonic() < ends_at:
            try:
                chunk = os.read(handle, RECORD_BYTES)
            except BlockingIOError:
                break
            except BrokenPipeError:  # this record was overwritten while we read: take the next
                continue
            if not chunk:
                break
            is_empty = False
            block.append(chunk)
            size += len(chunk)
            total += len(chunk)
            if size >= BLOCK_BYTES:
                whole, newline, rest = b"".join(block).rpartition(b"\n")
                found = list(interesting(whole)) if newline else []
                kept += found
                kept_bytes += sum(map(len, found))
                block, size = [rest], len(rest) if newline else 0
    except OSError as error:
        if is_empty:
            return unread("", error)
    finally:
        os.close(handle)
    kept += interesting(b"".join(block))
    return b"\n".join(kept).decode("utf-8", "replace")


def interesting(text: bytes) -> Iterator[bytes]:
    """Yield the lines of *text* that may matter, in their order: a search in C for each word."""
    starts: set[int] = set()
    for word in _INTERESTING_BYTES:
        at = text.find(word)
        while at >= 0:
            starts.add(text.rfind(b"\n", 0, at) + 1)
            end = text.find(b"\n", at)
            if end < 0:
                break
            at = text.find(word, end)
    for start in sorted(starts):
        end = text.find(b"\n", start)
        yield text[start:end] if end >= 0 else text[start:]


def _ask(command: Sequence[str], ends_at: float) -> str | Unknown:
    left = ends_at - time.monotonic()
    if left <= 0:
        return Unknown("no time left")
    ended = run(command, deadline_seconds=left, limit_bytes=LIMIT_BYTES)
    output = ended.stdout.decode("utf-8", "replace")
    if ended.why is not None:
        said = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        return Unknown(said[-1][:200] if said and ended.exit_code else ended.why)
    if "] " not in output and "NVRM" not in output:
        # Without the right, journalctl ends well, hints on stderr and shows "-- No entries --".
        return Unknown("shows no kernel messages to this user", "no permission")
    return output


def parse(lines: Iterable[str], source: str | None = None) -> KernelLog:
    """Find Xids, adapters that failed and refused modules in kernel log *lines*.

    Understood are the records of /dev/kmsg, what dmesg and journalctl print, and lines pasted
    from a log file; seconds since boot stay unknown where a line does not say them.
    """
    xids: dict[tuple[str, int], _Count] = {}
    sxids: dict[tuple[str, int], SXid] = {}
    adapters: dict[str, None] = {}
    refused: str | None = None
    module, events = ModuleMessages(), KernelEvents()
    for line in lines:
        if not any(word in line for word in _INTERESTING):
            continue
        if found := _XID.search(line):
            number = int(found["number"])
            key = (normal_bus_id(found["bus"]), number)
            xids.setdefault(key, _Count()).add(_seconds(line), (found["text"] or "").strip())
            continue
        if found := _SXID.search(line):
            _count_sxid(sxids, normal_bus_id(found["bus"]), int(found["number"]), found["text"])
            continue
        seconds, message = _seconds(line), _unescaped(_message(line))
        if _ADAPTER.search(line):
            name = _adapter(line)
            adapters.setdefault(name)
            module.failed(seconds, name)
        elif refused is None and _REFUSED.search(line) and _may_be_nvidia(line):
            refused = _message(line)
        module.add(seconds, message)
        events.add(seconds, message)
    if len(adapters) > 1:
        adapters.pop(UNNAMED_ADAPTER, None)  # the same failure, said twice
    return KernelLog(
        source=source,
        xids=tuple(count.fact(*key) for key, count in xids.items()),
        sxids=tuple(sxids.values()),
        aer_ports=events.aer_ports(),
        adapter_failures=tuple(adapters),
        adapter_reasons=tuple(module.reasons.values()),
        module_said=tuple(module.said),
        address_failures=events.address_failures(),
        power_failures=events.power_failures(),
        module_refused=refused,
        oom_kills=events.oom_kills(),
        iommu_faults=events.iommu_faults(),
        hung_tasks=events.hung_tasks(),
    )


_FATALITY = re.compile(r"\b(?P<non>Non-)?Fatal\b", re.IGNORECASE)


def _count_sxid(
    sxids: dict[tuple[str, int], SXid], bus_id: str, number: int, text: str | None
) -> None:
    """Count an SXid. What follows the first line of an error only describes it further."""
    text = (text or "").strip()
    before = sxids.get((bus_id, number))
    said = _FATALITY.search(text)
    if before is not None and said is None:
        return
    is_fatal = None if said is None else said["non"] is None
    if before is not None and before.is_fatal is True:
        is_fatal = True
    if before is None and len(sxids) >= SXIDS_KEPT:
        return
    sxids[bus_id, number] = SXid(
        bus_id=bus_id,
        number=number,
        is_fatal=is_fatal,
        count=1 if before is None else before.count + 1,
        text=text[:300],
    )


def _unescaped(message: str) -> str:
    """Return a message with the line ends within it that /dev/kmsg writes as "\\x0a"."""
    return message.replace("\\x0a", "\n") if "\\x0a" in message else message


SXIDS_KEPT = 256
UNNAMED_ADAPTER = "a GPU that the log does not name"


class _Count:
    """The lines of one GPU and Xid, so far."""

    def __init__(self) -> None:
        self.count = 0
        self.first: float | None = None
        self.last: float | None = None
        self.text = ""
        self.units: set[str] = set()
        self.processes: set[str] = set()

    def add(self, seconds: float | None, text: str) -> None:
        self.count += 1
        self.text = text
        if seconds is not None:
            self.first = seconds if self.first is None else self.first
            self.last = seconds
        if len(self.units) < NAMES_KEPT:
            self.units |= _units(text)
        if len(self.processes) < NAMES_KEPT and (process := _process(text)):
            self.processes.add(process)

    def fact(self, bus_id: str, number: int) -> Xid:
        unknown = Unknown("the log gives no time")
        return Xid(
            bus_id=bus_id,
            number=number,
            count=self.count,
            first_seconds=unknown if self.first is None else self.first,
            last_seconds=unknown if self.last is None else self.last,
            text=self.text,
            units=tuple(sorted(self.units)),
            processes=tuple(sorted(self.processes)),
        )


def normal_bus_id(text: str) -> str:
    """Write a PCI address as sysfs does: "00000000:3B:00" → "0000:3b:00.0".

    The log leaves out the function digit and NVML prints eight digits of domain; a GPU is always
    function 0 of its device.
    """
    domain, _, rest = text.lower().partition(":")
    if "." not in rest:
        rest += ".0"
    try:
        return f"{int(domain, 16):04x}:{rest}"
    except ValueError:  # no address at all: a strange folder in /proc
        return f"{domain}:{rest}"


def _units(text: str) -> set[str]:
    """Return the parts of the GPU that a line names: "GPC 1 TPC 2 SM 0", "GRAPHICS", "link 3"."""
    units: set[str] = set()
    for pattern in _UNITS:
        for found in pattern.finditer(text):
            parts = found.groupdict()
            if "gpc" in parts:
                units.add(" ".join(f"{n.upper()} {v}" for n, v in parts.items() if v is not None))
            elif "engine" in parts:
                units.add(" ".join(v for v in parts.values() if v is not None))
            else:
                units.add(f"link {int(parts['link'])}")
    return units


def _process(text: str) -> str | None:
    found = _PROCESS.search(text)
    if found is None:
        return None
    name = (found["name"] or "").strip().strip("'")
    if name and name != "<unknown>":
        return name
    return None if found["pid"] == "<unknown>" else f"process {found['pid']}"


def _adapter(line: str) -> str:
    if found := _BUS_ID.search(line):
        return normal_bus_id(found["bus"])
    if found := _MINOR.search(line):
        return f"/dev/nvidia{found['minor'][:6]}"
    return UNNAMED_ADAPTER


def _may_be_nvidia(line: str) -> bool:
    """Tell whether a refusal may mean nvidia.ko: the kernel mostly does not say which module."""
    found = _NAMED_MODULE.search(line)
    return found is None or found["module"].startswith("nvidia")


def _seconds(line: str) -> float | None:
    for pattern in _TIMESTAMPS:
        if found := pattern.match(line):
            parts = found.groupdict()
            if "seconds" in parts:
                return float(parts["seconds"])
            return int(parts["microseconds"]) / 1e6
    return None


def _message(line: str) -> str:
    """Return a log line without its timestamp."""
    for pattern in _TIMESTAMPS:
        if found := pattern.match(line):
            return line[found.end() :].strip()
    return line.strip()
