"""The report as Markdown, for pasting into a bug report."""

import re
from collections.abc import Iterator

from gpucheck import __version__
from gpucheck.render import summaries
from gpucheck.render.rows import gpu_rows, pair_rows
from gpucheck.render.style import Style
from gpucheck.render.table import gpu_table, pair_matrix
from gpucheck.render.terminal import Group, by_reason, first_step, grouped, summary
from gpucheck.report import Report

_MARKS = re.compile(r"[\\`*_\[\]<>|~&$]")
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
    first = first_step(report)
    if first is not None:
        yield ""
        yield f"First of all ({first.code}): {escape(first.fix)}"
    yield ""
    yield "| | |"
    yield "|---|---|"
    for name, _, look in summaries.SECTIONS:
        if line := look(machine):
            yield f"| {name} | {escape(line)} |"
    yield f"| gpucheck | {escape(machine.gpucheck or __version__)} |"
    if rows := gpu_rows(report):
        yield ""
        yield from _fenced("text", list(gpu_table(rows, _PLAIN, "")))
    pairs = pair_rows(report)
    if len({pair.topology for pair in pairs}) > 1:
        yield ""
        yield from _fenced("text", list(pair_matrix(pairs, _PLAIN, "")))
    for group in grouped(report.findings):
        yield ""
        yield from _group(group)
    if report.not_checked:
        yield ""
        yield "### Not checked"
        yield ""
        for why, asked in by_reason(report.not_checked):
            yield f"- {escape(asked)}: {escape(why)}"


def _group(group: Group) -> Iterator[str]:
    finding = group.finding
    subjects = ", ".join(member.subject for member in group.members if member.subject)
    about = f" ({escape(subjects)})" if subjects and subjects not in finding.title else ""
    yield f"### {finding.severity.value} {finding.code}: {escape(finding.title)}{about}"
    yield ""
    for member in group.members:
        yield f"- saw: {escape(member.saw)}"
    yield f"- why: {escape(finding.why)}"
    yield f"- fix: {escape(finding.fix)}"
    for consequence in group.consequences:
        text = f"{consequence.title}: {consequence.saw}"
        yield f"- and so {consequence.severity.value} {consequence.code}: {escape(text)}"
    if finding.commands:
        yield ""
        yield from _fenced("sh", list(finding.commands))


def escape(text: str) -> str:
    """Return *text* so that Markdown shows it as it is: no mark, no HTML, no mention, no link."""
    return _CALLS.sub(r"\1&#8203;", _MARKS.sub(r"\\\g<0>", text))


def _fenced(language: str, lines: list[str]) -> Iterator[str]:
    """A code block whose fence is longer than any row of backticks in it."""
    longest = max((len(run) for line in lines for run in _BACKTICKS.findall(line)), default=0)
    fence = "`" * max(3, longest + 1)
    yield fence + language
    yield from lines
    yield fence
