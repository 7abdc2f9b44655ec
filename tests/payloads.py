"""Plants shell code in the texts of machines, and looks whether any command to copy would run it.

`tests/rules/conftest.py` hands each machine on which a rule found something over to `live`. So the
commands of every symptom that any test of a rule produces are tried.
"""

import json
import random
import shlex
import subprocess
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
from soak import rounds

from gpucheck import snapshot
from gpucheck.render.remedy import Adviser
from gpucheck.render.sanitize import clean
from gpucheck.rule import Remedy, Rule, Symptom
from gpucheck.snapshot import Snapshot

#: How many machines with payloads are made of each machine that a rule complained of. The tests of
#: rules have some 1,000 of those.
EACH = rounds(4, 100)

_RUN = "payload_ran"
PAYLOADS = (
    *(f"$({_RUN})", f"`{_RUN}`", f"';{_RUN};'", f'";{_RUN};"', f"\n{_RUN}\n", f"\r\n{_RUN} #"),
    *(f";{_RUN};", f"|{_RUN}|", f"&&{_RUN}&&", f"&{_RUN}&", f"${{x:-$({_RUN})}}", f"<({_RUN})"),
    *(
        f"'$({_RUN})'",
        f"\\'$({_RUN})",
        f"{{{_RUN},}}",
        f")({_RUN})",
        f"' `{_RUN}` '",
        f"\t$({_RUN})",
    ),
    *("'", '"', "\\", "(", "`", "$(", "#", " ", "-x", "{x}", "\x1b]0;", "\u2028", "\udcff"),
)

#: A shell in which only our own functions work: what is to be run by `sudo`, `sh -c` or `env` is
#: read again, as those would. It is restricted (bash(1)): no file is written, no path is run.
_PRELUDE = f"""
PATH=/nonexistent
{_RUN}() {{ builtin kill -USR1 $$; }}
command_not_found_handle() {{ return 0; }}
sudo() {{ while [[ $1 == -* ]]; do shift; done; "$@"; }}
sh() {{ while [[ $1 == -* && $1 != -c ]]; do shift; done; [[ $1 != -c ]] || (eval "$2"); }}
bash() {{ sh "$@"; }}
env() {{ while [[ $1 == -* || $1 == *=* ]]; do shift; done; "$@"; }}
kill() {{ :; }}
cd() {{ :; }}
exec() {{ "$@"; }}
source() {{ :; }}
set -r
"""


def _closed_fields() -> frozenset[tuple[str, str]]:
    """The fields whose texts are words of ours: (tag, name)."""
    found = {("", "type"), ("", "schema")}
    for kind in vars(snapshot).values():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            for name, hint in typing.get_type_hints(kind).items():
                if "Literal" in str(hint):
                    found.add((str(kind.__struct_config__.tag), name))
    return frozenset(found)


_CLOSED = _closed_fields()


class Field:
    """A machine in whose texts payloads are planted, again and again."""

    def __init__(self, machine: Snapshot) -> None:
        self._facts = json.loads(msgspec.json.encode(machine))
        self._texts = list(_texts_of(self._facts))

    def planted(self, chance: random.Random) -> Snapshot:
        """Return the machine with a payload in a few, many or all of its texts."""
        payload = chance.choice(PAYLOADS)
        count = chance.choice((3, len(self._texts) // 10, len(self._texts)))
        chosen = chance.sample(self._texts, min(count, len(self._texts)))
        for holder, key, text in chosen:
            holder[key] = chance.choice((text + payload, payload + text, payload))
        hostile = msgspec.convert(self._facts, type=Snapshot)
        for holder, key, text in chosen:
            holder[key] = text
        return hostile


def _texts_of(tree: Any) -> Iterator[tuple[Any, Any, str]]:
    """Yield where each text is that comes from outside: what holds it, its key, and the text."""
    tag = str(tree.get("type", "")) if isinstance(tree, dict) else ""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if (tag, key) in _CLOSED or ("", key) in _CLOSED:
            continue
        if isinstance(value, str):
            yield tree, key, value
        elif isinstance(value, (dict, list)):
            yield from _texts_of(value)


def _lines(remedy: Remedy, machine: Snapshot) -> Iterator[str]:
    for way in Adviser(machine).ways(remedy):
        for block in way.blocks:
            yield "\n".join(block.lines)
            yield "\n".join(clean(line) for line in block.lines)
    if remedy.verify is not None:
        yield remedy.verify.text


def live(rule: Rule, machine: Snapshot, seed: str) -> list[str]:
    """Return the commands of *rule* that run what is in the texts of *machine*, or do not parse."""
    texts: dict[str, None] = {}
    field = Field(machine)
    for number in range(EACH):
        hostile = field.planted(random.Random(f"{seed}{number}"))
        for answer in rule(hostile):
            if isinstance(answer, Symptom):
                texts.update(dict.fromkeys(_lines(answer.remedy, hostile)))
    texts.pop("", None)
    return found_live([text.encode("utf-8", "surrogateescape") for text in texts])


def found_live(texts: list[bytes]) -> list[str]:
    """Say of each of *texts* whether it is no shell's language, or runs the payload."""
    if not texts or (_parse(texts) and not _run(texts)):
        return []
    wrong = [f"does not parse: {text!r}" for text in texts if not _parse([text])]
    return wrong + [f"runs what a text holds: {text!r}" for text in texts if _run([text])]


def _parse(texts: list[bytes]) -> bool:
    script = b"\n".join(b"f%d() {\n%b\n}" % (at, text) for at, text in enumerate(texts))
    return subprocess.run(["bash", "-n"], input=script, capture_output=True).returncode == 0


def _run(texts: list[bytes]) -> bool:
    """Whether a shell that is handed one of *texts* runs the payload.

    Paths, redirections and `&&` are taken out first, none of which quotes anything: so that each
    part of a command is read, whatever came of the one before.
    """
    script = _PRELUDE
    for text in texts:
        plain = text.decode("utf-8", "surrogateescape").replace("/", "_").replace(">", " ")
        script += f"(eval {shlex.quote(plain.replace('&&', ';'))}) </dev/null\n"
    ended = subprocess.run(
        ["/bin/bash", "--norc", "--noprofile"],
        input=script.encode("utf-8", "surrogateescape"),
        env={},
        cwd="/",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    return ended.returncode < 0
