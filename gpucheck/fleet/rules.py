"""The rules of a fleet: what only a comparison of many machines shows."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from gpucheck.fleet.facts import NodeFinding, NodeResult
from gpucheck.fleet.judging import UNREADABLE
from gpucheck.fleet.pairs.encounters import Encounter
from gpucheck.fleet.pairs.judging import Meetings
from gpucheck.rule import Rule, Severity
from gpucheck.rules import fleet as about
from gpucheck.wording import count, listed, ranges

MAJORITY = 0.8  # of true peers, from which on the others differ from a norm
LEAST_PEERS = 5
LEAST_LOSS = 0.05  # of a measure's median, from which on a GPU may be named
LEAST_SPREAD = 0.01  # of the median: no fleet is more alike than that
SPREAD_TO_SIGMA = 1.4826  # of a normal distribution's median absolute deviation
SLOT_LOSS = 0.03
SLOT_LEAST_NODES = 5
LEMON_RUNS = 3
HISTORY_RUNS = 10


class FleetFinding(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen on some nodes of a fleet."""

    code: str
    severity: str
    title: str
    saw: str
    nodes: tuple[str, ...]
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """All nodes of one examination, and what earlier ones and the caller know of them."""

    results: Sequence[NodeResult]
    asked: Sequence[str] = ()  # nodes that should have answered
    racks: dict[str, str] = field(default_factory=dict)  # node → rack or switch
    encounters: Sequence[Encounter] = ()  # all-reduces of two nodes
    history: Sequence[frozenset[str]] = ()  # flagged nodes of earlier runs, newest first


Judge = Callable[[Fleet], Iterable[tuple[str, Sequence[str]]]]  # what was seen, and on which nodes


@dataclass(frozen=True, slots=True)
class FleetRule:
    """A rule that sees a whole fleet; `rule` holds its code, severity, title and explanation."""

    rule: Rule
    fix: str
    judge: Judge

    def __call__(self, fleet: Fleet) -> Iterator[FleetFinding]:
        for saw, nodes in self.judge(fleet):
            yield FleetFinding(
                code=self.rule.code,
                severity=self.rule.severity.value,
                title=self.rule.title,
                saw=saw,
                nodes=tuple(nodes),
                fix=self.fix,
            )


def fleet_rule(rule: Rule, fix: str) -> Callable[[Judge], FleetRule]:
    """Make a function of a fleet what answers *rule*."""
    return lambda judge: FleetRule(rule, fix, judge)


def _examined(fleet: Fleet) -> list[NodeResult]:
    return [result for result in fleet.results if result.verdict != UNREADABLE]


# --------------------------------------------------------------------------------------- drift


def _shares(fleet: Fleet) -> Iterator[tuple[tuple[str, ...], str, Counter[str], list[NodeResult]]]:
    """Yield, for each group of peers and each fact, how many nodes have which value."""
    groups: dict[tuple[str, ...], list[NodeResult]] = defaultdict(list)
    for result in _examined(fleet):
        groups[result.peers].append(result)
    for peers, members in sorted(groups.items()):
        for name in sorted({name for member in members for name in member.facts}):
            having = [member for member in members if name in member.facts]
            values = Counter(member.facts[name] for member in having)
            if len(having) >= LEAST_PEERS and len(values) > 1:
                yield peers, name, values, having


@fleet_rule(
    about.differs,
    "Bring these nodes to what their peers have, or examine why they differ.",
)
def differs(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """At least four of five true peers agree on this fact, and these nodes have another value."""
    for _, name, values, having in _shares(fleet):
        norm, size = values.most_common(1)[0]
        if size < MAJORITY * len(having):
            continue
        for other in sorted(set(values) - {norm}):
            nodes = [member.node for member in having if member.facts[name] == other]
            yield f"{name} is {other}; {size:,} of {len(having):,} peers have {norm}", nodes


@fleet_rule(
    about.mixed,
    "Nothing, where an update is under way; finish it, or roll it back.",
)
def mixed(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """True peers do not agree on this fact, and no value has a majority of four fifths."""
    for peers, name, values, having in _shares(fleet):
        if values.most_common(1)[0][1] >= MAJORITY * len(having):
            continue
        shares = listed(
            [f"{size / len(having):.0%} {text}" for text, size in values.most_common(4)]
        )
        about = f"{peers[0]}, {count(len(having), 'node')}"
        yield f"{name}: {shares} ({about})", [member.node for member in having]


# ---------------------------------------------------------------------------------- not examined


@fleet_rule(
    about.not_examined,
    "Look at the reason; ask the node again with `gpucheck fleet run` into the same folder.",
)
def not_examined(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """The node was asked for, and no snapshot of it can be judged: nothing is known of it."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for result in fleet.results:
        if result.verdict == UNREADABLE:
            reasons[result.findings[0].saw].append(result.node)
    answered = {result.node for result in fleet.results}
    silent = [node for node in fleet.asked if node not in answered]
    if silent:
        reasons["gave no answer"] += silent
    yield from ((why, nodes) for why, nodes in sorted(reasons.items()))


# ----------------------------------------------------------------------------------- stragglers


class _Measured(NamedTuple):
    node: str
    gpu: int
    loss: float  # 1 - value / median


def _measured(fleet: Fleet) -> Iterator[tuple[str, list[_Measured], float]]:
    """Yield each measure of each group of peers: the loss of every GPU, and the fleet's sigma."""
    groups: dict[tuple[tuple[str, ...], str], list[tuple[str, int, float]]] = defaultdict(list)
    for result in _examined(fleet):
        for measure, numbers in result.measures.items():
            groups[result.peers, measure] += [(result.node, gpu, each) for gpu, each in numbers]
    for (_, measure), rows in sorted(groups.items()):
        if len(rows) < LEAST_PEERS:
            continue
        median = statistics.median([each for *_, each in rows])
        if median <= 0:
            continue
        losses = [_Measured(node, gpu, 1 - each / median) for node, gpu, each in rows]
        deviation = statistics.median([abs(row.loss) for row in losses])
        yield measure, losses, max(SPREAD_TO_SIGMA * deviation, LEAST_SPREAD)


def _bound(number: int) -> float:
    """Return the z from which on one of *number* healthy GPUs is all but never found."""
    return math.sqrt(2 * math.log(number)) + 1.5


@fleet_rule(
    about.straggler,
    "Run `gpucheck bench` on the node alone, and look at the clock and the reasons it reports.",
)
def straggler(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """This GPU is at least 5 % under the fleet's median, far outside the fleet's own spread."""
    for measure, rows, sigma in _measured(fleet):
        least = max(LEAST_LOSS, _bound(len(rows)) * sigma)
        slots, racks = _slow_slots(rows), _slow_racks(rows, fleet.racks)
        slow: dict[str, list[_Measured]] = defaultdict(list)
        for row in rows:
            if row.loss < least:
                continue
            # What its place costs is said of the place.
            shared = max(
                slots[row.gpu][0] if row.gpu in slots else 0.0,
                racks.get(fleet.racks.get(row.node, ""), (0.0, []))[0],
            )
            if row.loss - shared >= least:
                slow[row.node].append(row)
        for node, mine in slow.items():
            gpus = ranges([row.gpu for row in mine])
            losses = list(dict.fromkeys(f"{row.loss:.1%}" for row in sorted(mine, key=_loss)))
            by = losses[0] if len(losses) == 1 else f"{losses[0]} to {losses[-1]}"
            what = f"GPU{'s' if len(mine) > 1 else ''} {gpus}: {measure} {by} under the median"
            yield f"{what} of {len(rows):,} GPUs", [node]


def _loss(row: _Measured) -> float:
    return row.loss


def _slow_slots(rows: Sequence[_Measured]) -> dict[int, tuple[float, list[str]]]:
    """Return the GPU indexes that are slow on many nodes: their loss, and the nodes."""
    by_slot: dict[int, list[_Measured]] = defaultdict(list)
    for row in rows:
        if row.loss >= LEAST_LOSS:
            by_slot[row.gpu].append(row)
    slow_rows = sum(map(len, by_slot.values()))
    sizes = Counter(row.gpu for row in rows) if by_slot else {}
    slow: dict[int, tuple[float, list[str]]] = {}
    for slot, mine in sorted(by_slot.items()):
        size = sizes[slot]
        if size < SLOT_LEAST_NODES or len(mine) < max(3, size // 5):
            continue
        elsewhere = (slow_rows - len(mine)) / max(1, len(rows) - size)
        if elsewhere > len(mine) / size / 3:
            continue
        slow[slot] = statistics.median(row.loss for row in mine), [row.node for row in mine]
    return slow


def _slow_racks(
    rows: Sequence[_Measured], racks: dict[str, str]
) -> dict[str, tuple[float, list[str]]]:
    """Return the racks that are slow as a whole: their loss, and the nodes."""
    by_rack: dict[str, list[_Measured]] = defaultdict(list)
    for row in rows if racks else ():
        if row.node in racks:
            by_rack[racks[row.node]].append(row)
    slow: dict[str, tuple[float, list[str]]] = {}
    for rack, members in by_rack.items():
        loss = statistics.median(row.loss for row in members)
        nodes = list(dict.fromkeys(row.node for row in members))
        if len(nodes) >= 3 and loss >= SLOT_LOSS and len(members) < len(rows) / 2:
            slow[rack] = loss, nodes
    return slow


@fleet_rule(
    about.slow_place,
    "Look at what the place has in common: airflow, power, a riser, a switch.",
)
def slow_place(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """GPUs in one slot of many nodes, or on the nodes of one rack, are slow together."""
    for measure, rows, _ in _measured(fleet):
        for slot, (loss, nodes) in sorted(_slow_slots(rows).items()):
            yield f"GPU {slot} of {count(len(nodes), 'node')}: {measure} {loss:.1%} low", nodes
        for rack, (loss, nodes) in sorted(_slow_racks(rows, fleet.racks).items()):
            yield f"rack {rack}: {measure} {loss:.1%} under the fleet's median", nodes


# -------------------------------------------------------------------------------------- history


@fleet_rule(
    about.lemon,
    "Take it out of service and have the hardware examined.",
)
def lemon(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """The node had an error or a warning of its own in 3 of its last 10 runs, this one counted."""
    runs = [flagged(fleet), *fleet.history][:HISTORY_RUNS]
    times = Counter(node for run in runs for node in run)
    by_times: dict[int, list[str]] = defaultdict(list)
    for node, number in times.items():
        if number >= LEMON_RUNS:
            by_times[number].append(node)
    for number, nodes in sorted(by_times.items(), reverse=True):
        yield f"flagged in {number} of the last {len(runs)} runs", sorted(nodes)


# ----------------------------------------------------------------------------------------- pairs


@fleet_rule(
    about.failing_node,
    "Run `gpucheck doctor --deep` and `gpucheck bench` on the node, and examine its adapters.",
)
def failing_node(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """This node went wrong with several partners, who are well with others."""
    for blame in Meetings(fleet.encounters, fleet.racks).verdict().nodes:
        yield blame.saw, blame.nodes


@fleet_rule(
    about.failing_path,
    "Examine what is between the two: links, switches, routes, firewalls.",
)
def failing_path(fleet: Fleet) -> Iterator[tuple[str, Sequence[str]]]:
    """Two nodes went wrong with each other, and both are well with others."""
    meetings = Meetings(fleet.encounters, fleet.racks)
    verdict = meetings.verdict()
    for blame in verdict.paths:
        yield f"between {' and '.join(blame.nodes)}: {blame.saw}", blame.nodes
    if verdict.untold and not meetings.are_well:
        nodes = sorted({node for blame in verdict.untold for node in blame.nodes})
        yield f"no two nodes are well together; {verdict.untold[0].saw}", nodes
        return
    for blame in verdict.untold:
        where = f"between {' and '.join(blame.nodes)}, or in one of them"
        yield f"{where} (no other well node was left to tell): {blame.saw}", blame.nodes


FLEET_RULES: tuple[FleetRule, ...] = (
    differs,
    mixed,
    not_examined,
    straggler,
    slow_place,
    failing_node,
    failing_path,
    lemon,
)


def flagged(fleet: Fleet) -> frozenset[str]:
    """Return the nodes with an error or a warning of their own that few of the fleet share."""
    share = Counter(
        finding.code
        for result in fleet.results
        for finding in {found.code: found for found in result.findings}.values()
    )
    rare = {code for code, nodes in share.items() if nodes <= max(1, len(fleet.results) // 5)}
    return frozenset(
        result.node
        for result in fleet.results
        if any(_is_serious(found) and found.code in rare for found in result.findings)
    )


def _is_serious(finding: NodeFinding) -> bool:
    return finding.severity != Severity.INFO.value
