"""Judges the snapshots of many machines, on every core, keeping some kilobytes of each."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import msgspec

from gpucheck import privacy, site_rules, snapshot_file
from gpucheck.fleet.facts import NodeFinding, NodeResult, facts_of, measures_of, peers_of
from gpucheck.fleet.reading import Answer
from gpucheck.probes.child import die_with
from gpucheck.render.sanitize import clean
from gpucheck.report import Finding, examine
from gpucheck.snapshot import Snapshot, value
from gpucheck.usage_error import UsageError

BATCH = 16  # snapshots for one errand to another process: some 2 MB
UNREADABLE = "unreadable"


class _Line(msgspec.Struct):
    """A line that names its node next to the snapshot."""

    node: str = ""
    snapshot: msgspec.Raw = msgspec.Raw()


def judge_all(
    answers: Iterable[Answer], *, processes: int = 0, rules: Sequence[str] = ()
) -> Iterator[NodeResult]:
    """Yield the result of each of *answers*, in any order; *processes* 0 means one per core.

    *rules* are files of a site's own rules.

    A node without an answer, or with one that is no snapshot, has the verdict `unreadable`, and its
    only finding says why.
    """
    count = processes or len(os.sched_getaffinity(0))
    batches = _batches(answers)
    site_rules.use(rules)
    if count == 1:
        for batch in batches:
            yield from judge_batch(batch)
        return
    # Forks, which the kernel ends with us: the pool's own processes would wait on for ever.
    fork = multiprocessing.get_context("fork")
    ours = (os.getpid(), rules)
    with ProcessPoolExecutor(count, mp_context=fork, initializer=_begin, initargs=ours) as pool:
        waiting = [pool.submit(judge_batch, batch) for batch in islice(batches, 2 * count)]
        while waiting:
            yield from waiting.pop(0).result()
            waiting += [pool.submit(judge_batch, batch) for batch in islice(batches, 1)]


def _begin(parent: int, rules: Sequence[str]) -> None:
    die_with(parent)
    site_rules.use(rules)


def _batches(answers: Iterable[Answer]) -> Iterator[Sequence[Answer]]:
    given = iter(answers)
    while batch := tuple(islice(given, BATCH)):
        yield batch


def judge_batch(batch: Sequence[Answer]) -> list[NodeResult]:
    """Judge some nodes: one errand of a process."""
    return [judge(answer) for answer in batch]


def judge(answer: Answer) -> NodeResult:
    """Return what a fleet keeps of one node."""
    if answer.failure:
        return _unreadable(answer.node, answer.failure)
    node, content = answer.node, answer.content
    try:
        if b'"snapshot"' in content[:4096]:
            line = msgspec.json.decode(content, type=_Line)
            node, content = line.node or node, bytes(line.snapshot) or content
        machine = snapshot_file.parse(content, node)
    except UsageError as error:
        return _unreadable(node, str(error).removeprefix(f"{node}: "))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _unreadable(node, str(error))
    return result_of(node, machine)


def result_of(node: str, machine: Snapshot) -> NodeResult:
    """Judge one machine, and return what a fleet keeps of it."""
    if value(machine.host.name) not in (None, privacy.HOST):  # taken with --identify
        machine = privacy.redact(machine)
    report = examine(site_rules.noted(machine))
    return NodeResult(
        node=clean(node),
        verdict=report.verdict,
        findings=tuple(_brief(finding) for finding in report.roots),
        peers=peers_of(machine),
        facts=facts_of(machine),
        measures=measures_of(machine),
        taken_at=machine.taken_at,
    )


def _brief(finding: Finding) -> NodeFinding:
    return NodeFinding(
        code=finding.code,
        severity=finding.severity.value,
        title=finding.title,
        saw=clean(finding.saw),
        fix=clean(finding.remedy.text),
        subject=clean(finding.subject),
        gpus=finding.gpus,
    )


def _unreadable(node: str, why: str) -> NodeResult:
    finding = NodeFinding(code="FLT003", severity="error", title="", saw=clean(why), fix="")
    return NodeResult(node=clean(node), verdict=UNREADABLE, findings=(finding,))
