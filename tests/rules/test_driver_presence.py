from typing import Any

import pytest
from driver_machines import (
    NO_DRIVER,
    NO_GPU,
    UNREAD,
    card,
    found_in,
    library,
    only,
)

from gpucheck.rule import Severity
from gpucheck.rules import driver_presence as rules
from gpucheck.rules.driver_for_gpu import wrong_driver_for_gpu
from gpucheck.rules.driver_gpus import gpus_missing
from gpucheck.rules.kernel_module import not_loaded
from gpucheck.snapshot import (
    PciGpu,
    Snapshot,
    Unknown,
)
from machines import (
    BUS_IDS,
    DRIVER,
    HEALTHY,
    commands,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)
from seen_facts import seen

# --------------------------------------------------------------------------------------- DRV001


def test_no_gpu_on_the_bus_is_an_error():
    symptom = only(rules.no_gpu, NO_GPU)

    assert symptom.saw == (
        "no device on the PCI bus is an NVIDIA GPU: this virtual machine was given none by its host"
    )


def test_no_gpu_on_bare_metal_says_so():
    symptom = only(rules.no_gpu, machine(NO_GPU, host={"hypervisor": None}))

    assert symptom.saw == "no device on the PCI bus is an NVIDIA GPU"


def test_a_gpu_that_nvml_sees_is_a_gpu_whatever_the_bus_shows():
    assert passes(rules.no_gpu, machine(host={"pci_gpus": ()}))


def test_a_gpu_that_only_the_driver_lists_is_a_gpu():
    assert passes(rules.no_gpu, machine(NO_GPU, driver={"proc_gpus": BUS_IDS}))


@pytest.mark.parametrize("host", [{"is_wsl": True}, {"tegra": "NVIDIA Jetson AGX Orin"}])
def test_wsl_and_tegra_have_no_gpu_on_the_bus(host: dict[str, Any]):
    assert not is_applicable(rules.no_gpu, machine(NO_GPU, host=host))


def test_an_empty_bus_while_nvml_does_not_answer_is_not_checked():
    silent = machine(NO_GPU, nvml={"error": Unknown("no answer in 5 s")})

    assert not_checked(rules.no_gpu, silent)
    assert not symptoms(rules.no_gpu, silent)


# --------------------------------------------------------------------------------------- DRV002


def test_a_gpu_and_nothing_of_a_driver_is_an_error_with_the_distribution_s_commands():
    symptom = only(rules.no_driver, NO_DRIVER)

    assert "2 NVIDIA GPUs on the PCI bus (0000:00:06.0 and 0000:00:07.0)" in symptom.saw
    assert commands(symptom)[0] == "ubuntu-drivers install"


@pytest.mark.parametrize(
    "driver",
    [
        {"libraries": (library("/usr/lib/libcuda.so.1"),)},
        {"dkms_version": DRIVER},
        {"module_version": DRIVER},
    ],
)
def test_any_part_of_a_driver_is_a_driver(driver: dict[str, Any]):
    assert passes(rules.no_driver, machine(NO_DRIVER, driver=driver))


def test_a_stub_or_a_compatibility_library_is_no_driver():
    libraries = (
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", is_stub=True),
        library("/usr/local/cuda/compat/libcuda.so.1", is_compat=True),
    )

    assert symptoms(rules.no_driver, machine(NO_DRIVER, driver={"libraries": libraries}))


def test_in_a_container_the_missing_driver_is_the_host_s():
    inside = machine(NO_DRIVER, host={"container": "docker"})

    assert not is_applicable(rules.no_driver, inside)
    assert not is_applicable(not_loaded, inside)


def test_a_driver_that_may_not_be_looked_for_is_not_checked():
    assert not_checked(rules.no_driver, machine(NO_DRIVER, driver={"libraries": UNREAD}))
    assert not_checked(rules.no_driver, machine(NO_DRIVER, driver={"module_version": UNREAD}))


# --------------------------------------------------------------------------------------- DRV004


def test_nouveau_on_a_gpu_is_an_error():
    held = machine(host={"pci_gpus": (card(BUS_IDS[0]), card(driver="nouveau"))})

    symptom = only(rules.nouveau, held)

    assert symptom.saw == "nouveau is bound to 0000:00:07.0"
    assert "update-initramfs -u" in commands(symptom)


def test_nouveau_loaded_and_bound_to_nothing_is_fine():
    assert passes(rules.nouveau, machine(driver={"loaded_modules": ("nouveau", "nvidia")}))


def test_nouveau_without_any_driver_is_a_consequence_of_that():
    fresh = machine(NO_DRIVER, host={"pci_gpus": (card(driver="nouveau"),)})

    assert found_in(fresh)["DRV004"] == "DRV002"


def test_a_binding_that_may_not_be_read_is_not_checked():
    assert not_checked(rules.nouveau, machine(host={"pci_gpus": (card(driver=UNREAD),)}))


def test_an_old_card_that_nouveau_drives_beside_working_gpus_is_left_alone():
    old = PciGpu(bus_id="0000:09:00.0", device_id="0x128b", driver="nouveau")  # a GT 710
    mixed = machine(host={"pci_gpus": (*seen(HEALTHY.host.pci_gpus), old)})

    assert passes(rules.nouveau, mixed)
    assert passes(gpus_missing, mixed)
    assert passes(wrong_driver_for_gpu, mixed)


# --------------------------------------------------------------------------------------- DRV023


def lender(driver: str = "vfio-pci", **changes: Any) -> Snapshot:
    return machine(
        NO_GPU,
        host={"pci_gpus": (card(driver=driver),)},
        driver={"passthrough_option": None, **changes},
    )


@pytest.mark.parametrize("driver", ["vfio-pci", "pci-stub", "pciback"])
def test_the_only_gpu_in_other_hands_is_named_with_its_holder(driver: str):
    assert only(rules.lent, lender(driver)).saw == (
        f"the only GPU, 0000:00:07.0, belongs to {driver}"
    )
    assert rules.lent.severity is Severity.INFO


def test_the_option_that_lends_it_is_named():
    option = "/etc/modprobe.d/vfio.conf: options vfio-pci ids=10de:1e84"

    assert option in only(rules.lent, lender(passthrough_option=option)).saw


def test_one_gpu_for_us_and_one_for_guests_is_no_matter():
    shared = machine(host={"pci_gpus": (card(BUS_IDS[0]), card(driver="vfio-pci"))})

    assert passes(rules.lent, shared)
