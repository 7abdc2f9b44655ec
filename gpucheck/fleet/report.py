"""The report of a fleet: equal findings of nodes as one, the rare ones first, and the verdict."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

import msgspec

from gpucheck.fleet.judging import UNREADABLE
from gpucheck.fleet.nodes import folded
from gpucheck.fleet.rules import FLEET_RULES, Fleet, FleetFinding, flagged

SCHEMA = "gpucheck.fleet/1"
Verdict = Literal["healthy", "degraded", "broken", "incomplete", "rehearsal"]
WIDESPREAD = 0.2  # of the examined nodes, from which on a finding is the whole fleet's
_NUMBERS = re.compile(r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]|\d+(?:[.,]\d+)*")
_RANKS = {"error": 0, "warning": 1, "info": 2}


class FoldedFinding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found, and all nodes on which it was."""

    code: str
    severity: Literal["error", "warning", "info"]
    title: str
    saw: str  # of the first node; the others' differs in numbers at most
    fix: str
    nodes: str  # a set: gpu[0001-0312,0400]
    node_count: int
    is_fleet_wide: bool = False


class FleetReport(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """The verdict on a fleet. Findings: the most severe first, of those the rarest."""

    verdict: Verdict
    exit_code: int
    nodes: int  # asked for
    examined: int
    verdicts: dict[str, int]  # how many nodes have which
    findings: tuple[FoldedFinding, ...]
    flagged: tuple[str, ...]  # nodes with an error or warning of their own
    by_verdict: dict[str, str]  # verdict → node set, the healthy ones too


def report_of(fleet: Fleet, *, allow_missing: bool = False) -> FleetReport:
    """Judge *fleet* as a whole, and put together what its nodes show alike."""
    findings = [finding for rule in FLEET_RULES for finding in rule(fleet)]
    examined = [result for result in fleet.results if result.verdict != UNREADABLE]
    folded_findings = [*_of_nodes(fleet), *(_folded(each, len(examined)) for each in findings)]
    ordered = sorted(
        folded_findings, key=lambda each: (_RANKS[each.severity], each.node_count, each.code)
    )
    names: dict[str, list[str]] = defaultdict(list)
    for result in fleet.results:
        names[result.verdict].append(result.node)
    missing = any(each.code == "FLT003" for each in findings)
    verdict = _verdict(ordered, names, missing=missing and not allow_missing)
    return FleetReport(
        verdict=verdict,
        exit_code=int(verdict in ("broken", "incomplete")),
        nodes=len({result.node for result in fleet.results} | set(fleet.asked)),
        examined=len(examined),
        verdicts={name: len(nodes) for name, nodes in sorted(names.items())},
        findings=tuple(ordered),
        flagged=tuple(sorted(flagged(fleet))),
        by_verdict={name: folded(nodes) for name, nodes in sorted(names.items())},
    )


def _of_nodes(fleet: Fleet) -> list[FoldedFinding]:
    """Fold findings of single nodes that differ in numbers only."""
    groups: dict[tuple[str, str, str, str], list[tuple[str, str, str]]] = defaultdict(list)
    examined = 0
    for result in fleet.results:
        if result.verdict == UNREADABLE:
            continue
        examined += 1
        for each in result.findings:
            masked = _NUMBERS.sub("#", each.saw)
            groups[each.severity, each.code, each.title, masked].append(
                (result.node, each.saw, each.fix)
            )
    found = []
    for (severity, code, title, _), rows in groups.items():
        nodes = tuple(dict.fromkeys(node for node, *_ in rows))
        _, saw, fix = rows[0]
        finding = FleetFinding(
            code=code, severity=severity, title=title, saw=saw, nodes=nodes, fix=fix
        )
        found.append(_folded(finding, examined))
    return found


def _folded(finding: FleetFinding, examined: int) -> FoldedFinding:
    return FoldedFinding(
        code=finding.code,
        severity=finding.severity,  # type: ignore[arg-type]
        title=finding.title,
        saw=finding.saw,
        fix=finding.fix,
        nodes=folded(finding.nodes),
        node_count=len(set(finding.nodes)),
        is_fleet_wide=len(finding.nodes) > max(1, WIDESPREAD * examined),
    )


def _verdict(
    findings: Sequence[FoldedFinding], names: dict[str, list[str]], *, missing: bool
) -> Verdict:
    compared = any(each.severity == "error" and each.code != "FLT003" for each in findings)
    if names.get("broken") or compared:
        return "broken"
    if missing or names.get("incomplete"):
        return "incomplete"
    serious = any(each.severity == "warning" for each in findings)
    if serious or names.get("degraded"):
        return "degraded"
    return "rehearsal" if names.get("rehearsal") else "healthy"
