"""The command `gpucheck smoke`."""

import enum
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
from gpucheck.cli.workload_output import SnapshotToOption, WorkloadOutput
from gpucheck.cli_help import EXIT_STATUS, of_one_command

WORK = "What to train"

EPILOG = f"""\
Examples:
  gpucheck smoke --gpus all               prove every GPU, and print the report
  gpucheck smoke --gpus 0,2 --strategy ddp
  gpucheck smoke --device cpu             a rehearsal: proves no GPU

{EXIT_STATUS}"""


class Strategy(str, enum.Enum):
    """How several GPUs train one model."""

    DP = "dp"
    DDP = "ddp"


class Device(str, enum.Enum):
    """On what to train."""

    CUDA = "cuda"
    CPU = "cpu"


def smoke(
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="all|4|0,2,5",
            rich_help_panel=WORK,
            help="A count, or CUDA's numbers: one replica each, a number may come twice; 3, is "
            "GPU 3 alone. Default: all, or what the job of torchrun or srun gives.",
        ),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(
            rich_help_panel=WORK,
            help="dp: DataParallel in one process. ddp: a process for each GPU.",
        ),
    ] = Strategy.DP,
    epochs: Annotated[
        int, typer.Option(min=1, max=10_000, rich_help_panel=WORK, help="How often all images.")
    ] = 1,
    batch_size: Annotated[
        int, typer.Option(min=1, max=60_000, rich_help_panel=WORK, help="Images in one step.")
    ] = 256,
    lr: Annotated[
        float,
        typer.Option(min=1e-9, max=1e9, rich_help_panel=WORK, help="The learning rate."),
    ] = 0.01,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|download|synthetic",
            rich_help_panel=WORK,
            help="Where the MNIST files are. Default: the cache, else a download by torchvision, "
            "else synthetic digits.",
        ),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(rich_help_panel=WORK, help="cpu is a rehearsal, and proves no GPU."),
    ] = Device.CUDA,
    seed: Annotated[
        int, typer.Option(min=0, max=1 << 40, rich_help_panel=WORK, help="Of all random numbers.")
    ] = 0,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=1,
            max=86400,
            rich_help_panel=WORK,
            help="The longest wait for a sign of progress.",
        ),
    ] = 60.0,
    python: PythonOption = None,
    format: FormatOption = None,  # noqa: A002 - the option's name
    as_json: JsonOption = False,
    snapshot_to: SnapshotToOption = None,
    identify: IdentifyOption = False,
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train MNIST on the GPUs, and judge the machine by what comes out."""
    from gpucheck import privacy
    from gpucheck.smoke import prove
    from gpucheck.workloads.plan import Plan

    form = chosen_format(format, as_json=as_json, quiet=quiet, verbose=verbose)
    output = WorkloadOutput(
        form=form, facts_to=snapshot_to, verbose=verbose, quiet=quiet, identify=identify
    )
    plan = Plan(
        gpus=gpus,
        strategy=strategy.value,
        device=device.value,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=lr,
        seed=seed,
        data=data,
        timeout_seconds=timeout,
    )
    report, speaks = prove(plan, python=python, quiet=output.is_for_programs)
    if speaks:
        output.write(report, privacy.redact)
    raise typer.Exit(report.exit_code)


app = of_one_command(smoke, EPILOG)
