"""Gives a child that asks NVML the time in which somebody waits for something else."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpucheck.probes.child import Child


class Sampling:
    """Says how long a child that has said all may go on and read the counters again.

    When the other wait is over, `end` ends the child at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_over = False
        self._child: Child | None = None

    def begin(self, child: "Child") -> bool:
        """Let *child* go on; False where nobody waits any more."""
        with self._lock:
            self._child = child
            return not self._is_over

    def end(self) -> None:
        """End what goes on, from whatever thread, without waiting for it."""
        with self._lock:
            self._is_over = True
            if self._child is not None:
                self._child.send_kill()
