"""What a rule is: a pure function of the snapshot, with a permanent code."""

import enum
import inspect
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from gpucheck.snapshot import NotSupported, Snapshot, Unknown

T = TypeVar("T")


class Severity(enum.Enum):
    """How bad a finding is; a smaller `rank` is worse."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


class Symptom(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule saw, in this machine's own paths and numbers, and how to mend it.

    `why`, where it is empty, is the first paragraph of the rule's docstring. `severity`, where it
    is None, is the rule's own. `explained_by` names further codes that, when they were found too,
    explain this one: those that only the rule knows at the time (the meaning of an error code).
    """

    saw: str
    fix: str
    subject: str = ""
    why: str = ""
    commands: tuple[str, ...] = ()
    severity: Severity | None = None
    explained_by: tuple[str, ...] = ()


class NotChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A question that could not be answered: neither a pass nor a fault."""

    why: str
    subject: str = ""


class NotApplicable(msgspec.Struct, frozen=True, kw_only=True):
    """A question that this machine does not raise (no GPU here, a feature it lacks)."""

    why: str = ""
    subject: str = ""


Answer = Symptom | NotChecked | NotApplicable
Answers = Iterator[Answer]


def known(
    fact: "T | Unknown | NotSupported", subject: str = ""
) -> Generator[NotChecked | NotApplicable, None, "T | None"]:
    """Return *fact* where it is known, else say why not: `power = yield from known(gpu.power)`.

    None comes back for what is not known, not supported, or not there; a rule that must tell the
    last apart looks at the fact itself.
    """
    if isinstance(fact, Unknown):
        yield NotChecked(why=fact.why, subject=subject)
        return None
    if isinstance(fact, NotSupported):
        yield NotApplicable(why="not supported", subject=subject)
        return None
    return fact


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A permanent code, what it says, and the function that judges."""

    code: str
    severity: Severity
    title: str
    explanation: str  # the docstring: what `gpucheck explain` prints
    roots: tuple[str, ...]
    judge: Callable[[Snapshot], Answers]

    @property
    def family(self) -> str:
        return self.code[:3]

    @property
    def why(self) -> str:
        """Return the first paragraph of the explanation, on one line."""
        return " ".join(self.explanation.split("\n\n", 1)[0].split())

    def __call__(self, machine: Snapshot) -> Iterator["Answer"]:
        return self.judge(machine)


def rule(
    code: str, severity: Severity, title: str, *, roots: Iterable[str] = ()
) -> Callable[[Callable[[Snapshot], Answers]], Rule]:
    """Make a function a rule.

    *roots* are the codes that explain this one: where one of them was found too, for the same
    subject or for the whole machine, the report puts this finding under it. Nearest cause first.
    """

    def decorate(judge: Callable[[Snapshot], Answers]) -> Rule:
        explanation = inspect.cleandoc(judge.__doc__ or "")
        return Rule(
            code=code,
            severity=severity,
            title=title,
            explanation=explanation,
            roots=tuple(roots),
            judge=judge,
        )

    return decorate
