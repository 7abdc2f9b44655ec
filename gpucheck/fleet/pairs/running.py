"""Has nodes meet in rounds, by whatever engine starts a command on them, and keeps what comes.

Each round is a launch of its own, in which a node meets one other: a node that is dead, late or
stuck costs the one that it should have met its round, and nobody else anything.
"""

import re
import socket
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gpucheck.fleet.engines.interface import Engine, Output, Task
from gpucheck.fleet.pairs import ALLREDUCE
from gpucheck.fleet.pairs.circle import pairs_of_round, rounds_of
from gpucheck.fleet.pairs.encounters import SCHEMA, Encounter, PairAnswer, keep, read
from gpucheck.fleet.pairs.judging import FIRST_CONFIRMATION, Meetings
from gpucheck.fleet.run import claim, forget_failure, keep_output
from gpucheck.workloads.pair import Met

ROUNDS = 2
CONFIRMATIONS = 3  # at most: where few are well, they help one suspect after the other
TIMEOUT_SECONDS = 300.0
PORT = 28_100
_ANSWER = re.compile(r'\{"schema":"' + re.escape(SCHEMA) + '"[^\n]*')


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How nodes are asked to meet."""

    engine: Engine
    nodes: tuple[str, ...]
    program: tuple[str, ...]  # gpucheck's name on a node
    folder: Path
    device: str = "cuda"
    is_here: bool = False  # every node is this machine: a rehearsal
    timeout_seconds: float = TIMEOUT_SECONDS
    fan_out: int = 64
    racks: Mapping[str, str] = field(default_factory=dict)

    def run(self) -> Generator[Encounter, None, None]:
        """Yield each meeting as it is over. What the folder has already does not come again."""
        claim(self.folder, ALLREDUCE)
        known = [one for one in read(self.folder) if not one.absent]
        away = self.engine.out_of_reach(self.nodes)
        for node, why in away.items():
            keep_output(Output(node=node, why=why), self.folder)
        here = [node for node in self.nodes if node not in away]
        for number in range(min(ROUNDS, rounds_of(here))):
            had = {frozenset(one.nodes) for one in known}
            pairs = [each for each in pairs_of_round(here, number) if frozenset(each) not in had]
            yield from self._round(number + 1, pairs, known)
        for number in range(FIRST_CONFIRMATION, FIRST_CONFIRMATION + CONFIRMATIONS):
            pairs = Meetings(known, self.racks).to_confirm()
            if not pairs:
                break
            yield from self._round(number, pairs, known)
        self._note_absent(known)

    def tasks(self, number: int, pairs: Sequence[tuple[str, str]]) -> list[Task]:
        """Return the commands of a round: those who meet stand next to each other."""
        tasks = []
        for first, second in pairs:
            address = "127.0.0.1" if self.is_here else first.rpartition("@")[2]  # USER@HOST
            port = _free_port() if self.is_here else PORT + number
            for node in (first, second):
                words = ["fleet", "meet", address, str(port), f"--device={self.device}"]
                words += ["--first"] if node == first else []
                task = Task(
                    node=node,
                    words=(*self.program, *words),
                    takes_gpus=True,
                    meets_others=True,
                )
                tasks.append(task)
        return tasks

    def _round(
        self, number: int, pairs: Sequence[tuple[str, str]], known: list[Encounter]
    ) -> Generator[Encounter, None, None]:
        if not pairs:
            return
        waiting: dict[str, Output] = {}
        pair_of = {node: pair for pair in pairs for node in pair}
        outputs = self.engine.run(
            self.tasks(number, pairs),
            timeout_seconds=self.timeout_seconds,
            fan_out=max(2, self.fan_out - self.fan_out % 2),
        )
        with closing(outputs):
            for output in outputs:
                waiting[output.node] = output
                first, second = pair_of[output.node]
                if first in waiting and second in waiting:
                    one = encounter(number, waiting[first], waiting[second], self.device)
                    known.append(one)
                    keep(self.folder, known)
                    yield one

    def _note_absent(self, known: Sequence[Encounter]) -> None:
        """Leave the reason of each node that never began, where a fleet's answers are kept."""
        began = {node for one in known for node in one.met}
        why = {node: text for one in known for node, text in one.absent.items()}
        for node in began:
            forget_failure(node, self.folder)
        for node in sorted(why.keys() - began):
            keep_output(Output(node=node, why=why[node]), self.folder)


def encounter(number: int, first: Output, second: Output, device: str) -> Encounter:
    """Return what two nodes' outputs say of their meeting."""
    met: dict[str, Met] = {}
    absent: dict[str, str] = {}
    for output in (first, second):
        answers = _answers(output.content)
        if not answers:
            absent[output.node] = output.why or "what it sent is no answer"
        elif answers[-1].is_over:
            last = answers[-1]
            met[output.node] = Met(gpus=last.gpus, rate=last.rate, wrong=last.wrong, why=last.why)
        else:
            met[output.node] = Met(why=output.why or "it began, and sent no more")
    return Encounter(
        round=number, first=first.node, second=second.node, device=device, met=met, absent=absent
    )


def _answers(content: bytes) -> list[PairAnswer]:
    """Return the lines of ours in *content*, among whatever a login wrote."""
    found = []
    for line in _ANSWER.findall(content.decode("utf-8", "replace")):
        try:
            found.append(msgspec.json.decode(line, type=PairAnswer))
        except msgspec.MsgspecError:
            continue
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
