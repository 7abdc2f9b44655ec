"""Computes exact products for a while, each one compared bit for bit, and traces what is wrong."""

# ruff: noqa: ANN401 - torch has no types here: its tensors are Any

from __future__ import annotations

import time
from collections import deque
from typing import Any, Callable, Iterator

import torch

from . import exact
from .burn_report import Report, fault_of

BATCH_SECONDS = 0.05  # of products between two looks at the flags
_SHORT_BATCH_SECONDS = 0.025  # where something is to be done between two batches
REPORT_SECONDS = 1.0
REPEATS = 10  # of a product that was wrong
_MOST_IN_BATCH = 64
_MOST_TRACED = 4  # of one batch

_DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
    "fp64": torch.float64,
}


class Arena:
    """Most of a GPU's memory, allocated once; each phase cuts what it needs out of it."""

    def __init__(self, memory: Any) -> None:
        self.memory = memory  # int64
        self._taken = 0

    def clear(self) -> None:
        self._taken = 0

    def take(self, dtype: Any, *sizes: int) -> Any:
        """Return a tensor over memory that nobody else has since `clear`."""
        count = torch.empty(0, dtype=dtype).element_size()
        for size in sizes:
            count *= size
        first = self._taken
        self._taken += (count + 511) // 512 * 64  # aligned as CUDA's own allocations are
        if self._taken > self.memory.numel():
            raise MemoryError(f"{count >> 20} MiB do not fit")
        return self.memory[first : first + count // 8].view(dtype).view(*sizes)

    def take_all(self, dtype: Any, *sizes: int) -> list[Any]:
        """Return as many tensors as there is memory left for."""
        taken = []
        while True:
            before = self._taken
            try:
                taken.append(self.take(dtype, *sizes))
            except MemoryError:
                self._taken = before
                return taken


def set_precision() -> None:
    """Switch off what rounds partial sums to 16 bits; both are on by default."""
    matmul = torch.backends.cuda.matmul
    for name in (
        "allow_bf16_reduced_precision_reduction",
        "allow_fp16_reduced_precision_reduction",
    ):
        if hasattr(matmul, name):
            setattr(matmul, name, False)


def has_wide_output() -> bool:
    """Return whether a product of 16-bit numbers can come out in fp32 (torch 2.8 and newer)."""
    return hasattr(torch.ops.aten.mm, "dtype_out")


class Product:
    """One kind of product on one device: its factors, its reference, and room for results."""

    def __init__(
        self, kind: str, shape: exact.Shape, arena: Arena, reference: Any, device: Any
    ) -> None:
        self.kind, self.shape, self.device = kind, shape, device
        torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
        self._reference = reference  # in the host's memory
        arena.clear()
        inner = shape.inner * shape.copies
        dtype = _DTYPES.get(kind, torch.float32)
        self.left = arena.take(dtype, shape.order, inner)
        self.right = arena.take(dtype, shape.order, inner)
        self.dtype = self._result_dtype()
        self.expected = arena.take(self.dtype, shape.period, shape.order).view(-1)
        words_of_result = shape.order * shape.order * self.expected.element_size() // 8
        self.mask = arena.take(torch.int64, (words_of_result + 7) // 8).view(torch.bool)
        self.mask = self.mask[:words_of_result]
        self.slots = arena.take_all(self.dtype, shape.order, shape.order)
        if len(self.slots) < 3:
            raise MemoryError(f"{kind} {shape.name} does not fit")
        self.restore()

    def _result_dtype(self) -> Any:
        if self.kind in ("int8", "fp64"):
            return torch.int32 if self.kind == "int8" else torch.float64
        if self.device.type == "cuda" and self.kind == "bf16" and not has_wide_output():
            return torch.bfloat16  # the one right sum, rounded once
        return torch.float32

    def restore(self) -> None:
        """Write factors and reference again."""
        blocks = exact.factors(self.shape, self.device)
        exact.spread(self.shape, blocks, (self.left, self.right))
        self.expected.copy_(self._reference.view(-1).to(self.dtype))

    def multiply(self, slot: Any) -> None:
        """Compute one product into *slot*."""
        right = self.right.t()
        if self.kind == "int8":
            torch._int_mm(self.left, right, out=slot)
        elif self.kind in ("bf16", "fp16") and self.device.type == "cpu":
            torch.mm(self.left.float(), right.float(), out=slot)  # torch has no other on the CPU
        elif self.kind in ("bf16", "fp16") and self.dtype is torch.float32:
            torch.mm(self.left, right, out_dtype=torch.float32, out=slot)
        else:
            torch.mm(self.left, right, out=slot)

    def check(self, slot: Any, flag: Any) -> None:
        """Set *flag*, some time later, where *slot* is not the right product."""
        exact.differ(exact.words(slot), exact.words(self.expected), self.mask, flag)

    def is_wrong(self, slot: Any) -> bool:
        """Return whether *slot* is not the right product."""
        flag = torch.zeros((), dtype=torch.bool, device=self.device)
        self.check(slot, flag)
        return bool(flag)

    # --------------------------------------------------------------------------- what is wrong

    def trace(self, slot: Any, spare: Any) -> dict[str, Any]:
        """Say what is wrong with *slot*, and why.

        Factors and reference are compared with what they should be, and written again; then the
        same product is computed again and again.
        """
        found, expected = exact.words(slot), exact.words(self.expected)
        count, first = exact.differences(found, expected)
        again, _ = exact.differences(found, expected)
        blocks = exact.factors(self.shape, self.device)
        inputs = exact.changes(self.shape, blocks, (self.left, self.right))
        reference = self._changed_reference()
        if inputs or reference:
            self.restore()
        repeated = 0
        for _ in range(REPEATS):
            self.multiply(spare)
            repeated += self.is_wrong(spare)
        return fault_of(
            kind=self.kind,
            size=self.shape.name,
            count=count,
            differences=first,
            place=self._place,
            second_look=again == count and count > 0,
            inputs=inputs,
            reference=reference,
            repeated=repeated,
            repeats=REPEATS,
        )

    def _place(self, difference: exact.Difference) -> str:
        """Name the element: a word holds one or several."""
        size = self.expected.element_size()
        bits = difference.bits
        within = bits[0] // (8 * size) if bits else 0
        row, column = divmod(difference.place * (8 // size) + within, self.shape.order)
        return f"row {row}, column {column}"

    def _changed_reference(self) -> str | None:
        fresh = self._reference.view(-1).to(self.dtype).to(self.device)
        count, _ = exact.differences(exact.words(self.expected), exact.words(fresh))
        return f"the reference had changed in {count:,} words" if count else None

    def alarm(self, slot: Any, number: int) -> bool:
        """Flip one bit of a result on purpose; return whether the comparison finds just that."""
        found, expected = exact.words(slot), exact.words(self.expected)
        flag = torch.zeros((), dtype=torch.bool, device=self.device)
        return exact.finds_a_flip(found, expected, self.mask, flag, number)


class Flags:
    """What the comparisons of one batch said, brought to the host without stopping the GPU."""

    def __init__(self, device: Any) -> None:
        self._on_gpu = device.type == "cuda"
        self.there = torch.zeros(_MOST_IN_BATCH, dtype=torch.bool, device=device)
        self._here = torch.zeros(_MOST_IN_BATCH, dtype=torch.bool, pin_memory=self._on_gpu)
        self._event = torch.cuda.Event() if self._on_gpu else None

    def send(self) -> None:
        self._here.copy_(self.there, non_blocking=True)
        if self._event is not None:
            self._event.record()

    def set(self, count: int) -> list[int]:
        """Wait for the batch, and return which of its *count* comparisons found something."""
        if self._event is not None:
            self._event.synchronize()
        return [at for at, is_set in enumerate(self._here[:count].tolist()) if is_set]


def synchronize(device: Any) -> None:
    """Wait for all that was given to a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def burn(
    product: Product,
    seconds: float,
    report: Report,
    *,
    number: int,
    meanwhile: Callable[[], None] | None = None,
    rest: float = 0.0,
) -> Iterator[None]:
    """Compute and check for *seconds*; yield whenever *report* has something new to send.

    Two batches are under way, so that the GPU never waits for the host. *meanwhile* is called for
    each batch. *rest* is how long the GPU idles after each: the load then comes in pulses.
    """
    slots, shape = product.slots, product.shape
    loaded_since = time.monotonic()
    once = _seconds_of_one(product)
    most = min(_MOST_IN_BATCH, (len(slots) - 1) // 2)
    wanted = max(BATCH_SECONDS if meanwhile is None else _SHORT_BATCH_SECONDS, rest)
    size = max(1, min(most, int(wanted / once)))
    flags = deque(Flags(product.device) for _ in range(2))
    under_way: deque[tuple[Flags, list[int]]] = deque()
    serial, began = 0, time.monotonic()
    until, reported = began + seconds, began
    while under_way or time.monotonic() < until:
        if time.monotonic() < until:
            mine = flags.popleft()
            batch = [(serial + each) % (len(slots) - 1) for each in range(size)]
            for at, slot in enumerate(batch):
                product.multiply(slots[slot])
                product.check(slots[slot], mine.there[at])
            mine.send()
            under_way.append((mine, batch))
            serial += size
            if meanwhile is not None:
                meanwhile()
        if len(under_way) > 1 or time.monotonic() >= until or rest:
            mine, batch = under_way.popleft()
            if wrong := mine.set(len(batch)):
                synchronize(product.device)
                _trace(product, [slots[batch[at]] for at in wrong], slots[-1], report)
            flags.append(mine)
            now = time.monotonic()
            count = len(batch)
            report.work(product.kind, shape.name, count, count * shape.operations, now - reported)
            report.load(now - loaded_since)
            if report.is_due(REPORT_SECONDS):
                yield
            if rest:
                time.sleep(rest)
                now = time.monotonic()
            reported = loaded_since = now
    report.alarm(product.alarm(slots[0], number))
    yield


def _trace(product: Product, wrong: list[Any], spare: Any, report: Report) -> None:
    """Report what is wrong with these results; what was computed from bad factors is only counted.

    It was traced once, and what follows from it says nothing more.
    """
    for at, slot in enumerate(wrong):
        facts = product.trace(slot, spare)
        report.fault(facts)
        if facts["inputs"] or facts["reference"] or at + 1 == _MOST_TRACED:
            report.more_faults(len(wrong) - at - 1)
            return


def _seconds_of_one(product: Product) -> float:
    """Return how long a product takes; the first starts the library."""
    product.multiply(product.slots[0])
    synchronize(product.device)
    began = time.monotonic()
    product.multiply(product.slots[0])
    synchronize(product.device)
    return max(1e-6, time.monotonic() - began)
