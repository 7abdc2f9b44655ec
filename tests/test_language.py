"""Everything that a user reads is plain technical English: the retired words stay out."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from gpucheck.cli import app
from gpucheck.families import FAMILIES
from gpucheck.rules import RULES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gpucheck"

#: What is not said any more, and what is said in its place.
RETIRED = {
    r"mend(s|ed|ing)?": "fix",
    r"troubles?|troubled": "error, fault",
    r"wish(es|ed)?": "request",
    r"dice": "generator",
    r"beside": "next to, with",
    r"blanks?": "space",
    r"not to be seen": "could not be determined",
    r"(it|this|that|which|file|line|log|name|nvml|doctor|message|report)s? tells?": "says",
    r"could not be told|cannot be told|told of": "not known, reported",
    r"stood": "was",
    r"stands? (in|on|at|under|before|after|first|last|beside|above|below|there|here)": "is",
    r"let \S+ stand": "keep",
    r"hangs? on": "attached to, depends on",
    r"held by nobody": "in use, but no process owns it",
    r"come(s)? fast": "high rate of",
    r"makes? errors": "has errors",
    r"otherwise than": "differently",
    r"belongs? together": "match",
    r"of one version": "of the same version",
    r"not in order": "missing, stopped or the wrong version",
    r"out of the loader's way": "from the search path",
    r"(puts?|goes) (\S+ ){0,4}out of use": "comment out",
    r"handed (in|over|on|to)": "passed to",
    r"makes? no sense": "unexpected value",
    r"come so far": "not reached",
    r"everybody": "anyone",
    r"renew(s|ed)?": "rebuild",
    r"ram disk": "initramfs",
    r"anew": "again",
    r"doubts?|doubtful": "not sure",
    r"trials?": "workloads",
    r"thither|hither|whence|whereof|thereof|thereby|albeit|lest": "plain words",
    r"\w*(initial|normal|recogn|optim|organ|util|minim|summar)is(e[ds]?|ing|ation)": "-ize",
    r"colour(s|ed)?|neighbours?|behaviours?|honours?|favours?": "-or",
    r"licences?": "license",
    r"centres?|metres?|data-centres?": "-er",
    r"catalogues?": "catalog",
    r"whilst|amongst": "while, among",
    r"\w+\(s\)": "a noun that agrees with its number",
}
PATTERNS = {word: re.compile(rf"(?<![\w-])(?:{word})(?![\w-])", re.IGNORECASE) for word in RETIRED}
#: Where a word is right: the text around it, and why.
EXCEPTIONS = {
    "device(s) is/are busy": "CUDA's own words",
}


def retired(text: str) -> list[str]:
    """Return what *text* says that is not said any more."""
    plain = " ".join(text.split())
    for phrase in EXCEPTIONS:
        plain = plain.replace(phrase, "")
    found = []
    for word, pattern in PATTERNS.items():
        for match in pattern.finditer(plain):
            around = plain[max(0, match.start() - 40) : match.end() + 30]
            found.append(f"…{around}…: say {RETIRED[word]}")
    return found


def sentences(file: Path) -> Iterator[str]:
    """Every text of a module, its docstrings included, that is more than a name."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
            yield "".join(str(part) for part in parts)


def helps(command, name: str = "gpucheck") -> Iterator[tuple[str, str]]:
    """What `--help` says of a command, of its parameters and of the commands in it."""
    yield name, command.help or ""
    for param in command.params:
        yield f"{name} {param.name}", getattr(param, "help", None) or ""
    for each, inner in getattr(command, "commands", {}).items():
        yield from helps(inner, f"{name} {each}")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_rule_speaks_plainly(rule):
    assert not retired(f"{rule.title}. {rule.explanation}")


def test_the_families_speak_plainly():
    for family in FAMILIES:
        assert not retired(f"{family.title}. {family.section}")


@pytest.mark.parametrize(
    ("name", "text"), [*helps(typer.main.get_command(app))], ids=lambda text: text[:40]
)
def test_help_speaks_plainly(name: str, text: str):
    assert not retired(text)


@pytest.mark.parametrize(
    "file", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda file: file.name
)
def test_the_documents_speak_plainly(file: Path):
    assert not retired(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE))
)
def test_a_module_speaks_plainly(file: Path):
    assert not [said for text in sentences(file) for said in retired(text)]


@pytest.mark.parametrize(
    ("table", "rows", "fields"),
    [
        ("error_messages.json", "messages", ("meaning", "fix", "verify")),
        ("xid.json", "xids", ("meaning", "advice")),
        ("cuda_errors.json", "cuda", ("meaning", "causes", "fix")),
        ("cuda_errors.json", "nvml", ("meaning", "causes", "fix")),
    ],
)
def test_a_table_speaks_plainly(table: str, rows: str, fields: tuple[str, ...]):
    content = json.loads((PACKAGE / "knowledge" / table).read_text(encoding="utf-8"))

    for row in content[rows]:
        for field in fields:
            texts = row.get(field, "")
            assert not retired(texts if isinstance(texts, str) else "; ".join(texts)), row


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ("how to mend it", 1),
        ("the GPUs hang on different NUMA nodes", 1),
        ("which toolkit it is, is not to be seen", 1),
        ("2 error(s)", 1),
        ("* stands for anything short", 0),
        ("recommended, understand, besides, standalone, blanket", 0),
    ],
)
def test_the_list_finds_words_and_nothing_inside_of_words(said: str, count: int):
    assert len(retired(said)) == count
