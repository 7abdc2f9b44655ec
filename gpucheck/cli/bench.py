"""The command `gpucheck bench`."""

from pathlib import Path
from typing import Annotated

import typer

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
from gpucheck.cli_help import EXIT_STATUS, JUDGE, of_one_command

WORK = "What to measure"

EPILOG = f"""\
Examples:
  gpucheck bench                          measure every GPU, and judge it
  gpucheck bench --gpus 0, --only gemm    the matrix products of one GPU
  gpucheck bench --save-baseline          compare later runs with this one

{EXIT_STATUS}"""


def bench(
    gpus: Annotated[
        str,
        typer.Option(
            metavar="all|2|0,3", rich_help_panel=WORK, help="As for smoke; on the CPU a count."
        ),
    ] = "all",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            rich_help_panel=WORK,
            help="Measure these alone, of gemm,memory,copy,peer,allreduce.",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", rich_help_panel=WORK, help="One data type, small copies, no all-reduce."
        ),
    ] = False,
    device: Annotated[
        Device,
        typer.Option(rich_help_panel=WORK, help="cpu tries the program, and measures no GPU."),
    ] = Device.CUDA,
    python: PythonOption = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none",
            rich_help_panel=JUDGE,
            help="Earlier runs to compare with. Default: this user's.",
        ),
    ] = None,
    save_baseline: Annotated[
        bool,
        typer.Option(
            "--save-baseline", rich_help_panel=JUDGE, help="Add this run to the baseline."
        ),
    ] = False,
    format: FormatOption = None,  # noqa: A002 - the option's name
    as_json: JsonOption = False,
    snapshot_to: SnapshotToOption = None,
    identify: IdentifyOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure how fast each GPU computes and copies, and judge that."""
    from gpucheck import privacy
    from gpucheck.bench import baseline_file, measure
    from gpucheck.workloads.bench import MEASURES, BenchPlan

    form = chosen_format(format, as_json=as_json, quiet=quiet, verbose=verbose)
    output = WorkloadOutput(
        form=form, facts_to=snapshot_to, verbose=verbose, quiet=quiet, identify=identify
    )
    chosen = MEASURES if only is None else tuple(only.split(","))
    kept = baseline_file() if baseline is None else Path(baseline)
    report = measure(
        BenchPlan(gpus=gpus, only=chosen, quick=quick, device=device.value),
        python=python,
        quiet=output.is_for_programs,
        baseline=None if baseline == "none" else kept,
        save_baseline=save_baseline,
    )
    output.write(report, privacy.redact)
    raise typer.Exit(report.exit_code)


app = of_one_command(bench, EPILOG)
