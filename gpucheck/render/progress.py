"""Shows a smoke training while it goes on: a bar on a terminal, log lines elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpucheck import console
from gpucheck.probes.messages import Downloading, Drawing, GpuReading, Loss, Message, Notice, Phase
from gpucheck.render.sanitize import clean
from gpucheck.training_evidence import PHASES

if TYPE_CHECKING:
    from rich.console import RenderableType

#: Returns what NVML said last of each GPU.
Gpus = Callable[[], Sequence[GpuReading]]


def log_line(loss: Loss) -> str:
    """Return a loss in the form that PyTorch's own MNIST example made common."""
    return (
        f"Train Epoch: {loss.epoch} [{loss.images}/{loss.count} "
        f"({100 * loss.images / loss.count:.0f}%)]\tLoss: {loss.loss:.6f}"
    )


def write_log(message: Message) -> None:
    """Write a log line for each reported loss to stdout, and a notice to stderr."""
    if isinstance(message, Loss):
        console.log(log_line(message))
    elif isinstance(message, Notice):
        console.complain(f"gpucheck: {message.text}")


class Live:
    """A bar with loss and images a second, and a row for each GPU, on stderr."""

    def __init__(self, epochs: int, gpus: Gpus) -> None:
        from rich.live import Live as RichLive

        self._epochs = epochs
        self._phase = PHASES["import"]
        self._done = self._loss = 0.0
        self._rate = 0.0
        self._started = 0.0
        self._gpus = gpus
        self._live = RichLive(console=console.live(), get_renderable=self.draw, transient=True)

    def __enter__(self) -> "Live":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, message: Message) -> None:
        """Take what the training reports."""
        match message:
            case Phase():
                self._phase = PHASES.get(message.name, message.name)
                if message.name == "parity":
                    self._done = 1.0  # the last batches report no loss
                if message.alone is not None:
                    self._phase = f"training on {message.alone} alone, to compare"
            case Downloading():
                self._phase = f"downloading MNIST, {message.bytes / 1e6:.1f} MB"
            case Drawing():
                self._phase = "drawing synthetic digits"
            case Notice():
                self._live.console.print(clean(message.text), markup=False, highlight=False)
            case Loss():
                epochs_done = message.epoch - 1 + message.images / message.count
                now = time.monotonic()
                if not epochs_done:
                    self._started = now
                elif now > self._started:
                    self._rate = epochs_done * message.count / (now - self._started)
                self._done, self._loss = epochs_done / self._epochs, message.loss

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
                f"gpu {gpu.index}",
                _unit(gpu.utilization_percent, "%"),
                _unit(gpu.temperature_celsius, " °C"),
                _unit(gpu.memory_used_bytes and gpu.memory_used_bytes >> 20, " MiB"),
            )
        return Group(bar, gpus)


def _unit(number: object, unit: str) -> str:
    return "" if number is None else f"{number}{unit}"
