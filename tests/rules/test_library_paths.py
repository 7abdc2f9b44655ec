"""The rules about what the loader gives torch: LIB001, LIB005 to LIB007."""

from typing import Any

import pytest

from gpucheck.rule import Severity
from gpucheck.rules.library_paths import (
    cached_toolkit,
    old_cxx_library,
    shadowed_wheels,
    uncached_driver,
)
from gpucheck.snapshot import (
    CxxLibrary,
    Distribution,
    DriverLibrary,
    Library,
    LoaderFolder,
    Snapshot,
    Unknown,
    replace,
)
from machines import (
    CUDA_12,
    CUDA_13,
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
    with_variables,
)
from torches import DEEP

OLD = "/usr/local/cuda-12.4/lib64"


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


def conf(directory: str) -> LoaderFolder:
    return LoaderFolder(directory=directory, file="/etc/ld.so.conf.d/cuda.conf", has_cudart=True)


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
        f"LD_LIBRARY_PATH puts {OLD} before torch's own {SITE}/nvidia/cu13/lib: "
        "libnvJitLink.so.13 13.1.5 instead of 13.0.88 and libcublasLt.so.13 13.2.0.1 instead of "
        "13.1.0.3"
    )
    assert symptom.severity is None
    assert commands(symptom) == ("export LD_LIBRARY_PATH=/opt/lib",)


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

    assert commands(symptom) == ("unset LD_LIBRARY_PATH",)


def test_a_preloaded_library_is_reported_too():
    found = with_libraries(
        shadowed("libnccl.so.2", "2.20.3", "2.28.9", found_via="LD_PRELOAD", directory="/x"),
        base=with_variables(LD_PRELOAD=f"/y/libz.so {OLD}/libnccl.so.2"),
    )

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.saw.startswith(f"LD_PRELOAD puts {OLD}/libnccl.so.2 before")
    assert commands(symptom) == ("export LD_PRELOAD=/y/libz.so",)


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


def test_many_libraries_of_one_folder_are_counted():
    many = [shadowed(f"libx{n}.so.13", "12.0", "13.0") for n in range(9)]

    [symptom] = symptoms(shadowed_wheels, with_libraries(*many))

    assert symptom.saw.endswith(
        "libx0.so.13 12.0 instead of 13.0, libx1.so.13 12.0 instead of 13.0, "
        "libx2.so.13 12.0 instead of 13.0 and 6 more"
    )


def test_another_patch_release_serves_as_well():
    found = with_libraries(shadowed("libnccl.so.2", "2.28.3", "2.28.9"))

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.severity is Severity.WARNING


def test_a_whole_cudnn_of_the_same_major_serves_as_well():
    old = [shadowed(name, "9.14.0", "9.19.0.56") for name in ("libcudnn.so.9", *CUDNN_PARTS)]
    parts = tuple(each for each in old if each.soname != "libcudnn.so.9")
    found = machine(with_libraries(*old), cudnn={"sublibraries_for_torch": parts})

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.severity is Severity.WARNING


def test_parts_of_two_cudnns_do_not_serve():
    mixed = shadowed("libcudnn_graph.so.9", "9.14.0", "9.19.0.56")
    parts = (mixed, *HEALTHY.cudnn.sublibraries_for_torch[1:])  # type: ignore[index]
    found = machine(with_libraries(mixed), cudnn={"sublibraries_for_torch": parts})

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.severity is None


def test_what_was_seen_to_work_is_a_warning():
    found = machine(with_libraries(shadowed("libnvJitLink.so.13", "12.0", "13.0")), deep=DEEP)

    [symptom] = symptoms(shadowed_wheels, found)

    assert symptom.severity is Severity.WARNING


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


# ------------------------------------------------------------------------------------------ LIB005


def test_a_toolkit_in_the_cache_of_another_version_than_cuda_home_is_mentioned():
    directory = str(CUDA_12.library_directory)
    found = machine(
        libraries={"ld_so_conf": (conf(directory),)}, toolkits={"installed": (CUDA_13, CUDA_12)}
    )

    [symptom] = symptoms(cached_toolkit, found)

    assert symptom.subject == directory
    assert symptom.saw == (
        f"/etc/ld.so.conf.d/cuda.conf puts {directory} (CUDA 12.4) into the loader's cache; "
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


# ------------------------------------------------------------------------------------------ LIB006

OLD_CXX = CxxLibrary(
    path="/opt/matlab/sys/os/glnxa64/libstdc++.so.6",
    found_via="LD_LIBRARY_PATH",
    directory="/opt/matlab/sys/os/glnxa64",
    newest="GLIBCXX_3.4.25",
    missing=("GLIBCXX_3.4.26", "GLIBCXX_3.4.29"),
    needed_by=f"{SITE}/torch/lib/libtorch_python.so",
    newer=("/usr/lib/x86_64-linux-gnu/libstdc++.so.6",),
)


def test_a_cxx_library_that_lacks_versions_is_an_error_with_the_path_that_gave_it():
    bad = machine(
        with_variables(LD_LIBRARY_PATH=f"{OLD_CXX.directory}:/opt/lib"),
        libraries={"cxx": OLD_CXX},
    )

    [symptom] = symptoms(old_cxx_library, bad)

    assert symptom.saw == (
        f"{SITE}/torch/lib/libtorch_python.so needs GLIBCXX_3.4.26 and GLIBCXX_3.4.29; "
        f"{OLD_CXX.path} has up to GLIBCXX_3.4.25, found by LD_LIBRARY_PATH; "
        "/usr/lib/x86_64-linux-gnu/libstdc++.so.6 would do"
    )
    assert commands(symptom) == ("export LD_LIBRARY_PATH=/opt/lib",)


def test_a_conda_environment_that_lost_its_link_gets_the_package_again():
    python = replace(HEALTHY.pytorch.python, conda_tool="conda")  # type: ignore[type-var]
    lost = replace(OLD_CXX, found_via="ld.so.cache", newer=("/opt/venv/lib/libstdc++.so.6.0.33",))

    [symptom] = symptoms(
        old_cxx_library, machine(pytorch={"python": python}, libraries={"cxx": lost})
    )

    assert commands(symptom) == ("conda install -p /opt/venv --force-reinstall libstdcxx-ng",)


def test_a_system_that_is_too_old_is_said_to_be():
    old = replace(OLD_CXX, found_via="ld.so.cache", newer=())

    [symptom] = symptoms(old_cxx_library, machine(libraries={"cxx": old}))

    assert "container" in advice(symptom)


def test_a_cxx_library_that_has_all_is_fine():
    assert passes(old_cxx_library, HEALTHY)


# ------------------------------------------------------------------------------------------ LIB007

CUDA = "/usr/lib64-nvidia/libcuda.so.1"


def by_variable(*more: DriverLibrary, triton: str = "3.6.0") -> Snapshot:
    selected = DriverLibrary(
        soname="libcuda.so.1",
        path=CUDA,
        found_via="LD_LIBRARY_PATH",
        is_selected=True,
        is_stub=False,
    )
    here = Distribution(name="triton", version=triton, location=SITE)
    return machine(driver={"libraries": (selected, *more)}, pytorch={"distributions": (here,)})


def test_a_driver_that_a_variable_alone_names_is_only_mentioned():
    [symptom] = symptoms(uncached_driver, by_variable())

    assert symptom.severity is None
    assert uncached_driver.severity is Severity.INFO
    assert "TRITON_LIBCUDA_PATH" in str(symptom.remedy)


def test_a_triton_that_looks_into_the_cache_alone_makes_it_a_warning():
    [symptom] = symptoms(uncached_driver, by_variable(triton="2.1.0"))

    assert symptom.severity is Severity.WARNING
    assert commands(symptom) == ("ldconfig /usr/lib64-nvidia",)


def test_a_copy_in_the_cache_is_enough():
    cached = DriverLibrary(
        soname="libcuda.so.1", path="/usr/lib/libcuda.so.1", found_via="ld.so.cache"
    )

    assert passes(uncached_driver, by_variable(cached))
    assert passes(uncached_driver, HEALTHY)
