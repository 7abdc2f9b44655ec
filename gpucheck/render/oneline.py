"""The report as one line of at most 80 bytes, for hooks that cut off what is longer."""

from gpucheck.report import Report
from gpucheck.rule import Severity
from gpucheck.wording import count

LIMIT_BYTES = 80  # Kubernetes' node-problem-detector keeps no more of a plugin's output


def as_oneline(report: Report) -> str:
    """Return the verdict and the first root, in ASCII, with a newline."""
    text = f"{report.verdict}: {_what(report)}".encode("ascii", "replace").decode()
    text = " ".join(text.split())
    if len(text) > LIMIT_BYTES - 1:
        text = f"{text[: LIMIT_BYTES - 4]}..."
    return f"{text}\n"


def _what(report: Report) -> str:
    serious = [root for root in report.roots if root.severity is not Severity.INFO]
    if serious:
        first = serious[0]
        gpus = f" (GPU {','.join(map(str, first.gpus))})" if first.gpus else ""
        more = f", {len(serious) - 1} more" if len(serious) > 1 else ""
        return f"{first.code} {first.title}{gpus}{more}"
    if report.unanswered:
        silent = report.unanswered[0]
        return f"{silent.code} no answer: {silent.why}"
    return f"{count(len(report.passed), 'check')} passed"
