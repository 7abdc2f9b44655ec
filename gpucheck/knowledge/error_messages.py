"""What pasted errors of the driver, CUDA, PyTorch, NCCL and containers mean, and what to do.

Sources are in error_messages.json, by key.
"""

import re
from functools import cache

import msgspec

from gpucheck.knowledge import published
from gpucheck.knowledge.step import Step

#: A "*" in a pattern stands for at most this many characters: numbers, a path, a version.
GAP = 300
#: Of a longer text its start and its end are read: a log names its cause in one of the two.
LONGEST = 1 << 20
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
_QUOTES = str.maketrans("‘’“”", "''\"\"")

#: Whose fault an error is.
FAULTS = {
    "hardware": "the hardware",
    "driver": "the driver or its installation",
    "configuration": "the configuration of the machine or the container",
    "packages": "the installed packages",
    "program": "your program",
    "network": "the network between the machines",
}


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One error: texts that give it away, its meaning, and the rules that look for its causes.

    A pattern is text in lower case with single spaces, in which "*" stands for anything short;
    *whole* ones have to be the whole text, since a healthy machine's output holds them too.
    A *general* one says little where another message of the same text says more. *cuda* and *nvml*
    are the error codes that it is the page of, *xids* the Xids that say the same.
    """

    id: str
    patterns: tuple[str, ...]
    meaning: str
    fault: tuple[str, ...]
    fix: str
    commands: tuple[Step, ...]
    verify: str
    codes: tuple[str, ...]
    source: tuple[str, ...]
    confidence: str
    link: str = ""
    general: bool = False
    cuda: tuple[int, ...] = ()
    nvml: int | None = None
    whole: tuple[str, ...] = ()
    xids: tuple[int, ...] = ()


class Table(msgspec.Struct, frozen=True):
    """The file as it is: causes are before their consequences."""

    sources: dict[str, str]
    messages: tuple[Message, ...]


@cache
def table() -> Table:
    """Return all messages."""
    return published("error_messages.json", Table)


def readable(text: str) -> str:
    """Return *text* without the codes of a terminal, and no longer than is searched."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}\n{text[-LONGEST // 2 :]}"
    return _CONTROL.sub("", text).translate(_QUOTES)


def find(text: str) -> tuple[Message, ...]:
    """Return the messages that *text* (a line, or a whole traceback) holds, causes first.

    General ones are left out where there is a specific one.
    """
    plain = _plain(readable(text))
    found = [
        message
        for message in table().messages
        if plain in message.whole or any(_holds(plain, pattern) for pattern in message.patterns)
    ]
    specific = tuple(message for message in found if not message.general)
    return specific or tuple(found)


def decisive_line(text: str, message: Message) -> str:
    """Return the line of *text* by which *message* was found; "" where it spans several lines."""
    for line in readable(text).splitlines():
        plain = _plain(line)
        if any(_holds(plain, pattern) for pattern in message.patterns):
            return line.strip()
    return ""


def of_cuda(code: int) -> Message | None:
    """Return the message that is the page of a CUDA error *code*, if there is one."""
    return next((each for each in table().messages if code in each.cuda), None)


def of_nvml(code: int) -> Message | None:
    """Return the message that is the page of an NVML error *code*, if there is one."""
    return next((each for each in table().messages if code == each.nvml), None)


def of_rule(code: str) -> tuple[Message, ...]:
    """Return the messages whose causes the rule *code* looks for."""
    return tuple(each for each in table().messages if code in each.codes)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _holds(text: str, pattern: str) -> bool:
    """Whether the parts of *pattern* between its "*" are in *text*, in order and close by.

    Plain searching instead of a regular expression: its time grows with the text, whatever is in
    it. After a part the nearest next one counts; only the first part is tried at each place.
    """
    first, *others = pattern.split("*")
    if not all(part in text for part in others):
        return False
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
