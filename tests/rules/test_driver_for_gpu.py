import pytest
from driver_machines import (
    BLIND,
    card,
    only,
)

from gpucheck.rules import driver_for_gpu as rules
from gpucheck.snapshot import (
    Snapshot,
)
from machines import (
    BUS_IDS,
    DRIVER,
    gpu,
    machine,
    not_checked,
    passes,
)


def unseen(device_id: str, version: str = DRIVER, kind: str = "open") -> Snapshot:
    return machine(
        host={"pci_gpus": (card(device_id=device_id),)},
        driver={"module_version": version, "module_kind": kind},
        nvml={"count": 0, "gpus": ()},
    )


def test_a_driver_older_than_the_gpu_is_an_error():
    symptom = only(rules.wrong_driver_for_gpu, unseen("0x2901", "550.54.14"))

    assert symptom.subject == BUS_IDS[1]
    assert symptom.saw.endswith("is Blackwell, which needs driver 570 or newer; this is 550.54.14")


def test_a_driver_that_dropped_the_gpu_is_an_error():
    symptom = only(rules.wrong_driver_for_gpu, unseen("0x1b06", "590.10.01", "closed"))

    assert "which drivers after 580 no longer drive" in symptom.saw


@pytest.mark.parametrize(
    ("device_id", "kind", "needed"),
    [("0x2b85", "closed", "open"), ("0x2342", "closed", "open"), ("0x1db6", "open", "closed")],
)
def test_the_wrong_kind_of_kernel_module_is_an_error(device_id: str, kind: str, needed: str):
    symptom = only(rules.wrong_driver_for_gpu, unseen(device_id, kind=kind))

    assert f"needs the {needed} kernel module; the {kind} one is loaded" in symptom.saw


def test_a_gpu_that_nvml_lists_is_driven_whatever_the_table_says():
    works = machine(
        host={"pci_gpus": (card(BUS_IDS[0], "0x2b85"), card())}, driver={"module_kind": "closed"}
    )

    assert passes(rules.wrong_driver_for_gpu, works)


def test_a_gpu_that_a_container_was_not_given_is_not_judged():
    inside = machine(
        host={"container": "docker", "pci_gpus": (card(BUS_IDS[0]), card(device_id="0x102d"))},
        nvml={"count": 1, "gpus": (gpu(0),)},
    )

    assert passes(rules.wrong_driver_for_gpu, inside)


def test_a_gpu_that_the_driver_suits_is_some_other_trouble_s():
    assert passes(rules.wrong_driver_for_gpu, unseen("0x2335"))


def test_a_gpu_that_no_table_knows_is_not_checked():
    [answer] = not_checked(rules.wrong_driver_for_gpu, unseen("0x9999"))

    assert answer.subject == BUS_IDS[1]


def test_without_nvml_s_list_nothing_is_checked():
    assert not_checked(rules.wrong_driver_for_gpu, machine(nvml=BLIND))
