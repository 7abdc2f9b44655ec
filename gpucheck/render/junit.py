"""The report as JUnit XML: a suite for each section, a test case for each rule and subject.

An error is a failure; a warning and a note pass, and are in the output of their suite; what was
not checked is skipped.
"""

from collections import defaultdict

from gpucheck.families import SECTIONS, section_of
from gpucheck.render.junit_xml import Case, Suite, document
from gpucheck.report import Finding, Report, Unchecked
from gpucheck.rule import Severity


def as_junit(report: Report) -> str:
    """Return *report* as XML, with a newline at its end."""
    cases: dict[str, list[Case]] = defaultdict(list)
    for finding in report.findings:
        cases[section_of(finding.code)].append(_of_finding(finding))
    for one in report.not_checked:
        cases[section_of(one.code)].append(_of_unchecked(one))
    for code in report.passed:
        cases[section_of(code)].append(Case(classname=_class(code), name=code))
    return document(
        [Suite(name=f"gpucheck {name}", cases=cases[name]) for name in SECTIONS if name in cases],
        taken_at=report.machine.taken_at,
        seconds=report.machine.elapsed_ms.get("total", 0.0) / 1000,
    )


def _class(code: str) -> str:
    return f"gpucheck.{code[:3]}"


def _of_finding(finding: Finding) -> Case:
    name = f"{finding.code} {finding.title}" + (f" ({finding.subject})" if finding.subject else "")
    text = f"{finding.saw}\n{finding.why}\nFix: {finding.remedy.text}"
    if finding.severity is Severity.ERROR:
        return Case(
            classname=_class(finding.code),
            name=name,
            failure=finding.saw or finding.title,
            details=text,
            kind=finding.code,
        )
    said = f"{finding.severity.value} {name}: {text}"
    return Case(classname=_class(finding.code), name=name, said=said)


def _of_unchecked(one: Unchecked) -> Case:
    name = f"{one.code} ({one.subject})" if one.subject else one.code
    return Case(classname=_class(one.code), name=name, skipped=one.why or one.kind)
