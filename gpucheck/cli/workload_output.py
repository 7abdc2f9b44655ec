"""Where the report and the facts of a command that puts GPUs to work go."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpucheck import console
from gpucheck.cli_help import PRINT
from gpucheck.render import Format, Look, render

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpucheck.report import Report
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


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOutput:
    """What is printed, and in which file the facts are stored."""

    form: Format
    facts_to: Path | None
    verbose: bool
    quiet: bool
    identify: bool = False  # what is written is for its owner's eyes alone

    @property
    def is_for_programs(self) -> bool:
        """Whether nobody wants to see the work going on."""
        return self.quiet or self.form is not Format.TEXT or self._is_facts_alone

    @property
    def _is_facts_alone(self) -> bool:
        return self.facts_to == _STDOUT

    def write(self, report: "Report", redacted: "Callable[[Snapshot], Snapshot]") -> None:
        """Print *report*, and store its facts, *redacted* unless they are to identify."""
        from gpucheck.render.style import of_standard_output

        if not self._is_facts_alone:
            look = Look(
                style=of_standard_output(program=console.program()),
                verbose=self.verbose,
                quiet=self.quiet,
                identify=self.identify,
            )
            console.write(render(report, self.form, look))
        if self.facts_to is not None:  # a file that cannot be written costs no verdict
            machine = report.machine
            self._store(machine if self.identify else redacted(machine), self.facts_to)

    def _store(self, facts: "Snapshot", target: Path) -> None:
        from gpucheck import snapshot_file

        text = snapshot_file.as_json(facts)
        if self._is_facts_alone:
            console.write(text)
        else:
            snapshot_file.save(text, target, force=True, is_private=self.identify)
