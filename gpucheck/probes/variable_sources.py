"""Finds who sets a variable, start-up files aside: conda, environment modules, the container."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gpucheck.probes.files import names_in, read_bytes, read_text
from gpucheck.snapshot import VariableSource

FILES_AT_MOST = 100
LIMIT_BYTES = 64 << 10
#: A line of a shell script that sets a variable; of a modulefile, in Tcl or in Lua.
_SCRIPT = re.compile(r"^\s*(?:export\s+|set\s+-\w+\s+|setenv\s+)?([A-Z_][A-Z0-9_]*)(?:\+?=|\s+\S)")
_MODULEFILE = re.compile(
    r"""^\s*(?:setenv|pushenv|(?:prepend|append)[-_]path)\b[\s("']*"""
    r"""(?:(?:-d|--delim)\s+\S+\s+)?([A-Za-z_][A-Za-z0-9_]*)"""
)


def probe(
    variables: Mapping[str, str], wanted: frozenset[str], proc: Path = Path("/proc")
) -> tuple[VariableSource, ...]:
    """Return who sets which of the *wanted* variables that are set; nothing here is ever run.

    Sources: conda's "Managing environments" (etc/conda/activate.d, conda-meta/state); module(1)
    for LOADEDMODULES and _LMFILES_.
    """
    here = wanted & variables.keys()
    return (
        *_conda(variables, here),
        *_modules(variables, here),
        *_container(variables, here, proc),
    )


def _conda(variables: Mapping[str, str], here: frozenset[str]) -> Iterator[VariableSource]:
    prefix = variables.get("CONDA_PREFIX")
    if not prefix or not prefix.startswith("/"):
        return
    folder = f"{prefix}/etc/conda/activate.d"
    names = names_in(folder)
    for name in (names if isinstance(names, tuple) else ())[:FILES_AT_MOST]:
        text = read_text(f"{folder}/{name}", LIMIT_BYTES)
        for variable, line in _lines(text if isinstance(text, str) else "", _SCRIPT, here):
            yield VariableSource(
                variable=variable, kind="conda script", path=f"{folder}/{name}", line=line
            )
    state = f"{prefix}/conda-meta/state"
    text = read_text(state, LIMIT_BYTES)
    for variable in sorted(here.intersection(parse_state(text if isinstance(text, str) else ""))):
        yield VariableSource(variable=variable, kind="conda state", path=state)


def parse_state(text: str) -> tuple[str, ...]:
    """Return the variables that a conda-meta/state sets."""
    try:
        values = json.loads(text)["env_vars"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(values) if isinstance(values, dict) else ()


def _modules(variables: Mapping[str, str], here: frozenset[str]) -> Iterator[VariableSource]:
    names = variables.get("LOADEDMODULES", "").split(":")
    files = variables.get("_LMFILES_", "").split(":")
    if len(names) != len(files):
        return
    for module, path in list(zip(names, files, strict=True))[-FILES_AT_MOST:]:
        text = read_text(path, LIMIT_BYTES) if path.startswith("/") else None
        for variable, line in _lines(text if isinstance(text, str) else "", _MODULEFILE, here):
            yield VariableSource(
                variable=variable, kind="module", path=path, line=line, module=module
            )


def _lines(text: str, pattern: re.Pattern[str], here: frozenset[str]) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(text.split("\n"), 1):
        found = pattern.match(line)
        if found is not None and found[1] in here:
            yield found[1], number


def _container(
    variables: Mapping[str, str], here: frozenset[str], proc: Path
) -> Iterator[VariableSource]:
    """Yield what the first process has with the same value: in a container, its own environment."""
    data = read_bytes(proc / "1/environ", 1 << 20)
    entries = data.decode("utf-8", "surrogateescape").split("\0") if isinstance(data, bytes) else ()
    for entry in entries:
        name, _, value = entry.partition("=")
        if name in here and variables[name] == value:
            yield VariableSource(variable=name, kind="container")
