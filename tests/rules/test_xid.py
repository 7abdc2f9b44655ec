"""Rules about Xid errors: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import BARE, with_gpus, xid
from gpucheck.knowledge.xid import table
from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import xid as rules
from gpucheck.rules.gpu_state import gpu_lost
from gpucheck.snapshot import NOT_SUPPORTED, RemappedRows, RetiredPages, Unknown, Xid
from machines import gpu, machine, not_checked, symptoms

XIDS = [
    (xid(79), Severity.WARNING, "GPU no longer answers on PCIe"),
    (xid(92), Severity.WARNING, "single-bit"),
    (xid(94), Severity.WARNING, "contained"),
    (xid(63), Severity.INFO, "remapping"),
    (xid(119), Severity.ERROR, "GSP"),
    (xid(48), Severity.ERROR, "once, 100 s after boot"),
    (xid(13, count=2), Severity.INFO, "2 times"),
    (xid(43), Severity.INFO, "program"),
    (xid(45), Severity.INFO, "channels of a process"),
    (xid(31), Severity.INFO, "MMU fault"),
    (xid(144), Severity.WARNING, ""),
    (xid(154, text="GPU recovery action changed from 0x0 (None) to 0x1"), Severity.INFO, "to 0x1"),
    (xid(999, text="something new"), Severity.WARNING, "something new"),
    (
        xid(13, count=5, units=("GPC 0, TPC 1, SM 0",), processes=("a", "b")),
        Severity.WARNING,
        "always on GPC 0, TPC 1, SM 0",
    ),
    (xid(13, count=5, units=("GPC 0", "GPC 1"), processes=("a", "b")), Severity.INFO, "5 times"),
    (xid(13, count=5, units=("GPC 0",), processes=("a",)), Severity.INFO, "5 times"),
    (xid(31, count=3, processes=("a", "b")), Severity.WARNING, "on this GPU alone"),
]

TO_RESET = "GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)"


@pytest.mark.parametrize(("entry", "severity", "words"), XIDS)
def test_an_xid_has_the_severity_of_its_table(entry: Xid, severity: Severity, words: str):
    [symptom] = symptoms(rules.xid_errors, machine(kernel_log={"xids": (entry,)}))

    assert symptom.subject == "gpu 1"
    assert symptom.severity is severity
    assert words in symptom.saw
    assert symptom.remedy.text


def test_a_gpu_that_only_the_log_knows_is_lost_but_for_a_container():
    bare = with_gpus(gpu(0), kernel_log={"xids": (xid(79), xid(119))}, host={"container": None})
    container = with_gpus(
        gpu(0), kernel_log={"xids": (xid(79), xid(119))}, host={"container": "docker"}
    )

    assert [s.severity for s in symptoms(rules.xid_errors, bare)] == [Severity.ERROR] * 2
    assert [s.severity for s in symptoms(rules.xid_errors, container)] == [Severity.INFO] * 2
    assert symptoms(gpu_lost, bare)
    assert not symptoms(gpu_lost, container)


@pytest.mark.parametrize(
    ("text", "now", "severity"),
    [
        (TO_RESET, Unknown("driver too old"), Severity.ERROR),
        (TO_RESET.replace("GPU Reset", "Node Reboot"), NOT_SUPPORTED, Severity.ERROR),
        (TO_RESET.replace("GPU Reset Required", "Drain P2P"), NOT_SUPPORTED, Severity.WARNING),
        (
            "GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)",
            NOT_SUPPORTED,
            Severity.INFO,
        ),
        (TO_RESET, 0, Severity.INFO),
    ],
)
def test_xid_154_counts_where_nvml_does_not_tell_the_recovery(text, now, severity):
    snapshot = with_gpus(
        gpu(0), gpu(1, recovery_action=now), kernel_log={"xids": (xid(154, text=text),)}
    )

    [symptom] = symptoms(rules.xid_errors, snapshot)

    assert symptom.severity is severity
    assert text in symptom.saw


def test_one_failing_row_of_memory_is_one_complaint():
    snapshot = with_gpus(
        gpu(0),
        gpu(
            1,
            uncorrected_ecc_volatile=1,
            remapped_rows=RemappedRows(
                correctable=0, uncorrectable=1, is_pending=True, has_failed=False
            ),
            recovery_action=4,
        ),
        kernel_log={"xids": (xid(48), xid(63), xid(94), xid(154, text=TO_RESET))},
    )

    report = examine(snapshot, select=["GPU"])

    roots = [(f.code, f.subject) for f in report.findings if f.explained_by is None]
    assert roots == [("GPU004", "gpu 1")]
    assert [f.code for f in report.findings].count("GPU020") == 4


def test_a_firmware_that_hangs_explains_nothing_of_another_gpu():
    snapshot = with_gpus(
        gpu(0, recovery_action=1), gpu(1), kernel_log={"xids": (xid(119), xid(79))}
    )

    report = examine(snapshot, select=["GPU003", "GPU020"])

    assert {f.explained_by for f in report.findings} == {None}


def test_an_mmu_fault_on_several_gpus_is_the_programs():
    logged = (
        xid(31, count=3, processes=("a", "b")),
        xid(31, bus_id="0000:00:06.0", count=3, processes=("a", "b")),
    )

    found = symptoms(rules.xid_errors, machine(kernel_log={"xids": logged}))

    assert {symptom.severity for symptom in found} == {Severity.INFO}


def test_a_log_that_may_not_be_read_is_not_checked():
    snapshot = machine(kernel_log={"xids": Unknown("permission denied")})

    assert [n.why for n in not_checked(rules.xid_errors, snapshot)] == ["permission denied"]


def test_a_lost_gpu_explains_what_else_is_wrong_with_it():
    snapshot = with_gpus(
        gpu(0),
        gpu(1, state="lost", recovery_action=2),
        kernel_log={"xids": (xid(79),)},
        expected_gpus=2,
    )

    report = examine(snapshot)

    found = [(f.code, f.explained_by) for f in report.findings if f.code[:3] in ("GPU", "LNK")]
    assert found[0] == ("GPU001", None)
    assert {code for code, root in found[1:] if root == "GPU001"} >= {"GPU003", "GPU020", "GPU022"}


# ------------------------------------------------------------------------- one case and its action


def steps(*entries: Xid, **changes: Any) -> list[list[str]]:
    found = symptoms(
        rules.xid_errors,
        with_gpus(gpu(0), gpu(1, **changes), kernel_log={"xids": entries}, host=BARE),
    )
    return [[step.text for step in symptom.remedy.steps] for symptom in found]


def advice(*entries: Xid, **changes: Any) -> str:
    """What is advised for the first of the entries."""
    found = symptoms(
        rules.xid_errors,
        with_gpus(gpu(0), gpu(1, **changes), kernel_log={"xids": entries}, host=BARE),
    )
    return found[0].remedy.text


RESET = ["nvidia-smi --gpu-reset -i 1"]
VOLTA = {
    "compute_capability": "7.0",
    "remapped_rows": NOT_SUPPORTED,
    "retired_pages": RetiredPages(single_bit=0, double_bit=1, is_pending=True),
}


def test_a_double_bit_error_is_advised_by_what_came_of_it():
    assert "if errors come again" in advice(xid(48))
    assert "complete the row remap" in advice(xid(48), xid(63))
    assert "a row remap failed" in advice(xid(48), xid(64))
    assert "a page retirement failed" in advice(xid(48), xid(64), **VOLTA)
    assert "SRAM" in advice(xid(48), xid(172))
    assert steps(xid(48)) == [RESET]


def test_a_remap_that_took_effect_asks_for_nothing():
    assert steps(xid(63)) == [[]]
    assert steps(xid(63), **VOLTA) == [RESET]
    assert "page retirement takes effect" in advice(xid(63), **VOLTA)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (13, []),
        (31, []),
        (46, RESET),
        (62, RESET),
        (79, ["poweroff"]),
        (94, RESET),
        (95, RESET),
        (119, RESET),
        (167, ["reboot"]),
        (74, ["nvidia-smi --gpu-reset"]),
    ],
)
def test_each_kind_of_xid_has_its_own_action(number: int, expected: list[str]):
    assert steps(xid(number)) == [expected]


@pytest.mark.parametrize("number", [row.number for row in table().xids])
def test_every_xid_of_the_table_has_an_imperative_without_shorthand(number: int):
    text = advice(xid(number))

    assert text[:1].isupper()
    assert not text.endswith(".")


def test_one_number_on_many_gpus_is_one_finding():
    entries = (xid(79), xid(119), xid(119, bus_id="0000:00:06.0", count=3, last_seconds=500.0))

    found = symptoms(rules.xid_errors, machine(kernel_log={"xids": entries}))

    assert [(one.subject, one.gpus) for one in found] == [("gpu 1", (1,)), ("gpus 0-1", (1, 0))]
    assert "4 times, from 100 s to 8 min after boot" in found[1].saw
    assert [step.text for step in found[1].remedy.steps] == [
        "nvidia-smi --gpu-reset -i 1",
        "nvidia-smi --gpu-reset -i 0",
    ]


def test_lines_of_one_moment_have_one_time():
    [symptom] = symptoms(rules.xid_errors, machine(kernel_log={"xids": (xid(43, count=9),)}))

    assert "9 times, 100 s after boot" in symptom.saw


def test_programs_are_named():
    [symptom] = symptoms(
        rules.xid_errors, machine(kernel_log={"xids": (xid(43, processes=("python3",)),)})
    )

    assert "programs: python3" in symptom.saw


# ----------------------------------------------------------------------------------------- NVLink 5


def rlw(kind: str, links: int, **changes: Any) -> Xid:
    return xid(
        145,
        count=links,
        text=f"RLW_RXPIPE {kind} XC0 i0 Link 17 (0x0409a0c2 0x00000000)",
        units=tuple(f"link {n}" for n in range(links)),
        **changes,
    )


def test_an_nvlink_5_error_says_how_bad_it_is_and_on_how_many_links():
    one_link = symptoms(rules.xid_errors, machine(kernel_log={"xids": (rlw("Nonfatal", 1),)}))
    fatal = symptoms(rules.xid_errors, machine(kernel_log={"xids": (rlw("Fatal", 1),)}))

    assert [symptom.severity for symptom in one_link] == [Severity.WARNING]
    assert [symptom.severity for symptom in fatal] == [Severity.ERROR]
    assert "Nonfatal" in one_link[0].saw


def test_an_nvlink_5_error_on_two_cards_that_took_programs_down_asks_for_a_reset_of_all():
    entries = (
        rlw("Nonfatal", 18),
        rlw("Nonfatal", 18, bus_id="0000:00:06.0"),
        xid(45, text="pid=9, name=python3, channel 3, caused by previous Xid 145"),
    )

    found = symptoms(rules.xid_errors, machine(kernel_log={"xids": entries}))

    worst = found[0]
    assert (worst.severity, worst.gpus) == (Severity.ERROR, (1,))
    assert "on 18 links" in worst.saw
    assert [step.text for step in worst.remedy.steps] == ["nvidia-smi --gpu-reset"]
    assert "reset all GPUs together or reboot" in found[1].remedy.text
