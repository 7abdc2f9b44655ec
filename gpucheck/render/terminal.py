"""The report for people at a terminal: section by section, and at its end what to do first."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpucheck.render import summaries
from gpucheck.render.rows import gpu_rows, pair_rows
from gpucheck.render.style import Sign, Style, cells, wrap
from gpucheck.render.table import gpu_table, pair_matrix
from gpucheck.report import ESSENTIAL, Finding, Report, Unchecked
from gpucheck.rule import Severity

MOST_SUBJECTS = 8  # of one finding on many subjects; the rest is counted, and shown with -v
LABEL = 15  # columns of a section's mark and name

_SIGNS: dict[Severity, Sign] = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "info",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A finding on one or more subjects, with the consequences that stand under it."""

    finding: Finding
    members: tuple[Finding, ...]
    consequences: tuple[Finding, ...]


def as_text(report: Report, style: Style, *, verbose: bool = False) -> str:
    """Return *report*, cleaned before, as lines for a terminal of the given *style*."""
    lines: list[str] = [_heading(report, style), ""]
    groups = grouped(report.findings)
    for name, families, look in summaries.SECTIONS:
        lines += _section(report, groups, name, families, look(report.machine), style, verbose)
    lines += ["", *_verdict(report, style, "" if verbose else " (-v says why)"), ""]
    return style.finish("\n".join(lines))


def grouped(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """Put each root's consequences to it, and roots that differ in their subject together."""
    roots: list[tuple[Finding, list[Finding]]] = []
    for finding in findings:
        if finding.explained_by is None or not roots:
            roots.append((finding, []))
        else:
            roots[-1][1].append(finding)
    groups: list[Group] = []
    for root, consequences in roots:
        alike = groups[-1] if groups else None
        if alike and not consequences and not alike.consequences and _alike(alike.finding, root):
            groups[-1] = Group(
                finding=alike.finding, members=(*alike.members, root), consequences=()
            )
        else:
            groups.append(Group(finding=root, members=(root,), consequences=tuple(consequences)))
    return tuple(groups)


def _alike(one: Finding, other: Finding) -> bool:
    return (one.code, one.severity, one.why, one.fix, one.commands) == (
        other.code,
        other.severity,
        other.why,
        other.fix,
        other.commands,
    )


def _heading(report: Report, style: Style) -> str:
    name = report.machine.host.name
    version = report.machine.gpucheck
    by = f"gpucheck {version}" if version else "gpucheck"
    return style.bold(f"{by} on {name}" if isinstance(name, str) else by)


# ------------------------------------------------------------------------------------ sections


def _section(
    report: Report,
    groups: Sequence[Group],
    name: str,
    families: Sequence[str],
    what: str,
    style: Style,
    verbose: bool,
) -> Iterator[str]:
    mine = [finding for finding in report.findings if finding.code[:3] in families]
    unchecked = [one for one in report.not_checked if one.code[:3] in families]
    passed = [code for code in report.passed if code[:3] in families]
    is_judged = mine or unchecked or passed
    if not is_judged and not any(one.code[:3] in families for one in report.not_applicable):
        return
    here = [group for group in groups if group.finding.code[:3] in families]
    elsewhere = _roots_elsewhere(mine, families)
    text = f"{what} (see {', '.join(elsewhere)})" if elsewhere and not here else what
    sign = _sign(mine, unchecked, passed)
    if sign in ("good", "none") and (what.startswith("unknown") or what.endswith("shows none")):
        sign = "unknown"  # the rules that passed had nothing to look at
    label = f"{style.sign(sign)} {style.bold(name)}"
    label += " " * max(1, LABEL - cells(name) - 2)
    first = True
    for line in wrap(text, style.width - LABEL):
        yield (label if first else " " * LABEL) + line
        first = False
    if "GPU" in families and (rows := gpu_rows(report)):
        yield from gpu_table(rows, style)
        if verbose:
            yield from _processes(report, style)
    if "LNK" in families:
        pairs = pair_rows(report)
        if (verbose and len(pairs) > 1) or len({pair.topology for pair in pairs}) > 1:
            yield from pair_matrix(pairs, style)
    if "TRN" in families and report.machine.training is not None:
        from gpucheck.render import training

        for text in training.details(report.machine.training):
            yield from _block(text, style, "  ", "    ")
    for group in here:
        yield from _group(group, style, verbose)
    if verbose:
        yield from _quiet(unchecked, passed, style)


def _sign(mine: Sequence[Finding], unchecked: Sequence[Unchecked], passed: Sequence[str]) -> Sign:
    """A section is sound where somebody looked: not where most of its questions stayed open."""
    severities = {finding.severity for finding in mine}
    if Severity.ERROR in severities:
        return "error"
    if Severity.WARNING in severities:
        return "warning"
    if not severities and len({one.code for one in unchecked}) > len(passed):
        return "unknown"
    if passed or severities:
        return "good"
    return "unknown" if unchecked else "none"


def _roots_elsewhere(mine: Sequence[Finding], families: Sequence[str]) -> tuple[str, ...]:
    roots = (finding.explained_by for finding in mine if finding.explained_by)
    return tuple(dict.fromkeys(root for root in roots if root[:3] not in families))


def _processes(report: Report, style: Style) -> Iterator[str]:
    for row in gpu_rows(report):
        for process in row.processes or ():
            used = (
                ""
                if process.used_bytes is None
                else f", {process.used_bytes / summaries.GIB:.1f} GiB"
            )
            text = f"gpu {row.index}: {process.name or 'a process'} (pid {process.pid}{used})"
            yield from _block(text, style, "    ", "      ")


def _quiet(unchecked: Sequence[Unchecked], passed: Sequence[str], style: Style) -> Iterator[str]:
    for why, asked in by_reason(unchecked):
        for at, line in enumerate(wrap(f"{asked}: not checked: {why}", style.width - 4)):
            yield f"  {style.sign('unknown')} {line}" if at == 0 else f"    {line}"
    for at, line in enumerate(wrap(f"passed: {', '.join(passed)}", style.width - 4)):
        if passed:
            yield f"  {style.sign('good')} {line}" if at == 0 else f"    {line}"


def by_reason(unchecked: Sequence[Unchecked]) -> Iterator[tuple[str, str]]:
    """Yield each reason once, with the questions that it left open: "GPU010 (gpu 0, gpu 1)"."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for one in unchecked:
        subjects = reasons.setdefault(one.why, {}).setdefault(one.code, [])
        if one.subject:
            subjects.append(one.subject)
    for why, codes in reasons.items():
        texts = [
            f"{code} ({', '.join(subjects)})" if subjects else code
            for code, subjects in codes.items()
        ]
        yield why, ", ".join(texts)


# ------------------------------------------------------------------------------------ findings


def _group(group: Group, style: Style, verbose: bool) -> Iterator[str]:
    finding = group.finding
    subjects = [member.subject for member in group.members if member.subject]
    shown = subjects if verbose else subjects[:MOST_SUBJECTS]
    about = ", ".join(shown) + (", …" if len(shown) < len(subjects) else "")
    title = finding.title
    if about and about not in title:
        title += f" ({about})"
    yield from _titled(finding, title, style, "  ")
    members = group.members if verbose else group.members[:MOST_SUBJECTS]
    for member in members:
        yield from _labelled("saw", member.saw, style)
    if len(members) < len(group.members):
        more = f"and {len(group.members) - len(members)} more (-v shows them)"
        yield from _labelled("", more, style)
    if verbose or finding.severity is not Severity.INFO:
        yield from _labelled("why", finding.why, style)
    yield from _labelled("fix", finding.fix, style)
    yield from _commands(finding, style, "         ")
    shown_texts: set[tuple[str, str]] = set()  # of several GPUs the same may be said
    for consequence in group.consequences:
        text = f"{consequence.title}: {consequence.saw}" if consequence.saw else consequence.title
        if (consequence.code, text) in shown_texts:
            continue
        shown_texts.add((consequence.code, text))
        yield from _titled(consequence, text, style, "    └ ", quiet=True)


def _titled(
    finding: Finding, text: str, style: Style, indent: str, *, quiet: bool = False
) -> Iterator[str]:
    """Sign, code and text; what does not fit goes under the text."""
    start = cells(indent) + 2 + len(finding.code) + 2
    for at, line in enumerate(wrap(text, style.width - start)):
        shown = line if quiet else style.bold(line)
        if at == 0:
            yield f"{indent}{style.sign(_SIGNS[finding.severity])} {finding.code}  {shown}"
        else:
            yield " " * start + shown


def _labelled(label: str, text: str, style: Style) -> Iterator[str]:
    for at, line in enumerate(wrap(text, style.width - 9)):
        yield f"    {style.dim((label if at == 0 else '').ljust(5))}{line}"


def _commands(finding: Finding, style: Style, indent: str) -> Iterator[str]:
    """Each on a line of its own, never broken: they are there to be copied."""
    for command in finding.commands:
        yield f"{indent}{style.dim('$')} {command}"


def _block(text: str, style: Style, first: str, further: str) -> Iterator[str]:
    for at, line in enumerate(wrap(text, style.width - max(len(first), len(further)))):
        yield (first if at == 0 else further) + line


# ------------------------------------------------------------------------------------- verdict


def summary(report: Report, *, hint: str = "") -> str:
    """Say in a sentence or two, for a newcomer, how the machine is.

    *hint* says where to see what was not checked.
    """
    roots = report.roots
    errors = sum(1 for root in roots if root.severity is Severity.ERROR)
    warnings = sum(1 for root in roots if root.severity is Severity.WARNING)
    infos = sum(1 for root in roots if root.severity is Severity.INFO)
    more = sum(
        1
        for finding in report.findings
        if finding.explained_by is not None and finding.severity is not Severity.INFO
    )
    checks = len(report.passed)
    left = len({one.code for one in report.not_checked})
    if report.verdict == "broken":
        text = f"Broken: {roots[0].title}."
        counts = [_count(errors, "error")] if errors else []
        counts += [_count(more, "consequence")] if more else []
        counts += [_count(warnings, "warning")] if warnings else []
        if errors + more + warnings > 1:
            text += f" {_listed(counts)} in all."
    elif report.verdict == "degraded":
        text = f"Usable, with {_count(warnings, 'warning')}: nothing is broken, but see above."
    elif report.verdict == "incomplete":
        asked = _listed([f"{ESSENTIAL[one.code]} ({one.code})" for one in report.unanswered])
        text = f"Incomplete: nothing wrong was seen, but it is not known {asked}."
        text += f" {report.unanswered[0].why}."
    elif report.verdict == "rehearsal":
        text = "Rehearsal on the CPU: the program works, and no GPU was proven."
    elif checks or roots:
        text = f"Healthy: {_count(checks, 'check')} passed, and nothing is wrong."
    else:
        text = "Nothing wrong was seen, but nothing could be checked either."
    if infos:
        text += f" {_count(infos, 'note')} above for your information."
    if left:
        text += f" {_count(left, 'check')} could not be made{hint}."
    return text


def _verdict(report: Report, style: Style, hint: str) -> Iterator[str]:
    signs: dict[str, Sign] = {
        "broken": "error",
        "degraded": "warning",
        "healthy": "good",
        "incomplete": "unknown",
        "rehearsal": "none",
    }
    sign = signs[report.verdict]
    if not report.passed and not report.findings:
        sign = "unknown"
    for at, line in enumerate(wrap(summary(report, hint=hint), style.width - 2)):
        yield f"{style.sign(sign)} {style.bold(line)}" if at == 0 else f"  {style.bold(line)}"
    first = first_step(report)
    if first is None:
        return
    yield from _block(f"Do this first ({first.code}): {first.fix}", style, "  ", "  ")
    yield from _commands(first, style, "    ")
    yield from _block(f"gpucheck explain {first.code} says more.", style, "  ", "  ")


def first_step(report: Report) -> Finding | None:
    """Return the root to mend first; None where nothing has to be mended."""
    for root in report.roots:
        if root.severity is not Severity.INFO:
            return root
    return None


def _listed(parts: Sequence[str]) -> str:
    """ "1 error, 2 consequences and 3 warnings"."""
    return " and ".join((", ".join(parts[:-1]), parts[-1])) if len(parts) > 1 else parts[0]


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
