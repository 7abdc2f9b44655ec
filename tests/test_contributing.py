"""What docs/contributing.md tells is done here, step by step, in a copy of the repository."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
SECTIONS = {
    section.partition("\n")[0]: section
    for section in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
BLOCK = re.compile(r"([^\n]*):\n\n```(?:python|json|sh|toml)\n(.*?)```\n", re.DOTALL)
PLACES = (
    ("new file", re.compile(r"[Ii]n a new file `(?P<file>[^`]+)`$")),
    ("end", re.compile(r"[Aa]t the end of `(?P<file>[^`]+)`$")),
    ("class", re.compile(r"[Ii]n the class `(?P<name>[^`]+)` of `(?P<file>[^`]+)`$")),
    ("call", re.compile(r"[Ii]n the call of `(?P<name>[^`]+)` in `(?P<file>[^`]+)`$")),
    ("before", re.compile(r"[Bb]efore the table `(?P<name>[^`]+)` of `(?P<file>[^`]+)`$")),
    ("table", re.compile(r"[Ii]n the table `(?P<name>[^`]+)` of `(?P<file>[^`]+)`$")),
    ("first", re.compile(r"[Ff]irst in `(?P<name>[^`]+)` of `(?P<file>[^`]+)`$")),
    ("first", re.compile(r"[Ff]irst in `(?P<file>[^`]+)`(?P<name>)$")),
)


def follow(section: str, copy: Path) -> list[str]:
    """Do what *section* says in *copy*, and return the tests that it brought."""
    tests = []
    for where, text in BLOCK.findall(section):
        place, match = next(
            (place, found) for place, pattern in PLACES if (found := pattern.search(where))
        )
        file = copy / match["file"]
        old = file.read_text(encoding="utf-8") if file.exists() else ""
        assert (place == "new file") == (not file.exists()), match["file"]
        if place in ("new file", "end"):
            new = f"{old}\n\n{text}" if old else text
        else:
            at = position(old, place, match["name"])
            new = old[:at] + text + old[at:]
        file.parent.mkdir(exist_ok=True)
        file.write_text(new, encoding="utf-8")
        if match["file"].endswith(".py"):
            names = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
            tests += [f"{match['file']}::{name}" for name in names]
    return tests


def position(text: str, place: str, name: str) -> int:
    """Where in *text* a block is to be put in."""
    if place == "first":
        return text.index("[\n", text.index(name) if name else 0) + 2
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node in ast.walk(ast.parse(text)):
        if place == "class" and isinstance(node, ast.ClassDef) and node.name == name:
            return starts[node.end_lineno or 0]
        if place == "call" and isinstance(node, ast.Call) and ast.unparse(node.func) == name:
            return starts[(node.end_lineno or 0) - 1]
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name:
            return starts[((node.end_lineno or 0) if place == "table" else node.lineno) - 1]
    raise AssertionError(f"there is no {place} {name}")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("gpucheck", "shell", "tests", "tools", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize("title", SECTIONS)
def test_the_steps_work_as_they_are_written(title: str, copy: Path):
    tests = follow(SECTIONS[title], copy)

    assert tests
    passes(copy, "pytest", "-n", "0", "-p", "no:randomly", *tests)


def passes(copy: Path, *command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy / "acme")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_an_added_check_leaves_make_check_green(copy: Path):
    """What `make check` runs of it: not the tests that no rule can change."""
    follow(SECTIONS["Add a check"], copy)
    added = ("gpucheck/rules/example.py", "tests/rules/test_example.py")

    passes(copy, "tools.generated", "--write")

    passes(copy, "ruff", "check", ".")
    passes(copy, "ruff", "format", "--check", *added)
    passes(copy, "mypy", *added)
    passes(copy, "tools.generated")
    passes(
        copy,
        "pytest",
        "-n",
        "0",
        "-k",
        "HST999 or recorded or example",
        "tests/test_rules.py",
        "tests/test_language.py",
        "tests/test_recorded.py",
        "tests/rules/test_example.py",
    )


def test_every_kind_of_contribution_that_the_readme_names_has_its_steps():
    for kind in ("check", "fact", "format", "GPU model", "error text", "shell", "own rules"):
        assert any(title.endswith(kind) for title in SECTIONS), kind
