"""The table of what packages open by name, and the questions that probes and rules ask it."""

import re
from typing import Any

import pytest

from gpucheck.knowledge import packages
from gpucheck.versions import version_tuple

TABLE = packages.table()
ROWS: tuple[Any, ...] = (
    *TABLE.sonames,
    *TABLE.opens,
    *TABLE.on_torch_index,
    *TABLE.optional_files,
    *TABLE.one_of,
)


def test_every_row_names_a_source_that_is_explained():
    assert all(row.source and set(row.source) <= set(TABLE.sources) for row in ROWS)


def test_every_source_is_used():
    assert {source for row in ROWS for source in row.source} == set(TABLE.sources)


def test_spans_of_versions_are_in_order():
    for row in TABLE.opens:
        assert not row.before or version_tuple(row.since) < version_tuple(row.before)


def test_names_are_those_of_libraries():
    rows: tuple[Any, ...] = (*TABLE.sonames, *TABLE.opens)
    names = [name for row in rows for name in row.names]

    assert all(re.fullmatch(r"lib\w+\.so(\.\d+)*", name) for name in names)


def test_distributions_are_spelled_as_the_standard_says():
    rows: tuple[Any, ...] = (
        *TABLE.opens,
        *TABLE.on_torch_index,
        *TABLE.optional_files,
        *TABLE.one_of,
    )
    names = {name for row in rows for name in row.distributions} | set(TABLE.known_families)

    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


@pytest.mark.parametrize(
    ("version", "opened"),
    [
        ("4.4.0", "libcudnn_ops_infer.so.8"),
        ("4.5.0", "libcudnn_ops.so.9"),
        ("4.6.2", "libcudnn_ops.so.9"),
        ("4.8.5", "libcublas.so.12"),
    ],
)
def test_ctranslate2_changes_what_it_opens(version: str, opened: str):
    [row] = packages.opens("ctranslate2", version)

    assert row.names[0] == opened


def test_a_package_that_the_table_does_not_know_has_no_rows():
    assert packages.opens("requests", "2.32.0") == ()


def test_the_names_of_a_build_follow_its_cuda_and_its_cudnn():
    assert "libcublas.so.12" in packages.names_for("12.5.1", "9")
    assert packages.names_for("12.5.1", "9")[-1] == "libcudnn.so.9"
    assert "libcufft.so.12" in packages.names_for("13.0", None)
    assert packages.names_for("42.0", "9") == ()


def test_the_major_is_read_from_libraries_that_count_as_cuda_does():
    assert packages.cuda_major_of(["libcufft.so.11", "libcublas.so.12"]) == 12
    assert packages.cuda_major_of(["libcudart.so.11.0"]) == 11
    assert packages.cuda_major_of(["libcusparse.so.12"]) is None


def test_two_builds_of_one_package_have_a_family():
    family = packages.family_of(["onnxruntime", "onnxruntime-gpu"])

    assert family is not None
    assert family.gpu[0] == "onnxruntime-gpu"
    assert packages.family_of(["onnxruntime-gpu", "tensorflow"]) is None
