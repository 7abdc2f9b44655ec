"""Puts findings together as people read them: a root, those like it on other GPUs, consequences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from gpucheck.report import Finding, with_texts
from gpucheck.rule import Remedy, Severity
from gpucheck.wording import ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A finding on one or more subjects, with the consequences that belong under it."""

    members: tuple[Finding, ...]
    consequences: tuple[Finding, ...]

    @property
    def finding(self) -> Finding:
        return self.members[0]

    @property
    def gpus(self) -> tuple[int, ...]:
        return tuple(sorted({number for member in self.members for number in member.gpus}))

    @property
    def about(self) -> str:
        """Say of what it was found: "GPUs 0-7"; subjects that are no GPUs are listed."""
        if len(self.members) > 1 and all(len(member.gpus) == 1 for member in self.members):
            return f"GPUs {ranges(self.gpus)}"
        return ", ".join(dict.fromkeys(each.subject for each in self.members if each.subject))

    @property
    def seen(self) -> tuple[str, ...]:
        """What was seen, with the subject before it where it differs between them."""
        texts = tuple(dict.fromkeys(member.saw for member in self.members))
        if len(texts) < 2:
            return texts
        return tuple(
            member.saw
            if not member.subject or member.subject in member.saw
            else f"{member.subject}: {member.saw}"
            for member in self.members
        )

    @property
    def remedy(self) -> Remedy:
        """What to do about all of it: one text, and each command once."""
        remedies = tuple(dict.fromkeys(member.remedy for member in self.members))
        if len(remedies) == 1:
            return remedies[0]
        text = remedies[0].text
        if any(other.text != text for other in remedies):
            text = _of_any_gpu(self.finding).text.replace("{GPU}", f"GPUs {ranges(self.gpus)}")
        steps = tuple(dict.fromkeys(step for remedy in remedies for step in remedy.steps))
        return msgspec.structs.replace(remedies[0], text=text, steps=steps)


def grouped(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """Put each root's consequences to it, and roots that differ only in their GPU together."""
    trees: list[tuple[Finding, list[Finding]]] = []
    for finding in findings:
        if finding.explained_by is None or not trees:
            trees.append((finding, []))
        else:
            trees[-1][1].append(finding)
    groups: dict[object, Group] = {}
    for root, consequences in trees:
        key = _kind(root)
        alike = groups.get(key)
        groups[key] = Group(
            members=(root,) if alike is None else (*alike.members, root),
            consequences=(*(alike.consequences if alike else ()), *consequences),
        )
    return tuple(groups.values())


def first_step(findings: Sequence[Finding]) -> Finding | None:
    """Return the root to fix first; None where nothing has to be fixed."""
    for finding in findings:
        if finding.explained_by is None and finding.severity is not Severity.INFO:
            return finding
    return None


def _kind(finding: Finding) -> object:
    """Return what findings of one kind have in common."""
    remedy = _of_any_gpu(finding) if len(finding.gpus) == 1 else finding.remedy
    return finding.code, finding.severity, finding.why, remedy


def _of_any_gpu(finding: Finding) -> Remedy:
    """Return the remedy of a finding on one GPU with that GPU's number left open."""
    if len(finding.gpus) != 1:
        return finding.remedy
    number = finding.gpus[0]
    named, chosen = re.compile(rf"\b[Gg][Pp][Uu] {number}\b"), re.compile(rf"(-i |id=){number}\b")
    return with_texts(
        finding.remedy, lambda text: chosen.sub(r"\g<1>{n}", named.sub("{GPU}", text))
    )
