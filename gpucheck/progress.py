"""Tells a person at a terminal, on stderr, what is being waited for; tells nobody else anything."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ERASE = "\r\x1b[K"


@contextmanager
def waiting(text: str, *, after_seconds: float = 0.0) -> Iterator[None]:
    """Show *text* on stderr while the body runs, if it takes longer than *after_seconds*."""
    if not sys.stderr.isatty():
        yield
        return
    shown = threading.Event()

    def show() -> None:
        shown.set()
        _put(text)

    timer = threading.Timer(after_seconds, show)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if shown.is_set():
            _put(ERASE)


def _put(text: str) -> None:
    with suppress(OSError, UnicodeError):
        sys.stderr.write(text)
        sys.stderr.flush()
