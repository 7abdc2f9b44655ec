"""What other systems read is read by their own readers, whatever the texts hold."""

import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from gpucheck.render.junit import as_junit
from gpucheck.render.oneline import LIMIT_BYTES, as_oneline
from gpucheck.render.page import as_html
from gpucheck.render.prometheus import as_prometheus
from gpucheck.render.sanitize import clean_report
from gpucheck.render.sarif import as_sarif
from gpucheck.report import Report, examine
from gpucheck.rule import Answers, NotChecked, Remedy, Rule, Severity, Symptom, command, rule
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, gpu, machine

HOSTILE = 'a "quote" <b> & \x1b[31mred\x1b[0m \x00 ]]> \ud800 line\nbreak \\ {x="y"} ' + "é" * 50


def finds(code: str, severity: Severity, *symptoms: Symptom) -> Rule:
    @rule(code, severity, "A title")
    def judge(machine: Snapshot) -> Answers:
        """Why it matters."""
        yield from symptoms

    return judge


def silent(code: str, why: str) -> Rule:
    @rule(code, Severity.WARNING, "A silent rule")
    def judge(machine: Snapshot) -> Answers:
        """Why."""
        yield NotChecked(why=why)

    return judge


def hostile() -> Report:
    text = Remedy(HOSTILE)
    return clean_report(
        examine(
            HEALTHY,
            rules=[
                finds("GPU001", Severity.ERROR, Symptom(saw=HOSTILE, remedy=text, gpus=(0, 1))),
                finds(
                    "GPU005", Severity.WARNING, Symptom(saw=HOSTILE, remedy=text, subject=HOSTILE)
                ),
                finds(
                    "ENV031",
                    Severity.INFO,
                    Symptom(saw="in ~/.bashrc:12", remedy=text, subject="~/.bashrc:12"),
                    Symptom(saw="in ~/.bashrc:14", remedy=text, subject="~/.bashrc:14"),
                ),
                silent("DRV017", HOSTILE),
                finds("HST001", Severity.ERROR),
            ],
        )
    )


LOST = examine(machine(nvml={"gpus": (gpu(0), gpu(1, state="lost"))}))
REPORTS = {
    "healthy": examine(HEALTHY),
    "lost": LOST,
    "hostile": hostile(),
    "nothing": examine(Snapshot()),
}


@pytest.fixture(params=REPORTS)
def report(request: pytest.FixtureRequest) -> Report:
    return REPORTS[request.param]


def test_one_line_is_one_line_of_eighty_bytes(report: Report):
    line = as_oneline(report)

    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert len(line.encode()) <= LIMIT_BYTES
    assert line.startswith(f"{report.verdict}: ")


def test_one_line_names_the_first_root_and_its_gpu():
    assert as_oneline(LOST).startswith("broken: GPU001 A GPU fell off the bus (GPU 1)")
    assert as_oneline(REPORTS["healthy"]).startswith("healthy: ")


def test_prometheus_reads_it(report: Report):
    parser = pytest.importorskip("prometheus_client.parser", reason="its own reader is not here")

    families = {f.name: f for f in parser.text_string_to_metric_families(as_prometheus(report))}

    verdicts = {s.labels["verdict"]: s.value for s in families["gpucheck_verdict"].samples}
    assert verdicts[report.verdict] == 1
    assert sum(verdicts.values()) == 1
    assert all(s.timestamp is None for f in families.values() for s in f.samples)


def test_prometheus_has_a_group_for_each_metric_and_a_series_for_each_severity(report: Report):
    lines = as_prometheus(report).splitlines()

    named = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(named) == len(set(named))
    for severity in ("error", "warning", "info"):
        assert any(f'gpucheck_findings{{severity="{severity}"}}' in line for line in lines)
    assert not [line for line in lines if line and not line.startswith(("#", "gpucheck_"))]


def test_junit_counts_what_it_holds(report: Report):
    suites = ET.fromstring(as_junit(report))

    cases = suites.findall("testsuite/testcase")
    for kind, inner in (
        ("tests", "testcase"),
        ("failures", ".//failure"),
        ("skipped", ".//skipped"),
    ):
        for suite in suites:
            assert int(suite.get(kind, "")) == len(suite.findall(inner)), kind
    names = [(case.get("classname"), case.get("name")) for case in cases]
    assert len(names) == len(set(names))
    errors = [f for f in report.findings if f.severity is Severity.ERROR]
    assert len(suites.findall(".//failure")) == len(errors)


def test_junitparser_reads_it(report: Report):
    junitparser = pytest.importorskip("junitparser", reason="its own reader is not here")

    read = junitparser.JUnitXml.fromstring(as_junit(report).encode())

    errors = sum(f.severity is Severity.ERROR for f in report.findings)
    assert sum(suite.failures for suite in read) == errors
    assert sum(1 for suite in read for case in suite if case.is_failure) == errors


def test_sarif_has_what_its_schema_asks_for(report: Report):
    """The properties that SARIF 2.1.0 requires of each object, and those that GitHub shows by."""
    log = json.loads(as_sarif(report))

    assert log["version"] == "2.1.0"
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len(run["results"]) == len(report.findings)
    for result in run["results"]:
        assert result["message"]["text"]
        assert result["level"] in ("error", "warning", "note")
        if "ruleIndex" in result:
            assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        [place] = result["locations"]
        assert place["physicalLocation"]["region"]["startLine"] >= 1
        assert re.fullmatch(r"[^\s]+", place["physicalLocation"]["artifactLocation"]["uri"])


def test_a_finding_of_a_start_up_file_has_its_line():
    results = json.loads(as_sarif(REPORTS["hostile"]))["runs"][0]["results"]

    places = [r["locations"][0]["physicalLocation"] for r in results if r["ruleId"] == "ENV031"]
    assert [place["region"]["startLine"] for place in places] == [12, 14]
    assert {place["artifactLocation"]["uri"] for place in places} == {"home/.bashrc"}


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "rect":
            return
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(report: Report):
    page = as_html(report)
    reader = _Page()
    reader.feed(page)

    assert reader.open == []
    assert reader.fetched == []
    assert "<script" not in page
    assert "<b> &" not in page
    for finding in report.findings:
        assert finding.code in page


def test_the_page_tells_each_machine_the_commands_that_work_on_it():
    remedy = Remedy(
        "Reboot", (command("reboot", root=True, on="host"),), verify=command("nvidia-smi -L")
    )
    broken = finds("DRV006", Severity.ERROR, Symptom(saw="x", remedy=remedy))

    def page(**host: object) -> str:
        return as_html(examine(machine(host=host), rules=[broken]))

    assert "<pre>sudo reboot</pre>" in page(is_root=False, has_sudo=True)
    contained = page(is_root=True, container="docker")
    assert "<p>on the host, as root:</p>\n<pre>reboot</pre>" in contained
    assert "<p>Check:</p><pre>nvidia-smi -L</pre>" in contained
