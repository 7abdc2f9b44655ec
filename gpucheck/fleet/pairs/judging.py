"""Tells a bad node from a bad path between two, by who went wrong with whom.

A node with a fault of its own goes wrong with whomever it meets; a path between two nodes lets each
of them be well with others. So those that went wrong meet a node that was well all along, which
takes as many rounds in a fleet of four as in one of ten thousand.
"""

import math
import statistics
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from gpucheck.fleet.facts import NodeResult
from gpucheck.fleet.pairs.encounters import Encounter

LEAST_LOSS = 0.1  # of the median, from which on a pair may be called slow
LEAST_SPREAD = 0.01
SPREAD_TO_SIGMA = 1.4826  # of a normal distribution's median absolute deviation
LEAST_RATES = 6  # pairs whose median says something
FIRST_CONFIRMATION = 3  # the number of the round


@dataclass(frozen=True, slots=True)
class Blame:
    """What went wrong, and whose fault it is."""

    nodes: tuple[str, ...]
    saw: str


@dataclass(slots=True)
class Verdict:
    """Every meeting that went wrong is explained by one of these, once."""

    nodes: list[Blame] = field(default_factory=list)
    paths: list[Blame] = field(default_factory=list)
    untold: list[Blame] = field(default_factory=list)  # a node or the path: nobody was left to tell


class Meetings:
    """All meetings so far, each of them well, wrong, or void because a node never began."""

    def __init__(
        self, encounters: Sequence[Encounter], racks: Mapping[str, str] | None = None
    ) -> None:
        self._racks = racks or {}
        self._limits = self._slow_below(encounters)
        self._well_with: dict[str, set[str]] = {}
        self.wrong: list[tuple[Encounter, str]] = []
        self.number: dict[str, int] = defaultdict(int)
        self.confirmed: set[str] = set()
        for one in encounters:
            if one.absent:
                continue
            saw = one.failure or self._slowness(one)
            if saw:
                self.wrong.append((one, saw))
            for node in one.nodes:
                self.number[node] += 1
                if not saw:
                    self._well_with.setdefault(node, set()).add(one.partner_of(node))
                if one.round >= FIRST_CONFIRMATION:
                    self.confirmed.add(node)

    @property
    def are_well(self) -> Collection[str]:
        """The nodes that were well with somebody."""
        return self._well_with.keys()

    def _well(self, node: str) -> Collection[str]:
        return self._well_with.get(node, ())

    def _distance(self, one: Encounter) -> bool | None:
        """Whether both are in one rack: pairs across a switch are compared with such."""
        first, second = (self._racks.get(node) for node in one.nodes)
        return None if first is None or second is None else first == second

    def _slow_below(self, encounters: Sequence[Encounter]) -> dict[bool | None, float]:
        rates: dict[bool | None, list[float]] = defaultdict(list)
        for one in encounters:
            if one.round < FIRST_CONFIRMATION and one.rate is not None and not one.failure:
                rates[self._distance(one)].append(one.rate)
        return {kind: _limit(each) for kind, each in rates.items() if len(each) >= LEAST_RATES}

    def _slowness(self, one: Encounter) -> str:
        limit = self._limits.get(self._distance(one))
        if limit is None or one.rate is None or one.rate >= limit:
            return ""
        return f"slow: {one.rate:.3g} GB/s, where other pairs have {limit:.3g} and more"

    def verdict(self) -> Verdict:
        """Name the nodes that explain most of what went wrong, then the paths that are left."""
        verdict = Verdict()
        left = self.wrong
        while left and (node := self._worst(left)) is not None:
            mine = [(one, saw) for one, saw in left if node in one.nodes]
            partner, saw = mine[0][0].partner_of(node), mine[0][1]
            of = f"{len(mine)} of {self.number[node]} all-reduces with one other node"
            verdict.nodes.append(Blame((node,), f"{of} went wrong; with {partner}: {saw}"))
            left = [(one, saw) for one, saw in left if node not in one.nodes]
        for one, saw in left:
            is_path = all(node in self._well_with for node in one.nodes)
            (verdict.paths if is_path else verdict.untold).append(Blame(one.nodes, saw))
        return verdict

    def _worst(self, left: Sequence[tuple[Encounter, str]]) -> str | None:
        """Return the node that went wrong with most others, one of them well without it."""
        partners: dict[str, set[str]] = defaultdict(set)
        for one, _ in left:
            for node in one.nodes:
                partners[node].add(one.partner_of(node))
        suspects = [
            node
            for node, others in partners.items()
            if len(others) > 1 and any(set(self._well(other)) - {node} for other in others)
        ]
        return max(
            suspects,
            key=lambda node: (len(partners[node]), -len(self._well(node)), node),
            default=None,
        )

    def to_confirm(self) -> list[tuple[str, str]]:
        """Return who should meet whom now, so that it can be told: a suspect, and a well node."""
        blamed = {node for blame in self.verdict().nodes for node in blame.nodes}
        certain = blamed & self.confirmed
        open_ = [one for one, _ in self.wrong if not certain.intersection(one.nodes)]
        suspects: dict[str, int] = defaultdict(int)
        met: dict[str, set[str]] = defaultdict(set)
        for one in open_:
            for node in one.nodes:
                suspects[node] += 1
                met[node].add(one.partner_of(node))
        went_wrong = {node for one, _ in self.wrong for node in one.nodes}
        cleared = (went_wrong & self.confirmed & self._well_with.keys()) - blamed
        free = sorted((self._well_with.keys() - went_wrong) | cleared)
        waiting = sorted(suspects.keys() - self.confirmed, key=lambda node: (-suspects[node], node))
        return _matched(
            waiting, free, {node: met[node].union(self._well(node)) for node in waiting}
        )


def results_of(
    encounters: Sequence[Encounter], racks: Mapping[str, str] | None = None
) -> tuple[NodeResult, ...]:
    """Return every node that met another, and whether the fault is its own."""
    device = {node: one.device for one in encounters for node in one.met}
    blamed = {node for one in Meetings(encounters, racks).verdict().nodes for node in one.nodes}

    def verdict(node: str) -> str:
        if node in blamed:
            return "broken"
        return "rehearsal" if device[node] == "cpu" else "healthy"

    return tuple(NodeResult(node=node, verdict=verdict(node)) for node in sorted(device))


def _limit(rates: Sequence[float]) -> float:
    """Return what no healthy pair of so many is below."""
    median = statistics.median(rates)
    deviation = statistics.median(abs(1 - rate / median) for rate in rates)
    sigma = max(SPREAD_TO_SIGMA * deviation, LEAST_SPREAD)
    bound = math.sqrt(2 * math.log(len(rates))) + 1.5
    return median * (1 - max(LEAST_LOSS, bound * sigma))


def _matched(
    suspects: Sequence[str], free: Sequence[str], met: Mapping[str, Collection[str]]
) -> list[tuple[str, str]]:
    """Give each suspect, as far as they reach, a well node that it has not met."""
    left = dict.fromkeys(free)
    pairs = []
    for suspect in suspects:
        partner = next(
            (node for node in left if node not in met[suspect] and node != suspect), None
        )
        if partner is not None:
            del left[partner]
            pairs.append((partner, suspect))
    return pairs
