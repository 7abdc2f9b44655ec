"""JUnit XML that both of its schemas take: that of Jenkins' xUnit plugin, and that of Ant.

Sources: jenkinsci/xunit-plugin, junit-10.xsd; windyroad/JUnit-Schema, JUnit.xsd. Ant wants in every
suite a package, a number, a time and a host, its properties before and its output behind the cases,
and in a case nothing but one outcome; Jenkins knows no `skipped` of all suites together. GitLab
wants each pair of class and name once. Characters that XML 1.0 has no place for are left out.
"""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NO_TIME = "1970-01-01T00:00:00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One question: it failed, was skipped, or passed; *said* is worth reading all the same."""

    classname: str
    name: str
    failure: str = ""  # in a line
    details: str = ""  # of the failure
    kind: str = ""  # of the failure
    skipped: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Cases under a name."""

    name: str
    cases: Sequence[Case]


def document(suites: Sequence[Suite], *, taken_at: str, seconds: float = 0.0) -> str:
    """Return the XML of *suites*, with a newline at its end; the first one took all the time."""
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>"]
    for number, suite in enumerate(suites):
        lines += _suite(suite, number, taken_at, 0.0 if number else seconds)
    return "\n".join((*lines, "</testsuites>")) + "\n"


def _suite(suite: Suite, number: int, taken_at: str, seconds: float) -> Iterator[str]:
    failures = sum(bool(case.failure) for case in suite.cases)
    skipped = sum(bool(case.skipped) for case in suite.cases)
    yield (
        f'<testsuite package="gpucheck" id="{number}" name="{_xml(suite.name)}" '
        f'timestamp="{_xml(taken_at[:19]) or _NO_TIME}" hostname="localhost" '
        f'tests="{len(suite.cases)}" failures="{failures}" errors="0" skipped="{skipped}" '
        f'time="{seconds:.3f}">'
    )
    yield "<properties/>"
    seen: dict[tuple[str, str], int] = {}
    for case in suite.cases:
        times = seen[case.classname, case.name] = seen.get((case.classname, case.name), 0) + 1
        yield _case(case, f"{case.name} ({times})" if times > 1 else case.name)
    said = "\n".join(case.said for case in suite.cases if case.said)
    yield f"<system-out>{_xml(said)}</system-out>"
    yield "<system-err/>"
    yield "</testsuite>"


def _case(case: Case, name: str) -> str:
    begin = f'<testcase classname="{_xml(case.classname)}" name="{_xml(name)}" time="0"'
    if case.failure:
        inner = (
            f'<failure message="{_xml(case.failure)}" type="{_xml(case.kind)}">'
            f"{_xml(case.details)}</failure>"
        )
    elif case.skipped:
        inner = f'<skipped message="{_xml(case.skipped)}"/>'
    else:
        return f"{begin}/>"
    return f"{begin}>{inner}</testcase>"


def _xml(text: str) -> str:
    return html.escape(_NO_XML.sub("", text), quote=True)
