"""Lets another process see what this one still waits for."""

import mmap
import threading

_SIZE = 1024


class Board:
    """The names of what is awaited, in memory that a fork shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._lock = threading.Lock()
        self._names: list[str] = []

    def add(self, name: str) -> None:
        with self._lock:
            self._names.append(name)
            self._write()

    def remove(self, name: str) -> None:
        with self._lock:
            if name in self._names:
                self._names.remove(name)
            self._write()

    def read(self) -> str:
        """Return what is awaited: "cuInit, nvml"; "" for nothing."""
        return self._memory[:_SIZE].split(b"\0", 1)[0].decode("utf-8", "replace")

    def _write(self) -> None:
        """The text comes first and its end last, so that a reader never sees half a name."""
        text = ", ".join(self._names).encode()[: _SIZE - 1]
        self._memory[: len(text) + 1] = text + b"\0"
