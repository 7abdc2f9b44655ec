"""Sums up what was done, and what NVML said, in some seconds of a burn."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median

from gpucheck.probes.messages import GpuReading
from gpucheck.snapshot import BurnPoint, BurnWork, replace
from gpucheck.workloads.burn_journal import Counters


def rate_of_bf16(work: list[BurnWork]) -> float | None:
    """Return 10^12 operations a second of the bf16 products that had a GPU for themselves."""
    mine = [each for each in work if each.kind == "bf16" and each.phase == "tensor"]
    seconds = sum(each.seconds for each in mine)
    return round(1e-12 * sum(each.amount for each in mine) / seconds, 3) if seconds > 0 else None


def together(work: list[BurnWork]) -> Iterator[BurnWork]:
    """Yield one entry for each kind of work."""
    found: dict[tuple[str, str, str], BurnWork] = {}
    for each in work:
        key = (each.phase, each.kind, each.size)
        sofar = found.get(key)
        found[key] = (
            each
            if sofar is None
            else replace(
                sofar,
                count=sofar.count + each.count,
                amount=sofar.amount + each.amount,
                seconds=sofar.seconds + each.seconds,
            )
        )
    yield from found.values()


def point_of(seen: list[GpuReading], seconds: float) -> BurnPoint:
    """Sum up what NVML said of a GPU in some seconds."""
    heat = [one.temperature_celsius for one in seen if one.temperature_celsius is not None]
    watts = [one.power_watts for one in seen if one.power_watts is not None]
    clocks = [one.clock_sm_mhz for one in seen if one.clock_sm_mhz is not None]
    masks = [one.clocks_event_reasons for one in seen if one.clocks_event_reasons is not None]
    widths = [one.pcie_width for one in seen if one.pcie_width is not None]
    generations = [one.pcie_generation for one in seen if one.pcie_generation is not None]
    lasting = sum(1 << bit for bit in range(64) if sum(mask >> bit & 1 for mask in masks) > 1)
    return BurnPoint(
        seconds=seconds,
        temperature_celsius=max(heat, default=None),
        power_watts=round(sum(watts) / len(watts), 1) if watts else None,
        clock_sm_mhz=median(clocks) if clocks else None,
        clocks_event_reasons=lasting if masks else None,
        pcie_width=max(widths, default=None),
        pcie_generation=max(generations, default=None),
    )


def counters_of(seen: list[GpuReading]) -> Counters:
    """Return the newest of each counter."""

    def newest(name: str) -> object:
        return next((v for one in reversed(seen) if (v := getattr(one, name)) is not None), None)

    rows: tuple[int, ...] | None = newest("remapped_rows")  # type: ignore[assignment]
    slow: tuple[tuple[int, int], ...] | None = newest("slowdowns")  # type: ignore[assignment]
    links: tuple[tuple[int | tuple[int], ...], ...] | None = newest("nvlink_errors")  # type: ignore[assignment]
    errors = [each for link in links or () for each in link[1:3] if isinstance(each, int)]
    slowdowns = [None if code else number * 1e-9 for code, number in slow or ()]
    _, thermal, brake = slowdowns if len(slowdowns) == 3 else (None, None, None)
    return Counters(
        corrected_ecc=newest("corrected_ecc"),  # type: ignore[arg-type]
        uncorrected_ecc=newest("uncorrected_ecc"),  # type: ignore[arg-type]
        remapped_rows=rows[0] + rows[1] if rows else None,
        remaps_pending=rows[2] if rows else None,
        remap_failures=rows[3] if rows else None,
        pcie_replays=newest("pcie_replays"),  # type: ignore[arg-type]
        nvlink_errors=sum(errors) if errors else None,
        thermal_slowdown_seconds=thermal,
        power_brake_seconds=brake,
    )


def boot_id() -> str:
    """Return the kernel's id of this boot; "" where it does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
