"""Versions against what is required."""

import pytest

from gpucheck.requirements import is_same_version, satisfies


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("9.19.0", "9.19.0.56", True),
        ("13.1.0.3", "13.1.0.3", True),
        ("9.14.0", "9.19.0", False),
        ("13", "13.0.1", True),
        ("", "1.0", False),
    ],
)
def test_versions_are_compared_as_far_as_both_go(one: str, other: str, same: bool):
    assert is_same_version(one, other) is same


@pytest.mark.parametrize(
    ("version", "specifier", "fits"),
    [
        ("2.8.0+cu128", "==2.8.0", True),
        ("2.8.0", ">=2.9", False),
        ("3.8.2", "~=3.8.0", True),
        ("2.9.0a0+nv25.10", "==2.9.0a0+nv25.10", True),
        ("1.0", "what is this", True),
    ],
)
def test_a_specifier_is_read_as_pip_reads_it(version: str, specifier: str, fits: bool):
    assert satisfies(version, specifier) is fits
