"""Rules about what slows a GPU down: heat, power, and clocks that a setting holds."""

from gpucheck.derived import is_virtual
from gpucheck.knowledge import clocks_event_reasons as clocks
from gpucheck.knowledge import gpus as models
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpu_rule,
    known,
)
from gpucheck.rules.gpu_memory import NEEDS_TWO_READINGS
from gpucheck.snapshot import Gpu, NotSupported, Snapshot, ThermalThresholds, value

#: A target so far under the slowdown threshold was set by the platform: NVIDIA's own boards have 2
#: to 20 °C between the two (H200: 87 and 89; RTX 4060 Laptop: 87 and 102).
LOWERED_TARGET_CELSIUS = 25
_HARD = clocks.HW_THERMAL_SLOWDOWN | clocks.HW_POWER_BRAKE_SLOWDOWN


@gpu_rule(
    "GPU012", Severity.ERROR, "Heat or a power brake reduces the clocks", caused_by=("GPU013",)
)
def slowed_down(gpu: Gpu, machine: Snapshot) -> Answers:
    """Hardware protection has cut this GPU's clocks to half or less; work runs at that speed.

    "HW Thermal Slowdown" is heat: fans, airflow, dust, thermal paste. "HW Power Brake Slowdown"
    comes from the server: a power supply that failed, or a cap of the management controller. "SW
    Thermal Slowdown" is milder: the driver holds the temperature at its limit, which in laptops the
    platform may have lowered.

    Low clocks of an idle GPU, a software power cap under full load, sync boost and display settings
    are normal and not reported. "HW Slowdown" alone can flash when clocks change, so it counts only
    when two readings show it. What happens between two readings is known from the driver's counters
    of the time spent slowed down.
    """
    first = yield from known(gpu.clocks_event_reasons)
    if first is None:
        return
    later = value(gpu.later_sample.clocks_event_reasons) if gpu.later_sample is not None else None
    seen = first | (later or 0) | _slowed_between(gpu)
    lasting = first & later if later is not None else 0
    bits = (seen & _HARD) | (lasting & clocks.HW_SLOWDOWN)
    if bits:
        yield Symptom(
            saw=_slowdown(gpu, bits | seen & clocks.HW_SLOWDOWN),
            remedy=_slowdown_remedy(bits, gpu, machine),
        )
    elif seen & clocks.SW_THERMAL_SLOWDOWN:
        target = _lowered_target(gpu)
        yield Symptom(
            severity=Severity.WARNING if target is None else Severity.INFO,
            saw=_slowdown(gpu, clocks.SW_THERMAL_SLOWDOWN),
            remedy=remedies.check_cooling(gpu, machine) if target is None else _RAISE_TARGET,
        )
    elif seen & clocks.HW_SLOWDOWN:
        yield NotChecked(
            why="HW Slowdown was seen once, which a change of clocks can cause; "
            + NEEDS_TWO_READINGS
        )


def _slowed_between(gpu: Gpu) -> int:
    """Return the reasons whose counters grew by over a hundredth of the time between two readings.

    The counters are NVML's fields 269 to 271, in nanoseconds by nvml.h.
    """
    later = gpu.later_sample
    if later is None:
        return 0
    bits = 0
    for bit, before, after in (
        (
            clocks.HW_THERMAL_SLOWDOWN,
            gpu.hardware_thermal_slowdown_ns,
            later.hardware_thermal_slowdown_ns,
        ),
        (
            clocks.HW_POWER_BRAKE_SLOWDOWN,
            gpu.power_brake_slowdown_ns,
            later.power_brake_slowdown_ns,
        ),
        (
            clocks.SW_THERMAL_SLOWDOWN,
            gpu.software_thermal_slowdown_ns,
            later.software_thermal_slowdown_ns,
        ),
    ):
        if isinstance(before, int) and isinstance(after, int):
            bits |= bit if after - before > later.after_seconds * 1e7 else 0
    return bits


def _slowdown(gpu: Gpu, bits: int) -> str:
    celsius = value(gpu.temperature_celsius)
    heat = f" at {celsius} °C" if celsius is not None else ""
    return ", ".join(clocks.names(bits)) + heat


def _slowdown_remedy(bits: int, gpu: Gpu, machine: Snapshot) -> Remedy:
    if not bits & clocks.HW_POWER_BRAKE_SLOWDOWN and bits & clocks.HW_THERMAL_SLOWDOWN:
        return remedies.check_cooling(gpu, machine)
    if is_virtual(machine):
        text = "Ask whoever runs the host to check its power supplies, its power cap and cooling"
    elif remedies.is_laptop(gpu, machine):
        text = "Use the laptop's own power supply; charge the battery; check its fans"
    elif bits & clocks.HW_POWER_BRAKE_SLOWDOWN:
        text = "Check the server's power supplies, its power cap (BMC) and the GPU's power cables"
    else:
        text = "Check the GPU's cooling, its power cables and the machine's power supplies"
    return Remedy(
        text,
        verify=command(
            "nvidia-smi -i {gpu} -q -d PERFORMANCE,TEMPERATURE,POWER",
            gpu=gpu.index,
        ),
    )


def _lowered_target(gpu: Gpu) -> int | None:
    """Return the temperature that the platform holds this GPU to; None where NVIDIA's own holds.

    Laptops' firmware (DPTF, thermald) may set the target to 57 °C on a chip that slows down at 97.
    """
    limits = gpu.thresholds
    if not isinstance(limits, ThermalThresholds):
        return None
    slowdown, target = value(limits.slowdown_celsius), value(limits.gpu_max_celsius)
    if not slowdown or not target or slowdown - target < LOWERED_TARGET_CELSIUS:
        return None
    return target


_RAISE_TARGET = Remedy(
    "Choose a performance profile in the BIOS or the desktop's power settings; see thermald's and"
    " the vendor's configuration for the limit"
)


@gpu_rule("GPU013", Severity.ERROR, "A GPU is too hot")
def too_hot(gpu: Gpu, machine: Snapshot) -> Answers:
    """At its slowdown temperature a GPU cuts its clocks, and a few degrees later it shuts down.

    A warning comes within 5 °C of the highest temperature it is meant to work at, for the chip and
    for its memory. A hot idle GPU means bad cooling; a hot busy one may only need more air. Where
    the platform (a laptop's firmware, thermald) holds the GPU far below its own limits, nothing is
    too hot: that is only noted, where the GPU is at that limit.
    """
    celsius = yield from known(gpu.temperature_celsius)
    if celsius is None:
        return
    limits = gpu.thresholds
    slowdown = limits.slowdown_celsius if isinstance(limits, ThermalThresholds) else limits
    maximum = limits.gpu_max_celsius if isinstance(limits, ThermalThresholds) else limits
    margin = gpu.temperature_margin_celsius
    if isinstance(slowdown, int) and slowdown > 0:
        if celsius >= slowdown:
            saw = f"{celsius} °C; it slows down at {slowdown} °C"
            shutdown = (
                value(limits.shutdown_celsius) if isinstance(limits, ThermalThresholds) else 0
            )
            saw += f" and shuts down at {shutdown} °C" if shutdown else ""
            yield _hot(gpu, machine, saw, Severity.ERROR)
            return
    elif isinstance(margin, int):
        # "T.Limit" counts down to the highest temperature to work at; it slows down below zero.
        below = gpu.slowdown_margin_celsius
        if isinstance(below, int) and margin <= below:
            saw = f"{celsius} °C, at its slowdown threshold"
            yield _hot(gpu, machine, saw, Severity.ERROR)
            return
        if margin <= 5 and not (isinstance(maximum, int) and maximum > 0):
            saw = f"{celsius} °C; its highest operating temperature is {celsius + margin} °C"
            yield _hot(gpu, machine, saw, Severity.WARNING)
            return
    else:
        yield from known(slowdown if slowdown else NotSupported())
    if isinstance(maximum, int) and maximum > 0 and celsius >= maximum - 5:
        if (target := _lowered_target(gpu)) is not None:
            yield Symptom(
                severity=Severity.INFO,
                saw=f"{celsius} °C; the platform holds this GPU to {target} °C, though it slows"
                f" down by itself at {slowdown} °C only",
                remedy=_RAISE_TARGET,
            )
            return
        saw = f"{celsius} °C; its highest operating temperature is {maximum} °C"
        yield _hot(gpu, machine, saw, Severity.WARNING)
        return
    memory = gpu.memory_temperature_celsius
    top = limits.memory_max_celsius if isinstance(limits, ThermalThresholds) else limits
    if isinstance(memory, int) and isinstance(top, int) and top > 0 and memory >= top - 5:
        saw = f"its memory is at {memory} °C; the highest operating temperature is {top} °C"
        yield _hot(gpu, machine, saw, Severity.WARNING)


def _hot(gpu: Gpu, machine: Snapshot, saw: str, severity: Severity) -> Symptom:
    percent = value(gpu.fan_percent)
    fan = f"; fan at {percent} %" if percent is not None else ""
    return Symptom(severity=severity, saw=saw + fan, remedy=remedies.check_cooling(gpu, machine))


@gpu_rule("GPU014", Severity.WARNING, "A GPU's power limit is below its default")
def power_limited(gpu: Gpu, machine: Snapshot) -> Answers:
    """Somebody, or the server, lowered the power that this GPU may draw; full load runs slower.

    That can be meant (to save energy, or to fit a rack), so it is a warning and no error. A limit
    above the default is not reported. In a laptop the limit follows the mains, the fans and the
    battery by itself, so there it is only noted.
    """
    enforced = yield from known(gpu.power_limit_enforced_watts)
    default = yield from known(gpu.power_limit_default_watts)
    if enforced is None or default is None or enforced >= default - 0.5:
        return
    saw = f"limited to {enforced:g} W; the default is {default:g} W"
    if remedies.is_laptop(gpu, machine):
        yield Symptom(
            severity=Severity.INFO,
            saw=saw,
            remedy=Remedy(
                "Nothing has to be done: the limit of a laptop follows its power supply, its fans"
                " and Dynamic Boost; on the mains and with a performance profile it is higher"
            ),
        )
        return
    yield Symptom(
        saw=saw,
        remedy=Remedy(
            "Set the default limit again, or ignore GPU014 if the limit is meant",
            steps=(
                command(
                    "nvidia-smi -i {gpu} -pl {watts}",
                    gpu=remedies.name_on_host(gpu, machine),
                    watts=f"{default:g}",
                    root=True,
                    lasts="reboot",
                    on=remedies.place_of_driver(machine),
                ),
            ),
            verify=command("nvidia-smi -i {gpu} -q -d POWER", gpu=gpu.index),
        ),
    )


@gpu_rule("GPU015", Severity.WARNING, "A setting holds a GPU's clocks down", caused_by=("GPU014",))
def clocks_held(gpu: Gpu, machine: Snapshot) -> Answers:
    """Application clocks or locked clocks keep this GPU under its maximum, whatever the load.

    They stay from an earlier benchmark or from an administrator until they are reset or the driver
    is loaded again. Low clocks of an idle GPU are normal. NVML does not report locked clocks, so
    they are recognized under load only (--deep): low clocks for which the driver gives no reason.
    """
    top = yield from known(gpu.clock_sm_max_mhz)
    if top is None:
        return
    applied = gpu.application_clock_sm_mhz
    usual = gpu.application_clock_sm_default_mhz
    if isinstance(applied, int) and isinstance(usual, int) and applied < min(usual, top):
        yield Symptom(
            saw=f"application clocks hold it to {applied} MHz; its default is {usual} MHz, its"
            f" maximum {top} MHz",
            remedy=_unlock(gpu, machine, "Reset the application clocks", "-rac"),
        )
        return
    later = gpu.later_sample
    if later is None or not later.under_load:
        yield NotChecked(why="locked clocks show under load only: --deep", kind="by design")
        return
    clock = yield from known(later.clock_sm_mhz)
    reasons = yield from known(later.clocks_event_reasons)
    busy = value(later.utilization_percent)
    if clock is None or reasons is None or busy is None:
        return
    if busy >= 90 and reasons == 0 and clock < _usual_share(gpu) * top:
        yield Symptom(
            saw=f"{clock} MHz under load, with no reason given; its maximum is {top} MHz",
            remedy=_unlock(gpu, machine, "Unlock the clocks", "-rgc"),
        )


def _unlock(gpu: Gpu, machine: Snapshot, text: str, option: str) -> Remedy:
    return Remedy(
        text,
        steps=(
            command(
                "nvidia-smi -i {gpu} {option}",
                gpu=remedies.name_on_host(gpu, machine),
                option=option,
                root=True,
                on=remedies.place_of_driver(machine),
            ),
        ),
        verify=command("nvidia-smi -i {gpu} -q -d CLOCK", gpu=gpu.index),
    )


def _usual_share(gpu: Gpu) -> float:
    """Return which part of its maximum a GPU's clock reaches where nothing holds it down.

    Data-center boards reach it. The maximum of the others is a number that their voltage never
    allows, and NVML gives no reason for that: an RTX 4090 runs at 2,700 of 3,105 MHz.
    """
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return 0.9 if model is not None and model.ecc_is_default else 0.65
