"""The report as JUnit XML: a suite for each section, a test case for each rule and subject.

Jenkins and Ant disagree about attributes, so those of both are there; GitLab wants each pair of
class and name once. Characters that XML 1.0 has no place for are left out.
"""

import html
import re
from collections import defaultdict
from collections.abc import Iterator

from gpucheck.families import SECTIONS, section_of
from gpucheck.report import Finding, Report, Unchecked
from gpucheck.rule import Severity

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: Report) -> str:
    """Return *report* as XML, with a newline at its end."""
    suites: dict[str, list[tuple[str, str]]] = defaultdict(list)  # section → kind, test case
    for finding in report.findings:
        kind = "failure" if finding.severity is Severity.ERROR else "passed"
        suites[section_of(finding.code)].append((kind, _of_finding(finding)))
    for one in report.not_checked:
        suites[section_of(one.code)].append(("skipped", _of_unchecked(one)))
    for code in report.passed:
        suites[section_of(code)].append(("passed", f"{_begin(code, code)}/>"))
    return "\n".join(_lines(report, suites)) + "\n"


def _lines(report: Report, suites: dict[str, list[tuple[str, str]]]) -> Iterator[str]:
    order = [section for section in SECTIONS if section in suites]
    cases = [case for section in order for case in suites[section]]
    seconds = report.machine.elapsed_ms.get("total", 0.0) / 1000
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<testsuites name="gpucheck" {_counts(cases)} time="{seconds:.3f}">'
    for section in order:
        name = _xml(f"gpucheck {section}")
        taken = (
            f' timestamp="{_xml(report.machine.taken_at[:19])}"' if report.machine.taken_at else ""
        )
        yield f'<testsuite name="{name}" {_counts(suites[section])} time="0"{taken}>'
        yield from _distinct([case for _, case in suites[section]])
        yield "</testsuite>"
    yield "</testsuites>"


def _counts(cases: list[tuple[str, str]]) -> str:
    failures = sum(kind == "failure" for kind, _ in cases)
    skipped = sum(kind == "skipped" for kind, _ in cases)
    return f'tests="{len(cases)}" failures="{failures}" errors="0" skipped="{skipped}"'


def _distinct(cases: list[str]) -> Iterator[str]:
    """Number the names that come again."""
    seen: dict[str, int] = {}
    for case in cases:
        begin = case.partition('" time=')[0]
        seen[begin] = seen.get(begin, 0) + 1
        again = f"{begin} ({seen[begin]})" if seen[begin] > 1 else begin
        yield again + case.removeprefix(begin)


def _of_finding(finding: Finding) -> str:
    name = f"{finding.code} {finding.title}" + (f" ({finding.subject})" if finding.subject else "")
    text = _xml(f"{finding.saw}\n{finding.why}\nFix: {finding.remedy.text}")
    if finding.severity is Severity.ERROR:
        inner = f'<failure message="{_xml(finding.saw)}" type="{finding.code}">{text}</failure>'
    else:
        inner = f"<system-out>{text}</system-out>"
    return f"{_begin(finding.code, name)}>{inner}</testcase>"


def _of_unchecked(one: Unchecked) -> str:
    name = f"{one.code} ({one.subject})" if one.subject else one.code
    return f'{_begin(one.code, name)}><skipped message="{_xml(one.why)}"/></testcase>'


def _begin(code: str, name: str) -> str:
    return f'<testcase classname="gpucheck.{code[:3]}" name="{_xml(name)}" time="0"'


def _xml(text: str) -> str:
    return html.escape(_NO_XML.sub("", text), quote=True)
