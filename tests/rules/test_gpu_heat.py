"""Rules about heat, power and clocks: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import (
    BARE,
    assert_fires,
    assert_not_here,
    assert_quiet,
    assert_unknown,
    later,
    one,
    with_gpus,
)
from gpucheck.rule import Rule, Severity
from gpucheck.rules import gpu_heat as rules
from gpucheck.snapshot import NOT_SUPPORTED, ThermalThresholds
from machines import gpu, symptoms

#: what some drivers answer for thresholds that the board has not
ZEROS = ThermalThresholds(
    shutdown_celsius=0, slowdown_celsius=0, gpu_max_celsius=0, memory_max_celsius=0
)


FIRES = [
    (rules.slowed_down, {"clocks_event_reasons": 0x48}, "error", "HW Thermal Slowdown at 37 °C"),
    (rules.slowed_down, {"clocks_event_reasons": 0x84}, "error", "HW Power Brake Slowdown"),
    (rules.slowed_down, {"clocks_event_reasons": 0x20}, "warning", "SW Thermal Slowdown"),
    (
        rules.slowed_down,
        {"clocks_event_reasons": 0x8, "later_sample": later(clocks_event_reasons=0x9)},
        "error",
        "HW Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": later(clocks_event_reasons=0x40 | 0x4)},
        "error",
        "HW Thermal Slowdown",
    ),
    (
        rules.slowed_down,
        {
            "hardware_thermal_slowdown_ns": 5,
            "later_sample": later(hardware_thermal_slowdown_ns=20_000_005),
        },
        "error",
        "HW Thermal Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": later(power_brake_slowdown_ns=20_000_000)},
        "error",
        "HW Power Brake Slowdown",
    ),
    (
        rules.slowed_down,
        {"later_sample": later(software_thermal_slowdown_ns=20_000_000)},
        "warning",
        "SW Thermal Slowdown",
    ),
    (
        rules.too_hot,
        {"temperature_celsius": 89},
        "error",
        "89 °C; it slows down at 89 °C and shuts down at 95 °C",
    ),
    (
        rules.too_hot,
        {"temperature_celsius": 82},
        "warning",
        "operating temperature is 87 °C",
    ),
    (rules.too_hot, {"memory_temperature_celsius": 90}, "warning", "its memory is at 90 °C"),
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": -2},
        "error",
        "at its slowdown threshold",
    ),
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": 5},
        "warning",
        "37 °C; its highest operating temperature is 42 °C",
    ),
    (
        rules.too_hot,
        {"thresholds": ZEROS, "temperature_margin_celsius": 0},
        "warning",
        "its highest operating temperature is 37 °C",
    ),
    (
        rules.power_limited,
        {"power_limit_enforced_watts": 500.0},
        "warning",
        "limited to 500 W; the default is 700 W",
    ),
    (rules.clocks_held, {"application_clock_sm_mhz": 1200}, "warning", "1200 MHz"),
    (
        rules.clocks_held,
        {
            "later_sample": later(under_load=True, clock_sm_mhz=1005, clocks_event_reasons=0),
        },
        "warning",
        "1005 MHz under load",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_sick_gpu_is_found_and_the_other_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.slowed_down, {"clocks_event_reasons": 0x1}),
    (
        rules.slowed_down,
        {
            "hardware_thermal_slowdown_ns": 9_000_000_000,
            "later_sample": later(hardware_thermal_slowdown_ns=9_001_000_000),
        },
    ),
    (rules.slowed_down, {"clocks_event_reasons": 0x2 | 0x4 | 0x10 | 0x100}),
    (rules.slowed_down, {"clocks_event_reasons": 0x8, "later_sample": later()}),
    (rules.too_hot, {"temperature_celsius": 81}),
    (rules.too_hot, {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": 6}),
    (rules.too_hot, {"thresholds": ZEROS, "temperature_celsius": 60}),
    (rules.power_limited, {"power_limit_enforced_watts": 750.0}),
    (rules.clocks_held, {"clock_sm_mhz": 210, "later_sample": later(under_load=True)}),
    (
        rules.clocks_held,
        {"later_sample": later(under_load=True, clock_sm_mhz=1200, clocks_event_reasons=0x4)},
    ),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


NOT_HERE = [
    (
        rules.too_hot,
        {"thresholds": NOT_SUPPORTED, "temperature_margin_celsius": NOT_SUPPORTED},
    ),
    (
        rules.too_hot,
        {
            "thresholds": ThermalThresholds(
                shutdown_celsius=NOT_SUPPORTED,
                slowdown_celsius=NOT_SUPPORTED,
                gpu_max_celsius=NOT_SUPPORTED,
                memory_max_celsius=NOT_SUPPORTED,
            ),
            "temperature_margin_celsius": NOT_SUPPORTED,
        },
    ),
]


@pytest.mark.parametrize(("rule", "changes"), NOT_HERE)
def test_a_feature_that_the_gpu_lacks_is_neither_a_pass_nor_a_fault(
    rule: Rule, changes: dict[str, Any]
):
    assert_not_here(rule, changes)


UNKNOWN = [
    (rules.slowed_down, {"clocks_event_reasons": 0x8}, "two readings"),
    (rules.clocks_held, {}, "--deep"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


@pytest.mark.parametrize(
    ("name", "clock", "is_found"),
    [
        ("NVIDIA GeForce RTX 4090", 2700, False),
        ("NVIDIA GeForce RTX 4090", 1500, True),
        ("NVIDIA H200", 2700, True),
    ],
)
def test_a_board_whose_voltage_ends_its_boost_is_not_held_down(name, clock, is_found):
    snapshot = one(
        name=name,
        clock_sm_max_mhz=3105,
        application_clock_sm_mhz=NOT_SUPPORTED,
        later_sample=later(under_load=True, clock_sm_mhz=clock, clocks_event_reasons=0),
    )

    assert bool(symptoms(rules.clocks_held, snapshot)) is is_found


def test_a_desktop_board_of_low_power_is_no_laptop():
    board = gpu(
        0,
        name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        power_limit_enforced_watts=200.0,
    )

    [symptom] = symptoms(rules.power_limited, with_gpus(board))

    assert symptom.severity is None


def test_the_power_limit_of_a_laptop_comes_and_goes():
    laptop = gpu(0, name="NVIDIA GeForce RTX 4070 Laptop GPU", power_limit_enforced_watts=45.0)

    [symptom] = symptoms(rules.power_limited, with_gpus(laptop))

    assert symptom.severity is Severity.INFO


#: An MX330 of a laptop, as a user reported it: held to 57 °C by the firmware.
MX330 = {
    "name": "NVIDIA GeForce MX330",
    "temperature_celsius": 56,
    "memory_temperature_celsius": NOT_SUPPORTED,
    "thresholds": ThermalThresholds(
        shutdown_celsius=102,
        slowdown_celsius=97,
        gpu_max_celsius=57,
        memory_max_celsius=NOT_SUPPORTED,
    ),
}


def test_a_target_that_the_platform_lowered_is_noted_and_no_filter_is_dirty():
    snapshot = one(**MX330, clocks_event_reasons=0x20)

    [hot] = symptoms(rules.too_hot, snapshot)
    [slow] = symptoms(rules.slowed_down, snapshot)

    assert (hot.severity, slow.severity) == (Severity.INFO, Severity.INFO)
    assert "holds this GPU to 57 °C" in hot.saw
    assert "filters" not in hot.remedy.text + slow.remedy.text


def test_a_gpu_at_a_usual_target_is_not_one_that_the_platform_lowered():
    [symptom] = symptoms(rules.too_hot, one(temperature_celsius=85))

    assert symptom.severity is Severity.WARNING


def test_a_hot_gpu_names_its_fan():
    [symptom] = symptoms(rules.too_hot, one(temperature_celsius=90, fan_percent=30))

    assert symptom.saw.endswith("; fan at 30 %")


def test_nobody_in_a_virtual_machine_or_with_a_laptop_checks_power_cables():
    def advice(**host: Any) -> str:
        sick = gpu(0, clocks_event_reasons=0x80)
        [symptom] = symptoms(rules.slowed_down, with_gpus(sick, host={**BARE, **host}))
        return symptom.remedy.text

    assert "cables" in advice()
    assert "cables" not in advice(hypervisor="kvm")
    assert "cables" not in advice(is_laptop=True)
