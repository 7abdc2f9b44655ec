"""Loads a site's own rules and probes: those that are installed, and those of files.

Each module is loaded in another process first: one that ends the process, or does not come back,
costs itself alone.
"""

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

from gpucheck.probes import plugin_search
from gpucheck.probes.apart import ProbeError, ProbeProcess
from gpucheck.site_probe import SiteProbe
from gpucheck.usage_error import UsageError

LOAD_SECONDS = 5.0
FILE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A site's module, or why it is not there."""

    name: str  # of the entry point, or the file
    module: ModuleType | None = None
    why: str = ""

    @property
    def probes(self) -> tuple[SiteProbe, ...]:
        """The probes that the module defines, in its order."""
        if self.module is None:
            return ()
        things = vars(self.module).values()
        return tuple(
            each
            for each in things
            if isinstance(each, SiteProbe) and each.module == self.module.__name__
        )


def loaded() -> tuple[Plugin, ...]:
    """Return every plugin of this process. The first call has to come before any thread does."""
    return (*installed(), *(of_file(file) for file in plugin_search.chosen()))


@cache
def installed() -> tuple[Plugin, ...]:
    """Return the plugin of each entry point of the group, in the order of their names."""
    folders = plugin_search.folders()
    if not folders:
        return ()
    from importlib.metadata import distributions

    entries = {
        entry
        for distribution in distributions(path=list(folders))
        for entry in distribution.entry_points.select(group=plugin_search.GROUP)
    }
    return tuple(
        _loaded(entry.name, entry.load) for entry in sorted(entries, key=lambda entry: entry.name)
    )


@cache
def of_file(file: str) -> Plugin:
    """Return the plugin that a Python *file* is. UsageError: it is none; only its run may fail."""
    path = Path(file)
    try:
        if not path.is_file():
            raise UsageError(f"--rules {file}: there is no such file")
        with path.open("rb") as stream:
            source = stream.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"--rules {file}: {error.strerror}") from None
    if len(source) > FILE_LIMIT_BYTES:
        raise UsageError(f"--rules {file}: is larger than {FILE_LIMIT_BYTES >> 20} MiB")
    try:
        code = compile(source, file, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"--rules {file}: is no Python: {_in_a_line(error)}") from None

    def load() -> ModuleType:
        module = ModuleType(f"gpucheck_rules_{path.stem}")
        module.__file__ = str(path)
        exec(code, module.__dict__)  # noqa: S102 - the caller names the file to have it run
        return module

    return _loaded(file, load)


def _loaded(name: str, load: Callable[[], object]) -> Plugin:
    """Load in another process, and here where that went well."""

    def attempt() -> tuple[object, str]:
        try:
            with printing_to_stderr():
                module = load()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - sys.exit too must not cost the report
            return None, f"{type(error).__name__}: {_in_a_line(error)}"
        if not isinstance(module, ModuleType):
            return None, f"it names {type(module).__name__}, and no module"
        return module, ""

    trial = ProbeProcess[str](f"{name} load", lambda: iter((attempt()[1],)))
    try:
        why = trial.facts(0, time.monotonic() + LOAD_SECONDS)
    except ProbeError as error:
        why = str(error)
    finally:
        trial.end()
    if not why:
        module, why = attempt()
        if isinstance(module, ModuleType):
            return Plugin(name=name, module=module)
    return Plugin(name=name, why=why)


def printing_to_stderr() -> contextlib.AbstractContextManager[object]:
    """Keep what a site's code prints out of the report."""
    return contextlib.redirect_stdout(sys.stderr)


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())
