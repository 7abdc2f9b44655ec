"""Judges a snapshot: findings, the folding of consequences, the verdict, the exit status."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeVar

import msgspec

from gpucheck.families import depth
from gpucheck.poverty import is_own
from gpucheck.rule import Condition, NotChecked, Obstacle, Remedy, Rule, Severity, Symptom
from gpucheck.snapshot import NOT_EXAMINED, Silence, Snapshot, value
from gpucheck.wording import ranges

Verdict = Literal["healthy", "degraded", "broken", "incomplete", "rehearsal"]
#: Rules whose question has to be answered before a machine may be called healthy, and the question.
ESSENTIAL: Mapping[str, str] = {
    "DRV001": "whether an NVIDIA GPU is here",
    "DRV009": "whether CUDA starts",
    "GPU001": "which GPUs the driver shows",
    "GPU022": "whether all expected GPUs are here",
    "TOR001": "which torch programs get",
    "BRN001": "whether all that was to be burned in was, to the end",
}
#: Any other question, where gpucheck lacked the means to look.
OTHER_QUESTION = "what gpucheck lacked the means to look at"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A symptom with its code, severity and title; `explained_by` is the code of its root."""

    code: str
    severity: Severity
    title: str
    saw: str
    why: str
    remedy: Remedy
    subject: str = ""
    gpus: tuple[int, ...] = ()  # NVML indexes of the GPUs that it is about
    explained_by: str | None = None


class Unchecked(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that could not be judged for a subject, and why."""

    code: str
    why: str
    subject: str = ""
    kind: Silence = "no answer"

    @property
    def is_open(self) -> bool:
        """Whether it was not left out on purpose: asked for, or never examined at all."""
        return self.kind != "by design" or self.why == NOT_EXAMINED.why


_NO_PROSE = ("code", "explained_by", "lasts", "on", "kind")
Part = TypeVar("Part")


def with_texts(part: Part, change: Callable[[str], str]) -> Part:
    """Return a finding, or a part of one, with every text in it changed; codes stay as they are."""
    if isinstance(part, str):
        return change(part)  # type: ignore[return-value]
    if isinstance(part, tuple):
        return tuple(with_texts(item, change) for item in part)  # type: ignore[return-value]
    if isinstance(part, msgspec.Struct):
        changes = {
            name: with_texts(getattr(part, name), change)
            for name in part.__struct_fields__
            if name not in _NO_PROSE
        }
        return msgspec.structs.replace(part, **changes)
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The verdict on one snapshot. Findings are in the order in which to read them:

    roots first, the most severe first, and each root's consequences right behind it.
    """

    machine: Snapshot
    findings: tuple[Finding, ...]
    not_checked: tuple[Unchecked, ...]
    not_applicable: tuple[Unchecked, ...]
    passed: tuple[str, ...]
    titles: Mapping[str, str]  # of the rules that were asked, by their codes
    ignored: tuple[Finding, ...] = ()  # found, and left out by the owner's word
    strict: bool = False

    @property
    def verdict(self) -> Verdict:
        """Errors outrank an essential question without an answer, which outranks warnings."""
        severities = {finding.severity for finding in self.findings}
        if Severity.ERROR in severities:
            return "broken"
        if self.unanswered:
            return "incomplete"
        if Severity.WARNING in severities:
            return "degraded"
        workloads = (self.machine.training, self.machine.bench, self.machine.burn)
        is_rehearsal = any(one is not None and one.device == "cpu" for one in workloads)
        return "rehearsal" if is_rehearsal else "healthy"

    @property
    def unanswered(self) -> tuple[Unchecked, ...]:
        """Essential questions that were asked and got no answer, one entry for each.

        Where gpucheck lacked the means to look, any question is one: the first stands for all.
        """
        silent = {
            one.code: one
            for one in reversed(self.not_checked)
            if one.code in ESSENTIAL and one.is_open
        }
        essential = tuple(silent[code] for code in ESSENTIAL if code in silent)
        poor = (one for one in self.not_checked if one.is_open and is_own(one.why))
        return essential or tuple(islice(poor, 1))

    @property
    def exit_code(self) -> int:
        """1 where the machine is broken, or incomplete, or degraded under --strict; else 0."""
        failing = ("broken", "incomplete", "degraded" if self.strict else "")
        return int(self.verdict in failing)

    @property
    def roots(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.explained_by is None)


def examine(
    machine: Snapshot,
    *,
    rules: Iterable[Rule] | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    strict: bool = False,
) -> Report:
    """Judge *machine* by every rule that *select* and *ignore* (codes or families) leave in.

    What the machine's ignore list accepts is judged and counted, but is no part of the verdict;
    what it explains then speaks for itself.

    A rule that stumbles over the facts is our fault, not the machine's: it is reported as not
    checked, and the others go on.
    """
    if rules is None:
        from gpucheck.site_rules import every_rule

        rules = every_rule()
    accepted = {entry.code for entry in value(machine.ignore_list.accepted) or ()}
    obstacles: dict[Condition, Obstacle | None] = {}
    titles: dict[str, str] = {}
    symptoms: list[tuple[Rule, Symptom]] = []
    ignored: list[tuple[Rule, Symptom]] = []
    not_checked: list[Unchecked] = []
    not_applicable: list[Unchecked] = []
    passed: list[str] = []
    for rule in rules:
        if (select or ignore) and not _is_chosen(rule.code, select, ignore):
            continue
        titles[rule.code] = rule.title
        answered = False
        try:
            for answer in rule(machine, obstacles):
                answered = True
                if isinstance(answer, Symptom):
                    is_accepted = rule.code in accepted or rule.family in accepted
                    (ignored if is_accepted else symptoms).append((rule, answer))
                elif isinstance(answer, NotChecked):
                    not_checked.append(
                        Unchecked(
                            code=rule.code,
                            why=answer.why,
                            subject=answer.subject,
                            kind=answer.kind,
                        )
                    )
                else:
                    not_applicable.append(
                        Unchecked(code=rule.code, why=answer.why, subject=answer.subject)
                    )
        except Exception as error:  # noqa: BLE001 - one bad rule must not cost the report
            answered = True
            not_checked.append(Unchecked(code=rule.code, why=f"the rule itself failed: {error!r}"))
        if not answered:
            passed.append(rule.code)
    return Report(
        machine=machine,
        findings=_arrange(symptoms),
        not_checked=tuple(dict.fromkeys(not_checked)),
        not_applicable=tuple(dict.fromkeys(not_applicable)),
        passed=tuple(passed),
        titles=titles,
        ignored=_arrange(ignored),
        strict=strict,
    )


def _is_chosen(code: str, select: Sequence[str], ignore: Sequence[str]) -> bool:
    names = (code, code[:3])
    if any(name in ignore for name in names):
        return False
    return not select or any(name in select for name in names)


Node = tuple[str, str]  # a finding's code and subject


def _arrange(symptoms: Sequence[tuple[Rule, Symptom]]) -> tuple[Finding, ...]:
    """Name each symptom's root and put it behind that root.

    A root takes the severity of the worst that it explains: what breaks CUDA is no warning.
    """
    found: dict[str, list[Symptom]] = {}
    for rule, symptom in symptoms:
        found.setdefault(rule.code, []).append(symptom)
    causes: dict[Node, Node | None] = {}
    for rule, symptom in symptoms:
        causes.setdefault((rule.code, symptom.subject), _cause(rule, symptom, found))
    roots: list[Finding] = []
    consequences: dict[Node, list[Finding]] = {}
    for rule, symptom in symptoms:
        cause = _root((rule.code, symptom.subject), causes)
        finding = Finding(
            code=rule.code,
            severity=symptom.severity or rule.severity,
            title=rule.title,
            saw=symptom.saw,
            why=symptom.why or rule.why,
            remedy=symptom.remedy,
            subject=symptom.subject,
            gpus=symptom.gpus,
            explained_by=None if cause is None else cause[0],
        )
        if cause is None:
            roots.append(finding)
        else:
            consequences.setdefault(cause, []).append(finding)

    def worst(root: Finding) -> Finding:
        followers = consequences.get((root.code, root.subject), [])
        severity = min((each.severity for each in (root, *followers)), key=lambda each: each.rank)
        return msgspec.structs.replace(root, severity=severity)

    def order(root: Finding) -> tuple[int, int, int]:
        followers = consequences.get((root.code, root.subject), [])
        return root.severity.rank, depth(root.code), -len(followers)

    trees = [
        (root, consequences.pop((root.code, root.subject), []))
        for root in sorted(map(worst, roots), key=order)
    ]
    arranged: list[Finding] = []
    for root, followers in _folded(trees):
        arranged += [root, *(follower for follower, _ in _folded([(one, []) for one in followers]))]
    return tuple(arranged)


Tree = tuple[Finding, list[Finding]]  # a root and its consequences


def _folded(trees: Sequence[Tree]) -> list[Tree]:
    """Make one of findings that say the same of several GPUs, each of one."""
    folded: dict[object, Tree] = {}
    for at, (root, followers) in enumerate(trees):
        alike = (root.code, root.severity, root.saw, root.why, root.remedy, root.explained_by)
        key: object = alike if len(root.gpus) == 1 else at
        if key in folded:
            first, others = folded[key]
            gpus = tuple(sorted({*first.gpus, *root.gpus}))
            if len(gpus) > 1:
                first = msgspec.structs.replace(first, gpus=gpus, subject=f"GPUs {ranges(gpus)}")
            folded[key] = (first, [*others, *followers])
        else:
            folded[key] = (root, list(followers))
    return list(folded.values())


def _cause(rule: Rule, symptom: Symptom, found: dict[str, list[Symptom]]) -> Node | None:
    """Return the nearest cause that was found.

    What the rule said at run time holds whatever the subject; a rule's standing causes explain the
    same GPU or the whole machine, but never another GPU.
    """
    for code in symptom.explained_by:
        if code in found and code != rule.code:
            return code, _nearest(symptom, found[code]).subject
    for code in rule.caused_by:
        near = [cause for cause in found.get(code, ()) if not _are_other_gpus(cause, symptom)]
        if near:
            return code, _nearest(symptom, near).subject
    return None


def _nearest(symptom: Symptom, causes: Sequence[Symptom]) -> Symptom:
    """Return the cause of the same subject, else one that shares a GPU, else the first."""
    for cause in causes:
        if cause.subject == symptom.subject:
            return cause
    for cause in causes:
        if set(cause.gpus) & set(symptom.gpus):
            return cause
    return causes[0]


def _are_other_gpus(one: Symptom, other: Symptom) -> bool:
    """Whether both are about GPUs, and none in common."""
    return bool(one.gpus and other.gpus) and not set(one.gpus) & set(other.gpus)


def _root(node: Node, causes: dict[Node, Node | None]) -> Node | None:
    """Follow causes up to the first that nothing explains; None where *node* is one itself."""
    seen = {node}
    root = causes[node]
    while root is not None:
        if root in seen:  # causes in a circle explain nothing
            return None
        seen.add(root)
        above = causes.get(root)
        if above is None:
            return root
        root = above
    return None
