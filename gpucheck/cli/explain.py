"""The command `gpucheck explain`."""

import os
import select
import sys
import time
from typing import Annotated

import typer

from gpucheck import console
from gpucheck.cli.options import complete_codes
from gpucheck.cli_help import Command, of_one_command
from gpucheck.usage_error import NoAnswerError, UsageError

LIMIT_BYTES = 1 << 25
PATIENCE_SECONDS = 60.0

EPILOG = """\
Examples:
  gpucheck explain DRV006                 what a rule means, and how to fix it
  gpucheck explain GPU                    a family of rules
  gpucheck explain CUDA out of memory     a pasted error message
  dmesg | gpucheck explain -              an error in a log

Exit status: 0 explained, 2 nothing is known of it, 3 gpucheck itself failed.
"""


class PastedText(Command):
    """A command whose words are somebody's text, which may begin with "-" ("-lcuda …")."""

    def parse_args(  # type: ignore[override] # typer's own name for the context's class moves
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        own = {name for option in self.get_params(ctx) for name in option.opts}
        at = next((at for at, word in enumerate(args) if word not in own), len(args))
        return super().parse_args(ctx, [*args[:at], "--", *args[at:]] if args[at:] else args)


def explain(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar='CODE | "ERROR TEXT"',
            autocompletion=complete_codes,
            help="A rule (DRV006), a family of rules (DRV), an Xid (Xid 79), an error code "
            "(error 802), or a pasted error message; - reads it from stdin.",
        ),
    ] = None,
    list_all: Annotated[bool, typer.Option("--list", help="List every rule.")] = False,
) -> None:
    """Explain a rule, an Xid, an error code or a pasted error message."""
    from gpucheck.explain import USAGE, explanation, rule_list
    from gpucheck.render.style import of_standard_output

    if what and list_all:
        raise UsageError("--list lists the rules, and takes no text")
    style = of_standard_output()
    if list_all:
        text = rule_list()
    elif not what and (sys.stdin is None or sys.stdin.isatty()):
        text = USAGE
    else:
        said = pasted() if what in (None, [], ["-"]) else " ".join(what or ())
        text = explanation(said, width=style.width, as_root=os.geteuid() == 0)
    console.write(style.finish(text))


app = of_one_command(explain, EPILOG, PastedText)


def pasted(descriptor: int = 0, *, patience_seconds: float = PATIENCE_SECONDS) -> str:
    """Return what stdin holds, whatever bytes they are; of an endless one, the start.

    A pipe (`dmesg -w |`) is read for *patience_seconds*, and what came by then is explained; a
    person at a terminal has all the time. NoAnswerError: nothing came at all.
    """
    until = None if os.isatty(descriptor) else time.monotonic() + patience_seconds
    received = bytearray()
    while len(received) < LIMIT_BYTES:
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([descriptor], [], [], left)[0]:
            if not received:
                raise NoAnswerError(f"stdin did not answer in {patience_seconds:g} s")
            break
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            break
        received += chunk
    return bytes(received).decode("utf-8", "replace")
