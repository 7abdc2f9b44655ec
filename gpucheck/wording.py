"""Small pieces of English that reports are made of."""

from collections.abc import Sequence


def count(number: int, thing: str, things: str = "") -> str:
    """Return *number* with the noun that agrees: "1 error", "2 errors", "2 libraries"."""
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"


def listed(parts: Sequence[str]) -> str:
    """Return "a", "a and b", "a, b and c"; "" for nothing."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def ranges(numbers: Sequence[int]) -> str:
    """Return whole numbers as people write them: (0, 1, 2, 5) → "0-2, 5"."""
    ordered = sorted(set(numbers))
    runs: list[list[int]] = []
    for number in ordered:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
