"""What `gpucheck burn` found is judged: wrong results, changes of counters, heat, speed, deaths."""

from typing import Any

import pytest
from burn_facts import after, burn, burned, counted, fault, point, work
from msgspec.structs import replace

import machines
from gpucheck import burn_evidence as evidence
from gpucheck.report import Finding, examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import burn as rules
from gpucheck.snapshot import Burn, BurnGpu, BurnInterruption, Snapshot, Unknown, Xid
from machines import is_applicable, machine, not_checked, symptoms

EVERY_RULE = [each for each in vars(rules).values() if isinstance(each, Rule)]


def findings(snapshot: Snapshot) -> list[Finding]:
    return list(examine(snapshot, select=("BRN",)).findings)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_healthy_burn_gives_no_finding(rule: Rule):
    assert not symptoms(rule, after())


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_without_a_burn_the_question_does_not_arise(rule: Rule):
    assert not is_applicable(rule, machines.HEALTHY)


@pytest.mark.parametrize("rule", EVERY_RULE, ids=lambda rule: rule.code)
def test_a_burn_of_which_nothing_is_known_never_fails(rule: Rule):
    assert not symptoms(rule, machine(burn=Burn()))


def test_a_healthy_burn_is_healthy():
    assert examine(after(), select=("BRN",)).verdict == "healthy"


# -------------------------------------------------------------------------------------- faults


def test_a_wrong_product_says_all_that_is_known_of_it():
    [found] = findings(after(faults=(fault(), fault(seconds=5000.0))))

    assert (found.code, found.severity, found.gpus) == ("BRN001", Severity.ERROR, (1,))
    assert found.saw == (
        "2 of 211,798 bf16 products of 8192 × 8192 × 65536 wrong; 1 word in the first (row 5, "
        "column 77), bit 20; not repeatable (0 of 10); its inputs were intact; the same products "
        "were right on 3 other GPUs"
    )


def test_a_changed_factor_is_said_and_not_that_it_was_intact():
    changed = "1 numbers of the left factor had changed (first 13 instead of 12)"

    [found] = findings(after(faults=(fault(inputs=changed, repeated=10),)))

    assert f"repeated 10 of 10 times; {changed}; the same" in found.saw
    assert "intact" not in found.saw


def test_a_product_that_is_wrong_everywhere_names_all_and_calls_nobody_right():
    found = findings(after(faults=tuple(fault(index) for index in range(4))))

    assert {gpu for one in found for gpu in one.gpus} == {0, 1, 2, 3}
    assert not any("were right on" in one.saw for one in found)


@pytest.mark.parametrize(
    ("kind", "gpus", "subject"),
    [
        ("memory", (2,), "gpu 2"),
        ("h2d", (2,), "gpu 2"),
        ("peer", (3, 0), "gpu 3 → gpu 0"),
        ("all-reduce", (2,), "gpu 2"),
    ],
)
def test_bytes_that_changed_are_another_finding(kind: str, gpus: tuple[int, ...], subject: str):
    [found] = findings(after(faults=(fault(kind=kind, size="", gpus=gpus),)))

    assert (found.code, found.subject, set(found.gpus)) == ("BRN002", subject, set(gpus))
    assert found.saw.startswith(f"{evidence.NAMES[kind]}: 1 comparison failed; 1 word")


def test_an_alarm_that_did_not_ring_makes_the_burn_worthless():
    [found] = findings(after(alarms_found=899))

    assert (found.code, found.severity) == ("BRN011", Severity.ERROR)
    assert found.saw == "1 of 900 bits that were flipped on purpose were not found"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stopped": "stopped by SIGTERM", "elapsed_seconds": 600.0}, "after 10.0 of 300 minutes"),
        ({"stopped": Unknown("it did not end")}, "it did not end"),
        ({"proof": "the CPU's own product is wrong"}, "no proven reference"),
        ({"errors": ("gpu 1: memory: out of memory",)}, "out of memory"),
    ],
)
def test_a_burn_that_did_not_do_what_it_was_to_do_is_incomplete(changes: dict[str, Any], why: str):
    snapshot = after(**changes)

    assert examine(snapshot, select=("BRN",)).verdict == "incomplete"
    assert any(why in one.why for one in not_checked(rules.wrong_product, snapshot))


# ------------------------------------------------------------------------------------ counters


@pytest.mark.parametrize(
    ("gpu", "code", "severity"),
    [
        ({"counters": counted(uncorrected_ecc=1)}, "BRN003", Severity.ERROR),
        ({"counters": counted(remapped_rows=1)}, "BRN003", Severity.ERROR),
        ({"counters": counted(remaps_pending=1)}, "BRN003", Severity.ERROR),
        ({"counters": counted(corrected_ecc=101)}, "BRN004", Severity.WARNING),
        ({"counters": counted(corrected_ecc=11)}, "BRN004", Severity.WARNING),
        ({"counters": counted(thermal_slowdown_seconds=360.0)}, "BRN005", Severity.WARNING),
        ({"counters": counted(power_brake_seconds=1800.0)}, "BRN005", Severity.ERROR),
        ({"counters": counted(pcie_replays=3001)}, "BRN010", Severity.WARNING),
        ({"stopped": "crashed with SIGKILL (tensor)"}, "BRN008", Severity.ERROR),
        ({"work": (work(rate=620.0),)}, "BRN006", Severity.WARNING),
        ({"work": (work(last_rate=640.0),)}, "BRN007", Severity.WARNING),
    ],
)
def test_what_changed_during_the_burn_is_named(gpu: dict[str, Any], code: str, severity: Severity):
    [found] = findings(after(burned(2, **gpu)))

    assert (found.code, found.severity, found.gpus) == (code, severity, (2,))


def test_copies_between_gpus_that_hang_are_an_error_of_no_single_gpu():
    [found] = findings(after(stopped_between="no answer in 60 s (allreduce)"))

    assert (found.code, found.severity, found.gpus) == ("BRN008", Severity.ERROR, ())


@pytest.mark.parametrize(
    "gpu",
    [
        {"counters": counted(corrected_ecc=3)},
        {"counters": counted(thermal_slowdown_seconds=0.2)},
        {"counters": counted(pcie_replays=12)},
        {"counters": counted(nvlink_errors=40)},
        {"work": (work(rate=650.0),)},
        {"counters": Unknown("NVML showed nothing of this GPU")},
    ],
)
def test_what_healthy_gpus_show_is_quiet(gpu: dict[str, Any]):
    assert findings(after(burned(2, **gpu))) == []


def test_a_gpu_that_gets_slower_with_its_clock_is_no_fault_of_its_work():
    cooler = tuple(point(minute, clock_sm_mhz=1500.0 - minute / 2) for minute in range(1, 301, 5))

    assert not findings(after(burned(2, work=(work(last_rate=640.0),), points=cooler)))


def test_a_link_that_comes_back_narrower_is_an_error():
    points = (*(point(minute) for minute in range(10)), point(11, pcie_width=8))

    [found] = findings(after(burned(0, points=points)))

    assert (found.code, found.severity) == ("BRN010", Severity.ERROR)
    assert found.saw == "8 lanes at the end, 16 before"


def test_slowdowns_are_counted_by_samples_where_nvml_has_no_counter():
    points = tuple(
        point(minute, clocks_event_reasons=0x44 if minute < 10 else 4) for minute in range(100)
    )
    gpu = burned(1, points=points, counters=Unknown("this driver has none"))

    [found] = findings(after(gpu))

    assert (found.code, found.severity) == ("BRN005", Severity.ERROR)
    assert found.saw == "hardware thermal slowdown for 10% of the time"


def hot(index: int, celsius: float, watts: float, reasons: int) -> BurnGpu:
    each = {"temperature_celsius": celsius, "power_watts": watts, "clocks_event_reasons": reasons}
    return burned(index, points=tuple(point(minute, **each) for minute in range(1, 9)))


def test_a_gpu_that_is_hotter_and_slows_down_is_named():
    [found] = findings(after(hot(3, 84.0, 650.0, 0x20)))

    assert (found.code, found.gpus) == ("BRN009", (3,))
    assert found.saw == "84 °C at 650 W; the others 62 °C at 690 W"


@pytest.mark.parametrize("gpu", [hot(3, 84.0, 690.0, 4), hot(3, 75.0, 690.0, 0x20)])
def test_a_hot_place_in_the_chassis_is_none(gpu: BurnGpu):
    assert not findings(after(gpu))


def test_new_xids_are_judged_by_what_they_mean():
    logged = (
        Xid(
            bus_id=str(machines.gpu(1).bus_id),
            number=79,
            count=1,
            text="GPU has fallen off the bus.",
        ),
        Xid(bus_id=str(machines.gpu(2).bus_id), number=13, count=1, text="Graphics Exception"),
    )

    found = findings(after(new_xids=logged))

    assert [(one.code, one.severity, one.gpus) for one in found] == [
        ("BRN003", Severity.ERROR, (1,)),
        ("BRN003", Severity.WARNING, (2,)),
    ]


@pytest.mark.parametrize(
    ("is_reboot", "severity", "saw"),
    [
        (True, Severity.WARNING, "the machine restarted after 66.7 minutes, during pulse"),
        (False, Severity.INFO, "it was killed after 66.7 minutes, during pulse"),
    ],
)
def test_an_interruption_is_reported(is_reboot: bool, severity: Severity, saw: str):
    broken_off = BurnInterruption(seconds=4000.0, phase="pulse", is_reboot=is_reboot)

    [found] = findings(after(interruptions=(broken_off,)))

    assert (found.code, found.severity, found.saw) == ("BRN012", severity, saw)


# ----------------------------------------------------------------------------------- coverage


def test_the_coverage_is_what_the_gpu_did_that_did_least():
    made = burn(burned(0), burned(1, work=(work(seconds=1350.0), *burned(1).work[1:])))

    products, memory, copies = evidence.coverage(made)

    assert products == (
        "products on each GPU, every bit compared: 105,899 bf16 of 8192 × 8192 × 65536 and 15,654 "
        "fp32 of 8192 × 8192 × 65536"
    )
    assert memory == "140 GB of memory on each GPU: 1.25 PB written, read back and compared"
    assert copies == "copied and compared under load: 1.2 TB from host to device"


@pytest.mark.parametrize(("number", "text"), [(999, "999"), (1_030_000, "1.03 million")])
def test_counts_are_said_as_people_say_them(number: int, text: str):
    assert evidence.amount(number) == text


def test_permuting_gpus_permutes_findings():
    slow = burned(2, work=(work(rate=600.0),))

    for index in range(4):
        [found] = findings(after(replace(slow, index=index)))
        assert found.gpus == (index,)
