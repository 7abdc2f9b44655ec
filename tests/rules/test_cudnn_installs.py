"""The rules about the cuDNNs that are installed: DNN004, DNN007."""

import pytest

from gpucheck.rules.cudnn_installs import several_cudnns, stale_header
from gpucheck.snapshot import CudnnInstall, Unknown, replace
from machines import HEALTHY, SITE, is_applicable, machine, not_checked, passes, symptoms

FOLDER = f"{SITE}/nvidia/cudnn/lib"
FRONT = f"{FOLDER}/libcudnn.so.9"
WHEEL, SYSTEM = HEALTHY.cudnn.installs  # type: ignore[misc]


# ------------------------------------------------------------------------------------------ DNN004


def test_two_installs_are_mentioned_with_who_gets_which():
    [symptom] = symptoms(several_cudnns, HEALTHY)

    assert symptom.saw == (
        f"9.19.0 in {FOLDER}, 9.14.0 in /usr/lib/x86_64-linux-gnu; torch gets {FRONT}; "
        "a plain program gets /lib/x86_64-linux-gnu/libcudnn.so.9"
    )


@pytest.mark.parametrize("installs", [(), (WHEEL,)])
def test_one_install_is_not_worth_a_word(installs: tuple[CudnnInstall, ...]):
    assert passes(several_cudnns, machine(cudnn={"installs": installs}))


# ------------------------------------------------------------------------------------------ DNN007


def test_a_header_of_another_version_is_a_warning():
    found = machine(cudnn={"installs": (WHEEL, replace(SYSTEM, header_version="9.10.2"))})

    [symptom] = symptoms(stale_header, found)

    assert symptom.subject == "/usr/lib/x86_64-linux-gnu"
    assert symptom.saw == (
        "/usr/include/x86_64-linux-gnu/cudnn_version.h is 9.10.2; "
        "/usr/lib/x86_64-linux-gnu/libcudnn.so.9 is 9.14.0"
    )


def test_a_runtime_of_an_older_major_beside_the_headers_own_library_is_fine():
    older = replace(SYSTEM, soname="libcudnn.so.8", version="8.9.7")

    assert passes(stale_header, machine(cudnn={"installs": (SYSTEM, older)}))


def test_libraries_without_headers_raise_no_question():
    bare = replace(SYSTEM, header=None, header_version=None)

    assert not is_applicable(stale_header, machine(cudnn={"installs": (bare,)}))


def test_a_header_that_is_unreadable_is_not_checked():
    odd = replace(SYSTEM, header_version=Unknown("it defines no version"))

    assert not_checked(stale_header, machine(cudnn={"installs": (odd,)}))
