"""Rules about whether a GPU answers: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import (
    BARE,
    assert_fires,
    assert_not_here,
    assert_quiet,
    assert_unknown,
    one,
    with_gpus,
    xid,
)
from gpucheck.rule import Remedy, Rule
from gpucheck.rules import gpu_state as rules
from gpucheck.snapshot import NOT_SUPPORTED, NvmlError, Unknown
from machines import gpu, is_applicable, machine, passes, symptoms

FIRES = [
    (rules.gpu_lost, {"state": "lost"}, "error", "NVML says GPU_IS_LOST"),
    (rules.gpu_hung, {"state": "hung", "error": "x did not answer"}, "error", "x did not answer"),
    (rules.gpu_hung, {"state": "crashed", "error": "SIGSEGV in x"}, "error", "SIGSEGV in x"),
    (rules.recovery_wanted, {"recovery_action": 1}, "error", "GPU reset"),
    (rules.recovery_wanted, {"recovery_action": 2}, "error", "reboot"),
    (rules.recovery_wanted, {"recovery_action": 4}, "error", "reset"),
    (rules.recovery_wanted, {"recovery_action": 6}, "error", "bus reset"),
    (rules.recovery_wanted, {"recovery_action": 3}, "warning", "peer-to-peer"),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_sick_gpu_is_found_and_the_other_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.recovery_wanted, {"recovery_action": 0}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


NOT_HERE = [
    (rules.recovery_wanted, {"recovery_action": NOT_SUPPORTED}),
]


@pytest.mark.parametrize(("rule", "changes"), NOT_HERE)
def test_a_feature_that_the_gpu_lacks_is_neither_a_pass_nor_a_fault(
    rule: Rule, changes: dict[str, Any]
):
    assert_not_here(rule, changes)


UNKNOWN = [
    (rules.recovery_wanted, {"recovery_action": 99}, "99 is not known"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


def test_a_gpu_that_fell_off_the_bus_and_is_gone_is_named_by_its_bus_id():
    snapshot = with_gpus(gpu(0), kernel_log={"xids": (xid(79),)})

    [symptom] = symptoms(rules.gpu_lost, snapshot)

    assert symptom.subject == "GPU at 0000:00:07.0"


def test_a_gpu_that_fell_off_the_bus_and_answers_again_is_not_lost():
    snapshot = with_gpus(gpu(0), gpu(1), kernel_log={"xids": (xid(79),)})

    assert passes(rules.gpu_lost, snapshot)


def test_a_lost_gpu_that_cannot_say_its_bus_id_is_told_of_once():
    snapshot = with_gpus(
        gpu(0),
        gpu(1, state="lost", bus_id=Unknown("lost")),
        host={"container": None},
        kernel_log={"xids": (xid(79),)},
    )

    assert [symptom.subject for symptom in symptoms(rules.gpu_lost, snapshot)] == ["gpu 1"]


def test_only_a_reset_is_advised_where_a_reset_helps():
    commands = [
        [
            step.text
            for step in symptoms(rules.recovery_wanted, one(recovery_action=action))[0].remedy.steps
        ]
        for action in range(1, 8)
    ]

    reset, reboot = ["nvidia-smi --gpu-reset -i 1"], ["reboot"]
    imex = ["systemctl restart nvidia-imex"]
    assert commands == [reset, reboot, [], reset, imex, reboot, reboot]


def test_a_lost_board_is_power_cycled_by_whoever_can_reach_it():
    def remedy(**host: Any) -> Remedy:
        lost = gpu(1, state="lost", **host.pop("gpu", {}))
        [symptom] = symptoms(rules.gpu_lost, with_gpus(gpu(0), lost, host={**BARE, **host}))
        return symptom.remedy

    assert "power cables" in remedy().text
    assert "whoever runs the host" in remedy(hypervisor="kvm").text
    assert "cables" not in remedy(hypervisor="kvm").text
    assert "cables" not in remedy(is_laptop=True).text
    assert remedy(container="docker").steps[0].on == "host"
    assert remedy(is_wsl=True).steps[0].on == "windows"
    assert remedy().steps[0].text == "poweroff"


def test_a_container_names_the_gpu_to_reset_as_the_host_does():
    snapshot = with_gpus(gpu(0, recovery_action=1), host={"container": "docker"})

    [step] = symptoms(rules.recovery_wanted, snapshot)[0].remedy.steps

    assert (step.text, step.on) == ("nvidia-smi --gpu-reset -i 0000:00:06.0", "host")


def test_a_crash_of_nvml_under_wsl_is_windows_drivers():
    snapshot = with_gpus(gpu(0, state="crashed", error="SIGSEGV"), host={"is_wsl": True})

    [symptom] = symptoms(rules.gpu_hung, snapshot)

    assert "driver in Windows" in symptom.remedy.text
    assert {step.on for step in symptom.remedy.steps} == {"windows"}


def test_the_expected_number_of_gpus_counts_only_those_that_work():
    lost = with_gpus(gpu(0), gpu(1, state="lost"), expected_gpus=2)

    [symptom] = symptoms(rules.count_unexpected, lost)

    assert symptom.saw == "1 working GPU; expected: 2"
    assert passes(rules.count_unexpected, machine(expected_gpus=2))
    assert not is_applicable(rules.count_unexpected, machine())


def test_where_nvml_failed_no_expected_gpu_is_there():
    broken = machine(
        nvml={
            "gpus": Unknown("NVML did not start"),
            "error": NvmlError(call="nvmlInitWithFlags", code=9),
        },
        expected_gpus=2,
    )

    [symptom] = symptoms(rules.count_unexpected, broken)

    assert symptom.saw == "0 working GPUs; expected: 2"
