from typing import Any

import msgspec
from driver_machines import (
    BLIND,
    UNREAD,
    cuda,
    found_in,
    library,
    only,
)

from gpucheck.rules import driver_versions as rules
from gpucheck.snapshot import (
    NvmlError,
    Snapshot,
)
from machines import (
    HEALTHY,
    commands,
    machine,
    not_checked,
    passes,
    symptoms,
)

# --------------------------------------------------------------------------------------- DRV006


def test_module_and_libraries_of_different_versions_are_an_error():
    broken = machine(driver={"module_version": "575.57.08", "cuda_init": cuda(803)})

    symptom = only(rules.version_mismatch, broken)

    assert symptom.saw.startswith("the loaded kernel module is 575.57.08; ")
    assert "libcuda.so.1 is 580.159.04" in symptom.saw
    assert "reboot" in commands(symptom)


def test_what_nvml_says_of_a_mismatch_counts_where_no_version_is_readable():
    broken = machine(
        driver={"libraries": (library("/usr/lib/libcuda.so.1", UNREAD, is_selected=True),)},
        nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=18)},
    )

    assert symptoms(rules.version_mismatch, broken)


def test_a_stray_library_in_ld_library_path_is_named_for_removal():
    broken = machine(
        driver={
            "libraries": (
                library(
                    "/opt/old/libcuda.so.1",
                    "535.54.03",
                    is_selected=True,
                    found_via="LD_LIBRARY_PATH",
                ),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(803),
        }
    )

    assert only(rules.version_mismatch, broken).remedy.text == (
        "Remove /opt/old from LD_LIBRARY_PATH: /usr/lib/libcuda.so.1 fits the kernel module."
    )


def in_container(module: str, kind: str = "docker", **changes: Any) -> Snapshot:
    """A container whose libraries are 580.159.04 and whose host's module is *module*."""
    libraries = tuple(
        msgspec.structs.replace(each, **changes)
        for each in HEALTHY.driver.libraries  # type: ignore[union-attr]
    )
    return machine(
        host={"container": kind},
        driver={"module_version": module, "libraries": libraries, "cuda_init": cuda(803)},
    )


def test_libraries_of_a_host_s_old_driver_are_renewed_with_the_container():
    fix = only(rules.version_mismatch, in_container("590.10.01", is_mounted=True)).remedy

    assert fix.text.startswith("Create the container again")


def test_mounted_libraries_that_are_newer_than_the_module_ask_for_the_host_s_reboot():
    fix = only(rules.version_mismatch, in_container("570.10.01", is_mounted=True)).remedy

    assert fix.text.startswith("Reboot the host")
    assert [(step.text, step.on) for step in fix.steps] == [("reboot", "host")]


def test_an_image_s_own_libraries_are_removed_from_the_image_by_their_package():
    own = in_container("535.183.01", is_mounted=False, package="libnvidia-compute-580")

    fix = only(rules.version_mismatch, own).remedy

    assert fix.text.startswith("Remove libnvidia-compute-580 from the image")
    assert [(step.text, step.on) for step in fix.steps] == [
        ("apt-get purge libnvidia-compute-580", "image")
    ]


def test_in_lxc_the_module_s_version_is_installed_without_a_module():
    inside = in_container("570.148.06", "lxc", is_mounted=False)

    fix = only(rules.version_mismatch, inside).remedy

    assert commands(only(rules.version_mismatch, inside)) == (
        "sh NVIDIA-Linux-x86_64-570.148.06.run --no-kernel-module",
    )
    assert "Install driver 570.148.06" in fix.text


def test_two_library_versions_of_which_the_loaded_one_wins_are_another_rule_s():
    two = machine(
        driver={
            "libraries": (
                library("/usr/lib/libcuda.so.1", is_selected=True),
                library("/usr/lib64/libcuda.so.1", "535.54.03"),
            ),
            "cuda_init": cuda(100),
        }
    )

    assert passes(rules.version_mismatch, two)
    assert symptoms(rules.two_drivers, two)


def test_what_works_outranks_what_file_names_say():
    assert passes(rules.version_mismatch, machine(driver={"module_version": "580.160"}))


def test_a_compatibility_library_differs_on_purpose():
    compat = machine(
        driver={
            "libraries": (
                library(
                    "/usr/local/cuda/compat/libcuda.so.1", "590.1", is_compat=True, is_selected=True
                ),
            ),
            "cuda_init": cuda(804),
        }
    )

    assert passes(rules.version_mismatch, compat)


def test_a_library_of_unknown_version_is_not_checked():
    doubt = machine(
        driver={
            "libraries": (library("/usr/lib/libcuda.so.1", UNREAD, is_selected=True),),
            "cuda_init": cuda(100),
        }
    )

    assert not_checked(rules.version_mismatch, doubt)


# --------------------------------------------------------------------------------------- DRV011


def test_two_driver_versions_say_which_wins_and_from_where():
    two = machine(
        driver={
            "libraries": (
                library("/opt/a/libcuda.so.1", is_selected=True, found_via="LD_LIBRARY_PATH"),
                library("/usr/lib/libcuda.so.1", "535.54.03"),
            )
        }
    )

    symptom = only(rules.two_drivers, two)

    assert symptom.saw == (
        "580.159.04: /opt/a/libcuda.so.1 (loaded, by LD_LIBRARY_PATH); "
        "535.54.03: /usr/lib/libcuda.so.1"
    )
    assert "Keep 580.159.04" in symptom.remedy.text


def test_two_equal_copies_are_fine():
    copies = (
        library(
            "/usr/local/nvidia/lib64/libcuda.so.1", is_selected=True, found_via="LD_LIBRARY_PATH"
        ),
        library("/usr/lib/libcuda.so.1"),
    )

    assert passes(rules.two_drivers, machine(driver={"libraries": copies}))


def test_stubs_and_compatibility_libraries_are_no_second_driver():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/local/cuda/compat/libcuda.so.1", "580.95.05", is_compat=True),
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", "1.0", is_stub=True),
    )

    assert passes(rules.two_drivers, machine(driver={"libraries": copies}))


def test_a_second_copy_of_unknown_version_is_not_checked():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/lib64/libcuda.so.1", UNREAD),
    )

    assert not_checked(rules.two_drivers, machine(driver={"libraries": copies}))


def test_a_wrong_library_that_wins_gives_one_root():
    broken = machine(
        driver={
            "libraries": (
                library("/opt/a/libcuda.so.1", "535.54.03", is_selected=True),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(803),
        }
    )

    assert found_in(broken) == {"DRV006": None, "DRV009": "DRV006", "DRV011": "DRV006"}


# --------------------------------------------------------------------------------------- DRV013


def test_a_stub_that_the_loader_takes_is_an_error():
    broken = machine(
        driver={
            "libraries": (
                library(
                    "/usr/local/cuda/lib64/stubs/libcuda.so.1",
                    UNREAD,
                    is_stub=True,
                    is_selected=True,
                    found_via="LD_LIBRARY_PATH",
                ),
                library("/usr/lib/libcuda.so.1"),
            ),
            "cuda_init": cuda(34),
        }
    )

    symptom = only(rules.stub_is_selected, broken)

    assert symptom.remedy.text == "Remove /usr/local/cuda/lib64/stubs from LD_LIBRARY_PATH."
    assert found_in(broken) == {"DRV013": None, "DRV009": "DRV013"}


def test_a_stub_under_another_name_gives_itself_away_by_error_34():
    assert only(rules.stub_is_selected, machine(driver={"cuda_init": cuda(34)})).saw == (
        "cuInit says that /usr/lib/x86_64-linux-gnu/libcuda.so.1 is a stub (error 34)"
    )


def test_a_stub_that_does_not_win_is_fine():
    copies = (
        library("/usr/lib/libcuda.so.1", is_selected=True),
        library("/usr/local/cuda/lib64/stubs/libcuda.so.1", is_stub=True),
    )

    assert passes(rules.stub_is_selected, machine(driver={"libraries": copies}))
