"""Turns a fleet's report into text: for a terminal, JSON, HTML, Prometheus, JUnit."""

import html
from collections.abc import Iterator

import msgspec

from gpucheck.fleet.form import FleetFormat
from gpucheck.fleet.report import FleetReport, FoldedFinding
from gpucheck.render.junit_xml import Case, Suite, document
from gpucheck.wording import count

MOST_NAMES = 400  # characters of a node set in the text; the JSON has it whole
_SIGNS = {"error": "✗", "warning": "!", "info": "·"}


def render(report: FleetReport, form: FleetFormat) -> str:
    """Return *report* as text that ends with a newline."""
    if form is FleetFormat.JSON:
        return msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
    if form is FleetFormat.JUNIT:
        return _junit(report)
    lines = {
        FleetFormat.TEXT: _text,
        FleetFormat.HTML: _html,
        FleetFormat.PROMETHEUS: _prometheus,
    }[form](report)
    return "\n".join(lines) + "\n"


def _text(report: FleetReport) -> Iterator[str]:
    yield summary(report)
    for finding in report.findings:
        where = " (fleet-wide)" if finding.is_fleet_wide else ""
        nodes = count(finding.node_count, "node")
        yield ""
        yield f"{_SIGNS[finding.severity]} {finding.code}  {finding.title}: {nodes}{where}"
        yield f"    saw   {finding.saw}"
        if finding.fix:
            yield f"    fix   {finding.fix}"
        yield f"    nodes {_shortened(finding.nodes)}"
    yield ""
    yield f"{report.verdict.capitalize()}."


def summary(report: FleetReport) -> str:
    """Say in a line how many nodes were examined, and how they are."""
    parts = [f"{report.examined:,} of {count(report.nodes, 'node')} examined"]
    order = ("healthy", "rehearsal", "degraded", "broken", "incomplete")
    parts += [f"{report.verdicts[name]:,} {name}" for name in order if name in report.verdicts]
    missing = report.nodes - report.examined
    if missing:
        parts.append(f"{missing:,} not examined")
    return ", ".join(parts)


def _shortened(nodes: str) -> str:
    return nodes if len(nodes) <= MOST_NAMES else f"{nodes[:MOST_NAMES]}…"


# ---------------------------------------------------------------------------------------- HTML

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--line:#d9dde3;--error:#b3261e;
--warning:#8a5300;--info:#31557d;--good:#1b6e3c}
@media (prefers-color-scheme:dark){:root{--ink:#e3e6ea;--paper:#15181c;--line:#333a43;
--error:#ff8a80;--warning:#ffc46b;--info:#9cc4f0;--good:#7bd69b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:64rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid var(--line);
padding:.4rem .6rem;text-align:left;vertical-align:top}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
.error{color:var(--error)}.warning{color:var(--warning)}.info{color:var(--info)}
.healthy{color:var(--good)}summary{cursor:pointer}
"""


def _html(report: FleetReport) -> Iterator[str]:
    kind = {"healthy": "healthy", "degraded": "warning", "rehearsal": "info"}.get(
        report.verdict, "error"
    )
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8"><title>gpucheck fleet</title>'
    yield f"<style>{_STYLE}</style></head><body>"
    yield f'<h1>Fleet: <span class="{kind}">{report.verdict}</span></h1>'
    yield f"<p>{html.escape(summary(report))}.</p>"
    if report.findings:
        yield "<table><thead><tr><th>Code</th><th>Finding</th><th>Nodes</th></tr></thead><tbody>"
        for finding in report.findings:
            yield _html_row(finding)
        yield "</tbody></table>"
    yield "<h2>Nodes</h2>"
    for verdict, nodes in report.by_verdict.items():
        number = count(report.verdicts[verdict], "node")
        yield f"<details><summary>{html.escape(verdict)}: {number}</summary>"
        yield f"<code>{html.escape(nodes)}</code></details>"
    yield "</body></html>"


def _html_row(finding: FoldedFinding) -> str:
    wide = " (fleet-wide)" if finding.is_fleet_wide else ""
    fix = f"<br>Fix: {html.escape(finding.fix)}" if finding.fix else ""
    return (
        f'<tr><td class="{finding.severity}">{finding.code}<br>{finding.severity}</td>'
        f"<td><b>{html.escape(finding.title)}</b>{wide}<br>{html.escape(finding.saw)}{fix}</td>"
        f"<td><details><summary>{finding.node_count:,}</summary>"
        f"<code>{html.escape(finding.nodes)}</code></details></td></tr>"
    )


# ---------------------------------------------------------------------------- Prometheus, JUnit


def _prometheus(report: FleetReport) -> Iterator[str]:
    yield "# HELP gpucheck_fleet_nodes Nodes by verdict."
    yield "# TYPE gpucheck_fleet_nodes gauge"
    for verdict, number in report.verdicts.items():
        yield f'gpucheck_fleet_nodes{{verdict="{verdict}"}} {number}'
    yield "# HELP gpucheck_fleet_nodes_asked Nodes that should have been examined."
    yield "# TYPE gpucheck_fleet_nodes_asked gauge"
    yield f"gpucheck_fleet_nodes_asked {report.nodes}"
    yield "# HELP gpucheck_fleet_finding_nodes Nodes with a finding."
    yield "# TYPE gpucheck_fleet_finding_nodes gauge"
    numbers: dict[tuple[str, str], int] = {}
    for finding in report.findings:
        key = finding.code, finding.severity
        numbers[key] = numbers.get(key, 0) + finding.node_count
    for (code, severity), number in numbers.items():
        yield f'gpucheck_fleet_finding_nodes{{code="{code}",severity="{severity}"}} {number}'


def _junit(report: FleetReport) -> str:
    cases = [_junit_case(finding) for finding in report.findings]
    cases = cases or [Case(classname="gpucheck.fleet", name="all nodes are healthy")]
    return document([Suite(name="gpucheck fleet", cases=cases)], taken_at="")


def _junit_case(finding: FoldedFinding) -> Case:
    name = f"{finding.code} {finding.title}"
    text = f"{finding.saw}\n{finding.nodes}"
    if finding.severity != "error":
        said = f"{finding.severity} {name}: {text}"
        return Case(classname="gpucheck.fleet", name=name, said=said)
    return Case(
        classname="gpucheck.fleet",
        name=name,
        failure=finding.saw or finding.title,
        details=text,
        kind=finding.code,
    )
