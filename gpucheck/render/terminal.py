"""The report for people at a terminal: section by section, and at its end what to fix first."""

import re
from collections.abc import Iterator, Sequence

import msgspec

from gpucheck.families import SECTIONS, SITE, prefixes_of, section_of
from gpucheck.render import summaries
from gpucheck.render.groups import Group, first_step, grouped
from gpucheck.render.remedy import Adviser, Block, Way
from gpucheck.render.rows import gpu_rows, pair_rows
from gpucheck.render.sanitize import clean
from gpucheck.render.style import Sign, Style, cells, fit, wrap
from gpucheck.render.table import gpu_table, pair_matrix
from gpucheck.report import ESSENTIAL, OTHER_QUESTION, Finding, Report, Unchecked
from gpucheck.rule import Remedy, Severity
from gpucheck.snapshot import value
from gpucheck.wording import count, listed, ranges

MOST_SUBJECTS = 3  # of one finding on many subjects; the rest is counted, and shown with -v
MOST_SAW_LINES = 3
MOST_CONSEQUENCES = 6
MOST_NAME = 32  # columns of a file's name where several are judged
MOST_REASONS = 3  # for which questions got no answer
MOST_CODES = 4  # of questions with one reason
LABEL = 15  # columns of a section's sign and name

_SIGNS: dict[Severity, Sign] = {
    Severity.ERROR: "error",
    Severity.WARNING: "warning",
    Severity.INFO: "info",
}
_VERDICT_SIGNS: dict[str, Sign] = {
    "broken": "error",
    "degraded": "warning",
    "healthy": "good",
    "incomplete": "unknown",
    "rehearsal": "none",
}
#: How the reasons of an NVML that does not answer begin: they are one reason.
_PLACE_OF_NVML = re.compile(r"^(?:nvml\w+|NVML(?: does not load)?): ")
#: How a section's line begins where what it is about is not on this machine.
_NONE_HERE = ("no ", "none", "one GPU")


def as_text(report: Report, style: Style, *, verbose: bool = False, quiet: bool = False) -> str:
    """Return *report*, cleaned before, as lines for a terminal of the given *style*.

    *quiet* leaves only what is wrong; nothing where nothing is.
    """
    page = _Page(report, style, verbose=verbose)
    lines = list(page.what_is_wrong() if quiet else page.everything())
    return style.finish("".join(f"{line}\n" for line in lines))


def as_line(report: Report, name: str, style: Style) -> str:
    """Return *report*, cleaned before, in one line: its verdict, *name*, and what to fix first."""
    first = first_step(report.findings)
    what = summary(report) if first is None else f"{first.code} {first.title}"
    sign = style.sign(_VERDICT_SIGNS[report.verdict])
    name = clean(name)
    if cells(name) > MOST_NAME:
        name = f"…{name[1 - MOST_NAME :]}"
    text = f"{report.verdict:<10}  {name}  {what}"
    room = style.width - 2
    return style.finish(f"{sign} {text if cells(text) <= room else fit(text, room).rstrip()}\n")


class _Page:
    """One report in one style."""

    def __init__(self, report: Report, style: Style, *, verbose: bool) -> None:
        self._report = report
        self._style = style
        self._verbose = verbose
        self._groups = grouped(report.findings)
        self._adviser = Adviser(report.machine, style.program)

    def everything(self) -> Iterator[str]:
        """Yield the whole report."""
        yield self._heading()
        yield ""
        for name in SECTIONS:
            yield from self._section(name)
        yield ""
        yield from self._without_answer()
        yield from self._verdict()

    def what_is_wrong(self) -> Iterator[str]:
        """Yield the errors, the warnings, and the essential questions without an answer."""
        for group in self._groups:
            if group.finding.severity is not Severity.INFO:
                yield from self._group(group)
        if self._report.unanswered:
            yield from self._without_answer(self._report.unanswered)

    def _heading(self) -> str:
        machine = self._report.machine
        name = machine.host.name
        text = f"gpucheck {machine.gpucheck}".strip()
        if isinstance(name, str):
            text += f" on {name}"
        taken = machine.taken_at.replace("T", " ").replace("+00:00", " UTC")
        return self._style.bold(text) + (self._style.dim(f", {taken}") if taken else "")

    # -------------------------------------------------------------------------------- sections

    def _section(self, name: str) -> Iterator[str]:
        report, style, prefixes = self._report, self._style, prefixes_of(name)
        mine = [finding for finding in report.findings if section_of(finding.code) == name]
        asked = [code for code in report.titles if section_of(code) == name]
        if not asked:
            return
        what = summaries.of_section(name, report.machine)
        own = [code for code in asked if code[:3] != SITE.prefix] if name == SITE.section else []
        if own:
            what = f"{count(len(own), 'rule')} of its own{', ' if what else ''}{what}"
        if not (what or mine):
            return
        unchecked = [one for one in report.not_checked if section_of(one.code) == name]
        passed = [code for code in report.passed if section_of(code) == name]
        here = [group for group in self._groups if section_of(group.finding.code) == name]
        elsewhere = _roots_elsewhere(mine, name)
        text = f"{what} (see {', '.join(elsewhere)})" if elsewhere and not here else what
        sign = _sign(what, mine, unchecked, passed)
        if "GPU" in prefixes and sign == "good":
            sign = _worst_of_rows(report)
        label = f"{style.sign(sign)} {style.bold(name)}"
        label += " " * max(1, LABEL - cells(name) - 2)
        is_sound = sign in ("good", "none") and not self._verbose
        room = style.width - LABEL
        lines = [_shortened(text, room)] if is_sound else list(wrap(text, room))
        for at, line in enumerate(lines):
            yield (" " * LABEL if at else label) + line
        if "GPU" in prefixes:
            yield from self._gpus()
        if "LNK" in prefixes:
            yield from self._pairs(bool(mine))
        if "TRN" in prefixes and report.machine.training is not None:
            from gpucheck.render import training

            for text in training.details(report.machine.training):
                yield from _block(text, style, "  ", "    ")
        if "PRF" in prefixes and report.machine.bench is not None:
            from gpucheck.render import performance

            yield from (f"  {text}" for text in performance.details(report.machine.bench))
        if "BRN" in prefixes and report.machine.burn is not None:
            from gpucheck.render import burn

            for text in burn.details(report.machine.burn):
                yield from _block(text, style, "  ", "    ")
        for group in here:
            yield from self._group(group)
        if self._verbose:
            yield from self._quiet(unchecked, passed)

    def _gpus(self) -> Iterator[str]:
        rows = gpu_rows(self._report)
        if not rows:
            return
        yield from gpu_table(rows, self._style)
        for row in rows if self._verbose else ():
            for process in row.processes or ():
                used = process.used_bytes
                held = "" if used is None else f", {used / summaries.GIB:.1f} GiB"
                text = f"gpu {row.index}: {process.name or 'a process'} (pid {process.pid}{held})"
                yield from _block(text, self._style, "    ", "      ")

    def _pairs(self, has_findings: bool) -> Iterator[str]:
        pairs = pair_rows(self._report)
        differ = len({pair.topology for pair in pairs}) > 1
        if (self._verbose and len(pairs) > 1) or (has_findings and differ):
            yield from pair_matrix(pairs, self._style)

    def _quiet(self, unchecked: Sequence[Unchecked], passed: Sequence[str]) -> Iterator[str]:
        """What was not checked, and what was not found, each with its title."""
        style = self._style
        for one in _by_code(unchecked):
            title = self._report.titles.get(one.code, "")
            about = f" ({one.subject})" if one.subject else ""
            text = f"{title}{about}: not checked, {one.kind}: {one.why}"
            yield from _block(text, style, f"  {style.sign('unknown')} {one.code}  ", " " * 12)
        for code in passed:
            text = f"not found: {self._report.titles.get(code, '')}"
            yield from _block(text, style, f"  {style.sign('good')} {code}  ", " " * 12)

    # -------------------------------------------------------------------------------- findings

    def _group(self, group: Group) -> Iterator[str]:
        style, verbose, finding = self._style, self._verbose, group.finding
        title = finding.title
        if group.about and group.about not in title:
            title += f" ({self._subjects(group)})"
        if finding.severity is Severity.INFO and not verbose:
            yield self._note(finding, title)
            return
        yield from self._titled(finding, title, "  ")
        yield from self._seen(group)
        yield from self._labelled("why", finding.why)
        yield from self._remedy(group.remedy)
        texts = dict.fromkeys(_in_short(one) for one in group.consequences)
        shown = list(texts) if verbose else list(texts)[:MOST_CONSEQUENCES]
        by_text = {_in_short(one): one for one in reversed(group.consequences)}
        for text in shown:
            yield from self._titled(by_text[text], text, "    └ ", quiet=True)
        if len(shown) < len(texts):
            more = count(len(texts) - len(shown), "more consequence")
            yield f"    └ {style.dim(f'{more} (-v shows them)')}"

    def _subjects(self, group: Group) -> str:
        if self._verbose or len(group.about) <= self._style.width:
            return group.about
        subjects = [member.subject for member in group.members]
        return f"{', '.join(subjects[:MOST_SUBJECTS])} and {len(subjects) - MOST_SUBJECTS} more"

    def _note(self, finding: Finding, title: str) -> str:
        """A note is one line; -v shows all of it."""
        start = f"  {self._style.sign('info')} {finding.code}  "
        room = self._style.width - 4 - len(finding.code) - 2
        text = f"{title}: {finding.saw}" if finding.saw else title
        return start + (text if cells(text) <= room else fit(text, room).rstrip())

    def _seen(self, group: Group) -> Iterator[str]:
        texts = group.seen
        shown = texts if self._verbose else texts[:MOST_SUBJECTS]
        for text in shown:
            yield from self._labelled("saw", text, 0 if self._verbose else MOST_SAW_LINES)
        if len(shown) < len(texts):
            yield from self._labelled("", f"and {len(texts) - len(shown)} more (-v shows them)")

    def _titled(
        self, finding: Finding, text: str, indent: str, *, quiet: bool = False
    ) -> Iterator[str]:
        """Sign, code and text; what does not fit goes under the text."""
        style = self._style
        start = cells(indent) + 2 + len(finding.code) + 2
        for at, line in enumerate(wrap(text, style.width - start)):
            shown = line if quiet else style.bold(line)
            if at == 0:
                yield f"{indent}{style.sign(_SIGNS[finding.severity])} {finding.code}  {shown}"
            else:
                yield " " * start + shown

    def _labelled(self, label: str, text: str, most_lines: int = 0) -> Iterator[str]:
        lines = list(wrap(text, self._style.width - 9))
        if most_lines and len(lines) > most_lines:
            left = len(lines) - most_lines
            lines = [*lines[:most_lines], f"… ({count(left, 'more line')}: -v)"]
        for at, line in enumerate(lines):
            yield f"    {self._style.dim((label if at == 0 else '').ljust(5))}{line}"

    def _remedy(self, remedy: Remedy) -> Iterator[str]:
        label = "fix"
        for way in self._adviser.ways(remedy):
            text = f"{way.lead}: {way.text}".removesuffix(": ") if way.lead else way.text
            if way.lead and not way.text:
                text += ":"
            yield from self._labelled(label, text)
            label = ""
            yield from self._way(way)
        if remedy.verify is not None and self._verbose:
            yield f"         check: {' '.join(self._adviser.commands((remedy.verify,)))}"

    def _way(self, way: Way) -> Iterator[str]:
        for note in way.notes:
            yield from self._labelled("", f"({note})")
        for block in way.blocks:
            yield from self._commands(block)

    def _commands(self, block: Block) -> Iterator[str]:
        """Each on a line of its own, never broken, without a prompt: they are to be copied."""
        if block.heading:
            yield f"         {self._style.dim(f'{block.heading}:')}"
        for line in block.lines:
            for part in line.split("\n"):
                yield f"           {part}"

    # --------------------------------------------------------------------------------- verdict

    def _without_answer(self, asked: Sequence[Unchecked] | None = None) -> Iterator[str]:
        silent = [
            one
            for one in (self._report.not_checked if asked is None else asked)
            if one.kind == "no answer"
        ]
        silent = [
            msgspec.structs.replace(one, why=_PLACE_OF_NVML.sub("", one.why)) for one in silent
        ]
        reasons = list(by_reason(silent))
        shown = reasons if self._verbose else reasons[:MOST_REASONS]
        mark = f"{self._style.sign('unknown')} "
        for why, codes in shown:
            named = codes if self._verbose else _few(codes)
            yield from _block(f"No answer: {named}: {why}", self._style, mark, "  ")
        if len(shown) < len(reasons):
            yield f"  and {len(reasons) - len(shown)} more without an answer (-v shows them)"

    def _verdict(self) -> Iterator[str]:
        report, style = self._report, self._style
        sign = _VERDICT_SIGNS[report.verdict]
        if not report.passed and not report.findings:
            sign = "unknown"
        for at, line in enumerate(wrap(summary(report), style.width - 2)):
            yield f"{style.sign(sign)} {style.bold(line)}" if at == 0 else f"  {style.bold(line)}"
        if (first := first_step(report.findings)) is not None:
            yield from _block(f"Fix first: {first.code} {first.title}", style, "  ", "    ")
            yield f"  {style.dim(f'{style.program} explain {first.code} says more')}"
        if self._verbose:
            yield from self._ignored()
        if rest := left_out(report):
            hint = "" if self._verbose else " (-v shows them)"
            for line in wrap(f"{rest}{hint}", style.width - 2):
                yield f"  {style.dim(line)}"

    def _ignored(self) -> Iterator[str]:
        """What the ignore list leaves out, and why."""
        accepted = value(self._report.machine.ignore_list.accepted) or ()
        reasons = {entry.code: entry.reason for entry in accepted}
        for finding in self._report.ignored:
            reason = reasons.get(finding.code) or reasons.get(finding.code[:3], "")
            text = f"{finding.title}: ignored: {reason}"
            mark = f"{self._style.sign('none')} {finding.code}  "
            yield from _block(text, self._style, f"  {mark}", " " * 12)


def _sign(
    what: str, mine: Sequence[Finding], unchecked: Sequence[Unchecked], passed: Sequence[str]
) -> Sign:
    """The worst of a section; sound only where somebody looked, and not at nothing."""
    severities = {finding.severity for finding in mine}
    if Severity.ERROR in severities:
        return "error"
    if Severity.WARNING in severities:
        return "warning"
    if what.startswith(_NONE_HERE):
        return "none"
    open_questions = {one.code for one in unchecked if one.is_open}
    if len(open_questions) > len(passed) or what.startswith("unknown"):
        return "unknown"
    if what.endswith("shows none") and not severities:
        return "unknown"  # the rules that passed had nothing to look at
    return "good" if passed or severities else "none"


def _worst_of_rows(report: Report) -> Sign:
    """The table's own marks: a GPU may be out of use for what another section says."""
    verdicts = {row.verdict for row in gpu_rows(report)}
    if "drain" in verdicts:
        return "error"
    return "warning" if "degraded" in verdicts else "good"


def _roots_elsewhere(mine: Sequence[Finding], name: str) -> tuple[str, ...]:
    roots = (finding.explained_by for finding in mine if finding.explained_by)
    return tuple(dict.fromkeys(root for root in roots if section_of(root) != name))


def _shortened(text: str, room: int) -> str:
    """Return *text* on one line: its last parts are left out where it is too long."""
    while cells(text) > room:
        at = max(text.rfind(mark) for mark in (", ", "; ", " ("))
        if at <= 0:
            return fit(text, room)
        text = text[:at]
    return text


def _in_short(finding: Finding) -> str:
    named = finding.subject and finding.subject not in f"{finding.title} {finding.saw}"
    title = f"{finding.title} ({finding.subject})" if named else finding.title
    return f"{title}: {finding.saw}" if finding.saw else title


def _by_code(unchecked: Sequence[Unchecked]) -> Iterator[Unchecked]:
    """Yield one entry for each code and reason, with all its subjects."""
    subjects: dict[tuple[str, str, str], list[str]] = {}
    for one in unchecked:
        subjects.setdefault((one.code, one.why, one.kind), []).append(one.subject)
    for (code, why, kind), names in subjects.items():
        yield Unchecked(code=code, why=why, kind=kind, subject=_all_of(names))  # type: ignore[arg-type]


def by_reason(unchecked: Sequence[Unchecked]) -> Iterator[tuple[str, str]]:
    """Yield each reason once, with the questions that it left open: "GPU010 (GPUs 0-1)"."""
    reasons: dict[str, dict[str, list[str]]] = {}
    for one in unchecked:
        reasons.setdefault(one.why, {}).setdefault(one.code, []).append(one.subject)
    for why, codes in reasons.items():
        texts = [
            f"{code} ({_all_of(subjects)})" if any(subjects) else code
            for code, subjects in codes.items()
        ]
        yield why, ", ".join(texts)


def _few(codes: str) -> str:
    """Return the questions that one reason left open, or only how many and of which families."""
    names = re.findall(r"\b[A-Z]{3}[0-9]{3}\b", codes)
    if len(names) <= MOST_CODES:
        return codes
    families = listed(list(dict.fromkeys(name[:3] for name in names)))
    return f"{count(len(names), 'check')} of {families} (-v names them)"


def _all_of(subjects: Sequence[str]) -> str:
    """Return subjects as people list them: "GPUs 0-7", or one after the other."""
    named = list(dict.fromkeys(subject for subject in subjects if subject))
    numbers = [int(name[4:]) for name in named if name[:4] == "gpu " and name[4:].isdecimal()]
    if len(numbers) > 1 and len(numbers) == len(named):
        return f"GPUs {ranges(numbers)}"
    return ", ".join(named)


def _block(text: str, style: Style, first: str, further: str) -> Iterator[str]:
    for at, line in enumerate(wrap(text, style.width - cells(further))):
        yield (further if at else first) + line


def summary(report: Report) -> str:
    """Say in a sentence, for a newcomer, how the machine is."""
    roots = [group.finding for group in grouped(report.findings)]
    errors = sum(1 for root in roots if root.severity is Severity.ERROR)
    warnings = sum(1 for root in roots if root.severity is Severity.WARNING)
    notes = sum(1 for root in roots if root.severity is Severity.INFO)
    more = sum(
        1
        for finding in report.findings
        if finding.explained_by is not None and finding.severity is not Severity.INFO
    )
    named = ((errors, "error"), (more, "consequence"), (warnings, "warning"), (notes, "note"))
    counts = listed([count(number, thing) for number, thing in named if number])
    if report.verdict == "broken":
        return f"Broken: {counts}."
    if report.verdict == "incomplete":
        asked = [
            f"{ESSENTIAL.get(one.code, OTHER_QUESTION)} ({one.code})" for one in report.unanswered
        ]
        found = f" Found: {counts}." if counts else ""
        return f"Incomplete: there is no answer to {listed(asked)}.{found}"
    if report.verdict == "degraded":
        return f"Degraded: {counts}; nothing is broken."
    if report.verdict == "rehearsal":
        return "Rehearsal on the CPU: the program works, and no GPU was proven."
    if any(root.code == "DRV023" for root in roots):
        return "No GPU is this system's to use: all are reserved for virtual machines."
    if not (report.passed or roots):
        return "Nothing wrong was seen, but nothing could be checked either."
    also = f", {counts}" if counts else ""
    return f"Healthy: {count(len(report.passed), 'check')} passed{also}."


def left_out(report: Report) -> str:
    """Count what was not checked by design or for want of a right, and what is ignored."""
    parts = []
    for kind, words in (("by design", "by design"), ("no permission", "for want of permission")):
        if codes := {one.code for one in report.not_checked if one.kind == kind}:
            parts.append(f"{len(codes)} {words}")
    text = f"Not checked: {listed(parts)}." if parts else ""
    if report.ignored:
        codes_ignored = listed(sorted({finding.code for finding in report.ignored}))
        found = count(len(report.ignored), "finding")
        text += f" Ignored: {found} ({codes_ignored})."
    return text.strip()
