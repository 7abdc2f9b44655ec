"""The tables about GPUs, Xids and clocks: complete, sourced, and asked rightly."""

from typing import Any

import pytest

from gpucheck.knowledge import clocks_event_reasons, gpus, xid

TABLES: dict[str, tuple[Any, Any]] = {
    "gpus": (gpus.table().sources, gpus.table().gpus),
    "xids": (xid.table().sources, xid.table().xids),
    "recovery actions": (xid.table().sources, xid.table().recovery_actions),
    "reasons": (clocks_event_reasons.table().sources, clocks_event_reasons.table().reasons),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_names_sources_that_are_listed(name: str):
    sources, rows = TABLES[name]

    for row in rows:
        assert row.source
        assert set(row.source) <= set(sources)
        assert row.confidence in {"high", "medium", "low"}


def test_no_name_number_value_or_bit_stands_twice():
    for keys in (
        [name for model in gpus.table().gpus for name in model.names],
        [row.number for row in xid.table().xids],
        [row.value for row in xid.table().recovery_actions],
        [row.bit for row in clocks_event_reasons.table().reasons],
    ):
        assert len(keys) == len(set(keys))


def test_figures_are_plausible():
    for model in gpus.table().gpus:
        major, minor = model.compute_capability.split(".")
        assert 7 <= int(major) <= 12
        assert 0 <= int(minor) <= 9
        assert model.pcie_width in (None, 4, 8, 16)
        assert model.pcie_generation in (None, 3, 4, 5, 6)
        assert 0 <= model.nvlinks <= 18
        assert model.nvlinks or not model.nvlinks_are_wired
    for reason in clocks_event_reasons.table().reasons:
        assert reason.bit.bit_count() == 1


def test_every_xid_has_an_action_that_we_can_put_into_words():
    for row in xid.table().xids:
        assert row.action in xid.ACTIONS
        assert row.causes
        assert set(row.causes) <= set(xid.CAUSES)
        assert row.follow_up in {"", *xid.FOLLOW_UPS}
        assert row.severity in {"info", "warning", "critical", "follow"}


@pytest.mark.parametrize(
    "name", ["NVIDIA H200", "H200", " NVIDIA H200 ", "NVIDIA H200 MIG 1g.18gb"]
)
def test_a_model_is_found_by_the_names_that_drivers_give_it(name: str):
    model = gpus.find(name)

    assert model is not None
    assert model.compute_capability == "9.0"


@pytest.mark.parametrize("name", ["NVIDIA A10-24Q", "NVIDIA Z900", "", "NVIDIA H200X"])
def test_a_name_that_only_begins_like_a_model_is_not_found(name: str):
    assert gpus.find(name) is None


def test_a_mask_gives_all_its_names_and_unknown_bits_in_hex():
    assert clocks_event_reasons.names(0x8 | 0x40 | 0x1) == (
        "Idle",
        "HW Slowdown",
        "HW Thermal Slowdown",
    )
    assert clocks_event_reasons.names(0x8 | 1 << 40) == ("HW Slowdown", hex(1 << 40))
    assert clocks_event_reasons.names(0) == ()
