"""Turns a report into text: for a terminal, and for the programs that read reports."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpucheck.render.style import Style

if TYPE_CHECKING:
    from gpucheck.report import Report


class Format(str, enum.Enum):
    """How to print a report."""

    TEXT = "text"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"
    JUNIT = "junit"
    SARIF = "sarif"
    PROMETHEUS = "prometheus"
    ONELINE = "oneline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the output can show, and how much is wanted."""

    style: Style = field(default_factory=Style)
    verbose: bool = False
    quiet: bool = False
    identify: bool = False  # leave private details in whatever the format


class Renderer(ABC):
    """One format. It gets a report without private details, unless it says that it identifies."""

    identifies = False

    @abstractmethod
    def text(self, report: "Report", look: Look) -> str:
        """Return *report*, cleaned before, as text that ends with a newline."""

    def line(self, report: "Report", name: str, look: Look) -> str:
        """Return *report* in one line where several are printed; *name* is where it came from."""
        from gpucheck.render import terminal

        return terminal.as_line(report, name, look.style)


class Text(Renderer):
    """For the person at the machine."""

    identifies = True

    def text(self, report: "Report", look: Look) -> str:
        from gpucheck.render import terminal

        return terminal.as_text(report, look.style, verbose=look.verbose, quiet=look.quiet)


class Json(Renderer):
    """For programs."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import document

        return document.as_json(report)

    def line(self, report: "Report", name: str, look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import document

        return document.as_line(report)


class Markdown(Renderer):
    """For pasting into a bug report."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import markdown

        return markdown.as_markdown(report)


class Html(Renderer):
    """For a browser: one page that fetches nothing."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import page

        return page.as_html(report)


class JUnit(Renderer):
    """For Jenkins, GitLab and whatever else shows test results."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import junit

        return junit.as_junit(report)


class Sarif(Renderer):
    """For code scanning."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import sarif

        return sarif.as_sarif(report)


class Prometheus(Renderer):
    """For node_exporter's textfile collector."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import prometheus

        return prometheus.as_prometheus(report)


class OneLine(Renderer):
    """For hooks that keep 80 bytes."""

    def text(self, report: "Report", look: Look) -> str:  # noqa: ARG002
        from gpucheck.render import oneline

        return oneline.as_oneline(report)


RENDERERS: Mapping[Format, Renderer] = {
    Format.TEXT: Text(),
    Format.JSON: Json(),
    Format.MARKDOWN: Markdown(),
    Format.HTML: Html(),
    Format.JUNIT: JUnit(),
    Format.SARIF: Sarif(),
    Format.PROMETHEUS: Prometheus(),
    Format.ONELINE: OneLine(),
}


def render(report: "Report", form: Format, look: Look | None = None) -> str:
    """Return *report* as text that ends with a newline, fit for the standard output."""
    renderer = RENDERERS[form]
    look = look or Look()
    return renderer.text(_prepared(report, renderer, look), look)


def one_line(report: "Report", name: str, form: Format, look: Look | None = None) -> str:
    """Return *report* in one line, that of a snapshot called *name*."""
    renderer = RENDERERS[form]
    look = look or Look()
    return renderer.line(_prepared(report, renderer, look), name, look)


def _prepared(report: "Report", renderer: Renderer, look: Look) -> "Report":
    """Return *report* without what would steer a terminal, and without private details."""
    from gpucheck.render.sanitize import clean_report

    report = clean_report(report)
    if renderer.identifies or look.identify:
        return report
    from gpucheck import privacy

    return privacy.redact_report(report)


def json_schema() -> str:
    """Return the JSON Schema that every JSON report satisfies."""
    from gpucheck.render import document

    return document.schema()
