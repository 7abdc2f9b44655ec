"""Rules about GPUs that differ: what makes them speak, and what must not."""

import pytest

import machines
from gpu_cases import held, one, with_gpus
from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import gpu_fleet as rules
from gpucheck.rules.gpu_heat import too_hot
from gpucheck.rules.gpu_state import gpu_lost
from gpucheck.snapshot import Memory, Unknown
from machines import gpu, is_applicable, machine, not_checked, passes, symptoms


def test_different_models_are_noted_without_a_command_that_hides_any():
    snapshot = with_gpus(gpu(0), gpu(1), gpu(2, name="NVIDIA A100-SXM4-80GB"))

    [symptom] = symptoms(rules.gpus_differ, snapshot)

    assert rules.gpus_differ.severity is Severity.INFO
    assert symptom.severity is None
    assert symptom.saw == "NVIDIA H200: GPU 0-1, NVIDIA A100-SXM4-80GB: GPU 2"
    assert not symptom.remedy.steps


def test_a_display_card_next_to_compute_gpus_is_nothing():
    small = Memory(total_bytes=4 << 30, used_bytes=0, free_bytes=4 << 30)
    shown = gpu(2, name="NVIDIA T400 4GB", display_active=True)
    first = with_gpus(gpu(0, name="NVIDIA T400 4GB", memory=small), gpu(1))

    assert passes(rules.gpus_differ, with_gpus(gpu(0), gpu(1), shown))
    assert passes(rules.gpus_differ, first)


def test_memory_that_differs_by_the_drivers_share_is_equal():
    almost = held(0, total_bytes=(141 << 30) - (600 << 20))
    half = held(0, total_bytes=70 << 30)

    assert passes(rules.gpus_differ, one(memory=almost))
    assert [s.subject for s in symptoms(rules.gpus_differ, one(memory=half))] == ["memory"]


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("vbios_version", "VBIOS"),
        ("inforom_version", "InfoROM"),
        ("gsp_firmware_version", "GSP firmware"),
    ],
)
def test_different_firmware_of_one_model_is_a_warning(field: str, what: str):
    [symptom] = symptoms(rules.firmware_differs, one(**{field: "1.2.3"}))

    assert symptom.subject == what
    assert "GPU 1 1.2.3" in symptom.saw


def test_different_firmware_of_different_models_is_none():
    snapshot = one(name="NVIDIA A100-SXM4-80GB", vbios_version="1.2.3")

    assert passes(rules.firmware_differs, snapshot)


def test_different_power_limits_of_one_model_fold_under_the_lowered_one():
    report = examine(one(power_limit_enforced_watts=300.0))

    assert [(f.code, f.explained_by) for f in report.findings if f.code[:3] == "GPU"] == [
        ("GPU014", None),
        ("GPU021", "GPU014"),
    ]


def test_a_machine_without_a_gpu_raises_no_question():
    bare = machine(host={"pci_gpus": ()}, nvml={"gpus": Unknown("NVML is not here")})

    for rule in (gpu_lost, too_hot, rules.firmware_differs, rules.gpus_differ):
        assert not symptoms(rule, bare)
        assert not not_checked(rule, bare)
        assert not is_applicable(rule, bare)


def test_the_healthy_h200_is_healthy():
    codes = {f.code for f in examine(machines.HEALTHY, select=["GPU", "LNK"]).findings}

    assert not codes
