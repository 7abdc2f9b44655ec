"""Writes everything in this repository that the program itself can say: docs, reports, pictures.

`python -m tools.generated` compares and names what is out of date; `--write` writes it anew.
"""

import enum
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import typer.main

from gpucheck.cli import app
from gpucheck.families import FAMILIES
from gpucheck.rules import RULES
from tools import pictures, schemas, snapshot_page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RECORDED = ROOT / "tests" / "recorded"
NOTICE = "<!-- Written by `make generated` from the program itself: do not edit. -->\n"
INTRODUCTION = """\
Each rule has a permanent code, never reused and never renumbered. `gpucheck explain CODE` says
more: how it comes about, which Xids and error messages go with it, and what it is a consequence
of. The severity is the usual one; a finding that breaks something else is raised to an error."""


def rules() -> str:
    """Return docs/rules.md: every rule by family, with what its docstring says first."""
    lines = [
        NOTICE,
        "# What gpucheck finds",
        "",
        INTRODUCTION,
        "",
        "| family | about | rules |",
        "|---|---|---|",
    ]
    known = [(each, [rule for rule in RULES if rule.family == each.prefix]) for each in FAMILIES]
    for family, mine in known:
        if mine:
            anchor = f"{family.prefix}: {family.title}".lower()
            anchor = "".join(c for c in anchor.replace(" ", "-") if c.isalnum() or c == "-")
            lines.append(f"| [{family.prefix}](#{anchor}) | {_cell(family.title)} | {len(mine)} |")
    for family, mine in known:
        if not mine:
            continue
        lines += ["", f"## {family.prefix}: {family.title}", ""]
        lines += ["| code | severity | finds | why it matters |", "|---|---|---|---|"]
        lines += [
            f"| {rule.code} | {rule.severity.value} | {_cell(rule.title)} | {_cell(rule.why)} |"
            for rule in mine
        ]
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Return docs/cli.md: every command with its options, as `--help` has them."""
    top = typer.main.get_command(app)
    inner: dict[str, Any] = getattr(top, "commands", {})
    lines = [NOTICE, "# The commands of gpucheck", "", "| command | what it does |", "|---|---|"]
    lines += [f"| `gpucheck {name}` | {_cell(_first(inner[name]))} |" for name in inner]
    lines += ["", *_command("gpucheck", top, is_top=True)]
    return "\n".join(lines).rstrip() + "\n"


def _first(command: Any) -> str:
    """Return the first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").split("\n\n", 1)[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _command(name: str, command: Any, *, is_top: bool = False) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = " ".join(f"[{_metavar(argument)}]" for argument in arguments)
    if not is_top:
        yield f"## `{f'{name} {words}'.strip()}`"
        yield ""
        yield _first(command)
        yield ""
    options = [
        each for each in command.params if each.param_type_name == "option" and not each.hidden
    ]
    if options:
        yield "| option | what it does |"
        yield "|---|---|"
        for option in options:
            yield f"| `{_names(option)}` | {_help(option)} |"
        yield ""
    for each in inner:
        yield from _command(f"{name} {each}", inner[each])


def _metavar(param: Any) -> str:
    """Return what stands for the value: its own name, the choices, or the kind of the default."""
    if param.metavar or param.default is None:
        return str(param.metavar or param.name.upper())
    if isinstance(param.default, enum.Enum):
        return "|".join(str(choice.value) for choice in type(param.default))
    return {float: "NUMBER", int: "N"}.get(type(param.default), "TEXT")


def _names(option: Any) -> str:
    names = ", ".join(sorted((*option.opts, *option.secondary_opts), key=len))
    if option.is_flag:
        return names
    return f"{names} {_metavar(option)}".replace("|", "\\|")


def _help(option: Any) -> str:
    text = _cell(" ".join((option.help or "").split()))
    default = getattr(option, "default", None)
    if default is None or default is False or "Default" in text:
        return text
    shown = default.value if isinstance(default, enum.Enum) else default
    if isinstance(shown, float):
        shown = f"{shown:g}"
    return f"{text} Default: {shown}.".strip()


def report(machine: Path, *options: str) -> str:
    """Return what the doctor says of a recorded machine today."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("gpucheck"), "doctor", "--from", machine, *options],
        capture_output=True,
        text=True,
        env={
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "84",
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        },
        timeout=60,
    )
    if ended.returncode > 1:
        raise SystemExit(f"{machine}: {ended.stderr.strip()}")
    return ended.stdout


def targets() -> dict[Path, Callable[[], str]]:
    """Return every generated file, and the function that makes its text."""
    made: dict[Path, Callable[[], str]] = {
        DOCS / "rules.md": rules,
        DOCS / "cli.md": commands,
        DOCS / "snapshot.md": lambda: f"{NOTICE}\n{snapshot_page.page()}",
        DOCS / "report-1.schema.json": schemas.report_schema,
        DOCS / "snapshot-1.schema.json": schemas.snapshot_schema,
    }
    for machine in pictures.snapshots():
        made[machine.with_suffix(".txt")] = partial(report, machine, "-v")
        made[machine.with_suffix(".svg")] = partial(pictures.of_snapshot, machine)
    return made


def _refuse_to_break(file: Path, right: str) -> None:
    """Leave a published schema as it is where the new one would break those who read by it."""
    if file.name.endswith(".schema.json") and file.exists():
        lost = schemas.breaks(file.read_text(encoding="utf-8"), right)
        if lost:
            raise SystemExit(f"{file.name}: would break its readers: {'; '.join(lost)}")


def main(arguments: list[str]) -> int:
    """Compare the files with what they should be, or write them; 1: some are out of date."""
    stale = []
    for file, make in targets().items():
        right = make()
        if file.exists() and file.read_text(encoding="utf-8") == right:
            continue
        name = file.relative_to(ROOT)
        if "--write" in arguments:
            _refuse_to_break(file, right)
            file.parent.mkdir(exist_ok=True)
            file.write_text(right, encoding="utf-8")
            print(f"{name}: written anew")
        else:
            stale.append(str(name))
    if stale:
        print(f"out of date: {', '.join(stale)}: run make generated", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
