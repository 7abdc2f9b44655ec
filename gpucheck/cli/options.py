"""The options that several commands share, and what becomes of their values."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpucheck.cli_help import EXAMINE, JUDGE, PRINT
from gpucheck.render import Format
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.snapshot import Snapshot


#: How the probe says that a program ran well, and is no Python.
NO_PYTHON = "does not answer as a Python does"


def _number(value: float | None) -> float | None:
    """Refuse NaN, which older versions of typer let pass through every range."""
    if value is not None and value != value:  # only NaN is
        raise typer.BadParameter("is not a number")
    return value


def complete_codes(incomplete: str) -> list[tuple[str, str]]:
    """Return the rules and families that begin with *incomplete*, for a shell's completion."""
    from gpucheck.families import FAMILIES
    from gpucheck.site_rules import every_rule

    before, comma, start = incomplete.rpartition(",")
    named = [(family.prefix, family.title) for family in FAMILIES]
    named += [(rule.code, rule.title) for rule in every_rule()]
    return [
        (f"{before}{comma}{name}", title)
        for name, title in named
        if name.startswith(start.strip().upper())
    ]


PythonOption = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PATH",
        rich_help_panel=EXAMINE,
        help="Whose torch to examine. Default: the active virtual or conda environment, else "
        "gpucheck's own Python if it has torch, else python3 on PATH.",
    ),
]
DeepOption = Annotated[
    bool,
    typer.Option(
        "--deep",
        rich_help_panel=EXAMINE,
        help="Import torch in a child, and put every GPU to work.",
    ),
]
QuickOption = Annotated[
    bool,
    typer.Option(
        "--quick", rich_help_panel=EXAMINE, help="Files and NVML alone: does not start CUDA."
    ),
]
WatchOption = Annotated[
    float | None,
    typer.Option(
        "--watch",
        metavar="SECONDS",
        min=0,
        max=3600,
        callback=_number,
        rich_help_panel=EXAMINE,
        help="Read the GPUs' counters twice, this far apart, to judge rates.",
    ),
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.5,
        max=86400,
        callback=_number,
        rich_help_panel=EXAMINE,
        help="Report after this long, whatever has not answered. Default: 30, with --deep 300.",
    ),
]
ExpectGpusOption = Annotated[
    int | None,
    typer.Option(
        "--expect-gpus",
        metavar="N",
        min=0,
        rich_help_panel=JUDGE,
        help="Any other number is an error.",
    ),
]
RulesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rules",
        metavar="FILE.py",
        rich_help_panel=JUDGE,
        help="Judge by the rules of this file too, and look with its probes: it is run. "
        "May be given several times.",
    ),
]
SelectOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CODES",
        rich_help_panel=JUDGE,
        autocompletion=complete_codes,
        help="Judge by these rules or families alone: DRV,GPU014.",
    ),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CODES",
        rich_help_panel=JUDGE,
        autocompletion=complete_codes,
        help="Leave these rules or families out. For always, see gpucheck.toml in the README.",
    ),
]
StrictOption = Annotated[
    bool,
    typer.Option(
        "--strict", rich_help_panel=JUDGE, help="Warnings count as errors in the exit status."
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        rich_help_panel=PRINT,
        help=f"{', '.join(form.value for form in Format)}. Default: text.",
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", rich_help_panel=PRINT, help="The same as --format json.")
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        rich_help_panel=PRINT,
        help="Open the notes, and show what passed and what was not checked.",
    ),
]
QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        rich_help_panel=PRINT,
        help="Print only what is wrong; nothing if healthy.",
    ),
]


def chosen_format(named: Format | None, *, as_json: bool, quiet: bool, verbose: bool) -> Format:
    """Return the one format that the options ask for; refuse those that contradict each other."""
    if as_json and named not in (None, Format.JSON):
        raise UsageError(f"--json and --format {named.value} contradict each other")
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other")
    chosen = Format.JSON if as_json else named or Format.TEXT
    if quiet and chosen is not Format.TEXT:
        raise UsageError(f"--quiet shortens the text, and --format {chosen.value} is whole")
    return chosen


def use_rules(files: list[str] | None) -> None:
    """Judge by the rules of *files* too; refuse those that are none, before a long look."""
    if files:
        from gpucheck import site_rules

        site_rules.use(files)


def codes(option: str, values: Iterable[str] | None) -> list[str]:
    """Split lists at commas, and refuse what is neither a rule nor a family of rules."""
    names = [name.strip().upper() for value in values or () for name in value.split(",")]
    names = [name for name in names if name]
    if not names:
        return []
    from gpucheck.site_rules import named

    for name in names:
        if not named(name):
            raise UsageError(f"{option}: no rule and no family is called {name!r}{near(name)}")
    return names


def near(name: str) -> str:
    """Return which rules or families were meant by *name*, as the end of a sentence."""
    from difflib import get_close_matches

    from gpucheck.families import FAMILIES
    from gpucheck.site_rules import every_rule

    known = [*(rule.code for rule in every_rule()), *(family.prefix for family in FAMILIES)]
    found = get_close_matches(name, known, n=3, cutoff=0.5)
    if found:
        return f": did you mean {' or '.join(found)}?"
    return ": see gpucheck explain --list"


def refuse_what_is_no_python(asked: str | None, machine: "Snapshot") -> None:
    """Refuse a --python that was started and is none; one that hangs or crashes is a fact."""
    from gpucheck.snapshot import Python, Unknown

    python = machine.pytorch.python
    answer = python.version if isinstance(python, Python) else python
    if asked and isinstance(answer, Unknown) and answer.why.endswith(NO_PYTHON):
        raise UsageError(f"--python {answer.why}")


IdentifyOption = Annotated[
    bool,
    typer.Option(
        "--identify",
        rich_help_panel=PRINT,
        help="Leave host and user names, home directories, serials and UUIDs as they are.",
    ),
]
# A plain `Path` would have the command line itself ask the file system about it.
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        parser=Path,
        rich_help_panel=PRINT,
        help="Write here, whole or not at all, replacing what is there. Default: stdout.",
    ),
]
