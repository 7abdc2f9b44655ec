"""Asks systemd which variables its user units would get by environment.d(5)."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from gpucheck.probes import child

#: systemd-environment-d-generator(8); the second where /lib is no link to /usr/lib.
GENERATORS = tuple(
    Path(folder, "systemd/user-environment-generators/30-systemd-environment-d-generator")
    for folder in ("/usr/lib", "/lib")
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def variables(
    home: Mapping[str, str], deadline_seconds: float
) -> tuple[dict[str, str] | None, str]:
    """Return what units of the user with these variables get; None, and why, where nobody knows."""
    generator = next((file for file in GENERATORS if file.exists()), None)
    if generator is None:
        return None, "systemd is not here"
    carried = {name: home[name] for name in ("HOME", "XDG_CONFIG_HOME") if name in home}
    ended = child.run(
        [str(generator)], deadline_seconds=deadline_seconds, environment={**carried, "PATH": _PATH}
    )
    if ended.why:
        return None, ended.why
    return {"PATH": _PATH, **parse(os.fsdecode(ended.stdout))}, ""


def parse(text: str) -> dict[str, str]:
    r"""Read lines of NAME=value, or NAME="value" with `\` before what a shell would expand."""
    found = {}
    line = re.compile(r'^(\w+)=(?:"((?:[^"\\]|\\.)*)"|(.*))$', re.MULTILINE)
    for name, quoted, plain in line.findall(text):
        found[name] = re.sub(r"\\(.)", r"\1", quoted) or plain
    return found
