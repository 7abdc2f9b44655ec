"""Lays out `--help`: options in groups, summaries whole, examples and exit statuses at the end.

What a shell completes is said here too: both are what a newcomer sees of an option.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Where options without a group of their own are shown.
OTHER = "Options"
#: Groups of options, as `rich_help_panel` names them.
EXAMINE = "What to examine"
JUDGE = "How to judge"
PRINT = "How to print"

EXIT_STATUS = """\
Exit status:
  0  healthy, degraded or a rehearsal
  1  broken or incomplete; with --strict degraded too
  2  the call was wrong, or an input file is bad
  3  gpucheck itself failed
"""


def one_of(names: "Iterable[str]") -> "Callable[[str], list[str]]":
    """Return what completes a value that is one of *names*."""

    def starting(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return starting


class Command(TyperCommand):
    """A command whose help has groups of options and an end that keeps its lines."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - click's, or typer's own
        """Write the arguments, and each group of options under its name."""
        for name, rows in _groups(self, ctx):
            with formatter.section(name):
                formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Write the examples and exit statuses as they stand."""
        _write_epilog(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands each of which says in a whole sentence what it does."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the options, then the commands."""
        for name, rows in _groups(self, ctx):
            with formatter.section(name):
                formatter.write_dl(rows)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write each command with its summary, on as many lines as that needs."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, (command.help or "").split("\n\n")[0].replace("\n", " "))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Write the examples and exit statuses as they stand."""
        _write_epilog(self.epilog, formatter)


def of_one_command(
    function: Callable[..., None], epilog: str, cls: type[TyperCommand] = Command
) -> typer.Typer:
    """Return an application of *function* alone, which is a command of the whole one."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(cls=cls, epilog=epilog)(function)
    return app


def _groups(command: Any, ctx: Any) -> "Iterator[tuple[str, list[tuple[str, str]]]]":  # noqa: ANN401
    groups: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        row = parameter.get_help_record(ctx)
        if row is None:
            continue
        row = _plain(*row)
        is_argument = parameter.param_type_name == "argument"
        name = getattr(parameter, "rich_help_panel", None) or OTHER
        groups.setdefault("Arguments" if is_argument else name, []).append(row)
    others = groups.pop(OTHER, None)
    yield from groups.items()
    if others:
        yield OTHER, others


_KINDS = {"<int range>": "N", "<float range>": "NUMBER"}


def _plain(names: str, text: str) -> tuple[str, str]:
    """Return a row of options in plain words: a wrong number is answered with the right range."""
    for kind, plain in _KINDS.items():
        names = names.replace(kind, plain)
    words = re.sub(r"<([^ <>]+\|[^ <>]+)>", r"\1", names)
    lead, bracket, notes = text.rpartition("  [")
    if not bracket:
        return words, text
    kept = [note for note in notes.rstrip("]").split("; ") if not re.search(r"x[<>]=", note)]
    return words, f"{lead}  [{'; '.join(kept)}]" if kept else lead


def _write_epilog(text: str | None, formatter: Any) -> None:  # noqa: ANN401
    if text:
        formatter.write("\n")
        formatter.write(text if text.endswith("\n") else f"{text}\n")
