"""Talks to the child that asks NVML, and to the next one where a GPU takes it down.

When a child falls silent or dies, the GPU whose query was under way is recorded, and a new child
goes on with the others. At first every GPU has its thread, because they do not wait for each other
there; where it is not plain whose query did the harm, the next child asks one GPU after the other.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gpucheck.payload import nvml_queries as queries
from gpucheck.probes import nvml_child
from gpucheck.probes.child import Child
from gpucheck.probes.messages import Done, MessageError, NvmlAnswer, NvmlRound, decode
from gpucheck.probes.sampling import Sampling
from gpucheck.snapshot import NvmlError

QUERY_SECONDS = 5.0  # a query that takes longer does not come back
SAMPLE_SECONDS = 3.0  # a child that samples is silent for the pause between two of them at most

State = Literal["ok", "lost", "hung", "crashed", "failed"]


@dataclass(frozen=True)
class ChildOutcome:
    """How a child ended that had not said all."""

    signal_name: str | None = None
    exit_code: int | None = None
    error: str | None = None
    seconds: float | None = None  # it was still there, and silent for so long
    is_out_of_time: bool = False  # it was not silent for long: all of our time was over

    @property
    def state(self) -> State:
        return "hung" if self.seconds is not None else "crashed"

    def of(self, symbol: str) -> str:
        """Say what became of the call *symbol*."""
        if self.seconds is not None:
            return f"{symbol} did not answer in {self.seconds:.2g} s"
        if self.signal_name is not None:
            return f"NVML crashed with {self.signal_name} in {symbol}"
        if self.error is not None:
            return f"{symbol}: {self.error}"
        return f"NVML ended the process with status {self.exit_code} in {symbol}"


@dataclass
class NvmlSession:
    """All that the children said, and what became of them."""

    deep: bool
    watch: bool  # a later sample follows, or this is it
    later: bool  # this is a later sample
    capabilities: Sequence[int]
    environment: Mapping[str, str] | None
    only: Sequence[int] | None = None
    sampling: Sampling | None = None
    started: Child | None = None  # asks all that this session asks, and was started before it
    system: dict[str, NvmlAnswer] = field(default_factory=dict)
    gpus: dict[int, dict[str, NvmlAnswer]] = field(default_factory=dict)
    pairs: dict[tuple[int, int], dict[str, NvmlAnswer]] = field(default_factory=dict)
    #: later samples by their number and GPU
    samples: dict[int, dict[int, dict[str, NvmlAnswer]]] = field(default_factory=dict)
    errors: dict[int, tuple[State, str]] = field(default_factory=dict)
    error: NvmlError | None = None  # NVML as a whole failed
    pairs_error: str | None = None
    ended_at: float = 0.0  # of the monotonic clock: the last message

    def __post_init__(self) -> None:
        self.plan = queries.plan(deep=self.deep, watch=self.watch, later=self.later)

    def run(self, deadline_seconds: float) -> None:
        """Ask until every GPU has answered or is known to have failed, or the time is over."""
        ends_at = time.monotonic() + deadline_seconds
        only = None if self.only is None else list(self.only)
        parallel = True
        outcome: ChildOutcome | None = None
        while True:
            left = ends_at - time.monotonic()
            if left <= 0.05 or (outcome is not None and outcome.is_out_of_time):
                self._give_up(f"NVML's {deadline_seconds:g} s were over")
                return
            known = self.system
            outcome = self._ask(only, parallel=parallel, seconds=left)
            if "count" not in self.system or self.error is not None:
                if "count" in known:  # it worked before: what is known stays
                    message = self._message(outcome)
                    self.system, self.error = known, None
                    self._give_up(message)
                elif self.error is None:
                    call = self._system_call()
                    self.error = NvmlError(call=call, message=self._message(outcome))
                return
            if outcome is None:
                return
            if outcome.is_out_of_time:
                continue
            unfinished = self._unfinished()
            if not unfinished:
                self.pairs_error = outcome.of("nvmlDeviceGetP2PStatus")
                return
            if len(unfinished) == 1 or not parallel:
                self._blame(unfinished.pop(0), outcome)
            parallel = False
            only = unfinished
            if not only and (self.later or len(self._sound()) < 2):
                return

    def _ask(
        self, only: list[int] | None, *, parallel: bool, seconds: float
    ) -> "ChildOutcome | None":
        """Run one child; return how it fell silent, or None where it said all."""
        asked = 1 if only is None or parallel else len(only)
        # so short that each of them may hang and the next still has its turn
        query_seconds = min(QUERY_SECONDS, max(0.3, 0.9 * seconds / (asked + 1)))
        for index in only or ():
            self.gpus.pop(index, None)
        self.system = {}
        started, self.started = self.started, None
        if started is not None:
            started.shorten(seconds)
        with started or Child(
            self._command(only, parallel=parallel),
            deadline_seconds=seconds,
            environment=self.environment,
        ) as child:
            last = time.monotonic()
            # nvmlInit attaches to GPUs that nobody holds open: some seconds each
            for stall_seconds in (max(query_seconds, seconds / 2), query_seconds):
                for line in child.lines(stall_seconds=stall_seconds):
                    last = time.monotonic()
                    message = _decoded(line)
                    if isinstance(message, Done | NvmlRound):
                        self.ended_at = message.at
                        if self.sampling is not None and self.sampling.begin(child):
                            self._sample(child)
                        child.leave()
                        return None
                    if isinstance(message, NvmlAnswer):
                        self.take(message)
                    if "count" in self.system and stall_seconds != query_seconds:
                        break
                else:
                    break
            waited = time.monotonic() - last
            ended = child.end()
        if ended.late_after_seconds is None:
            return ChildOutcome(ended.signal_name, ended.exit_code, ended.error)
        stalled = waited > 0.9 * stall_seconds
        return ChildOutcome(seconds=stall_seconds, is_out_of_time=not stalled)

    def _sample(self, child: Child) -> None:
        """Take in what *child* reads later, until it is done or `Sampling.end` ends it."""
        for line in child.lines(stall_seconds=SAMPLE_SECONDS):
            message = _decoded(line)
            if isinstance(message, Done):
                return
            if isinstance(message, NvmlAnswer):
                self.take(message)

    def _command(self, only: list[int] | None, *, parallel: bool) -> list[str]:
        return nvml_child.nvml_command(
            capabilities=self.capabilities,
            deep=self.deep,
            watch=self.watch,
            later=self.later,
            parallel=parallel,
            sample=self.sampling is not None,
            only=only,
            also=self._sound(),
        )

    def take(self, answer: NvmlAnswer) -> None:
        """Take in one answer."""
        gpu, other = answer.gpu, answer.other
        if gpu is None:
            self.system[answer.query] = answer
            if answer.query in ("open", "init", "count") and answer.outcome != "value":
                self.error = _error(answer)
            elif answer.query == "count" and not _is_count(answer):
                message = f"it counts {answer.value} GPUs"
                self.error = NvmlError(call=queries.SYSTEM_SYMBOLS["count"], message=message)
        elif not 0 <= gpu < queries.MOST_GPUS:
            pass
        elif other is not None:
            self.pairs.setdefault((gpu, other), {})[answer.query] = answer
        else:
            readings = (
                self.gpus if not answer.sample else self.samples.setdefault(answer.sample, {})
            )
            readings.setdefault(gpu, {})[answer.query] = answer
            if answer.outcome == "lost":
                self.errors[gpu] = "lost", f"GPU_IS_LOST from {answer.text}"
            elif answer.query == "handle" and answer.outcome != "value":
                self.errors[gpu] = "failed", why(answer, queries.HANDLE[1])

    def count(self) -> int:
        """Return how many GPUs there are; 0 where nobody could count them."""
        answer = self.system.get("count")
        return answer.value if answer is not None and _is_count(answer) else 0

    def _unfinished(self) -> list[int]:
        asked = range(self.count()) if self.only is None else self.only
        last = self.plan[-1][0]
        return [n for n in asked if n not in self.errors and last not in self.gpus.get(n, {})]

    def _sound(self) -> list[int]:
        last = self.plan[-1][0]
        return [n for n in sorted(self.gpus) if n not in self.errors and last in self.gpus[n]]

    def _blame(self, index: int, outcome: ChildOutcome) -> None:
        answered = self.gpus.setdefault(index, {})
        symbol = next(query[1] for query in self.plan if query[0] not in answered)
        self.errors[index] = outcome.state, outcome.of(symbol)

    def _system_call(self) -> str:
        """Return the call that a child was at that could not yet say how many GPUs there are."""
        return queries.SYSTEM_SYMBOLS[next(key for key in queries.SYSTEM if key not in self.system)]

    def _message(self, outcome: "ChildOutcome | None") -> str:
        if self.error is not None:
            return f"{self.error.call}: {self.error.message}"
        return "NVML did not answer" if outcome is None else outcome.of(self._system_call())

    def _give_up(self, why: str) -> None:
        """Record that nothing more will come of the GPUs that have not said all."""
        for index in self._unfinished():
            answered = self.gpus.get(index)
            if answered:
                symbol = next(query[1] for query in self.plan if query[0] not in answered)
                self.errors[index] = "hung", f"{symbol} was under way when {why}"
            else:
                self.errors[index] = "failed", f"not asked: {why}"


def _decoded(line: bytes) -> object:
    """Return the message in *line*; None where a library wrote over it or between."""
    try:
        return decode(line)
    except MessageError:
        return None


def _is_count(answer: NvmlAnswer) -> bool:
    return (
        answer.outcome == "value"
        and isinstance(answer.value, int)
        and 0 <= answer.value <= queries.MOST_GPUS
    )


def _error(answer: NvmlAnswer) -> NvmlError:
    """Return what a call that is for all GPUs failed with."""
    call = queries.SYSTEM_SYMBOLS[answer.query]
    message = answer.text if answer.outcome == "error" else why(answer, call)
    return NvmlError(
        call="open" if answer.query == "open" else call, code=answer.code, message=message
    )


def why(answer: NvmlAnswer, symbol: str) -> str:
    """Say why there is no value."""
    match answer.outcome:
        case "missing":
            return f"driver too old: {answer.text} missing"
        case "lost":
            return "the GPU is lost"
        case "error":
            return f"{symbol}: {answer.text}"
        case outcome:
            return f"{symbol}: {outcome}"
