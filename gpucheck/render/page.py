"""The report as one HTML page that fetches nothing and runs nothing."""

import html
from collections.abc import Iterator, Sequence

from gpucheck.render import bench_page, burn_page
from gpucheck.render.groups import Group, grouped
from gpucheck.render.remedy import Adviser
from gpucheck.render.rows import gpu_rows
from gpucheck.render.terminal import summary
from gpucheck.report import Report

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--paper:#fff;--line:#d9dde3;--soft:#f3f5f8;
--error:#b3261e;--warning:#8a5300;--info:#31557d;--good:#1b6e3c}
@media (prefers-color-scheme:dark){:root{--ink:#e3e6ea;--paper:#15181c;--line:#333a43;
--soft:#1e232a;--error:#ff8a80;--warning:#ffc46b;--info:#9cc4f0;--good:#7bd69b}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:60rem;margin:2rem auto;padding:0 1rem;overflow-wrap:anywhere}
h1 small{font-size:60%;font-weight:400}
table{border-collapse:collapse;width:100%;margin:1rem 0}
td,th{border-bottom:1px solid var(--line);padding:.35rem .6rem;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
article{border-left:4px solid var(--line);padding:.1rem 1rem;margin:1rem 0}
article.error{border-color:var(--error)}article.warning{border-color:var(--warning)}
article.info{border-color:var(--info)}
pre{background:var(--soft);padding:.6rem;overflow-x:auto;font:13px ui-monospace,monospace}
.broken,.incomplete,.drain{color:var(--error)}.degraded{color:var(--warning)}
.healthy,.ok{color:var(--good)}
svg{vertical-align:middle}rect.bar{fill:var(--info)}rect.rest{fill:var(--line)}
"""
_BAR = 80  # pixels
_HEADS = '<th class="n">GPU</th><th>Name</th><th>State</th>' + "".join(
    f'<th class="n">{head}</th>' for head in ("Temperature", "Power", "Memory")
)


def as_html(report: Report) -> str:
    """Return *report* as a page, with a newline at its end."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    machine = report.machine
    yield "<!doctype html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1">'
    yield f"<title>gpucheck: {report.verdict}</title><style>{_style(report)}</style></head><body>"
    yield (
        f'<h1>gpucheck: <span class="{report.verdict}">{report.verdict}</span> '
        f"<small>{_text(machine.taken_at)}</small></h1>"
    )
    yield f"<p>{_text(summary(report))}</p>"
    yield from _table(report)
    adviser = Adviser(machine)
    for group in grouped(report.findings):
        yield from _article(group, adviser)
    if machine.bench is not None:
        yield from bench_page.section(machine.bench)
    if machine.burn is not None:
        yield from burn_page.section(machine.burn)
    if report.not_checked:
        yield f"<details><summary>Not checked: {len(report.not_checked)}</summary><ul>"
        for one in report.not_checked:
            about = f" ({one.subject})" if one.subject else ""
            yield f"<li>{_text(f'{one.code}{about}: {one.why} ({one.kind})')}</li>"
        yield "</ul></details>"
    passed = ", ".join(report.passed)
    yield f"<details><summary>Passed: {len(report.passed)}</summary><p>{passed}</p></details>"
    yield "</body></html>"


def _style(report: Report) -> str:
    machine = report.machine
    bench = "" if machine.bench is None else bench_page.STYLE
    burn = "" if machine.burn is None else burn_page.STYLE
    return _STYLE + bench + burn


def _table(report: Report) -> Iterator[str]:
    rows = gpu_rows(report)
    if not rows:
        return
    yield f"<table><thead><tr>{_HEADS}</tr></thead>"
    for row in rows:
        used, total = row.memory_used_bytes, row.memory_total_bytes
        watts = f"{_unit(row.power_watts, 'W')} {_bar(row.power_watts, row.power_limit_watts)}"
        yield (
            f'<tr><td class="n">{row.index}</td><td>{_text(row.name)}</td>'
            f'<td class="{_text(row.verdict)}">{_text(row.verdict)}</td>'
            f'<td class="n">{_unit(row.temperature_celsius, "°C")}</td>'
            f'<td class="n">{watts}</td>'
            f'<td class="n">{_gigabytes(used)} {_bar(used, total)}</td></tr>'
        )
    yield "</table>"


def _bar(part: float | None, whole: float | None) -> str:
    if part is None or not whole:
        return ""
    width = max(0.0, min(1.0, part / whole)) * _BAR
    return (
        f'<svg width="{_BAR}" height="8" role="img" aria-label="{part / whole:.0%}">'
        f'<rect class="rest" width="{_BAR}" height="8"/>'
        f'<rect class="bar" width="{width:.0f}" height="8"/></svg>'
    )


def _unit(number: float | None, unit: str) -> str:
    return "–" if number is None else f"{number:.0f} {unit}"


def _gigabytes(number: int | None) -> str:
    return "–" if number is None else f"{number / 1e9:.1f} GB"


def _article(group: Group, adviser: Adviser) -> Iterator[str]:
    finding = group.finding
    about = f" ({group.about})" if group.about and group.about not in finding.title else ""
    yield f'<article class="{finding.severity.value}">'
    yield f"<h2>{finding.code} {_text(finding.title + about)}</h2>"
    for saw in group.seen:
        yield f"<p>{_text(saw)}</p>"
    yield f"<p>{_text(finding.why)}</p>"
    label = "<b>Fix:</b> "
    for way in adviser.ways(group.remedy):
        lead = f"{way.lead}: " if way.lead else ""
        yield f"<p>{label}{lead}{_text(way.text)}</p>"
        label = ""
        for note in way.notes:
            yield f"<p>({_text(note)})</p>"
        for block in way.blocks:
            if block.heading:
                yield f"<p>{_text(block.heading)}:</p>"
            yield _commands(block.lines)
    if group.remedy.verify is not None:
        yield f"<p>Check:</p>{_commands(adviser.commands((group.remedy.verify,)))}"
    if group.consequences:
        yield "<ul>"
        for each in group.consequences:
            yield f"<li>{each.code} {_text(each.title)}: {_text(each.saw)}</li>"
        yield "</ul>"
    yield "</article>"


def _commands(lines: Sequence[str]) -> str:
    return f"<pre>{_text(chr(10).join(lines))}</pre>"


def _text(text: object) -> str:
    return html.escape("" if text is None else str(text))
