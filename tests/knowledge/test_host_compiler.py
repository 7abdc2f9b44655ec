"""The table of host compilers."""

import pytest

from gpucheck.knowledge import host_compiler
from gpucheck.versions import version_tuple

TABLE = host_compiler.table()


def test_every_row_names_a_source_that_is_explained_and_every_source_is_used():
    assert all(row.source for row in TABLE.nvcc)
    assert {source for row in TABLE.nvcc for source in row.source} == set(TABLE.sources)


def test_releases_stand_once_and_in_order_and_their_limits_never_fall():
    releases = [version_tuple(row.cuda) for row in TABLE.nvcc]

    assert releases == sorted(set(releases))
    assert [r.max_gcc for r in TABLE.nvcc] == sorted(r.max_gcc for r in TABLE.nvcc)
    assert [r.max_clang for r in TABLE.nvcc] == sorted(r.max_clang for r in TABLE.nvcc)


@pytest.mark.parametrize(
    ("cuda", "gcc"),
    [("13.0", 15), ("13.0.2", 15), ("12.4.1", 13), ("11.4.0", 10), ("11.4.3", 11), ("11.4", 11)],
)
def test_the_limit_of_a_release(cuda, gcc):
    limit = host_compiler.limit_of(cuda)

    assert limit is not None
    assert limit.max_gcc == gcc


@pytest.mark.parametrize("cuda", ["99.0", "", "12.7"])
def test_an_unknown_release_has_no_limit(cuda):
    assert host_compiler.limit_of(cuda) is None
