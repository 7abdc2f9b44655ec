"""Holds the README's tables of commands and of rules to what the program says of itself.

`python -m tests.check_readme` compares; `--write` puts the right tables in their places.
"""

import enum
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from gpucheck.cli import app
from gpucheck.families import FAMILIES
from gpucheck.rules import RULES

README = Path(__file__).parent.parent / "README.md"
RECORDED = Path(__file__).parent / "recorded"


def commands() -> str:
    """A table of the commands, and every command with its options, as `--help` has them."""
    top = typer.main.get_command(app)
    inner: dict[str, Any] = getattr(top, "commands", {})
    lines = ["| command | what it does |", "|---|---|"]
    lines += [f"| `gpucheck {name}` | {_cell(_first(inner[name]))} |" for name in inner]
    lines += ["", "<details><summary>All options</summary>", ""]
    lines += [*_command("gpucheck", top, is_top=True), "</details>"]
    return "\n".join(lines)


def _first(command: Any) -> str:
    """The first paragraph of a command's help, on one line."""
    return " ".join((command.help or "").split("\n\n", 1)[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _command(name: str, command: Any, *, is_top: bool = False) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = " ".join(f"[{_metavar(argument)}]" for argument in arguments)
    if not is_top:
        yield f"#### `{f'{name} {words}'.strip()}`"
        yield ""
        yield _first(command)
        yield ""
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    if options and not is_top:
        yield "| option | what it does |"
        yield "|---|---|"
        for option in options:
            yield f"| `{_names(option)}` | {_help(option)} |"
        yield ""
    for each in inner:
        yield from _command(f"{name} {each}", inner[each])


def _metavar(param: Any) -> str:
    """What stands for the value: its own name, the choices, or the kind of the default."""
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


def rules() -> str:
    """Every rule, by family."""
    lines = []
    for family, subject in ((each.prefix, each.title) for each in FAMILIES):
        mine = [rule for rule in RULES if rule.family == family]
        if not mine:
            continue
        lines += [f"<details><summary>{family}: {subject} ({len(mine)} rules)</summary>", ""]
        lines += ["| code | severity | finds |", "|---|---|---|"]
        for rule in mine:
            lines.append(f"| {rule.code} | {rule.severity.value} | {_cell(rule.title)} |")
        lines += ["", "</details>"]
    return "\n".join(lines)


def report_of(name: str) -> str:
    """What the doctor says of a recorded machine today."""
    ended = subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--from", RECORDED / f"{name}.json"],
        capture_output=True,
        text=True,
        env={"LC_ALL": "C.UTF-8", "COLUMNS": "84", "PATH": "/usr/bin:/bin"},
    )
    return f"```text\n{ended.stdout.rstrip()}\n```"


BLOCKS = {
    "misconfigured": lambda: report_of("h200x2-misconfigured"),
    "no-gpu": lambda: report_of("no-gpu"),
    "commands": commands,
    "rules": rules,
}


def corrected(text: str) -> str:
    """Return the README with the right tables between its marks; LookupError where one lacks."""
    for name, make in BLOCKS.items():
        start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
            raise LookupError(f"{start} … {end} must stand once in the README, in this order")
        before, after = text.partition(start)[0], text.partition(end)[2]
        text = f"{before}{start}\n\n{make()}\n\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    text = README.read_text(encoding="utf-8")
    try:
        right = corrected(text)
    except LookupError as error:
        print(f"README.md: {error}", file=sys.stderr)
        return 1
    if right == text:
        return 0
    if "--write" in arguments:
        README.write_text(right, encoding="utf-8")
        print("README.md: written anew")
        return 0
    print(
        "README.md does not say what --help and the rules say: run python -m tests.check_readme "
        "--write",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
