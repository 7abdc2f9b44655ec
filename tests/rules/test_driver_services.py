from typing import Any

import pytest
from driver_machines import (
    UNREAD,
    card,
    cuda,
    found_in,
    only,
)

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules import driver_services as rules
from gpucheck.snapshot import (
    Fabric,
    FabricManager,
    Snapshot,
)
from machines import (
    DRIVER,
    commands,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)

# --------------------------------------------------------------------------------------- DRV010


def switched(manager: Any, **driver: Any) -> Snapshot:
    facts = {"cuda_init": cuda(802), **driver, "fabric_manager": manager}
    return machine(host={"nvswitches": 4}, driver=facts)


def test_a_fabric_manager_that_is_not_installed_is_an_error():
    assert "4 NVSwitch devices" in only(rules.fabric_manager, switched(None)).saw


def test_a_fabric_manager_that_does_not_run_is_an_error_and_explains_802():
    stopped = switched(FabricManager(is_running=False, version=DRIVER))

    assert found_in(stopped) == {"DRV010": None, "DRV009": "DRV010"}


def test_a_fabric_manager_of_another_version_is_an_error():
    symptom = only(
        rules.fabric_manager, switched(FabricManager(is_running=True, version="580.82.07"))
    )

    assert symptom.saw == "the fabric manager is 580.82.07, the driver 580.159.04"


def test_a_fabric_that_works_all_the_same_is_a_warning():
    works = switched(
        FabricManager(is_running=False, version=DRIVER), cuda_init=cuda(0, device_count=2)
    )

    assert only(rules.fabric_manager, works).severity is Severity.WARNING


def test_a_fabric_manager_that_runs_in_the_driver_s_version_is_fine():
    well = switched(FabricManager(is_running=True, version=DRIVER))

    assert passes(rules.fabric_manager, well)


def test_without_an_nvswitch_no_fabric_manager_is_needed():
    assert not is_applicable(rules.fabric_manager, machine(host={"nvswitches": 0}))


@pytest.mark.parametrize(
    "manager", [UNREAD, FabricManager(is_running=UNREAD), FabricManager(is_running=True)]
)
def test_a_fabric_manager_out_of_sight_is_not_checked(manager: Any):
    assert not_checked(rules.fabric_manager, switched(manager))
    assert not symptoms(rules.fabric_manager, switched(manager))


# --------------------------------------------------------------------------------------- DRV014


ASLEEP = (gpu(0, persistence=False), gpu(1))


def test_persistence_off_on_a_machine_without_a_display_is_information():
    off = machine(driver={"persistenced_running": False}, nvml={"gpus": ASLEEP})

    assert only(rules.persistence_off, off).saw.startswith("persistence is off on gpu 0")
    assert rules.persistence_off.severity is Severity.INFO


def test_the_daemon_keeps_gpus_awake():
    assert passes(
        rules.persistence_off,
        machine(driver={"persistenced_running": True}, nvml={"gpus": ASLEEP}),
    )


def test_a_display_keeps_a_gpu_awake():
    desktop = machine(
        driver={"persistenced_running": False},
        nvml={"gpus": (gpu(0, persistence=False, display_active=True),)},
    )

    assert not is_applicable(rules.persistence_off, desktop)


def test_persistence_on_without_the_daemon_is_fine():
    assert passes(rules.persistence_off, machine(driver={"persistenced_running": False}))


def test_a_daemon_out_of_sight_is_not_checked():
    hidden = machine(driver={"persistenced_running": UNREAD}, nvml={"gpus": ASLEEP})

    assert not_checked(rules.persistence_off, hidden)


# -------------------------------------------------------------------------- DRV010 without a switch


def board(**driver: Any) -> Snapshot:
    """Eight B200s whose fabric is in progress, on a board whose switches are not on the bus."""
    waiting = tuple(
        gpu(n, name="NVIDIA B200", compute_capability="10.0", fabric=Fabric(state=2))
        for n in range(8)
    )
    return machine(
        host={
            "hypervisor": None,
            "nvswitches": 0,
            "pci_gpus": tuple(card(f"0000:0{n}:00.0", "0x2901") for n in range(8)),
        },
        driver={
            "loaded_modules": ("ib_umad", "mlx5_ib", "nvidia", "nvidia_uvm"),
            "has_nvlsm": True,
            "fabric_manager": FabricManager(is_running=True, version=DRIVER),
            "cuda_init": cuda(802),
            **driver,
        },
        nvml={"count": 8, "gpus": waiting},
    )


def test_the_modules_that_reach_nvlink_5_switches_are_one_finding_for_all_gpus():
    broken = board(loaded_modules=("nvidia", "nvidia_uvm"))

    symptom = only(rules.fabric_manager, broken)

    assert symptom.saw == (
        "8 GPUs wait for the NVLink fabric, and the kernel modules ib_umad and mlx5_ib are not "
        "loaded"
    )
    assert commands(symptom)[0] == "modprobe -a ib_umad mlx5_ib"
    report = examine(broken, select=("DRV", "LNK006"))
    assert [f.code for f in report.roots] == ["DRV010"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"has_nvlsm": False}, "nvlsm is not installed"),
        ({"fabric_manager": None}, "no fabric manager is installed"),
        ({"fabric_manager": FabricManager(is_running=False)}, "does not run"),
    ],
)
def test_what_else_an_nvlink_5_board_needs_is_named(changes: dict[str, Any], word: str):
    assert word in only(rules.fabric_manager, board(**changes)).saw


def test_a_board_whose_services_run_is_only_waited_for():
    assert passes(rules.fabric_manager, board())


def test_a_superchip_s_switches_are_in_trays_of_their_own():
    superchip = machine(board(loaded_modules=("nvidia",)), host={"machine": "aarch64"})

    assert not is_applicable(rules.fabric_manager, superchip)


def test_in_a_container_the_fabric_manager_is_the_host_s():
    inside = machine(switched(None), host={"container": "docker"})

    assert not_checked(rules.fabric_manager, inside)
    assert not symptoms(rules.fabric_manager, inside)
