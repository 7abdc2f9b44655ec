"""Owns stdout and stderr: whatever gpucheck says goes through here, and is cleaned on the way.

Reports are laid out, and cleaned, before they come to `write`; all else is cleaned here of what
would steer a terminal. A character that a stream cannot show is written as its code.
"""

import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from gpucheck.render.sanitize import clean

if TYPE_CHECKING:
    from rich.console import Console

_ERASE_LINE = "\r\x1b[K"


def write(text: str) -> None:
    """Write a laid-out *text* to stdout whole. A reader that has seen enough is no failure."""
    try:
        sys.stdout.write(_showable(text, sys.stdout))
    except BrokenPipeError:
        # What follows goes nowhere; typer itself would end with status 1 here.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123


def write_exactly(text: str) -> None:
    """Write *text* to stdout as UTF-8 whatever the locale: a path in it must keep its bytes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.buffer.flush()


def log(line: str) -> None:
    """Write a line to stdout at once: it is read while more is to come."""
    write(f"{line}\n")
    sys.stdout.flush()


def complain(message: str) -> None:
    """Write *message* as one line to stderr; where nobody listens there, it is lost."""
    with suppress(OSError):
        sys.stderr.write(_showable(f"{clean(message)}\n", sys.stderr))
        sys.stderr.flush()


def show_traceback(error: BaseException) -> None:
    """Write where *error* came from to stderr, for whoever asked for it."""
    import traceback

    with suppress(OSError):
        sys.stderr.write(_showable("".join(traceback.format_exception(error)), sys.stderr))


def ask(question: str, *, default: bool) -> bool | None:
    """Ask *question* on the terminal; None where there is nobody to ask."""
    if not is_terminal(sys.stdin):
        return None
    sys.stdout.flush()
    choices = "[Y/n]" if default else "[y/N]"
    sys.stderr.write(_showable(f"{clean(question)} {choices} ", sys.stderr))
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer.strip():
        return default and bool(answer)
    return answer.strip().lower() in ("y", "yes")


def flush() -> str | None:
    """Write out what is buffered; return why that failed. A reader that left is no failure."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return None
    except OSError as error:
        return error.strerror
    return None


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person reads *stream*."""
    return bool(stream) and stream.isatty()  # type: ignore[union-attr]


def program() -> str:
    """Return how gpucheck is called here: its name where PATH led to it, else as it was called.

    The words alone say that: an element of PATH may be on a file system that never answers.
    """
    folder, _, name = sys.argv[0].rpartition("/")
    if name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m gpucheck"
    if name != "gpucheck" or folder in os.environ.get("PATH", "").split(":"):
        return "gpucheck"
    return shlex.quote(sys.argv[0])


def live() -> "Console":
    """Return rich's console on stderr, for what moves while it is watched."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def waiting(
    for_whom: Callable[[], str], *, ends_at: float, after_seconds: float = 0.0
) -> Iterator[None]:
    """Say on a terminal for whom the body waits, since when, and until when at the latest.

    *ends_at* is on the monotonic clock. Whoever is no terminal hears nothing.
    """
    if not is_terminal(sys.stderr):
        yield
        return
    began = time.monotonic()
    is_over = threading.Event()
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + ends_at - began))

    def show() -> None:
        pause = after_seconds
        while not is_over.wait(pause):
            for_seconds = time.monotonic() - began
            whom = for_whom() or "an answer"
            text = f"Waiting for {whom} for {for_seconds:.0f} s, until {until} at the latest"
            _put(_ERASE_LINE + clean(text)[: shutil.get_terminal_size().columns - 1])
            pause = 1.0

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(0.2)
        if time.monotonic() - began >= after_seconds:
            _put(_ERASE_LINE)


@contextmanager
def last_line(template: str) -> Iterator[Callable[[str], None] | None]:
    """Give a function that shows a text on a terminal's last line; None where nobody looks."""
    if not is_terminal(sys.stderr):
        yield None
        return

    def show(text: str) -> None:
        room = shutil.get_terminal_size().columns - 1
        _put(_ERASE_LINE + clean(template.format(text))[:room])

    try:
        yield show
    finally:
        _put(_ERASE_LINE)


def _put(text: str) -> None:
    with suppress(OSError, UnicodeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _showable(text: str, stream: TextIO) -> str:
    """Return *text* with each character that *stream* cannot show as \\uXXXX."""
    encoding = getattr(stream, "encoding", None) or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(letter if letter.isascii() else _escape(letter) for letter in text)
    return text


def _escape(letter: str) -> str:
    """Return *letter* as \\uXXXX, which JSON reads too (in two halves beyond the basic plane)."""
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
