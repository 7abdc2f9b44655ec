"""The table of drivers and CUDA releases, and the questions that rules ask it."""

from typing import Any

import pytest

from gpucheck.knowledge import driver_cuda
from gpucheck.versions import version_tuple

TABLE = driver_cuda.table()
ROWS: tuple[Any, ...] = (*TABLE.minor_floor, *TABLE.release, *TABLE.branch, *TABLE.capability)


def test_every_row_names_a_source_that_is_explained():
    assert all(row.source and set(row.source) <= set(TABLE.sources) for row in ROWS)


def test_every_source_is_used():
    assert {source for row in ROWS for source in row.source} == set(TABLE.sources)


def test_no_key_stands_twice():
    for keys in (
        [row.cuda for row in TABLE.release],
        [row.branch for row in TABLE.branch],
        [row.compute_capability for row in TABLE.capability],
        [row.cuda_major for row in TABLE.minor_floor],
    ):
        assert len(keys) == len(set(keys))


def test_releases_and_branches_and_their_partners_are_in_order():
    releases = [version_tuple(row.cuda) for row in TABLE.release]
    drivers = [version_tuple(row.driver) for row in TABLE.release]
    branches = [row.branch for row in TABLE.branch]
    newest = [version_tuple(row.newest_cuda) for row in TABLE.branch]

    assert releases == sorted(releases)
    assert drivers == sorted(drivers)
    assert branches == sorted(branches)
    assert newest == sorted(newest)


def test_a_window_does_not_end_before_it_starts():
    for row in TABLE.capability:
        assert row.last_cuda is None or version_tuple(row.first_cuda) <= version_tuple(
            row.last_cuda
        )
        assert row.last_branch is None or (row.first_branch or 0) <= row.last_branch


def test_a_driver_paired_with_a_toolkit_belongs_to_a_branch_that_knows_that_cuda():
    for row in TABLE.release:
        newest = driver_cuda.newest_cuda_of(row.driver)

        assert newest is not None
        assert version_tuple(newest) >= version_tuple(row.cuda)[:2]


@pytest.mark.parametrize(
    ("driver", "cuda", "runs"),
    [
        ("580.159.04", "13.0", True),
        ("580.159.04", "13.5", True),  # minor-version compatibility
        ("580.159.04", "12.4", True),  # an older major
        ("580.159.04", "10.2", True),
        ("580.65.06", "13.0", True),
        ("570.124.06", "13.0", False),
        ("570.86.10", "12.9", True),
        ("525.60.13", "12.9", True),
        ("525.60.11", "12.9", False),
        ("450.80.02", "11.8", True),
        ("440.33.01", "11.0", False),
        ("440.33.01", "10.2", True),
        ("617.14", "13.5", True),  # a branch that the table does not know
        ("617.14", "14.0", None),  # a major that it does not know
        ("no driver", "13.0", None),
        ("580.159.04", "?", None),
    ],
)
def test_minor_version_compatibility_decides(driver, cuda, runs):
    assert driver_cuda.driver_runs(driver, cuda) is runs


def test_the_driver_paired_with_a_minor_version_is_that_of_its_first_release():
    assert driver_cuda.driver_paired_with("13.0") == "580.65.06"
    assert driver_cuda.driver_paired_with("13.0.2") == "580.95.05"
    assert driver_cuda.driver_paired_with("13.9") is None
    assert driver_cuda.driver_paired_with("") is None


@pytest.mark.parametrize(
    ("capability", "first", "last"),
    [("9.0", 520, None), ("12.0", 570, None), ("7.0", 384, 580), ("3.7", 340, 470)],
)
def test_branches_that_drive_a_gpu(capability, first, last):
    assert driver_cuda.minimum_branch_for(capability) == first
    assert driver_cuda.last_branch_for(capability) == last


def test_a_gpu_that_the_table_does_not_know_gives_none():
    assert driver_cuda.minimum_branch_for("99.0") is None
    assert driver_cuda.last_branch_for("99.0") is None
    assert driver_cuda.cuda_window_for("99.0") is None


def test_a_toolkit_compiles_what_its_own_nvcc_lists():
    # nvcc 13.0.88 --list-gpu-code
    listed = {75, 80, 86, 87, 88, 89, 90, 100, 110, 103, 120, 121}

    found = driver_cuda.architectures_of_toolkit("13.0")

    assert found is not None
    assert set(found) == {f"sm_{number}" for number in listed}


@pytest.mark.parametrize("cuda", ["10.2", "99.0", "nonsense"])
def test_the_architectures_of_an_unknown_toolkit_are_not_guessed(cuda):
    assert driver_cuda.architectures_of_toolkit(cuda) is None


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("NVIDIA H200", True),
        ("NVIDIA A100-SXM4-80GB", True),
        ("Tesla T4", True),
        ("NVIDIA L40S", True),
        ("NVIDIA GeForce RTX 4090", False),
        ("NVIDIA TITAN V", False),
        ("NVIDIA RTX A6000", None),
        ("NVIDIA T1000", None),
        ("", None),
    ],
)
def test_forward_compatibility_is_for_data_centre_gpus(name, allowed):
    assert driver_cuda.allows_forward_compatibility(name) is allowed
