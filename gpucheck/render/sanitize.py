"""Cleans text from outside (paths, process names, the kernel log) of what would steer a terminal.

This is the one place: `render()` passes every report through here, and the command line every
complaint, before anything is laid out.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucheck.report import Report
    from gpucheck.snapshot import Snapshot

LONGEST = 4000  # characters of one text: more is somebody's flood

#: C0, C1 and DEL; soft hyphen; zero-width and bidi controls (UAX #9); interlinear marks and tags
_UNSEEN = (
    "\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e0fff"
)


class _Patterns:
    """Compiled when a text needs them, for most need none."""

    def __init__(self) -> None:
        # Whole sequences first, so that "\x1b[31m" leaves no "[31m" behind: CSI, the string
        # sequences (OSC, DCS, APC, PM, SOS) up to their end, and two-character escapes; ECMA-48
        # names them.
        self.sequences = re.compile(
            "(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]?"
            "|(?:\x1b[\\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\\\|\x9c)?"
            "|\x1b[ -/]*[0-~]?"
        )
        self.blanks = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029]+")
        self.removed = re.compile(f"[{_UNSEEN}]")
        self.surrogates = re.compile("[\ud800-\udfff]")
        self.suspect = re.compile(f"[{_UNSEEN}\ud800-\udfff]")
        #: The owner's home in a redacted snapshot (`privacy.HOME`), which people write as `~`.
        self.home = re.compile(r"(?<![\w.~-])/~(\d*)(?![\w.~-])")


_patterns = cache(_Patterns)


def clean(text: str) -> str:
    """Return *text* on one line, harmless, with a redacted home as people write it."""
    text = harmless(text)
    return _patterns().home.sub(r"~\1", text) if "/~" in text else text


def harmless(text: str) -> str:
    """Return *text* on one line, without control sequences and of bounded length."""
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}… ({len(text)} characters)"
    if text.isascii() and text.isprintable():
        return text
    patterns = _patterns()
    if not patterns.suspect.search(text):
        return text
    text = patterns.blanks.sub(" ", patterns.sequences.sub("", text))
    return patterns.surrogates.sub("\ufffd", patterns.removed.sub("", text))


def clean_machine(machine: "Snapshot", cleaner: Callable[[str], str] = harmless) -> "Snapshot":
    """Return *machine* with every text in it cleaned; mostly there is nothing to do.

    A redacted home stays the absolute path that rules take it for.
    """
    import msgspec

    facts = msgspec.to_builtins(machine)
    cleaned = _clean_tree(facts, cleaner)
    if cleaned is facts:
        return machine
    return msgspec.convert(cleaned, type=type(machine))


def clean_report(report: "Report") -> "Report":
    """Return *report* with every text in it cleaned."""
    from dataclasses import replace

    from gpucheck.report import with_texts

    return replace(
        report,
        machine=clean_machine(report.machine, clean),
        findings=with_texts(report.findings, clean),
        ignored=with_texts(report.ignored, clean),
        not_checked=with_texts(report.not_checked, clean),
        not_applicable=with_texts(report.not_applicable, clean),
    )


def _clean_tree(tree: object, cleaner: Callable[[str], str]) -> object:
    """Clean every string of builtins; returns *tree* itself where nothing had to change."""
    if isinstance(tree, str):
        text = cleaner(tree)
        return tree if text == tree else text
    if isinstance(tree, (list, tuple)):
        items = [_clean_tree(item, cleaner) for item in tree]
        return tree if all(a is b for a, b in zip(items, tree, strict=True)) else items
    if isinstance(tree, dict):
        pairs = [
            (_clean_tree(key, cleaner), _clean_tree(value, cleaner)) for key, value in tree.items()
        ]
        same = all(a is c and b is d for (a, b), (c, d) in zip(pairs, tree.items(), strict=True))
        return tree if same else dict(pairs)
    return tree
