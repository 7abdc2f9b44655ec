"""The rules about NVIDIA's library wheels: LIB002 to LIB004."""

from typing import Any

import pytest

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules.nvidia_wheels import damaged_wheels, mixed_wheels, unwanted_versions
from gpucheck.snapshot import (
    CudnnOpened,
    DamagedFile,
    Distribution,
    Library,
    PythonProject,
    Snapshot,
    Unknown,
    replace,
)
from machines import (
    CUDNN_PARTS,
    HEALTHY,
    SITE,
    advice,
    commands,
    is_applicable,
    library,
    machine,
    not_checked,
    passes,
    symptoms,
)

CUDNN = f"{SITE}/nvidia/cudnn/lib"
PIP = "/opt/venv/bin/python3 -m pip install"


def with_wheels(*wheels: Distribution, **pytorch: Any) -> Snapshot:
    return machine(pytorch={"distributions": wheels, **pytorch})


def wheel(name: str, version: str, requires: tuple[str, ...] = ()) -> Distribution:
    return Distribution(name=name, version=version, location=SITE, requires=requires)


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
        f"nvidia-cudnn-cu13 9.19.0.56 and nvidia-cudnn-cu12 9.10.2.21 write into {CUDNN}"
    )
    assert commands(symptom) == (
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


def test_one_clash_of_many_wheels_is_one_finding_that_says_who_brings_them_back():
    libraries = ("nccl", "cublas", "cuda_nvrtc")
    wanted = tuple(f"nvidia-{name.replace('_', '-')}-cu12==12.8" for name in libraries)
    strays = tuple(f"nvidia-{name.replace('_', '-')}-cu11" for name in libraries)
    found = with_wheels(
        wheel("torch", "2.8.0", wanted),
        *(wheel(need.partition("==")[0], "12.8") for need in wanted),
        *(wheel(name, "11.7") for name in strays),
        wheel("old-tool", "1.2", ("nvidia-nccl-cu11==2.10",)),
        mixed_wheels=tuple(f"{SITE}/nvidia/{name}/lib" for name in libraries),
    )

    [symptom] = symptoms(mixed_wheels, found)

    remove, install = commands(symptom)
    assert all(name in remove for name in strays)
    assert install.endswith(" ".join(wanted))
    assert "old-tool 1.2 requires nvidia-nccl-cu11" in advice(symptom)
    assert "3 folders" in symptom.saw


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
    assert commands(first) == (f"{PIP} --force-reinstall --no-deps nvidia-cudnn-cu13==9.19.0.56",)
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


def missing(soname: str, wheel_name: str, wheel_version: str, *resolved: Library) -> Snapshot:
    """A wheel that lacks the file of *soname*, on a machine that gives *resolved* instead."""
    file = DamagedFile(
        distribution=wheel_name, path=f"{SITE}/nvidia/x/lib/{soname}", problem="missing"
    )
    distributions = (wheel(wheel_name, wheel_version),)
    return machine(
        pytorch={"damaged": (file,), "distributions": distributions},
        libraries={"resolved": resolved},
    )


@pytest.mark.parametrize(
    ("soname", "wheel_version", "version", "severity"),
    [
        ("libcublasLt.so.13", "13.1.0.3", "13.1.0.3", Severity.WARNING),
        ("libnccl.so.2", "2.28.9", "2.28.3", Severity.WARNING),
        ("libcupti.so.13", "13.0.85", Unknown("its name counts years"), Severity.WARNING),
        ("libnvJitLink.so.12", "12.8.93", "12.4.127", None),
        ("libcusparseLt.so.0", "0.8.0", None, None),
        ("libcudnn_cnn.so.9", "9.19.0.56", "9.14.0", Severity.WARNING),
        ("libcudnn_engines_precompiled.so.9", "9.19.0.56", "9.14.0", None),
    ],
)
def test_a_missing_file_is_judged_by_what_the_loader_takes_instead(
    soname, wheel_version, version, severity
):
    path = None if version is None else f"/usr/lib/x86_64-linux-gnu/{soname}"
    got = replace(library(soname, "", ""), path=path, real_path=path, version=version)
    other = library("libcudnn_graph.so.9", f"{CUDNN}/libcudnn_graph.so.9", "9.19.0")
    name = "nvidia-cudnn-cu13" if "cudnn" in soname else "nvidia-x"
    found = machine(
        missing(soname, name, wheel_version, got),
        cudnn={"sublibraries_for_torch": (other, got)},
    )

    [symptom] = symptoms(damaged_wheels, found)

    assert symptom.severity is severity
    assert (path or "nothing else gives") in symptom.saw


def test_all_of_cudnn_from_one_other_version_serves():
    front = replace(library("libcudnn.so.9", "", ""), path="/lib/libcudnn.so.9", version="9.14.0")
    parts = tuple(
        replace(library(name, "", ""), path=f"/lib/{name}", version="9.14.0")
        for name in CUDNN_PARTS
    )
    files = tuple(
        DamagedFile(distribution="nvidia-cudnn-cu13", path=f"{CUDNN}/{n}", problem="missing")
        for n in ("libcudnn.so.9", *CUDNN_PARTS)
    )
    found = machine(
        pytorch={"damaged": files},
        libraries={"resolved": (front, *parts)},
        cudnn={"sublibraries_for_torch": parts},
    )

    [symptom] = symptoms(damaged_wheels, found)

    assert symptom.severity is Severity.WARNING


def test_a_cudnn_that_was_replaced_as_a_whole_serves():
    files = tuple(
        DamagedFile(
            distribution="nvidia-cudnn-cu13", path=f"{CUDNN}/{n}", problem="1 byte instead of 2"
        )
        for n in ("libcudnn.so.9", *CUDNN_PARTS)
    )
    opened = CudnnOpened(path=f"{CUDNN}/libcudnn.so.9", version="9.14.0")

    whole = machine(pytorch={"damaged": files}, cudnn={"opened": opened})
    in_part = machine(pytorch={"damaged": files[:1]}, cudnn={"opened": opened})

    assert [each.severity for each in symptoms(damaged_wheels, whole)] == [Severity.WARNING]
    assert [each.severity for each in symptoms(damaged_wheels, in_part)] == [None]


def test_a_header_that_is_missing_stops_no_program():
    file = DamagedFile(
        distribution="nvidia-cudnn-cu13",
        path=f"{SITE}/nvidia/cudnn/include/cudnn.h",
        problem="missing",
    )

    [symptom] = symptoms(damaged_wheels, machine(pytorch={"damaged": (file,)}))

    assert symptom.severity is Severity.WARNING


def test_a_library_whose_wheel_was_removed_is_missed_all_the_same():
    gone = replace(library("libcublas.so.13", "", ""), path=None, real_path=None, version=None)

    [symptom] = symptoms(damaged_wheels, machine(libraries={"resolved": (gone,)}))

    assert "libcublas.so.13, which nothing here gives" in symptom.saw
    assert commands(symptom) == ("/opt/venv/bin/python3 -m pip install torch==2.11.0",)


def test_a_wheel_that_lacks_files_in_a_uv_project_is_brought_back_by_uv():
    project = PythonProject(tool="uv", folder="/app", file="/app/pyproject.toml")
    python = replace(HEALTHY.pytorch.python, uses_uv=True, project=project)  # type: ignore[type-var]
    files = damage("nvidia-cudnn-cu13", 1)

    [symptom] = symptoms(damaged_wheels, machine(pytorch={"damaged": files, "python": python}))

    assert commands(symptom) == ("uv sync --project /app --reinstall-package nvidia-cudnn-cu13",)


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
    assert commands(symptom) == (f"{PIP} nvidia-cudnn-cu13==9.19.0.56 nvidia-nccl-cu13==2.28.9",)


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


def test_of_two_copies_the_one_that_torch_reaches_counts():
    far = Distribution(name="nvidia-nccl-cu13", version="2.10", location="/home/me/.local/x")
    near = wheel("nvidia-nccl-cu13", "2.28.9")
    torch = wheel("torch", "2.11.0", ("nvidia-nccl-cu13==2.28.9",))

    assert passes(unwanted_versions, with_wheels(far, torch, near))


def test_a_stray_torch_explains_what_its_wheels_lack():
    assert "TOR010" in unwanted_versions.caused_by
    assert "TOR010" in mixed_wheels.caused_by
    assert "TOR010" in damaged_wheels.caused_by
