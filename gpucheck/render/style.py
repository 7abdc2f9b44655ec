"""Says how the output may look (width, color, signs), and lays words out within it."""

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

NARROWEST, WIDEST, PIPE_WIDTH = 40, 240, 80

Sign = Literal["error", "warning", "info", "good", "unknown", "none"]
_SIGNS: dict[Sign, str] = {
    "error": "✗",
    "warning": "!",
    "info": "i",
    "good": "✓",
    "unknown": "?",
    "none": "–",
}
_COLOURS: dict[Sign, str] = {
    "error": "31",
    "warning": "33",
    "info": "36",
    "good": "32",
    "unknown": "35",
    "none": "2",
}
#: What stands for our own typographic signs where only ASCII can be shown.
_ASCII = str.maketrans(
    {
        "✗": "x",
        "✓": "+",
        "–": "-",
        "—": "-",
        "×": "x",
        "…": "...",
        "→": "->",
        "≤": "<=",
        "≥": ">=",
        "└": "`",
        "·": "-",
        "°": None,
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """What the output can show: columns, colors (ANSI), and more than ASCII."""

    width: int = PIPE_WIDTH
    colour: bool = False
    unicode: bool = True
    program: str = "gpucheck"  # how gpucheck is called here

    def sign(self, sign: Sign) -> str:
        """Return the one-column mark of a state; each differs by shape as well as by color."""
        return self.paint(_SIGNS[sign], _COLOURS[sign])

    def bold(self, text: str) -> str:
        return self.paint(text, "1")

    def dim(self, text: str) -> str:
        return self.paint(text, "2")

    def paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self.colour and text else text

    def finish(self, text: str) -> str:
        """Return *text* in the signs that the output can show."""
        if self.unicode or text.isascii():
            return text
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode("ascii")


def of_standard_output(
    variables: Mapping[str, str] | None = None, *, program: str = "gpucheck"
) -> Style:
    """Return the style that stdout, `NO_COLOR`, `COLUMNS`, `TERM` and the locale ask for."""
    variables = os.environ if variables is None else variables
    is_terminal = sys.stdout.isatty()
    columns = variables.get("COLUMNS", "")
    if columns.isdecimal() and int(columns[:6]) > 0:
        width = int(columns[:6])
    elif is_terminal:
        width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    else:
        width = PIPE_WIDTH
    forced = any(variables.get(name, "0") != "0" for name in ("FORCE_COLOR", "CLICOLOR_FORCE"))
    wants_colour = forced or (is_terminal and variables.get("TERM") != "dumb")
    encoding = (sys.stdout.encoding or "ascii").lower().replace("-", "")
    return Style(
        width=max(NARROWEST, min(WIDEST, width)),
        colour=wants_colour and not variables.get("NO_COLOR"),
        unicode=encoding == "utf8" and not _is_plain_locale(variables),
        program=program,
    )


def _is_plain_locale(variables: Mapping[str, str]) -> bool:
    """Whether the locale is C or POSIX by the user's own word.

    Python turns a C locale into UTF-8 of its own accord (PEP 538, PEP 540), so the encoding of
    stdout does not tell; and a container that sets no locale at all stands behind a terminal
    that mostly shows UTF-8.
    """
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = variables.get(name)
        if value and not (name == "LC_CTYPE" and value == "C.UTF-8"):  # that is Python's own doing
            return value in ("C", "POSIX")
    return False


def cells(text: str) -> int:
    """Return how many columns *text* (without colors) takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_letter_cells(letter) for letter in text)


def _letter_cells(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def fit(text: str, width: int) -> str:
    """Return *text* in exactly *width* columns: filled with spaces, or cut with a "…"."""
    room = width - cells(text)
    if room >= 0:
        return text + " " * room
    kept, used = "", 0
    for letter in text:
        if used + _letter_cells(letter) > width - 1:
            break
        kept += letter
        used += _letter_cells(letter)
    return kept + "…" + " " * (width - 1 - used)


def wrap(text: str, width: int) -> Iterator[str]:
    """Break *text* into lines of at most *width* columns, between words where that is possible."""
    width = max(width, 10)
    line = ""
    for word in text.split():
        if line and cells(line) + 1 + cells(word) <= width:
            line += f" {word}"
            continue
        if line:
            yield line
        while cells(word) > width:
            piece = _piece(word, width)
            yield piece
            word = word[len(piece) :]  # noqa: PLW2901 - the rest of it
        line = word
    if line:
        yield line


def _piece(word: str, width: int) -> str:
    """Return the start of a *word* that is too long: to its last "/" or ":" that fits, if any."""
    used, end, good = 0, 0, 0
    for at, letter in enumerate(word):
        used += _letter_cells(letter)
        if used > width:
            break
        end = at + 1
        if letter in "/:,=":
            good = end
    return word[: good if good > width // 2 else max(end, 1)]
