"""Rules about what keeps programs off a GPU: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import (
    assert_fires,
    assert_not_here,
    assert_quiet,
    assert_unknown,
    held,
    later,
    one,
    with_gpus,
)
from gpucheck.rule import Rule, Severity
from gpucheck.rules import gpu_access as rules
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    ConfidentialComputing,
    GpuProcess,
    Snapshot,
    Unknown,
    VgpuLicense,
)
from machines import gpu, is_applicable, machine, not_checked, passes, symptoms, with_variables

ZOMBIE = (GpuProcess(pid=7, name="python3", is_zombie=True),)

FIRES = [
    (rules.compute_mode, {"compute_mode": 2}, "error", "prohibited"),
    (rules.compute_mode, {"compute_mode": 3}, "warning", "exclusive process"),
    (rules.mig_unusable, {"mig_is_on": True, "mig_is_on_after_reset": True}, "error", "no compute"),
    (rules.mig_unusable, {"mig_is_on_after_reset": True}, "warning", "after the next reset"),
    (
        rules.memory_held,
        {"memory": held(500), "later_sample": later(memory=held(500))},
        "warning",
        "500 MiB are in use by no living process",
    ),
    (
        rules.memory_held,
        {"memory": held(20), "processes": ZOMBIE, "later_sample": later(processes=ZOMBIE)},
        "warning",
        "by a zombie: python3 (7)",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_sick_gpu_is_found_and_the_other_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (
        rules.mig_unusable,
        {"mig_is_on": True, "mig_is_on_after_reset": True, "mig_devices": ("MIG-1",)},
    ),
    (rules.memory_held, {"memory": held(63)}),
    (
        rules.memory_held,
        {"memory": held(9000), "processes": (GpuProcess(pid=7, name="python3"),)},
    ),
    # a process that had just ended: a second later nothing is left of it
    (rules.memory_held, {"memory": held(500), "later_sample": later()}),
    (rules.memory_held, {"memory": held(20), "processes": ZOMBIE, "later_sample": later()}),
    # programs that start and end all the time: each look meets another one
    (rules.memory_held, {"memory": held(500), "later_sample": later(memory=held(900))}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


NOT_HERE = [
    (rules.mig_unusable, {"mig_is_on": NOT_SUPPORTED}),
]


@pytest.mark.parametrize(("rule", "changes"), NOT_HERE)
def test_a_feature_that_the_gpu_lacks_is_neither_a_pass_nor_a_fault(
    rule: Rule, changes: dict[str, Any]
):
    assert_not_here(rule, changes)


UNKNOWN = [
    (rules.compute_mode, {"compute_mode": 9}, "not known"),
    (
        rules.memory_held,
        {"memory": held(500, reserved_bytes=NOT_SUPPORTED)},
        "its own share",
    ),
    (rules.memory_held, {"memory": held(500), "mig_is_on": True}, "MIG"),
    (rules.memory_held, {"memory": held(500)}, "a second look"),
    (
        rules.memory_held,
        {"memory": held(20), "processes": ZOMBIE, "later_sample": later(after_seconds=0.4)},
        "a second look",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


def test_memory_held_by_processes_outside_a_container_is_not_checked():
    snapshot = with_gpus(gpu(0, memory=held(9000)), host={"container": "docker"})

    assert not symptoms(rules.memory_held, snapshot)
    assert [n.subject for n in not_checked(rules.memory_held, snapshot)] == ["gpu 0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"numa_node": 1}, "NUMA node"),
        ({"name": "NVIDIA A40-48Q"}, "virtual GPU"),
        ({"name": "GRID T4-16Q"}, "virtual GPU"),
        ({"display_active": True}, "display"),
        ({"mig_is_on": True}, "MIG"),
    ],
)
def test_memory_that_somebody_else_may_hold_is_not_checked(changes, words):
    snapshot = with_gpus(gpu(0, memory=held(500), **changes), host={"container": None})

    assert not symptoms(rules.memory_held, snapshot)
    assert words in not_checked(rules.memory_held, snapshot)[0].why


def test_a_process_that_is_hidden_is_none_that_is_gone():
    hidden = GpuProcess(pid=7, name=Unknown("process 7 is hidden from this user"))

    assert passes(rules.memory_held, one(memory=held(9000), processes=(hidden,)))


# -------------------------------------------------------------------------------------------- MPS


def exclusive(**sections: Any) -> Snapshot:
    return with_gpus(gpu(0, compute_mode=3), gpu(1, compute_mode=3), **sections)


def test_exclusive_process_is_what_mps_wants():
    server = (GpuProcess(pid=9, name="nvidia-cuda-mps-server"),)
    shown = with_gpus(gpu(0, compute_mode=3, processes=server), gpu(1, compute_mode=3))

    assert passes(rules.compute_mode, exclusive(driver={"mps_is_running": True}))
    assert passes(rules.compute_mode, shown)
    assert passes(
        rules.compute_mode, with_variables(exclusive(), CUDA_MPS_PIPE_DIRECTORY="/tmp/mps")
    )
    assert len(symptoms(rules.compute_mode, exclusive())) == 2


def test_mps_lets_nobody_into_a_prohibited_gpu():
    closed = with_gpus(gpu(0, compute_mode=2), driver={"mps_is_running": True})

    assert symptoms(rules.compute_mode, closed)


def test_the_ways_out_of_an_empty_mig_are_alternatives_and_no_sequence():
    [symptom] = symptoms(rules.mig_unusable, one(mig_is_on=True, mig_is_on_after_reset=True))

    remedy = symptom.remedy
    assert remedy.steps == ()
    assert [[step.text for step in way.steps] for way in remedy.alternatives] == [
        ["nvidia-smi mig -i 1 -cgi 0 -C"],
        ["nvidia-smi -i 1 -mig 0"],
    ]


# ------------------------------------------------------------------ virtual and confidential GPUs


UNLICENSED = VgpuLicense(is_needed=True, product="NVIDIA RTX Virtual Workstation")
EXPIRED = ("nvidia-vgpu: Unlicensed Unrestricted state timer has expired",)


@pytest.mark.parametrize(
    ("said", "severity"),
    [
        (EXPIRED, Severity.ERROR),
        ((), Severity.ERROR),
        (("nvidia-vgpu: vGPU is in Unlicensed Unrestricted state",), Severity.WARNING),
    ],
)
def test_a_virtual_gpu_without_its_license_is_found(said: tuple[str, ...], severity: Severity):
    guest = with_gpus(
        gpu(0, name="NVIDIA A10-24Q", virtualization="vgpu", vgpu_license=UNLICENSED),
        kernel_log={"module_said": said},
    )

    [symptom] = symptoms(rules.vgpu_unlicensed, guest)

    assert (symptom.severity or rules.vgpu_unlicensed.severity) is severity
    assert "systemctl restart nvidia-gridd" in [step.text for step in symptom.remedy.steps]


def test_a_licensed_virtual_gpu_is_fine_and_one_that_is_passed_through_needs_none():
    licensed = VgpuLicense(is_needed=True, is_licensed=True)

    assert passes(
        rules.vgpu_unlicensed,
        with_gpus(gpu(0, virtualization="vgpu", vgpu_license=licensed)),
    )
    assert not is_applicable(rules.vgpu_unlicensed, with_gpus(gpu(0, vgpu_license=UNLICENSED)))


def test_confidential_gpus_that_are_not_set_ready_are_found():
    guest = machine(
        nvml={"confidential_computing": ConfidentialComputing(is_on=True, gpus_are_ready=False)}
    )

    [symptom] = symptoms(rules.confidential_not_ready, guest)

    assert symptom.gpus == (0, 1)
    assert [step.text for step in symptom.remedy.steps] == ["nvidia-smi conf-compute -srs 1"]


def test_confidential_gpus_that_are_ready_are_fine():
    ready = ConfidentialComputing(is_on=True, gpus_are_ready=True)

    assert passes(rules.confidential_not_ready, machine(nvml={"confidential_computing": ready}))
    assert not is_applicable(rules.confidential_not_ready, machine())
