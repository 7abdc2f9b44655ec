"""Rules about NVLinks, the NVSwitch fabric and its switches."""

from gpucheck.derived import is_virtual, nvlinks_up
from gpucheck.knowledge import gpus as models
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpu_rule,
    known,
    rule,
)
from gpucheck.rules.gpu_memory import NEEDS_TWO_READINGS
from gpucheck.snapshot import Gpu, GpuSample, NvLink, Reading, Snapshot, SXid, Unknown, value
from gpucheck.wording import count, listed

CRC_ERRORS_PER_SECOND = 100
#: CRC errors of all links together since the driver loaded. Healthy H200s show 11 to 58 a link.
CRC_ERRORS_TOTAL = 20_000


@gpu_rule(
    "LNK004",
    Severity.ERROR,
    "An NVLink is down",
    caused_by=("GPU001", "GPU002", "DRV010", "LNK006"),
)
def nvlink_down(gpu: Gpu, machine: Snapshot) -> Answers:
    """Some NVLinks of this GPU are down while others are up: copies are slower, or fail.

    Programs that need all links (NVSwitch systems) do not start at all. Reset all GPUs together;
    if the same link stays down, its connector, bridge, board or the switch is defective.

    A GPU with no link up at all has no bridge, is cut by MIG, or is alone in its virtual machine:
    that is only noted. On a board that wires every link it is a fault where the GPU's neighbors
    have theirs, and a warning where all GPUs of a bare machine have none: somebody may have turned
    NVLink off. In a virtual machine whose GPUs are joined without switches, a third or two of the
    links may lead to GPUs of another virtual machine: that is only noted, if all GPUs are alike.
    """
    links = yield from known(gpu.nvlinks)
    if links is None:
        return
    if not links:
        yield NotApplicable(why="no NVLink")
        return
    unread = next((link.is_up for link in links if isinstance(link.is_up, Unknown)), None)
    up = nvlinks_up(gpu)
    down = [link for link in links if link.is_up is False]
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    wired = model.nvlinks if model is not None and model.nvlinks_are_wired else 0
    # A model that was cut down (A800, H800) may show the links that it lacks as down.
    expected = wired or len(links)
    if unread is not None and not (up and down):
        yield NotChecked.because(unread)
    elif not up and machine.nvml.count == 1 and not wired:
        yield NotApplicable(why="one GPU, and no NVLink bridge")
    elif not up:
        yield _all_links_down(machine, gpu, links, is_wired=wired > 0)
    elif up < expected:
        names = ", ".join(str(link.index) for link in down) or "not shown"
        saw = f"{up} of {expected} NVLinks are up; down: {names}"
        if _may_lead_elsewhere(machine, links, expected):
            yield Symptom(
                severity=Severity.INFO,
                saw=saw,
                remedy=Remedy(
                    "Nothing has to be done, if the others lead to GPUs that this virtual machine"
                    " does not have"
                ),
            )
        else:
            yield Symptom(
                saw=saw,
                remedy=_bring_up(machine, is_bridge=not wired),
                explained_by=_lost_peer(machine, gpu, down),
            )


def _bring_up(machine: Snapshot, *, is_bridge: bool) -> Remedy:
    if is_bridge and not is_virtual(machine):
        return Remedy(
            "Power down and reseat the NVLink bridge and both boards; replace the bridge if the"
            " link stays down",
            verify=command("nvidia-smi nvlink --status"),
        )
    return Remedy(
        "Reset all GPUs together; if the link stays down, have it repaired",
        steps=remedies.reset_all(machine, "").steps,
        verify=command("nvidia-smi nvlink --status"),
    )


def _all_links_down(
    machine: Snapshot, gpu: Gpu, links: tuple[NvLink, ...], *, is_wired: bool
) -> Symptom:
    """Judge a GPU of which no link is up."""
    saw = f"none of its {len(links)} NVLinks is up"
    gpus = value(machine.nvml.gpus) or ()
    if is_wired and gpu.mig_is_on is not True and gpu.state == "ok":
        siblings = [other for other in gpus if other.index != gpu.index and other.name == gpu.name]
        if any(nvlinks_up(other) for other in siblings):
            return Symptom(
                saw=saw,
                remedy=_bring_up(machine, is_bridge=False),
                explained_by=_lost_peer(machine, gpu, []),
            )
        if siblings and machine.host.hypervisor is None:
            return Symptom(
                severity=Severity.WARNING,
                saw=saw,
                remedy=Remedy(
                    "Look whether the fabric manager runs, and whether the module parameter"
                    " NVreg_NvLinkDisable is set",
                    steps=(command("grep NvLinkDisable /proc/driver/nvidia/params"),),
                ),
                explained_by=_lost_peer(machine, gpu, []),
            )
    return Symptom(
        severity=Severity.INFO,
        saw=saw,
        remedy=Remedy(
            "Nothing has to be done, if there is no NVLink bridge or this machine has one GPU only"
        ),
    )


def _may_lead_elsewhere(machine: Snapshot, links: tuple[NvLink, ...], expected: int) -> bool:
    """Tell whether the missing links may end at GPUs that were given to another virtual machine.

    Boards that join four GPUs, or the two fours of a V100 server, give each way a third of the
    links; every GPU of such a part has as many. A switch's partition has all links or none.
    """
    up = [link for link in links if link.is_up is True]
    if not isinstance(machine.host.hypervisor, str) or 3 * len(up) not in (expected, 2 * expected):
        return False
    if any(link.remote_kind != "gpu" for link in up):
        return False
    return all(nvlinks_up(gpu) == len(up) for gpu in value(machine.nvml.gpus) or ())


def _lost_peer(machine: Snapshot, gpu: Gpu, down: list[NvLink]) -> tuple[str, ...]:
    """Return the codes of a GPU at the far end that is gone."""
    gone = [
        other
        for other in value(machine.nvml.gpus) or ()
        if other.state != "ok" and other.index != gpu.index
    ]
    if not gone or any(link.remote_kind == "switch" for link in down):
        return ()
    bus_ids = {other.bus_id for other in gone}
    reported = {link.remote_bus_id for link in down if isinstance(link.remote_bus_id, str)}
    if reported and not reported <= bus_ids:
        return ()
    return ("GPU001", "GPU002")


@gpu_rule("LNK005", Severity.WARNING, "High rate of NVLink errors", caused_by=("LNK004", "GPU001"))
def nvlink_errors(gpu: Gpu, machine: Snapshot) -> Answers:
    """NVLink repeats transfers or recovers while we look: the link is poor and may go down.

    Counted between two readings: any replay or recovery, or more than 100 CRC errors a second. A
    standing count of some tens of CRC errors is normal on healthy H200s; a total of tens of
    thousands is noted, though it may be old.
    """
    links = yield from known(gpu.nvlinks)
    if links is None:
        return
    if not nvlinks_up(gpu):
        yield NotApplicable(why="no NVLink is up")
        return
    if gpu.later_sample is None:
        yield from _judge_total(links, NotChecked(why=NEEDS_TWO_READINGS, kind="by design"))
        return
    grown = []
    for what, first, later in _nvlink_counters(links, gpu.later_sample):
        if isinstance(first, Unknown):
            yield NotChecked.because(first)
            continue
        reading = yield from known(later)
        if first is None or reading is None:
            continue
        seconds = gpu.later_sample.after_seconds
        limit = CRC_ERRORS_PER_SECOND * seconds if what == "CRC error" else 0
        if reading - first > limit:
            grown.append(count(reading - first, what, "recoveries" if what == "recovery" else ""))
    if grown:
        yield Symptom(
            saw=f"{listed(grown)} on its NVLinks in {gpu.later_sample.after_seconds:.1f} s",
            remedy=Remedy(
                remedies.reseat(machine, "the NVLink bridge or the board"),
                verify=command("nvidia-smi nvlink -e -i {gpu}", gpu=gpu.index),
            ),
        )
    else:
        yield from _judge_total(links)


def _judge_total(links: tuple[NvLink, ...], *otherwise: NotChecked) -> Answers:
    """Note a total far beyond what healthy links show, which a short look cannot date."""
    total = value(_sum([each for link in links for each in _crc(link)]))
    if total is not None and total >= CRC_ERRORS_TOTAL:
        yield Symptom(
            severity=Severity.INFO,
            saw=f"{total:,} CRC errors on its NVLinks since the driver loaded; healthy ones have"
            " some hundred",
            remedy=Remedy(
                "Look under load whether they still grow; they may be old",
                steps=(command("gpucheck doctor --deep --watch 30"),),
            ),
        )
    else:
        yield from otherwise


def _crc(link: NvLink) -> tuple[Reading[int], Reading[int]]:
    return link.crc_flit_errors, link.crc_data_errors


def _nvlink_counters(
    links: tuple[NvLink, ...], later: GpuSample
) -> tuple[tuple[str, int | Unknown | None, Reading[int]], ...]:
    return (
        ("replay", _sum([link.replay_errors for link in links]), later.nvlink_replay_errors),
        ("recovery", _sum([link.recovery_errors for link in links]), later.nvlink_recovery_errors),
        (
            "CRC error",
            _sum([each for link in links for each in _crc(link)]),
            later.nvlink_crc_errors,
        ),
    )


def _sum(counts: list[Reading[int]]) -> int | Unknown | None:
    """Add up counters; Unknown where one could not be read, None where none is supported."""
    read = []
    for each in counts:
        if isinstance(each, int):
            read.append(each)
        elif isinstance(each, Unknown) and each != _DOWN:
            return each
    return sum(read) if read else None


#: What the probe says of the counters of a link that is down: they are not asked for.
_DOWN = Unknown("the link is down")


# ---------------------------------------------------------------------------------- the switches


@rule("LNK013", Severity.ERROR, "An NVSwitch reported errors", caused_by=("DRV010",))
def switch_errors(machine: Snapshot) -> Answers:
    """The kernel logged SXid errors: an NVSwitch, or a link of it, failed.

    A fatal one takes links or the whole switch down, and programs that use several GPUs with them:
    reset all GPUs and switches together and restart the fabric manager. Non-fatal ones occur on
    healthy machines and are only noted.
    Source: NVIDIA's Fabric Manager user guide, "SXid errors".
    """
    logged = yield from known(machine.kernel_log.sxids)
    if logged is None:
        return
    if not logged and machine.host.nvswitches == 0:
        yield NotApplicable(why="no NVSwitch")
        return
    for is_fatal in (True, False):
        by_switch: dict[str, list[SXid]] = {}
        for entry in logged:
            if (entry.is_fatal is True) == is_fatal:
                by_switch.setdefault(entry.bus_id, []).append(entry)
        for bus_id, entries in by_switch.items():
            yield _switch_symptom(bus_id, entries, machine, is_fatal=is_fatal)


def _switch_symptom(
    bus_id: str, entries: list[SXid], machine: Snapshot, *, is_fatal: bool
) -> Symptom:
    numbers = [
        f"SXid {one.number} ({count(one.count, 'time')})" if one.count > 1 else f"SXid {one.number}"
        for one in entries
    ]
    saw = f"{'fatal' if is_fatal else 'non-fatal'}: {listed(numbers)}: {entries[-1].text}"
    place = remedies.place_of_driver(machine)
    if is_fatal:
        remedy = Remedy(
            "Drain the machine, reset all GPUs and switches together, restart the fabric manager;"
            " if it comes again, have the switch repaired",
            steps=(
                command("systemctl stop nvidia-fabricmanager", root=True, on=place),
                command("nvidia-smi --gpu-reset", root=True, on=place),
                command("systemctl start nvidia-fabricmanager", root=True, on=place),
            ),
            verify=command("nvidia-smi nvlink --status"),
        )
    else:
        remedy = Remedy("Nothing has to be done, unless they become many or links go down")
    return Symptom(
        subject=f"NVSwitch at {bus_id}",
        severity=None if is_fatal else Severity.INFO,
        saw=saw.removesuffix(": "),
        remedy=remedy,
    )
