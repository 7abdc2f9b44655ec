"""Which driver is here, which libcuda is loaded, and what CUDA that runs."""

from typing import Any

import pytest

from gpucheck import derived
from gpucheck.snapshot import CudaInit, DriverLibrary, GpuProcess, Snapshot, Unknown, replace
from machines import CUDA_13, DRIVER, HEALTHY, gpu, machine, with_variables
from seen_facts import seen

LIBCUDA, LIBNVML = seen(HEALTHY.driver.libraries)
SILENT = {"driver_version": Unknown("no NVML"), "cuda_version": Unknown("no NVML")}


def with_libraries(*libraries: DriverLibrary, **driver: Any) -> Snapshot:
    """Driver 550, and no answer from CUDA: what its files say is all that is known."""
    facts = {"module_version": "550.54.14", "cuda_init": None, "libraries": libraries}
    return machine(driver={**facts, **driver}, nvml=SILENT)


def test_the_driver_is_the_module_then_what_nvml_says_then_the_library():
    unloaded = {"module_version": None}

    assert derived.driver_version(machine(nvml={"driver_version": "1.2"})) == DRIVER
    assert derived.driver_version(machine(driver=unloaded, nvml={"driver_version": "1.2"})) == "1.2"
    assert derived.driver_version(machine(driver=unloaded, nvml=SILENT)) == DRIVER
    assert derived.driver_version(with_libraries(module_version=None)) is None


def test_a_stub_and_a_compatibility_library_are_no_drivers():
    stub = replace(LIBCUDA, is_stub=True)
    compat = replace(LIBCUDA, is_compat=True, version="600.1")

    found = with_libraries(stub, compat, LIBNVML, module_version=None)

    assert derived.driver_copies(found) == (LIBNVML,)
    assert derived.driver_version(found) == DRIVER


def test_libraries_that_could_not_be_looked_for_are_unknown():
    closed = machine(driver={"libraries": Unknown("no permission")})

    assert derived.driver_copies(closed) == Unknown("no permission")
    assert derived.selected_libcuda(closed) is None


def test_the_loaded_libcuda_is_the_one_that_the_loader_takes():
    other = replace(LIBCUDA, path="/opt/libcuda.so.1")
    passed_over = replace(LIBCUDA, is_selected=False)

    assert derived.selected_libcuda(with_libraries(LIBNVML, passed_over, other)) == other
    assert derived.selected_libcuda(with_libraries(passed_over)) is None


@pytest.mark.parametrize(
    ("changes", "release"),
    [
        ({"is_compat": True, "version": "580.65.06"}, "580.65.06"),
        ({"is_compat": True, "version": Unknown("no name")}, ""),
        ({"is_compat": True, "is_selected": False}, None),
        ({"is_compat": False}, None),
    ],
)
def test_a_compatibility_library_counts_where_it_is_loaded(
    changes: dict[str, Any], release: str | None
):
    assert derived.compat_library(with_libraries(replace(LIBCUDA, **changes))) == release


def test_the_newest_cuda_is_what_libcuda_answered():
    asked = machine(driver={"cuda_init": CudaInit(code=0, driver_version="12.8")})

    assert derived.newest_cuda(asked) == "12.8"


def test_a_compatibility_library_lifts_the_newest_cuda_unless_it_is_older():
    newer = replace(LIBCUDA, is_compat=True, version="580.65.06")
    older = replace(LIBCUDA, is_compat=True, version="535.54.03")

    assert derived.newest_cuda(with_libraries(newer)) == "13.0"
    assert derived.newest_cuda(with_libraries(older)) == "12.4"


def test_an_older_compatibility_library_takes_nothing_from_the_driver():
    older = replace(LIBCUDA, is_compat=True, version="535.161.08")
    answered = CudaInit(code=803, driver_version="12.2")
    here = machine(driver={"libraries": (older, LIBNVML), "cuda_init": answered})

    assert derived.newest_cuda(here) == "13.0"
    assert derived.runs_cuda(here, "13.0") is True


def test_without_libcuda_nvml_says_the_newest_cuda_and_then_the_table():
    silent = {"cuda_init": None}

    assert derived.newest_cuda(machine(driver=silent, nvml={"cuda_version": "12.9"})) == "12.9"
    assert derived.newest_cuda(with_libraries()) == "12.4"
    assert derived.newest_cuda(with_libraries(module_version=None)) is None


def test_report_remedies_and_exports_agree_on_what_a_compatibility_library_runs():
    compat = with_libraries(replace(LIBCUDA, is_compat=True, version="580.65.06"))

    assert derived.runs_cuda(compat, "13.0") is True
    assert derived.driver_runs(compat, CUDA_13) is True
    assert derived.driver_runs(with_libraries(LIBCUDA), CUDA_13) is False


@pytest.mark.parametrize(
    "shared",
    [
        machine(driver={"mps_is_running": True}),
        with_variables(CUDA_MPS_PIPE_DIRECTORY="/tmp/mps"),
        machine(nvml={"gpus": (gpu(processes=(GpuProcess(pid=1, kind="mps"),)),)}),
        machine(
            nvml={
                "gpus": (
                    gpu(processes=(GpuProcess(pid=1, kind="compute", name="nvidia-cuda-mps"),)),
                )
            }
        ),
    ],
    ids=["socket", "variable", "kind", "name"],
)
def test_mps_runs_by_whoever_shows_it(shared: Snapshot):
    assert derived.mps_is_running(shared)
    assert not derived.mps_is_running(HEALTHY)
