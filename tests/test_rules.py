"""What holds for every rule, whatever it judges."""

import ast
import re
import sys
from pathlib import Path

import pytest

import machines
from gpucheck import rules
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


def is_constant(node: ast.expr | None, module: ast.Module) -> bool:
    """Whether a text is made of constants alone: literals, sums of them, names that mean them."""
    match node:
        case ast.Constant(value=str()):
            return True
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return is_constant(left, module) and is_constant(right, module)
        case ast.IfExp(body=body, orelse=other):
            return is_constant(body, module) and is_constant(other, module)
        case ast.Name(id=name):
            given = [
                each.value
                for each in ast.walk(module)
                if (
                    isinstance(each, ast.Assign)
                    and any(isinstance(to, ast.Name) and to.id == name for to in each.targets)
                )
                or (
                    isinstance(each, (ast.AugAssign, ast.AnnAssign))
                    and isinstance(each.target, ast.Name)
                    and each.target.id == name
                )
            ]
            return bool(given) and all(is_constant(value, module) for value in given)
    return False


def built_from_facts(source: str) -> list[int]:
    """Return the lines on which `command` gets a template that is no constant."""
    module = ast.parse(source)
    return [
        call.lineno
        for call in ast.walk(module)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id in ("command", "_change")
        and not (call.args and is_constant(call.args[0], module))
    ]


def test_no_command_is_a_sentence_put_together_from_facts():
    """Words from outside are quoted by `command` alone, so its template is a constant."""
    built = {
        path.name: lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := built_from_facts(path.read_text(encoding="utf-8")))
    }

    assert not built


@pytest.mark.parametrize(
    ("source", "is_built"),
    [
        ('command("rm {file}", file=path)', False),
        ('T = "rm {file}"\ncommand(T + " -f" if force else T)', False),
        ('command(f"rm {path}")', True),
        ('command("rm " + path)', True),
        ('text = f"rm {path}"\ncommand(text)', True),
        ('command("rm {}".format(path))', True),
    ],
)
def test_what_is_built_from_facts_is_recognized(source: str, is_built: bool):
    assert bool(built_from_facts(source)) is is_built


def test_a_rule_is_found_once_and_in_sub_packages_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "example_room").mkdir()
    (tmp_path / "example_room/__init__.py").touch()
    (tmp_path / "example_room/defined.py").write_text(
        "from gpucheck.rule import Severity, rule\n"
        "@rule('AAA001', Severity.INFO, 'An example')\n"
        "def example(machine):\n    '''Why.'''\n    yield from ()\n"
    )
    (tmp_path / "example_user.py").write_text(
        "from gpucheck.rules.example_room.defined import example\n"
    )
    monkeypatch.setattr(rules, "__path__", [str(tmp_path)])
    for name in ("example_room", "example_room.defined", "example_user"):
        monkeypatch.delitem(sys.modules, f"gpucheck.rules.{name}", raising=False)

    found = list(rules._find())

    assert [rule.code for rule in found] == ["AAA001"]
