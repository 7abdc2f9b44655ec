"""One command of what to do about an error, as the tables of texts and Xids hold it."""

from typing import Literal

import msgspec


class Step(msgspec.Struct, frozen=True):
    """A line to paste into a shell, without `sudo`, and where it runs."""

    text: str
    root: bool = False
    on: Literal["here", "host", "windows", "image"] = "here"
