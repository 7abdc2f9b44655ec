import pytest
from driver_machines import (
    NO_DRIVER,
    NOT_LOADED,
    UNREAD,
    card,
    found_in,
    only,
    steps,
)

from gpucheck.rules import kernel_module as rules
from machines import (
    is_applicable,
    machine,
    not_checked,
    passes,
)

# --------------------------------------------------------------------------------------- DRV003


def test_dkms_without_a_build_for_this_kernel_is_told_with_the_kernels_it_has():
    symptom = only(
        rules.not_loaded,
        machine(NOT_LOADED, driver={"dkms_kernels": ("6.8.0-40-generic",)}),
    )

    assert symptom.saw == (
        "no nvidia module is built for the running kernel 6.8.0-50-generic; DKMS has driver "
        "580.159.04, built for 6.8.0-40-generic"
    )
    assert steps(symptom)[0] == "dkms autoinstall -k 6.8.0-50-generic"


def test_missing_headers_come_first():
    symptom = only(
        rules.not_loaded,
        machine(NOT_LOADED, driver={"dkms_kernels": (), "has_kernel_headers": False}),
    )

    assert "the kernel's headers are missing" in symptom.saw
    assert steps(symptom)[0] == "apt install linux-headers-6.8.0-50-generic"


def test_a_build_of_dkms_that_was_never_installed_is_told():
    assert only(rules.not_loaded, NOT_LOADED).saw == (
        "DKMS has built driver 580.159.04 for the running kernel 6.8.0-50-generic, and no nvidia "
        "module is installed for it"
    )


def test_a_module_that_is_built_needs_only_loading():
    symptom = only(rules.not_loaded, machine(NOT_LOADED, driver={"module_file": "/lib/nvidia.ko"}))

    assert steps(symptom)[0] == "modprobe nvidia"


def test_no_module_and_no_dkms_asks_for_the_driver_s_module():
    symptom = only(rules.not_loaded, machine(NOT_LOADED, driver={"dkms_version": None}))

    assert symptom.saw == "no nvidia module is built for the running kernel 6.8.0-50-generic"


def test_without_any_driver_there_is_no_module_to_load():
    assert not is_applicable(rules.not_loaded, NO_DRIVER)


def test_secure_boot_and_nouveau_explain_a_module_that_is_not_loaded():
    refused = machine(
        NOT_LOADED,
        host={"secure_boot": True},
        driver={"module_file": "/lib/nvidia.ko"},
        kernel_log={"module_refused": "Loading of unsigned module is rejected"},
    )
    held = machine(NOT_LOADED, host={"pci_gpus": (card(driver="nouveau"),)})

    assert found_in(refused) == {
        "DRV005": None,
        "DRV003": "DRV005",
        "DRV009": "DRV005",
        "DRV016": "DRV005",
    }
    assert found_in(held)["DRV003"] == "DRV004"


# --------------------------------------------------------------------------------------- DRV005


SECURE = machine(NOT_LOADED, host={"secure_boot": True}, driver={"module_file": "/lib/nvidia.ko"})


def test_a_module_without_a_signature_under_secure_boot_is_an_error():
    symptom = only(rules.refused, machine(SECURE, driver={"module_is_signed": False}))

    assert symptom.saw == "Secure Boot is on, and /lib/nvidia.ko carries no signature"


def test_the_kernel_s_refusal_is_quoted():
    line = "Loading of module with unavailable key is rejected"

    symptom = only(rules.refused, machine(SECURE, kernel_log={"module_refused": line}))

    assert line in symptom.saw


def test_secure_boot_with_a_loaded_module_is_fine():
    assert passes(rules.refused, machine(host={"secure_boot": True}))


@pytest.mark.parametrize("secure_boot", [False, None])
def test_without_secure_boot_nothing_is_refused(secure_boot: bool | None):
    broken = machine(SECURE, host={"secure_boot": secure_boot}, driver={"module_is_signed": False})

    assert passes(rules.refused, broken)


def test_a_signed_module_and_an_unreadable_log_are_not_checked():
    doubt = machine(SECURE, kernel_log={"module_refused": UNREAD})

    assert not_checked(rules.refused, doubt)
