"""The command `gpucheck snapshot`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from gpucheck import console
from gpucheck.cli.options import (
    DeepOption,
    IdentifyOption,
    PythonOption,
    QuickOption,
    RulesOption,
    TimeoutOption,
    WatchOption,
    use_rules,
)
from gpucheck.cli_help import PRINT, of_one_command
from gpucheck.scope import Scope
from gpucheck.usage_error import UsageError

EPILOG = """\
Examples:
  gpucheck snapshot -o node1.json.gz               store the facts, compressed
  ssh node1 gpucheck snapshot | gpucheck doctor --from -
                                                   judge another machine here

Exit status: 0 written, 2 the call was wrong or the file cannot be written,
3 gpucheck itself failed. A snapshot of a broken machine is a success.
"""


def snapshot(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=Path,
            rich_help_panel=PRINT,
            help="Write here; a name in .gz is compressed. Default and -: stdout.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", rich_help_panel=PRINT, help="Replace the file where it is there already."
        ),
    ] = False,
    identify: IdentifyOption = False,
    python: PythonOption = None,
    deep: DeepOption = False,
    watch: WatchOption = None,
    quick: QuickOption = False,
    rules: RulesOption = None,
    timeout: TimeoutOption = None,
) -> None:
    """Write the facts of this machine as JSON, to judge them elsewhere.

    Host and user names, home directories, serials and UUIDs are removed, unless --identify is
    given. gpucheck doctor --from judges what was written.
    """
    from gpucheck import privacy, snapshot_file
    from gpucheck.cli.examination import examination

    if output is None and console.is_terminal(sys.stdout):
        raise UsageError("a snapshot is thousands of lines: name a file with -o FILE (-o -: here)")
    target = None if output is None or str(output) == "-" else output
    if target is not None:
        snapshot_file.refuse_early(target, force=force)
    scope = Scope(
        python=python,
        deep=deep,
        quick=quick,
        watch_seconds=watch or 0.0,
        timeout_seconds=timeout,
    )
    use_rules(rules)
    machine = examination(scope)
    text = snapshot_file.as_json(machine if identify else privacy.redact(machine))
    if target is None:
        console.write(text)
    else:
        console.complain(
            f"gpucheck: {snapshot_file.save(text, target, force=force, is_private=identify)}"
        )


app = of_one_command(snapshot, EPILOG)
