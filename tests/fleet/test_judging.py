"""Snapshots of many machines are streamed, judged each, and put together."""

import gzip
import json
from pathlib import Path

import msgspec
import pytest

from gpucheck.fleet.form import FleetFormat
from gpucheck.fleet.formats import render
from gpucheck.fleet.judging import judge_all
from gpucheck.fleet.reading import answers
from gpucheck.fleet.report import report_of
from gpucheck.fleet.rules import Fleet
from gpucheck.usage_error import UsageError
from machines import HEALTHY, gpu, machine

GOOD = msgspec.json.encode(HEALTHY)
LOST = msgspec.json.encode(machine(nvml={"gpus": (gpu(0), gpu(1, state="lost"))}))


def judged(*sources: Path, processes: int = 1) -> dict[str, str]:
    results = judge_all(answers(map(str, sources)), processes=processes)
    return {result.node: result.verdict for result in results}


def test_a_folder_is_a_node_for_each_file(tmp_path: Path):
    (tmp_path / "n1.json").write_bytes(GOOD)
    (tmp_path / "n2.json.gz").write_bytes(gzip.compress(LOST))
    (tmp_path / "n3.failed").write_text("late: 60 s\n")
    (tmp_path / "notes.txt").write_text("no snapshot")

    assert judged(tmp_path) == {"n1": "healthy", "n2": "broken", "n3": "unreadable"}


def test_a_node_that_answered_later_has_not_failed(tmp_path: Path):
    (tmp_path / "n1.json").write_bytes(GOOD)
    (tmp_path / "n1.failed").write_text("late: 60 s\n")

    assert judged(tmp_path) == {"n1": "healthy"}


def test_json_lines_may_name_their_nodes(tmp_path: Path):
    named = b'{"node":"gpu7","snapshot":' + GOOD + b"}\n"
    (tmp_path / "all.jsonl.gz").write_bytes(gzip.compress(named + GOOD + b"\n\n" + LOST))

    assert judged(tmp_path / "all.jsonl.gz") == {
        "gpu7": "healthy",
        "all.jsonl.gz:2": "healthy",
        "all.jsonl.gz:4": "broken",
    }


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", GOOD[:2000], b'{"schema":"gpucheck.snapshot/9"}']
)
def test_what_is_no_snapshot_is_a_row_with_the_reason(tmp_path: Path, content: bytes):
    (tmp_path / "bad.json").write_bytes(content)
    (tmp_path / "good.json").write_bytes(GOOD)

    results = tuple(judge_all(answers([str(tmp_path)]), processes=1))

    assert {r.node: r.verdict for r in results} == {"bad": "unreadable", "good": "healthy"}
    [finding] = [f for f in report_of(Fleet(results=results)).findings if f.code == "FLT003"]
    assert finding.nodes == "bad"
    assert finding.saw


def test_a_truncated_gzip_breaks_off_with_a_row(tmp_path: Path):
    whole = gzip.compress(GOOD + b"\n" + GOOD)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])

    assert "unreadable" in judged(tmp_path / "cut.jsonl.gz").values()


def test_a_source_that_is_not_there_is_a_wrong_call():
    with pytest.raises(UsageError, match="no such file or folder"):
        list(answers(["/nowhere"]))


def test_several_processes_judge_alike(tmp_path: Path):
    (tmp_path / "all.jsonl").write_bytes(b"\n".join([GOOD, LOST] * 40))

    assert judged(tmp_path / "all.jsonl", processes=2) == judged(tmp_path / "all.jsonl")


@pytest.fixture
def report(tmp_path: Path):
    for number in range(20):
        (tmp_path / f"gpu{number:02d}.json").write_bytes(LOST if number == 3 else GOOD)
    return report_of(Fleet(results=tuple(judge_all(answers([str(tmp_path)]), processes=1))))


def test_equal_findings_are_one_with_a_node_set(report):
    [lost] = [finding for finding in report.findings if finding.code == "GPU001"]

    assert (lost.nodes, lost.node_count, lost.is_fleet_wide) == ("gpu03", 1, False)
    assert report.verdict == "broken"
    assert report.verdicts == {"broken": 1, "healthy": 19}


def test_the_text_says_how_many_were_examined(report):
    text = render(report, FleetFormat.TEXT)

    assert text.startswith("20 of 20 nodes examined, 19 healthy, 1 broken\n")
    assert "GPU001" in text


def test_json_html_prometheus_and_junit_are_well_formed(report):
    from xml.etree import ElementTree as ET

    assert json.loads(render(report, FleetFormat.JSON))["schema"] == "gpucheck.fleet/1"
    page = render(report, FleetFormat.HTML)
    assert "http" not in page.replace("<!doctype html>", "")
    assert "<script" not in page
    suites = ET.fromstring(render(report, FleetFormat.JUNIT))
    errors = sum(f.severity == "error" for f in report.findings)
    assert sum(int(suite.get("failures", "")) for suite in suites) == errors
    for line in render(report, FleetFormat.PROMETHEUS).splitlines():
        assert line.startswith("# ") or float(line.rpartition(" ")[2]) >= 0
