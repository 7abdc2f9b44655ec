"""Compares versions: dotted numbers, CUDA's packed integers."""

import functools


@functools.lru_cache(maxsize=4096)
def version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a dotted version, for comparing: "580.159.04" → (580, 159, 4).

    What follows the first part that is not a number is left out: "2.11.0+cu130" → (2, 11, 0).
    """
    found: list[int] = []
    for part in version.split("."):
        digits = ""
        for letter in part:
            if letter not in "0123456789":
                break
            digits += letter
        if digits:
            found.append(int(digits[:12]))
        if not digits or len(digits) < len(part):
            break
    return tuple(found)


def cuda_version(number: int) -> str:
    """Return CUDART_VERSION or cuDriverGetVersion's *number* as text: 13010 → "13.1"."""
    return f"{number // 1000}.{number % 1000 // 10}"
