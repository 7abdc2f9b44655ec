"""The command line: each command collects, judges, prints and leaves."""

from typing import Annotated

import typer

from gpucheck import __version__, console, env_cli
from gpucheck.cli import bench, doctor, explain, fleet, smoke, snapshot
from gpucheck.cli_help import EXIT_STATUS, Command, Group
from gpucheck.usage_error import UsageError

EPILOG = f"""\
Examples:
  gpucheck doctor                         what is wrong with this machine
  gpucheck explain DRV006                 what a finding means
  eval "$(gpucheck env)"                  the exports that this machine needs
  gpucheck smoke --gpus all               put every GPU to work
  gpucheck help doctor                    all options of a command

{EXIT_STATUS}"""

app = typer.Typer(
    cls=Group,
    epilog=EPILOG,
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
) -> None:
    """Say what is wrong with an NVIDIA GPU machine, how we know, and how to fix it."""
    if version:
        console.write(f"gpucheck {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        console.write(f"{context.get_help()}\n")


app.command("doctor", cls=Command, epilog=doctor.EPILOG)(doctor.doctor)
app.command("explain", cls=explain.PastedText, epilog=explain.EPILOG)(explain.explain)
app.add_typer(env_cli.app, name="env")
app.command("smoke", cls=Command, epilog=smoke.EPILOG)(smoke.smoke)
app.command("bench", cls=Command, epilog=bench.EPILOG)(bench.bench)
app.add_typer(fleet.app, name="fleet")
app.command("snapshot", cls=Command, epilog=snapshot.EPILOG)(snapshot.snapshot)


def _complete_commands(incomplete: str) -> list[str]:
    command = typer.main.get_command(app)
    return [name for name in command.commands if name.startswith(incomplete)]  # type: ignore[attr-defined]


@app.command(cls=Command)
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

    near = get_close_matches(name, typer.main.get_command(app).commands, n=1)  # type: ignore[attr-defined]
    return f": did you mean {near[0]}?" if near else " (see gpucheck --help)"
