"""What `import gpucheck` offers to programs; docs/library.md shows it at work."""

import subprocess
import sys
from pathlib import Path
from typing import Literal

from gpucheck.report import Report, examine
from gpucheck.scope import Scope
from gpucheck.snapshot import Snapshot
from gpucheck.usage_error import CollectionError, UsageError

__all__ = ("CollectionError", "collect", "examine", "load", "render")

#: What Python itself takes to start and to end, beyond what the examination may take.
_START_SECONDS = 30.0


def collect(scope: Scope | None = None) -> Snapshot:
    """Examine this machine in a process of its own, which can neither hang nor fork the caller.

    Raises `UsageError` for a wrong *scope*, and `CollectionError` where no facts came.
    """
    from gpucheck import snapshot_file

    scope = scope or Scope()
    command = [sys.executable, "-m", "gpucheck", "snapshot", "--identify", *_options(scope)]
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as child:
            try:
                facts, complaint = child.communicate(timeout=scope.seconds + _START_SECONDS)
            except BaseException:
                child.kill()
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CollectionError(str(error)) from None
    problem = complaint.decode("utf-8", "replace").strip().removeprefix("gpucheck: ")
    if child.returncode == 2:
        raise UsageError(problem)
    if child.returncode != 0:
        raise CollectionError(problem or f"exit status {child.returncode}")
    from gpucheck.snapshot import replace

    machine = snapshot_file.parse(facts, "the examination")
    return replace(machine, expected_gpus=scope.expect_gpus)


def _options(scope: Scope) -> list[str]:
    options = [f"--timeout={scope.seconds}"]
    if scope.python is not None:
        options.append(f"--python={scope.python}")
    if scope.watch_seconds:
        options.append(f"--watch={scope.watch_seconds}")
    return options + ["--deep"] * scope.deep + ["--quick"] * scope.quick


def load(file: str | Path) -> Snapshot:
    """Return the snapshot in *file*, which may be compressed; `UsageError` for anything else."""
    from gpucheck import snapshot_file

    return snapshot_file.read(str(file))


def render(
    report: Report,
    form: Literal[
        "text", "json", "markdown", "html", "junit", "sarif", "prometheus", "oneline"
    ] = "text",
    *,
    width: int = 80,
    color: bool = False,
    verbose: bool = False,
) -> str:
    """Return *report* as text; nothing of the terminal or the environment is asked."""
    from gpucheck.render import Format, Look
    from gpucheck.render import render as rendered
    from gpucheck.render.style import Style

    look = Look(style=Style(width=width, colour=color), verbose=verbose)
    return rendered(report, Format(form), look)
