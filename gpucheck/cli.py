"""The commands: each collects, judges, prints and leaves. Heavy imports stand inside them."""

import enum
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperCommand

from gpucheck import __version__, env_cli
from gpucheck.render import Format
from gpucheck.scope import Scope
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucheck.forked_collector import ForkedCollector
    from gpucheck.snapshot import Snapshot


class Strategy(str, enum.Enum):
    """How several GPUs train one model."""

    DP = "dp"
    DDP = "ddp"


class Device(str, enum.Enum):
    """On what to train."""

    CUDA = "cuda"
    CPU = "cpu"


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(env_cli.app, name="env")


def _number(value: float | None) -> float | None:
    """Refuse NaN, which older versions of typer let pass through every range."""
    if value is not None and value != value:  # only NaN is
        raise typer.BadParameter("is not a number")
    return value


PythonOption = Annotated[
    str | None,
    typer.Option(
        "--python",
        metavar="PATH",
        help="Whose torch to examine. Default: the active virtual or conda environment, else "
        "gpucheck's own Python if it has torch, else python3 on PATH.",
    ),
]
DeepOption = Annotated[
    bool,
    typer.Option("--deep", help="Import torch in a child, and put every GPU to work."),
]
QuickOption = Annotated[
    bool, typer.Option("--quick", help="Files and NVML alone: does not start CUDA.")
]
WatchOption = Annotated[
    float | None,
    typer.Option(
        "--watch",
        metavar="SECONDS",
        min=0,
        max=3600,
        callback=_number,
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
        help="Report after this long, whatever has not answered. Default: 30, with --deep 300.",
    ),
]


@app.callback(invoke_without_command=True)
def gpucheck(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Say what is wrong with an NVIDIA GPU machine, how we know, and how to mend it."""
    if version:
        write(f"gpucheck {__version__}\n")
        raise typer.Exit
    if context.invoked_subcommand is None:
        write(context.get_help() + "\n")


@app.command()
def doctor(
    context: typer.Context,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: same as --format json.")
    ] = False,
    format: Annotated[  # noqa: A002 - the option's name
        Format, typer.Option("--format", help="How to print the report.")
    ] = Format.TEXT,
    stored: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Judge a snapshot that `gpucheck snapshot` wrote, instead of this machine. "
            "- is stdin.",
        ),
    ] = None,
    python: PythonOption = None,
    deep: DeepOption = False,
    watch: WatchOption = None,
    quick: QuickOption = False,
    expect_gpus: Annotated[
        int | None,
        typer.Option("--expect-gpus", metavar="N", min=0, help="Any other number is an error."),
    ] = None,
    select: Annotated[
        list[str] | None,
        typer.Option(metavar="CODES", help="Judge by these rules or families alone: DRV,GPU014."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="CODES", help="Leave these rules or families out.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings count as errors in the exit status.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what passed and what was not checked too.")
    ] = False,
    timeout: TimeoutOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the report, and leave.")
    ] = False,
) -> None:
    """Examine this machine: what is wrong, how we know, how to mend it."""
    if schema:
        from gpucheck.render import json_schema

        write(json_schema())
        raise typer.Exit
    if as_json and format is Format.MARKDOWN:
        raise UsageError("--json and --format markdown contradict each other")
    form = Format.JSON if as_json else format
    chosen, left_out = _named("--select", select), _named("--ignore", ignore)
    scope = Scope(
        python=python,
        deep=deep,
        quick=quick,
        watch_seconds=watch or 0.0,
        expect_gpus=expect_gpus,
        timeout_seconds=timeout,
    )
    if stored is None:
        machine = _collect(scope, lambda: warm_up(form), context.obj)
    else:
        machine = _stored(stored, scope)
    from gpucheck.render import render
    from gpucheck.report import examine

    report = examine(machine, select=chosen, ignore=left_out, strict=strict)
    write(render(report, form, verbose=verbose))
    raise typer.Exit(report.exit_code)


class PastedText(TyperCommand):
    """A command whose words are somebody's text, which may begin with "-" ("-lcuda …")."""

    def parse_args(  # type: ignore[override] # typer's own name for the context's class moves
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        own = {name for option in self.get_params(ctx) for name in option.opts}
        at = next((at for at, word in enumerate(args) if word not in own), len(args))
        return super().parse_args(ctx, [*args[:at], "--", *args[at:]] if args[at:] else args)


@app.command(cls=PastedText)
def explain(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='CODE | "ERROR TEXT"',
            help="A rule (DRV006), a family of rules (DRV), an Xid (Xid 79), an error code "
            "(error 802), or a pasted error message; - reads it from stdin.",
        ),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List every rule.")] = False,
) -> None:
    """Explain a rule, an Xid, an error code or a pasted error message."""
    from gpucheck.explain import USAGE, explanation, rule_list
    from gpucheck.render.style import of_standard_output

    if what and list_all:
        raise UsageError("--list lists the rules, and takes no text")
    style = of_standard_output()
    if list_all:
        text = rule_list()
    elif not what and (sys.stdin is None or sys.stdin.isatty()):
        text = USAGE
    else:
        pasted = _pasted() if what in (None, [], ["-"]) else " ".join(what or ())
        text = explanation(pasted, width=style.width, as_root=os.geteuid() == 0)
    write(style.finish(text))


@app.command()
def smoke(
    gpus: Annotated[
        str | None,
        typer.Option(
            metavar="all|4|0,2,5",
            help="A count, or CUDA's numbers: one replica each, a number may come twice; 3, is "
            "GPU 3 alone. Default: all, or what the job of torchrun or srun gives.",
        ),
    ] = None,
    strategy: Annotated[
        Strategy,
        typer.Option(help="dp: DataParallel in one process. ddp: a process for each GPU."),
    ] = Strategy.DP,
    epochs: Annotated[int, typer.Option(min=1, max=10_000)] = 1,
    batch_size: Annotated[int, typer.Option(min=1, max=60_000)] = 256,
    lr: Annotated[float, typer.Option(min=1e-9, max=1e9, help="The learning rate.")] = 0.01,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|download|synthetic",
            help="Where the MNIST files are. Default: the cache, else a download by torchvision, "
            "else synthetic digits.",
        ),
    ] = None,
    device: Annotated[
        Device, typer.Option(help="cpu is a rehearsal, and proves no GPU.")
    ] = Device.CUDA,
    seed: Annotated[int, typer.Option(min=0, max=1 << 40)] = 0,
    timeout: Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=1, max=86400, help="The longest wait for a sign of progress."
        ),
    ] = 60.0,
    python: PythonOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the report, and the training.")
    ] = False,
    snapshot_to: Annotated[
        Path | None,
        typer.Option(
            "--snapshot",
            metavar="FILE",
            help="Write the facts here too, private details removed, for doctor --from.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what passed and what was not checked too.")
    ] = False,
) -> None:
    """Train MNIST on the GPUs, and judge the machine by what comes out."""
    from gpucheck import snapshot_file
    from gpucheck.render import render
    from gpucheck.smoke import prove, without_names
    from gpucheck.workloads.plan import Plan

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
    report, speaks = prove(plan, python=python, quiet=as_json)
    if speaks:
        if snapshot_to is not None:
            snapshot_file.save(snapshot_file.as_json(without_names(report.machine)), snapshot_to)
        write(render(report, Format.JSON if as_json else Format.TEXT, verbose=verbose))
    raise typer.Exit(report.exit_code)


@app.command()
def bench(
    gpus: Annotated[
        str, typer.Option(metavar="all|2|0,3", help="As for smoke; on the CPU a count.")
    ] = "all",
    only: Annotated[
        str | None,
        typer.Option(metavar="gemm,memory,copy,peer,allreduce", help="Measure these alone."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="One data type, small copies, no all-reduce.")
    ] = False,
    device: Annotated[
        Device, typer.Option(help="cpu tries the program, and measures no GPU.")
    ] = Device.CUDA,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|none", help="Earlier runs to compare with. Default: this user's."
        ),
    ] = None,
    save_baseline: Annotated[
        bool, typer.Option("--save-baseline", help="Add this run to the baseline.")
    ] = False,
    python: PythonOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object: the report, and the figures.")
    ] = False,
    snapshot_to: Annotated[
        Path | None,
        typer.Option(
            "--snapshot",
            metavar="FILE",
            help="Write the facts here too, private details removed, for doctor --from.",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what passed and what was not checked too.")
    ] = False,
) -> None:
    """Measure how fast each GPU computes and copies, and judge that."""
    from gpucheck import privacy, snapshot_file
    from gpucheck.bench import baseline_file, measure
    from gpucheck.render import render
    from gpucheck.workloads.bench import MEASURES, BenchPlan

    chosen = MEASURES if only is None else tuple(only.split(","))
    kept = baseline_file() if baseline is None else Path(baseline)
    report = measure(
        BenchPlan(gpus=gpus, only=chosen, quick=quick, device=device.value),
        python=python,
        quiet=as_json,
        baseline=None if baseline == "none" else kept,
        save_baseline=save_baseline,
    )
    if snapshot_to is not None:
        snapshot_file.save(snapshot_file.as_json(privacy.redact(report.machine)), snapshot_to)
    write(render(report, Format.JSON if as_json else Format.TEXT, verbose=verbose))
    raise typer.Exit(report.exit_code)


@app.command()
def snapshot(
    identify: Annotated[
        bool,
        typer.Option(
            "--identify",
            help="Leave host and user names, home directories, serials and UUIDs as they are.",
        ),
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write here, not stdout.")
    ] = None,
    python: PythonOption = None,
    deep: DeepOption = False,
    watch: WatchOption = None,
    quick: QuickOption = False,
    timeout: TimeoutOption = None,
) -> None:
    """Write the facts of this machine as JSON, private details removed, for `doctor --from`."""
    from gpucheck import privacy, snapshot_file

    scope = Scope(
        python=python,
        deep=deep,
        quick=quick,
        watch_seconds=watch or 0.0,
        timeout_seconds=timeout,
    )
    machine = _collect(scope)
    text = snapshot_file.as_json(machine if identify else privacy.redact(machine))
    if output is None or str(output) == "-":
        write(text)
    else:
        snapshot_file.save(text, output)


def warm_up(form: Format) -> None:
    """Judge and print a machine of which nothing is known, and throw that away.

    Imports, types and tables that the real report needs are then there: 20 ms less after the last
    fact has come in, and more where the imports themselves would have waited until then.
    """
    import msgspec

    from gpucheck.render import render
    from gpucheck.report import examine
    from gpucheck.snapshot import Snapshot

    empty = Snapshot()
    msgspec.msgpack.decode(msgspec.msgpack.encode(empty), type=Snapshot)
    render(examine(empty), form)


def _named(option: str, values: list[str] | None) -> list[str]:
    """Split lists at commas, and refuse what is neither a rule nor a family of rules."""
    if not values:
        return []
    from gpucheck.rules import RULES

    names = [name.strip().upper() for value in values for name in value.split(",") if name.strip()]
    for name in names:
        if not any(name in (rule.code, rule.family) for rule in RULES):
            raise UsageError(
                f"{option}: no rule and no family is called {name!r}: see explain --list"
            )
    return names


def _collect(
    scope: Scope,
    warm_up: "Callable[[], object] | None" = None,
    forked_collector: "ForkedCollector | None" = None,
) -> "Snapshot":
    from gpucheck.forked_collector import ForkedCollector

    with forked_collector or ForkedCollector(scope) as forked_collector:
        if warm_up is not None:
            warm_up()  # while the other process looks, this one gets ready for what comes after
        from gpucheck.progress import waiting

        if scope.deep:
            notice = waiting("Putting every GPU to work ...")
        else:
            notice = waiting("Still waiting for an answer ...", after_seconds=2)
        with notice:
            machine = forked_collector.facts()
    _refuse_what_is_no_python(scope, machine)
    return machine


def _refuse_what_is_no_python(scope: Scope, machine: "Snapshot") -> None:
    """Refuse a --python that was started and is none; one that only did not answer is a fact."""
    from gpucheck.snapshot import Python, Unknown

    python = machine.pytorch.python
    answer = python.version if isinstance(python, Python) else python
    if scope.python and isinstance(answer, Unknown) and "no answer in" not in answer.why:
        raise UsageError(f"--python {answer.why}")


def _stored(file: str, scope: Scope) -> "Snapshot":
    given = {
        "--python": scope.python,
        "--deep": scope.deep,
        "--quick": scope.quick,
        "--watch": scope.watch_seconds,
    }
    for name, value in given.items():
        if value:
            raise UsageError(f"{name} examines this machine, and --from does not: give one of them")
    from gpucheck import snapshot_file
    from gpucheck.snapshot import replace

    machine = snapshot_file.read(file, patience_seconds=scope.timeout_seconds)
    if scope.expect_gpus is None:
        return machine
    return replace(machine, expected_gpus=scope.expect_gpus)


def _pasted() -> str:
    """Return what stdin holds, whatever bytes they are; of an endless one, the start."""
    return sys.stdin.buffer.read(1 << 25).decode("utf-8", "replace") if sys.stdin else ""


def write(text: str) -> None:
    """Write *text* to stdout whole; a character that it cannot show is written as its code."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = "".join(letter if letter.isascii() else _escape(letter) for letter in text)
    sys.stdout.write(text)


def _escape(letter: str) -> str:
    """Return *letter* as \\uXXXX, which JSON reads too (in two halves beyond the basic plane)."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
