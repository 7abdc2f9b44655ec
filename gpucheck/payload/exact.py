"""Makes products of whole numbers that have one right result, proves it, and compares with it.

The factors are whole numbers so small that every partial sum, in whatever order and grouping, is
below 2^24: fp32 accumulation cannot round, so each library, data type and chip has the same bits to
give. The factors come from a hash of their place, so that a CPU and every GPU make the same ones.

The rows of the left factor repeat, and its columns do too (shifted, so that no two blocks are read
in the same order): the CPU has to compute one block, and every element of the product is known.
"""

# ruff: noqa: ANN401 - torch has no types here: its tensors are Any

from __future__ import annotations

import os
from typing import Any, Iterator, NamedTuple

import torch

EXACT_BELOW = 1 << 24  # whole numbers that fp32 holds
_SHIFT = 1021  # by which each further block is rotated: a prime
_SEEDS = (20_251, 41_113)  # of the left factor and of the right one
_BLOCK_NUMBERS = 1 << 23  # made at a time: 64 MiB for each step of the hash
_VECTORS = 4  # of the proof: a wrong row escapes one with 1/1024
_REACH_OF_VECTORS = 1024
_SLACK = 1.001  # the sums that bound the product are themselves computed in fp32


class Shape(NamedTuple):
    """A product: *order* rows and columns, *copies* blocks of *inner* terms, numbers to ±*reach*.

    Only *period* rows of the left factor differ.
    """

    order: int
    inner: int
    copies: int
    reach: int
    period: int

    @property
    def name(self) -> str:
        """Return the sizes as people write them."""
        return f"{self.order} x {self.order} x {self.inner * self.copies}"

    @property
    def operations(self) -> float:
        """Return how many additions and multiplications one product takes."""
        return 2.0 * self.order * self.order * self.inner * self.copies


def whole(rows: int, columns: int, reach: int, seed: int, device: Any) -> Any:
    """Return whole numbers from -reach to reach as int8: a hash of row, column and seed."""
    made = torch.empty(rows, columns, dtype=torch.int8, device=device)
    along = torch.arange(columns, dtype=torch.int64, device=device).mul_(0x85EBCA6B)
    along.add_(seed * 0xC2B2AE35)
    step = max(1, _BLOCK_NUMBERS // columns)
    for first in range(0, rows, step):
        last = min(rows, first + step)
        down = torch.arange(first, last, dtype=torch.int64, device=device).mul_(0x9E3779B1)
        mixed = down[:, None] + along
        for _ in range(2):  # each step stays below 2^63
            mixed.bitwise_and_(0xFFFFFFFF)
            mixed.bitwise_xor_(mixed >> 16)
            mixed.mul_(0x45D9F3B)
        mixed.bitwise_and_(0xFFFFFFFF)
        mixed.bitwise_xor_(mixed >> 16)
        mixed.mul_(2 * reach + 1).bitwise_right_shift_(32).sub_(reach)
        made[first:last].copy_(mixed)
    return made


def factors(shape: Shape, device: Any) -> tuple[Any, Any]:
    """Return one block of the left factor, and of the right one with its columns as rows."""
    left = whole(shape.period, shape.inner, shape.reach, _SEEDS[0], device)
    return left, whole(shape.order, shape.inner, shape.reach, _SEEDS[1], device)


def spread(shape: Shape, blocks: tuple[Any, Any], into: tuple[Any, Any]) -> None:
    """Write the whole factors, made of their *blocks*, *into* tensors of whatever data type."""
    for _, target, numbers in _pieces(shape, blocks, into):
        target.copy_(numbers)


def changes(shape: Shape, blocks: tuple[Any, Any], held: tuple[Any, Any]) -> str | None:
    """Say what in the factors that are *held* is not what `spread` wrote there; None: nothing."""
    said = []
    for name, target, numbers in _pieces(shape, blocks, held):
        places = (target != numbers.to(target.dtype)).nonzero()
        if len(places):
            first = tuple(places[0].tolist())
            right = float(numbers.expand_as(target)[first])
            text = f"{len(places):,} numbers of the {name} factor had changed"
            said.append(f"{text} (first {float(target[first]):g} instead of {right:g})")
    return "; ".join(said) or None


def _pieces(
    shape: Shape, blocks: tuple[Any, Any], whole_factors: tuple[Any, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each part of the factors by name, and the numbers that belong there."""
    left, right = blocks
    rows_of_left = whole_factors[0].view(-1, shape.period, shape.inner * shape.copies)
    step = max(1, _BLOCK_NUMBERS // shape.inner)
    for copy in range(shape.copies):
        shift = copy * _SHIFT % shape.inner
        columns = slice(copy * shape.inner, (copy + 1) * shape.inner)
        yield "left", rows_of_left[:, :, columns], torch.roll(left, shift, dims=1)
        for first in range(0, shape.order, step):
            rows = slice(first, min(shape.order, first + step))
            numbers = torch.roll(right[rows], shift, dims=1)
            yield "right", whole_factors[1][rows, columns], numbers


# ----------------------------------------------------------------------------------- reference


class ProofError(ArithmeticError):
    """The CPU's own product is wrong, or the numbers are too large to be exact."""


def prove(shape: Shape, path: str) -> None:
    """Compute the rows that differ of the product on the CPU, prove them, and keep them in *path*.

    ProofError: they are not what whole numbers give (Freivalds), or some order of additions could
    leave what fp32 holds exactly.
    """
    left, right = factors(shape, torch.device("cpu"))
    product = torch.mm(left.float(), right.float().t())
    sizes = torch.mm(left.abs().float(), right.abs().float().t())
    # The terms of one sign alone are the largest partial sum that any order can give.
    largest = float((sizes + product.abs()).max()) / 2 * shape.copies * _SLACK
    if largest >= EXACT_BELOW:
        raise ProofError(f"{shape.name}: a partial sum may reach {largest:.0f}, above 2^24")
    if not is_product(left, right, product):
        raise ProofError(f"{shape.name}: the CPU's own product is wrong")
    product.mul_(shape.copies)
    unfinished = f"{path}.new"
    with open(unfinished, "wb") as file:
        file.write(memoryview(_bytes_of(product)))
    os.replace(unfinished, path)


def is_product(left: Any, right: Any, product: Any) -> bool:
    """Prove by Freivalds' method, in whole numbers below 2^53, that *product* is left · rightᵀ."""
    vectors = whole(right.shape[0], _VECTORS, 127, 77, right.device).double()
    vectors.add_(128).mul_(_REACH_OF_VECTORS / 256).floor_()
    through = torch.zeros(right.shape[1], _VECTORS, dtype=torch.float64)
    step = max(1, _BLOCK_NUMBERS // right.shape[1])
    for first in range(0, right.shape[0], step):
        rows = slice(first, first + step)
        through += torch.mm(right[rows].double().t(), vectors[rows])
    expected = torch.mm(left.double(), through)
    return bool((expected == torch.mm(product.double(), vectors)).all())


def _bytes_of(tensor: Any) -> Any:
    """Return the bytes of a contiguous tensor of the CPU, without numpy."""
    import ctypes

    size = tensor.numel() * tensor.element_size()
    return (ctypes.c_char * size).from_address(tensor.data_ptr())


def read(shape: Shape, path: str) -> Any:
    """Return the reference that `prove` kept in *path*, in the CPU's memory."""
    content = bytearray(4 * shape.period * shape.order)
    with open(path, "rb") as file:
        if file.readinto(content) != len(content):
            raise ProofError(f"{path}: the reference is cut off")
    return torch.frombuffer(content, dtype=torch.float32).view(shape.period, shape.order)


# ---------------------------------------------------------------------------------- comparison


def words(tensor: Any) -> Any:
    """Return the bits of a contiguous tensor as whole numbers: NaN and -0.0 are bits like others.

    Compared as numbers, NaN differs from itself or slips through, and half as many are faster.
    """
    return tensor.view(-1).view(torch.int64)


def differ(found: Any, expected: Any, mask: Any, flag: Any) -> None:
    """Set *flag* where any word of *found* is not that of *expected*, which repeats along it.

    Nothing is awaited: a GPU does it when its turn comes. *mask* is room for the comparison.
    """
    length = expected.numel()
    torch.ne(found.view(-1, length), expected, out=mask.view(-1, length))
    flat = mask.view(-1)
    if flat.numel() % 8 == 0:
        flat = flat.view(torch.int64)  # eight at a time
    torch.any(flat, dim=0, out=flag)


class Difference(NamedTuple):
    """One word that is not as expected."""

    place: int
    expected: int
    found: int

    @property
    def bits(self) -> list[int]:
        """Return the numbers of the bits that differ."""
        changed = (self.expected ^ self.found) & 0xFFFFFFFFFFFFFFFF
        return [bit for bit in range(64) if changed >> bit & 1]


def differences(found: Any, expected: Any, most: int = 16) -> tuple[int, list[Difference]]:
    """Return how many words differ, and the first of them."""
    length = expected.numel()
    count = 0
    first: list[Difference] = []
    for at in range(0, found.numel(), length):
        here = found[at : at + length]
        places = (here != expected).nonzero().view(-1)
        count += places.numel()
        for place in places[: most - len(first)].tolist():
            first.append(Difference(at + place, int(expected[place]), int(here[place])))
    return count, first


def _count(found: Any, expected: Any) -> int:
    """Return how many words differ, asking a GPU once."""
    length = expected.numel()
    total = torch.zeros((), dtype=torch.int64, device=found.device)
    for at in range(0, found.numel(), length):
        total += (found[at : at + length] != expected).sum()
    return int(total)


def finds_a_flip(found: Any, expected: Any, mask: Any, flag: Any, number: int) -> bool:
    """Flip one bit of *found* on purpose; return whether the comparison finds just that one.

    *number* says which; the bit is then as it was. This is what shows that the alarm works.
    """
    before = _count(found, expected)
    place = number * 7_368_787 % found.numel()
    bit = 1 << number * 5 % 63
    found[place] ^= bit
    differ(found, expected, mask, flag)
    after = _count(found, expected)
    is_seen = bool(flag)
    found[place] ^= bit
    return is_seen and abs(after - before) == 1
