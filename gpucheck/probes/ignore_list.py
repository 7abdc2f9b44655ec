"""Reads which findings this machine's owner knows of and accepts, each with a reason.

    [[ignore]]
    code = "DRV014"          # a rule, or a family of rules
    reason = "a laptop: its GPU may sleep"

The file is `gpucheck.toml`: /etc/gpucheck.toml for the machine, ~/.config/gpucheck/gpucheck.toml
($XDG_CONFIG_HOME) for the user, one in the working directory for a project. All that are there
count, and what they accept is a fact of the machine: it is judged the same wherever it is judged.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gpucheck.probes.files import read_bytes
from gpucheck.snapshot import Accepted, Known, Unknown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "gpucheck.toml"
LIMIT_BYTES = 1 << 16
LINE_LIMIT = 2000  # of a key `a.b.c`, tomllib's time grows with the square of its parts
_CODE = re.compile(r"[A-Z]{3}(?:[0-9]{3})?")


def probe(variables: Mapping[str, str], root: Path = Path("/")) -> Known[tuple[Accepted, ...]]:
    """Return what all files that are there accept; unknown where one of them is wrong."""
    return read(places(variables, root))


def places(variables: Mapping[str, str], root: Path = Path("/")) -> Iterator[Path]:
    """Yield where the files are looked for, the widest first."""
    yield root / "etc" / NAME
    home = variables.get("HOME")
    if config := variables.get("XDG_CONFIG_HOME") or (home and f"{home}/.config"):
        yield Path(config) / "gpucheck" / NAME
    try:
        yield Path.cwd() / NAME
    except OSError:  # the working directory is gone
        return


def read(files: Iterable[Path]) -> Known[tuple[Accepted, ...]]:
    """Return what *files* accept, each code once: the narrowest file gives the reason."""
    accepted: dict[str, Accepted] = {}
    for file in files:
        content = read_bytes(file, LIMIT_BYTES)
        if isinstance(content, Unknown):
            return content
        if content is None:
            continue
        entries = parse(content, str(file))
        if isinstance(entries, Unknown):
            return entries
        accepted |= {entry.code: entry for entry in entries}
    return tuple(accepted.values())


def parse(content: bytes, file: str) -> Known[tuple[Accepted, ...]]:
    """Return the entries of one file."""
    if any(len(line) > LINE_LIMIT for line in content.splitlines()):
        return Unknown(f"{file}: a line is longer than {LINE_LIMIT} bytes")
    try:
        document = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Unknown(f"{file}: is not TOML: {error}")
    unknown = sorted(set(document) - {"ignore"})
    if unknown:
        return Unknown(f"{file}: {unknown[0]!r} has no meaning: only [[ignore]] has one")
    entries = document.get("ignore", [])
    accepted: list[Accepted] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        if not isinstance(entry, dict) or set(entry) != {"code", "reason"}:
            return Unknown(f"{file}: each [[ignore]] has a code and a reason, and nothing else")
        code, reason = entry["code"], entry["reason"]
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            return Unknown(f"{file}: {code!r} is no rule (DRV014) and no family (DRV)")
        if not isinstance(reason, str) or not reason.strip():
            return Unknown(f"{file}: {code} has no reason")
        accepted.append(Accepted(code=code, reason=" ".join(reason.split()), file=file))
    return tuple(accepted)
