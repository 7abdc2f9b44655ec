"""Streams the snapshots of many machines out of folders, JSON lines and gzip."""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.probes.apart import stream
from gpucheck.usage_error import UsageError

LINE_LIMIT_BYTES = 64 << 20
FILE_SECONDS = 5.0  # for one file, or one line of a file of many
_SUFFIXES = (".json", ".json.gz")
_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
#: What `fleet run` writes for a node that gave no snapshot: one line, why.
FAILURE_SUFFIX = ".failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one node gave: the bytes of a snapshot, or why there are none."""

    node: str
    content: bytes = b""
    failure: str = ""


def answers(sources: Iterable[str]) -> Iterator[Answer]:
    """Yield what each node of *sources* gave: folders of NODE.json, single files, JSON lines.

    A line of JSON lines is a snapshot; its node is the `node` that stands next to it in
    `{"node": …, "snapshot": …}`, else its number. UsageError: a source that is not there.
    NoAnswerError: one that does not answer, in a process of its own, which unpacks as well.
    """
    names = tuple(sources)
    return stream(FILE_SECONDS, ", ".join(names), lambda: _answers(names))


def _answers(sources: Sequence[str]) -> Iterator[Answer]:
    for source in sources:
        path = Path(source)
        if path.is_dir():
            yield from _folder(path)
        elif path.name.endswith(_LINES):
            yield from _lines(path)
        elif path.exists():
            yield _file(path)
        else:
            raise UsageError(f"{source}: no such file or folder")


def _folder(folder: Path) -> Iterator[Answer]:
    names = sorted(entry.name for entry in folder.iterdir())
    have = {_node(name) for name in names if name.endswith(_SUFFIXES)}
    for name in names:
        if name.endswith(_SUFFIXES):
            yield _file(folder / name)
        elif name.endswith(_LINES):
            yield from _lines(folder / name)
        elif (
            name.endswith(FAILURE_SUFFIX)
            and (node := name.removesuffix(FAILURE_SUFFIX)) not in have
        ):
            text = (folder / name).read_text(encoding="utf-8", errors="replace")
            yield Answer(node=node, failure=text.strip().partition("\n")[0] or "no reason given")


def _node(name: str) -> str:
    return name.removesuffix(".gz").removesuffix(".json")


def _file(path: Path) -> Answer:
    node = _node(path.name)
    try:
        data = path.read_bytes()
        return Answer(node=node, content=gzip.decompress(data) if _is_gzip(data) else data)
    except (OSError, EOFError, zlib.error) as error:
        return Answer(node=node, failure=f"unreadable: {_reason(error)}")


def _is_gzip(data: bytes) -> bool:
    return data[:2] == b"\x1f\x8b"


def _lines(path: Path) -> Iterator[Answer]:
    number = 0
    with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as stream:
        while True:
            number += 1
            node = f"{path.name}:{number}"
            try:
                line = stream.readline(LINE_LIMIT_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                yield Answer(node=node, failure=f"the file breaks off here: {_reason(error)}")
                return
            if not line:
                return
            if line.strip():
                yield Answer(node=node, content=line)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
