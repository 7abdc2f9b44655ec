"""Makes the facts of one GPU from what it answered."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from gpucheck.payload import nvml_queries as queries
from gpucheck.probes.gpu_processes import gpu_processes
from gpucheck.probes.nvml_links import nvlinks
from gpucheck.probes.nvml_readings import Answers, integer, ranges, text, watts
from gpucheck.probes.nvml_session import State
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    Fabric,
    Gpu,
    GpuSample,
    Memory,
    NotSupported,
    Reading,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    ThermalThresholds,
    Unknown,
    VgpuLicense,
)

CORRUPTED_INFOROM = 14  # NVML_ERROR_CORRUPTED_INFOROM
#: nvmlGpuVirtualizationMode_t
VIRTUALIZATION: dict[int, Literal["none", "passthrough", "vgpu", "host vgpu", "host vsga"]] = {
    0: "none",
    1: "passthrough",
    2: "vgpu",
    3: "host vgpu",
    4: "host vsga",
}
T = TypeVar("T")


def gpu_facts(index: int, state: State, fault: str | None, answers: Answers, root: Path) -> Gpu:
    """Return what one GPU answered in the first reading."""
    get = answers.get

    def number(which: int, convert: Callable[[Any], T]) -> Reading[T]:
        return answers.field(which, queries.FIELDS, convert)

    thresholds = ThermalThresholds(
        shutdown_celsius=get("shutdown", integer),
        slowdown_celsius=get("slowdown", integer),
        memory_max_celsius=get("memory_max", integer),
        gpu_max_celsius=get("gpu_max", integer),
    )
    return Gpu(
        index=index,
        state=state,
        error=fault,
        name=get("name", text),
        uuid=get("uuid", text),
        serial=get("serial", text),
        bus_id=get("pci", lambda value: queries.bus_id(value[0])),
        minor_number=get("minor_number", integer),
        compute_capability=get("compute_capability", lambda v: f"{v[0]:d}.{v[1]:d}"),
        vbios_version=get("vbios", text),
        inforom_version=get("inforom", text),
        inforom_is_valid=inforom_is_valid(answers),
        gsp_firmware_version=get("gsp", text),
        memory=get("memory", _memory),
        bar1_total_bytes=get("bar1", integer),
        processes=gpu_processes(answers, root),
        temperature_celsius=get("temperature", integer),
        memory_temperature_celsius=number(queries.MEMORY_TEMPERATURE, integer),
        fan_percent=get("fan", integer),
        temperature_margin_celsius=get("margin", lambda v: integer(v[0])),
        slowdown_margin_celsius=number(queries.SLOWDOWN_MARGIN, integer),
        thresholds=_one_reading(thresholds),
        power_watts=get("power", watts),
        power_limit_enforced_watts=get("power_limit", watts),
        power_limit_default_watts=get("power_default", watts),
        clock_sm_mhz=get("clock_sm", integer),
        clock_memory_mhz=get("clock_memory", integer),
        clock_sm_max_mhz=get("clock_sm_max", integer),
        clock_memory_max_mhz=get("clock_memory_max", integer),
        application_clock_sm_mhz=get("application_clock", integer),
        application_clock_sm_default_mhz=get("application_clock_default", integer),
        performance_state=get("performance_state", integer),
        utilization_percent=get("utilization", integer),
        clocks_event_reasons=get("event_reasons", integer),
        hardware_thermal_slowdown_ns=number(queries.HARDWARE_THERMAL, integer),
        power_brake_slowdown_ns=number(queries.POWER_BRAKE, integer),
        software_thermal_slowdown_ns=number(queries.SOFTWARE_THERMAL, integer),
        ecc_is_on=get("ecc_mode", lambda v: bool(v[0])),
        ecc_is_on_after_reboot=get("ecc_mode", lambda v: bool(v[1])),
        ecc_default=get("ecc_default", lambda v: bool(v[0])),
        corrected_ecc_volatile=get("corrected_volatile", integer),
        uncorrected_ecc_volatile=get("uncorrected_volatile", integer),
        corrected_ecc_aggregate=get("corrected_aggregate", integer),
        uncorrected_ecc_aggregate=get("uncorrected_aggregate", integer),
        sram_threshold_exceeded=get("sram", lambda v: bool(v[1])),
        sram_uncorrected_aggregate=get("sram", lambda v: integer(v[0])),
        remapped_rows=get("remapped_rows", _remapped_rows),
        remap_histogram=get("remap_histogram", _histogram),
        retired_pages=get("retired_pages", _retired_pages),
        recovery_action=number(queries.RECOVERY_ACTION, integer),
        has_unrepairable_memory=get("unrepairable", lambda v: bool(v[0])),
        repair_is_pending=get("repair", any),
        pcie_generation=get("pcie_generation", integer),
        pcie_generation_max=get("pcie_generation_max", integer),
        pcie_width=get("pcie_width", integer),
        pcie_width_max=get("pcie_width_max", integer),
        pcie_replays=get("pcie_replays", integer),
        nvlinks=nvlinks(answers),
        fabric=get("fabric", _fabric),
        c2c_is_on=get("c2c", bool),
        persistence=get("persistence", bool),
        display_active=get("display_active", bool),
        virtualization=get("virtualization", lambda v: VIRTUALIZATION[v]),
        vgpu_license=get("license", _license),
        compute_mode=get("compute_mode", integer),
        mig_is_on=get("mig_mode", lambda v: bool(v[0])),
        mig_is_on_after_reset=get("mig_mode", lambda v: bool(v[1])),
        mig_devices=get("mig_devices", lambda v: tuple(map(text, v))),
        numa_node=get("numa_node", integer),
        cpu_affinity=get("cpu_affinity", ranges),
        numa_affinity=get("memory_affinity", ranges),
    )


def inforom_is_valid(answers: Answers) -> Reading[bool]:
    """Return whether the InfoROM passed NVML's check."""
    if answers.error_code("inforom_check") == CORRUPTED_INFOROM:
        return False
    return answers.get("inforom_check", lambda _: True)


def _license(value: list[Any]) -> VgpuLicense:
    is_needed, features = value
    licensed = [name for is_licensed, is_enabled, name in features if is_licensed and is_enabled]
    names = licensed or [name for _, _, name in features]
    return VgpuLicense(
        is_needed=bool(is_needed) and bool(features),
        is_licensed=bool(licensed),
        product=next((str(name).strip() for name in names if str(name).strip()), ""),
    )


def _one_reading(thresholds: ThermalThresholds) -> Reading[ThermalThresholds]:
    """Take together what is the same for all four thresholds."""
    readings = set(msgspec.structs.astuple(thresholds))
    [first, *others] = readings
    return first if not others and isinstance(first, Unknown | NotSupported) else thresholds


def _memory(value: list[int]) -> Memory:
    total, used, free, reserved = value
    return Memory(
        total_bytes=integer(total),
        used_bytes=integer(used),
        free_bytes=integer(free),
        # the older query counts what the driver keeps for itself as used
        reserved_bytes=NOT_SUPPORTED if reserved is None else integer(reserved),
    )


def _remapped_rows(value: list[int]) -> RemappedRows:
    correctable, uncorrectable, pending, failed = value
    return RemappedRows(
        correctable=integer(correctable),
        uncorrectable=integer(uncorrectable),
        is_pending=bool(pending),
        has_failed=bool(failed),
    )


def _histogram(value: list[int]) -> RemapHistogram:
    maximum, high, partial, low, none = map(integer, value)
    return RemapHistogram(maximum=maximum, high=high, partial=partial, low=low, none=none)


def _retired_pages(value: list[int]) -> RetiredPages:
    single_bit, double_bit, pending = value
    return RetiredPages(
        single_bit=integer(single_bit), double_bit=integer(double_bit), is_pending=bool(pending)
    )


def _fabric(value: list[int | None]) -> Fabric:
    state, status, health, summary = value
    return Fabric(
        state=integer(state or 0),
        status=integer(status or 0),
        health=NOT_SUPPORTED if health is None else integer(health),
        health_summary=NOT_SUPPORTED if summary is None else integer(summary),
    )


def sample_facts(
    answers: Answers, root: Path, *, after_seconds: float, under_load: bool
) -> GpuSample:
    """Return what one GPU answered in a later sample."""

    def number(which: int) -> Reading[int]:
        return answers.field(which, queries.LATER_FIELDS, integer)

    def links(*positions: int) -> Reading[int]:
        return answers.get(
            "nvlink_errors",
            lambda value: integer(sum(one[n] for one in value for n in positions)),
        )

    return GpuSample(
        after_seconds=round(after_seconds, 3),
        under_load=under_load,
        clocks_event_reasons=answers.get("event_reasons", integer),
        corrected_ecc_volatile=answers.get("corrected_volatile", integer),
        pcie_replays=answers.get("pcie_replays", integer),
        pcie_generation=answers.get("pcie_generation", integer),
        performance_state=answers.get("performance_state", integer),
        clock_sm_mhz=answers.get("clock_sm", integer),
        utilization_percent=answers.get("utilization", integer),
        hardware_thermal_slowdown_ns=number(queries.HARDWARE_THERMAL),
        power_brake_slowdown_ns=number(queries.POWER_BRAKE),
        software_thermal_slowdown_ns=number(queries.SOFTWARE_THERMAL),
        nvlink_replay_errors=links(1),
        nvlink_recovery_errors=links(2),
        nvlink_crc_errors=links(3, 4),
        memory=answers.get("memory", _memory),
        processes=gpu_processes(answers, root),
    )
