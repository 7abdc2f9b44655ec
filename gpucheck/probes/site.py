"""Runs a site's own probes, each in a process of its own and with a deadline."""

import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from gpucheck.probes.apart import ProbeError, ProbeProcess
from gpucheck.probes.plugins import Plugin
from gpucheck.site_probe import SiteProbe
from gpucheck.snapshot import Site, SiteFact, SiteFailure

PROBE_SECONDS = 10.0
MOST_FACTS = 100
MOST_LETTERS = 1000
_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
_INTEGERS = range(-(1 << 63), 1 << 63)


class WrongFactError(Exception):
    """A probe returned what is no fact; the message says what."""


class SiteProbes:
    """Every probe of some plugins at work, each in a process of its own."""

    def __init__(self, plugins: Sequence[Plugin]) -> None:
        """Start them; the caller must have no threads."""
        self._failures = [
            SiteFailure(source=plugin.name, why=plugin.why) for plugin in plugins if plugin.why
        ]
        self._processes = [
            ProbeProcess(f"{plugin.name} {probe.name}", partial(_at_work, probe))
            for plugin in plugins
            for probe in plugin.probes
        ]

    def facts(self, until: float) -> Site:
        """Return what was found by *until*, and which plugin or probe gave nothing and why."""
        failures = list(self._failures)
        facts: dict[str, SiteFact] = {}
        until = min(until, time.monotonic() + PROBE_SECONDS)
        for process in self._processes:
            try:
                found = process.facts(0, until)
            except ProbeError as error:
                why = str(error).removeprefix("gpucheck's own probe failed: ")
                failures.append(SiteFailure(source=process.name, why=why))
                continue
            finally:
                process.end()
            for fact in found:
                if fact.name in facts:
                    why = f"another probe gave {fact.name} before"
                    failures.append(SiteFailure(source=process.name, why=why))
                facts.setdefault(fact.name, fact)
        return Site(facts=tuple(facts.values()), failures=tuple(failures))


def _at_work(probe: SiteProbe) -> Iterator[tuple[SiteFact, ...]]:
    yield checked(probe.look(), probe.public)


def checked(found: object, public: Sequence[str]) -> tuple[SiteFact, ...]:
    """Return what a probe found as facts. WrongFactError: it is none, or too much."""
    if not isinstance(found, Mapping):
        raise WrongFactError(f"it returned {type(found).__name__}, and no mapping of facts")
    if len(found) > MOST_FACTS:
        raise WrongFactError(f"it returned {len(found):,} facts; {MOST_FACTS} are the most")
    return tuple(_fact(name, value, name in public) for name, value in found.items())


def _fact(name: object, value: object, is_public: bool) -> SiteFact:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise WrongFactError(f"{name!r:.80} is no name of a fact, such as scratch_free_gib")
    fits = value is None or isinstance(value, bool)
    if isinstance(value, str):
        if len(value) > MOST_LETTERS:
            raise WrongFactError(f"{name} is {len(value):,} letters; {MOST_LETTERS:,} are the most")
        fits = True
    elif isinstance(value, float):
        fits = math.isfinite(value)
    elif isinstance(value, int):
        fits = value in _INTEGERS
    if not fits:
        raise WrongFactError(f"{name} is {value!r:.80}: no number, no text, no yes or no")
    return SiteFact(name=name, value=value, is_public=is_public)  # type: ignore[arg-type]
