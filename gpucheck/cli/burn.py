"""The command `gpucheck burn`."""

from pathlib import Path
from typing import Annotated

import typer

from gpucheck import console
from gpucheck.cli.options import (
    FormatOption,
    IdentifyOption,
    JsonOption,
    PythonOption,
    QuietOption,
    VerboseOption,
    chosen_format,
)
from gpucheck.cli.smoke import Device
from gpucheck.cli.workload_output import SnapshotToOption, WorkloadOutput
from gpucheck.cli_help import EXIT_STATUS, PRINT, of_one_command
from gpucheck.render import Format

WORK = "What to do"

EPILOG = f"""\
Examples:
  gpucheck burn                           two minutes: before a job
  gpucheck burn --minutes 480             a night: before a machine is accepted
  gpucheck burn --resume DIR              go on after a kill or a reboot

{EXIT_STATUS}"""


def burn(
    minutes: Annotated[
        float,
        typer.Option(
            metavar="N",
            min=0.01,
            max=60 * 24 * 30,
            rich_help_panel=WORK,
            help="2 before a job, 30 after a repair, 480 before a machine is accepted.",
        ),
    ] = 2.0,
    phases: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            rich_help_panel=WORK,
            help="These alone, of tensor,core,memory,copy,peer,allreduce and pulse, which is left "
            "out otherwise.",
        ),
    ] = None,
    gpus: Annotated[
        str,
        typer.Option(
            metavar="all|2|0,3", rich_help_panel=WORK, help="As for smoke; on the CPU a count."
        ),
    ] = "all",
    memory: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0.05,
            max=0.97,
            rich_help_panel=WORK,
            help="How much of the free memory to take.",
        ),
    ] = 0.9,
    device: Annotated[
        Device,
        typer.Option(rich_help_panel=WORK, help="cpu tries the program, and tests no GPU."),
    ] = Device.CUDA,
    python: PythonOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=Path,
            rich_help_panel=WORK,
            help="Where the journal is kept. Default: gpucheck/burn/TIME in the state directory.",
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=Path,
            rich_help_panel=WORK,
            help="Go on with the burn whose journal is there.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            parser=Path,
            rich_help_panel=PRINT,
            help="Write a page with plots here, too.",
        ),
    ] = None,
    format: FormatOption = None,  # noqa: A002 - the option's name
    as_json: JsonOption = False,
    snapshot_to: SnapshotToOption = None,
    identify: IdentifyOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put every GPU under load for long, and check all it computes."""
    from gpucheck import burn as burning
    from gpucheck import privacy, snapshot_file
    from gpucheck.render import Look, render
    from gpucheck.usage_error import UsageError
    from gpucheck.workloads.burn_plan import PHASES, BurnPlan

    form = chosen_format(format, as_json=as_json, quiet=quiet, verbose=verbose)
    printed = WorkloadOutput(
        form=form, facts_to=snapshot_to, verbose=verbose, quiet=quiet, identify=identify
    )
    if resume is not None and output is not None:
        raise UsageError("--resume and --output contradict each other: the journal stays there")
    chosen = PHASES if phases is None else tuple(phases.split(","))
    folder = resume or output or burning.new_folder(burning.default_state())
    report = burning.burn(
        BurnPlan(gpus=gpus, minutes=minutes, phases=chosen, memory=memory, device=device.value),
        python=python,
        quiet=printed.is_for_programs,
        folder=folder,
        resume=resume is not None,
    )
    printed.write(report, privacy.redact)
    if not printed.is_for_programs:
        console.complain(f"The journal is in {folder}")
    if html is not None:  # after the verdict, which a page that cannot be written must not cost
        page = render(report, Format.HTML, Look(identify=identify))
        snapshot_file.save(page, html, force=True, is_private=identify)
    raise typer.Exit(report.exit_code)


app = of_one_command(burn, EPILOG)
