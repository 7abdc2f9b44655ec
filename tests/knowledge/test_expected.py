"""What healthy GPUs reach, and what bounds a model that nobody has measured."""

import re

import pytest

from gpucheck.knowledge import expected


def test_every_row_compiles_has_sources_and_orders_its_range():
    table = expected.table()

    assert len(table.gpus) > 20
    for row in table.gpus:
        re.compile(row.pattern)
        for key, usual in row.reached.items():
            assert usual.low <= usual.typical <= usual.high, (row.name, key)
            assert usual.source, (row.name, key)
            assert set(usual.source) <= set(table.sources), (row.name, key)
            assert usual.by or not usual.is_measured, (row.name, key)


@pytest.mark.parametrize(
    "name", ["NVIDIA H200", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla T4"]
)
def test_a_known_model_has_expectations_by_nvmls_name(name: str):
    assert "hbm_copy_gbs" in expected.reached(name)


@pytest.mark.parametrize("name", ["", "NVIDIA H2000", "NVIDIA X1000", "NVIDIA H200 MIG 1g.18gb"])
def test_a_model_that_nobody_measured_has_none(name: str):
    assert expected.reached(name) == {}


@pytest.mark.parametrize(
    ("bits", "clock", "published"),
    [(6016, 3201, 4800), (5120, 2619, 3350), (5120, 1593, 2039), (256, 5001, 320)],
)
def test_memory_is_bounded_by_its_bus_and_clock(bits: int, clock: int, published: float):
    """H200, H100 SXM, A100 80GB, T4: NVIDIA's data sheets."""
    assert expected.memory_bound(bits, clock) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("model", "capability", "units", "clock", "published"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0", 132, 1830, 989),
        ("NVIDIA A100-SXM4-80GB", "8.0", 108, 1410, 312),
        ("NVIDIA L4", "8.9", 58, 2040, 121),
        ("NVIDIA GeForce RTX 4090", "8.9", 128, 2520, 165.2),
        ("Tesla V100-SXM2-16GB", "7.0", 80, 1530, 125),
    ],
)
def test_products_are_bounded_by_the_clock_that_was_seen(
    model: str, capability: str, units: int, clock: float, published: float
):
    bound = expected.product_bound(model, capability, "fp16", units, clock)

    assert bound == pytest.approx(published, rel=0.01)


def test_what_is_not_known_has_no_bound():
    assert expected.product_bound("NVIDIA X", "99.0", "bf16", 100, 1000) is None
    assert expected.product_bound("NVIDIA H200", "9.0", "fp8", 132, 1000) is None
    assert expected.pcie_bound(9, 16) is None
    assert expected.nvlink_bound(18, "12.0") is None


def test_links_are_bounded_by_their_lanes():
    assert expected.pcie_bound(4, 16) == pytest.approx(31.5, rel=0.01)
    assert expected.pcie_bound(5, 8) == pytest.approx(31.5, rel=0.01)
    assert expected.nvlink_bound(18, "9.0") == 450
