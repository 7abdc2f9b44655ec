import errno
import re
from typing import Any

from gpucheck.report import ESSENTIAL, examine
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Rule,
    Severity,
    Symptom,
    known,
    rule,
)
from gpucheck.rules import RULES
from gpucheck.snapshot import Snapshot, Training, unread


def finds(
    code: str, *subjects: str, severity: Severity = Severity.ERROR, caused_by: tuple[str, ...] = ()
) -> Rule:
    @rule(code, severity, f"title of {code}", caused_by=caused_by)
    def judge(machine: Snapshot) -> Answers:
        """Why it matters."""
        for subject in subjects or ("",):
            named = tuple(int(word) for word in re.findall(r"gpu (\d+)", subject))
            yield Symptom(
                saw=f"{code} {subject}", remedy=Remedy("mend it"), subject=subject, gpus=named
            )

    return judge


def test_a_consequence_stands_behind_its_root():
    report = examine(Snapshot(), rules=[finds("AAA001", caused_by=("BBB001",)), finds("BBB001")])

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("BBB001", None),
        ("AAA001", "BBB001"),
    ]


def test_a_chain_of_causes_folds_under_the_first():
    rules = [
        finds("AAA001", caused_by=("BBB001",)),
        finds("BBB001", caused_by=("CCC001",)),
        finds("CCC001"),
    ]

    report = examine(Snapshot(), rules=rules)

    assert [f.explained_by for f in report.findings] == [None, "CCC001", "CCC001"]


def test_two_rules_that_blame_each_other_both_stay_in_the_report():
    rules = [finds("AAA001", caused_by=("BBB001",)), finds("BBB001", caused_by=("AAA001",))]

    report = examine(Snapshot(), rules=rules)

    assert {f.code for f in report.findings} == {"AAA001", "BBB001"}
    assert report.roots


def test_the_most_severe_root_comes_first():
    rules = [
        finds("AAA001", severity=Severity.INFO),
        finds("BBB001", severity=Severity.WARNING),
        finds("CCC001"),
    ]

    report = examine(Snapshot(), rules=rules)

    assert [f.code for f in report.findings] == ["CCC001", "BBB001", "AAA001"]


def test_a_rule_that_raises_is_not_checked_and_the_others_go_on():
    @rule("AAA001", Severity.ERROR, "stumbles")
    def stumbles(machine: Snapshot) -> Answers:
        """Why."""
        yield from ()
        raise ZeroDivisionError

    report = examine(Snapshot(), rules=[stumbles, finds("BBB001")])

    assert [n.code for n in report.not_checked] == ["AAA001"]
    assert [f.code for f in report.findings] == ["BBB001"]


def test_not_checked_and_not_applicable_are_no_pass():
    @rule("AAA001", Severity.ERROR, "cannot tell")
    def cannot_tell(machine: Snapshot) -> Answers:
        """Why."""
        yield NotChecked(why="the log may not be read")

    @rule("BBB001", Severity.ERROR, "no such thing")
    def no_such_thing(machine: Snapshot) -> Answers:
        """Why."""
        yield NotApplicable()

    @rule("CCC001", Severity.ERROR, "fine")
    def fine(machine: Snapshot) -> Answers:
        """Why."""
        yield from ()

    assert examine(Snapshot(), rules=[cannot_tell, no_such_thing, fine]).passed == ("CCC001",)


def test_one_gpu_never_explains_another():
    rules = [finds("AAA001", "gpu 0", "gpu 3", caused_by=("BBB001",)), finds("BBB001", "gpu 3")]

    report = examine(Snapshot(), rules=rules)

    assert [(f.code, f.subject, f.explained_by) for f in report.findings] == [
        ("BBB001", "gpu 3", None),
        ("AAA001", "gpu 3", "BBB001"),
        ("AAA001", "gpu 0", None),
    ]


def test_a_fault_of_the_machine_explains_each_gpu():
    rules = [finds("AAA001", "gpu 0", "gpu 3", caused_by=("BBB001",)), finds("BBB001")]

    report = examine(Snapshot(), rules=rules)

    assert [f.explained_by for f in report.findings] == [None, "BBB001", "BBB001"]


def test_verdict_and_exit_status():
    warning = finds("AAA001", severity=Severity.WARNING)

    assert examine(Snapshot(), rules=[]).verdict == "healthy"
    assert examine(Snapshot(), rules=[finds("AAA001")]).verdict == "broken"
    assert examine(Snapshot(), rules=[finds("AAA001")]).exit_code == 1
    assert examine(Snapshot(), rules=[warning]).verdict == "degraded"
    assert examine(Snapshot(), rules=[warning]).exit_code == 0
    assert examine(Snapshot(), rules=[warning], strict=True).exit_code == 1


def silent(code: str, **kind: Any) -> Rule:
    @rule(code, Severity.ERROR, "not known")
    def judge(machine: Snapshot) -> Answers:
        """Why."""
        yield NotChecked(why="no answer in 30 s", **kind)

    return judge


def test_an_essential_question_without_an_answer_makes_the_verdict_incomplete():
    report = examine(Snapshot(), rules=[silent("DRV009"), finds("AAA001", severity=Severity.INFO)])

    assert report.verdict == "incomplete"
    assert report.exit_code == 1
    assert [one.code for one in report.unanswered] == ["DRV009"]


def test_an_error_outranks_a_question_without_an_answer_which_outranks_a_warning():
    warning = finds("AAA001", severity=Severity.WARNING)

    assert examine(Snapshot(), rules=[silent("DRV009"), finds("AAA001")]).verdict == "broken"
    assert examine(Snapshot(), rules=[silent("DRV009"), warning]).verdict == "incomplete"


def test_a_question_that_is_left_out_or_is_not_essential_leaves_the_machine_healthy():
    rules = [silent("DRV009", kind="by design"), silent("AAA001")]

    report = examine(Snapshot(), rules=rules)

    assert (report.verdict, report.exit_code) == ("healthy", 0)
    assert [one.kind for one in report.not_checked] == ["by design", "no answer"]


def test_every_essential_code_is_that_of_a_rule():
    assert set(ESSENTIAL) <= {each.code for each in RULES}


def test_a_machine_of_which_nothing_is_known_is_not_called_healthy():
    assert examine(Snapshot()).verdict == "incomplete"


def test_a_training_on_the_cpu_is_a_rehearsal_and_no_proof_of_health():
    rehearsed = Snapshot(training=Training(device="cpu"))

    report = examine(rehearsed, rules=[])

    assert (report.verdict, report.exit_code) == ("rehearsal", 0)
    assert examine(rehearsed, rules=[finds("AAA001")]).verdict == "broken"


def test_why_a_fact_is_not_known_goes_into_the_report():
    forbidden = unread("/dev/kmsg", PermissionError(errno.EACCES, "Permission denied"))

    @rule("AAA001", Severity.ERROR, "asks")
    def asks(machine: Snapshot) -> Answers:
        """Why."""
        yield from known(forbidden)

    [unchecked] = examine(Snapshot(), rules=[asks]).not_checked

    assert (unchecked.kind, unchecked.why) == ("no permission", "/dev/kmsg: Permission denied")


def test_select_and_ignore_take_codes_and_families():
    rules = [finds("AAA001"), finds("AAA002"), finds("BBB001")]

    def codes(**options: Any) -> list[str]:
        return [f.code for f in examine(Snapshot(), rules=rules, **options).findings]

    assert codes(select=["AAA"]) == ["AAA001", "AAA002"]
    assert codes(select=["BBB001"]) == ["BBB001"]
    assert codes(ignore=["AAA"]) == ["BBB001"]
    assert codes(select=["AAA"], ignore=["AAA001"]) == ["AAA002"]


def test_a_cause_of_several_gpus_explains_what_each_of_them_shows():
    both = finds("TOR005", "gpu 0, gpu 1")
    one = finds("DNN008", "gpu 1", caused_by=("TOR005",))
    other = finds("DNN003", "gpu 2", caused_by=("TOR005",))

    report = examine(Snapshot(), rules=[both, one, other])

    explained = {finding.code: finding.explained_by for finding in report.findings}
    assert explained == {"TOR005": None, "DNN008": "TOR005", "DNN003": None}


def test_a_condition_of_several_rules_is_asked_once():
    asked = []

    def condition(machine: Snapshot) -> NotApplicable:
        asked.append(machine)
        return NotApplicable(why="not here")

    def judges(code: str) -> Rule:
        @rule(code, Severity.ERROR, "finds", when=condition)
        def judge(machine: Snapshot) -> Answers:
            """Why."""
            yield Symptom(saw="x", remedy=Remedy("y"))

        return judge

    report = examine(Snapshot(), rules=[judges("AAA001"), judges("AAA002")])

    assert [one.code for one in report.not_applicable] == ["AAA001", "AAA002"]
    assert len(asked) == 1
