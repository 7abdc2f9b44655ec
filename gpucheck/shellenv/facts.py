"""Collects the few facts that exports hang on: files alone, in the time of a blink."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from gpucheck import __version__
from gpucheck.snapshot import (
    Driver,
    Fact,
    Libraries,
    PyTorch,
    Snapshot,
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
    """
    from gpucheck.probes import driver, loader, pytorch, toolkit

    wider = dict(variables)
    if cuda is not None and "/" in cuda:
        wider["CUDA_HOME"] = cuda
    torch = _try(
        PyTorch, lambda: pytorch.probe(python, variables, deadline_seconds=DEADLINE_SECONDS)
    )
    return Snapshot(
        gpucheck=__version__,
        pytorch=torch,
        libraries=_try(Libraries, lambda: loader.probe(torch, variables)),
        driver=_try(Driver, driver.probe),
        toolkits=_try(Toolkits, lambda: toolkit.probe(wider, deadline_seconds=DEADLINE_SECONDS)),
    )


def with_environment(machine: Snapshot, variables: Mapping[str, str]) -> Snapshot:
    """Return *machine* as a shell with these *variables* sees it, its start-up files included."""
    from pathlib import Path

    from gpucheck.probes import environment, host, startup_files

    seen = collect(variables)
    home = variables.get("HOME")
    return replace(
        machine,
        host=host.probe(),
        environment=environment.probe(variables),
        startup_files=startup_files.probe(Path(home) if home else None),
        driver=replace(seen.driver, cuda_init=None),
        toolkits=seen.toolkits,
        libraries=seen.libraries,
        pytorch=seen.pytorch,
    )


def _try(section: type[Section], probe: Callable[[], Section]) -> Section:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 - one section the less must not cost the exports
        return unknown_section(section, f"gpucheck's own probe failed: {error!r}")
