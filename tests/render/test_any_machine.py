"""Whatever a stored snapshot says, it is judged and shown: a lie is a fact like any other."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import msgspec
import pytest

from gpucheck.render import Format, Look, json_schema, render
from gpucheck.report import examine
from gpucheck.snapshot import Snapshot
from machines import HEALTHY

LIES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    7,
    -(2**63),
    2**63 - 1,
    2**64 - 1,
    0.5,
    -1e308,
    1e308,
    "",
    "x",
    " ",
    "/",
    ":",
    "9" * 50,
    "1.2.3.4.5",
    "\x1b[31m\u202e\n|`<b>",
    [],
    {"type": "unknown", "why": ""},
    {"type": "unknown", "why": "\x1b]0;x\x07"},
    {"type": "not supported"},
)
VALIDATOR = jsonschema.Draft202012Validator(json.loads(json_schema()))


def _leaves(tree: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(tree, dict):
        for key in tree:
            if key not in ("type", "schema"):
                yield from _leaves(tree[key], (*path, key))
    elif isinstance(tree, (list, tuple)):
        for at in range(min(len(tree), 3)):
            yield from _leaves(tree[at], (*path, at))


def _lists(tree: object) -> object:
    """Tuples as lists, so that they can be changed."""
    if isinstance(tree, dict):
        return {key: _lists(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_lists(item) for item in tree]
    return tree


FACTS = _lists(json.loads(msgspec.json.encode(HEALTHY)))
PATHS = [path for path in _leaves(FACTS) if path]


def _lying(seed: int) -> Snapshot | None:
    """The healthy machine with one to four facts replaced; None where that is no snapshot."""
    chance = random.Random(seed)
    facts = copy.deepcopy(FACTS)
    for _ in range(chance.randint(1, 4)):
        *way, last = chance.choice(PATHS)
        place = facts
        try:
            for step in way:
                place = place[step]  # type: ignore[index]
            place[last] = chance.choice(LIES)  # type: ignore[index]
        except (KeyError, IndexError, TypeError):
            continue
    try:
        return msgspec.convert(facts, type=Snapshot)
    except msgspec.ValidationError:
        return None


@pytest.mark.parametrize("part", range(8))
def test_a_machine_that_lies_is_judged_and_shown(part: int):
    shown = 0
    for seed in range(part * 400, part * 400 + 400):
        machine = _lying(seed)
        if machine is None:
            continue
        report = examine(machine)
        assert not [one for one in report.not_checked if "gpucheck's own" in one.why], seed
        VALIDATOR.validate(json.loads(render(report, Format.JSON)))
        render(report, Format.TEXT, Look(verbose=True))
        render(report, Format.MARKDOWN)
        shown += 1
    assert shown > 20
