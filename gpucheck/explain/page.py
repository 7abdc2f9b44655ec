"""What is said of one error, and how it is laid out in lines."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpucheck.knowledge.error_messages import FAULTS
from gpucheck.knowledge.step import Step
from gpucheck.site_rules import every_rule
from gpucheck.wording import listed

#: Of one text: the first page is printed in full, and this many others in short.
MOST_OTHERS = 3
LONGEST_LINE = 300  # of a quoted log line
_PLACES = {"host": "on the host", "windows": "in Windows", "image": "in the image's recipe"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One error: what it means, whose fault it is, what to do, and how to see that it worked."""

    name: str  # "xid-79", or the id of a message
    meaning: str
    faults: tuple[str, ...]
    fix: str
    steps: tuple[Step, ...]
    verify: str
    title: str = ""
    line: str = ""  # the decisive line of the pasted text
    link: str = ""
    codes: tuple[str, ...] = ()  # rules that look for its causes


def joined(pages: Sequence[Page], width: int, *, as_root: bool) -> str:
    """Return the first of *pages* in full, and the others in short."""
    first, *others = pages
    text = "\n".join(_lines(first, width, as_root)) + "\n"
    for other in others[:MOST_OTHERS]:
        text += "\nAlso:\n"
        for part in (_quoted(other.line), other.title, other.meaning):
            text += "".join(f"{line}\n" for line in wrapped(part, width, "  "))
    return text


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Break *text* between words into lines of at most *width* columns; a long word stays whole."""
    return textwrap.wrap(
        text,
        max(width, 30),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def rule_lines(codes: Sequence[str]) -> list[str]:
    """Return a line for each rule of *codes* that there is."""
    titles = {rule.code: rule.title for rule in every_rule()}
    return [f"  {code}  {titles[code]}" for code in codes if code in titles]


def _lines(page: Page, width: int, as_root: bool) -> Iterator[str]:
    if page.title:
        yield from wrapped(page.title, width)
        yield ""
    if page.line:
        yield from wrapped(_quoted(page.line), width, "  ")
        yield ""
    yield from wrapped(page.meaning, width)
    yield ""
    if page.faults:
        faults = [FAULTS.get(fault, fault) for fault in page.faults]
        yield from wrapped(f"Whose fault: {_either(faults)}.", width)
        yield ""
    yield from wrapped(f"What to do: {page.fix}", width)
    yield from _commands(page.steps, as_root)
    yield ""
    yield from wrapped(f"It worked when {page.verify}.", width)
    if page.link:
        yield from ("", f"Read more: {page.link}")
    rules = rule_lines(page.codes)
    if rules:
        yield ""
        yield "gpucheck doctor looks for its causes:"
        yield from rules


def _commands(steps: Sequence[Step], as_root: bool) -> Iterator[str]:
    place = "here"
    for step in steps:
        if step.on != place:
            place = step.on
            yield f"  {_PLACES.get(place, 'here')}:"
        sudo = "sudo " if step.root and step.on != "windows" and not as_root else ""
        yield f"  $ {sudo}{step.text}" if step.on != "windows" else f"  > {step.text}"


def _either(faults: Sequence[str]) -> str:
    return listed(faults) if len(faults) < 2 else f"{', '.join(faults[:-1])} or {faults[-1]}"


def _quoted(line: str) -> str:
    plain = " ".join("".join(letter for letter in line if letter.isprintable()).split())
    return plain if len(plain) <= LONGEST_LINE else f"{plain[:LONGEST_LINE]}…"
