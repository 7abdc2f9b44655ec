"""Keeps in the state directory what undoes the writing of each block.

One small JSON file for each start-up file has the last few records, each under its block's
checksum: a record that fits is found whichever write was the last to succeed.
"""

import json
import os
import pwd
import secrets
from collections.abc import Mapping
from pathlib import Path

from gpucheck.probes.files import read_text
from gpucheck.shellenv.atomic_write import name_of
from gpucheck.shellenv.startup_file import Record
from gpucheck.usage_error import UsageError

RECORDS_KEPT = 10


def state_directory() -> Path:
    """Return gpucheck's folder in the state directory of the platform's convention.

    Root with another user's HOME (sudo -E) uses root's own: nothing of root's is left in that home.
    """
    import platformdirs

    home = Path(os.environ.get("HOME", "/"))
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ and _owner(home) != 0:
        return Path(pwd.getpwuid(0).pw_dir) / ".local/state/gpucheck"
    return Path(platformdirs.user_state_dir("gpucheck", appauthor=False))


def _owner(path: Path) -> int:
    try:
        return path.stat().st_uid
    except OSError:
        return 0


def load(target: Path) -> Mapping[str, Record]:
    """Return the records for the start-up file *target* by their blocks' checksums."""
    text = read_text(_file(target), 1 << 20)
    return parse(text) if isinstance(text, str) else {}


def parse(text: str) -> dict[str, Record]:
    """Read the JSON of a records file; what does not fit is left out."""
    try:
        blocks = json.loads(text)["blocks"]
        pairs = list(blocks.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    found = {str(digest): Record.read(fields) for digest, fields in pairs}
    return {digest: record for digest, record in found.items() if record is not None}


def keep(target: Path, digest: str, record: Record) -> None:
    """Add the *record* of a block that is about to be written into *target*.

    Raises UsageError where the state directory does not let us.
    """
    file = _file(target)
    records = {**load(target)}
    records.pop(digest, None)
    records = dict([*records.items(), (digest, record)][-RECORDS_KEPT:])
    blocks = {name: each.fields() for name, each in records.items()}
    text = json.dumps({"file": str(target), "blocks": blocks}, indent=1)
    fresh = file.with_name(f".{secrets.token_hex(6)}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
        fresh.chmod(0o600)
        fresh.replace(file)
    except OSError as error:
        raise UsageError(_why(error, file)) from None


def _why(error: OSError, file: Path) -> str:
    """Say what prevents it, and who owns the nearest folder that is there."""
    folder = next((above for above in file.parents if above.exists()), file.parent)
    why = f"{folder}: {error.strerror}; nothing was written"
    if isinstance(error, PermissionError) and _owner(folder) != os.geteuid():
        return f"{why}. It belongs to uid {_owner(folder)}: give it back with chown"
    return why


def _file(target: Path) -> Path:
    return state_directory() / "blocks" / f"{name_of(target)}.json"
