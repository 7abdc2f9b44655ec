"""Asks many nodes for the same, and keeps each answer in a file as it comes.

A second run into the same folder asks only the nodes that gave none. A dead, slow or refusing node
stops nobody else: it is a file that says why.
"""

import json
import os
import re
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gpucheck.fleet.engines.interface import Engine, Output, Task
from gpucheck.fleet.jobs import JOBS
from gpucheck.fleet.reading import FAILURE_SUFFIX
from gpucheck.probes.apart import ACCESS_SECONDS, within
from gpucheck.usage_error import UsageError

FAN_OUT = 64
#: Says what the answers of a folder are answers to.
JOB_FILE = ".asked-for"
_SNAPSHOT = re.compile(r'\{\s*"schema":\s*"gpucheck\.snapshot/')


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of one node: `why` is empty where its snapshot is in the folder."""

    node: str
    why: str
    seconds: float


def tasks(job: str, nodes: Sequence[str], program: Sequence[str]) -> tuple[Task, ...]:
    """Return what has to be run, on each of *nodes*, for *job*."""
    words = (*program, *JOBS[job].words)
    return tuple(Task(node=node, words=words, takes_gpus=JOBS[job].takes_gpus) for node in nodes)


def gather(
    engine: Engine,
    wanted: Sequence[Task],
    folder: Path,
    *,
    job: str,
    timeout_seconds: float,
    fan_out: int = FAN_OUT,
) -> Generator[Answered, None, None]:
    """Run *wanted*, and yield each node as it answers or fails; its file is in *folder* by then.

    UsageError: the folder cannot be written, or holds the answers of another job. NoAnswerError:
    its file system does not answer. Leaving the iteration ends what still runs.
    """
    claim(folder, job)
    left = [one for one in wanted if not (folder / f"{_file(one.node)}.json").exists()]
    away = engine.out_of_reach([one.node for one in left])
    for node, why in away.items():
        yield keep_output(Output(node=node, why=why), folder)
    asked = [one for one in left if one.node not in away]
    if not asked:
        return
    outputs = engine.run(asked, timeout_seconds=timeout_seconds, fan_out=fan_out)
    with closing(outputs):
        for output in outputs:
            yield keep_output(output, folder)


def claim(folder: Path, job: str) -> None:
    """Make *folder*, and note in it what is asked for: answers to two questions do not mix.

    UsageError: it cannot be written, or holds the answers of another job. NoAnswerError: its file
    system does not answer.
    """
    within(ACCESS_SECONDS, f"--out {folder}", partial(_claim, folder, job))


def _claim(folder: Path, job: str) -> None:
    note = folder / JOB_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if note.exists():
            asked_for = note.read_text(encoding="utf-8").strip()
            if asked_for != job:
                raise UsageError(f"--out {folder}: holds answers to {asked_for}, not to {job}")
        else:
            _write(note, f"{job}\n".encode())
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}") from None


def keep_output(output: Output, folder: Path) -> Answered:
    """Keep a snapshot, or the reason that there is none, in the node's file of *folder*."""
    name = _file(output.node)
    snapshot, why = snapshot_in(output.content)
    if snapshot:
        _write(folder / f"{name}.json", snapshot)
        forget_failure(output.node, folder)
        return Answered(node=output.node, why="", seconds=output.seconds)
    why = " ".join((output.why or why).split())
    _write(folder / f"{name}{FAILURE_SUFFIX}", f"{why}\n".encode("utf-8", "replace"))
    return Answered(node=output.node, why=why, seconds=output.seconds)


def forget_failure(node: str, folder: Path) -> None:
    """Remove the reason of a node that has answered since."""
    (folder / f"{_file(node)}{FAILURE_SUFFIX}").unlink(missing_ok=True)


def snapshot_in(output: bytes) -> tuple[bytes, str]:
    """Return the snapshot in *output*, without what a login wrote around it, or why there is none.

    A whole snapshot counts however its command ended: a broken machine is what it is about.
    """
    text = output.decode("utf-8", "replace")
    found = _SNAPSHOT.search(text)
    if found is None:
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return b"", f"what it sent is no snapshot: {lines[-1][:200] if lines else 'nothing'}"
    try:
        _, end = json.JSONDecoder().raw_decode(text, found.start())
    except ValueError as error:
        size = len(text) - found.start()
        at_end = isinstance(error, json.JSONDecodeError) and error.pos >= len(text.rstrip()) - 1
        return b"", (
            f"its answer is cut off after {size:,} characters"
            if at_end or "Unterminated" in str(error)
            else f"its answer is not whole: {error}"
        )
    except RecursionError:
        return b"", "its answer is nested too deeply for a snapshot"
    return text[found.start() : end].encode("utf-8", "replace"), ""


def _file(node: str) -> str:
    """Return *node* as the name of a file: no name leads out of the folder."""
    return node.replace("/", "_").lstrip(".") or "_"


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
