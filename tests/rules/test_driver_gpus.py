from typing import Any

import pytest
from driver_machines import (
    BLIND,
    UNREAD,
    card,
    found_in,
    missing,
    nodes,
    only,
)

from gpucheck.rule import Severity
from gpucheck.rules import driver_gpus as rules
from gpucheck.rules.driver_versions import wrong_driver_for_gpu
from gpucheck.snapshot import (
    Unknown,
    Xid,
)
from machines import (
    BUS_IDS,
    gpu,
    machine,
    not_checked,
    passes,
)

# --------------------------------------------------------------------------------------- DRV015


def test_a_gpu_on_the_bus_that_nvml_lacks_is_named_by_its_bus_id():
    symptom = only(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}))

    assert symptom.subject == BUS_IDS[1]
    assert "is not among the 1 GPU that NVML lists" in symptom.saw


@pytest.mark.parametrize(
    "changes",
    [
        {"host": {"pci_gpus": (card(BUS_IDS[0]), card(driver="vfio-pci"))}},
        {"driver": {"excluded_gpus": (BUS_IDS[1],)}},
        {"driver": {"excluded_gpus": ("GPU-11111111-0000-0000-0000-000000000000",)}},
    ],
)
def test_gpus_that_are_kept_away_on_purpose_are_not_missing(changes: dict[str, Any]):
    assert passes(rules.gpus_missing, machine(nvml={"count": 1, "gpus": (gpu(0),)}, **changes))


def test_as_many_gpus_as_on_the_bus_are_all_gpus_whatever_their_bus_ids():
    renamed = (gpu(0, bus_id="0001:00:00.0"), gpu(1, bus_id="0002:00:00.0"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": renamed}))
    assert passes(wrong_driver_for_gpu, machine(nvml={"gpus": renamed}))


def test_gpus_that_a_container_was_not_given_are_hidden_and_not_missing():
    inside = machine(
        host={"container": "docker"},
        driver={"device_nodes": nodes(nvidia1=missing("/dev/nvidia1"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.gpus_missing, inside)


def test_a_gpu_that_a_container_was_given_and_nvml_lacks_is_missing():
    inside = machine(host={"container": "docker"}, nvml={"count": 1, "gpus": (gpu(0),)})

    assert "/dev/nvidia0 and /dev/nvidia1" in only(rules.gpus_missing, inside).saw


def test_a_lost_gpu_that_nvml_still_counts_is_not_missing():
    lost = gpu(1, state="lost", bus_id=Unknown("GPU is lost"))

    assert passes(rules.gpus_missing, machine(nvml={"gpus": (gpu(0), lost)}))


def test_a_failed_adapter_explains_the_gpu_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[1],)}
    )

    assert found_in(broken) == {"DRV017": None, "DRV015": "DRV017"}


def test_another_gpu_s_failure_does_not_explain_the_one_that_is_missing():
    broken = machine(
        nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"adapter_failures": (BUS_IDS[0],)}
    )

    assert found_in(broken) == {"DRV015": None, "DRV017": None}


def test_a_gpu_that_fell_off_the_bus_is_the_cause_of_its_absence_and_no_other_s():
    off = Xid(bus_id=BUS_IDS[1], number=79, count=1)
    gone = machine(nvml={"count": 1, "gpus": (gpu(0),)}, kernel_log={"xids": (off,)})
    other = machine(nvml={"count": 1, "gpus": (gpu(1),)}, kernel_log={"xids": (off,)})

    assert "GPU001" in only(rules.gpus_missing, gone).explained_by
    assert "GPU001" not in only(rules.gpus_missing, other).explained_by


def test_without_nvml_the_count_is_not_checked():
    assert not_checked(rules.gpus_missing, machine(nvml=BLIND))


# --------------------------------------------------------------------------------------- DRV017


def test_an_adapter_that_failed_and_works_now_is_a_warning_that_says_so():
    symptom = only(rules.adapter_failed, machine(kernel_log={"adapter_failures": (BUS_IDS[0],)}))

    assert symptom.subject == BUS_IDS[0]
    assert symptom.saw.endswith("NVML sees that GPU now")
    assert symptom.severity is Severity.WARNING


def test_a_log_that_may_not_be_read_is_not_checked():
    assert not_checked(rules.adapter_failed, machine(kernel_log={"adapter_failures": UNREAD}))
