"""The table of cuDNN versions, parts and GPUs, and the questions that rules ask it."""

from typing import Any

import pytest

from gpucheck.knowledge import cudnn
from gpucheck.versions import version_tuple

TABLE = cudnn.table()
ROWS: tuple[Any, ...] = (*TABLE.encoding, *TABLE.support, *TABLE.part)


def test_every_row_names_a_source_that_is_explained():
    assert all(row.source and set(row.source) <= set(TABLE.sources) for row in ROWS)


def test_every_source_is_used():
    assert {source for row in ROWS for source in row.source} == set(TABLE.sources)


def test_no_key_stands_twice():
    for keys in (
        [row.major for row in TABLE.encoding],
        [(row.first, row.cuda_major) for row in TABLE.support],
        [row.stem for row in TABLE.part],
    ):
        assert len(keys) == len(set(keys))


def test_spans_of_one_cuda_are_in_order_and_do_not_overlap():
    for major in {row.cuda_major for row in TABLE.support}:
        ends = [
            version_tuple(end)
            for row in TABLE.support
            if row.cuda_major == major
            for end in (row.first, row.last)
        ]

        assert ends == sorted(ends)
        assert len(ends) == len(set(ends))


def test_capabilities_are_plausible():
    for row in TABLE.support:
        assert (3, 0) <= version_tuple(row.oldest_capability) <= (9, 0)
        if row.newest_capability is not None:
            assert (
                version_tuple(row.oldest_capability)
                < version_tuple(row.newest_capability)
                <= (13, 0)
            )


@pytest.mark.parametrize("row", TABLE.encoding, ids=lambda row: row.example_version)
def test_numbers_decode_to_the_version_of_the_example(row: cudnn.Encoding):
    major, minor, patch = version_tuple(row.example_version)

    assert major * row.thousands + minor * 100 + patch == row.example_number
    assert cudnn.version_of(row.example_number) == row.example_version


@pytest.mark.parametrize("number", [0, -1, 999])
def test_a_number_that_is_no_version_decodes_to_nothing(number: int):
    assert cudnn.version_of(number) is None


def test_parts_follow_the_version():
    assert {part.stem for part in cudnn.parts_of("8.9.7")} == {
        f"libcudnn_{name}_{way}" for name in ("ops", "cnn", "adv") for way in ("infer", "train")
    }
    assert len(cudnn.parts_of("9.19.0")) == 7
    assert len(cudnn.parts_of("9.26.0")) == 9
    assert cudnn.parts_of("7.6.5") == ()


def test_a_part_that_came_later_is_tried_before_it_is_sure():
    [late] = [part for part in cudnn.parts_of("9.20.0") if "tensor_ir" in part.stem]

    assert not cudnn.is_sure(late, "9.20.0")
    assert cudnn.is_sure(late, "9.26.0")


@pytest.mark.parametrize(
    ("version", "cuda_major", "expected"),
    [
        ("9.10.2", 12, ("5.0", "12.0")),
        ("9.10.2", 11, ("5.0", "9.0")),
        ("9.10.2", None, ("5.0", "12.0")),
        ("9.11", 12, ("7.5", None)),
        ("9.19.0.56", 13, ("7.5", None)),
        ("9.5.1", 12, ("5.0", "9.0")),
        ("9.19.0", 11, None),
        ("9.99.0", 13, None),
        ("9", 13, None),
        ("", None, None),
    ],
)
def test_capabilities_of_a_version(version: str, cuda_major: int | None, expected: object):
    assert cudnn.capabilities_of(version, cuda_major) == expected
