"""Fails a whole run of the tests of rules in which some code never went through the remedy matrix.

Each test process notes the codes of the symptoms that it took through the matrix; the process that
gathers them holds them against all rules. A run of a part of the tests proves nothing, and is left.
"""

from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
#: families whose symptoms never reach the matrix, and why
NOT_IN_MATRIX = {
    "FLT": "judges a fleet, not a machine, and its remedies are texts: tests/fleet/test_rules.py",
    "SIT": "judges a site's own checks, and its remedy is a text: tests/test_site_rules.py",
}
taken_through: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of xdist noted."""
    taken_through.update(getattr(node, "workeroutput", {}).get("codes_in_matrix", ()))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Pass the codes on, or, where all of them are here, judge them."""
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["codes_in_matrix"] = sorted(taken_through)
    elif exitstatus == 0 and _is_whole(config) and (missing := _missing()):
        print("\nno test takes a remedy of these through the matrix:", *missing)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _is_whole(config: pytest.Config) -> bool:
    chosen = {Path(config.invocation_params.dir, arg).resolve() for arg in config.args}
    options = (config.option.keyword, config.option.markexpr, config.option.collectonly)
    return bool(chosen & {TESTS.parent, TESTS, TESTS / "rules"}) and not any(options)


def _missing() -> list[str]:
    from gpucheck.rules import RULES

    asked = {rule.code for rule in RULES if rule.family not in NOT_IN_MATRIX}
    return sorted(asked - taken_through)
