"""The page of a known error message."""

from gpucheck.explain.page import Page
from gpucheck.knowledge.error_messages import Message, decisive_line


def page(message: Message, text: str = "") -> Page:
    """Return the page of *message*, with the line of *text* by which it was found."""
    line = decisive_line(text, message) if text else ""
    return Page(
        name=message.id,
        line="" if line == text.strip() else line,
        meaning=message.meaning,
        faults=message.fault,
        fix=message.fix,
        steps=message.commands,
        verify=message.verify,
        link=message.link,
        codes=message.codes,
    )
