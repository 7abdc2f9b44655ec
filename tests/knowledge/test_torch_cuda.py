"""The table of torch builds, and the questions that rules ask it."""

from typing import Any

import pytest

from gpucheck.knowledge import driver_cuda, torch_cuda
from gpucheck.versions import version_tuple

TABLE = torch_cuda.table()
ROWS: tuple[Any, ...] = (*TABLE.release, *TABLE.variant, *TABLE.strict_minor)


def test_every_row_names_a_source_that_is_explained_and_every_source_is_used():
    assert all(row.source for row in ROWS)
    assert {source for row in ROWS for source in row.source} == set(TABLE.sources)


def test_no_release_and_no_variant_stands_twice_and_all_are_in_order():
    releases = [version_tuple(row.torch) for row in TABLE.release]
    variants = [(version_tuple(row.torch), version_tuple(row.cuda)) for row in TABLE.variant]

    assert releases == sorted(set(releases))
    assert variants == sorted(set(variants))


def test_the_name_of_a_variant_says_its_cuda():
    for row in TABLE.variant:
        assert torch_cuda.cuda_of_variant(row.variant) == row.cuda
        assert row.index_url == f"https://download.pytorch.org/whl/{row.variant}"


@pytest.mark.parametrize("name", ["cpu", "rocm6.4", "", "cu", "cu1", "cuda", "cu13x"])
def test_other_names_are_no_cuda_variant(name):
    assert torch_cuda.cuda_of_variant(name) is None


def test_every_default_build_is_a_known_variant():
    for row in TABLE.release:
        cuda = torch_cuda.cuda_of_variant(row.default_variant)

        assert cuda is not None
        assert torch_cuda.variant_of(row.torch, cuda) is not None


def test_a_toolkit_could_compile_every_architecture_of_its_builds():
    for row in TABLE.variant:
        known = driver_cuda.architectures_of_toolkit(row.cuda)

        assert known is not None
        assert {a.replace("compute_", "sm_") for a in row.architectures} <= set(known)


def test_a_version_with_a_local_part_finds_its_release():
    release = torch_cuda.release_of("2.11.0+cu130")

    assert release is not None
    assert release.torchvision == "0.26.0"
    assert torch_cuda.release_of("2.16.0.dev20270101") is None


def test_partners_lead_back_to_their_torch():
    with_vision = torch_cuda.release_with_torchvision("0.26.0+cu130")
    with_audio = torch_cuda.release_with_torchaudio("2.0.2")

    assert with_vision is not None
    assert with_vision.torch == "2.11.0"
    assert with_audio is not None
    assert with_audio.torch == "2.0.1"


def test_a_torchvision_that_allows_later_releases_leads_to_none():
    assert torch_cuda.release_with_torchvision("0.29.2") is None


@pytest.mark.parametrize(
    ("architectures", "capability", "fits"),
    [
        (("sm_80",), "8.0", True),
        (("sm_80",), "8.6", True),  # same major, lower minor
        (("sm_86",), "8.0", False),
        (("sm_90",), "10.0", False),  # never another major
        (("sm_100",), "12.0", False),
        (("sm_100",), "10.3", True),
        (("compute_90",), "10.0", True),  # PTX is compiled by the driver
        (("compute_100",), "9.0", False),
        (("sm_90a",), "9.0", True),
        (("sm_100a",), "10.3", False),
        (("sm_100f",), "10.3", True),
        (("compute_100f",), "12.0", False),
        (("compute_90a",), "10.0", False),
        (("nonsense",), "9.0", False),
        ((), "9.0", False),
    ],
)
def test_kernels_fit_a_gpu_by_the_rules_of_binary_compatibility(architectures, capability, fits):
    assert torch_cuda.has_kernels(architectures, capability) is fits
