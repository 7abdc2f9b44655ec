"""Says what stopped a smoke training: which process, which GPU, and where it was."""

import os
import re
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from gpucheck.probes.child import Ended
from gpucheck.probes.messages import RankSign
from gpucheck.snapshot import TrainingFailure
from gpucheck.workloads.training_process import TrainingProcess

LOST_SECONDS = 3.0  # six missed signs of life
_STACK_SECONDS = 0.7  # for the child to write its stack after our signal
_LAST_LINES = 12


def blame(process: TrainingProcess) -> tuple[int, int]:
    """Order processes: first the one that failed by itself, not because another one went away."""
    failed, ended, rank = process.failed, process.ended, process.work.rank
    if ended is not None and ended.signal_name and failed is None:
        return 0, rank
    if failed is None:
        return 2, rank
    if failed.kind == "out of memory":
        return 1, rank
    return (4 if is_by_others(process) else 3), rank


def is_by_others(process: TrainingProcess) -> bool:
    """Return whether a process failed because another one went away."""
    return process.failed is not None and bool(
        re.search(r"[Cc]onnection|[Tt]imed out|closed by peer", process.failed.message)
    )


def failure_of(process: TrainingProcess, ended: Ended) -> TrainingFailure:
    """Return how *process* failed, which ended as *ended* says. GPUs by CUDA's numbers."""
    is_ddp = process.work.strategy == "ddp"
    failed = process.failed
    gpus = () if process.gpu is None or not is_ddp else (process.gpu,)
    if failed is not None and failed.gpu is not None:
        gpus = (failed.gpu,)
    common: dict[str, Any] = {
        "phase": process.phase,
        "step": process.batch,
        "gpus": gpus,
        "rank": process.work.rank if is_ddp else None,
        "host": socket.gethostname() if is_ddp else None,
        "stack": stack(ended.stderr),
        "last_lines": last_lines(ended.stderr),
    }
    if failed is not None:
        return TrainingFailure(kind=failed.kind, message=failed.message, **common)
    if ended.signal_name is not None:
        return TrainingFailure(kind="crash", signal=ended.signal_name, **common)
    message = ended.error or f"exit status {ended.exit_code}"
    return TrainingFailure(kind="exit", message=message, **common)


def hang_of(
    process: TrainingProcess,
    ended: Ended,
    *,
    seconds: float,
    state: str | None,
    culprit: RankSign | None,
) -> TrainingFailure:
    """Return how *process* hung; *culprit* is the rank that all wait for, where that is known."""
    is_culprit = culprit is not None and culprit.rank == process.work.rank
    gpus = process.lagging
    if process.phase == "copies" and process.pair and process.work.strategy == "dp":
        gpus = process.pair
    elif not gpus and process.gpu is not None and is_culprit:
        gpus = (process.gpu,)
    failure = TrainingFailure(
        kind="hang",
        phase=process.phase,
        step=process.batch,
        after_seconds=round(seconds, 1),
        gpus=gpus if process.work.device == "cuda" else (),
        stack=stack(ended.stderr),
        message=state,
        last_lines=last_lines(ended.stderr),
    )
    if culprit is None:
        return failure
    failure = msgspec.structs.replace(
        failure, rank=culprit.rank, host=culprit.host, step=culprit.step
    )
    if not is_culprit:  # another host's: all that is known of its stack is where it was
        failure = msgspec.structs.replace(
            failure, stack=(culprit.stands,), message=None, last_lines=()
        )
    return failure


def culprit_of(signs: Sequence[RankSign]) -> RankSign | None:
    """Return the rank that all others wait for: silent, behind, or somewhere else than they."""
    least = min((sign.step for sign in signs), default=0)
    places = [sign.stands for sign in signs]
    for odd in (
        [sign for sign in signs if sign.silent_seconds > LOST_SECONDS],
        [sign for sign in signs if sign.step == least],
        [sign for sign in signs if places.count(sign.stands) == 1],
    ):
        if len(odd) == 1 and len(signs) > 1:
            return odd[0]
    return None


def lost_rank(signs: Sequence[RankSign], world: int) -> TrainingFailure | None:
    """Return the rank that has given no sign of life for longest, if one is missing."""
    silent = [sign for sign in signs if sign.silent_seconds > LOST_SECONDS]
    if silent:
        sign = max(silent, key=lambda one: one.silent_seconds)
        return TrainingFailure(
            kind="lost",
            phase=sign.phase,
            step=sign.step,
            after_seconds=round(sign.silent_seconds, 1),
            rank=sign.rank,
            host=sign.host,
        )
    if signs and len(signs) < world:
        known = {sign.rank for sign in signs}
        rank = next(rank for rank in range(world) if rank not in known)
        return TrainingFailure(kind="lost", phase="rendezvous", rank=rank)
    return None


def ask_for_the_stack(pid: int | None) -> str | None:
    """Let the child write its stack to its stderr; return what the kernel says where it cannot."""
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGUSR1)
    except ProcessLookupError:
        return None
    time.sleep(_STACK_SECONDS)
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state = next((line.split(":", 1)[1] for line in status.splitlines() if "State" in line), "")
    return f"state {' '.join(state.split())}" if state.split()[:1] != ["S"] else None


def stack(stderr: bytes) -> tuple[str, ...]:
    """Return the frames of the thread in question out of what faulthandler wrote, innermost last.

    That is the current thread of a crash, and else the main thread, which comes last.
    """
    text = stderr.decode(errors="replace")
    header = re.compile(r"^(Current thread|Thread) 0x.*\(most recent call first\):$", flags=re.M)
    parts = header.split(text)
    blocks = list(zip(parts[1::2], parts[2::2], strict=True))
    if not blocks:
        return ()
    current = [block for name, block in blocks if name == "Current thread"]
    block = current[0] if current and "Fatal Python error" in text else blocks[-1][1]
    frames = re.findall(r'^  File "(.*)", line (\d+) in (.*)$', block, flags=re.M)
    return tuple(
        f"{Path(file).name}:{line} {name}"
        for file, line, name in reversed(frames)
        if not file.startswith("<")
    )


def last_lines(stderr: bytes) -> tuple[str, ...]:
    """Return the last lines that say something, without the stack."""
    lines = [
        line.rstrip()[:500]
        for line in stderr.decode(errors="replace").splitlines()
        if line.strip()
        and not re.match(r"(  File |Thread 0x|Current thread|Extension modules)", line)
    ]
    return tuple(lines[-_LAST_LINES:])
