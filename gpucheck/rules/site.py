"""Rules about a site's own rules and probes: that they could be asked at all."""

from gpucheck.rule import (
    Answers,
    NotApplicable,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import Site, Snapshot


def _has_site_checks(machine: Snapshot) -> Obstacle | None:
    return NotApplicable(why="the site has no own checks") if machine.site == Site() else None


@rule("SIT001", Severity.WARNING, "A site's own check could not be made", when=_has_site_checks)
def not_made(machine: Snapshot) -> Answers:
    """Rules or probes that this site wrote for its machines gave nothing: what they ask is open.

    They are modules that installed distributions name in the entry point group `gpucheck.rules`, or
    files that --rules names. One that fails as it is loaded, has a wrong code, crashes or comes too
    late costs only itself; everything else is examined and judged as ever.
    """
    for failure in (yield from known(machine.site.failures)) or ():
        yield Symptom(
            subject=failure.source,
            saw=failure.why,
            remedy=Remedy(
                "Fix it, or remove the distribution that brings it",
                verify=command("gpucheck doctor --select SIT -v"),
            ),
        )
