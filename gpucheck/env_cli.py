"""The commands `gpucheck env …`: each collects, decides, prints and leaves."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpucheck import console
from gpucheck.cli_help import Command, Group, one_of
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.shellenv.install import InstallRequest
    from gpucheck.snapshot import Snapshot

EPILOG = """\
Examples:
  eval "$(gpucheck env)"                  set the variables in this shell
  gpucheck env install                    set them in every new shell
  gpucheck env diff                       show what install would change
  gpucheck env uninstall                  take it out again

Exit status:
  0  done; for status: there and current
  1  nothing was written; for status: not there, outdated, overridden or edited
  2  the call was wrong, or a file is not to be used
  3  gpucheck itself failed
"""

app = typer.Typer(
    cls=Group,
    epilog=EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SHELLS = "bash|zsh|fish|tcsh|sh|ksh"
WRITABLE = f"{SHELLS}|environment.d"
FORMATS = f"{WRITABLE}|nushell|dockerfile|modulefile|tcl|systemd"
MODES = "auto|always|never"
CudaOption = Annotated[
    str | None,
    typer.Option(
        "--cuda",
        metavar="VERSION|PATH",
        help="Which toolkit: 12.4, 12, or its path. Default: the newest of torch's CUDA major that "
        "the driver runs.",
    ),
]
LibrariesOption = Annotated[
    str,
    typer.Option(
        "--ld-library-path",
        metavar=MODES,
        autocompletion=one_of(MODES.split("|")),
        help="Whether its libraries go into LD_LIBRARY_PATH. auto: only where the loader would not "
        "find them, and no PyTorch brings its own.",
    ),
]
PythonOption = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PATH",
        help="Whose torch counts. Default: as for gpucheck doctor.",
    ),
]
ShellOption = Annotated[
    str | None,
    typer.Option(
        "--shell",
        metavar="NAME",
        autocompletion=one_of(WRITABLE.split("|")),
        help=f"{', '.join(WRITABLE.split('|'))} (of systemd's user units). Default: the shell that "
        "this is called from.",
    ),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        parser=Path,
        help="The start-up file. Default: ~/.bashrc, or its like.",
    ),
]
ReplaceOption = Annotated[
    bool | None,
    typer.Option(
        "--replace/--no-replace",
        help="Comment out hand-written CUDA exports in the file, or leave them. Default: ask.",
    ),
]
SystemOption = Annotated[
    bool,
    typer.Option(
        "--system", help="For every user, as root: /etc/profile.d (login shells read it)."
    ),
]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Go on where somebody edited gpucheck's block by hand.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")]


@app.callback(invoke_without_command=True)
def env(
    context: typer.Context,
    shell: Annotated[
        str | None,
        typer.Option(
            "--shell",
            metavar="NAME",
            autocompletion=one_of(FORMATS.split("|")),
            help=f"{', '.join(FORMATS.split('|'))}. Default: the shell that this is called from.",
        ),
    ] = None,
    cuda: CudaOption = None,
    ld_library_path: LibrariesOption = "auto",
    python: PythonOption = None,
    list_all: Annotated[
        bool, typer.Option("--list", help="List the toolkits; * is the default.")
    ] = False,
) -> None:
    """Print or install the exports that CUDA needs in a shell."""
    if context.invoked_subcommand is not None:
        if shell or cuda or python or list_all or ld_library_path != "auto":
            raise UsageError(f"put the options behind {context.invoked_subcommand}")
        return
    if list_all and (shell or cuda or ld_library_path != "auto"):
        raise UsageError("--list shows every toolkit: give it alone, or with --python")
    from gpucheck.shellenv.exports import choices, exports, listing
    from gpucheck.shellenv.snippet import render

    if list_all:
        from gpucheck.render.sanitize import clean

        lines = listing(choices(_machine(python, None))).splitlines()
        console.write_exactly("".join(f"{clean(line)}\n" for line in lines))
        return
    request = _request(shell, None, cuda, ld_library_path, is_printed=True)
    machine = _machine(python, request.cuda)
    needed = exports(machine, cuda=request.cuda, ld_library_path=request.ld_library_path)
    for warning in needed.warnings:
        console.complain(f"gpucheck: {warning}")
    console.write_exactly(render(needed, request.shell))


@app.command(cls=Command, epilog=EPILOG)
def install(
    shell: ShellOption = None,
    cuda: CudaOption = None,
    ld_library_path: LibrariesOption = "auto",
    file: FileOption = None,
    replace: ReplaceOption = None,
    system: SystemOption = False,
    force: ForceOption = False,
    yes: YesOption = False,
    python: PythonOption = None,
) -> None:
    """Write the exports into the shell's start-up file, as one block."""
    from gpucheck.shellenv import install as work

    request = _request(shell, file, cuda, ld_library_path, replace, force, system)
    agreed = (lambda _: True) if yes else work.ask_to_write
    raise typer.Exit(
        work.install(
            request, _machine(python, request.cuda), dict(os.environ), console.write_exactly, agreed
        )
    )


@app.command(cls=Command, epilog=EPILOG)
def uninstall(
    shell: ShellOption = None,
    file: FileOption = None,
    system: SystemOption = False,
    force: ForceOption = False,
    yes: YesOption = False,
) -> None:
    """Take the block out again: every byte is as it was before."""
    from gpucheck.shellenv import install as work

    request = _request(shell, file, None, "auto", force=force, system=system)
    agreed = (lambda _: True) if yes else work.ask_to_write
    raise typer.Exit(work.uninstall(request, dict(os.environ), console.write_exactly, agreed))


@app.command(cls=Command, epilog=EPILOG)
def diff(
    shell: ShellOption = None,
    cuda: CudaOption = None,
    ld_library_path: LibrariesOption = "auto",
    file: FileOption = None,
    replace: ReplaceOption = None,
    system: SystemOption = False,
    force: ForceOption = False,
    python: PythonOption = None,
) -> None:
    """Show what install would change, and change nothing."""
    from gpucheck.shellenv import install as work

    request = _request(shell, file, cuda, ld_library_path, replace, force, system)
    change = work.planned(request, _machine(python, request.cuda), os.environ)
    work.show(change, request, console.write_exactly)


@app.command(cls=Command, epilog=EPILOG)
def status(
    shell: ShellOption = None,
    file: FileOption = None,
    system: SystemOption = False,
    python: PythonOption = None,
) -> None:
    """Say whether the block is there, current, overridden, or edited; exit 1 unless current."""
    from gpucheck.shellenv import install as work

    request = _request(shell, file, None, "auto", system=system)

    def facts(cuda: str | None) -> "Snapshot":
        return _machine(python, cuda)

    raise typer.Exit(work.status(request, facts, dict(os.environ), console.write_exactly))


def _request(
    shell: str | None,
    file: Path | None,
    cuda: str | None,
    ld_library_path: str,
    replace: bool | None = None,
    force: bool = False,
    system: bool = False,
    *,
    is_printed: bool = False,
) -> "InstallRequest":
    from gpucheck.shellenv.exports import LibraryPath
    from gpucheck.shellenv.install import InstallRequest
    from gpucheck.shellenv.shells import of_user, reading_us
    from gpucheck.shellenv.snippet import Shell

    names = [each.value for each in Shell]
    if shell is not None and shell not in names:
        raise UsageError(f"--shell {shell}: one of {', '.join(names)}")
    modes = [each.value for each in LibraryPath]
    if ld_library_path not in modes:
        raise UsageError(f"--ld-library-path {ld_library_path}: one of {', '.join(modes)}")
    if system and file is not None:
        raise UsageError("--system writes a file of its own: give it without --file")
    if cuda is not None and "/" in cuda:
        cuda = str(Path(cuda).expanduser().absolute())
    request = InstallRequest(
        shell=Shell(shell) if shell else (reading_us if is_printed else of_user)(os.environ),
        file=file,
        cuda=cuda,
        ld_library_path=LibraryPath(ld_library_path),
        replaces=replace,
        is_system=system,
        force=force,
    )
    if not is_printed:
        _require_answers(request)
    return request


def _require_answers(request: "InstallRequest") -> None:
    """Leave with one line where a file system of the user's does not answer."""
    from gpucheck.shellenv.answering import require
    from gpucheck.shellenv.install import touched_paths

    require(touched_paths(request, os.environ))


def _machine(python: str | None, cuda: str | None) -> "Snapshot":
    from gpucheck.shellenv.facts import collect

    return collect(os.environ, python=python, cuda=cuda)
