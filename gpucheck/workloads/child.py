"""Is the child of `gpucheck smoke`: sets the stage, runs the training, and tells its parent of it.

What it tells are JSON objects, a line each, on what was its stdout; whatever else is written
there (NCCL does) goes to stderr.
"""

import ctypes
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from gpucheck.workloads import mnist
from gpucheck.workloads.plan import Plan

_PR_SET_PDEATHSIG = 1
#: After a failure in a job: time to hear which of the other ranks fell silent first.
_LISTENING_SECONDS = 6.0


def main() -> None:
    """Do what the plan in the first argument says, and leave without any farewell."""
    plan = Plan.from_json(sys.argv[1])
    _die_with_the_parent()
    emit = _teller()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    emit("phase", name="import", rank=plan.rank)
    reading = Reading(plan, emit)
    try:
        from gpucheck.workloads import training
    except Exception as error:  # noqa: BLE001 - an import of torch may raise anything
        emit("failed", kind="error", gpu=None, message=f"import torch: {_last_line(error)}")
        _leave(1)
    if "GPUCHECK_TEST_FAULT" in os.environ:
        from gpucheck.workloads import faults

        emit = faults.arrange(os.environ["GPUCHECK_TEST_FAULT"], plan, emit)
    emit = _watched(plan, emit)
    try:
        if plan.strategy == "ddp":
            from gpucheck.workloads import ranks

            ranks.run(plan, emit, reading.finish)
        else:
            training.run(plan, emit, reading.finish)
    except training.NotReadyError:
        pass
    except mnist.DataError as error:
        emit("data fault", path=str(error.path), problem=error.problem, expected=error.expected)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent wants to know
        training.explain(error, emit)
        if plan.joined:
            time.sleep(_LISTENING_SECONDS)
        _leave(1)
    emit("done")
    _leave(0)


def _teller() -> Callable[..., None]:
    channel = os.dup(1)
    os.dup2(2, 1)

    def emit(event: str, **facts: object) -> None:
        line = json.dumps({"event": event, "at": time.monotonic(), **facts}) + "\n"
        os.write(channel, line.encode())  # short, so that it arrives whole or not at all

    return emit


def _watched(plan: Plan, emit: Callable[..., None]) -> Callable[..., None]:
    """Let a thread tell which GPUs are behind, when steps stop coming for half the deadline."""
    last = [time.monotonic()]
    progress_events: list[Callable[[], list[int]]] = []

    def noting(event: str, **facts: object) -> None:
        last[0] = time.monotonic()
        if event == "progress events":
            progress_events[:] = [facts["lagging"]]  # type: ignore[list-item]
        else:
            emit(event, **facts)

    def watch() -> None:
        while True:
            time.sleep(min(0.25, plan.timeout_seconds / 8))
            silence = time.monotonic() - last[0]
            if progress_events and silence > plan.timeout_seconds / 2:
                emit("lagging", gpus=progress_events.pop()())
                return

    threading.Thread(target=watch, daemon=True).start()
    return noting


def _die_with_the_parent() -> None:
    """Ask the kernel to kill us when our parent is gone, however it went."""
    parent = os.getppid()
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # not Linux
    if os.getppid() != parent:
        _leave(1)


def _leave(status: int) -> None:
    """End at once: tearing down CUDA and process groups takes time, and may hang."""
    sys.stderr.flush()
    os._exit(status)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"


class Reading:
    """Reads the data in a thread from the start on, beside the import of torch."""

    def __init__(self, plan: Plan, emit: Callable[..., None]) -> None:
        self._plan = plan
        self._tell = emit
        self._cache = Path(plan.cache)
        self._digits: mnist.Digits | None = None
        self._error: mnist.DataError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._digits = self._at_hand()
        except mnist.DataError as error:
            self._error = error

    def _at_hand(self) -> mnist.Digits | None:
        """Return what can be read without torch, or None."""
        data = self._plan.data
        if data not in (None, "download", "synthetic"):
            return mnist.read(Path(data))
        downloaded, drawn = self._cache / "mnist", self._cache / "synthetic"
        if data != "synthetic" and mnist.find(downloaded) is not None:
            return mnist.read(downloaded)
        # Drawn already: either by name, or since there was nothing else. Then the next training
        # does not wait again for torchvision and for mirrors that cannot be reached.
        if data != "download" and mnist.find(drawn) is not None:
            try:
                return mnist.read(drawn)
            except mnist.DataError:
                return None  # a cache of ours that went bad is drawn again
        return None

    def finish(self) -> mnist.Digits:
        """Return the digits; raises DataError."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._digits is None:
            self._digits = self._at_hand() or self._make()
        return self._digits

    def _make(self) -> mnist.Digits:
        if self._plan.data != "synthetic":
            try:
                return self._downloaded()
            except (ImportError, RuntimeError, OSError, mnist.DataError) as error:
                if self._plan.data == "download":
                    raise mnist.DataError(
                        self._cache / "mnist",
                        f"the download failed: {_last_line(error)}",
                        "torchvision that imports, and a way to its mirrors of MNIST",
                    ) from error
                self._tell("notice", text=f"no MNIST here ({_last_line(error)}): synthetic digits")
        return self._drawn()

    def _downloaded(self) -> mnist.Digits:
        import socket

        socket.setdefaulttimeout(10)  # torchvision sets none, and would wait for ever
        target = self._cache / "mnist"
        over = threading.Event()

        def tell_size() -> None:
            size = -1
            while not over.wait(0.5):
                now = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
                if now != size:
                    self._tell("downloading", bytes=now)
                size = now

        threading.Thread(target=tell_size, daemon=True).start()
        try:
            mnist.download(target)
        finally:
            over.set()
        return mnist.read(target)

    def _drawn(self) -> mnist.Digits:
        target = self._cache / "synthetic"

        def beat() -> None:
            self._tell("drawing")

        try:
            mnist.draw(target, beat)
            return mnist.read(target)
        except OSError:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="gpucheck-") as folder:
                mnist.draw(Path(folder), beat)
                return mnist.read(Path(folder))


if __name__ == "__main__":
    main()
