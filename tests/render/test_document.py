"""The JSON report is one object of the published shape, whatever the machine."""

import json

import jsonschema
import msgspec
import pytest

from gpucheck.render import Format, Look, json_schema, render
from gpucheck.report import Report, examine
from gpucheck.rule import Answers, NotChecked, Remedy, Severity, Symptom, command, rule
from gpucheck.snapshot import NOT_SUPPORTED, Snapshot, Unknown
from machines import HEALTHY, gpu, machine

VALIDATOR = jsonschema.Draft202012Validator(json.loads(json_schema()))


@rule("DRV006", Severity.ERROR, "versions differ")
def differs(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield Symptom(saw="570 and 580", remedy=Remedy("Reboot.", (command("reboot", root=True),)))


@rule("GPU012", Severity.WARNING, "hot", caused_by=("DRV006",))
def hot(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield Symptom(saw="95 °C", remedy=Remedy("Cool it."), subject="gpu 1")


@rule("LNK002", Severity.WARNING, "slow link")
def idle(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield NotChecked(why="idle", subject="gpu 0")


@rule("ENV002", Severity.ERROR, "fine")
def fine(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield from ()


def document(report: Report) -> dict:
    found = json.loads(render(report, Format.JSON))
    VALIDATOR.validate(found)
    return found


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json.loads(json_schema()))


def test_a_report_has_exactly_these_members():
    found = document(examine(HEALTHY, rules=[differs, hot, idle, fine]))

    assert list(found) == [
        "schema",
        "gpucheck",
        "taken_at",
        "verdict",
        "exit_code",
        "host",
        "gpus",
        "pairs",
        "findings",
        "ignored",
        "not_checked",
        "passed",
        "elapsed_ms",
    ]
    assert found["schema"] == "gpucheck.report/1"
    assert (found["verdict"], found["exit_code"]) == ("broken", 1)
    assert found["findings"][0] == {
        "code": "DRV006",
        "severity": "error",
        "title": "versions differ",
        "subject": "",
        "gpus": [],
        "saw": "570 and 580",
        "why": "Why it matters.",
        "fix": "Reboot.",
        "commands": ["sudo reboot"],
        "alternatives": [],
        "verify": None,
        "explained_by": None,
    }
    assert found["findings"][1]["explained_by"] == "DRV006"
    assert found["not_checked"] == [
        {"code": "LNK002", "subject": "gpu 0", "why": "idle", "kind": "no answer"}
    ]
    assert found["passed"] == ["ENV002"]
    assert "total" in found["elapsed_ms"]


def test_a_gpu_is_a_row():
    [first, second] = document(examine(HEALTHY, rules=[hot]))["gpus"]

    assert (first["index"], first["name"], first["bus_id"]) == (0, "NVIDIA H200", "0000:00:06.0")
    assert (first["temperature_celsius"], first["temperature_limit_celsius"]) == (37, 89)
    assert (first["power_watts"], first["power_limit_watts"]) == (82.2, 700)
    assert (first["nvlinks_up"], first["nvlinks"]) == (18, 18)
    assert (first["verdict"], first["findings"]) == ("ok", [])
    assert (second["verdict"], second["findings"]) == ("degraded", ["GPU012"])


def test_a_pair_is_a_row():
    assert document(examine(HEALTHY, rules=[]))["pairs"] == [
        {
            "a": 0,
            "b": 1,
            "topology": "NV18",
            "p2p_read": "OK",
            "p2p_write": "OK",
            "p2p_nvlink": "OK",
            "unknown": {},
        }
    ]


def test_what_is_not_known_is_null_and_says_why():
    odd = machine(
        nvml={"gpus": (gpu(temperature_celsius=Unknown("no answer"), memory=NOT_SUPPORTED),)}
    )

    [row] = document(examine(odd, rules=[]))["gpus"]

    assert row["temperature_celsius"] is None
    assert row["memory_used_bytes"] is None
    assert row["unknown"] == {"temperature_celsius": "no answer"}


def test_the_limit_comes_from_what_is_left_to_it_where_there_is_no_threshold():
    odd = machine(nvml={"gpus": (gpu(thresholds=NOT_SUPPORTED),)})

    [row] = document(examine(odd, rules=[]))["gpus"]

    assert row["temperature_limit_celsius"] == 37 + 50 + 2  # it slows down 2 °C above


def test_the_host_says_what_runs_on_it():
    host = document(examine(HEALTHY, rules=[]))["host"]

    assert host["driver"] == "580.159.04"
    assert host["driver_cuda"] == "13.0"
    assert host["toolkit"] == "/usr/local/cuda-13.0"
    assert host["torch"] == "2.11.0+cu130"
    assert host["cudnn"] == "9.19.0"
    assert host["gpus"] == 2
    assert host["pci_gpus"] == ["0000:00:06.0", "0000:00:07.0"]


def test_a_machine_of_which_nothing_is_known_has_a_report():
    found = document(examine(Snapshot(), rules=[differs, idle]))

    assert found["gpus"] == []
    assert found["host"]["driver"] is None


def _variants() -> list:
    """The healthy machine with each fact in turn unknown, and each that may be, not there."""
    changed = []
    for section in HEALTHY.__struct_fields__:
        facts = getattr(HEALTHY, section)
        if not isinstance(facts, msgspec.Struct):
            continue
        for field in facts.__struct_fields__:
            changed += [(section, field, value) for value in (Unknown("x"), None, NOT_SUPPORTED)]
    for field in gpu().__struct_fields__:
        if field not in ("index", "state", "later_sample"):
            changed += [("gpu", field, value) for value in (Unknown("x"), None, NOT_SUPPORTED)]
    return changed


@pytest.mark.parametrize("form", list(Format))
def test_every_renderer_shows_a_machine_with_any_fact_missing(form: Format):
    for section, field, value in _variants():
        odd = (
            machine(nvml={"gpus": (gpu(0, **{field: value}), gpu(1))})
            if section == "gpu"
            else machine(**{section: {field: value}})
        )
        try:  # only facts that a snapshot may hold
            msgspec.convert(msgspec.to_builtins(odd), type=Snapshot)
        except msgspec.ValidationError:
            continue

        text = render(examine(odd, rules=[differs, hot, idle, fine]), form, Look(verbose=True))

        if form is Format.JSON:
            VALIDATOR.validate(json.loads(text))
