"""Makes sentences of what nvidia.ko wrote into the kernel log, record by record."""

import re
from collections import deque
from collections.abc import Iterator

from gpucheck.snapshot import KernelLine

STATEMENTS_KEPT = 48  # of one load of the module: a flood must not fill the snapshot
STATEMENT_LENGTH = 600
REMEMBERED = 24  # lines in which the reason of a failure is looked for, going back from it
SAME_MOMENT_SECONDS = 2.0

_BUS = re.compile(
    r"\b(?P<bus>[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)(?![0-9a-fA-F:])"
)
#: where a load of the module begins (kernel-open/nvidia/nv.c)
_LOAD_BEGINS = "Nvlink Core is being initialized"
_LOADED = "loading NVIDIA UNIX"
_UNLOADED = "Unregistered Nvlink Core"
_ADAPTER = re.compile(r"RmInitAdapter failed|rm_init_adapter failed")
#: a sentence goes on: "NVRM: supported through …", "NVRM: (PCI ID: …"; but "NVRM: kgspBootstrap_…"
#: or behind the function's name: "kgspWaitForGfwBootOk_TU102: (the GPU may be in a bad state"
_GOES_ON = re.compile(r"\(|(?!loading )[a-z]+[.,;]?(?: |$)|\w+: \(")
#: what says why a GPU did not start, among all that the kernel says of it at the time
_REASON = re.compile(
    r"firmware|GFW|WPR2|D3cold|power state|BAR ?[0-9]|fallen off the bus|not supported by open"
    r"|requires use of|[Tt]imed? ?out|timeout|[Ff]ailed|\berror|ECC|InfoROM|lockdown|secure boot"
    r"|invalid|insufficient|cannot|can't|unable|unexpected|power cable",
    re.IGNORECASE,
)


class ModuleMessages:
    """Collects, in the order of the log, what the module says and why a GPU did not start."""

    def __init__(self) -> None:
        self.said: deque[str] = deque(maxlen=STATEMENTS_KEPT)
        self.reasons: dict[str, KernelLine] = {}
        self._recent: deque[tuple[float | None, str, str]] = deque(maxlen=REMEMBERED)
        self._was_begun = False
        self._can_go_on = False

    def add(self, seconds: float | None, record: str) -> None:
        """Take in a record's text: it may hold several lines, each with or without "NVRM:"."""
        for place, line in enumerate(record.split("\n")):
            self._add_line(seconds, line, is_same_record=place > 0)

    def _add_line(self, seconds: float | None, line: str, *, is_same_record: bool) -> None:
        if _LOAD_BEGINS in line:
            self.said.clear()
            self._was_begun, self._can_go_on = True, False
            return
        if _UNLOADED in line:
            self._was_begun = False
            self._say(line)
            return
        is_module, text = _module_text(line)
        if not is_module and not is_same_record:
            self._can_go_on = False
            if found := _BUS.search(line):
                self._recent.append((seconds, _lower(found["bus"]), line))
            return
        if _LOADED in text:
            if not self._was_begun:
                self.said.clear()
            self._was_begun = True
        if self._can_go_on and self._goes_on(text, is_same_record):
            self._extend(text.strip())
            return
        self._say(text.strip())
        self._can_go_on = True
        found = _BUS.search(text)
        self._recent.append((seconds, _lower(found["bus"]) if found else "", text.strip()))

    def _goes_on(self, text: str, is_same_record: bool) -> bool:
        if is_same_record or text.startswith("  "):
            return True
        last = self.said[-1] if self.said else ""
        is_open = last.endswith((":", ",")) or not last.endswith((".", "!", ")", "..."))
        return is_open and (last.endswith(":") or _GOES_ON.match(text.strip()) is not None)

    def _extend(self, text: str) -> None:
        if not self.said or not text:
            return
        self.said[-1] = f"{self.said[-1]} {text}"[:STATEMENT_LENGTH]
        if self._recent:
            seconds, bus, _ = self._recent[-1]
            found = _BUS.search(self.said[-1])
            self._recent[-1] = (seconds, _lower(found["bus"]) if found else bus, self.said[-1])

    def _say(self, text: str) -> None:
        if text and "Xid" not in text:
            self.said.append(text[:STATEMENT_LENGTH])

    def failed(self, seconds: float | None, bus_id: str) -> None:
        """Find the nearest line before "RmInitAdapter failed" that may say why."""
        if bus_id in self.reasons:
            return
        candidates = list(self._before(seconds, bus_id))
        best = next((text for text in candidates if _REASON.search(text)), None)
        if best is not None:
            self.reasons[bus_id] = KernelLine(bus_id=bus_id, text=best[:STATEMENT_LENGTH])

    def _before(self, seconds: float | None, bus_id: str) -> Iterator[str]:
        for said_at, bus, text in reversed(self._recent):
            if _ADAPTER.search(text) or "Xid" in text:
                continue
            is_near = (
                seconds is None or said_at is None or abs(seconds - said_at) <= SAME_MOMENT_SECONDS
            )
            is_same = bool(bus) and _base(bus) == _base(bus_id)
            if is_same or (not bus and is_near):
                yield text


def _module_text(line: str) -> tuple[bool, str]:
    """Return whether nvidia.ko says *line*, and the line without its prefix."""
    at = line.find("NVRM:")
    if at < 0:
        return False, line
    text = line[at + 5 :]
    return True, text[1:] if text.startswith(" ") else text


def _lower(bus_id: str) -> str:
    return bus_id.lower()


def _base(bus_id: str) -> str:
    """Return the bus id without domain digits beyond four and without the function."""
    domain, _, rest = bus_id.partition(":")
    return f"{domain[-4:]}:{rest.partition('.')[0]}"
