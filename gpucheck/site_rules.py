"""The rules of a process: ours, and those of the site whose machines are judged.

A site's rules come from installed distributions and from files (see probes/plugins.py). Their codes
are of families of their own, and a rule of theirs that fails costs itself alone.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from gpucheck.families import FAMILIES
from gpucheck.probes import plugin_search
from gpucheck.rule import Answers, NotApplicable, NotChecked, Rule, Symptom
from gpucheck.rules import RULES
from gpucheck.snapshot import SiteFailure, Snapshot, value
from gpucheck.snapshot import replace as changed
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.probes.plugins import Plugin

_CODE = re.compile("[A-Z]{3}[0-9]{3}")
_OURS = {family.prefix for family in FAMILIES}


def use(files: Sequence[str]) -> None:
    """Judge by the rules of *files*, too. UsageError: a file has none, or a code is refused."""
    plugin_search.choose(tuple(files))
    if not files:
        return
    from gpucheck.probes import plugins

    codes = {rule.code for rule in _site(plugins.installed())[0]}
    for file in files:
        plugin = plugins.of_file(file)
        if plugin.module is None:
            continue  # what fails as it runs costs itself alone
        why = _refused(plugin, codes)
        if why:
            raise UsageError(f"--rules {file}: {why}")
        if not (_rules_of(plugin) or plugin.probes):
            raise UsageError(f"--rules {file}: defines no rule and no probe")
        codes |= {rule.code for rule in _rules_of(plugin)}


def every_rule() -> tuple[Rule, ...]:
    """Return our rules, and then the site's."""
    return (*RULES, *_site(_plugins())[0])


def named(name: str) -> tuple[Rule, ...]:
    """Return the rules that a code, or the prefix of a family, names."""
    return tuple(rule for rule in every_rule() if name in (rule.code, rule.family))


def noted(machine: Snapshot) -> Snapshot:
    """Return *machine* with what could not be loaded here among its site's failures."""
    failures = _site(_plugins())[1]
    if not failures:
        return machine
    known = value(machine.site.failures) or ()
    joined = tuple(dict.fromkeys((*known, *failures)))
    return changed(machine, site=changed(machine.site, failures=joined))


def _plugins() -> "tuple[Plugin, ...]":
    """Return what has to be loaded; where nothing has, nothing is imported for it either."""
    if not plugin_search.has_any():
        return ()
    from gpucheck.probes import plugins

    return plugins.loaded()


@cache
def _site(found: "tuple[Plugin, ...]") -> tuple[tuple[Rule, ...], tuple[SiteFailure, ...]]:
    """Return the rules of the plugins, and which plugin has none and why."""
    rules: list[Rule] = []
    failures: list[SiteFailure] = []
    for plugin in found:
        why = plugin.why or _refused(plugin, {rule.code for rule in rules})
        if why:
            failures.append(SiteFailure(source=plugin.name, why=why))
        else:
            rules += map(_guarded, _rules_of(plugin))
    return tuple(rules), tuple(failures)


def _rules_of(plugin: "Plugin") -> tuple[Rule, ...]:
    if plugin.module is None:
        return ()
    name = plugin.module.__name__
    things = vars(plugin.module).values()
    return tuple(each for each in things if isinstance(each, Rule) and each.module == name)


def _refused(plugin: "Plugin", codes: set[str]) -> str:
    """Say why the rules of *plugin* cannot be taken; "" where they can."""
    codes = set(codes)
    for rule in _rules_of(plugin):
        if _CODE.fullmatch(rule.code) is None:
            return f"{rule.code!r} is no code: three capital letters and three digits, as ACM001"
        if rule.family in _OURS:
            return f"{rule.code}: the prefix {rule.family} is gpucheck's own; choose another"
        if rule.code in codes:
            return f"{rule.code} is there twice"
        if not rule.explanation:
            return f"{rule.code} has no docstring, which `gpucheck explain` prints"
        codes.add(rule.code)
    return ""


def _guarded(rule: Rule) -> Rule:
    """Let nothing out of a site's rule but answers that are whole, and plain exceptions."""
    from gpucheck.probes.plugins import printing_to_stderr

    def judge(machine: Snapshot) -> Answers:
        try:
            with printing_to_stderr():
                answers = list(rule(machine))
        except SystemExit:
            raise RuntimeError("it called sys.exit") from None
        for answer in answers:
            if not isinstance(answer, (Symptom, NotChecked, NotApplicable)):
                raise TypeError(f"{answer!r:.80} is no answer")
            yield msgspec.json.decode(msgspec.json.encode(answer), type=type(answer))

    return replace(rule, judge=judge, when=None)
