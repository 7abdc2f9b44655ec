"""The commands of `gpucheck fleet`: judge stored snapshots, run on many nodes, print hooks."""

import shlex
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpucheck import console
from gpucheck.cli.fleet_pairs import DeviceOption, in_rounds, meet
from gpucheck.cli.options import RulesOption
from gpucheck.cli_help import JUDGE, PRINT, Command, Group
from gpucheck.fleet.engines import ENGINES
from gpucheck.fleet.form import FleetFormat
from gpucheck.fleet.jobs import JOBS
from gpucheck.fleet.pairs import ALLREDUCE
from gpucheck.render.sanitize import clean
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.fleet.engines.interface import Engine, Settings, Task
    from gpucheck.fleet.rules import Fleet

ENGINE = "What some engines need"

EXIT_STATUS = """\
Exit status:
  0  every node is healthy or degraded
  1  a node is broken, incomplete or not examined
  2  the call was wrong, or an input file is bad
  3  gpucheck itself failed
"""
EPILOG = f"""\
Examples:
  gpucheck fleet run --nodes gpu[01-64] --out today
                                          by ssh; a second run asks those left
  gpucheck fleet run --engine slurm --out today
                                          the job's nodes, else all of Slurm's
  gpucheck fleet judge today/             a folder of NODE.json
  gpucheck fleet judge all.jsonl.gz --asked gpu[01-64]
                                          who did not answer is a finding
  gpucheck fleet hook slurm-prolog        a file for the scheduler

{EXIT_STATUS}"""

app = typer.Typer(
    cls=Group,
    epilog=EPILOG,
    add_completion=False,
    no_args_is_help=True,
    help="Examine many machines, and compare them.",
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _one_of(known: Collection[str], word: str) -> str:
    if word not in known:
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(known)}")
    return word


JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="|".join(JOBS),
        parser=lambda word: _one_of(JOBS, word),
        autocompletion=lambda incomplete: [name for name in JOBS if name.startswith(incomplete)],
        help="; ".join(f"{name}: {job.help}" for name, job in JOBS.items()) + ".",
    ),
]
NodesOption = Annotated[
    str | None,
    typer.Option(
        metavar="NODES|@FILE",
        help="Default: those of the job that this runs in, else all that the engine knows; local "
        "and ssh know none.",
    ),
]
EngineOption = Annotated[
    str,
    typer.Option(
        metavar="|".join(ENGINES),
        parser=lambda word: _one_of(ENGINES, word),
        autocompletion=lambda incomplete: [name for name in ENGINES if name.startswith(incomplete)],
        help="What starts the command on a node.",
    ),
]
RemoteCommandOption = Annotated[
    str, typer.Option(metavar="WORDS", help="How gpucheck is called on a node.")
]
TimeoutOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=1,
        max=86400,
        help="The wait for one node. Default: "
        + ", ".join(f"{name} {job.timeout_seconds:g}" for name, job in JOBS.items())
        + ".",
    ),
]
GpusOption = Annotated[
    int | None,
    typer.Option(
        min=0, max=1024, rich_help_panel=ENGINE, help="Of each node, where the engine cannot say."
    ),
]
AskedOption = Annotated[
    str | None,
    typer.Option(
        "--asked",
        rich_help_panel=JUDGE,
        metavar="NODES|@FILE",
        help="Nodes that should have answered: gpu[01-32], or a file with one on each line.",
    ),
]
RayAddressOption = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=ENGINE,
        help="For ray: HOST:PORT. Default: the cluster that this machine is of.",
    ),
]
RayPythonOption = Annotated[
    str,
    typer.Option(metavar="PATH", rich_help_panel=ENGINE, help="For ray: the cluster's own Python."),
]
ImageOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", rich_help_panel=ENGINE, help="For kubernetes: one that holds gpucheck."
    ),
]
NamespaceOption = Annotated[
    str,
    typer.Option(
        metavar="NAME", rich_help_panel=ENGINE, help="For kubernetes. Default: the context's."
    ),
]
RuntimeClassOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        rich_help_panel=ENGINE,
        help='For kubernetes: what shows GPUs to a pod that takes none; "" where every pod sees '
        "them.",
    ),
]
AllowMissing = Annotated[
    bool,
    typer.Option(
        "--allow-missing", rich_help_panel=JUDGE, help="A node without an answer is no error."
    ),
]
FormatOption = Annotated[
    FleetFormat, typer.Option("--format", rich_help_panel=PRINT, help="How to print the report.")
]
RacksOption = Annotated[
    Path | None,
    typer.Option(
        "--racks",
        rich_help_panel=JUDGE,
        metavar="FILE",
        parser=Path,
        help="Lines of NODE RACK: finds racks that are slow.",
    ),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", parser=Path, help="Where the answers are kept.")
]
HistoryOption = Annotated[
    Path | None,
    typer.Option(
        "--history",
        rich_help_panel=JUDGE,
        metavar="DIR",
        parser=Path,
        help="Reports of earlier runs; this one is added to them.",
    ),
]


@app.command(cls=Command, epilog=EPILOG)
def judge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|FILE...", help="Folders of NODE.json, single snapshots, or JSON lines."
        ),
    ],
    asked: AskedOption = None,
    allow_missing: AllowMissing = False,
    racks: RacksOption = None,
    history: HistoryOption = None,
    rules: RulesOption = None,
    form: FormatOption = FleetFormat.TEXT,
    processes: Annotated[
        int, typer.Option(min=0, max=1024, help="Processes that judge. Default: one for each core.")
    ] = 0,
) -> None:
    """Judge the snapshots of many machines by the same rules, and compare them."""
    from gpucheck.fleet.judging import judge_all
    from gpucheck.fleet.pairs.encounters import read_all
    from gpucheck.fleet.pairs.judging import results_of
    from gpucheck.fleet.reading import answers
    from gpucheck.fleet.rules import Fleet

    results = tuple(judge_all(answers(sources), processes=processes, rules=rules or ()))
    encounters = read_all(sources)
    if not results and not encounters:
        raise UsageError(f"{', '.join(sources)}: holds no snapshot")
    places = _racks(racks)
    fleet = Fleet(
        results=(*results, *results_of(encounters, places)),
        asked=_nodes(asked),
        racks=places,
        encounters=encounters,
        history=_history(history),
    )
    _print(fleet, form, history, allow_missing=allow_missing)


@app.command(cls=Command, epilog=EPILOG)
def run(
    out: OutOption,
    what: JobArgument = "doctor",
    nodes: NodesOption = None,
    engine: EngineOption = "ssh",
    remote_command: RemoteCommandOption = "gpucheck",
    timeout: TimeoutOption = None,
    fan_out: Annotated[int, typer.Option(min=1, max=1024, help="Nodes asked at a time.")] = 64,
    gpus: GpusOption = None,
    ray_address: RayAddressOption = "auto",
    ray_python: RayPythonOption = "",
    image: ImageOption = "",
    namespace: NamespaceOption = "",
    runtime_class: RuntimeClassOption = "nvidia",
    device: DeviceOption = "cuda",
    racks: RacksOption = None,
    allow_missing: AllowMissing = False,
    form: FormatOption = FleetFormat.TEXT,
) -> None:
    """Examine many nodes, keep each answer as it comes, and judge them together.

    A second run into the same folder asks only the nodes that gave no answer.
    """
    from gpucheck.fleet.engines.interface import Settings
    from gpucheck.fleet.judging import judge_all
    from gpucheck.fleet.pairs.running import Rounds
    from gpucheck.fleet.reading import answers
    from gpucheck.fleet.rules import Fleet
    from gpucheck.fleet.run import gather

    settings = Settings(
        gpus=gpus,
        ray_address=ray_address,
        ray_python=ray_python,
        image=image,
        namespace=namespace,
        runtime_class=runtime_class,
    )
    chosen, tasks = _tasks(engine, settings, nodes, remote_command, what)
    seconds = timeout or JOBS[what].timeout_seconds
    names, places = tuple(task.node for task in tasks), _racks(racks)
    if what == ALLREDUCE:
        rounds = Rounds(
            engine=chosen,
            nodes=names,
            program=tuple(shlex.split(remote_command)),
            folder=out,
            device=device,
            is_here=engine == "local",
            timeout_seconds=seconds,
            fan_out=fan_out,
            racks=places,
        )
        _print(in_rounds(rounds), form, None, allow_missing=allow_missing)
    if device != "cuda":
        raise UsageError(f"--device {device}: for {ALLREDUCE} alone")
    outcomes = gather(chosen, tasks, out, job=what, timeout_seconds=seconds, fan_out=fan_out)
    with closing(outcomes):  # a signal ends what runs on the nodes
        for answered in outcomes:
            if answered.why:
                console.complain(f"{answered.node}: {answered.why}")
    fleet = Fleet(results=tuple(judge_all(answers([str(out)]))), asked=names, racks=places)
    _print(fleet, form, None, allow_missing=allow_missing)


@app.command(cls=Command, epilog=EPILOG)
def plan(
    what: JobArgument = "doctor",
    nodes: NodesOption = None,
    engine: EngineOption = "ssh",
    remote_command: RemoteCommandOption = "gpucheck",
    timeout: TimeoutOption = None,
    out: OutOption = Path("answers"),
    gpus: GpusOption = None,
    ray_address: RayAddressOption = "auto",
    ray_python: RayPythonOption = "",
    image: ImageOption = "",
    namespace: NamespaceOption = "",
    runtime_class: RuntimeClassOption = "nvidia",
) -> None:
    """Print what `fleet run` would start: commands, a script or a manifest. Starts nothing."""
    from gpucheck.fleet.engines.interface import Settings

    if what == ALLREDUCE:
        raise UsageError(f"plan {what}: who meets whom depends on what comes of it; see fleet run")
    settings = Settings(
        gpus=gpus,
        ray_address=ray_address,
        ray_python=ray_python,
        image=image,
        namespace=namespace,
        runtime_class=runtime_class,
    )
    chosen, tasks = _tasks(engine, settings, nodes, remote_command, what)
    away = chosen.out_of_reach([task.node for task in tasks])
    reachable = [task for task in tasks if task.node not in away]
    seconds = timeout or JOBS[what].timeout_seconds
    console.write(chosen.plan(reachable, timeout_seconds=seconds, out=out))
    for node, why in away.items():
        console.write(f"# {node} is left out: {clean(why)}\n")


def _complete_hooks(incomplete: str) -> list[str]:
    from gpucheck.fleet.hooks import HOOKS

    return [name for name in HOOKS if name.startswith(incomplete)]


@app.command(cls=Command, epilog=EPILOG)
def hook(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            autocompletion=_complete_hooks,
            help="slurm-healthcheck, slurm-prolog, nhc, npd, textfile, systemd-timer or "
            "kubernetes-daemonset.",
        ),
    ],
) -> None:
    """Print what lets a scheduler or a monitor call gpucheck."""
    from gpucheck.fleet import hooks

    console.write(hooks.hook(name))


app.command(cls=Command, hidden=True, epilog=EPILOG)(meet)


def _tasks(
    name: str, settings: "Settings", nodes: str | None, program: str, what: str
) -> "tuple[Engine, tuple[Task, ...]]":
    from gpucheck.fleet.engines import engine
    from gpucheck.fleet.run import tasks

    chosen = engine(name, settings)
    return chosen, tasks(what, _nodes(nodes) or chosen.nodes(), shlex.split(program))


def _nodes(text: str | None) -> tuple[str, ...]:
    from gpucheck.fleet.nodes import expanded

    if not text:
        return ()
    try:
        if text.startswith("@"):
            lines = _text(Path(text[1:]), text[1:]).split()
            return tuple(dict.fromkeys(name for line in lines for name in expanded(line)))
        return expanded(text)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _text(path: Path, whom: str) -> str:
    from gpucheck.probes.apart import ACCESS_SECONDS, within

    def read() -> str:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{whom}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise UsageError(f"{whom}: is no text in UTF-8") from None

    return within(ACCESS_SECONDS, whom, read)


def _racks(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    lines = _text(path, f"--racks {path}").splitlines()
    racks: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if len(words) not in (0, 2):
            raise UsageError(f"--racks {path}:{number}: not NODE RACK: {line.strip()}")
        if words:
            racks[words[0]] = words[1]
    return racks


def _history(folder: Path | None) -> tuple[frozenset[str], ...]:
    from gpucheck.fleet import history

    return () if folder is None else history.read(folder)


def _print(fleet: "Fleet", form: FleetFormat, kept: Path | None, *, allow_missing: bool) -> None:
    from gpucheck.fleet import history
    from gpucheck.fleet.formats import render
    from gpucheck.fleet.report import report_of

    report = report_of(fleet, allow_missing=allow_missing)
    console.write(render(report, form))
    if kept is not None:
        history.add(kept, report.flagged)
    raise typer.Exit(report.exit_code)
