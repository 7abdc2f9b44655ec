"""Lists the nodes of a Ray cluster, and runs a command on each that it is told by a line of stdin.

It has a process of its own because Ray prints what befalls its nodes on the driver's stdout, and
because its Python and its version have to be the cluster's.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Callable

from . import channel

START_SECONDS = 15.0  # for a worker of Ray's to start
LOOK_SECONDS = 0.5
LIMIT_BYTES = 64 << 20

ray: Any = None


def main(address: str = "auto") -> None:
    """List the nodes of the cluster at *address*; then do what one line of stdin says, if any."""
    global ray  # noqa: PLW0603
    channel.silence()
    try:
        import ray

        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
        for node in ray.nodes():
            _list(node)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no cluster
        channel.emit("ray refused", why=_first_sentence(error))
        return
    channel.emit("ray listed")
    order = sys.stdin.readline()
    if order.strip():
        _ask(json.loads(order))
    channel.emit("done")


def _list(node: dict[str, Any]) -> None:
    channel.emit(
        "ray node",
        node_id=node["NodeID"],
        host=node["NodeManagerHostname"],
        is_alive=node["Alive"],
        # 2 is UNEXPECTED_TERMINATION of NodeDeathInfo.Reason in Ray's common.proto
        died_unexpectedly=not node["Alive"] and node.get("DeathReason") == 2,
        why_dead=node.get("DeathReasonMessage") or "",
        gpus=int(node.get("Resources", {}).get("GPU", 0)),
    )


def _ask(order: dict[str, Any]) -> None:
    """Have one task on each node, `fan_out` at a time, and report each as it ends."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    run = ray.remote(command_runner())
    seconds = order["timeout_seconds"]
    left = order["tasks"][::-1]
    asked: dict[Any, tuple[int, float]] = {}
    while left or asked:
        while left and len(asked) < order["fan_out"]:
            task = left.pop()
            options = {
                "num_cpus": 0,  # it waits for no core
                "num_gpus": task["gpus"],
                "max_retries": 0,
                "scheduling_strategy": NodeAffinitySchedulingStrategy(task["node_id"], soft=False),
            }
            asked[run.options(**options).remote(task["words"], seconds, LIMIT_BYTES)] = (
                task["index"],
                time.monotonic(),
            )
        ready, waiting = ray.wait(list(asked), num_returns=1, timeout=LOOK_SECONDS)
        for reference in ready:
            index, began = asked.pop(reference)
            _report(reference, index, time.monotonic() - began)
        for reference in waiting:
            index, began = asked[reference]
            if time.monotonic() - began > seconds + START_SECONDS:
                del asked[reference]
                ray.cancel(reference, force=True)
                why = f"late: {seconds:g} s; Ray did not start it: are its GPUs in use?"
                channel.emit("ray answer", index=index, content="", why=why, seconds=seconds)


def _report(reference: object, index: int, seconds: float) -> None:
    try:
        output, why = ray.get(reference)
    except Exception as error:  # noqa: BLE001 - whatever Ray says became of it
        output, why = b"", _first_sentence(getattr(error, "cause", None) or error)
    content = output.decode("utf-8", "replace")
    channel.emit("ray answer", index=index, content=content, why=why, seconds=seconds)


def _first_sentence(error: object) -> str:
    """Ray's messages go on for many lines of advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0].split(". ")[0] if lines else type(error).__name__)[:300]


def command_runner() -> Callable[..., tuple[bytes, str]]:
    """Return what a node runs; nested, so that Ray sends it whole: no file of ours is there."""

    def gpucheck(words: list[str], seconds: float, limit_bytes: int) -> tuple[bytes, str]:
        import ctypes
        import os
        import signal
        import subprocess

        environment = dict(os.environ)
        if environment.get("CUDA_VISIBLE_DEVICES") == "":
            # Older Ray hides all GPUs from a task that takes none
            # (https://github.com/ray-project/ray/pull/62492 ended that).
            del environment["CUDA_VISIBLE_DEVICES"]

        def die_with_the_worker() -> None:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of prctl(2)

        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_the_worker,  # noqa: PLW1509 - a call of C's
            )
        except OSError as error:
            return b"", f"could not start {words[0]}: {error.strerror}"
        try:
            output, errors = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            return b"", f"late: {seconds:g} s"
        if len(output) > limit_bytes:
            return b"", f"sent more than {limit_bytes >> 20} MiB"
        if child.returncode == 0:
            return output, ""
        if child.returncode < 0:
            return output, f"{words[0]} was ended by signal {-child.returncode}"
        lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines()]
        said = "; ".join([line for line in lines if line][-2:])[-300:] or "no message"
        return output, f"{words[0]} ended with status {child.returncode}: {said}"

    return gpucheck
