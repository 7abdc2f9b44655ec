"""Rules about a GPU's memory: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import assert_fires, assert_not_here, assert_quiet, assert_unknown, later, one
from gpucheck.rule import Rule
from gpucheck.rules import gpu_memory as rules
from gpucheck.snapshot import NOT_SUPPORTED, RemapHistogram, RemappedRows, RetiredPages, Unknown
from machines import symptoms

FIRES = [
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": 3}, "error", "3 uncorrected"),
    (
        rules.repair_pending,
        {
            "remapped_rows": RemappedRows(
                correctable=0, uncorrectable=1, is_pending=True, has_failed=False
            )
        },
        "warning",
        "a row remap is pending (1 row remapped so far",
    ),
    (
        rules.remap_failed,
        {
            "remapped_rows": RemappedRows(
                correctable=0, uncorrectable=8, is_pending=False, has_failed=True
            )
        },
        "error",
        "a row remap failed",
    ),
    (
        rules.spare_rows_low,
        {"remap_histogram": RemapHistogram(maximum=3070, high=0, partial=0, low=1, none=1)},
        "warning",
        "memory banks without spare rows: 1; with few: 1",
    ),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=2, double_bit=1, is_pending=True)},
        "warning",
        "pending",
    ),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=40, double_bit=20, is_pending=False)},
        "error",
        "60 retired pages",
    ),
    (
        rules.ecc_off,
        {"ecc_is_on": False, "ecc_is_on_after_reboot": False},
        "warning",
        "ships with it on",
    ),
    (rules.ecc_off, {"ecc_is_on_after_reboot": False}, "warning", "off after the next reboot"),
    (rules.corrected_ecc, {"corrected_ecc_volatile": 10_001}, "warning", "10,001 corrected"),
    (
        rules.corrected_ecc,
        {
            "corrected_ecc_volatile": 5,
            "later_sample": later(corrected_ecc_volatile=9, after_seconds=2.0),
        },
        "warning",
        "2.0 a second",
    ),
    (rules.sram_threshold, {"sram_threshold_exceeded": True}, "error", "SRAM"),
    (rules.inforom_corrupt, {"inforom_is_valid": False}, "warning", "InfoROM"),
    (rules.unrepairable_memory, {"has_unrepairable_memory": True}, "error", "unrepairable"),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_sick_gpu_is_found_and_the_other_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": 0, "uncorrected_ecc_aggregate": 9}),
    (
        rules.pages_retired,
        {"retired_pages": RetiredPages(single_bit=9, double_bit=1, is_pending=False)},
    ),
    (
        rules.ecc_off,
        {"ecc_is_on": False, "ecc_is_on_after_reboot": False, "ecc_default": False},
    ),
    (
        rules.corrected_ecc,
        {"corrected_ecc_volatile": 9000, "later_sample": later(corrected_ecc_volatile=9001)},
    ),
    (rules.corrected_ecc, {"later_sample": later(corrected_ecc_volatile=2, after_seconds=0.2)}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


NOT_HERE = [
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": NOT_SUPPORTED}),
    (rules.repair_pending, {"remapped_rows": NOT_SUPPORTED}),
    (rules.pages_retired, {"retired_pages": NOT_SUPPORTED}),
    (rules.ecc_off, {"ecc_is_on": NOT_SUPPORTED}),
]


@pytest.mark.parametrize(("rule", "changes"), NOT_HERE)
def test_a_feature_that_the_gpu_lacks_is_neither_a_pass_nor_a_fault(
    rule: Rule, changes: dict[str, Any]
):
    assert_not_here(rule, changes)


UNKNOWN = [
    (rules.uncorrected_ecc, {"uncorrected_ecc_volatile": Unknown("no answer")}, "no answer"),
    (rules.corrected_ecc, {"corrected_ecc_volatile": 5}, "two readings"),
    (
        rules.ecc_off,
        {
            "name": "NVIDIA Z900",
            "ecc_is_on": False,
            "ecc_is_on_after_reboot": False,
            "ecc_default": Unknown("old driver"),
        },
        "default ECC mode is not known",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


def test_a_model_that_ships_with_ecc_on_is_known_where_an_old_driver_does_not_say():
    snapshot = one(ecc_is_on=False, ecc_is_on_after_reboot=False, ecc_default=Unknown("old"))

    [symptom] = symptoms(rules.ecc_off, snapshot)

    assert [step.text for step in symptom.remedy.steps] == [
        "nvidia-smi -i 1 -e 1",
        "nvidia-smi --gpu-reset -i 1",
    ]


def test_a_pending_switch_off_of_ecc_is_taken_back_and_never_completed():
    [symptom] = symptoms(rules.ecc_off, one(ecc_is_on_after_reboot=False))

    assert [step.text for step in symptom.remedy.steps] == ["nvidia-smi -i 1 -e 1"]


def test_a_pending_switch_on_of_ecc_is_completed():
    [symptom] = symptoms(rules.ecc_off, one(ecc_is_on=False))

    assert [step.text for step in symptom.remedy.steps] == ["nvidia-smi --gpu-reset -i 1"]


def test_a_repair_of_a_channel_waits_for_a_reset_like_a_row_remap():
    assert_fires(
        rules.repair_pending, {"repair_is_pending": True}, "warning", "memory channel or TPC"
    )
    assert_quiet(rules.repair_pending, {"repair_is_pending": NOT_SUPPORTED})
