"""The report as Markdown, for pasting into a bug report."""

import re
from collections.abc import Iterator

from gpucheck import __version__
from gpucheck.families import SECTIONS
from gpucheck.render import summaries
from gpucheck.render.groups import Group, first_step, grouped
from gpucheck.render.remedy import Adviser
from gpucheck.render.rows import gpu_rows, pair_rows
from gpucheck.render.style import Style
from gpucheck.render.table import gpu_table, pair_matrix
from gpucheck.render.terminal import by_reason, summary
from gpucheck.report import Report

_SIGNS = re.compile(r"[\\`*_\[\]<>|~&$]")
#: "@name" and "#12" would call people and link issues even where they are escaped.
_CALLS = re.compile(r"([@#])(?=\w)")
_BACKTICKS = re.compile("`+")
_PLAIN = Style(width=100)


def as_markdown(report: Report) -> str:
    """Return *report*, cleaned before, as Markdown that renders the same whatever is in it."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    machine = report.machine
    yield f"## gpucheck report: {report.verdict}"
    yield ""
    yield escape(summary(report))
    first = first_step(report.findings)
    if first is not None:
        yield ""
        yield f"Fix first: {first.code} {escape(first.title)}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name in SECTIONS:
        if line := summaries.of_section(name, machine):
            yield f"| {name} | {escape(line)} |"
    yield f"| gpucheck | {escape(machine.gpucheck or __version__)} |"
    if machine.taken_at:
        yield f"| Taken at | {escape(machine.taken_at)} |"
    if rows := gpu_rows(report):
        yield ""
        yield from _fenced("text", list(gpu_table(rows, _PLAIN, "")))
    pairs = pair_rows(report)
    if len({pair.topology for pair in pairs}) > 1:
        yield ""
        yield from _fenced("text", list(pair_matrix(pairs, _PLAIN, "")))
    adviser = Adviser(machine)
    for group in grouped(report.findings):
        yield ""
        yield from _group(group, adviser)
    if report.not_checked:
        yield ""
        yield "### Not checked"
        yield ""
        for why, asked in by_reason(report.not_checked):
            yield f"- {escape(asked)}: {escape(why)}"


def _group(group: Group, adviser: Adviser) -> Iterator[str]:
    finding = group.finding
    about = group.about
    shown = f" ({escape(about)})" if about and about not in finding.title else ""
    yield f"### {finding.severity.value} {finding.code}: {escape(finding.title)}{shown}"
    yield ""
    for saw in group.seen:
        yield f"- saw: {escape(saw)}"
    yield f"- why: {escape(finding.why)}"
    for consequence in group.consequences:
        text = f"{consequence.title}: {consequence.saw}"
        yield f"- and so {consequence.severity.value} {consequence.code}: {escape(text)}"
    label = "- fix: "
    for way in adviser.ways(group.remedy):
        lead = f"{way.lead}: " if way.lead else ""
        yield f"{label}{lead}{escape(way.text)}".rstrip()
        label = "- "
        for note in way.notes:
            yield f"  ({escape(note)})"
        for block in way.blocks:
            yield ""
            if block.heading:
                yield f"  {escape(block.heading)}:"
                yield ""
            yield from (f"  {line}" for line in _fenced("sh", list(block.lines)))
    if group.remedy.verify is not None:
        yield "- check:"
        yield ""
        yield from (
            f"  {line}" for line in _fenced("sh", list(adviser.commands((group.remedy.verify,))))
        )


def escape(text: str) -> str:
    """Return *text* so that Markdown shows it as it is: no markup, no HTML, no mention, no link."""
    return _CALLS.sub(r"\1&#8203;", _SIGNS.sub(r"\\\g<0>", text))


def _fenced(language: str, lines: list[str]) -> Iterator[str]:
    """A code block whose fence is longer than any row of backticks in it."""
    longest = max((len(run) for line in lines for run in _BACKTICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield fence + language
    yield from lines
    yield fence
