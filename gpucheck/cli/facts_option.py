"""The option `--snapshot` of the commands that measure, and what becomes of its value."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpucheck import console
from gpucheck.cli_help import PRINT

if TYPE_CHECKING:
    from gpucheck.snapshot import Snapshot

_STDOUT = Path("-")

SnapshotToOption = Annotated[
    Path | None,
    typer.Option(
        "--snapshot",
        metavar="FILE",
        parser=Path,
        rich_help_panel=PRINT,
        help="Write the facts here too, private details removed, for doctor --from. "
        "-: to stdout, instead of the report.",
    ),
]


def replaces_report(target: Path | None) -> bool:
    """Return whether stdout takes the facts."""
    return target == _STDOUT


def write_facts(machine: "Snapshot", target: Path | None) -> None:
    """Write *machine*, private details removed already, where the option says."""
    from gpucheck import snapshot_file

    if target is None:
        return
    text = snapshot_file.as_json(machine)
    if replaces_report(target):
        console.write(text)
    else:
        snapshot_file.save(text, target, force=True)
