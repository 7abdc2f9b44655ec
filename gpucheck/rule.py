"""What a rule is: a pure function of the snapshot, with a permanent code."""

import enum
import inspect
import re
import shlex
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec

from gpucheck.derived import own_gpus
from gpucheck.snapshot import Gpu, NotSupported, Silence, Snapshot, Unknown

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

#: How long what a command does lasts; "" where it only looks, or where the text says it.
Lasts = Literal["", "shell", "reboot", "permanent"]
#: Where a command runs: in this system, on the host of this container or virtual machine, in
#: Windows around WSL, or in the recipe of the container's image.
Place = Literal["here", "host", "windows", "image"]


class Command(msgspec.Struct, frozen=True):
    """One line to paste into a shell, without `sudo`: the renderer adds what this machine needs.

    Make one with `command`, which quotes every word that comes from outside.
    """

    text: str
    root: bool = False
    lasts: Lasts = ""
    on: Place = "here"
    needs: str = ""  # the program that has to be installed; "": the first word of the text

    @property
    def program(self) -> str:
        """The program that has to be installed for this to work."""
        return self.needs or self.text.split(None, 1)[0]


_BLANK = re.compile(r"\{(\w+)\}")


def command(
    template: str,
    /,
    *,
    root: bool = False,
    lasts: Lasts = "",
    on: Place = "here",
    needs: str = "",
    **words: "str | int | Sequence[str]",
) -> Command:
    """Return the command of a constant *template* whose `{name}`s are *words*, quoted for a shell.

    A sequence becomes several words. The template is never built from facts: a test looks at that.
    """

    def quoted(blank: "re.Match[str]") -> str:
        word = words[blank[1]]
        if isinstance(word, (str, int)):
            return _quoted(str(word))
        return " ".join(map(_quoted, word))

    text = _BLANK.sub(quoted, template) if words else template
    return Command(text, root=root, lasts=lasts, on=on, needs=needs)


def _quoted(word: str) -> str:
    """Return *word* as a shell takes it, in letters that a terminal can show.

    A control sequence would be taken out of the line later, with the quotes in its way. What bash
    and zsh read as $'…' holds no quote of its own: for any other shell it is one word, too.
    """
    if word.isprintable():
        return shlex.quote(word)
    return f"$'{''.join(map(_ansi_c, word))}'"


def _ansi_c(letter: str) -> str:
    if letter.isprintable() and letter not in "\\'":
        return letter
    how = "surrogateescape" if "\udc80" <= letter <= "\udcff" else "surrogatepass"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", how))


class Remedy(msgspec.Struct, frozen=True):
    """What to do about a finding, as data: an imperative sentence, and the commands in order.

    *alternatives* are other ways to the same end, of which one is chosen; they are never a
    sequence. *verify* is the command that shows that it worked.
    """

    text: str
    steps: tuple[Command, ...] = ()
    alternatives: tuple["Remedy", ...] = ()
    verify: Command | None = None


class Symptom(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule saw, in this machine's own paths and numbers, and how to fix it.

    *subject* is for people; *gpus* are the NVML indexes of the GPUs that it is about, by which
    findings are joined. *why*, where it is empty, is the first paragraph of the rule's docstring.
    *severity*, where it is None, is the rule's own. *explained_by* names further codes that, when
    they were found too, explain this one: those that only the rule knows at the time (the meaning
    of an error code).
    """

    saw: str
    remedy: Remedy
    subject: str = ""
    gpus: tuple[int, ...] = ()
    why: str = ""
    severity: Severity | None = None
    explained_by: tuple[str, ...] = ()


class NotChecked(msgspec.Struct, frozen=True, kw_only=True):
    """A question that has no answer: neither a pass nor a fault. *kind* says why at a glance."""

    why: str
    subject: str = ""
    kind: Silence = "no answer"

    @classmethod
    def because(cls, fact: Unknown, subject: str = "") -> "NotChecked":
        """Return the answer that *fact*, which it needs, is not known."""
        return cls(why=fact.why, subject=subject, kind=fact.kind)


class NotApplicable(msgspec.Struct, frozen=True, kw_only=True):
    """A question that this machine does not raise (no GPU here, a feature it lacks)."""

    why: str = ""
    subject: str = ""


Obstacle = NotChecked | NotApplicable  # why there is no answer
Answer = Symptom | Obstacle
Answers = Iterator[Answer]
#: Says why a machine does not raise a question; None where it does.
Condition = Callable[[Snapshot], Obstacle | None]


def known(
    fact: "T | Unknown | NotSupported", subject: str = "", *, absent: str = ""
) -> Generator[Obstacle, None, "T | None"]:
    """Return *fact* where it is known, else say why not: `power = yield from known(gpu.power)`.

    None comes back for what is not known, not supported, or not there. *absent* says what it means
    that it is not there ("LD_LIBRARY_PATH is not set"): the question is then not applicable.
    """
    if isinstance(fact, Unknown):
        yield NotChecked.because(fact, subject)
        return None
    if isinstance(fact, NotSupported):
        yield NotApplicable(why="not supported", subject=subject)
        return None
    if fact is None and absent:
        yield NotApplicable(why=absent, subject=subject)
    return fact


def gpus_of(machine: Snapshot) -> Generator[Obstacle, None, tuple[Gpu, ...]]:
    """Return the GPUs that NVML lists; say why there are none."""
    found = machine.nvml.gpus
    if isinstance(found, Unknown) and isinstance(machine.host.pci_gpus, tuple):
        if not machine.host.pci_gpus:
            yield NotApplicable(why="no GPU")
            return ()
        if not own_gpus(machine):
            yield NotApplicable(why="every GPU is reserved for virtual machines")
            return ()
    gpus = yield from known(found)
    if gpus is None:
        return ()
    if not gpus:
        yield NotApplicable(why="no GPU")
    return gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A permanent code, what it says, and the function that judges."""

    code: str
    severity: Severity
    title: str
    explanation: str  # the docstring: what `gpucheck explain` prints
    caused_by: tuple[str, ...]
    judge: Callable[[Snapshot], Answers]
    when: Condition | None = None
    module: str = ""  # where it is defined; an import elsewhere does not register it again

    @property
    def family(self) -> str:
        return self.code[:3]

    @property
    def why(self) -> str:
        """Return the first paragraph of the explanation, on one line."""
        return " ".join(self.explanation.split("\n\n", 1)[0].split())

    def __call__(
        self, machine: Snapshot, obstacles: dict[Condition, Obstacle | None] | None = None
    ) -> Answers:
        """Judge *machine*; *obstacles* keeps what each condition says of it, for other rules."""
        if self.when is None:
            return self.judge(machine)
        obstacles = {} if obstacles is None else obstacles
        if self.when not in obstacles:
            obstacles[self.when] = self.when(machine)
        obstacle = obstacles[self.when]
        return self.judge(machine) if obstacle is None else iter((obstacle,))


def rule(
    code: str,
    severity: Severity,
    title: str,
    *,
    caused_by: Iterable[str] = (),
    when: Condition | None = None,
) -> Callable[[Callable[[Snapshot], Answers]], Rule]:
    """Make a function a rule.

    *caused_by* are the codes that explain this one: where one of them was found too, for the same
    GPU or for the whole machine, the report puts this finding under it. Nearest cause first. *when*
    says which machines raise the question.
    """

    def decorate(judge: Callable[[Snapshot], Answers]) -> Rule:
        return Rule(
            code=code,
            severity=severity,
            title=title,
            explanation=inspect.cleandoc(judge.__doc__ or ""),
            caused_by=tuple(caused_by),
            judge=judge,
            when=when,
            module=judge.__module__,
        )

    return decorate


def gpu_rule(
    code: str,
    severity: Severity,
    title: str,
    *,
    caused_by: Iterable[str] = (),
    when: Condition | None = None,
) -> Callable[[Callable[[Gpu, Snapshot], Answers]], Rule]:
    """Make a function that judges one GPU a rule: it is asked about each GPU that NVML lists.

    Subject and `gpus` of its answers are supplied where it gives none.
    """

    def decorate(judge: Callable[[Gpu, Snapshot], Answers]) -> Rule:
        def judge_each(machine: Snapshot) -> Answers:
            for gpu in (yield from gpus_of(machine)):
                for answer in judge(gpu, machine):
                    changes: dict[str, object] = {}
                    if not answer.subject:
                        changes["subject"] = gpu.subject
                    if isinstance(answer, Symptom) and not answer.gpus:
                        changes["gpus"] = (gpu.index,)
                    yield msgspec.structs.replace(answer, **changes) if changes else answer

        judge_each.__doc__ = judge.__doc__
        judge_each.__module__ = judge.__module__
        return rule(code, severity, title, caused_by=caused_by, when=when)(judge_each)

    return decorate
