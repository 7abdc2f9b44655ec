"""Collects the few facts that exports depend on: files alone, in the time of a blink."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from gpucheck import __version__
from gpucheck.snapshot import (
    Driver,
    Environment,
    Fact,
    Host,
    Libraries,
    PyTorch,
    Snapshot,
    StartupFiles,
    Toolkits,
    replace,
    unknown_section,
)

DEADLINE_SECONDS = 5.0

Section = TypeVar("Section", bound=Fact)


def collect(
    variables: Mapping[str, str], *, python: str | None = None, cuda: str | None = None
) -> Snapshot:
    """Return the facts of a shell with these environment *variables*.

    *python* is whose torch counts; *cuda*, where it is a path, is one more place for a toolkit.
    The files are read in a process of its own: one that is stuck in a dead file system could not
    exit. ExaminationError: it broke off. The caller must have no threads (it forks).
    """
    return _forked(lambda: _looked(variables, python, cuda), python)


def _forked(look: Callable[[], Snapshot], python: str | None = None) -> Snapshot:
    from gpucheck.forked_collector import ForkedCollector
    from gpucheck.scope import Scope

    scope = Scope(python=python, timeout_seconds=DEADLINE_SECONDS + 2.0)
    with ForkedCollector(scope, look=look) as forked_collector:
        return forked_collector.facts()


def _looked(variables: Mapping[str, str], python: str | None, cuda: str | None) -> Snapshot:
    from gpucheck.probes import driver, loader, pytorch, toolkit

    wider = dict(variables)
    if cuda is not None and "/" in cuda:
        wider["CUDA_HOME"] = cuda
    torch = _ProbeThread(
        PyTorch, lambda: pytorch.probe(python, variables, deadline_seconds=DEADLINE_SECONDS)
    )
    libraries = _ProbeThread(Libraries, lambda: loader.probe(torch.facts(), variables))
    drivers = _ProbeThread(Driver, driver.probe)
    toolkits = _ProbeThread(
        Toolkits, lambda: toolkit.probe(wider, deadline_seconds=DEADLINE_SECONDS)
    )
    return Snapshot(
        gpucheck=__version__,
        pytorch=torch.facts(),
        libraries=libraries.facts(),
        driver=drivers.facts(),
        toolkits=toolkits.facts(),
    )


def with_environment(machine: Snapshot, variables: Mapping[str, str]) -> Snapshot:
    """Return *machine* as a shell with these *variables* sees it, its start-up files included."""
    seen = _forked(lambda: _seen_by_a_shell(variables))
    return replace(
        machine,
        host=seen.host,
        environment=seen.environment,
        startup_files=seen.startup_files,
        driver=replace(seen.driver, cuda_init=None),
        toolkits=seen.toolkits,
        libraries=seen.libraries,
        pytorch=seen.pytorch,
    )


def _seen_by_a_shell(variables: Mapping[str, str]) -> Snapshot:
    from pathlib import Path

    from gpucheck.probes import environment, host, startup_files

    home = variables.get("HOME")
    host_look = _ProbeThread(Host, host.probe)
    environment_look = _ProbeThread(Environment, lambda: environment.probe(variables))
    startup_look = _ProbeThread(
        StartupFiles, lambda: startup_files.probe(Path(home) if home else None)
    )
    return replace(
        _looked(variables, None, None),
        host=host_look.facts(),
        environment=environment_look.facts(),
        startup_files=startup_look.facts(),
    )


class _ProbeThread(Generic[Section]):
    """One probe in a thread of its own: a file system that hangs costs its section alone."""

    def __init__(self, section: type[Section], probe: Callable[[], Section]) -> None:
        self._section = section
        self._probe = probe
        self._facts: Section | None = None
        self._until = time.monotonic() + DEADLINE_SECONDS + 1.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._facts = self._probe()
        except Exception as error:  # noqa: BLE001 - one section the less must not cost the exports
            self._facts = unknown_section(self._section, f"gpucheck's own probe failed: {error!r}")

    def facts(self) -> Section:
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._facts is None:
            return unknown_section(self._section, f"no answer in {DEADLINE_SECONDS + 1:g} s")
        return self._facts
