"""Rules about the health of each GPU, as NVML and the kernel log tell it."""

from collections import Counter
from collections.abc import Callable, Generator

from gpucheck.knowledge import clocks_event_reasons as clocks
from gpucheck.knowledge import gpus as models
from gpucheck.knowledge import xid as xids
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    Gpu,
    GpuProcess,
    GpuSample,
    Memory,
    NotSupported,
    NvmlError,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    Snapshot,
    ThermalThresholds,
    Unknown,
    Xid,
)

#: Corrected errors a second, and since the driver loaded, that are more than the odd bit flip.
CORRECTED_ECC_PER_SECOND = 1.0
CORRECTED_ECC_TOTAL = 10_000
#: Pages that NVIDIA lets a GPU before Ampere retire before the board counts as worn out.
RETIRED_PAGES_LIMIT = 60
HELD_MEMORY_BYTES = 64 << 20
NEEDS_TWO_READINGS = "needs two readings: --deep or --watch"


def gpus_of(machine: Snapshot) -> Generator[NotChecked | NotApplicable, None, tuple[Gpu, ...]]:
    """Return the GPUs that NVML lists; say why there are none."""
    found = machine.nvml.gpus
    if isinstance(found, Unknown) and machine.host.pci_gpus == ():
        yield NotApplicable(why="no GPU")
        return ()
    gpus = yield from known(found)
    if gpus is None:
        return ()
    if not gpus:
        yield NotApplicable(why="no GPU")
    return gpus


def _reset(gpu: Gpu) -> str:
    return f"sudo nvidia-smi --gpu-reset -i {gpu.index}"


@rule("GPU001", Severity.ERROR, "A GPU is lost: it fell off the bus")
def gpu_lost(machine: Snapshot) -> Answers:
    """The GPU no longer answers on PCIe, and nothing can use it until the machine is restarted.

    NVML says GPU_IS_LOST, or the kernel logged Xid 79 ("GPU has fallen off the bus") and the GPU
    does not answer any more. Usual causes, in this order: power (a loose cable, a supply that
    cannot follow load steps), heat, the seat in the slot or its riser, a defective board. Programs
    that run on the other GPUs may hang too. Restart the machine; if the same GPU is lost again,
    power the machine down, reseat it, and if that does not help have it replaced.

    A GPU that fell off the bus earlier and answers now was reset since: that is no fault of today.
    A container sees the kernel log of the whole machine, but not all of its GPUs: there a GPU that
    only the log names is nobody's here.
    """
    gpus = yield from gpus_of(machine)
    fallen = _fallen_off_the_bus(machine)
    for gpu in gpus:
        if gpu.state == "lost" or (gpu.state != "ok" and gpu.bus_id in fallen):
            logged = ", and the kernel logged Xid 79" if gpu.bus_id in fallen else ""
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {gpu.error or 'NVML says GPU_IS_LOST'}{logged}",
                fix="Restart the machine; check power, heat and seating if it is lost again.",
                commands=("sudo reboot",),
            )
    in_container = isinstance(machine.host.container, str)
    if fallen and isinstance(machine.nvml.gpus, tuple) and not in_container:
        listed = {gpu.bus_id for gpu in gpus}
        # One that NVML lists and that cannot say its bus id is one of them: it is told of above.
        nameless = sum(gpu.state != "ok" and isinstance(gpu.bus_id, Unknown) for gpu in gpus)
        for bus_id in sorted(fallen - listed)[nameless:]:
            yield Symptom(
                subject=f"GPU at {bus_id}",
                saw=f"the kernel logged Xid 79 for {bus_id}, and NVML no longer lists that GPU",
                fix="Restart the machine; check power, heat and seating if it is lost again.",
                commands=("sudo reboot",),
            )


def _fallen_off_the_bus(machine: Snapshot) -> set[str]:
    logged = machine.kernel_log.xids
    if isinstance(logged, Unknown):
        return set()
    return {entry.bus_id for entry in logged if entry.number == 79}


def _at(gpu: Gpu) -> str:
    return f" ({gpu.bus_id})" if isinstance(gpu.bus_id, str) else ""


@rule(
    "GPU002",
    Severity.ERROR,
    "A GPU does not answer",
    caused_by=("GPU001", "DRV017"),
)
def gpu_hung(machine: Snapshot) -> Answers:
    """A question to this GPU did not come back, or brought NVML down; work on it would hang too.

    gpucheck asks NVML in a child process with a deadline for every question, so the other GPUs were
    still examined. A GPU like this usually has a stuck firmware (look for Xid 119 or 120 in the
    kernel log) or is about to fall off the bus. End what runs on it, reset it, and restart the
    machine if the reset hangs as well.
    """
    for gpu in (yield from gpus_of(machine)):
        if gpu.state in ("hung", "crashed", "failed"):
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {gpu.error or gpu.state}",
                fix="Take work off this GPU, reset it, and restart the machine if that hangs too.",
                commands=(_reset(gpu),),
            )


@rule(
    "GPU003",
    Severity.ERROR,
    "The driver asks for a recovery of a GPU",
    caused_by=("GPU001", "GPU006", "GPU004", "GPU011"),
)
def recovery_wanted(machine: Snapshot) -> Answers:
    """The driver itself says that only a reset of this GPU or a reboot makes it sound again.

    It keeps this verdict ("GPU Recovery Action" in nvidia-smi -q, Xid 154 in the kernel log) after
    an error that it could not clear. Programs may fail or give wrong results until it is done.
    """
    for gpu in (yield from gpus_of(machine)):
        value = yield from known(gpu.recovery_action, gpu.subject)
        if not value:
            continue
        action = xids.recovery_action(value)
        if action is None:
            yield NotChecked(why=f"recovery action {value} is not known", subject=gpu.subject)
            continue
        yield Symptom(
            gpus=(gpu.index,),
            subject=gpu.subject,
            severity=Severity.WARNING if action.action in ("drain_p2p", "recover_imex") else None,
            saw=f"GPU {gpu.index}{_at(gpu)}: recovery action {value}, {action.meaning}",
            fix=_RECOVERIES.get(action.action, action.meaning),
            commands=_recovery_commands(action.action, gpu),
        )


def _recovery_commands(action: str, gpu: Gpu) -> tuple[str, ...]:
    if action in ("reset_gpu", "drain_and_reset"):
        return (_reset(gpu),)
    return ("sudo reboot",) if action in ("reboot", "system_reboot") else ()


_RECOVERIES = {
    "reset_gpu": "End what runs on this GPU and reset it.",
    "reboot": "Drain the machine and reboot it.",
    "system_reboot": "Drain the machine and reboot it.",
    "drain_p2p": "End programs that copy between GPUs, then look again.",
    "drain_and_reset": "Let the running work end, start nothing new, then reset the GPU.",
    "recover_imex": "Recover the IMEX domain (multi-node NVLink), then look again.",
    "bus_reset": "End what runs on this GPU; it needs a reset of its PCI bus, or a reboot.",
}


@rule(
    "GPU004",
    Severity.ERROR,
    "Uncorrected ECC errors since the driver loaded",
    caused_by=("GPU006",),
)
def uncorrected_ecc(machine: Snapshot) -> Answers:
    """The GPU's memory lost data that ECC could not restore; programs crashed or computed with it.

    The count is "volatile": since the driver was loaded or the GPU reset. One such error can be a
    cosmic ray; the driver then remaps the row at the next reset. Errors that come back after the
    reset, or a remap that fails, mean a defective board.
    """
    for gpu in (yield from gpus_of(machine)):
        count = yield from known(gpu.uncorrected_ecc_volatile, gpu.subject)
        if count:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {count:,} uncorrected ECC errors",
                fix="Drain the GPU and reset it; if errors come again, have the board replaced.",
                commands=(_reset(gpu),),
            )


@rule("GPU005", Severity.WARNING, "A row remap is pending", caused_by=("GPU004", "GPU006"))
def remap_pending(machine: Snapshot) -> Answers:
    """A failing row of memory will be replaced by a spare, but only at the next reset of the GPU.

    Until then the driver keeps the bad address out of use where it can. Nothing is lost; choose a
    convenient moment, let the work on this GPU end, and reset it.
    """
    for gpu in (yield from gpus_of(machine)):
        rows = yield from known(gpu.remapped_rows, gpu.subject)
        if isinstance(rows, RemappedRows) and rows.is_pending:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: a row remap waits for the next reset"
                f" ({rows.uncorrectable} rows remapped so far for uncorrectable errors)",
                fix="Reset the GPU when its work has ended.",
                commands=(_reset(gpu),),
            )


@rule("GPU006", Severity.ERROR, "A row remap failed: the memory is worn out")
def remap_failed(machine: Snapshot) -> Answers:
    """A failing row of memory could not be replaced by a spare; this board has to be replaced.

    Run the vendor's field diagnostic (NVIDIA's is fieldiag) first: its log is what the vendor asks
    for. Give the GPU no work until then.
    """
    for gpu in (yield from gpus_of(machine)):
        rows = yield from known(gpu.remapped_rows, gpu.subject)
        if isinstance(rows, RemappedRows) and rows.has_failed:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: a row remap failed",
                fix="Take the GPU out of use, run the vendor's field diagnostic, have it replaced.",
            )


@rule("GPU007", Severity.WARNING, "Spare memory rows run out", caused_by=("GPU006", "GPU023"))
def spare_rows_low(machine: Snapshot) -> Answers:
    """Some banks of this GPU's memory have few spare rows or none; the next fault may be final.

    The GPU still works. Plan its replacement; run the vendor's field diagnostic when it is free.
    """
    for gpu in (yield from gpus_of(machine)):
        banks = yield from known(gpu.remap_histogram, gpu.subject)
        if isinstance(banks, RemapHistogram) and (banks.low or banks.none):
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {banks.none} memory banks have no spare rows left,"
                f" {banks.low} have few",
                fix="Plan the replacement of this GPU; run the vendor's field diagnostic.",
            )


@rule("GPU008", Severity.WARNING, "Memory pages are being retired")
def pages_retired(machine: Snapshot) -> Answers:
    """Pages of this GPU's memory were taken out of use for ECC errors (GPUs before Ampere).

    A pending retirement takes effect at the next reset. NVIDIA counts a board with 60 or more
    retired pages as defective.
    """
    for gpu in (yield from gpus_of(machine)):
        pages = yield from known(gpu.retired_pages, gpu.subject)
        if not isinstance(pages, RetiredPages):
            continue
        total = pages.single_bit + pages.double_bit
        counts = f"{pages.single_bit} for single-bit and {pages.double_bit} for double-bit errors"
        if total >= RETIRED_PAGES_LIMIT:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.ERROR,
                saw=f"GPU {gpu.index}{_at(gpu)}: {total} retired pages ({counts})",
                fix="Run the vendor's field diagnostic and have the board replaced.",
            )
        elif pages.is_pending:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: a page retirement is pending ({counts} so far)",
                fix="Reset the GPU when its work has ended.",
                commands=(_reset(gpu),),
            )


@rule("GPU009", Severity.WARNING, "ECC is off, or changes at the next reboot")
def ecc_off(machine: Snapshot) -> Answers:
    """Without ECC a flipped bit in the GPU's memory goes into the results, and nobody notices.

    Data-centre GPUs ship with ECC on; on those with HBM it costs no memory. A change of the mode
    takes effect at the next reboot or reset. A GPU that ships with ECC off, or has none, is not
    reported.
    """
    for gpu in (yield from gpus_of(machine)):
        current = yield from known(gpu.ecc_is_on, gpu.subject)
        if current is None:
            continue
        after = gpu.ecc_is_on_after_reboot
        if isinstance(after, bool) and after != current:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: ECC is {_on(current)}, and {_on(after)} after the"
                " next reboot",
                fix="Reboot or reset the GPU, so that what is set is what is so.",
                commands=(_reset(gpu),),
            )
        elif not current:
            default = _ecc_default(gpu)
            if default is None:
                yield NotChecked(why="its default ECC mode is not known", subject=gpu.subject)
            elif default:
                yield Symptom(
                    subject=gpu.subject,
                    gpus=(gpu.index,),
                    saw=f"GPU {gpu.index}{_at(gpu)}: ECC is off; this model ships with it on",
                    fix="Turn ECC on, then reboot or reset the GPU.",
                    commands=(f"sudo nvidia-smi -i {gpu.index} -e 1", _reset(gpu)),
                )


def _on(value: bool) -> str:
    return "on" if value else "off"


def _ecc_default(gpu: Gpu) -> bool | None:
    if isinstance(gpu.ecc_default, bool):
        return gpu.ecc_default
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return None if model is None else model.ecc_is_default


@rule("GPU010", Severity.WARNING, "Corrected ECC errors come fast", caused_by=("GPU004", "GPU006"))
def corrected_ecc(machine: Snapshot) -> Answers:
    """Bits in this GPU's memory flip often; ECC restores them, until two flip in the same word.

    A steady small count is normal in a large machine. More than one a second, or more than 10,000
    since the driver loaded, points at a failing cell or at heat.
    """
    for gpu in (yield from gpus_of(machine)):
        count = yield from known(gpu.corrected_ecc_volatile, gpu.subject)
        if count is None:
            continue
        rate = _rate(count, gpu.later_sample, lambda second: second.corrected_ecc_volatile)
        # One error within a second is no rate yet: three are needed in a short reading.
        is_fast = (
            rate is not None
            and gpu.later_sample is not None
            and rate > CORRECTED_ECC_PER_SECOND
            and rate * gpu.later_sample.after_seconds > 2.5
        )
        if count > CORRECTED_ECC_TOTAL or is_fast:
            growth = "" if rate is None else f", {rate:.1f} a second just now"
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {count:,} corrected ECC errors since the driver"
                f" loaded{growth}",
                fix="Watch the count; check the GPU's cooling; run the vendor's field diagnostic.",
                commands=(f"nvidia-smi -i {gpu.index} -q -d ECC",),
            )
        elif rate is None:
            yield NotChecked(why=NEEDS_TWO_READINGS, subject=gpu.subject)


def _rate(
    first: object, second: GpuSample | None, read: Callable[[GpuSample], object]
) -> float | None:
    """Return the growth a second between two readings; None where there are not two."""
    if second is None or not isinstance(first, int) or second.after_seconds <= 0:
        return None
    later = read(second)
    return (later - first) / second.after_seconds if isinstance(later, int) else None


@rule("GPU011", Severity.ERROR, "SRAM errors passed the threshold", caused_by=("GPU004",))
def sram_threshold(machine: Snapshot) -> Answers:
    """So many uncorrectable errors struck the GPU's caches that the board counts as defective.

    The driver keeps this flag across resets. Run the vendor's field diagnostic and have the board
    replaced.
    """
    for gpu in (yield from gpus_of(machine)):
        if (yield from known(gpu.sram_threshold_exceeded, gpu.subject)):
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: the SRAM error threshold is exceeded",
                fix="Take the GPU out of use, run the vendor's field diagnostic, have it replaced.",
            )


@rule("GPU012", Severity.ERROR, "A GPU is slowed down by heat or power", caused_by=("GPU013",))
def slowed_down(machine: Snapshot) -> Answers:
    """Hardware protection has cut this GPU's clocks to half or less; work runs at that speed.

    "HW Thermal Slowdown" is heat: fans, airflow, dust, thermal paste. "HW Power Brake Slowdown"
    comes from the server: a power supply that failed, or a cap of the management controller. "SW
    Thermal Slowdown" is milder: the driver holds the temperature at its limit.

    Low clocks of an idle GPU, a software power cap under full load, sync boost and display settings
    are normal and not reported. "HW Slowdown" alone can flash when clocks change, so it counts only
    when two readings show it. What happens between two readings is told by the driver's counters of
    the time spent slowed down.
    """
    hard = clocks.HW_THERMAL_SLOWDOWN | clocks.HW_POWER_BRAKE_SLOWDOWN
    for gpu in (yield from gpus_of(machine)):
        first = yield from known(gpu.clocks_event_reasons, gpu.subject)
        if first is None:
            continue
        later = gpu.later_sample.clocks_event_reasons if gpu.later_sample is not None else None
        second = later if isinstance(later, int) else None
        seen = first | (second or 0) | _slowed_between(gpu)
        lasting = first & second if second is not None else 0
        bits = (seen & hard) | (lasting & clocks.HW_SLOWDOWN)
        if bits:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=_slowdown(gpu, bits | seen & clocks.HW_SLOWDOWN),
                fix=_slowdown_fix(bits),
                commands=(f"nvidia-smi -i {gpu.index} -q -d PERFORMANCE,TEMPERATURE,POWER",),
            )
        elif seen & clocks.SW_THERMAL_SLOWDOWN:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.WARNING,
                saw=_slowdown(gpu, clocks.SW_THERMAL_SLOWDOWN),
                fix="Check fans, airflow and the temperature of the air that comes in.",
                commands=(f"nvidia-smi -i {gpu.index} -q -d PERFORMANCE,TEMPERATURE",),
            )
        elif seen & clocks.HW_SLOWDOWN:
            yield NotChecked(
                why="HW Slowdown was seen once, which a change of clocks can cause; "
                + NEEDS_TWO_READINGS,
                subject=gpu.subject,
            )


def _slowed_between(gpu: Gpu) -> int:
    """Return the reasons whose counters grew by over a hundredth of the time between two readings.

    The counters are NVML's fields 269 to 271, in nanoseconds by nvml.h.
    """
    second = gpu.later_sample
    if second is None:
        return 0
    bits = 0
    for bit, before, after in (
        (
            clocks.HW_THERMAL_SLOWDOWN,
            gpu.hardware_thermal_slowdown_ns,
            second.hardware_thermal_slowdown_ns,
        ),
        (
            clocks.HW_POWER_BRAKE_SLOWDOWN,
            gpu.power_brake_slowdown_ns,
            second.power_brake_slowdown_ns,
        ),
        (
            clocks.SW_THERMAL_SLOWDOWN,
            gpu.software_thermal_slowdown_ns,
            second.software_thermal_slowdown_ns,
        ),
    ):
        if isinstance(before, int) and isinstance(after, int):
            bits |= bit if after - before > second.after_seconds * 1e7 else 0
    return bits


def _slowdown(gpu: Gpu, bits: int) -> str:
    celsius = gpu.temperature_celsius
    heat = f" at {celsius} °C" if isinstance(celsius, int) else ""
    return f"GPU {gpu.index}{_at(gpu)}: {', '.join(clocks.names(bits))}{heat}"


def _slowdown_fix(bits: int) -> str:
    if bits & clocks.HW_POWER_BRAKE_SLOWDOWN:
        return "Check the server's power supplies, its power cap (BMC) and the GPU's power cables."
    if bits & clocks.HW_THERMAL_SLOWDOWN:
        return "Take load off this GPU and mend its cooling."
    return "Check the GPU's cooling, its power cables and the server's power supplies."


@rule("GPU013", Severity.ERROR, "A GPU is too hot")
def too_hot(machine: Snapshot) -> Answers:
    """At its slowdown temperature a GPU cuts its clocks, and a few degrees later it shuts down.

    A warning comes within 5 °C of the highest temperature it is meant to work at, for the chip and
    for its memory. A hot idle GPU means bad cooling; a hot busy one may only need more air.
    """
    for gpu in (yield from gpus_of(machine)):
        celsius = yield from known(gpu.temperature_celsius, gpu.subject)
        if celsius is None:
            continue
        limits = gpu.thresholds
        slowdown = limits.slowdown_celsius if isinstance(limits, ThermalThresholds) else limits
        maximum = limits.gpu_max_celsius if isinstance(limits, ThermalThresholds) else limits
        margin = gpu.temperature_margin_celsius
        if isinstance(slowdown, int) and slowdown > 0:
            if celsius >= slowdown:
                yield _hot(gpu, f"{celsius} °C; it slows down at {slowdown} °C", Severity.ERROR)
                continue
        elif isinstance(margin, int):
            # "T.Limit" counts down to the highest temperature to work at; it slows down below zero.
            below = gpu.slowdown_margin_celsius
            if isinstance(below, int) and margin <= below:
                yield _hot(gpu, f"{celsius} °C, at its slowdown threshold", Severity.ERROR)
                continue
            if margin <= 5 and not (isinstance(maximum, int) and maximum > 0):
                saw = f"{celsius} °C; it is meant to work to {celsius + margin} °C"
                yield _hot(gpu, saw, Severity.WARNING)
                continue
        else:
            yield from known(slowdown if slowdown else NotSupported(), gpu.subject)
        if isinstance(maximum, int) and maximum > 0 and celsius >= maximum - 5:
            yield _hot(gpu, f"{celsius} °C; it is meant to work to {maximum} °C", Severity.WARNING)
            continue
        memory = gpu.memory_temperature_celsius
        top = limits.memory_max_celsius if isinstance(limits, ThermalThresholds) else limits
        if isinstance(memory, int) and isinstance(top, int) and top > 0 and memory >= top - 5:
            saw = f"its memory has {memory} °C; it is meant to work to {top} °C"
            yield _hot(gpu, saw, Severity.WARNING)


def _hot(gpu: Gpu, saw: str, severity: Severity) -> Symptom:
    return Symptom(
        gpus=(gpu.index,),
        subject=gpu.subject,
        severity=severity,
        saw=f"GPU {gpu.index}{_at(gpu)}: {saw}",
        fix="Check fans, filters, airflow and the temperature of the air that comes in.",
        commands=(f"nvidia-smi -i {gpu.index} -q -d TEMPERATURE",),
    )


@rule("GPU014", Severity.WARNING, "A GPU's power limit is below its default")
def power_limited(machine: Snapshot) -> Answers:
    """Somebody, or the server, lowered the power that this GPU may draw; full load runs slower.

    That can be meant (to save energy, or to fit a rack), so it is a warning and no error. A limit
    above the default is not reported. In a laptop the limit follows the mains, the fans and the
    battery by itself, so there it is only noted.
    """
    for gpu in (yield from gpus_of(machine)):
        enforced = yield from known(gpu.power_limit_enforced_watts, gpu.subject)
        default = yield from known(gpu.power_limit_default_watts, gpu.subject)
        if enforced is not None and default is not None and enforced < default - 0.5:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.INFO if is_laptop(gpu) else None,
                saw=f"GPU {gpu.index}{_at(gpu)}: held to {enforced:g} W; the default is"
                f" {default:g} W",
                fix="Set the default limit again, or ignore GPU014 if the limit is meant.",
                commands=(f"sudo nvidia-smi -i {gpu.index} -pl {default:g}",),
            )


def is_laptop(gpu: Gpu) -> bool:
    """Tell by its name whether a GPU sits in a laptop; "Max-Q Workstation" is a desktop's board."""
    return isinstance(gpu.name, str) and (
        "Laptop" in gpu.name or "Mobile" in gpu.name or gpu.name.endswith("Max-Q Design")
    )


@rule(
    "GPU015", Severity.WARNING, "A GPU's clocks are held down by a setting", caused_by=("GPU014",)
)
def clocks_held(machine: Snapshot) -> Answers:
    """Application clocks or locked clocks keep this GPU under its maximum, whatever the load.

    They stay from an earlier benchmark or from an administrator until they are reset or the driver
    is loaded anew. Low clocks of an idle GPU are normal. NVML does not tell locked clocks, so they
    are recognised under load only (--deep): low clocks for which the driver gives no reason.
    """
    for gpu in (yield from gpus_of(machine)):
        top = yield from known(gpu.clock_sm_max_mhz, gpu.subject)
        if top is None:
            continue
        applied = gpu.application_clock_sm_mhz
        usual = gpu.application_clock_sm_default_mhz
        if isinstance(applied, int) and isinstance(usual, int) and applied < min(usual, top):
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: application clocks hold it to {applied} MHz;"
                f" its default is {usual} MHz, its maximum {top} MHz",
                fix="Reset the application clocks.",
                commands=(f"sudo nvidia-smi -i {gpu.index} -rac",),
            )
            continue
        if gpu.later_sample is None or not gpu.later_sample.under_load:
            yield NotChecked(why="locked clocks show under load only: --deep", subject=gpu.subject)
            continue
        clock = yield from known(gpu.later_sample.clock_sm_mhz, gpu.subject)
        reasons = yield from known(gpu.later_sample.clocks_event_reasons, gpu.subject)
        busy = gpu.later_sample.utilization_percent
        if clock is None or reasons is None or not isinstance(busy, int):
            continue
        if busy >= 90 and reasons == 0 and clock < _usual_share(gpu) * top:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: {clock} MHz under load, with no reason given;"
                f" its maximum is {top} MHz",
                fix="Unlock the clocks.",
                commands=(f"sudo nvidia-smi -i {gpu.index} -rgc",),
            )


def _usual_share(gpu: Gpu) -> float:
    """Return which part of its maximum a GPU's clock reaches where nothing holds it down.

    Data-centre boards reach it. The maximum of the others is a number that their voltage never
    allows, and NVML gives no reason for that: an RTX 4090 runs at 2,700 of 3,105 MHz.
    """
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return 0.9 if model is not None and model.ecc_is_default else 0.65


@rule("GPU016", Severity.ERROR, "A GPU's compute mode keeps programs out")
def compute_mode(machine: Snapshot) -> Answers:
    """In this compute mode CUDA programs cannot use the GPU, or only one of them at a time.

    "Prohibited" lets no CUDA program in. "Exclusive process" lets one in: DataParallel within one
    process works, but a second process (another user, a notebook, a launcher with several
    processes a GPU) fails with "all CUDA-capable devices are busy or unavailable".
    """
    for gpu in (yield from gpus_of(machine)):
        mode = yield from known(gpu.compute_mode, gpu.subject)
        if mode is None or mode == 0:
            continue
        if mode not in _COMPUTE_MODES:
            yield NotChecked(why=f"compute mode {mode} is not known", subject=gpu.subject)
            continue
        yield Symptom(
            gpus=(gpu.index,),
            subject=gpu.subject,
            severity=Severity.ERROR if mode == 2 else Severity.WARNING,
            saw=f"GPU {gpu.index}{_at(gpu)}: compute mode {_COMPUTE_MODES[mode]}",
            fix="Set the default mode, if the GPU is to be shared.",
            commands=(f"sudo nvidia-smi -i {gpu.index} -c DEFAULT",),
        )


#: nvmlComputeMode_t
_COMPUTE_MODES = {1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


@rule("GPU017", Severity.ERROR, "MIG is on and nothing can be used")
def mig_unusable(machine: Snapshot) -> Answers:
    """With MIG on, CUDA sees only compute instances; a GPU without any seems not to be there.

    Create a GPU instance with a compute instance, or turn MIG off. A change of the mode that is
    pending takes effect at the next reset.
    """
    for gpu in (yield from gpus_of(machine)):
        current = yield from known(gpu.mig_is_on, gpu.subject)
        if current is None:
            continue
        after = gpu.mig_is_on_after_reset
        if isinstance(after, bool) and after != current:
            yield Symptom(
                gpus=(gpu.index,),
                subject=gpu.subject,
                severity=Severity.WARNING,
                saw=f"GPU {gpu.index}{_at(gpu)}: MIG is {_on(current)}, and {_on(after)} after the"
                " next reset",
                fix="Reset the GPU when its work has ended.",
                commands=(_reset(gpu),),
            )
        elif current:
            devices = yield from known(gpu.mig_devices, gpu.subject)
            if devices == ():
                yield Symptom(
                    subject=gpu.subject,
                    gpus=(gpu.index,),
                    saw=f"GPU {gpu.index}{_at(gpu)}: MIG is on, and there is no compute instance",
                    fix="Create an instance of a profile that is listed, or turn MIG off.",
                    commands=(
                        f"sudo nvidia-smi mig -i {gpu.index} -lgip",
                        f"sudo nvidia-smi -i {gpu.index} -mig 0",
                    ),
                )


@rule("GPU018", Severity.WARNING, "The InfoROM is corrupt")
def inforom_corrupt(machine: Snapshot) -> Answers:
    """The GPU's own record of its errors and settings fails its checksum; ECC history may be lost.

    The GPU can still work. The check costs 70 ms a GPU, so only --deep makes it.
    """
    for gpu in (yield from gpus_of(machine)):
        if (yield from known(gpu.inforom_is_valid, gpu.subject)) is False:
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: the InfoROM fails its validation",
                fix="Update the GPU's firmware with the vendor's tool; if it stays, replace it.",
            )


@rule("GPU019", Severity.WARNING, "GPU memory is held by nobody", caused_by=("GPU001", "GPU002"))
def memory_held(machine: Snapshot) -> Answers:
    """Memory of this GPU is in use though no living process is shown for it: it is lost to others.

    A program that crashed or was killed may leave a child, or a zombie whose parent never collected
    it, that keeps the memory. `fuser` shows who has the device open. In a container the processes
    of the host cannot be seen, so there it is not checked.
    """
    for gpu in (yield from gpus_of(machine)):
        memory = yield from known(gpu.memory, gpu.subject)
        processes = yield from known(gpu.processes, gpu.subject)
        if not isinstance(memory, Memory) or processes is None:
            continue
        zombies = [process for process in processes if process.is_zombie]
        if zombies:
            yield _held(gpu, memory, f"by a zombie: {_processes(zombies)}")
        elif memory.used_bytes <= HELD_MEMORY_BYTES:
            continue
        elif not processes or all(process.name is None for process in processes):
            if (why := _may_hold_memory(gpu, memory)) is not None:
                yield NotChecked(why=why, subject=gpu.subject)
            elif isinstance(machine.host.container, str) or machine.host.is_wsl is True:
                yield NotChecked(why="processes outside are not shown here", subject=gpu.subject)
            elif isinstance(machine.host.container, Unknown):
                yield NotChecked(why=machine.host.container.why, subject=gpu.subject)
            else:
                yield _held(gpu, memory, "by no living process")


#: A console, a login screen or a compositor without a process of its own stays under this.
DISPLAY_BYTES = 1 << 30
#: how the names of virtual GPUs end: memory in GB, and the kind of licence
_VIRTUAL = tuple(f"{digit}{kind}" for digit in "0123456789" for kind in "QCBA")


def _may_hold_memory(gpu: Gpu, memory: Memory) -> str | None:
    """Say who but a process may hold memory of this GPU; None where nobody may."""
    if isinstance(memory.reserved_bytes, Unknown | NotSupported):
        return "the driver's own share is not told apart"
    if gpu.mig_is_on is True:
        return "MIG is on"
    if isinstance(gpu.numa_node, int):
        return "the kernel uses this GPU's memory as its own (a NUMA node)"
    if isinstance(gpu.name, str) and (gpu.name.startswith("GRID ") or _is_virtual(gpu.name)):
        return "a virtual GPU holds memory for its host"
    if gpu.display_active is True and memory.used_bytes < DISPLAY_BYTES:
        return "it drives a display, which holds memory too"
    return None


def _is_virtual(name: str) -> bool:
    """Tell a vGPU by its name: "NVIDIA A40-48Q", "GRID T4-16Q", "NVIDIA A100-4-20C"."""
    return "-" in name and name.endswith(_VIRTUAL)


def _held(gpu: Gpu, memory: Memory, by_whom: str) -> Symptom:
    device = f"/dev/nvidia{gpu.minor_number if isinstance(gpu.minor_number, int) else gpu.index}"
    return Symptom(
        subject=gpu.subject,
        gpus=(gpu.index,),
        saw=f"GPU {gpu.index}{_at(gpu)}: {memory.used_bytes >> 20:,} MiB are held {by_whom}",
        fix="Find who has the device open and end it; reset the GPU if nobody has.",
        commands=(f"sudo fuser -v {device}",),
    )


def _processes(processes: list[GpuProcess]) -> str:
    return ", ".join(
        f"{process.name if isinstance(process.name, str) else '?'} ({process.pid})"
        for process in processes
    )


@rule("GPU020", Severity.ERROR, "The kernel logged Xid errors")
def xid_errors(machine: Snapshot) -> Answers:
    """An Xid is the driver's note of an error on a GPU; its number says what went wrong.

    Errors of a program (Xid 13, 31, 43, 45 …) are notes for its owner; the GPU is sound. They are
    raised to a warning where they point at the GPU after all: the same unit, or the same one GPU of
    several, failing for different programs. The others say what the machine needs. The log covers
    this boot; a reset since may have mended what it tells of.

    Where NVML tells of the same fault, the log line stands under that finding. Xid 154 is the
    driver's note of the recovery that it asks for: what NVML says of that now counts more.
    """
    gpus = machine.nvml.gpus if isinstance(machine.nvml.gpus, tuple) else ()
    if not gpus and machine.host.pci_gpus == ():
        yield NotApplicable(why="no GPU")
        return
    logged = yield from known(machine.kernel_log.xids)
    for entry in logged or ():
        yield _xid(entry, gpus, logged or (), in_container=isinstance(machine.host.container, str))


def _xid(
    entry: Xid, gpus: tuple[Gpu, ...], logged: tuple[Xid, ...], *, in_container: bool
) -> Symptom:
    gpu = next((gpu for gpu in gpus if gpu.bus_id == entry.bus_id), None)
    meaning = xids.find(entry.number)
    when = _when(entry)
    times = "once" if entry.count == 1 else f"{entry.count:,} times"
    where = entry.bus_id if gpu is None else f"GPU {gpu.index} ({entry.bus_id})"
    what = f"Xid {entry.number}" + (f", {meaning.meaning}" if meaning is not None else "")
    saw = f"{where}: {what}; {times}{when}"
    if meaning is None or meaning.severity == "follow":
        saw += f": {entry.text}" if entry.text else ""
    pattern = _pattern(entry, len(gpus), logged)
    severity = _xid_severity(entry, gpu)
    if meaning is None:
        fix = "This number is not in the table: look it up in NVIDIA's Xid catalogue."
    else:
        fix = _sentence(meaning.advice) or xids.ACTIONS[meaning.action]
    if pattern:
        severity = Severity.WARNING
        saw += f"; {pattern}"
        fix = "Run the vendor's field diagnostic on this GPU."
    if gpu is None and gpus and in_container and all(isinstance(g.bus_id, str) for g in gpus):
        severity = Severity.INFO
        saw += "; that GPU is none of those that this container has"
        fix = "Tell whoever runs the machine; the GPUs of this container are others."
    return Symptom(
        subject=f"GPU at {entry.bus_id}" if gpu is None else gpu.subject,
        severity=severity,
        saw=saw,
        fix=fix,
        commands=("sudo reboot",)
        if meaning is not None and meaning.action == "reboot" and severity is Severity.ERROR
        else (),
        explained_by=_xid_roots(entry, gpu),
    )


_XID_SEVERITIES = {
    "critical": Severity.ERROR,
    "warning": Severity.WARNING,
    "info": Severity.INFO,
    "follow": Severity.INFO,
}
#: Xids of failing memory. Restarting the program is all that some of them ask for, and yet the
#: fault is the GPU's: NVIDIA's documentation of GPU memory errors.
_MEMORY_XIDS = frozenset((48, 63, 64, 92, 94, 95, 140, 171, 172))
_NVLINK_XIDS = frozenset((74, 136, 144, 145, 146, 147, 148, 149, 150, 155))


def _xid_severity(entry: Xid, gpu: Gpu | None) -> Severity:
    meaning = xids.find(entry.number)
    if meaning is None:
        return Severity.WARNING
    severity = _XID_SEVERITIES[meaning.severity]
    if entry.number == 154:
        return _recovery_severity(entry, gpu)
    if entry.number == 79 and gpu is not None and gpu.state == "ok":
        return Severity.WARNING  # it answers again, so it was reset since
    if entry.number == 63 and gpu is not None and _is_remapped(gpu):
        return Severity.INFO
    if meaning.action == "restart_app" and severity is Severity.WARNING:
        return severity if entry.number in _MEMORY_XIDS else Severity.INFO
    return severity


def _is_remapped(gpu: Gpu) -> bool:
    """Tell whether NVML knows of no row or page any more that waits for a reset."""
    if isinstance(gpu.remapped_rows, RemappedRows):
        return not gpu.remapped_rows.is_pending
    return isinstance(gpu.retired_pages, RetiredPages) and not gpu.retired_pages.is_pending


def _recovery_severity(entry: Xid, gpu: Gpu | None) -> Severity:
    """Judge Xid 154 by its own text, where NVML does not tell what is asked for now.

    The text: "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)".
    """
    if gpu is not None and isinstance(gpu.recovery_action, int):
        return Severity.INFO
    asked = entry.text.rpartition(" to ")[2].lower()
    if "reset" in asked or "reboot" in asked:
        return Severity.ERROR
    return Severity.WARNING if "drain" in asked else Severity.INFO


def _xid_roots(entry: Xid, gpu: Gpu | None) -> tuple[str, ...]:
    """Return what NVML says of the same fault of the same GPU, if it still stands."""
    if gpu is None:
        return ("GPU001",) if entry.number == 79 else ()
    if gpu.state != "ok":
        return ("GPU001",) if gpu.state == "lost" else ("GPU002", "GPU001")
    roots: list[str] = []
    if entry.number in _MEMORY_XIDS:
        rows = gpu.remapped_rows
        if isinstance(rows, RemappedRows) and rows.has_failed:
            roots.append("GPU006")
        if isinstance(gpu.uncorrected_ecc_volatile, int) and gpu.uncorrected_ecc_volatile:
            roots.append("GPU004")
        if isinstance(rows, RemappedRows) and rows.is_pending:
            roots.append("GPU005")
        if isinstance(gpu.retired_pages, RetiredPages) and gpu.retired_pages.is_pending:
            roots.append("GPU008")
    if entry.number in _NVLINK_XIDS and _has_dead_link(gpu):
        roots.append("LNK004")
    meaning = xids.find(entry.number)
    asks = meaning is not None and meaning.action in ("reset_gpu", "reboot", "follow_xid_154")
    if asks and isinstance(gpu.recovery_action, int) and gpu.recovery_action:
        roots.append("GPU003")
    return tuple(roots)


def _has_dead_link(gpu: Gpu) -> bool:
    return isinstance(gpu.nvlinks, tuple) and any(link.is_up is False for link in gpu.nvlinks)


def _pattern(entry: Xid, count: int, logged: tuple[Xid, ...]) -> str:
    """Say what makes an application error look like the GPU's, "" where nothing does."""
    if entry.count < 3 or len(entry.processes) < 2:
        return ""
    if entry.number == 13 and len(entry.units) == 1:
        return f"always on {entry.units[0]}, for {len(entry.processes)} different programs"
    others = any(other.number == 31 and other.bus_id != entry.bus_id for other in logged)
    if entry.number == 31 and count > 1 and not others:
        return f"on this GPU alone of {count}, for {len(entry.processes)} different programs"
    return ""


def _when(entry: Xid) -> str:
    if not isinstance(entry.last_seconds, int | float):
        return ""
    if entry.count == 1 or not isinstance(entry.first_seconds, int | float):
        return f", {_duration(entry.last_seconds)} after boot"
    return f", from {_duration(entry.first_seconds)} to {_duration(entry.last_seconds)} after boot"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".") if text else ""


@rule("GPU021", Severity.WARNING, "The GPUs of this machine differ")
def gpus_differ(machine: Snapshot) -> Answers:
    """Work that is spread evenly over unequal GPUs runs at the pace of the slowest.

    DataParallel and DistributedDataParallel give each GPU the same share. A small display card
    beside compute GPUs is only noted: leave it out with CUDA_VISIBLE_DEVICES.
    """
    gpus = yield from gpus_of(machine)
    sound = [gpu for gpu in gpus if gpu.state == "ok"]
    if len(sound) < 2:
        if gpus:
            yield NotApplicable(why="fewer than two GPUs to compare")
        return
    names = Counter([gpu.name for gpu in sound if isinstance(gpu.name, str)])
    if len(names) > 1:
        usual = _usual(sound, names)
        others = [gpu for gpu in sound if gpu.name != usual]
        most = max(_total_bytes(gpu) for gpu in sound)
        for_display = all(
            gpu.display_active is True or 0 < _total_bytes(gpu) <= min(most / 4, SMALL_CARD_BYTES)
            for gpu in others
        )
        yield Symptom(
            severity=Severity.INFO if for_display else None,
            saw=", ".join(f"{count} × {name}" for name, count in names.most_common()),
            fix="Choose GPUs of one model for work that uses several.",
            commands=(
                "export CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES="
                + ",".join(str(gpu.index) for gpu in sound if gpu.name == usual),
            ),
        )
    for name in names:
        family = [gpu for gpu in sound if gpu.name == name]
        for what, read, unit, tolerance in _DIFFERENCES:
            values = {gpu.index: value for gpu in family if (value := read(gpu)) is not None}
            if values and max(values.values()) - min(values.values()) > tolerance(values):
                yield Symptom(
                    subject=what,
                    saw=f"{name}: "
                    + ", ".join(
                        f"GPU {index} {value:.0f} {unit}" for index, value in values.items()
                    ),
                    fix=f"Find out why the {what} differs; give work that uses several GPUs to"
                    " equal ones.",
                    explained_by=("GPU014",) if what == "power limit" else (),
                )


#: A card with less memory than this, and a quarter of the others', is there for the screen.
SMALL_CARD_BYTES = 12 << 30


def _usual(gpus: list[Gpu], names: Counter[str]) -> str:
    """Return the model that the machine computes with: the most frequent, then the largest."""
    return max(
        names,
        key=lambda name: (
            any(gpu.name == name and gpu.display_active is not True for gpu in gpus),
            names[name],
            max(_total_bytes(gpu) for gpu in gpus if gpu.name == name),
        ),
    )


def _total_bytes(gpu: Gpu) -> int:
    return gpu.memory.total_bytes if isinstance(gpu.memory, Memory) else 0


def _total_gib(gpu: Gpu) -> float | None:
    return gpu.memory.total_bytes / 2**30 if isinstance(gpu.memory, Memory) else None


def _power_limit(gpu: Gpu) -> float | None:
    watts = gpu.power_limit_enforced_watts
    return watts if isinstance(watts, int | float) else None


#: what is compared, how it is read, its unit, and how far equal boards may be apart: drivers keep
#: slightly different shares of the memory for themselves
_DIFFERENCES: tuple[
    tuple[str, Callable[[Gpu], float | None], str, Callable[[dict[int, float]], float]], ...
] = (
    ("memory", _total_gib, "GiB", lambda values: 0.03 * max(values.values())),
    ("power limit", _power_limit, "W", lambda _: 1.0),
)


@rule(
    "GPU022",
    Severity.ERROR,
    "Not the number of GPUs that was expected",
    caused_by=("HST004", "DRV001", "DRV002", "DRV003", "DRV015", "DRV016", "GPU001", "GPU002"),
)
def count_unexpected(machine: Snapshot) -> Answers:
    """This machine was said to have another number of working GPUs (--expect-gpus).

    A GPU that is lost or does not answer does not count.
    """
    expected = machine.expected_gpus
    if expected is None:
        yield NotApplicable(why="no --expect-gpus was given")
        return
    found = machine.nvml.gpus
    if isinstance(machine.nvml.error, NvmlError) or machine.host.pci_gpus == ():
        found = () if isinstance(found, Unknown) else found
    gpus = yield from known(found)
    if gpus is None:
        return
    working = sum(gpu.state == "ok" for gpu in gpus)
    if working != expected:
        yield Symptom(
            saw=f"{working} working GPUs; {expected} were expected",
            fix="Find the missing GPU on the bus and in the kernel log, or correct --expect-gpus.",
            commands=("lspci -d 10de:", "nvidia-smi -L"),
        )


@rule("GPU023", Severity.ERROR, "Memory that cannot be repaired", caused_by=("GPU006",))
def unrepairable_memory(machine: Snapshot) -> Answers:
    """The GPU marked its own memory as beyond repair; the board has to be replaced."""
    for gpu in (yield from gpus_of(machine)):
        if (yield from known(gpu.has_unrepairable_memory, gpu.subject)):
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"GPU {gpu.index}{_at(gpu)}: the unrepairable memory flag is set",
                fix="Take the GPU out of use, run the vendor's field diagnostic, have it replaced.",
            )


@rule("GPU024", Severity.WARNING, "GPUs of one model have different firmware")
def firmware_differs(machine: Snapshot) -> Answers:
    """Equal GPUs with different firmware can differ in speed, limits and in the faults they have.

    It usually means that one board was replaced or missed an update. Bring all to the newest
    version that the vendor of the machine offers.
    """
    gpus = yield from gpus_of(machine)
    sound = [gpu for gpu in gpus if gpu.state == "ok" and isinstance(gpu.name, str)]
    if gpus and len(sound) < 2:
        yield NotApplicable(why="fewer than two GPUs to compare")
    for name in dict.fromkeys(gpu.name for gpu in sound):
        family = [gpu for gpu in sound if gpu.name == name]
        for what, read in _FIRMWARE:
            versions = [(gpu.index, read(gpu)) for gpu in family]
            if len({version for _, version in versions if isinstance(version, str)}) > 1:
                yield Symptom(
                    subject=what,
                    saw=f"{what} of {name}: "
                    + ", ".join(f"GPU {i} {v}" for i, v in versions if isinstance(v, str)),
                    fix="Update the firmware of all boards to the same version.",
                )


_FIRMWARE: tuple[tuple[str, Callable[[Gpu], object]], ...] = (
    ("VBIOS", lambda gpu: gpu.vbios_version),
    ("InfoROM", lambda gpu: gpu.inforom_version),
    ("GSP firmware", lambda gpu: gpu.gsp_firmware_version),
)
