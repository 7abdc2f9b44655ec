"""The family LIB: which libraries would be loaded for torch."""

from typing import Any

import pytest

from gpucheck.report import examine
from gpucheck.rules.libraries import (
    cached_toolkit,
    damaged_wheels,
    is_same_version,
    mixed_wheels,
    shadowed_wheels,
    unwanted_versions,
)
from gpucheck.snapshot import DamagedFile, Distribution, Library, Snapshot, Unknown, replace
from machines import (
    CUDA_12,
    CUDA_13,
    HEALTHY,
    SITE,
    is_applicable,
    library,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)

OLD = "/usr/local/cuda-12.4/lib64"
CUDNN = f"{SITE}/nvidia/cudnn/lib"
PIP = "/opt/venv/bin/python3 -m pip install"


def shadowed(soname: str, version: Any, wheel_version: str, **changes: Any) -> Library:
    """A library that LD_LIBRARY_PATH gives instead of the wheel's."""
    fields: dict[str, Any] = {
        "found_via": "LD_LIBRARY_PATH",
        "directory": OLD,
        "origin": "toolkit",
        "wheel_path": f"{SITE}/nvidia/cu13/lib/{soname}",
        "wheel_version": wheel_version,
    }
    return library(soname, f"{OLD}/{soname}", version, **{**fields, **changes})


def with_libraries(*libraries: Library, base: Snapshot = HEALTHY) -> Snapshot:
    return machine(base, libraries={"resolved": libraries})


def with_wheels(*wheels: Distribution, **pytorch: Any) -> Snapshot:
    return machine(pytorch={"distributions": wheels, **pytorch})


def wheel(name: str, version: str, requires: tuple[str, ...] = ()) -> Distribution:
    return Distribution(name=name, version=version, location=SITE, requires=requires)


# ------------------------------------------------------------------------------------------ LIB001


def test_other_versions_from_ld_library_path_are_one_finding_for_their_directory():
    found = with_libraries(
        shadowed("libnvJitLink.so.13", "13.1.5", "13.0.88"),
        shadowed("libcublasLt.so.13", "13.2.0.1", "13.1.0.3"),
        base=with_variables(LD_LIBRARY_PATH=f"/opt/lib:{OLD}:"),
    )

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.subject == OLD
    assert symptom.saw == (
        f"LD_LIBRARY_PATH gives libnvJitLink.so.13: {OLD}/libnvJitLink.so.13 (13.1.5) instead of "
        f"{SITE}/nvidia/cu13/lib/libnvJitLink.so.13 (13.0.88); libcublasLt.so.13: "
        f"{OLD}/libcublasLt.so.13 (13.2.0.1) instead of "
        f"{SITE}/nvidia/cu13/lib/libcublasLt.so.13 (13.1.0.3)"
    )
    assert symptom.commands == ("export LD_LIBRARY_PATH=/opt/lib",)


def test_each_directory_is_a_finding_of_its_own():
    found = with_libraries(
        shadowed("libnvJitLink.so.13", "13.1.5", "13.0.88"),
        shadowed("libnccl.so.2", "2.20.3", "2.28.9", directory="/opt/nccl/lib"),
    )

    assert [s.subject for s in symptoms(shadowed_wheels, found)] == [OLD, "/opt/nccl/lib"]


def test_the_last_element_leaves_the_variable_unset():
    found = with_libraries(
        shadowed("libnccl.so.2", "2.20.3", "2.28.9"), base=with_variables(LD_LIBRARY_PATH=OLD)
    )

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.commands == ("unset LD_LIBRARY_PATH",)


def test_a_preloaded_library_is_reported_too():
    found = with_libraries(
        shadowed("libnccl.so.2", "2.20.3", "2.28.9", found_via="LD_PRELOAD", directory="/x"),
        base=with_variables(LD_PRELOAD=f"/y/libz.so {OLD}/libnccl.so.2"),
    )

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.saw.startswith("LD_PRELOAD gives libnccl.so.2")
    assert symptom.commands == ("export LD_PRELOAD=/y/libz.so",)


@pytest.mark.parametrize(
    "winner",
    [
        shadowed("libnccl.so.2", "2.28.9", "2.28.9"),
        shadowed("libcudnn.so.9", "9.19.0", "9.19.0.56"),
        shadowed(
            "libnccl.so.2", "2.20.3", "2.28.9", real_path=f"{SITE}/nvidia/cu13/lib/libnccl.so.2"
        ),
        shadowed("libnccl.so.2", "2.20.3", "2.28.9", found_via="DT_RPATH of x"),
        shadowed("libnccl.so.2", "2.20.3", "2.28.9", wheel_path=None),
    ],
    ids=["same version", "fourth number", "same file", "RPATH wins", "no wheel"],
)
def test_a_winner_that_changes_nothing_is_not_reported(winner: Library):
    assert passes(shadowed_wheels, with_libraries(winner))


def test_a_winner_of_unknown_version_is_not_checked():
    found = with_libraries(shadowed("libnccl.so.2", Unknown("its name gives none"), "2.28.9"))

    [answer] = not_checked(shadowed_wheels, found)

    assert answer.subject == OLD
    assert "its name gives none" in answer.why
    assert not symptoms(shadowed_wheels, found)


@pytest.mark.parametrize("resolved", [None, ()])
def test_a_torch_that_needs_no_cuda_library_raises_no_question(resolved: Any):
    assert not is_applicable(shadowed_wheels, machine(libraries={"resolved": resolved}))


def test_unresolved_libraries_are_not_checked():
    [answer] = not_checked(shadowed_wheels, machine(libraries={"resolved": Unknown("no Python")}))

    assert answer.why == "no Python"


# ------------------------------------------------------------------------------------------ LIB002


def test_wheels_of_two_cuda_versions_in_one_directory_are_named_with_the_cure():
    found = with_wheels(
        wheel("torch", "2.11.0", ("nvidia-cudnn-cu13==9.19.0.56",)),
        wheel("nvidia-cudnn-cu13", "9.19.0.56"),
        wheel("nvidia-cudnn-cu12", "9.10.2.21"),
        wheel("nvidia-nccl-cu13", "2.28.9"),
        mixed_wheels=(CUDNN,),
    )

    [symptom] = symptoms(mixed_wheels, found)

    assert symptom.subject == CUDNN
    assert symptom.saw == (
        f"nvidia-cudnn-cu13 9.19.0.56 and nvidia-cudnn-cu12 9.10.2.21 both write into {CUDNN}"
    )
    assert symptom.commands == (
        "/opt/venv/bin/python3 -m pip uninstall -y nvidia-cudnn-cu13 nvidia-cudnn-cu12",
        "/opt/venv/bin/python3 -m pip install nvidia-cudnn-cu13==9.19.0.56",
    )


def test_cuda_13s_folder_beside_that_of_a_cuda_12_wheel_is_fine():
    found = with_wheels(
        wheel("nvidia-cublas", "13.1.0.3"), wheel("nvidia-cublas-cu12", "12.8.4.1"), mixed_wheels=()
    )

    assert passes(mixed_wheels, found)


@pytest.mark.parametrize("rule", [mixed_wheels, damaged_wheels, unwanted_versions])
def test_a_python_without_nvidia_wheels_raises_no_question(rule: Any):
    found = with_wheels(wheel("torch", "2.11.0"), wheel("nvidia-ml-py", "13.580.82"))

    assert not is_applicable(rule, found)


@pytest.mark.parametrize("rule", [mixed_wheels, damaged_wheels, unwanted_versions])
def test_unknown_wheels_are_not_checked(rule: Any):
    found = machine(pytorch={"distributions": Unknown("no answer")})

    assert [answer.why for answer in not_checked(rule, found)] == ["no answer"]


# ------------------------------------------------------------------------------------------ LIB003


def damage(name: str, count: int, folder: str = CUDNN) -> tuple[DamagedFile, ...]:
    return tuple(
        DamagedFile(distribution=name, path=f"{folder}/lib{n}.so.9", problem="missing")
        for n in range(count)
    )


def test_damaged_files_are_one_finding_for_each_wheel():
    files = (*damage("nvidia-cudnn-cu13", 5), *damage("nvidia-nccl-cu13", 1))

    first, second = symptoms(damaged_wheels, machine(pytorch={"damaged": files}))

    assert first.subject == "nvidia-cudnn-cu13"
    assert first.saw == (
        f"nvidia-cudnn-cu13 9.19.0.56: {CUDNN}/lib0.so.9: missing; {CUDNN}/lib1.so.9: missing; "
        f"{CUDNN}/lib2.so.9: missing; and 2 more"
    )
    assert first.commands == (f"{PIP} --force-reinstall --no-deps nvidia-cudnn-cu13==9.19.0.56",)
    assert second.subject == "nvidia-nccl-cu13"


def test_damage_that_another_wheel_did_is_explained_by_the_mixing():
    found = machine(
        pytorch={
            "damaged": damage("nvidia-cudnn-cu13", 2),
            "mixed_wheels": (CUDNN,),
            "distributions": (
                wheel("nvidia-cudnn-cu13", "9.19.0.56"),
                wheel("nvidia-cudnn-cu12", "9.10.2.21"),
            ),
        }
    )

    report = examine(found, rules=[mixed_wheels, damaged_wheels])

    assert [finding.code for finding in report.roots] == ["LIB002"]


def test_whole_wheels_are_fine():
    assert passes(damaged_wheels, HEALTHY)


def test_unread_records_are_not_checked():
    found = machine(pytorch={"damaged": Unknown("permission denied")})

    assert [answer.why for answer in not_checked(damaged_wheels, found)] == ["permission denied"]


# ------------------------------------------------------------------------------------------ LIB004


def test_wheels_of_other_versions_than_required_are_listed_together():
    found = with_wheels(
        wheel("torch", "2.11.0", ("nvidia-cudnn-cu13==9.19.0.56", "nvidia-nccl-cu13==2.28.9")),
        wheel("nvidia-cudnn-cu13", "9.10.2.21"),
        wheel("nvidia-nccl-cu13", "2.27.5"),
    )

    [symptom] = symptoms(unwanted_versions, found)

    assert symptom.saw == (
        "nvidia-cudnn-cu13 9.10.2.21 is installed, torch requires 9.19.0.56; "
        "nvidia-nccl-cu13 2.27.5 is installed, torch requires 2.28.9"
    )
    assert symptom.commands == (f"{PIP} nvidia-cudnn-cu13==9.19.0.56 nvidia-nccl-cu13==2.28.9",)


@pytest.mark.parametrize(
    "requirement",
    [
        "nvidia-nccl-cu13==2.28.9",
        "nvidia-nccl-cu13==2.28.*",
        "nvidia-nccl-cu13==2.28.9.0",
        "nvidia-nccl-cu13>=2.1",
        "nvidia-nccl-cu13",
        "nvidia-cufile==1.15.1.6",
    ],
)
def test_what_is_as_required_or_not_pinned_or_not_installed_is_fine(requirement: str):
    found = with_wheels(
        wheel("torch", "2.11.0", (requirement,)), wheel("nvidia-nccl-cu13", "2.28.9")
    )

    assert passes(unwanted_versions, found)


# ------------------------------------------------------------------------------------------ LIB005


def test_a_toolkit_in_the_cache_of_another_version_than_cuda_home_is_mentioned():
    directory = str(CUDA_12.library_directory)
    found = machine(
        libraries={"ld_so_conf": (directory,)}, toolkits={"installed": (CUDA_13, CUDA_12)}
    )

    [symptom] = symptoms(cached_toolkit, found)

    assert symptom.subject == directory
    assert symptom.saw == (
        f"/etc/ld.so.conf.d puts {directory} (CUDA 12.4) into the loader's cache; "
        "CUDA_HOME=/usr/local/cuda is CUDA 13.0"
    )


def test_a_toolkit_in_the_cache_of_cuda_homes_version_is_fine():
    assert passes(cached_toolkit, HEALTHY)


@pytest.mark.parametrize(
    "changes",
    [{"environment": {"cuda_home": None}}, {"libraries": {"ld_so_conf": ()}}],
)
def test_no_cuda_home_and_no_toolkit_in_the_cache_raise_no_question(changes: Any):
    assert not is_applicable(cached_toolkit, machine(**changes))


def test_a_toolkit_of_unknown_version_is_not_checked():
    nameless = replace(CUDA_13, version=Unknown("version.json is unreadable"))
    found = machine(toolkits={"installed": (nameless,)})

    [answer] = not_checked(cached_toolkit, found)

    assert answer.why == "version.json is unreadable"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("9.19.0", "9.19.0.56", True),
        ("13.1.0.3", "13.1.0.3", True),
        ("9.14.0", "9.19.0", False),
        ("13", "13.0.1", True),
        ("", "1.0", False),
    ],
)
def test_versions_are_compared_as_far_as_both_go(one: str, other: str, same: bool):
    assert is_same_version(one, other) is same
