"""Explains a rule, a family of rules, or an error message that somebody pasted."""

import re
from difflib import get_close_matches

from gpucheck.families import FAMILIES, family_of
from gpucheck.knowledge import error_messages
from gpucheck.rule import Rule
from gpucheck.rules import RULES
from gpucheck.usage_error import UsageError

MOST_MESSAGES = 3  # of one pasted text: a traceback may hold several


def explanation(what: str) -> str:
    """Return what there is to say about *what*: a code, a family, or an error text.

    Raises `Refusal` where nothing is known of it.
    """
    name = what.strip().upper()
    by_code = {rule.code: rule for rule in RULES}
    if name in by_code:
        return _of_rule(by_code[name])
    if (
        family_of(name) is not None
        and name == name[:3]
        and any(rule.family == name for rule in RULES)
    ):
        return _rows(name)
    if re.fullmatch("[A-Z]{2,4}[0-9]{1,4}|[A-Z]{3}", name):
        near = get_close_matches(name, by_code, n=3, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise UsageError(f"no rule is called {name}{hint} (gpucheck explain --list lists all)")
    if not name:
        raise UsageError("there is no text to explain")
    found = error_messages.find(what)
    if not found:
        raise UsageError(
            "this text holds no error that gpucheck knows; gpucheck doctor examines the machine"
        )
    return _of_messages(found)


def rule_list() -> str:
    """Return every rule on a line, by family."""
    return "\n".join(_rows(family.prefix) for family in FAMILIES if any(_of(family.prefix)))


def _of(family: str) -> list[Rule]:
    return [rule for rule in RULES if rule.family == family]


def _rows(family: str) -> str:
    named = family_of(family)
    lines = [f"{family}: {'' if named is None else named.title}"]
    for rule in _of(family):
        lines.append(f"  {rule.code}  {rule.severity.value:<7}  {rule.title}")
    return "\n".join(lines) + "\n"


def _of_rule(rule: Rule) -> str:
    titles = {each.code: each.title for each in RULES}
    text = f"{rule.code} ({rule.severity.value}): {rule.title}\n\n{rule.explanation}\n"
    if rule.caused_by:
        text += (
            "\nWhere one of these was found too, it is the cause, and this one stands under it:\n"
        )
        for code in rule.caused_by:
            text += f"  {code}  {titles.get(code, '')}".rstrip() + "\n"
    return text


def _of_messages(found: tuple[error_messages.Message, ...]) -> str:
    titles = {rule.code: rule.title for rule in RULES}
    parts = []
    for message in found[:MOST_MESSAGES]:
        text = f"{message.meaning}\n\nWhat to do: {message.fix}\n"
        if message.codes:
            text += "\nThese rules look for its causes (gpucheck doctor asks them all):\n"
            for code in message.codes:
                text += f"  {code}  {titles.get(code, '')}".rstrip() + "\n"
        parts.append(text)
    return "\n----\n\n".join(parts)
