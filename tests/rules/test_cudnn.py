"""The family DNN: the cuDNN that torch would get."""

from typing import Any

import msgspec
import pytest

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules.cudnn import (
    foreign_cuda,
    no_cudnn,
    older_cudnn,
    torn_cudnn,
    unloadable_cudnn,
    unsupported_gpu,
)
from gpucheck.snapshot import (
    CudnnOpened,
    Deep,
    GpuWork,
    Library,
    LoaderFolder,
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
    gpu,
    is_applicable,
    library,
    machine,
    not_checked,
    passes,
    symptoms,
)

FOLDER = f"{SITE}/nvidia/cudnn/lib"
FRONT = f"{FOLDER}/libcudnn.so.9"
AGAIN = (
    "/opt/venv/bin/python3 -m pip install --force-reinstall --no-deps nvidia-cudnn-cu13==9.19.0.56"
)
WHEEL, SYSTEM = HEALTHY.cudnn.installs  # type: ignore[misc]


def getting(version: Any, path: str = FRONT, base: Snapshot = HEALTHY, **changes: Any) -> Snapshot:
    """A machine whose torch gets this cuDNN."""
    others = tuple(lib for lib in base.libraries.resolved if lib.soname != "libcudnn.so.9")  # type: ignore[union-attr]
    found = library("libcudnn.so.9", path, version, **changes)
    return machine(
        base,
        libraries={"resolved": (*others, found)},
        cudnn={"for_torch": None if found.path is None else found, "opened": None},
    )


def with_parts(*parts: Library) -> Snapshot:
    return machine(cudnn={"sublibraries_for_torch": parts})


def part(stem: str, **changes: Any) -> Library:
    """A part of cuDNN that torch's front would open: the wheel's own, but for *changes*."""
    soname = f"libcudnn_{stem}.so.9"
    return replace(library(soname, f"{FOLDER}/{soname}", "9.19.0"), **changes)


OTHER = Unknown("not asked here")
WITHOUT_TORCH: dict[str, Any] = {
    "pytorch": {"torch": None},
    "libraries": {"resolved": None},
    "cudnn": {"torch_needs": None, "for_torch": None, "sublibraries_for_torch": None},
}


def without_torch(**cudnn: Any) -> Snapshot:
    return machine(**{**WITHOUT_TORCH, "cudnn": {**WITHOUT_TORCH["cudnn"], **cudnn}})


RULES_ABOUT_TORCHS = (older_cudnn, torn_cudnn, foreign_cuda, unsupported_gpu)


@pytest.mark.parametrize("rule", RULES_ABOUT_TORCHS)
def test_a_torch_with_cudnn_linked_in_raises_no_question(rule: Any):
    found = machine(cudnn={"torch_needs": None, "for_torch": None})

    assert not is_applicable(rule, found)
    assert not is_applicable(no_cudnn, found)
    assert not symptoms(rule, found)


@pytest.mark.parametrize("rule", [*RULES_ABOUT_TORCHS, no_cudnn])
def test_a_need_that_is_unknown_is_not_checked(rule: Any):
    found = machine(cudnn={"torch_needs": Unknown("no answer"), "for_torch": OTHER})

    assert [answer.why for answer in not_checked(rule, found)] == ["no answer"]


@pytest.mark.parametrize("rule", RULES_ABOUT_TORCHS)
def test_where_none_loads_only_one_rule_says_so(rule: Any):
    found = getting(None)
    found = machine(
        found,
        libraries={
            "resolved": tuple(
                replace(lib, path=None, version=None) if lib.soname == "libcudnn.so.9" else lib
                for lib in found.libraries.resolved  # type: ignore[union-attr]
            )
        },
        cudnn={"for_torch": None},
    )

    assert not symptoms(rule, found)
    assert symptoms(no_cudnn, found)


# ------------------------------------------------------------------------------------------ DNN001


def test_a_cudnn_that_torch_needs_and_nothing_gives_is_an_error():
    [symptom] = symptoms(no_cudnn, machine(cudnn={"for_torch": None, "installs": (SYSTEM,)}))

    assert symptom.severity is None
    assert symptom.saw == (
        f"{SITE}/torch/lib/libtorch_cuda.so needs libcudnn.so.9, which is in none of the places "
        "where the loader looks; there is /usr/lib/x86_64-linux-gnu/libcudnn.so.9"
    )
    assert commands(symptom) == (AGAIN,)


def test_without_torch_no_cudnn_at_all_is_a_warning():
    [symptom] = symptoms(no_cudnn, without_torch(selected_for_builds=None))

    assert symptom.severity is not None
    assert symptom.severity.value == "warning"


def test_where_nobody_asked_for_torch_nothing_asks_for_cudnn():
    python = replace(HEALTHY.pytorch.python, chosen_by="PATH")  # type: ignore[type-var]
    found = machine(without_torch(selected_for_builds=None), pytorch={"python": python})

    assert not is_applicable(no_cudnn, found)


def test_without_torch_a_system_cudnn_is_enough():
    assert passes(no_cudnn, without_torch())


def test_without_torch_and_without_gpu_there_is_no_question():
    found = machine(
        without_torch(selected_for_builds=None),
        host={"pci_gpus": (), "tegra": None},
        nvml={"count": 0},
        driver={"cuda_init": None},
    )

    assert not is_applicable(no_cudnn, found)


def test_a_cudnn_that_loads_is_fine():
    assert passes(no_cudnn, HEALTHY)


# ------------------------------------------------------------------------------------------ DNN002


def test_an_older_cudnn_of_the_same_major_is_an_error_that_says_what_fails():
    [symptom] = symptoms(older_cudnn, getting("9.14.0", found_via="LD_LIBRARY_PATH"))

    assert symptom.severity is None
    assert symptom.saw == (
        f"torch 2.11.0+cu130 was built with cuDNN 9.19.0.56; {FRONT} is 9.14.0 (found by "
        "LD_LIBRARY_PATH): torch.backends.cudnn.version() and the first nn.LSTM on a GPU raise"
    )


@pytest.mark.parametrize("version", ["8.9.7", "10.0.0"])
def test_a_cudnn_of_another_major_is_an_error(version: str):
    [symptom] = symptoms(older_cudnn, getting(version))

    assert symptom.severity is None


@pytest.mark.parametrize("version", ["9.19.0", "9.19.1", "9.26.0"])
def test_the_same_or_a_newer_minor_is_fine(version: str):
    assert passes(older_cudnn, getting(version))


def test_a_version_that_nobody_tells_is_not_checked():
    found = getting(Unknown("its name gives none"))

    assert [answer.why for answer in not_checked(older_cudnn, found)] == ["its name gives none"]


def test_a_torch_that_does_not_say_what_it_was_built_with_is_not_checked():
    torch = replace(HEALTHY.pytorch.torch, cudnn=None)  # type: ignore[type-var]

    assert not_checked(older_cudnn, machine(pytorch={"torch": torch}))


# ------------------------------------------------------------------------------------------ DNN003


def test_missing_parts_are_named():
    found = with_parts(
        part("ops"),
        part("heuristic", path=None, version=None),
        part("adv", path=Unknown("file too short")),
    )

    [symptom] = symptoms(torn_cudnn, found)

    assert symptom.saw == (
        f"{FRONT} is 9.19.0; libcudnn_heuristic.so.9 is missing; "
        "libcudnn_adv.so.9 will not load (file too short)"
    )
    assert commands(symptom) == (AGAIN,)


def test_parts_of_another_version_are_an_error():
    stranger = part(
        "graph",
        path="/opt/old/libcudnn_graph.so.9",
        version="9.14.0",
        found_via="LD_LIBRARY_PATH",
    )

    [symptom] = symptoms(torn_cudnn, with_parts(part("ops"), stranger))

    assert symptom.saw == (
        f"{FRONT} is 9.19.0; /opt/old/libcudnn_graph.so.9 is 9.14.0, by LD_LIBRARY_PATH"
    )


def test_parts_that_all_come_from_one_other_version_work_with_any_front():
    parts = [
        part(stem, path=f"/opt/old/libcudnn_{stem}.so.9", version="9.14.0")
        for stem in ("graph", "ops", "adv")
    ]

    assert passes(torn_cudnn, with_parts(*parts))


def test_a_part_that_torch_does_not_call_is_only_a_warning():
    unused = part("cnn", path="/usr/lib/x86_64-linux-gnu/libcudnn_cnn.so.9", version="9.14.0")

    [symptom] = symptoms(torn_cudnn, with_parts(part("ops"), part("graph"), unused))

    assert symptom.severity is Severity.WARNING


def system_part(**changes: Any) -> Library:
    """A part that only the system's newer cuDNN has: it mixes in."""
    path = "/usr/lib/x86_64-linux-gnu/libcudnn_engines_tensor_ir.so.9"
    fields = {"real_path": f"{path}.23.0", "found_via": "default directory", **changes}
    return part("engines_tensor_ir", path=path, version="9.23.0", **fields)


def test_a_part_from_the_systems_own_folder_names_the_package_that_owns_it():
    stranger = system_part(package="libcudnn9-cuda-13")

    [symptom] = symptoms(torn_cudnn, with_parts(part("ops"), part("graph"), stranger))

    assert "of the package libcudnn9-cuda-13" in symptom.saw
    assert commands(symptom) == ("apt remove libcudnn9-cuda-13",)
    assert symptom.remedy is not None
    assert symptom.remedy.steps[0].root


def test_a_part_by_ld_so_conf_names_the_file_that_brings_it():
    stranger = system_part(
        real_path="/opt/cudnn/lib/libcudnn_engines_tensor_ir.so.9.23.0", found_via="ld.so.cache"
    )
    conf = LoaderFolder(directory="/opt/cudnn/lib", file="/etc/ld.so.conf.d/cudnn.conf")
    found = machine(
        with_parts(part("ops"), part("graph"), stranger), libraries={"ld_so_conf": (conf,)}
    )

    [symptom] = symptoms(torn_cudnn, found)

    assert "/etc/ld.so.conf.d/cudnn.conf" in advice(symptom)
    assert commands(symptom) == ("ldconfig",)


def test_without_dpkgs_lists_the_package_manager_is_asked():
    found = machine(
        with_parts(part("ops"), part("graph"), system_part()),
        host={"distribution": "Rocky Linux 9.4 (Blue Onyx)"},
    )

    [symptom] = symptoms(torn_cudnn, found)

    assert commands(symptom)[0].startswith("rpm -qf /usr/lib/x86_64-linux-gnu/libcudnn_engines")


def test_parts_of_one_version_from_two_directories_are_fine():
    twin = part("graph", path="/usr/lib/x86_64-linux-gnu/libcudnn_graph.so.9.19.0")

    assert passes(torn_cudnn, with_parts(part("ops"), twin))


def test_a_part_from_elsewhere_of_unknown_version_is_not_checked():
    path = "/opt/old/libcudnn_graph.so.9"
    stranger = part("graph", path=path, real_path=path, version=Unknown("no name"))

    assert not_checked(torn_cudnn, with_parts(stranger))
    assert not symptoms(torn_cudnn, with_parts(stranger))


def test_without_torch_the_plain_cudnn_must_be_whole():
    path = f"{SYSTEM.directory}/libcudnn.so.9"
    torn = replace(SYSTEM, sublibraries=CUDNN_PARTS[1:])

    [symptom] = symptoms(torn_cudnn, without_torch(selected_for_builds=path, installs=(torn,)))

    assert symptom.saw == f"{path} is 9.14.0; next to it libcudnn_adv.so.9 is missing"
    assert passes(torn_cudnn, without_torch(selected_for_builds=path, installs=(SYSTEM,)))


# ------------------------------------------------------------------------------------------ DNN005


def test_a_cudnn_for_another_cuda_is_an_error():
    [symptom] = symptoms(foreign_cuda, machine(cudnn={"cuda_major_for_torch": 12}))

    assert symptom.saw == f"{FRONT} is built for CUDA 12; torch is built for CUDA 13.0"
    assert commands(symptom) == (AGAIN,)


def test_a_cudnn_for_torchs_cuda_is_fine():
    assert passes(foreign_cuda, HEALTHY)


def test_a_cudnn_that_does_not_tell_its_cuda_is_not_checked():
    found = machine(cudnn={"cuda_major_for_torch": Unknown("no package")})

    assert [answer.why for answer in not_checked(foreign_cuda, found)] == ["no package"]


# ------------------------------------------------------------------------------------------ DNN006


def test_the_loaders_message_is_shown():
    opened = CudnnOpened(path=FRONT, error="libz.so.1: cannot open shared object file")

    [symptom] = symptoms(unloadable_cudnn, machine(cudnn={"opened": opened}))

    assert symptom.saw == f"{FRONT} does not open: libz.so.1: cannot open shared object file"
    assert commands(symptom) == (AGAIN,)


def test_an_answer_unlike_the_name_is_a_warning_within_a_major():
    opened = CudnnOpened(path=FRONT, version="9.14.0")

    [symptom] = symptoms(unloadable_cudnn, machine(cudnn={"opened": opened}))

    assert symptom.severity is Severity.WARNING
    assert symptom.saw == f"{FRONT} is 9.19.0 by its name, and answers cudnnGetVersion with 9.14.0"


def test_an_answer_like_the_name_is_fine():
    assert passes(unloadable_cudnn, HEALTHY)


def test_nothing_to_open_raises_no_question():
    assert not is_applicable(unloadable_cudnn, machine(cudnn={"opened": None}))


def test_an_opening_that_took_too_long_is_not_checked():
    found = machine(cudnn={"opened": Unknown("no answer in 5 s")})

    assert [answer.why for answer in not_checked(unloadable_cudnn, found)] == ["no answer in 5 s"]


# ------------------------------------------------------------------------------------------ DNN008


def with_capability(capability: str, version: str = "9.19.0", **more: Any) -> Snapshot:
    return machine(
        getting(version), nvml={"gpus": (gpu(0), gpu(1, compute_capability=capability))}, **more
    )


def test_a_gpu_that_cudnn_dropped_is_an_error():
    [symptom] = symptoms(unsupported_gpu, with_capability("7.0"))

    assert symptom.subject == "gpu 1"
    assert symptom.saw == (
        f"cuDNN 9.19.0 ({FRONT}) needs compute capability 7.5 or newer; NVIDIA H200 has 7.0"
    )


def test_a_gpu_that_cudnn_does_not_know_yet_is_an_error():
    older = machine(
        with_capability("10.0", "9.5.1"),
        cudnn={"cuda_major_for_torch": 12},
    )

    [symptom] = symptoms(unsupported_gpu, older)

    assert symptom.saw == (
        f"cuDNN 9.5.1 ({FRONT}) knows GPUs up to compute capability 9.0; NVIDIA H200 has 10.0"
    )


def test_a_newer_minor_of_a_known_major_is_fine():
    assert passes(unsupported_gpu, with_capability("9.2"))


def test_what_was_seen_to_work_is_not_reported():
    workloads = tuple(
        GpuWork(index=n, bus_id=f"0000:00:0{6 + n}.0", convolution=None) for n in (0, 1)
    )

    found = machine(with_capability("7.0"), deep=Deep(gpus=workloads))

    assert passes(unsupported_gpu, found)


def test_a_version_that_the_table_does_not_know_is_not_checked():
    [answer] = not_checked(unsupported_gpu, getting("9.99.0"))

    assert "9.99.0" in answer.why


def test_no_gpu_raises_no_question():
    found = machine(
        nvml={"gpus": Unknown("NVML does not load"), "count": Unknown("NVML does not load")},
        host={"pci_gpus": (), "tegra": None},
        driver={"cuda_init": None},
    )

    assert not is_applicable(unsupported_gpu, found)
    assert not not_checked(unsupported_gpu, found)


def test_gpus_that_nvml_does_not_tell_are_not_checked():
    found = machine(nvml={"gpus": Unknown("NVML does not load")})

    assert [answer.why for answer in not_checked(unsupported_gpu, found)] == ["NVML does not load"]


# ----------------------------------------------------------------------------------------- folding


def test_an_older_cudnn_on_ld_library_path_is_one_complaint():
    old = "/opt/cudnn8/lib"
    parts = tuple(
        msgspec.structs.replace(
            library(soname, f"{old}/{soname}", "9.1.0", wheel_version="9.19.0"),
            wheel_path=f"{FOLDER}/{soname}",
            found_via="LD_LIBRARY_PATH",
            directory=old,
        )
        for soname in ("libcudnn.so.9", "libcudnn_graph.so.9")
    )
    found = machine(
        libraries={"resolved": parts},
        cudnn={
            "for_torch": parts[0],
            "cuda_major_for_torch": 12,
            "sublibraries_for_torch": (parts[1], replace(parts[1], path=None, soname="libx.so.9")),
            "installs": (
                replace(WHEEL, directory=old, version="9.1.0", cuda_major=12),
                WHEEL,
            ),
            "opened": CudnnOpened(path=f"{old}/libcudnn.so.9", version="9.0.0"),
        },
    )

    report = examine(found)

    found_here = [f for f in report.findings if f.code[:3] in ("LIB", "DNN")]
    assert {f.code for f in found_here if f.explained_by == "LIB001"} == {
        *("DNN002", "DNN003", "DNN005", "DNN006"),
    }
    assert {f.code for f in report.roots if f.severity is Severity.ERROR} == {"LIB001"}
