"""Rules about the NVSwitch fabric: what makes them speak, and what must not."""

from typing import Any

import pytest

from gpu_cases import BARE, assert_fires, assert_quiet, assert_unknown, with_gpus
from gpucheck.rule import Rule
from gpucheck.rules import fabric as rules
from gpucheck.snapshot import NOT_SUPPORTED, CudaInit, Fabric, Gpu, Snapshot
from machines import gpu, is_applicable, nvlink, symptoms

FIRES = [
    (rules.fabric_not_ready, {"fabric": Fabric(state=2)}, "error", "in progress"),
    (rules.fabric_not_ready, {"fabric": Fabric(state=3, status=15)}, "error", "NVML error 15"),
    (
        rules.fabric_not_ready,
        {"fabric": Fabric(state=3, health=0b010001)},
        "warning",
        "degraded bandwidth and an unhealthy route",
    ),
]


@pytest.mark.parametrize(("rule", "changes", "severity", "words"), FIRES)
def test_one_poor_link_is_found_and_the_other_gpu_is_not(
    rule: Rule, changes: dict[str, Any], severity: str, words: str
):
    assert_fires(rule, changes, severity, words)


QUIET = [
    (rules.fabric_not_ready, {"fabric": Fabric(state=0)}),
    (rules.fabric_not_ready, {"fabric": Fabric(state=3, health=0b101010)}),
    (rules.fabric_not_ready, {"fabric": NOT_SUPPORTED}),
]


@pytest.mark.parametrize(("rule", "changes"), QUIET)
def test_what_is_no_fault_is_not_reported(rule: Rule, changes: dict[str, Any]):
    assert_quiet(rule, changes)


UNKNOWN = [
    (rules.fabric_not_ready, {"fabric": Fabric(state=9)}, "9 is not known"),
]


@pytest.mark.parametrize(("rule", "changes", "words"), UNKNOWN)
def test_what_cannot_be_told_is_said_to_be_unchecked(
    rule: Rule, changes: dict[str, Any], words: str
):
    assert_unknown(rule, changes, words)


ALL_DOWN = tuple(nvlink(n, is_up=False) for n in range(18))


def board(name: str, capability: str, count: int = 8, **changes: Any) -> tuple[Gpu, ...]:
    """GPUs of an HGX board that wait for their fabric."""
    waiting = {"name": name, "compute_capability": capability, "fabric": Fabric(state=2)}
    return tuple(gpu(n, **{**waiting, **changes}) for n in range(count))


def test_eight_gpus_that_wait_for_missing_modules_are_one_finding():
    waiting = with_gpus(
        *board("NVIDIA B200", "10.0"),
        host={**BARE, "nvswitches": 0},
        driver={"loaded_modules": ("nvidia", "nvidia_uvm"), "has_nvlsm": True},
    )

    [symptom] = symptoms(rules.fabric_not_ready, waiting)

    assert symptom.gpus == tuple(range(8))
    assert "missing: module mlx5_ib, module ib_umad" in symptom.saw
    assert [step.text for step in symptom.remedy.steps] == [
        "apt install 'nvidia-fabricmanager-580=580.159.04-*'",
        "modprobe mlx5_ib",
        "modprobe ib_umad",
        "systemctl restart nvidia-fabricmanager",
    ]


def test_the_switches_of_a_rack_are_in_trays_of_their_own():
    rack = with_gpus(
        *board("NVIDIA GB200", "10.0")[:4], host={**BARE, "nvswitches": 0, "machine": "aarch64"}
    )

    [symptom] = symptoms(rules.fabric_not_ready, rack)

    assert symptom.saw.endswith("; its switches are in trays of their own")
    assert "nvidia-imex-ctl -N" in [step.text for step in symptom.remedy.steps]


def test_a_board_with_switches_on_the_bus_needs_its_fabric_manager():
    waiting = with_gpus(*board("NVIDIA H100 80GB HBM3", "9.0"), host={**BARE, "nvswitches": 4})

    [symptom] = symptoms(rules.fabric_not_ready, waiting)

    assert symptom.remedy.steps[0].text == "systemctl restart nvidia-fabricmanager"


@pytest.mark.parametrize("host", [{"hypervisor": "kvm"}, {"container": "docker"}], ids=str)
def test_gpus_of_somebody_elses_board_are_the_hosts_business(host: dict[str, Any]):
    waiting = with_gpus(
        *board("NVIDIA H100 80GB HBM3", "9.0", count=2), host={**BARE, "nvswitches": 0, **host}
    )

    [symptom] = symptoms(rules.fabric_not_ready, waiting)

    assert "provider" in symptom.remedy.text
    assert not symptom.remedy.steps


def alone(code: int) -> Snapshot:
    return with_gpus(
        gpu(0, nvlinks=ALL_DOWN, fabric=Fabric(state=1)),
        host={"hypervisor": "kvm", "nvswitches": 0},
        driver={"cuda_init": CudaInit(code=code)},
    )


def test_one_gpu_alone_in_its_virtual_machine_belongs_to_no_fabric_if_cuda_starts():
    assert not symptoms(rules.fabric_not_ready, alone(0))
    assert not is_applicable(rules.fabric_not_ready, alone(0))


def test_one_gpu_alone_that_cuda_waits_for_is_found():
    [symptom] = symptoms(rules.fabric_not_ready, alone(802))

    assert "provider" in symptom.remedy.text


@pytest.mark.parametrize(
    ("fabric", "words"),
    [
        (Fabric(state=3, health=1 << 6), "recovery from an access timeout"),
        (Fabric(state=3, health=5 << 8), "too few NVLinks"),
        (Fabric(state=3, health=0, health_summary=3), "limited capacity"),
    ],
)
def test_what_the_fabric_says_of_its_health_is_passed_on(fabric: Fabric, words: str):
    [symptom] = symptoms(rules.fabric_not_ready, with_gpus(gpu(0, fabric=fabric)))

    assert words in symptom.saw


@pytest.mark.parametrize("summary", [0, 1])
def test_a_healthy_summary_is_no_finding(summary: int):
    sound = with_gpus(gpu(0, fabric=Fabric(state=3, health=1 << 8, health_summary=summary)))

    assert not symptoms(rules.fabric_not_ready, sound)
