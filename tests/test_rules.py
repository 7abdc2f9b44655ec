"""What holds for every rule, whatever it judges."""

import re

import pytest

import machines
from gpucheck.report import examine
from gpucheck.rule import Rule
from gpucheck.rules import RULES
from gpucheck.snapshot import Snapshot

every_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)


def test_no_code_is_used_twice():
    codes = [rule.code for rule in RULES]

    assert len(codes) == len(set(codes))


@every_rule
def test_a_rule_has_a_code_a_title_and_an_explanation(rule: Rule):
    assert re.fullmatch(r"[A-Z]{3}[0-9]{3}", rule.code)
    assert rule.title
    assert not rule.title.endswith(".")
    assert len(rule.explanation) > 40


@every_rule
def test_a_machine_of_which_nothing_is_known_never_passes_nor_fails(rule: Rule):
    report = examine(Snapshot(), rules=[rule])

    assert not report.findings
    assert not report.passed


@every_rule
def test_a_healthy_machine_gives_neither_error_nor_warning(rule: Rule):
    report = examine(machines.HEALTHY, rules=[rule])

    assert report.verdict == "healthy"
    assert not [n for n in report.not_checked if "gpucheck's own" in n.why]


def test_causes_lead_to_codes_that_exist_and_never_in_a_circle():
    roots = {rule.code: rule.caused_by for rule in RULES}

    def above(code: str, seen: tuple[str, ...]) -> None:
        assert code not in seen, f"{' → '.join((*seen, code))} is a circle"
        for cause in roots[code]:
            assert cause in roots, f"{code} names {cause}, which no rule has"
            above(cause, (*seen, code))

    for code in roots:
        above(code, ())
