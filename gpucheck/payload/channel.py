"""Carries what a program finds out to its parent: one line of JSON a message, as it happens.

A line is "gpucheck:" and an object: its "type" names the message, "at" is the system's monotonic
clock, and the rest is what `gpucheck/probes/messages.py` says of that type.
"""

# Python 3.6 understands this file, and it imports as little as there is: the child that asks
# cuInit is on the doctor's critical path.

import _thread
import posix
import time

# `json` itself takes 8 ms to import, for the regular expressions that reading needs. This is the
# encoder in C that `json.dumps` calls, there in every CPython since 2.6.
try:
    from _json import encode_basestring_ascii, make_encoder
except ImportError:  # another Python than CPython
    from json import dumps as to_json
else:

    def _refuse(value: object) -> object:
        raise TypeError("not JSON: " + repr(value))

    _encoder = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False
    )

    def to_json(value: object) -> str:  # type: ignore[misc]
        """Return *value* as JSON in ASCII."""
        return "".join(_encoder(value, 0))


PREFIX = "gpucheck:"

_descriptor = 1
_lock = _thread.allocate_lock()  # threads of one program report too


def reserve_stdout(others_to: int = 2) -> None:
    """Keep stdout for messages: what libraries print goes to the descriptor *others_to*."""
    global _descriptor  # noqa: PLW0603 - there is one stdout
    _descriptor = posix.dup(1)
    posix.dup2(others_to, 1)


def silence() -> None:
    """Keep stdout for messages, and let what libraries print go nowhere."""
    nowhere = posix.open("/dev/null", posix.O_RDWR)
    reserve_stdout(nowhere)
    posix.dup2(nowhere, 2)


def emit(tag: str, **facts: object) -> None:
    """Write one message. What is no JSON is an error: ValueError for NaN, else TypeError."""
    message = dict([("type", tag), ("at", time.monotonic())], **facts)
    line = (PREFIX + to_json(message) + "\n").encode("ascii")
    with _lock:
        while line:
            line = line[posix.write(_descriptor, line) :]
