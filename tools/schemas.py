"""Makes the JSON Schemas of report and snapshot, and refuses changes that break their readers.

A name in `gpucheck.report/1` or `gpucheck.snapshot/1` is frozen: what is added has a default or is
new, and nothing is removed, renamed or given another type. Whoever must do that starts
`gpucheck.snapshot/2`, with a schema file of its own.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gpucheck.render import json_schema
from gpucheck.snapshot import SCHEMA, Snapshot
from tools.snapshot_page import types

SNAPSHOT_ID = "urn:gpucheck:snapshot:1"  # a name that stays, wherever the project lives
#: What a schema says for people, and what only repeats the rest.
_WORDS = ("description", "title", "discriminator")


def report_schema() -> str:
    """Return the JSON Schema of the report."""
    return json_schema()


def snapshot_schema() -> str:
    """Return the JSON Schema (2020-12) of the snapshot, with what each field means."""
    shape = msgspec.json.schema(Snapshot)
    known = types()
    for name, each in shape["$defs"].items():
        for field in known[name].fields if name in known else ():
            described = {"description": field.meaning, **each["properties"][field.name]}
            each["properties"][field.name] = described
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SNAPSHOT_ID,
        "title": f"{SCHEMA}: what gpucheck snapshot writes",
        **shape,
    }
    return _a_line_each(whole) + "\n"


def _a_line_each(part: Any, depth: int = 0) -> str:
    """Return JSON in which each field has a line of its own: a change of it is one line too."""
    if not isinstance(part, dict) or depth == 4:  # $defs, the type, its properties, the field
        return json.dumps(part, ensure_ascii=False)
    margin = " " * (depth + 1)
    lines = [
        f"{margin}{json.dumps(name)}: {_a_line_each(value, depth + 1)}"
        for name, value in part.items()
    ]
    return "{\n" + ",\n".join(lines) + f"\n{margin[1:]}}}"


def breaks(old: str, new: str) -> list[str]:
    """Return what of the schema *old* the schema *new* takes from those who rely on it."""
    before, after = json.loads(old), json.loads(new)
    found = [] if before["$id"] == after["$id"] else [f"$id: was {before['$id']}"]
    is_input = before["$id"] == SNAPSHOT_ID
    for name, shape in before["$defs"].items():
        now = after["$defs"].get(name)
        found += [f"{name}: is gone"] if now is None else _changes(name, shape, now, is_input)
    return found


def _changes(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], is_input: bool
) -> Iterator[str]:
    """Yield what became of the fields of one type."""
    fields, now = old.get("properties", {}), new.get("properties", {})
    required, required_now = set(old.get("required", ())), set(new.get("required", ()))
    for field, shape in fields.items():
        if field not in now:
            yield f"{name}.{field}: is gone"
        elif not _is_same(_shape(shape), _shape(now[field])):
            yield f"{name}.{field}: has another type or default"
        elif (field in required) != (field in required_now):
            yield f"{name}.{field}: is {'now' if field in required_now else 'no longer'} required"
    for field in now.keys() - fields.keys() if is_input else ():
        if field in required_now:  # snapshots that were stored before do not have it
            yield f"{name}.{field}: is new, and has no default"


def _shape(part: Any) -> Any:
    """Return *part* of a schema without what is for people, alternatives in one order."""
    if isinstance(part, list):
        return [_shape(each) for each in part]
    if not isinstance(part, dict):
        return part
    plain = {name: _shape(value) for name, value in part.items() if name not in _WORDS}
    if "anyOf" in plain:
        plain["anyOf"] = sorted(plain["anyOf"], key=json.dumps)
    return plain


def _is_same(old: Any, new: Any) -> bool:
    """Whether readers of *old* can read *new*: the same, but that a list of words may grow."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(
            set(old[name]) <= set(new[name]) if name == "enum" else _is_same(old[name], new[name])
            for name in old
        )
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_is_same, old, new))
    return bool(old == new)
