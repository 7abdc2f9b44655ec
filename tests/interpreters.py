"""Finds the Pythons of this machine, and runs a payload program under one with code slipped in."""

import functools
import os
import shlex
import subprocess
import sys
from pathlib import Path

VERSIONS = tuple(f"3.{minor}" for minor in range(8, 15))
_ASK = "import sys; print('%d.%d %s' % (sys.version_info[0], sys.version_info[1], sys.executable))"
_RUNNER = Path(__file__).with_name("patched_program.py")


@functools.cache
def interpreters() -> dict[str, str]:
    """Return a Python for each version that is here, and never the one that runs the tests."""
    candidates = [
        str(Path(folder, f"python{version}"))
        for folder in (*os.get_exec_path(), "/usr/bin", "/usr/local/bin")
        for version in VERSIONS
    ]
    for root in (Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python"):
        candidates += [str(path) for path in sorted(root.glob("*/bin/python3"))]
    found: dict[str, str] = {}
    for candidate in candidates:
        if not os.access(candidate, os.X_OK) or "/shims/" in candidate:
            continue
        asked = subprocess.run([candidate, "-I", "-c", _ASK], capture_output=True, text=True)
        version, _, path = asked.stdout.strip().partition(" ")
        if version in VERSIONS and path and not Path(path).samefile(sys.executable):
            found.setdefault(version, path)
    return found


def patched_python(folder: Path, module: str, code: str, python: str = sys.executable) -> str:
    """Return a Python that runs *code* in a payload *module* as soon as that has been imported."""
    folder.mkdir(parents=True, exist_ok=True)
    patch, stand_in = folder / "patch.py", folder / "python-with-a-patch"
    patch.write_text(code)
    words = (python, str(_RUNNER), module, str(patch))
    stand_in.write_text(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, words))} "$@"\n')
    stand_in.chmod(0o755)
    return str(stand_in)
