"""Asks NVML about every GPU, and reports each answer as it comes.

The answers of a GPU come in the order of the table, so the first query without an answer is the one
that is under way. After the first round this program may go on and read counters again, for as
long as its parent lets it live: nobody waits for that.
"""

# ruff: noqa: ANN401 - pynvml has no types
from __future__ import annotations

import _thread
import os
import time

from . import nvml_queries as queries
from .channel import emit, silence

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: After the first round: what is judged by how it grows, while cuInit is awaited, which takes half
#: a second with two H100s; all else where cuInit is still awaited then. Each question to a GPU's
#: firmware holds up cuInit itself: 1.1 s with all of them, 0.75 s without the slowest (2 H100s).
SHORT_SAMPLE_AFTER_SECONDS = 0.1
SLOW_ROUND_AFTER_SECONDS = 0.9
SLOW_SAMPLE_AFTER_SECONDS = 0.4
#: The InfoROM is checked unasked on machines with so many GPUs at most.
FEW_GPUS = 4


def main(*words: str) -> None:
    """Ask as *words* say.

    "deep", "watch": ask what takes long too. "later": ask only what a later sample reads. "sample":
    go on with samples after the first round. "parallel": a thread for each GPU. "only=0,2": these
    GPUs. After them, the way between every two GPUs that answered or are in "also=1": its
    peer-to-peer "capabilities=0,1", and NVML's common ancestor with "deep".
    """
    silence()
    options = dict(word.partition("=")[::2] for word in words)
    nvml = _start()
    if nvml is not None:
        _Session(nvml, options).run(_system(nvml))
    emit("done")
    # not a regular exit: nvmlShutdown takes 6 ms, and Python's own end as much
    os._exit(0)


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",") if word]


def _report(
    gpu: int | None,
    query: str,
    answer: tuple[str, Any, int | None, str],
    *,
    other: int | None = None,
    sample: int = 0,
) -> None:
    outcome, value, code, text = answer
    emit(
        "nvml answer",
        gpu=gpu,
        other=other,
        query=query,
        outcome=outcome,
        value=value,
        code=code,
        text=text,
        sample=sample,
    )


# ------------------------------------------------------------------------------------- the library


def _start() -> Any:
    """Load the library and initialize it; return pynvml, or None after reporting what failed."""
    import ctypes

    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        _report(None, "open", ("error", None, None, str(error)))
        return None
    _report(None, "open", ("value", _path(library), None, ""))
    # NVML initializes (14 ms) while pynvml is imported (45 ms). A second nvmlInit only counts, and
    # one that failed is not tried again: it may have taken its time.
    done = _thread.allocate_lock()
    done.acquire()
    codes: list[int] = []

    def initialize() -> None:
        try:
            codes.append(library.nvmlInitWithFlags(0))
        except AttributeError:
            codes.append(queries.FUNCTION_NOT_FOUND)
        finally:
            done.release()

    _thread.start_new_thread(initialize, ())
    try:
        import pynvml
    except Exception as error:  # noqa: BLE001 - whatever stands in its place
        _report(None, "init", ("error", None, None, f"pynvml cannot be imported: {error!r}"))
        return None
    done.acquire()

    def again() -> None:
        if codes != [0]:
            raise pynvml.NVMLError(codes[0])
        pynvml.nvmlInit()

    answer = queries.answer(pynvml, "nvmlInitWithFlags", again)
    _report(None, "init", answer)
    return pynvml if answer[0] == "value" else None


def _path(library: Any) -> str | None:
    """Return the path that *library* was mapped from: whose memory holds its nvmlShutdown?"""
    import ctypes

    try:
        address = ctypes.cast(library.nvmlShutdown, ctypes.c_void_p).value or 0
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                start, _, end = line.partition(" ")[0].partition("-")
                if int(start, 16) <= address < int(end, 16):
                    return line.rstrip("\n").split(None, 5)[5]
    except (OSError, AttributeError, ValueError, IndexError):
        pass
    return None


def _system(nvml: Any) -> int:
    """Report what belongs to no single GPU, and return their number."""

    def cuda() -> Any:
        try:
            return nvml.nvmlSystemGetCudaDriverVersion_v2()
        except nvml.NVMLError as error:
            if error.value != queries.FUNCTION_NOT_FOUND:
                raise
            return nvml.nvmlSystemGetCudaDriverVersion()

    asked: tuple[tuple[str, Callable[[], Any] | None], ...] = (
        ("driver", nvml.nvmlSystemGetDriverVersion),
        ("cuda", cuda),
        ("confidential", lambda: queries.confidential(nvml)),
        ("ready", None),
        ("count", nvml.nvmlDeviceGetCount),
    )
    count = 0
    for key, ask in asked:
        answer = queries.answer(nvml, queries.SYSTEM_SYMBOLS[key], ask)
        _report(None, key, answer)
        if key == "count" and answer[0] == "value" and 0 <= answer[1] <= queries.MOST_GPUS:
            count = answer[1]
    return count


# ---------------------------------------------------------------------------------------- the GPUs


class _Session:
    """The GPUs that answered, and how to ask them."""

    def __init__(self, nvml: Any, options: dict[str, str]) -> None:
        self.nvml = nvml
        self.options = options
        self.handles: dict[int, Any] = {}
        self.first: dict[int, dict[str, Any]] = {}

    def run(self, count: int) -> None:
        """Ask every GPU that was asked for, then every pair; then read counters again."""
        options = self.options
        only = _numbers(options["only"]) if "only" in options else range(count)
        plan = queries.plan(
            deep="deep" in options, watch="watch" in options, later="later" in options
        )
        self.each(lambda index: self.examine(index, plan), [n for n in only if n < count])
        if "later" in options:
            return
        for index in _numbers(options.get("also", "")):
            self.open(index)
        self.each(self.examine_pairs, sorted(self.handles))
        emit("nvml round")
        if "sample" in options:
            self.sample()

    def each(self, task: Callable[[int], None], indexes: list[int]) -> None:
        """Do *task* for every GPU, side by side with "parallel"."""
        if "parallel" not in self.options or len(indexes) < 2:
            for index in indexes:
                task(index)
            return
        import threading

        threads = [threading.Thread(target=task, args=(n,), daemon=True) for n in indexes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def open(self, index: int) -> tuple[str, Any, int | None, str]:
        """Get the handle of a GPU; the answer has no value, for a handle is for nobody else."""

        def handle() -> None:
            self.handles[index] = self.nvml.nvmlDeviceGetHandleByIndex(index)

        return queries.answer(self.nvml, queries.HANDLE[1], handle)

    def examine(self, index: int, plan: tuple[queries.Query, ...]) -> None:
        """Ask one GPU, until the last query or until it is lost."""
        answer = self.open(index)
        _report(index, queries.HANDLE[0], answer)
        if answer[0] == "value":
            self.ask(index, plan[1:], 0)

    def ask(self, index: int, plan: tuple[queries.Query, ...], number: int) -> None:
        """Ask the queries of *plan*; *number* counts the samples, and 0 is the first reading."""
        handle = self.handles[index]
        for query in plan:
            answer = queries.ask(self.nvml, query, handle)
            _report(index, query[0], answer, sample=number)
            if not number:
                self.first.setdefault(index, {})[query[0]] = answer[1]
            if answer[0] == "lost":
                self.handles.pop(index, None)
                return

    def examine_pairs(self, a: int) -> None:
        """Report of *a* and every later GPU what NVML knows of the way between them."""
        nvml = self.nvml
        for b in sorted(self.handles):
            if b <= a:
                continue
            ends = self.handles[a], self.handles[b]
            for capability in _numbers(self.options.get("capabilities", "")):
                answer = queries.answer(nvml, "nvmlDeviceGetP2PStatus", None, *ends, capability)
                _report(a, f"p2p {capability}", answer, other=b)
            if "deep" in self.options:
                answer = queries.answer(nvml, "nvmlDeviceGetTopologyCommonAncestor", None, *ends)
                _report(a, "level", answer, other=b)

    def sample(self) -> None:
        """Take a short sample, then the baselines that take long, and a whole sample."""
        since = time.monotonic()
        self._wait(since + SHORT_SAMPLE_AFTER_SECONDS)
        self.each(lambda index: self.ask(index, self.short_plan(index), 1), sorted(self.handles))
        self._wait(since + SLOW_ROUND_AFTER_SECONDS)
        self.each(lambda index: self.ask(index, (queries.NVLINK_ERRORS,), 0), sorted(self.handles))
        baseline = time.monotonic()
        if len(self.handles) <= FEW_GPUS:
            self.each(
                lambda index: self.ask(index, (queries.INFOROM_CHECK,), 0), sorted(self.handles)
            )
        self._wait(baseline + SLOW_SAMPLE_AFTER_SECONDS)
        self.each(lambda index: self.ask(index, queries.LATER, 2), sorted(self.handles))

    def short_plan(self, index: int) -> tuple[queries.Query, ...]:
        """Return what a short sample of a GPU reads."""
        first = self.first.get(index, {})
        now, most = first.get("pcie_generation"), first.get("pcie_generation_max")
        is_slow = now is not None and most is not None and now < most
        return queries.RATES + (queries.LINK if is_slow else ())

    @staticmethod
    def _wait(until: float) -> None:
        time.sleep(max(0.0, until - time.monotonic()))
