"""Writes many node names as one short set: `gpu[0001-0312,0400]`, ClusterShell's notation."""

import re
from collections.abc import Iterable, Iterator

_LAST_NUMBER = re.compile(r"(?s)(.*?)(\d+)(\D*)")
_LIST = re.compile(r"([^\[\],]*)\[([0-9,-]+)\]([^\[\],]*)|([^\[\],]+)")
MOST_NODES = 1_000_000  # of one expanded set: more is a slip of the keyboard


def folded(names: Iterable[str]) -> str:
    """Return *names*, each once, with those that differ in their last number put together."""
    plain: list[str] = []
    series: dict[tuple[str, int, str], set[int]] = {}
    for name in set(names):
        found = _LAST_NUMBER.fullmatch(name)
        if found is None:
            plain.append(name)
            continue
        before, digits, after = found.groups()
        width = len(digits) if digits[0] == "0" and len(digits) > 1 else 0
        series.setdefault((before, width, after), set()).add(int(digits))
    _join_widths(series)
    parts = sorted(plain)
    for (before, width, after), numbers in sorted(series.items()):
        inside = ",".join(_runs(sorted(numbers), width))
        if len(numbers) == 1:
            parts.append(f"{before}{inside}{after}")
        else:
            parts.append(f"{before}[{inside}]{after}")
    return ",".join(parts)


def _join_widths(series: dict[tuple[str, int, str], set[int]]) -> None:
    """Put "10" of n10 to the two-digit "01" of n01: of one width, with and without zeros."""
    for before, width, after in [key for key in series if key[1]]:
        unpadded = series.get((before, 0, after))
        if unpadded is None:
            continue
        fitting = {number for number in unpadded if len(str(number)) == width}
        series[before, width, after] |= fitting
        unpadded -= fitting
        if not unpadded:
            del series[before, 0, after]


def _runs(numbers: list[int], width: int) -> Iterator[str]:
    begin = last = numbers[0]
    for number in [*numbers[1:], -1]:
        if number == last + 1:
            last = number
            continue
        first, final = f"{begin:0{width}d}", f"{last:0{width}d}"
        yield first if begin == last else f"{first}-{final}"
        begin = last = number


def expanded(text: str) -> tuple[str, ...]:
    """Return the names of a set such as `gpu[01-03],login`; ValueError says what is wrong."""
    names: list[str] = []
    at = 0
    while at < len(text):
        found = _LIST.match(text, at)
        if found is None:
            raise ValueError(f"{text!r} is no set of nodes: unexpected {text[at]!r}")
        before, numbers, after, plain = found.groups()
        if plain is not None:
            names.append(plain.strip())
        else:
            names += [f"{before}{number}{after}" for number in _numbers(numbers, text)]
        if len(names) > MOST_NODES:
            raise ValueError(f"{text!r} names more than {MOST_NODES:,} nodes")
        at = found.end()
        if at < len(text):
            if text[at] not in ", \n":
                raise ValueError(f"{text!r} is no set of nodes: unexpected {text[at]!r}")
            at += 1
    return tuple(dict.fromkeys(name for name in names if name))


def _numbers(text: str, whole: str) -> Iterator[str]:
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first or (dash and not last) or "-" in last:
            raise ValueError(f"{whole!r} is no set of nodes: {part!r} is no range")
        if not dash:
            yield first
            continue
        if int(last) < int(first) or int(last) - int(first) > MOST_NODES:
            raise ValueError(f"{whole!r} is no set of nodes: {part!r} is no range")
        for number in range(int(first), int(last) + 1):
            yield f"{number:0{len(first)}d}" if first[0] == "0" else str(number)
