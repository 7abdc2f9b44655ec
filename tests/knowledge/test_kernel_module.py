import pytest

from gpucheck.knowledge import driver_cuda
from gpucheck.knowledge.kernel_module import family_of, table


def test_ranges_rise_and_do_not_overlap():
    ends = [int(end, 16) for row in table().families for end in (row.first_id, row.last_id)]

    assert ends == sorted(ends)
    assert len(ends) == len(set(ends))


def test_every_row_names_a_source_that_is_listed():
    assert all(row.source for row in table().families)
    assert {s for row in table().families for s in row.source} == set(table().sources)


def test_every_family_s_first_driver_branch_is_known():
    for row in table().families:
        assert driver_cuda.minimum_branch_for(row.compute_capability) is not None


@pytest.mark.parametrize(
    ("device_id", "architecture", "module"),
    [
        ("0x2335", "Hopper", "either"),  # H200
        ("0x2342", "Grace Hopper", "open"),  # GH200
        ("0x2901", "Blackwell", "open"),  # B200
        ("0x2b85", "Blackwell", "open"),  # GeForce RTX 5090
        ("0x20b2", "Ampere", "either"),  # A100
        ("0x1db6", "Volta", "closed"),  # V100
        ("0x1d01", "Pascal", "closed"),  # GeForce GT 1030
        ("0x1eb8", "Turing", "either"),  # T4
        ("0x102d", "Kepler", "closed"),  # K80
    ],
)
def test_known_boards_are_of_their_family(device_id: str, architecture: str, module: str):
    family = family_of(device_id)

    assert family is not None
    assert (family.architecture, family.module) == (architecture, module)


@pytest.mark.parametrize("device_id", ["0x9999", "", "H200", "0x"])
def test_an_id_that_nobody_knows_is_none(device_id: str):
    assert family_of(device_id) is None
