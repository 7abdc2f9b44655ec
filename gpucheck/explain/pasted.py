"""Finds the error in a text that somebody pasted."""

import re

from gpucheck.explain import codes, messages, xids
from gpucheck.explain.page import Page
from gpucheck.knowledge import error_messages

#: What a report of ours (-v) lists as looked for and not found is no error.
_PASSED = re.compile(r"^\s*\S [A-Z]{3}[0-9]{3}  not found: .*$", re.MULTILINE)


def pages(what: str) -> tuple[Page, ...]:
    """Return the page of each error in *what*, the decisive one first; general ones are dropped."""
    text = error_messages.readable(_PASSED.sub("", what))
    bare = codes.bare(text)
    if bare:
        return bare
    numbers = xids.numbers(text)
    found = tuple(
        message for message in error_messages.find(text) if not numbers.intersection(message.xids)
    )
    if any(not message.general for message in found):
        pages_ = tuple(messages.page(message, text) for message in found)
        return (*xids.pages(text), *pages_)
    others = (*xids.pages(text), *xids.switch_pages(text), *codes.mentioned(text))
    return others or tuple(messages.page(message, text) for message in found)
