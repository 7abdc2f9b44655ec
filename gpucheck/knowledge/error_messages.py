"""What common start-up errors of CUDA, PyTorch, NCCL and cuDNN mean, and which rules look at them.

Sources stand in error_messages.json, keys a row.
"""

import re
from functools import cache

import msgspec

from gpucheck.knowledge import published

#: A "*" in a pattern stands for at most this many characters: numbers, a path, a version.
GAP = 300
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class Message(msgspec.Struct, frozen=True):
    """One error: texts that give it away, its meaning, and the rules that say whether it is so.

    A pattern is text in lower case with single blanks, in which "*" stands for anything short.
    Without codes it is a matter of the program and not of the machine.
    """

    id: str
    patterns: tuple[str, ...]
    meaning: str
    fix: str
    codes: tuple[str, ...]
    source: tuple[str, ...]
    confidence: str


class Table(msgspec.Struct, frozen=True):
    """The file as it is. The specific messages stand before the general ones."""

    sources: dict[str, str]
    messages: tuple[Message, ...]


@cache
def table() -> Table:
    """Return all messages."""
    return published("error_messages.json", Table)


def find(text: str) -> tuple[Message, ...]:
    """Return the messages that *text* (a line, or a whole traceback) holds, the specific first."""
    plain = " ".join(_CONTROL.sub("", text).casefold().replace("’", "'").split())
    return tuple(
        message
        for message in table().messages
        if any(_holds(plain, pattern) for pattern in message.patterns)
    )


def _holds(text: str, pattern: str) -> bool:
    """Whether the parts of *pattern* between its "*" stand in *text*, in order and close by.

    Plain searching instead of a regular expression: its time grows with the text, whatever is in
    it. After a part the nearest next one counts; only the first part is tried at each place.
    """
    first, *others = pattern.split("*")
    start = text.find(first)
    while start >= 0:
        at = start + len(first)
        for part in others:
            found = text.find(part, at, at + GAP + len(part))
            if found < 0:
                break
            at = found + len(part)
        else:
            return True
        start = text.find(first, start + 1)
    return False
