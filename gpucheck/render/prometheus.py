"""The report as Prometheus text for node_exporter's textfile collector.

No line has a timestamp: one would cost the whole file. The host is the scraper's to add. Names:
base units, a prefix, `_total` for counters alone; labels as dcgm-exporter's.
Sources: prometheus.io/docs/instrumenting/exposition_formats; node_exporter's collector/textfile.go.
"""

from collections.abc import Iterator
from datetime import datetime

from gpucheck import __version__
from gpucheck.render.rows import gpu_rows
from gpucheck.report import Report
from gpucheck.rule import Severity

VERDICTS = ("healthy", "degraded", "broken", "incomplete", "rehearsal")


def as_prometheus(report: Report) -> str:
    """Return *report* as one group of lines for each metric, with a newline at the end."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from _metric("gpucheck_build_info", "The version that looked.")
    yield f'gpucheck_build_info{{version="{_label(report.machine.gpucheck or __version__)}"}} 1'
    if (taken := _seconds(report.machine.taken_at)) is not None:
        yield from _metric("gpucheck_last_run_timestamp_seconds", "When the facts were taken.")
        yield f"gpucheck_last_run_timestamp_seconds {taken:.0f}"
    if "total" in report.machine.elapsed_ms:
        yield from _metric("gpucheck_run_duration_seconds", "How long looking took.")
        yield f"gpucheck_run_duration_seconds {report.machine.elapsed_ms['total'] / 1000:.3f}"
    yield from _metric("gpucheck_verdict", "1 for the verdict of the last run, 0 for the others.")
    for verdict in VERDICTS:
        yield f'gpucheck_verdict{{verdict="{verdict}"}} {int(report.verdict == verdict)}'
    yield from _metric("gpucheck_findings", "Findings that nothing else explains, by severity.")
    for severity in Severity:
        number = sum(root.severity is severity for root in report.roots)
        yield f'gpucheck_findings{{severity="{severity.value}"}} {number}'
    yield from _findings(report)
    codes = sorted({one.code for one in report.not_checked if one.kind != "by design"})
    if codes:
        yield from _metric("gpucheck_not_checked", "Rules whose question got no answer.")
        yield from (f'gpucheck_not_checked{{code="{code}"}} 1' for code in codes)
    yield from _gpus(report)


def _findings(report: Report) -> Iterator[str]:
    labels: dict[str, None] = {}
    for finding in report.findings:
        for gpu in finding.gpus or ("",):
            severity = finding.severity.value
            labels[f'code="{finding.code}",severity="{severity}",gpu="{gpu}"'] = None
    if labels:
        yield from _metric("gpucheck_finding", "A finding, and the GPU that it is about.")
        yield from (f"gpucheck_finding{{{each}}} 1" for each in labels)


def _gpus(report: Report) -> Iterator[str]:
    rows = gpu_rows(report)
    if not rows:
        return
    yield from _metric("gpucheck_gpu_state", "1 for the verdict of each GPU.")
    for row in rows:
        verdict = _label(str(row.verdict))
        yield f'gpucheck_gpu_state{{gpu="{row.index}",verdict="{verdict}"}} 1'


def _metric(name: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} gauge"


def _label(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _seconds(taken_at: object) -> float | None:
    try:
        return datetime.fromisoformat(str(taken_at)).timestamp()
    except ValueError:
        return None
