"""What holds for every rule, whatever it judges."""

import ast
import re
from pathlib import Path

import pytest

import machines
from gpucheck.report import examine
from gpucheck.rule import Rule
from gpucheck.rules import RULES
from gpucheck.snapshot import Snapshot

PACKAGE = Path(__file__).parent.parent / "gpucheck"
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


def test_no_command_is_a_sentence_put_together_from_facts():
    """Words from outside are quoted by `command` alone, so its template is a plain string."""
    built: list[str] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
                continue
            of_constant = bool(call.args) and isinstance(call.args[0], ast.Constant)
            if call.func.id == "command" and not of_constant:
                built.append(f"{path.name}:{call.lineno}")
            if call.func.id == "Command" and path.name not in ("rule.py", "remedy.py"):
                built.append(f"{path.name}:{call.lineno}")
    assert not built
