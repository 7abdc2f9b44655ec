"""Turns a report into text: for a terminal, as JSON, as Markdown."""

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucheck.report import Report


class Format(str, enum.Enum):
    """How to print a report."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"


def render(report: "Report", format: Format, *, verbose: bool = False) -> str:  # noqa: A002
    """Return *report* as text that ends with a newline, fit for the standard output."""
    from gpucheck.render.sanitize import clean_report

    report = clean_report(report)
    if format is Format.JSON:
        from gpucheck.render import document

        return document.as_json(report)
    if format is Format.MARKDOWN:
        from gpucheck import privacy
        from gpucheck.render import markdown

        return markdown.as_markdown(privacy.redact_report(report))
    from gpucheck.render import style, terminal

    return terminal.as_text(report, style.of_standard_output(), verbose=verbose)


def json_schema() -> str:
    """Return the JSON Schema that every JSON report satisfies."""
    from gpucheck.render import document

    return document.schema()
