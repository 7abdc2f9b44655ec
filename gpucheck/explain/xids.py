"""The pages of Xids and SXids, by number or by a line of the kernel log."""

import re
from collections.abc import Iterator

from gpucheck.explain.page import Page
from gpucheck.knowledge import xid
from gpucheck.knowledge.step import Step

XID_PAGE = "https://docs.nvidia.com/deploy/xid-errors/index.html"
FABRIC_PAGE = "https://docs.nvidia.com/datacenter/tesla/fabric-manager-user-guide/index.html"

#: "NVRM: Xid (PCI:0000:3b:00): 79, …", "Xid 79", "xid: 79", "XID-79"; never an SXid's number.
_XID = re.compile(
    r"(?<![A-Za-z])xids?(?: ?\((?:PCI:)?(?P<bus>[0-9a-f:.]{5,20})\))?"
    r"(?: error| code| number)?[\s:=#(_-]{0,4}"
    r"(?P<number>\d{1,3})\b(?=(?P<rest>[^\n]{0,400}))",
    re.IGNORECASE,
)
_SXID = re.compile(
    r"(?<![A-Za-z])sxid(?: ?\((?:PCI:)?(?P<bus>[0-9a-f:.]{5,20})\))?[\s:=#(-]{0,4}"
    r"(?P<number>\d{1,6})\b(?=(?P<rest>[^\n]{0,400}))",
    re.IGNORECASE,
)
_RECOVERY = re.compile(r"changed from 0x\w+ \([^)]*\) to 0x\w+ \((?P<action>[^)]*)\)")
_NVLINK5 = re.compile(
    r"(?P<unit>[A-Z0-9_]+)\s+(?P<severity>Fatal|Nonfatal)\s+XC\d\s+i\d\s+Link\s+(?P<link>-?\d+)"
)
#: The strongest first. Xid 154 is the driver's own verdict on what is needed.
_RANKS = {"critical": 1, "warning": 2, "follow": 3, "info": 4}


def numbers(text: str) -> set[int]:
    """Return the Xids that *text* names."""
    return {int(match["number"]) for match in _XID.finditer(text)}


def is_known(number: int) -> bool:
    """Whether the table has the Xid *number*."""
    return xid.find(number) is not None


def pages(text: str) -> tuple[Page, ...]:
    """Return a page for each Xid that *text* names, the strongest first."""
    found: dict[int, re.Match[str]] = {}
    for match in _XID.finditer(text):
        found.setdefault(int(match["number"]), match)
    return tuple(page(number, found[number]) for number in sorted(found, key=_rank))


def page(number: int, match: "re.Match[str] | None" = None) -> Page:
    """Return the page of the Xid *number*, with what its line of the log (*match*) says."""
    row = xid.find(number)
    rest = "" if match is None else match["rest"]
    bus = None if match is None else match["bus"]
    if row is None:
        return _unpublished(number)
    todo = (f"{row.what_to_do}.", xid.FOLLOW_UPS.get(row.follow_up))
    return Page(
        name=f"xid-{number}",
        title=f"Xid {number}: {row.meaning}",
        line=_line(match),
        meaning=" ".join((f"NVIDIA calls it {row.name}.", *_said(number, rest))),
        faults=tuple(xid.CAUSES[cause] for cause in row.causes),
        fix=" ".join(part for part in todo if part),
        steps=_steps(row.action, bus),
        verify="the same work runs through and the kernel log has no new Xid",
        link=XID_PAGE,
        codes=row.codes,
    )


def switch_pages(text: str) -> tuple[Page, ...]:
    """Return a page for each SXid (an error of an NVSwitch) that *text* names."""
    found: dict[int, re.Match[str]] = {}
    for match in _SXID.finditer(text):
        found.setdefault(int(match["number"]), match)
    return tuple(_of_switch(number, match) for number, match in found.items())


def _rank(number: int) -> tuple[int, int]:
    if number == 154:
        return (0, number)
    row = xid.find(number)
    return (2 if row is None else _RANKS[row.severity], number)


def _line(match: "re.Match[str] | None") -> str:
    """Return the line of the kernel log that *match* was found in; "" for a bare number."""
    return "" if match is None or not match["bus"] else match.group() + match["rest"]


def _said(number: int, rest: str) -> Iterator[str]:
    """Yield what the line itself says: the recovery that is asked for, the link that failed."""
    recovery = _RECOVERY.search(rest)
    if number == 154 and recovery is not None:
        yield f'This line asks for: "{recovery["action"]}".'
    link = _NVLINK5.search(rest)
    if link is not None:
        where = "all links" if link["link"] == "-1" else f"link {int(link['link'])}"
        yield f"The line reports {where}, unit {link['unit']}, {link['severity'].lower()}."


def _steps(action: str, bus: str | None) -> tuple[Step, ...]:
    """Return the commands of *action*, with the GPU of the line where it names one."""
    log = Step("dmesg | grep -iE 'xid|nvrm'", root=True)
    gpu = bus or "0"
    reset = (
        Step("fuser -v /dev/nvidia*", root=True),
        Step(f"nvidia-smi --gpu-reset -i {gpu}", root=True),
    )
    further = {
        "reset_gpu": reset,
        "reset_gpu_if_uvm": reset,
        "reboot": (Step("reboot", root=True),),
        "restart_vm": (Step("reboot", root=True),),
        "check_hardware": (Step("poweroff", root=True),),
        "update_software": (Step("cat /proc/driver/nvidia/version"),),
        "investigate_software": (Step("nvidia-smi -q"),),
        "contact_support": (Step("nvidia-bug-report.sh", root=True),),
        "decode_nvlink": (Step("nvidia-smi nvlink -s"), Step("nvidia-smi nvlink -e")),
        "follow_xid_154": (Step("nvidia-smi -q | grep -i 'recovery action'"),),
    }
    return (log, *further.get(action, ()))


def _unpublished(number: int) -> Page:
    return Page(
        name=f"xid-{number}",
        title=f"Xid {number}",
        meaning=f"NVIDIA's catalog has no meaning for Xid {number} on current data-center GPUs: it "
        "is one of an old driver or of a display GPU, or newer than gpucheck's table.",
        faults=(),
        fix="Read the text after the number in the kernel log, and look it up in the catalog of "
        "your driver's release. Restart the program that was hit; if it comes again on the same "
        "GPU, reset that GPU.",
        steps=_steps("none", None),
        verify="the same work runs through and the kernel log has no new Xid",
        link=XID_PAGE,
        codes=("GPU020",),
    )


def _of_switch(number: int, match: "re.Match[str]") -> Page:
    rest = match["rest"].lower()
    fatal = "non-fatal" not in rest and "nonfatal" not in rest and "fatal" in rest
    known = "fatal" in rest
    meaning = f"SXid {number} is an error of an NVSwitch; its numbers have nothing to do with Xids."
    if number == 20034:
        meaning += " 20034 is a link that went down (LTSSM fault up)."
    if known:
        meaning += (
            " This one is fatal: programs that use NVLink end, and new ones cannot start."
            if fatal
            else " This one is not fatal: healthy machines have a few of them."
        )
    return Page(
        name=f"sxid-{number}",
        title=f"SXid {number}",
        line=_line(match),
        meaning=meaning,
        faults=(xid.CAUSES["nvlink"], "an NVSwitch"),
        fix="Non-fatal: nothing at once; watch whether it repeats on one link. Fatal: stop all "
        "work, reset all GPUs and switches together, and restart the fabric manager; if it comes "
        "again on the same switch or link, contact the vendor of the machine.",
        steps=(
            Step("dmesg | grep -i sxid", root=True),
            Step("systemctl stop nvidia-fabricmanager", root=True),
            Step("nvidia-smi --gpu-reset", root=True),
            Step("systemctl start nvidia-fabricmanager", root=True),
        ),
        verify='nvidia-smi -q shows the fabric state "Completed" and no new SXid is logged',
        link=FABRIC_PAGE,
        codes=("LNK013", "LNK006", "DRV010"),
    )
