"""What came of each meeting of two nodes, and the file of a folder that keeps it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from gpucheck.usage_error import UsageError
from gpucheck.workloads.pair import Met

FILE = "pairs.meetings"  # a line of JSON for each; no name that a snapshot has
SCHEMA = "gpucheck.pair/1"


class PairAnswer(Met, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """A line that a node prints: once when it begins, and once when it is over."""

    is_over: bool = False


class Encounter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Two nodes of one round. Who is *absent* never began, for the reason that is given."""

    round: int
    first: str
    second: str
    device: str = "cuda"
    met: dict[str, Met] = {}
    absent: dict[str, str] = {}

    @property
    def nodes(self) -> tuple[str, str]:
        return self.first, self.second

    def partner_of(self, node: str) -> str:
        """Return the other one."""
        return self.second if node == self.first else self.first

    @property
    def failure(self) -> str:
        """What went wrong, whichever saw it; "" where both have their right sums."""
        said = [(node, each.wrong or each.why) for node, each in self.met.items()]
        return "; ".join(f"{node}: {text}" for node, text in said if text)

    @property
    def rate(self) -> float | None:
        """The slower one's bus bandwidth, where both have one; in 10^9 bytes a second."""
        rates = [each.rate for each in self.met.values() if each.rate is not None]
        return min(rates) if len(rates) == len(self.nodes) else None


def read(folder: Path) -> tuple[Encounter, ...]:
    """Return what *folder* keeps; UsageError: its file is unreadable."""
    path = folder / FILE
    try:
        lines = path.read_bytes().splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    try:
        return tuple(msgspec.json.decode(line, type=Encounter) for line in lines)
    except msgspec.MsgspecError as error:
        raise UsageError(f"{path}: {error}") from None


def read_all(sources: Iterable[str]) -> tuple[Encounter, ...]:
    """Return what all folders of *sources* keep."""
    return tuple(each for source in sources for each in read(Path(source)))


def keep(folder: Path, encounters: Sequence[Encounter]) -> None:
    """Write the file again, whole or not at all. UsageError: it cannot be written."""
    path = folder / FILE
    unfinished = path.with_suffix(".new")
    try:
        unfinished.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in encounters))
        unfinished.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
