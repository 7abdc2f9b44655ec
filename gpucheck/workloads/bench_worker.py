"""Is the parent's side of one process that measures: gives it orders, and awaits the answers."""

import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Mapping

from gpucheck.probes import messages
from gpucheck.probes.child import Child, payload_command
from gpucheck.probes.messages import Measured, Message, MessageError, messages_in

_WHOLE_RUN_SECONDS = 3600.0


class WorkerError(Exception):
    """A worker gave no answer; the text says why."""


class Worker:
    """One process of `payload/bench.py`, or of another *program* that takes orders.

    A GPU that hangs or dies costs its own worker alone.
    """

    def __init__(
        self,
        python: str,
        device: str,
        environment: Mapping[str, str],
        *,
        program: str = "bench",
        deadline_seconds: float = _WHOLE_RUN_SECONDS,
    ) -> None:
        self._child = Child(
            payload_command(python, program, device),
            deadline_seconds=deadline_seconds,
            environment=environment,
            takes_orders=True,
            keeps_lines=False,
        )
        self._numbers = itertools.count()
        self._said: queue.SimpleQueue[Message | MessageError | None] = queue.SimpleQueue()
        self.error: str | None = None
        self.stderr = b""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            self._hear()
        finally:
            self.error = self.error or "the process ended"
            self._said.put(None)

    def _hear(self) -> None:
        try:
            for message in messages_in(self._child.lines()):
                self._said.put(message)
        except MessageError as error:
            self._said.put(error)
        ended = self._child.end()
        self.stderr = ended.stderr
        self.error = self.error or ended.why

    def order(self, measure: str, **arguments: object) -> int:
        """Have something measured; return the number by which `await_` asks for the answer."""
        return self.send(measure=measure, **arguments)

    def send(self, **order: object) -> int:
        """Send an order in the words of the worker's program; return its number."""
        number = next(self._numbers)
        self._child.order(json.dumps({"id": number, **order}))
        return number

    def poll(self, seconds: float) -> Message | None:
        """Return what the worker says next; None where it says nothing in *seconds*.

        WorkerError: it has ended.
        """
        if self.error is not None and self._said.empty():
            raise WorkerError(self.error)
        try:
            message = self._said.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, MessageError):
            raise message
        if message is None:
            raise WorkerError(self.error or "the process ended")
        return message

    def await_(self, number: int, deadline_seconds: float) -> Measured:
        """Return the answer to order *number*; WorkerError where none comes, and it is ended."""
        until = time.monotonic() + deadline_seconds
        while True:
            message = self._next(until, deadline_seconds)
            if isinstance(message, Measured) and message.id == number:
                return message

    def await_ready(self, deadline_seconds: float) -> messages.BenchReady:
        """Return what the worker says when torch is imported; WorkerError where it is not."""
        message = self._next(time.monotonic() + deadline_seconds, deadline_seconds)
        if isinstance(message, messages.BenchReady):
            return message
        if isinstance(message, messages.Failed):
            self.error = message.message
        self.end()
        raise WorkerError(self.error or "the process did not start")

    def _next(self, until: float, deadline_seconds: float) -> Message:
        message = self.poll(max(0.0, until - time.monotonic()))
        if message is None:
            self.error = f"no answer in {deadline_seconds:g} s"
            self.end()
            raise WorkerError(self.error)
        return message

    def send_kill(self) -> None:
        """End the process without waiting until it is gone."""
        self._child.send_kill()

    def end(self) -> None:
        """End the process, whatever it does."""
        self._child.kill()


def environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a worker's process gets: CUDA's numbers as nvidia-smi has them.

    NCCL says on stderr whether it reduces in the NVSwitches.
    """
    return {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "NCCL_DEBUG": "INFO",
        "NCCL_DEBUG_SUBSYS": "INIT,NVLS",
        **variables,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
