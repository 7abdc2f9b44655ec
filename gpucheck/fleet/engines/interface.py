"""What every engine can do, and what it is asked with and answers."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command for one node; its standard output is the answer."""

    node: str
    words: tuple[str, ...]
    takes_gpus: bool = False
    meets_others: bool = False  # by the names of their nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one node wrote; `why` says why that is no answer, and is empty where it may be one."""

    node: str
    content: bytes = b""
    why: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What some engines have to be told."""

    gpus: int | None = None  # of each node, where the engine cannot say
    ray_address: str = "auto"
    ray_python: str = ""  # none: our own
    image: str = ""
    namespace: str = ""
    runtime_class: str = "nvidia"


class Engine(Protocol):
    """Starts commands on nodes. Transport and node lists are the engine's own."""

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that are meant where none is named. UsageError: it cannot say."""

    def out_of_reach(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return those of *nodes* that cannot be asked now, and why."""

    def run(
        self, tasks: Sequence[Task], *, timeout_seconds: float, fan_out: int
    ) -> Generator[Output, None, None]:
        """Run *tasks*, *fan_out* at a time, and yield each output as it comes.

        Every task yields one output, whatever becomes of its node. Closing the iterator ends what
        still runs.
        """

    def plan(self, tasks: Sequence[Task], *, timeout_seconds: float, out: Path) -> str:
        """Return what a person could run instead: commands, a script or a manifest."""
