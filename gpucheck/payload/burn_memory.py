"""Fills memory with patterns, copies between host and GPUs, adds up over GPUs, and compares."""

# ruff: noqa: ANN401 - torch has no types here: its tensors are Any

from __future__ import annotations

import time
from typing import Any, Callable, Iterator, Sequence

import torch

from . import exact
from .burn_products import REPEATS, REPORT_SECONDS, Arena, synchronize
from .burn_report import Report, fault_of

_BLOCK_WORDS = 1 << 25  # 256 MiB: compared at a time
_ODD = 2_654_435_761  # spreads an address over all bits
#: alternating bits and their complement, whole bytes, ones; None: each word says where it is
PATTERNS: tuple[int | None, ...] = (None, 0x5555555555555555, ~0x5555555555555555, None, 0, -1)


def _numbers(count: int, start: int, device: Any, out: Any = None) -> Any:
    """Return words that depend on their place, in *out* where that is given."""
    made = torch.empty(count, dtype=torch.int64, device=device) if out is None else out
    torch.arange(start, start + count, out=made)
    return made.mul_(_ODD)


class _Pattern:
    """What each word of the memory should hold: a constant, or a number made of its place."""

    def __init__(self, number: int, device: Any) -> None:
        self._constant = PATTERNS[number % len(PATTERNS)]
        self._start = number << 40
        self._device = device

    def fill(self, block: Any, at: int) -> None:
        if self._constant is None:
            _numbers(block.numel(), self._start + at, self._device, out=block)
        else:
            block.fill_(self._constant)

    def expected(self, count: int, at: int, room: Any) -> Any:
        """Return what *count* words from *at* on should hold; *room* is for making it."""
        self.fill(room[:count], at)
        return room[:count]


def burn_memory(
    arena: Arena, device: Any, seconds: float, report: Report, number: int
) -> Iterator[None]:
    """Write and read back the whole arena, pattern after pattern, for *seconds*."""
    memory = arena.memory
    size = min(_BLOCK_WORDS, max(1, memory.numel() // 2))
    room = torch.empty(size, dtype=torch.int64, device=device)
    mask = torch.empty(size, dtype=torch.bool, device=device)
    blocks = [(at, memory[at : at + size]) for at in range(0, memory.numel(), size)]
    flags = torch.zeros(len(blocks), dtype=torch.bool, device=device)
    until, reported, sweep = time.monotonic() + seconds, time.monotonic(), number
    while sweep == number or time.monotonic() < until:
        pattern = _Pattern(sweep, device)
        for at, block in blocks:
            pattern.fill(block, at)
        for place, (at, block) in enumerate(blocks):
            expected = pattern.expected(block.numel(), at, room)
            exact.differ(block, expected, mask[: block.numel()], flags[place])
        for place in flags.nonzero().view(-1).tolist():
            at, block = blocks[place]
            report.fault(_trace_memory(pattern, at, block, room))
        now = time.monotonic()
        report.work("memory", "", 1, 16.0 * memory.numel(), now - reported)
        report.load(now - reported)
        reported, sweep = now, sweep + 1
        if report.is_due(REPORT_SECONDS):
            yield
    at, block = blocks[-1]
    expected = pattern.expected(block.numel(), at, room)
    report.alarm(exact.finds_a_flip(block, expected, mask[: block.numel()], flags[0], number))
    yield


def _trace_memory(pattern: _Pattern, at: int, block: Any, room: Any) -> dict[str, Any]:
    """Say what a block holds instead of its pattern, and whether writing it again helps."""
    expected = pattern.expected(block.numel(), at, room)
    count, first = exact.differences(block, expected)
    again, _ = exact.differences(block, expected, most=0)
    repeated = 0
    for _ in range(REPEATS):
        pattern.fill(block, at)
        repeated += bool((block != pattern.expected(block.numel(), at, room)).any())
    return fault_of(
        kind="memory",
        size="",
        count=count,
        differences=first,
        place=lambda each: f"byte {(at + each.place) * 8:,} of the memory under test",
        second_look=again == count and count > 0,
        repeated=repeated,
        repeats=REPEATS,
    )


class HostCopies:
    """Copies both ways at once between page-locked memory and a GPU, next to whatever it computes.

    Each way alternates between two contents, so that a copy that did nothing is noticed.
    """

    def __init__(self, size: int, device: Any, report: Report) -> None:
        self._device, self._report, self._count = device, report, size // 8
        on_gpu = device.type == "cuda"
        self._sent = [_numbers(self._count, each + 1 << 40, device) for each in range(2)]
        self._host = [torch.empty(self._count, dtype=torch.int64, pin_memory=on_gpu) for _ in "ab"]
        for each, host in enumerate(self._host):
            _numbers(self._count, each + 1 << 40, "cpu", out=host)  # the CPU's own numbers
        self._back = torch.zeros(self._count, dtype=torch.int64, pin_memory=on_gpu)
        self._there = torch.zeros(self._count, dtype=torch.int64, device=device)
        self._mask = torch.empty(self._count, dtype=torch.bool, device=device)
        self._flag = torch.zeros((), dtype=torch.bool, device=device)
        self._flag_here = torch.zeros((), dtype=torch.bool, pin_memory=on_gpu)
        self._streams = [torch.cuda.Stream(device) for _ in "ab"] if on_gpu else []
        synchronize(device)
        self._turn = 0
        self._is_under_way = False
        self._began = 0.0

    def step(self) -> None:
        """Look at the copies that are under way when they are there, and start the next."""
        if self._is_under_way:
            if any(not stream.query() for stream in self._streams):
                return
            self.finish()
        self._start()

    def _start(self) -> None:
        self._turn += 1
        self._began = time.monotonic()
        which, other = self._turn % 2, (self._turn + 1) % 2
        if self._streams:
            with torch.cuda.stream(self._streams[0]):
                self._up(which)
            with torch.cuda.stream(self._streams[1]):
                self._back.copy_(self._sent[other], non_blocking=True)
        else:
            self._up(which)
            self._back.copy_(self._sent[other])
        self._is_under_way = True

    def _up(self, which: int) -> None:
        self._to_gpu(which)
        exact.differ(self._there, self._sent[which], self._mask, self._flag)
        self._flag_here.copy_(self._flag, non_blocking=True)

    def _to_gpu(self, which: int) -> None:
        self._there.copy_(self._host[which], non_blocking=True)

    def finish(self) -> None:
        """Wait for the copies that are under way, and compare what came back."""
        if not self._is_under_way:
            return
        for stream in self._streams:
            stream.synchronize()
        took = time.monotonic() - self._began
        self._is_under_way = False
        which, other = self._turn % 2, (self._turn + 1) % 2
        for kind in ("h2d", "d2h"):
            self._report.work(kind, "", 1, 8.0 * self._count, took)
        if bool(self._flag_here):  # to read the other would wait for all products
            self._report.fault(_compared("h2d", self._there, self._sent[which]))
        if not torch.equal(self._back, self._host[other]):
            self._report.fault(_compared("d2h", self._back, self._host[other]))

    def alarm(self, number: int) -> None:
        """Flip a bit of what was copied, and see whether that is found."""
        self.finish()
        expected = self._sent[self._turn % 2]
        self._report.alarm(
            exact.finds_a_flip(self._there, expected, self._mask, self._flag, number)
        )


def _compared(
    kind: str, found: Any, expected: Any, gpus: Sequence[int] | None = None
) -> dict[str, Any]:
    count, first = exact.differences(found, expected)
    again, _ = exact.differences(found, expected, most=0)
    return fault_of(
        kind=kind,
        size="",
        count=count,
        differences=first,
        place=lambda each: f"byte {each.place * 8:,}",
        second_look=again == count and count > 0,
        gpus=gpus,
    )


# ------------------------------------------------------------------------------- between GPUs


def burn_peers(
    gpus: Sequence[int],
    devices: Sequence[Any],
    size: int,
    seconds: float,
    report: Report,
    number: int,
) -> Iterator[None]:
    """Copy from each GPU to each other, and compare every byte where it arrives."""
    count = size // 8
    until, turn = time.monotonic() + seconds, number
    arrived = [torch.zeros(count, dtype=torch.int64, device=each) for each in devices]
    masks = [torch.empty(count, dtype=torch.bool, device=each) for each in devices]
    flags = [torch.zeros((), dtype=torch.bool, device=each) for each in devices]
    expected: Any = None
    while turn == number or time.monotonic() < until:
        for source, there in enumerate(devices):
            for target, here in enumerate(devices):
                if source == target:
                    continue
                start = (turn << 44) + (source << 36) + (target << 28)
                sent = _numbers(count, start, there)
                synchronize(there)
                began = time.monotonic()
                arrived[target].copy_(sent, non_blocking=True)
                for each in (there, here):
                    synchronize(each)
                took = time.monotonic() - began
                expected = _numbers(count, start, here)
                exact.differ(arrived[target], expected, masks[target], flags[target])
                report.work("peer", "", 1, 8.0 * count, took)
                if bool(flags[target]):
                    pair = (gpus[source], gpus[target])
                    report.fault(_compared("peer", arrived[target], expected, gpus=pair))
                if report.is_due(REPORT_SECONDS):
                    yield
        turn += 1
    last = len(devices) - 2  # the target that was last
    report.alarm(exact.finds_a_flip(arrived[last], expected, masks[last], flags[last], number))
    yield


def burn_all_reduce(
    gpus: Sequence[int],
    devices: Sequence[Any],
    sizes: Sequence[int],
    seconds: float,
    report: Report,
    number: int,
) -> Iterator[None]:
    """Add up whole numbers over all GPUs, exact in fp32, and compare every sum on every GPU."""
    until, turn = time.monotonic() + seconds, number
    reduce = _reducer(devices)
    while turn == number or time.monotonic() < until:
        for size in sizes:
            count = size // 4
            given = [_summands(count, rank, turn, each) for rank, each in enumerate(devices)]
            sums = [torch.empty_like(each) for each in given]
            for each in devices:
                synchronize(each)
            began = time.monotonic()
            reduce(given, sums)
            for each in devices:
                synchronize(each)
            report.work("all-reduce", "", 1, float(size), time.monotonic() - began)
            for gpu, device, found in zip(gpus, devices, sums):
                expected = torch.zeros_like(found)
                for rank in range(len(devices)):
                    expected += _summands(count, rank, turn, device)
                mask = torch.empty(count // 2, dtype=torch.bool, device=device)
                flag = torch.zeros((), dtype=torch.bool, device=device)
                exact.differ(exact.words(found), exact.words(expected), mask, flag)
                if bool(flag):
                    pair = (exact.words(found), exact.words(expected))
                    report.fault(_compared("all-reduce", *pair, gpus=(gpu,)))
            if report.is_due(REPORT_SECONDS):
                yield
        turn += 1
    report.alarm(exact.finds_a_flip(exact.words(found), exact.words(expected), mask, flag, number))
    yield


def _summands(count: int, rank: int, turn: int, device: Any) -> Any:
    places = torch.arange(count, device=device, dtype=torch.int32)
    return places.mul_(7).add_(13 * rank + 5 * turn).remainder_(1000).float()


def _reducer(devices: Sequence[Any]) -> Callable[[Sequence[Any], Sequence[Any]], None]:
    if devices[0].type == "cuda":
        from torch.cuda import nccl

        def by_nccl(given: Sequence[Any], sums: Sequence[Any]) -> None:
            nccl.all_reduce(given, sums)

        return by_nccl

    def by_hand(given: Sequence[Any], sums: Sequence[Any]) -> None:
        for each in sums:
            torch.sum(torch.stack(list(given)), 0, out=each)

    return by_hand
