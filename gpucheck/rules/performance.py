"""Rules about what `gpucheck bench` measured, in the order of judgement of `bench_evidence`.

It is long because the rules judge one figure in one order, each leaving to the next.
"""

from collections.abc import Iterable

from gpucheck import bench_evidence as evidence
from gpucheck.bench_evidence import PRODUCTS, Slow, bench_of, figures
from gpucheck.conditions import was_measured
from gpucheck.derived import nvlinks_up
from gpucheck.knowledge import clocks_event_reasons as clocks
from gpucheck.rule import (
    Answers,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import Figure, Snapshot, Unknown, value
from gpucheck.wording import listed

_LINKS = ("LNK001", "LNK002", "LNK003", "LNK004", "LNK005")
_HEAT = ("PRF011", "GPU010", "GPU012", "GPU013")
#: A link reaches less than this share of its bound only where something is wrong.
_HOST_SHARE, _PEER_SHARE = 0.70, 0.72
_MEMORY = evidence.Limits(warning=0.84 * 0.95, error=0.88 * 0.75)  # of the bound: see expected.json
_DIRECTIONS_DIFFER = 0.25
_SHARED_UPLINK = 0.6
_BASELINE_SHARE = 0.97
_SLOWDOWNS = {
    clocks.SW_THERMAL_SLOWDOWN: "software thermal slowdown",
    clocks.HW_THERMAL_SLOWDOWN: "hardware thermal slowdown",
    clocks.HW_POWER_BRAKE_SLOWDOWN: "hardware power brake",
}


def _examine(text: str) -> Remedy:
    return Remedy(
        text,
        steps=(
            command("gpucheck doctor --deep"),
            command("nvidia-smi -q -d PERFORMANCE,CLOCK,POWER,TEMPERATURE"),
        ),
        verify=command("gpucheck bench"),
    )


def _by_gpu(slow: Iterable[Slow], remedy: Remedy) -> Answers:
    """Yield one symptom for each GPU, whatever number of its figures is low."""
    found: dict[int, list[Slow]] = {}
    for one in slow:
        found.setdefault(one.figure.gpus[0], []).append(one)
    for gpu, ones in sorted(found.items()):
        yield Symptom(
            saw="; ".join(one.saw for one in ones),
            severity=min((one.severity for one in ones), key=lambda each: each.rank),
            remedy=remedy,
            subject=f"gpu {gpu}",
            gpus=(gpu,),
        )


def _unjudged(machine: Snapshot, *measures: str) -> Answers:
    """Say of each GPU whose figures of *measures* are not judged why that is."""
    reported = yield from known(bench_of(machine).figures)
    said: set[tuple[str, str]] = set()
    for figure in reported or ():
        if figure.measure not in measures:
            continue
        subject = evidence.named(figure)
        if isinstance(figure.value, Unknown):
            why = figure.value.why
        elif evidence.is_void(machine, figure):
            why = f"{evidence.described(figure)} is more than physics allows: measured wrongly"
        else:
            reasons = (evidence.refusal(machine, gpu) for gpu in figure.gpus)
            why = next((reason for reason in reasons if reason), "")
        if why and (subject, why) not in said:
            said.add((subject, why))
            yield NotChecked(why=why, subject=subject, kind="by design")


@rule(
    "PRF001",
    Severity.WARNING,
    "Matrix products are slower than on the other GPUs",
    caused_by=_HEAT,
    when=was_measured,
)
def products_below_siblings(machine: Snapshot) -> Answers:
    """One GPU computes slower than its siblings under the same load at the same time.

    Healthy GPUs of one model differ by up to 8 percent, since chips differ. This one is further
    below the median than that, and was measured twice, the second time alone. Where its clock is
    lower, heat, power or a limit holds it back; where its clock is as high as the others', the
    work itself is slow: memory, another process, a broken chip. In a training that keeps all GPUs
    in step, all of them then run at this one's speed.
    """
    yield from _unjudged(machine, "start", *PRODUCTS)
    slow = evidence.slower_than_siblings(machine, *PRODUCTS)
    yield from _by_gpu(slow, _examine("Examine its cooling, its power supply and its limits"))


@rule(
    "PRF002",
    Severity.WARNING,
    "Matrix products are slower than this GPU model reaches",
    caused_by=("PRF001", *_HEAT),
    when=was_measured,
)
def products_below_model(machine: Snapshot) -> Answers:
    """Others measured more on this model than every plausible spread explains.

    Only measured figures judge (their sources are in knowledge/expected.json); a model that nobody
    has measured is not judged. Where all GPUs are alike slow, look at what they share: the torch
    build, the power limit, the cooling of the whole machine.
    """
    measured = figures(machine, *PRODUCTS)
    for gpu in sorted({figure.gpus[0] for figure in measured}):
        if (why := evidence.model_refusal(machine, gpu)) is not None:
            yield NotChecked(why=why, subject=f"gpu {gpu}", kind="by design")
    slow = (evidence.below_model(machine, figure) for figure in measured)
    yield from _by_gpu(
        (one for one in slow if one is not None),
        _examine(
            "Compare torch, the power limit and the temperatures with those of a good machine"
        ),
    )


@rule(
    "PRF003",
    Severity.WARNING,
    "A GPU is slower than it was in this machine",
    caused_by=("PRF001", "PRF002", "PRF004", "PRF005", "PRF007", *_HEAT),
    when=was_measured,
)
def below_baseline(machine: Snapshot) -> Answers:
    """The machine's own earlier runs of the bench reached more, by the same method.

    A baseline is kept for the same GPU, torch, driver branch and power limit
    (`gpucheck bench --save-baseline`). What got slower with no change of software is on the way to
    failing: dust, a fan, a power supply, a link that lost lanes.
    """
    baseline = yield from known(bench_of(machine).baseline, absent="no baseline was kept")
    by_key = {(one.measure, one.gpus, one.size): one for one in baseline or ()}
    slow = []
    for figure in figures(machine, *evidence.SIBLINGS):
        before = by_key.get((figure.measure, figure.gpus, figure.size))
        if before is None or before.best is None or figure.best is None:
            continue
        share = figure.best / before.best
        floor = 0.92 if figure.measure in PRODUCTS else _BASELINE_SHARE
        if share < floor:
            saw = f"{evidence.described(figure)}, {1 - share:.0%} below its baseline "
            saw += f"({before.best:,.0f})"
            slow.append(Slow(figure=figure, severity=Severity.WARNING, saw=saw))
    yield from _by_gpu(slow, _examine("Find out what changed in this machine"))


@rule(
    "PRF004",
    Severity.WARNING,
    "Device memory is slower than it should be",
    caused_by=("GPU005", "GPU006", "GPU011"),
    when=was_measured,
)
def memory_slow(machine: Snapshot) -> Answers:
    """Device memory of healthy GPUs of one model differs by less than 1 percent.

    It runs at one clock by design, so a GPU that copies slower than its siblings has a fault in
    its memory or a lower memory clock. Where there are no siblings, the figure is held against
    what its bus and its clock allow (a copy reaches 84 to 91 percent of that), and against what
    others measured on the model.
    """
    yield from _unjudged(machine, "memory")
    slow = list(evidence.slower_than_siblings(machine, "memory"))
    named = {one.figure.gpus for one in slow}
    for figure in figures(machine, "memory"):
        if figure.gpus in named:
            continue
        most, best = evidence.bound(machine, figure), figure.best or 0.0
        if most is not None and best < _MEMORY.warning * most:
            severity = Severity.ERROR if best < _MEMORY.error * most else Severity.WARNING
            saw = f"{evidence.described(figure)}, {best / most:.0%} of its bus and clock "
            slow.append(Slow(figure=figure, severity=severity, saw=f"{saw}({most:,.0f} GB/s)"))
        elif (below := evidence.below_model(machine, figure)) is not None:
            slow.append(below)
    yield from _by_gpu(slow, _examine("Examine its memory: errors, remapped rows, memory clock"))


@rule(
    "PRF005",
    Severity.WARNING,
    "Copies between host and GPU are slow",
    caused_by=(*_LINKS, "HST007"),
    when=was_measured,
)
def host_copies_slow(machine: Snapshot) -> Answers:
    """Page-locked memory is copied at 79 to 88 percent of what the PCIe link in force carries.

    A link that came up with fewer lanes or at a lower generation halves it (LNK001, LNK002), and
    so does memory on another NUMA node. In a virtual machine the host's settings count: IOMMU,
    CPU pinning. Slow copies starve a training that loads its data.
    """
    yield from _unjudged(machine, "h2d", "d2h")
    slow = list(evidence.slower_than_siblings(machine, "h2d", "d2h"))
    named = {(one.figure.measure, one.figure.gpus) for one in slow}
    for figure in figures(machine, "h2d", "d2h"):
        most, best = evidence.link_bound(machine, figure), figure.best or 0.0
        if (figure.measure, figure.gpus) in named:
            continue
        if most is not None and best < _HOST_SHARE * most:
            saw = (
                f"{evidence.described(figure)}, {best / most:.0%} of the link in force (PCIe "
                f"{figure.pcie_generation} × {figure.pcie_width}: {most:.0f} GB/s)"
            )
            slow.append(Slow(figure=figure, severity=Severity.WARNING, saw=saw))
        elif most is None and (below := evidence.below_model(machine, figure)) is not None:
            slow.append(below)
    yield from _by_gpu(
        slow,
        Remedy(
            "Check the slot, the riser and the NUMA node of this GPU",
            steps=(command("nvidia-smi -q -d PCIE"), command("nvidia-smi topo -m")),
            verify=command("gpucheck bench --only copy"),
        ),
    )


@rule(
    "PRF006",
    Severity.WARNING,
    "The two directions between host and GPU differ",
    caused_by=("PRF005", *_LINKS),
    when=was_measured,
)
def directions_differ(machine: Snapshot) -> Answers:
    """PCIe carries as much in one direction as in the other; here one is far slower.

    A published machine of a cloud copied 26 GB/s to the GPU and 6 back, unnoticed. The causes are
    a bad link in one direction, the IOMMU, or memory on the wrong NUMA node. GPUs that are
    attached to the CPU by NVLink-C2C differ by design and are not judged.
    """
    by_gpu: dict[int, dict[str, Figure]] = {}
    for figure in figures(machine, "h2d", "d2h"):
        by_gpu.setdefault(figure.gpus[0], {})[figure.measure] = figure
    for index, both in sorted(by_gpu.items()):
        gpu = evidence.gpu_of(machine, index)
        if len(both) < 2 or (gpu is not None and value(gpu.c2c_is_on)):
            continue
        slower, faster = sorted(both.values(), key=lambda figure: figure.best or 0.0)
        if (slower.best or 0.0) < (1 - _DIRECTIONS_DIFFER) * (faster.best or 0.0):
            yield Symptom(
                saw=f"{evidence.described(faster)}, {evidence.described(slower)}",
                remedy=Remedy(
                    "Check the slot, the riser, the IOMMU and the NUMA node of this GPU",
                    steps=(command("nvidia-smi -q -d PCIE"),),
                    verify=command("gpucheck bench --only copy"),
                ),
                subject=f"gpu {index}",
                gpus=(index,),
            )


@rule(
    "PRF007",
    Severity.WARNING,
    "Copies between two GPUs are slow",
    caused_by=("LNK004", "LNK005", "LNK006", "LNK008", "LNK009", "LNK010"),
    when=was_measured,
)
def peer_copies_slow(machine: Snapshot) -> Answers:
    """Pairs that are connected alike copy at the same speed to 2 percent.

    One lost NVLink of 18 or 12 costs 6 or 8 percent. A pair that goes through the host's memory
    by mistake (peer access off, access control services on) is many times slower. Every byte that
    was copied was compared: LNK014 reports wrong ones.
    """
    yield from _unjudged(machine, "peer")
    slow = list(evidence.slower_than_siblings(machine, "peer"))
    named = {one.figure.gpus for one in slow}
    for figure in figures(machine, "peer"):
        if figure.gpus in named:
            continue
        most, best = evidence.link_bound(machine, figure), figure.best or 0.0
        if most is not None and best < _PEER_SHARE * most:
            saw = f"{evidence.described(figure)}, {best / most:.0%} of the links that are up"
            slow.append(Slow(figure=figure, severity=Severity.WARNING, saw=saw))
        elif (below := evidence.below_model(machine, figure)) is not None:
            slow.append(below)
    yield from _pairs(slow)


def _pairs(slow: list[Slow]) -> Answers:
    """Yield a symptom for each pair; where three and more share a GPU, one for that GPU."""
    remedy = Remedy(
        "Check the NVLinks and the peer access of these GPUs",
        steps=(command("nvidia-smi nvlink -s"), command("nvidia-smi topo -m")),
        verify=command("gpucheck bench --only peer"),
    )
    common = set.intersection(*(set(one.figure.gpus) for one in slow)) if len(slow) > 2 else set()
    if len(common) == 1:
        [gpu] = common
        worst = min(slow, key=lambda one: one.figure.best or 0.0)
        yield Symptom(
            saw=f"{len(slow)} pairs with it are slow; {evidence.named(worst.figure)}: {worst.saw}",
            severity=min((one.severity for one in slow), key=lambda each: each.rank),
            remedy=remedy,
            subject=f"gpu {gpu}",
            gpus=(gpu,),
        )
        return
    for one in slow:
        yield Symptom(
            saw=one.saw,
            severity=one.severity,
            remedy=remedy,
            subject=evidence.named(one.figure),
            gpus=tuple(sorted(one.figure.gpus)),
        )


@rule(
    "PRF009",
    Severity.WARNING,
    "All-reduce is slower than these GPUs reach",
    caused_by=("PRF007", "LNK004", "LNK005", "LNK006", "ENV024"),
    when=was_measured,
)
def all_reduce_slow(machine: Snapshot) -> Answers:
    """All-reduce adds up gradients over all GPUs after each step of a training.

    It is judged by model, number of GPUs and whether NCCL reduced in the NVSwitches (NVLS): 8 H100
    reach about 360 GB/s on rings and 460 with NVLS, so that one limit for both would be wrong. For
    other numbers and models nothing is published, and nothing is judged.
    """
    yield from _unjudged(machine, "all-reduce")
    measured = figures(machine, "all-reduce")
    if measured and isinstance(bench_of(machine).nvls, Unknown):
        yield NotChecked.because(bench_of(machine).nvls)  # type: ignore[arg-type]
        return
    for figure in measured:
        below = evidence.below_model(machine, figure)
        if below is not None:
            yield Symptom(
                saw=below.saw,
                severity=below.severity,
                remedy=Remedy(
                    "Look for variables that slow NCCL down, and at the links between the GPUs",
                    steps=(command("env"), command("nvidia-smi topo -m")),
                    verify=command("gpucheck bench --only allreduce"),
                ),
                gpus=figure.gpus,
            )


@rule(
    "PRF010",
    Severity.ERROR,
    "An all-reduce returned a wrong sum",
    caused_by=("LNK014", "LNK004", "LNK006", "GPU001", "GPU011"),
    when=was_measured,
)
def wrong_sum(machine: Snapshot) -> Answers:
    """Whole numbers that fp32 holds exactly were added up over all GPUs; the sum is not right.

    Every training on these GPUs learns from wrong gradients. The cause is a path between two GPUs
    that changes data, or a GPU that computes wrongly.
    """
    for figure in (yield from known(bench_of(machine).figures)) or ():
        if figure.measure == "all-reduce" and isinstance(figure.wrong, str):
            yield Symptom(
                saw=f"{figure.wrong} (all-reduce of {figure.size >> 20} MiB)",
                remedy=Remedy(
                    "Take this machine out of service, and find the GPU or the path",
                    steps=(command("gpucheck doctor --deep"), command("gpucheck smoke")),
                ),
                gpus=figure.gpus,
            )


@rule(
    "PRF011",
    Severity.WARNING,
    "A GPU throttled during the measurement",
    caused_by=("GPU010", "GPU012", "GPU013"),
    when=was_measured,
)
def throttled(machine: Snapshot) -> Answers:
    """NVML reported a slowdown for heat or by the power supply, more than once.

    The software power cap is no fault: a GPU under full load works at its power limit. Heat and
    the power brake mean that the machine's cooling or power supply does not keep up.
    """
    found: dict[int, int] = {}
    for figure in (yield from known(bench_of(machine).figures)) or ():
        for gpu in figure.gpus[:1]:  # the watch was on the first
            found[gpu] = found.get(gpu, 0) | (value(figure.clocks_event_reasons) or 0)
    for gpu, mask in sorted(found.items()):
        reasons = [name for bit, name in _SLOWDOWNS.items() if mask & bit]
        if reasons:
            yield Symptom(
                saw=f"{listed(reasons)} while it was measured",
                remedy=_examine("Examine its cooling and its power supply"),
                subject=f"gpu {gpu}",
                gpus=(gpu,),
            )


@rule(
    "PRF012",
    Severity.INFO,
    "GPUs share their way to the host",
    caused_by=("PRF005",),
    when=was_measured,
)
def shared_uplink(machine: Snapshot) -> Answers:
    """All GPUs together copy far less than each alone: they share a PCIe switch's uplink.

    That is how many machines are built. It matters to a training whose data comes from the host:
    GPUs behind one switch then wait for each other.
    """
    for direction in ("h2d", "d2h"):
        alone = {one.gpus: one.best or 0.0 for one in figures(machine, direction)}
        together = {one.gpus: one.best or 0.0 for one in figures(machine, f"{direction} together")}
        both = [gpus for gpus in alone if gpus in together]
        before, now = (sum(each[gpus] for gpus in both) for each in (alone, together))
        if len(both) > 1 and now < _SHARED_UPLINK * before:
            yield Symptom(
                saw=f"{evidence.NAMES[direction]}: {now:.0f} GB/s all at once, {before:.0f} one by "
                "one",
                remedy=Remedy(
                    "Nothing has to be done; `nvidia-smi topo -m` shows the switches",
                    verify=command("nvidia-smi topo -m"),
                ),
                gpus=tuple(sorted(gpu for gpus in both for gpu in gpus)),
            )


@rule(
    "PRF013",
    Severity.INFO,
    "All-reduce ran without NVLS",
    caused_by=("LNK006", "DRV010"),
    when=was_measured,
)
def without_nvls(machine: Snapshot) -> Answers:
    """NVSwitches of Hopper and later add up data themselves (NVLS), which is a quarter faster.

    NCCL did not use it here. It needs the fabric manager, on a container access to its IMEX
    channels, and is off where NCCL_NVLS_ENABLE=0 is set. Many virtual machines do not offer it.
    """
    nvls = yield from known(bench_of(machine).nvls)
    measured = figures(machine, "all-reduce")
    if nvls is not False or not measured:
        return
    gpus = [evidence.gpu_of(machine, index) for index in measured[0].gpus]
    if any(gpu is None or nvlinks_up(gpu) < 18 for gpu in gpus):  # no NVSwitch of that kind
        return
    yield Symptom(
        saw=f"{evidence.described(measured[-1])} over {len(gpus)} GPUs, on rings",
        remedy=Remedy(
            "Where the machine has NVSwitches, start the fabric manager, and unset NCCL_NVLS_ENABLE"
        ),
        gpus=measured[0].gpus,
    )


@rule(
    "PRF014",
    Severity.WARNING,
    "TF32 products run at the speed of FP32",
    caused_by=("ENV023",),
    when=was_measured,
)
def tf32_is_off(machine: Snapshot) -> Answers:
    """With TF32 a product in float32 runs on the tensor cores, three times as fast and more.

    The bench switches it on in torch; where it makes no difference, something switches it off
    underneath: NVIDIA_TF32_OVERRIDE=0 in the environment, or a cuBLAS that cannot do it.
    """
    slow = {one.gpus: one for one in figures(machine, "fp32")}
    for figure in figures(machine, "tf32"):
        plain = slow.get(figure.gpus)
        if plain is not None and (figure.best or 0.0) < 1.3 * (plain.best or 0.0):
            yield Symptom(
                saw=f"{evidence.described(figure)}, {evidence.described(plain)}",
                remedy=Remedy(
                    "Unset NVIDIA_TF32_OVERRIDE",
                    steps=(command("unset NVIDIA_TF32_OVERRIDE", lasts="shell"),),
                    verify=command("gpucheck bench --only gemm"),
                ),
                subject=evidence.named(figure),
                gpus=figure.gpus,
            )


@rule(
    "PRF015",
    Severity.ERROR,
    "A GPU stopped answering while it was measured",
    caused_by=("GPU001", "GPU002", "GPU003", "GPU004"),
    when=was_measured,
)
def stopped_answering(machine: Snapshot) -> Answers:
    """The process that measured this GPU hung, crashed, or gave no answer in time.

    It was ended; the other GPUs were measured. A GPU that hangs under load has fallen off the bus,
    or its driver waits for it for ever: the kernel log has an Xid (GPU020).
    """
    found: dict[tuple[int, ...], list[str]] = {}
    for figure in (yield from known(bench_of(machine).figures)) or ():
        if isinstance(figure.value, Unknown) and evidence.has_last_words(figure):
            name = evidence.NAMES.get(figure.measure, figure.measure)
            found.setdefault(figure.gpus, []).append(f"{name}: {figure.value.why}")
    for gpus, said in found.items():
        yield Symptom(
            saw=said[0],
            remedy=Remedy(
                "Look for an Xid in the kernel log, and reset the GPU",
                steps=(command("dmesg -T", root=True), command("gpucheck doctor --deep")),
            ),
            subject=" → ".join(f"gpu {gpu}" for gpu in gpus),
            gpus=tuple(sorted(gpus)),
        )
