"""Starts one command per node, some at a time, and keeps each answer in a file as it comes.

A second run into the same folder asks only the nodes that gave none. A dead, slow or refusing node
stops nobody else: it is a file that says why.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from gpucheck.fleet.engines import Launch, Plan
from gpucheck.fleet.reading import FAILURE_SUFFIX
from gpucheck.usage_error import UsageError

FAN_OUT = 64
ANSWER_LIMIT_BYTES = 64 << 20
GRACE_SECONDS = 2.0
_SNAPSHOT = b'{"schema":"gpucheck.snapshot/'


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What became of one node: `why` is empty where its snapshot is in the folder."""

    node: str
    why: str
    seconds: float


def gather(
    plan: Plan, folder: Path, *, timeout_seconds: float, fan_out: int = FAN_OUT
) -> Iterator[Answered]:
    """Run *plan*, and yield each node as it answers or fails; its file is in *folder* by then.

    UsageError: the folder cannot be written. Leaving the iteration ends what still runs.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}") from None
    for node, why in plan.out_of_reach.items():
        _write(folder / f"{_file(node)}{FAILURE_SUFFIX}", f"{why}\n".encode())
        yield Answered(node=node, why=why, seconds=0.0)
    todo = [one for one in plan.launches if not (folder / f"{_file(one.node)}.json").exists()]
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=max(1, min(fan_out, len(todo)))) as pool:
        asked = [pool.submit(_ask, launch, folder, timeout_seconds, stop) for launch in todo]
        try:
            for future in as_completed(asked):
                yield future.result()
        finally:
            stop.set()
            for future in asked:
                future.cancel()


def _file(node: str) -> str:
    """Return *node* as the name of a file: no name leads out of the folder."""
    return node.replace("/", "_").lstrip(".") or "_"


def _ask(launch: Launch, folder: Path, timeout_seconds: float, stop: threading.Event) -> Answered:
    began = time.monotonic()
    content, why = _run(launch.command, began + timeout_seconds, timeout_seconds, stop)
    name = _file(launch.node)
    snapshot = b"" if why else _snapshot_in(content)
    if not why and not snapshot:
        shown = content.strip().rpartition(b"\n")[2][:200].decode("utf-8", "replace")
        why = f"what it sent is no snapshot: {shown or 'nothing'}"
    if why:
        _write(folder / f"{name}{FAILURE_SUFFIX}", f"{why}\n".encode("utf-8", "replace"))
    else:
        _write(folder / f"{name}.json", snapshot)
        (folder / f"{name}{FAILURE_SUFFIX}").unlink(missing_ok=True)
    return Answered(node=launch.node, why=why, seconds=time.monotonic() - began)


def _run(
    command: Sequence[str], until: float, timeout_seconds: float, stop: threading.Event
) -> tuple[bytes, str]:
    """Return what *command* wrote, and why that is no answer ("" where it may be one)."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        return b"", f"could not start {command[0]}: {error.strerror}"
    while True:
        try:
            output, errors = process.communicate(timeout=0.2)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() < until and not stop.is_set():
                continue
        _end(process)
        return b"", "stopped by the caller" if stop.is_set() else f"late: {timeout_seconds:g} s"
    if len(output) > ANSWER_LIMIT_BYTES:
        return b"", f"sent more than {ANSWER_LIMIT_BYTES >> 20} MiB"
    if process.returncode == 0 or _snapshot_in(output):
        return output, ""
    said = errors.strip().rpartition(b"\n")[2][:300].decode("utf-8", "replace")
    if process.returncode < 0:
        return b"", f"{command[0]} was ended by signal {-process.returncode}"
    return b"", f"{command[0]} ended with status {process.returncode}: {said or 'no message'}"


def _end(process: "subprocess.Popen[bytes]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        try:
            process.communicate(timeout=GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def _snapshot_in(output: bytes) -> bytes:
    """Return the snapshot in *output*, past whatever a login wrote before it; b"" without one."""
    compact = output.find(_SNAPSHOT)
    if compact < 0:
        spaced = output.find(b'"schema": "gpucheck.snapshot/')
        compact = output.rfind(b"{", 0, spaced) if spaced >= 0 else -1
    return output[compact:] if compact >= 0 else b""


def _write(path: Path, content: bytes) -> None:
    """Write whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    unfinished.write_bytes(content)
    unfinished.replace(path)
