"""Lets this node add up numbers with one other: a process for each GPU, until they have met."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import msgspec

from gpucheck.probes.child import Child, payload_command
from gpucheck.probes.messages import (
    MessageError,
    PairFailed,
    PairMet,
    PairStep,
    messages_in,
)
from gpucheck.workloads import launch

IMPORT_SECONDS = 120.0  # a cold disk takes long over torch's gigabytes
PATIENCE_SECONDS = 60.0  # for the other node to come
ADD_SECONDS = 60.0  # for a collective operation to end
_NVML_SECONDS = 20.0
_SIZE = {"cuda": 1 << 30, "cpu": 1 << 20}
_REPEATS = 20
#: What a failure says that comes of the other node's going, or of not meeting it at all.
_STEPS = {"torch": "import torch", "meet": "meet the other node", "add": "add up with it"}


class Meeting(msgspec.Struct, frozen=True, kw_only=True):
    """Whom to meet, and where the store is: the first of the two keeps it."""

    is_first: bool
    address: str
    port: int
    device: str = "cuda"


class Met(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of it on this node. *why* says why nothing did; the rate is in 10^9 bytes/s."""

    gpus: int = 0
    rate: float | None = None
    wrong: str = ""
    why: str = ""


def gpus_here(variables: Mapping[str, str] = os.environ) -> int:
    """Return how many GPUs CUDA would show here."""
    from gpucheck.probes import nvml

    found = nvml.probe(quick=True, deadline_seconds=_NVML_SECONDS).gpus
    return launch.visible_gpus(variables, len(found) if isinstance(found, tuple) else 0)


def meet(
    meeting: Meeting, *, python: str, gpus: int, variables: Mapping[str, str] = os.environ
) -> Met:
    """Meet the other node with all *gpus*, and return the slowest rate and the first error."""
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **variables,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                Child(
                    payload_command(python, "pair", _order(meeting, local, gpus)),
                    deadline_seconds=IMPORT_SECONDS + PATIENCE_SECONDS + 2 * ADD_SECONDS,
                    environment=environment,
                )
            )
            for local in range(gpus)
        ]
        # One after another: none ends before all have met, or one of them is late.
        outcomes = [_outcome(child, local) for local, child in enumerate(children)]
    return _together(outcomes, gpus)


def _order(meeting: Meeting, local: int, gpus: int) -> str:
    return json.dumps(
        {
            **msgspec.structs.asdict(meeting),
            "local": local,
            "count": gpus,
            "size": _SIZE[meeting.device],
            "repeats": _REPEATS,
            "patience_seconds": PATIENCE_SECONDS,
            "add_seconds": ADD_SECONDS,
        }
    )


def _outcome(child: Child, local: int) -> Met:
    """Return what became of one process."""
    step = "torch"
    try:
        for message in messages_in(child.lines()):
            if isinstance(message, PairStep):
                step = message.step
            elif isinstance(message, PairFailed):
                return Met(why=f"GPU {local} could not {_STEPS[message.step]}: {message.error}")
            elif isinstance(message, PairMet):
                wrong = f"{message.wrong:,} of {message.count:,} sums on GPU {local} are wrong"
                return Met(rate=message.rate, wrong=wrong if message.wrong else "")
    except MessageError as error:
        return Met(why=str(error))
    ended = child.end()
    return Met(why=f"GPU {local} could not {_STEPS[step]}: its process {ended.why or 'ended'}")


def _together(outcomes: Sequence[Met], gpus: int) -> Met:
    rates = [each.rate for each in outcomes if each.rate is not None]
    return Met(
        gpus=gpus,
        rate=min(rates) if len(rates) == len(outcomes) and rates else None,
        wrong=next((each.wrong for each in outcomes if each.wrong), ""),
        why=next((each.why for each in outcomes if each.why), ""),
    )
