"""The command `gpucheck doctor`."""

from typing import Annotated

import typer

from gpucheck import console
from gpucheck.cli.options import (
    DeepOption,
    ExpectGpusOption,
    FormatOption,
    IdentifyOption,
    IgnoreOption,
    JsonOption,
    OutputOption,
    PythonOption,
    QuickOption,
    QuietOption,
    RulesOption,
    SelectOption,
    StrictOption,
    TimeoutOption,
    VerboseOption,
    WatchOption,
    chosen_format,
    codes,
    use_rules,
)
from gpucheck.cli_help import EXAMINE, EXIT_STATUS, PRINT, of_one_command
from gpucheck.scope import Scope
from gpucheck.usage_error import UsageError

EPILOG = f"""\
Examples:
  gpucheck doctor                         examine this machine
  gpucheck doctor --deep                  put every GPU to work as well
  gpucheck doctor -q || mail -s gpu me    say what is wrong alone
  gpucheck doctor --from node1.json       judge a stored snapshot
  gpucheck doctor --from snapshots/       judge all in a directory, a line each

{EXIT_STATUS}"""


def doctor(
    stored: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="FILE|DIR",
            rich_help_panel=EXAMINE,
            help="Judge snapshots that `gpucheck snapshot` wrote, instead of this machine. "
            "May be given several times. - is stdin.",
        ),
    ] = None,
    python: PythonOption = None,
    deep: DeepOption = False,
    quick: QuickOption = False,
    watch: WatchOption = None,
    timeout: TimeoutOption = None,
    expect_gpus: ExpectGpusOption = None,
    rules: RulesOption = None,
    select: SelectOption = None,
    ignore: IgnoreOption = None,
    strict: StrictOption = False,
    format: FormatOption = None,  # noqa: A002 - the option's name
    as_json: JsonOption = False,
    output: OutputOption = None,
    identify: IdentifyOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema",
            rich_help_panel=PRINT,
            help="Print the JSON Schema of the report, and leave.",
        ),
    ] = False,
) -> None:
    """Examine this machine: what is wrong, how we know, how to fix it."""
    if schema:
        from gpucheck.render import json_schema

        console.write(json_schema())
        raise typer.Exit
    from gpucheck.cli.judgement import Judgement

    use_rules(rules)
    judgement = Judgement(
        form=chosen_format(format, as_json=as_json, quiet=quiet, verbose=verbose),
        select=codes("--select", select),
        ignore=codes("--ignore", ignore),
        strict=strict,
        verbose=verbose,
        quiet=quiet,
        identify=identify,
        output=output,
    )
    scope = Scope(
        python=python,
        deep=deep,
        quick=quick,
        watch_seconds=watch or 0.0,
        expect_gpus=expect_gpus,
        timeout_seconds=timeout,
    )
    if stored:
        _refuse_what_examines(scope)
        raise typer.Exit(judgement.of_stored(stored, scope))
    from gpucheck.cli.examination import examination
    from gpucheck.warm_up import warm_up

    machine = examination(scope, lambda: warm_up(judgement.form))
    raise typer.Exit(judgement.of_machine(machine))


app = of_one_command(doctor, EPILOG)


def _refuse_what_examines(scope: Scope) -> None:
    given = {
        "--python": scope.python,
        "--deep": scope.deep,
        "--quick": scope.quick,
        "--watch": scope.watch_seconds,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} examines this machine, and --from does not: give one of them")
