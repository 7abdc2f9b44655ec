"""Keeps what is known of one process of a smoke training while it runs."""

import time

from gpucheck.payload.assignment import Assignment
from gpucheck.probes import messages
from gpucheck.probes.child import Child, Ended
from gpucheck.probes.messages import Message


class TrainingProcess:
    """One child, and what it reported last."""

    def __init__(self, work: Assignment, child: Child) -> None:
        self.work = work
        self.child = child
        self.phase = "import"
        self.batch: int | None = None
        self.pair: tuple[int, int] | None = None  # the copy that is under way
        self.heard = time.monotonic()
        self.failed: messages.Failed | None = None
        self.lagging: tuple[int, ...] = ()
        self.is_done = False
        self.is_waiting = False
        self.ended: Ended | None = None
        self.gpu: int | None = None  # CUDA's number of its first GPU

    @property
    def has_failed(self) -> bool:
        return self.failed is not None or (self.ended is not None and not self.is_done)

    def take(self, message: Message) -> None:
        """Note what the child reported."""
        if isinstance(message, messages.Lagging):
            self.lagging = message.gpus
            return  # said by a thread while the training itself is silent
        self.heard = time.monotonic()
        if isinstance(message, messages.Phase):
            self.phase = message.name
            self.is_waiting = False
        elif isinstance(message, messages.Batch):
            self.batch = message.number
        elif isinstance(message, messages.Copying):
            self.pair = (message.source, message.target)
        elif isinstance(message, messages.Waiting):
            self.is_waiting = True
        elif isinstance(message, messages.Failed):
            self.failed = message
        elif isinstance(message, messages.Done):
            self.is_done = True
        elif isinstance(message, messages.TrainingDevices) and message.gpus:
            self.gpu = message.gpus[0].index
