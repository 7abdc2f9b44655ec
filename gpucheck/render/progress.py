"""Shows a smoke training while it goes on: a bar on a terminal, log lines elsewhere."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

Event = Mapping[str, Any]
#: Returns what NVML said last of each GPU.
Gpus = Callable[[], list[Event]]


def log_line(event: Event) -> str:
    """Return a loss in the form that PyTorch's own MNIST example made common."""
    done, count = event["images"], event["count"]
    return (
        f"Train Epoch: {event['epoch']} [{done}/{count} ({100 * done / count:.0f}%)]"
        f"\tLoss: {event['loss']:.6f}\n"
    )


def write_log(event: Event) -> None:
    """Write a log line for each reported loss to stdout."""
    if event["event"] == "loss":
        sys.stdout.write(log_line(event))
        sys.stdout.flush()


class Live:
    """A bar with loss and images a second, and a row for each GPU, on stderr."""

    def __init__(self, epochs: int, gpus: Gpus) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._epochs = epochs
        self._phase = "import torch"
        self._done = self._loss = 0.0
        self._rate = 0.0
        self._started = 0.0
        self._gpus = gpus
        self._live = RichLive(
            console=Console(stderr=True), get_renderable=self.draw, transient=True
        )

    def __enter__(self) -> "Live":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take an event of the training."""
        if event["event"] == "phase":
            self._phase = event["name"]
            if self._phase == "parity":
                self._done = 1.0  # the last batches report no loss
            if "alone" in event:
                self._phase = f"parity: {event['alone']} alone"
        elif event["event"] == "downloading":
            self._phase = f"downloading MNIST, {event['bytes'] / 1e6:.1f} MB"
        elif event["event"] == "loss":
            epochs_done = event["epoch"] - 1 + event["images"] / event["count"]
            now = time.monotonic()
            if not epochs_done:
                self._started = now
            elif now > self._started:
                self._rate = epochs_done * event["count"] / (now - self._started)
            self._done, self._loss = epochs_done / self._epochs, event["loss"]

    def draw(self) -> "RenderableType":
        """Return what is to be seen now."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            self._phase,
            ProgressBar(total=1.0, completed=self._done, width=30),
            f"loss {self._loss:.4f}" if self._loss else "",
            f"{self._rate:,.0f} images/s" if self._rate else "",
        )
        gpus = Table.grid(padding=(0, 2))
        for gpu in self._gpus():
            gpus.add_row(
                f"gpu {gpu['index']}",
                _unit(gpu["utilization_percent"], "%"),
                _unit(gpu["temperature_celsius"], " °C"),
                _unit(gpu["memory_used_bytes"] and gpu["memory_used_bytes"] >> 20, " MiB"),
            )
        return Group(bar, gpus)


def _unit(number: object, unit: str) -> str:
    return "" if number is None else f"{number}{unit}"
