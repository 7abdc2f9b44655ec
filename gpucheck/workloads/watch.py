"""Watches the GPUs by NVML while a workload runs, and sums up what was seen of each."""

import sys
import threading
from collections.abc import Sequence
from typing import TypeVar

from gpucheck.payload.watch_gpus import PAUSE_SECONDS
from gpucheck.probes.child import Child, payload_command
from gpucheck.probes.messages import GpuReading, GpuReadings, MessageError, NvmlFailed, messages_in
from gpucheck.snapshot import NOT_SUPPORTED, Known, NotSupported, Reading, Unknown, WatchedGpu

_WHOLE_RUN_SECONDS = 7 * 24 * 3600.0
_LIMIT_BYTES = 1 << 30

Number = TypeVar("Number", int, float)


def start(pause_seconds: float = PAUSE_SECONDS, counters_seconds: float | None = None) -> Child:
    """Start the child that reads the GPUs again and again, counters every *counters_seconds*."""
    pauses = [f"{each:g}" for each in (pause_seconds, counters_seconds) if each is not None]
    return Child(
        payload_command(sys.executable, "watch_gpus", *pauses, isolated=True, pynvml=True),
        deadline_seconds=_WHOLE_RUN_SECONDS,
        limit_bytes=_LIMIT_BYTES,
        keeps_lines=False,
    )


class Watch:
    """What NVML said while a workload ran; filled by one thread, read by another."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._readings: list[GpuReadings] = []
        self._error: str | None = None

    def follow(self, child: Child) -> None:
        """Take in what *child* reports, to its end."""
        try:
            for message in messages_in(child.lines()):
                if isinstance(message, GpuReadings):
                    self.add(message)
                elif isinstance(message, NvmlFailed):
                    self.close(message.text)
        except MessageError as error:
            self.close(f"NVML's child reported nonsense: {error}")
        self.close(child.end().why or "NVML's child ended")

    def add(self, readings: GpuReadings) -> None:
        with self._lock:
            self._readings.append(readings)
            self._lock.notify_all()

    def close(self, why: str) -> None:
        with self._lock:
            self._error = self._error or why
            self._lock.notify_all()

    def count(self, deadline_seconds: float) -> int:
        """Return how many GPUs NVML shows, 0 where it does not say in time."""
        with self._lock:
            self._lock.wait_for(
                lambda: bool(self._readings or self._error), timeout=deadline_seconds
            )
        return len(self.newest())

    def newest(self) -> Sequence[GpuReading]:
        """Return the newest reading of each GPU."""
        with self._lock:
            return self._readings[-1].gpus if self._readings else ()

    def number(self, uuid: str | None, bus_id: str | None) -> int | None:
        """Return NVML's index of a GPU, None where NVML does not show it."""
        return next((gpu.index for gpu in self.newest() if _is(gpu, uuid, bus_id)), None)

    def between(
        self, uuid: str | None, bus_id: str | None, since: float, until: float
    ) -> Sequence[GpuReading]:
        """Return the readings of one GPU from *since* to *until*."""
        with self._lock:
            readings = [message for message in self._readings if since <= message.at <= until]
        return [gpu for message in readings for gpu in message.gpus if _is(gpu, uuid, bus_id)]

    def forget(self, before: float) -> None:
        """Let go of what was read *before* that; the newest reading stays."""
        with self._lock:
            kept = [message for message in self._readings[:-1] if message.at >= before]
            self._readings = [*kept, *self._readings[-1:]]

    def of(
        self, uuid: str | None, bus_id: str | None, *, cuda_start: float, since: float, until: float
    ) -> Known[WatchedGpu]:
        """Sum up the readings of one GPU from *since* to *until*."""
        with self._lock:
            readings = list(self._readings)
            error = self._error
        mine = [
            (message.at, gpu)
            for message in readings
            for gpu in message.gpus
            if _is(gpu, uuid, bus_id)
        ]
        if not mine:
            return Unknown(error or "NVML showed no GPU of this UUID or bus id")
        # A first reading that came when CUDA was up already says nothing of the time before.
        before = mine[0][1].memory_used_bytes if mine[0][0] < cuda_start else None
        during = [gpu for at, gpu in mine if since <= at <= until]
        seen = during or [mine[-1][1]]
        reasons = [g.clocks_event_reasons for g in seen if g.clocks_event_reasons is not None]
        # Hardware slowdown flashes up when clocks change: a reason has to be seen twice.
        seen_twice = [bit for bit in range(64) if sum(r >> bit & 1 for r in reasons) > 1]
        first, last = mine[0][1], mine[-1][1]
        return WatchedGpu(
            index=first.index,
            samples=len(during),
            memory_used_before_bytes=before if before is not None else NOT_SUPPORTED,
            memory_used_maximum_bytes=_highest([g.memory_used_bytes for g in seen]),
            utilization_maximum_percent=_highest([g.utilization_percent for g in seen]),
            temperature_maximum_celsius=_highest([g.temperature_celsius for g in seen]),
            power_maximum_watts=_highest([g.power_watts for g in seen]),
            clocks_event_reasons=sum(1 << b for b in seen_twice) if reasons else NOT_SUPPORTED,
            corrected_ecc_added=_added(first.corrected_ecc, last.corrected_ecc),
            uncorrected_ecc_added=_added(first.uncorrected_ecc, last.uncorrected_ecc),
        )


def _is(gpu: GpuReading, uuid: str | None, bus_id: str | None) -> bool:
    return (uuid is not None and gpu.uuid == uuid) or (bus_id is not None and gpu.bus_id == bus_id)


def _highest(numbers: "Sequence[Number | None]") -> "Number | NotSupported":
    known = [number for number in numbers if number is not None]
    return max(known) if known else NOT_SUPPORTED


def _added(first: int | None, last: int | None) -> Reading[int]:
    return NOT_SUPPORTED if first is None or last is None else max(0, last - first)
