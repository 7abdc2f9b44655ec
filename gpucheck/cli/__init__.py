"""The command line: each command collects, judges, prints and leaves."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer

from gpucheck import __version__, console
from gpucheck.cli import completion
from gpucheck.cli_help import Command, Group
from gpucheck.usage_error import UsageError

#: Each command, in the order of the help, and the module whose `app` it is.
MODULES = {
    "doctor": "gpucheck.cli.doctor",
    "explain": "gpucheck.cli.explain",
    "env": "gpucheck.env_cli",
    "smoke": "gpucheck.cli.smoke",
    "bench": "gpucheck.cli.bench",
    "burn": "gpucheck.cli.burn",
    "fleet": "gpucheck.cli.fleet",
    "snapshot": "gpucheck.cli.snapshot",
}

EPILOG = """\
Examples: gpucheck doctor, gpucheck explain DRV006, gpucheck help doctor
Exit status: 0 no error, 1 an error was found, 2 a wrong call, 3 our own failure
"""


class _OnDemand(Mapping[str, Any]):
    """The commands by name, each imported when it is asked for: a call needs one of them."""

    def __init__(self, commands: Mapping[str, Any]) -> None:
        self._commands = dict(commands)

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - click's, or typer's own
        if name not in self._commands:
            command = typer.main.get_command(import_module(MODULES[name]).app)
            command.name = name
            self._commands[name] = command
        return self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*MODULES, *self._commands)))

    def __len__(self) -> int:
        return len({*MODULES, *self._commands})


class _Commands(Group):
    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - typer's own
        super().__init__(**settings)
        self.commands = _OnDemand(self.commands)  # type: ignore[assignment] # it is only read


app = typer.Typer(
    cls=_Commands,
    epilog=EPILOG,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def gpucheck(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version, and leave.")
    ] = False,
    install_completion: Annotated[  # noqa: ARG001 - its callback leaves
        bool,
        typer.Option(
            "--install-completion",
            callback=completion.install,
            is_eager=True,
            help="Let Tab complete, in bash, zsh or fish.",
        ),
    ] = False,
    show_completion: Annotated[  # noqa: ARG001
        bool,
        typer.Option(
            "--show-completion",
            callback=completion.of_caller,
            is_eager=True,
            hidden=True,
            help="Print the calling shell's script of completion.",
        ),
    ] = False,
) -> None:
    """Say what is wrong with an NVIDIA GPU machine, and how to fix it."""
    if version:
        console.write(f"gpucheck {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.write(f"{context.get_help()}\n")


def _complete_commands(incomplete: str) -> list[str]:
    return [name for name in (*MODULES, "help") if name.startswith(incomplete)]


HELP_EPILOG = """\
Examples:
  gpucheck help doctor
  gpucheck help env install

Exit status: 0 shown, 2 there is no such command, 3 gpucheck itself failed.
"""


@app.command(cls=Command, epilog=HELP_EPILOG)
def help(  # noqa: A001 - the command's name
    context: typer.Context,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND]...", autocompletion=_complete_commands),
    ] = None,
) -> None:
    """Show the help of a command, as its --help does."""
    parent = context.parent
    shown = parent.command if parent is not None else context.command
    where = parent
    for name in command or ():
        found = getattr(shown, "commands", {}).get(name)
        if found is None:
            raise UsageError(f"help: there is no command {' '.join(command or ())!r}{_near(name)}")
        where = type(context)(found, info_name=name, parent=where)
        shown = found
    if where is not None:
        console.write(f"{shown.get_help(where)}\n")


def _near(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, MODULES, n=1)
    return f": did you mean {near[0]}?" if near else " (see gpucheck --help)"
