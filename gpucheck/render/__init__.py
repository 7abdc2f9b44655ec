"""Turns a report into text: for a terminal, as JSON, as Markdown."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What the output can show, and how much is wanted."""

    style: Style = field(default_factory=Style)
    verbose: bool = False
    quiet: bool = False


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
    """For the programs of the machine's owner, which know its GPUs by their UUIDs."""

    identifies = True

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


RENDERERS: Mapping[Format, Renderer] = {
    Format.TEXT: Text(),
    Format.JSON: Json(),
    Format.MARKDOWN: Markdown(),
}


def render(report: "Report", form: Format, look: Look | None = None) -> str:
    """Return *report* as text that ends with a newline, fit for the standard output."""
    renderer = RENDERERS[form]
    return renderer.text(_prepared(report, renderer), look or Look())


def one_line(report: "Report", name: str, form: Format, look: Look | None = None) -> str:
    """Return *report* in one line, that of a snapshot called *name*."""
    renderer = RENDERERS[form]
    return renderer.line(_prepared(report, renderer), name, look or Look())


def _prepared(report: "Report", renderer: Renderer) -> "Report":
    """Return *report* without what would steer a terminal, and without private details."""
    from gpucheck.render.sanitize import clean_report

    report = clean_report(report)
    if renderer.identifies:
        return report
    from gpucheck import privacy

    return privacy.redact_report(report)


def json_schema() -> str:
    """Return the JSON Schema that every JSON report satisfies."""
    from gpucheck.render import document

    return document.schema()
