"""Reads facts in tests: one that must be known, or the reason why it is not."""

from typing import TypeVar

from gpucheck.snapshot import NotSupported, Unknown, value

T = TypeVar("T")


def seen(fact: T | Unknown | NotSupported | None) -> T:
    """Return *fact*, which somebody looked for and saw."""
    found = value(fact)
    assert found is not None, fact
    return found


def why(fact: object) -> str:
    """Return why *fact* is unknown."""
    assert isinstance(fact, Unknown), fact
    return fact.why
