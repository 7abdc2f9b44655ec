"""Gathers what a phase of the burn did and found, until it is sent."""

from __future__ import annotations

import time
from typing import Any, Callable, Sequence

_MOST_FAULTS = 8  # in one message in detail; all are counted


class Report:
    """What is new since the last message."""

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._sent = time.monotonic()
        self._work: dict[tuple[str, str], list[float]] = {}
        self._faults: list[dict[str, Any]] = []
        self._more = 0
        self._alarms = [0, 0]
        self._loaded = 0.0
        self._left_out: list[str] = []

    def leave_out(self, why: str) -> None:
        """Say that a part of the phase cannot be carried out."""
        self._left_out.append(why)

    def load(self, seconds: float) -> None:
        """Add time in which the GPU always had something to compute."""
        self._loaded += seconds

    def work(self, kind: str, size: str, count: int, amount: float, seconds: float) -> None:
        """Add work that was done and checked: operations or bytes, in so many seconds."""
        found = self._work.setdefault((kind, size), [0, 0.0, 0.0])
        found[0] += count
        found[1] += amount
        found[2] += seconds

    def fault(self, facts: dict[str, Any]) -> None:
        """Add something that came out wrong."""
        if len(self._faults) < _MOST_FAULTS:
            self._faults.append({"phase": self.phase, **facts})
        else:
            self._more += 1

    def more_faults(self, count: int) -> None:
        """Add *count* wrong results of which nothing else is known."""
        self._more += count

    def alarm(self, was_found: bool) -> None:
        """Add a bit that was flipped on purpose, and whether it was found."""
        self._alarms[0] += 1
        self._alarms[1] += was_found

    def is_due(self, seconds: float) -> bool:
        """Return whether it is time to send."""
        return bool(self._faults) or time.monotonic() - self._sent >= seconds

    def take(self) -> dict[str, Any]:
        """Return what is new, as the message has it, and begin again."""
        facts = {
            "work": [
                {
                    "phase": self.phase,
                    "kind": kind,
                    "size": size,
                    "count": int(count),
                    "amount": amount,
                    "seconds": seconds,
                }
                for (kind, size), (count, amount, seconds) in self._work.items()
            ],
            "faults": self._faults,
            "faults_left_out": self._more,
            "left_out": self._left_out,
            "loaded_seconds": self._loaded,
            "alarms": self._alarms[0],
            "alarms_found": self._alarms[1],
        }
        self.__init__(self.phase)  # type: ignore[misc]
        return facts


def fault_of(
    *,
    kind: str,
    size: str,
    count: int,
    differences: Sequence[Any],
    place: Callable[[Any], str],
    second_look: bool,
    inputs: str | None = None,
    reference: str | None = None,
    repeated: int | None = None,
    repeats: int | None = None,
    gpus: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Describe something that came out wrong, as the message has it."""
    bits = sorted({bit for each in differences for bit in each.bits})
    facts = {
        "kind": kind,
        "size": size,
        "count": count,
        "words": [
            {
                "place": place(each),
                "expected": f"{each.expected & 0xFFFFFFFFFFFFFFFF:016x}",
                "found": f"{each.found & 0xFFFFFFFFFFFFFFFF:016x}",
            }
            for each in differences
        ],
        "bits": bits,
        "second_look": second_look,
        "inputs": inputs,
        "reference": reference,
        "repeated": repeated,
        "repeats": repeats,
    }
    return {**facts, "gpus": list(gpus)} if gpus is not None else facts
