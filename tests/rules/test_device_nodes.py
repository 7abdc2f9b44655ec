from typing import Any

import pytest
from driver_machines import (
    BLIND,
    NOT_LOADED,
    UNREAD,
    WSL,
    cuda,
    missing,
    node,
    nodes,
    only,
)

from gpucheck.rules import device_nodes as rules
from gpucheck.snapshot import (
    DeviceNode,
    Unknown,
)
from machines import (
    commands,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)

# --------------------------------------------------------------------------------------- DRV007


def test_a_missing_device_file_is_an_error():
    broken = machine(
        driver={"device_nodes": nodes(nvidiactl=missing("/dev/nvidiactl")), "cuda_init": cuda(100)},
        nvml=BLIND,
    )

    assert only(rules.device_missing, broken).saw == "/dev/nvidiactl does not exist"


def test_a_missing_uvm_file_says_whether_its_module_is_loaded():
    broken = machine(
        driver={
            "device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")),
            "loaded_modules": ("nvidia",),
            "cuda_init": cuda(999),
        }
    )

    symptom = only(rules.device_missing, broken)

    assert symptom.saw == "/dev/nvidia-uvm does not exist; the module nvidia_uvm is not loaded"
    assert commands(symptom) == ("nvidia-modprobe -c 0 -u",)


def test_a_gpu_s_missing_device_file_is_an_error_where_nvml_lacks_that_gpu():
    broken = machine(
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert only(rules.device_missing, broken).saw == "/dev/nvidia1 does not exist"


def test_device_files_that_the_first_use_made_after_we_looked_are_fine():
    fresh = machine(
        driver={
            "device_nodes": tuple(
                missing(f"/dev/{name}") for name in ("nvidiactl", "nvidia-uvm", "nvidia0")
            )
        }
    )

    assert passes(rules.device_missing, fresh)


@pytest.mark.parametrize("init", [None, Unknown("could not start")])
def test_a_missing_uvm_file_is_not_checked_where_cuda_was_not_asked(init: Any):
    quick = machine(
        driver={"device_nodes": nodes(nvidia_uvm=missing("/dev/nvidia-uvm")), "cuda_init": init}
    )

    assert not_checked(rules.device_missing, quick)
    assert not symptoms(rules.device_missing, quick)


def test_wsl_has_none_of_these_files():
    assert not is_applicable(rules.device_missing, WSL)


def test_gpus_that_a_container_was_not_given_are_not_missing():
    inside = machine(
        host={"container": "docker"},
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.device_missing, inside)


def test_a_container_without_any_device_file_is_told_how_to_start():
    inside = machine(
        host={"container": "docker"},
        driver={
            "device_nodes": (missing("/dev/nvidiactl"), missing("/dev/nvidia-uvm")),
            "cuda_init": cuda(100),
        },
        nvml=BLIND,
    )

    symptom = only(rules.device_missing, inside)

    assert commands(symptom) == ("docker run --gpus all IMAGE",)


def test_without_the_module_no_device_file_is_expected():
    assert not is_applicable(rules.device_missing, NOT_LOADED)


def test_the_device_file_of_each_gpu_is_asked_for_by_its_number():
    lacking = machine(
        driver={
            "device_nodes": (node("/dev/nvidiactl"), node("/dev/nvidia0"), missing("/dev/nvidia1")),
            "cuda_init": cuda(100),
        },
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert commands(only(rules.device_missing, lacking)) == ("nvidia-modprobe -c 1",)


# --------------------------------------------------------------------------------------- DRV008


def closed_to_us(path: str, group: str = "video", mode: str = "crw-rw----") -> DeviceNode:
    return node(path, mode=mode, group=group, can_open=False, error="Permission denied")


def test_a_device_file_of_a_group_that_the_user_is_not_in_is_an_error():
    broken = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidia0=closed_to_us("/dev/nvidia0")),
            "cuda_init": cuda(100),
        },
    )

    symptom = only(rules.device_forbidden, broken)

    assert symptom.saw == "/dev/nvidia0: Permission denied (crw-rw----, group video)"
    assert commands(symptom) == ('usermod -aG video "$USER"',)


@pytest.mark.parametrize(("group", "mode"), [("root", "crw-rw----"), ("video", "crw-------")])
def test_a_group_that_would_not_help_is_not_proposed(group: str, mode: str):
    broken = machine(
        host={"groups": ("users",)},
        driver={
            "device_nodes": nodes(nvidiactl=closed_to_us("/dev/nvidiactl", group, mode)),
            "cuda_init": cuda(100),
        },
    )

    assert "usermod" not in commands(only(rules.device_forbidden, broken))[0]


def test_a_device_file_whose_permissions_may_not_be_read_is_not_checked():
    doubt = machine(driver={"device_nodes": nodes(nvidia0=node("/dev/nvidia0", can_open=UNREAD))})

    assert not_checked(rules.device_forbidden, doubt)


def test_where_cuda_opened_every_gpu_permissions_do_not_matter():
    works = machine(driver={"device_nodes": nodes(nvidia0=closed_to_us("/dev/nvidia0"))})

    assert passes(rules.device_forbidden, works)
