from typing import Any

import pytest
from driver_machines import (
    NO_DRIVER,
    NOT_LOADED,
    UNREAD,
    card,
    found_in,
    only,
)

from gpucheck.rules import kernel_module as rules
from gpucheck.snapshot import DkmsFailure, ModuleBlock, Snapshot
from machines import (
    commands,
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
    assert commands(symptom)[0] == "dkms autoinstall -k 6.8.0-50-generic"


def test_missing_headers_come_first():
    symptom = only(
        rules.not_loaded,
        machine(NOT_LOADED, driver={"dkms_kernels": (), "has_kernel_headers": False}),
    )

    assert "the kernel's headers are missing" in symptom.saw
    assert commands(symptom)[0] == "apt install linux-headers-6.8.0-50-generic"


def test_a_build_of_dkms_that_was_never_installed_is_told():
    assert only(rules.not_loaded, NOT_LOADED).saw == (
        "DKMS has built driver 580.159.04 for the running kernel 6.8.0-50-generic, and no nvidia "
        "module is installed for it"
    )


def test_a_module_that_is_built_needs_only_loading():
    symptom = only(rules.not_loaded, machine(NOT_LOADED, driver={"module_file": "/lib/nvidia.ko"}))

    assert commands(symptom)[0] == "modprobe nvidia"


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


# --------------------------------------------------------------------------------------- DRV005


def test_the_kernel_s_lockdown_is_named_without_mokutil():
    locked = machine(
        NOT_LOADED,
        host={"secure_boot": None, "lockdown": "integrity"},
        driver={"module_file": "/lib/nvidia.ko"},
        kernel_log={"module_refused": "Lockdown: modprobe: unsigned module loading is restricted"},
    )

    symptom = only(rules.refused, locked)

    assert symptom.saw.startswith("the kernel is locked down (integrity), and the kernel says")
    assert symptom.remedy.text.startswith("Remove `lockdown=`")
    assert not any("mokutil" in step for step in commands(symptom))
    assert "lockdown=integrity" in commands(symptom)[0]


def test_enforced_signatures_are_named():
    enforced = machine(
        NOT_LOADED,
        host={"signatures_enforced": True},
        driver={"module_file": "/lib/nvidia.ko", "module_is_signed": False},
    )

    assert only(rules.refused, enforced).saw == (
        "module.sig_enforce is on, and /lib/nvidia.ko carries no signature"
    )


# --------------------------------------------------------------------------------------- DRV018

OFF_THE_BUS = (
    "The NVIDIA GPU 0000:00:07.0 (PCI ID: 10de:2335) installed in this system has fallen off the "
    "bus and is not responding to commands."
)
FILED = machine(NOT_LOADED, driver={"module_file": "/lib/nvidia.ko"})


@pytest.mark.parametrize(
    ("host", "word"),
    [
        ({"hypervisor": None, "is_laptop": True}, "Shut the laptop down fully"),
        ({"hypervisor": None, "is_laptop": False}, "power cables"),
        ({"hypervisor": "kvm"}, "Stop this virtual machine"),
    ],
)
def test_a_gpu_that_does_not_respond_is_dealt_with_as_this_machine_can(
    host: dict[str, Any], word: str
):
    gone = machine(FILED, host=host, kernel_log={"module_said": (OFF_THE_BUS,)})

    symptom = only(rules.gave_up, gone)

    assert OFF_THE_BUS in symptom.saw
    assert word in symptom.remedy.text
    assert found_in(gone)["DRV003"] == "DRV018"


def test_the_driver_that_holds_the_gpu_is_looked_for():
    said = ("The NVIDIA probe routine was not called for 1 device(s).", "No NVIDIA devices probed.")

    symptom = only(rules.gave_up, machine(FILED, kernel_log={"module_said": said}))

    assert "probe routine was not called" in symptom.saw
    assert commands(symptom) == ("lspci -nnk -d 10de:",)


def test_a_module_that_was_unloaded_by_hand_did_not_give_up():
    said = (
        "loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04",
        "nvidia-nvlink: Unregistered Nvlink Core, major device number 234",
    )

    assert passes(rules.gave_up, machine(FILED, kernel_log={"module_said": said}))


def test_what_a_loaded_module_said_earlier_is_no_fault():
    assert passes(rules.gave_up, machine(kernel_log={"module_said": (OFF_THE_BUS,)}))


def test_a_log_that_may_not_be_read_leaves_the_reason_open():
    assert not_checked(rules.gave_up, machine(FILED, kernel_log={"module_said": UNREAD}))


# --------------------------------------------------------------------------------------- DRV019


def failure(error: str, **changes: Any) -> Snapshot:
    plain: dict[str, Any] = {"log": "/var/lib/dkms/nvidia/580.159.04/build/make.log"}
    found = DkmsFailure(error=error, **{**plain, "compiler": None, **changes})
    return machine(NOT_LOADED, driver={"dkms_failure": found, "dkms_kernels": ("6.5.0-1",)})


def test_a_compiler_older_than_the_kernel_s_is_replaced():
    broken = failure(
        "cc: error: unrecognized command-line option '-ftrivial-auto-var-init=zero'",
        kernel_compiler="x86_64-linux-gnu-gcc-12 (Ubuntu 12.3.0-1ubuntu1~22.04) 12.3.0",
        compiler="cc (Ubuntu 11.4.0-1ubuntu1~22.04) 11.4.0",
    )

    symptom = only(rules.build_failed, broken)

    assert "-ftrivial-auto-var-init=zero" in symptom.saw
    assert symptom.remedy.text == "Build the module with gcc 12, which built the kernel."
    assert commands(symptom)[0] == "apt install gcc-12"
    assert found_in(broken)["DRV003"] == "DRV019"


def test_a_kernel_that_is_newer_than_the_driver_needs_a_newer_driver():
    broken = failure(
        "nv.c:12:5: error: implicit declaration of function 'x'",
        kernel_compiler="gcc (GCC) 14.2.1",
        compiler="cc (GCC) 14.2.1",
    )

    text = only(rules.build_failed, broken).remedy.text

    assert text.startswith("Install a newer driver: the source of 580.159.04 does not compile")
    assert "boot kernel 6.5.0-1, which has a module" in text


def test_a_full_disk_is_emptied_first():
    broken = failure("ld: final link failed: No space left on device", kernel_compiler=None)

    assert commands(only(rules.build_failed, broken))[0].startswith("df -h")


def test_a_failed_build_of_a_module_that_is_loaded_is_no_matter():
    found = DkmsFailure(log="/x", error="error: y")

    assert passes(rules.build_failed, machine(driver={"dkms_failure": found}))


# --------------------------------------------------------------------------------------- DRV020


def blocked(*blocks: ModuleBlock, **changes: Any) -> Snapshot:
    return machine(FILED, driver={"module_blocks": blocks, **changes})


def test_prime_select_s_choice_is_changed_by_prime_select():
    path = "/usr/lib/modprobe.d/blacklist-nvidia.conf"
    chosen = blocked(ModuleBlock(path=path, text="blacklist nvidia"), prime_profile="off")

    symptom = only(rules.blacklisted, chosen)

    assert "prime-select chose the integrated GPU" in symptom.saw
    assert commands(symptom) == ("prime-select on-demand", "reboot")
    assert found_in(chosen)["DRV003"] == "DRV020"


def test_a_line_of_modprobe_s_configuration_is_commented_out():
    line = ModuleBlock(path="/etc/modprobe.d/x.conf", text="alias nvidia off", is_total=True)

    symptom = only(rules.blacklisted, blocked(line, prime_profile=None))

    assert symptom.saw == '/etc/modprobe.d/x.conf says "alias nvidia off"'
    assert commands(symptom)[0].endswith("/etc/modprobe.d/x.conf")


def test_an_option_at_boot_is_removed_where_it_is():
    option = ModuleBlock(path="/proc/cmdline", text="module_blacklist=nvidia", is_total=True)

    text = only(rules.blacklisted, blocked(option, prime_profile=None)).remedy.text

    assert "Remove `module_blacklist=nvidia` from the kernel's command line" in text


def test_a_blacklist_does_not_matter_to_a_module_that_is_loaded():
    line = ModuleBlock(path="/etc/modprobe.d/x.conf", text="blacklist nvidia")

    assert passes(rules.blacklisted, machine(driver={"module_blocks": (line,)}))


# --------------------------------------------------------------------------------------- DRV021


def test_a_module_file_of_another_kernel_is_no_module_for_this_one():
    other = machine(FILED, driver={"module_file_kernel": "6.5.0-1-generic"})

    symptom = only(rules.other_kernel, other)

    assert symptom.saw == (
        "/lib/nvidia.ko is a module of kernel 6.5.0-1-generic; the running kernel is "
        "6.8.0-50-generic"
    )
    assert found_in(other)["DRV003"] == "DRV021"


def test_the_running_kernel_s_module_is_said_to_be_so_only_where_it_was_compared():
    unread = machine(FILED, driver={"module_file_kernel": UNREAD})

    assert "is built for the running kernel" in only(rules.not_loaded, FILED).saw
    assert "is in the folder of the running kernel" in only(rules.not_loaded, unread).saw
    assert not_checked(rules.other_kernel, unread)
