"""Turns an answer of NVML into a reading: a value in our units, or why there is none."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from gpucheck.payload import nvml_queries as queries
from gpucheck.probes.messages import NvmlAnswer
from gpucheck.probes.nvml_session import why
from gpucheck.snapshot import NOT_SUPPORTED, NotSupported, Reading, Unknown

READ_WITH_DEEP = Unknown("read with --deep", "by design")
NOT_SAMPLED = Unknown("read with --deep or --watch", "by design")
T = TypeVar("T")


class Answers:
    """What one GPU answered, as readings."""

    def __init__(
        self,
        answered: Mapping[str, NvmlAnswer],
        plan: "Iterable[queries.Query]",
        fault: str | None,
    ) -> None:
        self._answered = answered
        self._symbols = {key: symbol for key, symbol, _ in plan}
        self._missing = Unknown(fault or "NVML did not answer")

    def get(self, key: str, convert: Callable[[Any], T]) -> Reading[T]:
        """Return the answer to *key*, put through *convert*."""
        answer = self._answered.get(key)
        if answer is None:
            if key in self._symbols:
                return self._missing
            return READ_WITH_DEEP if key == "inforom_check" else NOT_SAMPLED
        if answer.outcome == "value":
            return self._converted(key, answer.value, convert)
        if answer.outcome == "not supported":
            return NOT_SUPPORTED
        if answer.outcome == "lost":
            return self._missing
        return Unknown(why(answer, self._symbols.get(key, key)))

    def field(self, number: int, fields: Sequence[int], convert: Callable[[Any], T]) -> Reading[T]:
        """Return the field *number* out of the one call that asked for all *fields*."""

        def pick(value: list[list[Any]]) -> tuple[int, Any]:
            code, answer = value[fields.index(number)]
            return int(code), answer

        found = self.get("fields", pick)
        if isinstance(found, Unknown | NotSupported):
            return found
        code, value = found
        if code == queries.NOT_SUPPORTED:
            return NOT_SUPPORTED
        if code == queries.INVALID_ARGUMENT:
            return Unknown(f"driver too old: field {number} missing")
        if code:
            return Unknown(f"nvmlDeviceGetFieldValues: field {number}: error {code}")
        return self._converted("fields", value, convert)

    def error_code(self, key: str) -> int | None:
        """Return NVML's code where *key* failed with one."""
        answer = self._answered.get(key)
        return answer.code if answer is not None and answer.outcome == "error" else None

    def _converted(
        self,
        key: str,
        value: Any,  # noqa: ANN401
        convert: Callable[[Any], T],
    ) -> Reading[T]:
        try:
            return convert(value)
        except (TypeError, ValueError, LookupError, AttributeError, OverflowError):
            return Unknown(f"{self._symbols.get(key, key)}: unexpected value {str(value)[:80]}")


def integer(value: float | None) -> int:
    """Return a number that a snapshot can hold: JSON here ends at 64 bits."""
    if isinstance(value, int | float) and -(1 << 63) <= value < 1 << 64:
        return int(value)
    raise TypeError(value)


def watts(milliwatts: int) -> float:
    """Return NVML's milliwatts as watts."""
    return round(integer(milliwatts) / 1000, 3)


def text(value: str) -> str:
    """Return a text without the spaces around it."""
    if not isinstance(value, str):
        raise TypeError(value)
    return value.strip()


def ranges(words: str | Sequence[int]) -> str:
    """Write a mask, 64 bits to a number, as Linux writes lists of CPUs: "0-31,64-95".

    A list of Linux's own stays what it is.
    """
    if isinstance(words, str):
        if set(words) <= set("0123456789-,"):
            return words
        raise ValueError(words)
    found: list[list[int]] = []
    for position, word in enumerate(words):
        for bit in range(word.bit_length()):
            if word >> bit & 1:
                number = 64 * position + bit
                if found and found[-1][1] == number - 1:
                    found[-1][1] = number
                else:
                    found.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in found)
