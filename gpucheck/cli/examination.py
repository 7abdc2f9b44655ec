"""Examines this machine for a command, and says on a terminal what it waits for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from gpucheck import console
from gpucheck.cli.options import near, refuse_what_is_no_python
from gpucheck.scope import Scope
from gpucheck.usage_error import UsageError

NAME = "gpucheck.toml"

if TYPE_CHECKING:
    from gpucheck.snapshot import Snapshot


def examination(scope: Scope, meanwhile: Callable[[], object] = lambda: None) -> "Snapshot":
    """Return the facts of this machine; *meanwhile* is done while another process looks.

    Whoever calls this ends with `forked_collector.end_all`, as `__main__` does.
    """
    from gpucheck import forked_collector

    collector = forked_collector.begin(scope)
    meanwhile()
    with console.waiting(
        collector.pending, ends_at=collector.ends_at, after_seconds=0.0 if scope.deep else 2.0
    ):
        machine = collector.facts()
    refuse_what_is_no_python(scope.python, machine)
    _refuse_a_wrong_ignore_list(machine)
    return machine


def _refuse_a_wrong_ignore_list(machine: "Snapshot") -> None:
    """Refuse a file that says nothing clear of what to ignore; one that never came is a fact."""
    from gpucheck.site_rules import named
    from gpucheck.snapshot import Unknown

    accepted = machine.ignore_list.accepted
    if isinstance(accepted, Unknown):
        if NAME in accepted.why and accepted.kind != "no permission":
            raise UsageError(accepted.why)
        return
    for entry in accepted:
        if not named(entry.code):
            raise UsageError(
                f"{entry.file}: no rule and no family is called {entry.code!r}{near(entry.code)}"
            )
