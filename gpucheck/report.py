"""Judges a snapshot: findings, the folding of consequences, the verdict, the exit code."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from gpucheck.rule import NotChecked, Rule, Severity, Symptom
from gpucheck.snapshot import Snapshot

Verdict = Literal["healthy", "degraded", "broken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A symptom with its code, severity and title; `explained_by` is the code of its root."""

    code: str
    severity: Severity
    title: str
    saw: str
    why: str
    fix: str
    subject: str = ""
    commands: tuple[str, ...] = ()
    explained_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """A rule that could not be judged for a subject, and why."""

    code: str
    why: str
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The judgement of one snapshot. Findings stand in the order in which to read them:

    roots first, the most severe first, and each root's consequences right behind it.
    """

    machine: Snapshot
    findings: tuple[Finding, ...]
    not_checked: tuple[Unchecked, ...]
    not_applicable: tuple[Unchecked, ...]
    passed: tuple[str, ...]
    strict: bool = False

    @property
    def verdict(self) -> Verdict:
        severities = {finding.severity for finding in self.findings}
        if Severity.ERROR in severities:
            return "broken"
        return "degraded" if Severity.WARNING in severities else "healthy"

    @property
    def exit_code(self) -> int:
        """1 where errors were found, or warnings too under --strict; else 0."""
        return int(self.verdict == "broken" or (self.strict and self.verdict == "degraded"))

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

    A rule that stumbles over the facts is our fault, not the machine's: it is reported as not
    checked, and the others go on.
    """
    if rules is None:
        from gpucheck.rules import RULES

        rules = RULES
    symptoms: list[tuple[Rule, Symptom]] = []
    not_checked: list[Unchecked] = []
    not_applicable: list[Unchecked] = []
    passed: list[str] = []
    for rule in rules:
        if not _is_chosen(rule.code, select, ignore):
            continue
        answered = False
        try:
            for answer in rule.judge(machine):
                answered = True
                if isinstance(answer, Symptom):
                    symptoms.append((rule, answer))
                elif isinstance(answer, NotChecked):
                    not_checked.append(
                        Unchecked(code=rule.code, why=answer.why, subject=answer.subject)
                    )
                else:
                    not_applicable.append(
                        Unchecked(code=rule.code, why=answer.why, subject=answer.subject)
                    )
        except Exception as error:  # noqa: BLE001 - one bad rule must not cost the report
            answered = True
            not_checked.append(
                Unchecked(code=rule.code, why=f"gpucheck's own rule failed: {error!r}")
            )
        if not answered:
            passed.append(rule.code)
    return Report(
        machine=machine,
        findings=_arrange(symptoms),
        not_checked=tuple(dict.fromkeys(not_checked)),
        not_applicable=tuple(dict.fromkeys(not_applicable)),
        passed=tuple(passed),
        strict=strict,
    )


def _is_chosen(code: str, select: Sequence[str], ignore: Sequence[str]) -> bool:
    names = (code, code[:3])
    if any(name in ignore for name in names):
        return False
    return not select or any(name in select for name in names)


def _arrange(symptoms: Sequence[tuple[Rule, Symptom]]) -> tuple[Finding, ...]:
    """Name each symptom's root and put it behind that root."""
    found: dict[str, set[str]] = {}
    for rule, symptom in symptoms:
        found.setdefault(rule.code, set()).add(symptom.subject)
    parents: dict[tuple[str, str], str | None] = {
        (rule.code, symptom.subject): _parent(rule, symptom, found) for rule, symptom in symptoms
    }
    findings = [
        Finding(
            code=rule.code,
            severity=symptom.severity or rule.severity,
            title=rule.title,
            saw=symptom.saw,
            why=symptom.why or rule.why,
            fix=symptom.fix,
            subject=symptom.subject,
            commands=symptom.commands,
            explained_by=_root(rule.code, symptom.subject, parents),
        )
        for rule, symptom in symptoms
    ]
    consequences: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.explained_by is not None:
            consequences.setdefault(finding.explained_by, []).append(finding)
    roots = [finding for finding in findings if finding.explained_by is None]
    worst = {
        code: min(finding.severity.rank for finding in members)
        for code, members in consequences.items()
    }
    roots.sort(
        key=lambda finding: (
            min(finding.severity.rank, worst.get(finding.code, 2)),
            finding.severity.rank,
            -len(consequences.get(finding.code, ())),
        )
    )
    last = {root.code: root for root in roots}
    arranged: list[Finding] = []
    for root in roots:
        arranged.append(root)
        followers = consequences.get(root.code, [])
        mine = [f for f in followers if f.subject == root.subject or root is last[root.code]]
        consequences[root.code] = [f for f in followers if f not in mine]
        arranged += mine
    return tuple(arranged)


def _parent(rule: Rule, symptom: Symptom, found: dict[str, set[str]]) -> str | None:
    """Return the nearest cause that was found: for the same subject first, else for any."""
    causes = [code for code in (*symptom.explained_by, *rule.roots) if code != rule.code]
    for code in causes:
        if symptom.subject and symptom.subject in found.get(code, ()):
            return code
    return next((code for code in causes if code in found), None)


def _root(code: str, subject: str, parents: dict[tuple[str, str], str | None]) -> str | None:
    """Follow causes up to the first that nothing explains; None where *code* is one itself."""
    by_code: dict[str, str | None] = {}
    for (parent_code, _), parent in parents.items():
        by_code.setdefault(parent_code, parent)
    seen = {code}
    root = parents[code, subject]
    while root is not None:
        if root in seen:  # causes in a circle explain nothing
            return None
        seen.add(root)
        above = by_code.get(root)
        if above is None:
            return root
        root = above
    return None
