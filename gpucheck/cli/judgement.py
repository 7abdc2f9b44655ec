"""Judges machines as the doctor's options say, and prints what comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gpucheck import console
from gpucheck.render import RENDERERS, Format, Look, one_line, render
from gpucheck.render.style import of_standard_output
from gpucheck.scope import Scope
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.report import Report
    from gpucheck.snapshot import Snapshot

# What is imported in functions below is imported while the machine is examined, not before.

BAD_INPUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """How to judge, and how to print it."""

    form: Format
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()
    strict: bool = False
    verbose: bool = False
    quiet: bool = False
    identify: bool = False
    output: Path | None = None

    def of_machine(self, machine: "Snapshot") -> int:
        """Print the report of *machine*; return the exit status."""
        report = self._report(machine)
        text = render(report, self.form, self._look())
        if self.output is None:
            console.write(text)
        else:
            from gpucheck import snapshot_file

            is_private = self.identify or RENDERERS[self.form].identifies
            snapshot_file.save(text, self.output, force=True, is_private=is_private)
        return report.exit_code

    def of_stored(self, names: Sequence[str], scope: Scope) -> int:
        """Judge stored snapshots: one in full, several in a line each. Return the exit status."""
        from gpucheck import snapshot_file

        files = snapshot_file.expanded(names)
        if len(files) == 1:
            return self.of_machine(_read(files[0], scope))
        if self.output is not None:
            raise UsageError("-o takes the report of one machine, and several snapshots are judged")
        status = 0
        for file in files:
            try:
                report = self._report(_read(file, scope))
            except UsageError as error:
                console.complain(f"gpucheck: {error}")
                status = BAD_INPUT
                continue
            if not (self.quiet and report.verdict == "healthy"):
                console.write(one_line(report, file, self.form, self._look()))
            status = max(status, report.exit_code)
        return status

    def _report(self, machine: "Snapshot") -> "Report":
        from gpucheck.report import examine
        from gpucheck.site_rules import noted

        return examine(
            noted(machine),
            select=self.select,
            ignore=self.ignore,
            strict=self.strict,
        )

    def _look(self) -> Look:
        style = of_standard_output(program=console.program())
        return Look(style=style, verbose=self.verbose, quiet=self.quiet, identify=self.identify)


def _read(file: str, scope: Scope) -> "Snapshot":
    from gpucheck import snapshot_file
    from gpucheck.snapshot import replace

    machine = snapshot_file.read(file, patience_seconds=scope.timeout_seconds)
    if scope.expect_gpus is None:
        return machine
    return replace(machine, expected_gpus=scope.expect_gpus)
