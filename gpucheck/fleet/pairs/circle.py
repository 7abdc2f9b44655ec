"""Pairs nodes in rounds so that nobody meets the same one twice: the circle method."""

from collections.abc import Sequence


def pairs_of_round(nodes: Sequence[str], number: int) -> list[tuple[str, str]]:
    """Return who meets whom in a round, counted from 0; of an odd number one node sits out.

    One node keeps its place, the others move on by one each round; who sit opposite meet (Kirkman,
    1847). After one round less than there are nodes, all have met all.
    """
    seats: list[str | None] = [*nodes, *([None] if len(nodes) % 2 else [])]
    if len(seats) < 2:
        return []
    ring = seats[1:]
    turn = number % len(ring)
    seated = [seats[0], *ring[turn:], *ring[:turn]]
    half = len(seated) // 2
    opposite = zip(seated[:half], reversed(seated[half:]), strict=True)
    return [(one, other) for one, other in opposite if one is not None and other is not None]


def rounds_of(nodes: Sequence[str]) -> int:
    """Return how many rounds there are before a pair would come again."""
    return 0 if len(nodes) < 2 else len(nodes) - 1 + len(nodes) % 2
