"""Rules about NVLinks: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import CRC, assert_fires, assert_quiet, assert_unknown, later, one, with_gpus
from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import nvlink as rules
from gpucheck.snapshot import NOT_SUPPORTED, SXid, Unknown
from machines import gpu, is_applicable, machine, nvlink, passes, symptoms


def links(down: tuple[int, ...] = (), **changes: Any) -> tuple[Any, ...]:
    return tuple(nvlink(n, **({"is_up": False, **changes} if n in down else {})) for n in range(18))


ALL_DOWN = links(down=tuple(range(18)))


FIRES = [
    (rules.nvlink_down, {"nvlinks": links(down=(3, 4))}, "error", "16 of 18 NVLinks are up"),
    (rules.nvlink_down, {"nvlinks": links()[:16]}, "error", "16 of 18"),
    (rules.nvlink_down, {"nvlinks": links(down=tuple(range(18)))}, "error", "none of its 18"),
    (
        rules.nvlink_errors,
        {"later_sample": later(nvlink_replay_errors=1)},
        "warning",
        "1 replay on",
    ),
    (
        rules.nvlink_errors,
        {"later_sample": later(nvlink_recovery_errors=2)},
        "warning",
        "2 recoveries",
    ),
    (
        rules.nvlink_errors,
        {"later_sample": later(nvlink_crc_errors=CRC + 101)},
        "warning",
        "101 CRC errors",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_poor_link_is_found_and_the_other_gpu_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.nvlink_down, {"nvlinks": ()}),
    (rules.nvlink_down, {"nvlinks": NOT_SUPPORTED}),
    (rules.nvlink_errors, {"later_sample": later()}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


UNKNOWN = [
    (rules.nvlink_errors, {}, "two readings"),
    (rules.nvlink_down, {"nvlinks": (nvlink(0, is_up=Unknown("no answer")),)}, "no answer"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


@pytest.mark.parametrize(
    ("first", "hypervisor", "severity"),
    [
        ({}, "kvm", Severity.ERROR),
        ({}, None, Severity.ERROR),
        ({"nvlinks": ALL_DOWN}, None, Severity.WARNING),
        ({"nvlinks": ALL_DOWN}, "kvm", Severity.INFO),
    ],
)
def test_a_gpu_without_its_wired_links_is_judged_by_its_neighbours(first, hypervisor, severity):
    snapshot = with_gpus(gpu(0, **first), gpu(1, nvlinks=ALL_DOWN), host={"hypervisor": hypervisor})

    symptom = symptoms(rules.nvlink_down, snapshot)[-1]

    assert (symptom.severity or Severity.ERROR) is severity


@pytest.mark.parametrize(
    "changes", [{"name": "NVIDIA A100 80GB PCIe"}, {"mig_is_on": True}], ids=str
)
def test_no_bridge_and_mig_leave_no_link_up(changes):
    [symptom] = symptoms(rules.nvlink_down, one(nvlinks=ALL_DOWN, **changes))

    assert symptom.severity is Severity.INFO


def test_one_gpu_alone_in_its_virtual_machine_has_no_links():
    alone = with_gpus(gpu(0, nvlinks=ALL_DOWN), host={"hypervisor": "kvm"})

    [symptom] = symptoms(rules.nvlink_down, alone)

    assert symptom.severity is Severity.INFO


def test_a_model_that_was_cut_down_has_the_links_of_its_table():
    down = tuple(nvlink(n, is_up=n < 8) for n in range(12))

    cut = with_gpus(gpu(0, name="NVIDIA A800-SXM4-80GB", nvlinks=down))

    assert passes(rules.nvlink_down, cut)


def test_half_of_a_v100_server_in_a_virtual_machine_lacks_the_links_to_the_other_half():
    four = tuple(nvlink(n, is_up=n < 4) for n in range(6))
    gpus = [gpu(n, name="Tesla V100-SXM2-16GB", nvlinks=four) for n in range(2)]

    virtual = symptoms(rules.nvlink_down, with_gpus(*gpus, host={"hypervisor": "xen"}))
    bare = symptoms(rules.nvlink_down, with_gpus(*gpus, host={"hypervisor": None}))

    assert [symptom.severity for symptom in virtual] == [Severity.INFO] * 2
    assert [symptom.severity for symptom in bare] == [None, None]


def test_a_link_that_is_down_counts_though_another_could_not_be_read():
    some = (*links(down=(3,))[:17], nvlink(17, is_up=Unknown("no answer")))

    [symptom] = symptoms(rules.nvlink_down, one(nvlinks=some))

    assert "16 of 18" in symptom.saw


def test_a_bridged_model_may_have_fewer_links_up_than_its_board_has():
    bridged = gpu(0, name="NVIDIA A100 80GB PCIe", nvlinks=tuple(nvlink(n) for n in range(8)))

    assert passes(rules.nvlink_down, with_gpus(bridged))


def test_a_lost_gpu_explains_the_dead_links_of_its_peers():
    peer = "0000:00:07.0"
    snapshot = with_gpus(
        gpu(0, nvlinks=links(down=(0, 1), remote_bus_id=peer)), gpu(1, state="lost", bus_id=peer)
    )

    report = examine(snapshot, select=["GPU001", "LNK004"])

    assert [(f.code, f.subject, f.explained_by) for f in report.findings] == [
        ("GPU001", "gpu 1", None),
        ("LNK004", "gpu 0", "GPU001"),
    ]


def test_a_lost_gpu_does_not_explain_dead_links_to_another():
    snapshot = with_gpus(
        gpu(0, nvlinks=links(down=(0, 1), remote_bus_id="0000:00:09.0")), gpu(1, state="lost")
    )

    report = examine(snapshot, select=["GPU001", "LNK004"])

    assert [f.explained_by for f in report.findings] == [None, None]


def test_a_bridge_is_reseated_and_a_wired_board_reset():
    bridged = one(name="NVIDIA RTX A6000", nvlinks=links(down=(0,))[:4])
    wired = one(nvlinks=links(down=(3,)))

    assert "bridge" in symptoms(rules.nvlink_down, bridged)[0].remedy.text
    assert symptoms(rules.nvlink_down, wired)[0].remedy.steps[0].text == "nvidia-smi --gpu-reset"


def test_a_total_far_beyond_healthy_links_is_noted_without_a_rate():
    many = (nvlink(0, crc_data_errors=90_000), *links()[1:])

    [symptom] = symptoms(rules.nvlink_errors, one(nvlinks=many))

    assert symptom.severity is Severity.INFO
    assert "90," in symptom.saw
    assert not symptoms(rules.nvlink_errors, one())


def test_a_link_that_is_down_takes_no_count_from_the_others():
    down = links(down=(3,), crc_flit_errors=Unknown("the link is down"))
    grown = one(nvlinks=down, later_sample=later(nvlink_replay_errors=7))

    assert symptoms(rules.nvlink_errors, grown)


# ---------------------------------------------------------------------------------------- switches


def sxid(number: int, *, is_fatal: bool, **changes: Any) -> SXid:
    text = f"{'Fatal' if is_fatal else 'Non-fatal'}, Link 30 LTSSM Fault Up"
    fields = {"bus_id": "0000:c3:00.0", "count": 1, "is_fatal": is_fatal, "text": text}
    return SXid(number=number, **{**fields, **changes})


def test_fatal_errors_of_a_switch_are_one_finding_and_ask_for_a_reset_of_all():
    logged = (sxid(20034, is_fatal=True), sxid(19084, is_fatal=True, count=3))

    [symptom] = symptoms(rules.switch_errors, machine(kernel_log={"sxids": logged}))

    assert symptom.severity is None
    assert symptom.subject == "NVSwitch at 0000:c3:00.0"
    assert "SXid 20034 and SXid 19084 (3 times)" in symptom.saw
    assert "nvidia-smi --gpu-reset" in [step.text for step in symptom.remedy.steps]


def test_non_fatal_errors_of_a_switch_are_only_noted():
    logged = (sxid(22013, is_fatal=False), sxid(12028, is_fatal=False))

    [symptom] = symptoms(rules.switch_errors, machine(kernel_log={"sxids": logged}))

    assert symptom.severity is Severity.INFO


def test_a_machine_without_switches_raises_no_question_about_them():
    assert not is_applicable(rules.switch_errors, machine())
    assert passes(rules.switch_errors, machine(host={"nvswitches": 4}))
