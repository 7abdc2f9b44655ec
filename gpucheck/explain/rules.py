"""The page of a rule, and the lists of rules."""

from gpucheck.explain.page import rule_lines, wrapped
from gpucheck.families import FAMILIES, family_of
from gpucheck.knowledge import error_messages, xid
from gpucheck.rule import Rule
from gpucheck.site_rules import every_rule
from gpucheck.wording import ranges

MOST_TEXTS = 12  # known texts that lead to one rule


def page_of_rule(rule: Rule, width: int) -> str:
    """Return what *rule* means, what causes it, and which Xids and error texts lead to it."""
    lines = [*wrapped(f"{rule.code} ({rule.severity.value}): {rule.title}", width), ""]
    for paragraph in rule.explanation.split("\n\n"):
        lines += [*wrapped(" ".join(paragraph.split()), width), ""]
    causes = rule_lines(rule.caused_by)
    if causes:
        lines += ["Reported as a consequence of:", *causes, ""]
    numbers = [row.number for row in xid.table().xids if rule.code in row.codes]
    if numbers:
        lines += [
            *wrapped(f"Related Xids: {ranges(numbers)} (gpucheck explain 'Xid N')", width),
            "",
        ]
    texts = [message.patterns[0] for message in error_messages.of_rule(rule.code)]
    if texts:
        lines.append("Error messages that lead here:")
        lines += [f"  {text.replace('*', ' … ')}" for text in texts[:MOST_TEXTS]]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def page_of_family(family: str) -> str:
    """Return the rules of *family*, one a line."""
    lines = [f"{family}: {family_of(family).title}"]
    for rule in every_rule():
        if rule.family == family:
            lines.append(f"  {rule.code}  {rule.severity.value:<7}  {rule.title}")
    return "\n".join(lines) + "\n"


def rule_list() -> str:
    """Return every rule on a line, by family."""
    known = {rule.family for rule in every_rule()}
    ours = [family.prefix for family in FAMILIES if family.prefix in known]
    return "\n".join(map(page_of_family, (*ours, *sorted(known.difference(ours)))))
