"""Runs one process of a smoke training, and reports what becomes of it."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Callable

from . import channel, mnist
from .assignment import Assignment

#: After a failure in a job: time to hear which of the other ranks fell silent first.
_LISTENING_SECONDS = 6.0


def main(assignment: str = "") -> None:
    """Do what the *assignment* says, and leave without any farewell."""
    channel.reserve_stdout()
    if not assignment:
        channel.emit("failed", kind="error", gpu=None, message="no assignment was given")
        return
    work = Assignment.from_json(assignment)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    channel.emit("phase", name="import")
    reading = Reading(work, channel.emit)
    try:
        from . import training
    except Exception as error:  # noqa: BLE001 - an import of torch may raise anything
        message = f"import torch: {_last_line(error)}"
        channel.emit("failed", kind="error", gpu=None, message=message)
        _leave(1)
    emit = channel.emit
    try:
        if work.strategy == "ddp":
            from . import ranks

            ranks.run(work, emit, reading.finish)
        else:
            training.run(work, emit, reading.finish)
    except training.NotReadyError:
        pass
    except mnist.DataError as error:
        emit("data fault", path=str(error.path), problem=error.problem, expected=error.expected)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent wants to know
        training.explain(error, emit)
        if work.joined:
            time.sleep(_LISTENING_SECONDS)
        _leave(1)
    emit("done")
    _leave(0)


def _leave(status: int) -> None:
    """End at once: tearing down CUDA and process groups takes time, and may hang."""
    sys.stderr.flush()
    os._exit(status)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"


class Reading:
    """Reads the data in a thread from the start on, while torch is imported."""

    def __init__(self, work: Assignment, emit: Callable[..., None]) -> None:
        self._work = work
        self._emit = emit
        self._cache = Path(work.cache)
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
        data = self._work.data
        if data not in (None, "download", "synthetic"):
            return mnist.read(Path(data))
        downloaded, drawn = self._cache / "mnist", self._cache / "synthetic"
        if data != "synthetic" and mnist.find(downloaded) is not None:
            return mnist.read(downloaded)
        # Drawn already: either by name, or since there was nothing else. Then the next training
        # does not wait again for torchvision and for mirrors that cannot be reached.
        if data != "download" and mnist.find(drawn) is not None:
            try:
                digits = mnist.read(drawn)
            except mnist.DataError:
                return None  # a cache of ours that went bad is drawn again
            if data is None:
                self._emit(
                    "notice", text=f"no MNIST in {downloaded}: synthetic digits drawn earlier"
                )
            return digits
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
        if self._work.data != "synthetic":
            try:
                return self._downloaded()
            except (ImportError, RuntimeError, OSError, mnist.DataError) as error:
                if self._work.data == "download":
                    raise mnist.DataError(
                        self._cache / "mnist",
                        f"the download failed: {_last_line(error)}",
                        "torchvision that imports, and a way to its mirrors of MNIST",
                    ) from error
                why = _last_line(error)
                self._emit("notice", text=f"no MNIST here: training on synthetic digits ({why})")
        return self._drawn()

    def _downloaded(self) -> mnist.Digits:
        import socket

        socket.setdefaulttimeout(10)  # torchvision sets none, and would wait for ever
        target = self._cache / "mnist"
        over = threading.Event()

        def report_size() -> None:
            size = -1
            while not over.wait(0.5):
                now = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
                if now != size:
                    self._emit("downloading", bytes=now)
                size = now

        threading.Thread(target=report_size, daemon=True).start()
        try:
            mnist.download(target)
        finally:
            over.set()
        return mnist.read(target)

    def _drawn(self) -> mnist.Digits:
        target = self._cache / "synthetic"

        def beat() -> None:
            self._emit("drawing")

        try:
            mnist.draw(target, beat)
            return mnist.read(target)
        except OSError:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="gpucheck-") as folder:
                mnist.draw(Path(folder), beat)
                return mnist.read(Path(folder))
