"""Whole numbers whose sum over many ranks is exact in fp32, so that a wrong one shows as such."""

# ruff: noqa: ANN401 - torch is handed over, and its tensors are Any

from __future__ import annotations

from typing import Any


def numbers(torch: Any, rank: int, count: int, device: Any) -> Any:
    """Return what *rank* gives: whole numbers below 1000, of which 16,000 ranks' sum is exact."""
    places = torch.arange(count, device=device, dtype=torch.int32)
    return places.mul_(7).add_(13 * rank).remainder_(1000).float()


def wrong_sums(torch: Any, found: Any, ranks: int) -> int:
    """Return how many of the sums over *ranks* ranks are not the right ones, bit by bit."""
    expected = torch.zeros_like(found)
    for rank in range(ranks):
        expected += numbers(torch, rank, len(found), found.device)
    return int((found != expected).sum())
