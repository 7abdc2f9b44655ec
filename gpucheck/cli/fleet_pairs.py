"""What `gpucheck fleet run allreduce` does, and the command that it starts on each node."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from gpucheck import console
from gpucheck.cli.options import PythonOption

if TYPE_CHECKING:
    from gpucheck.fleet.pairs.running import Rounds
    from gpucheck.fleet.rules import Fleet


def _device(word: str) -> str:
    if word not in ("cuda", "cpu"):
        raise typer.BadParameter(f"{word!r} is not one of cuda, cpu")
    return word


DeviceOption = Annotated[
    str,
    typer.Option(
        metavar="cuda|cpu",
        parser=_device,
        help="For allreduce: cpu is a rehearsal, which proves no GPU.",
    ),
]


def in_rounds(rounds: "Rounds") -> "Fleet":
    """Have the nodes meet, and say of each meeting that failed what was seen."""
    from gpucheck.fleet.judging import judge_all
    from gpucheck.fleet.pairs.encounters import read
    from gpucheck.fleet.pairs.judging import results_of
    from gpucheck.fleet.reading import answers
    from gpucheck.fleet.rules import Fleet

    for one in rounds.run():
        why = "; ".join(f"{node}: {text}" for node, text in one.absent.items()) or one.failure
        if why:
            console.complain(f"{one.first} and {one.second}, round {one.round}: {why}")
    encounters = read(rounds.folder)
    met = results_of(encounters, rounds.racks)
    return Fleet(
        results=(*judge_all(answers([str(rounds.folder)])), *met),
        asked=rounds.nodes,
        racks=dict(rounds.racks),
        encounters=encounters,
    )


def meet(
    address: Annotated[str, typer.Argument(help="Where the first of the two is.")],
    port: Annotated[int, typer.Argument(min=1, max=65535)],
    first: Annotated[bool, typer.Option("--first", help="This is the first node.")] = False,
    device: DeviceOption = "cuda",
    python: PythonOption = None,
) -> None:
    """Add up numbers with one other node: what `fleet run allreduce` starts on each of two."""
    import os

    from gpucheck.fleet.pairs.encounters import PairAnswer
    from gpucheck.workloads import launch, pair

    def say(answer: PairAnswer) -> None:
        console.write(msgspec.json.encode(answer).decode() + "\n")
        console.flush()

    say(PairAnswer())
    gpus = 1 if device == "cpu" else pair.gpus_here()
    if not gpus:
        say(PairAnswer(is_over=True, why="CUDA would show no GPU"))
        return
    met = pair.meet(
        pair.Meeting(is_first=first, address=address, port=port, device=device),
        python=launch.python_for(python, os.environ),
        gpus=gpus,
    )
    say(PairAnswer(is_over=True, **msgspec.structs.asdict(met)))
