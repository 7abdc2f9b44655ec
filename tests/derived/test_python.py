"""The one answer to questions about torch, its libraries and the toolkit that builds use."""

from typing import Any

import pytest

from gpucheck import derived
from gpucheck.snapshot import CudaInit, Distribution, HomeVariable, Toolkit, Unknown, replace
from machines import CUDA_12, CUDA_13, HEALTHY, SITE, library, machine
from seen_facts import seen
from torches import DEEP, NO_GPU, OLD_DRIVER


def variable(home: str | None) -> HomeVariable:
    return HomeVariable(value=home or "/nowhere", resolved=home)


@pytest.mark.parametrize(
    ("environment", "toolkits", "name", "home"),
    [
        ({}, {}, "CUDA_HOME", CUDA_13.home),
        ({"cuda_home": variable(CUDA_12.home)}, {}, "CUDA_HOME", CUDA_12.home),
        (
            {"cuda_home": None, "cuda_path": variable(CUDA_12.home)},
            {},
            "CUDA_PATH",
            CUDA_12.home,
        ),
        (
            {"cuda_home": None},
            {"first_nvcc": "/x/bin/nvcc", "first_nvcc_home": CUDA_12.home},
            "/x/bin/nvcc",
            CUDA_12.home,
        ),
        ({"cuda_home": None}, {"first_nvcc": None}, "/usr/local/cuda", CUDA_13.home),
        ({"cuda_home": variable(None)}, {}, "CUDA_HOME", None),
    ],
)
def test_builds_take_the_toolkit_that_torchs_own_order_gives(
    environment: Any, toolkits: Any, name: str, home: str | None
):
    found = machine(environment=environment, toolkits={"installed": (CUDA_13, CUDA_12), **toolkits})

    toolkit = derived.toolkit_for_builds(found)

    assert derived.home_for_builds(found) == (name, home)
    assert (toolkit.home if isinstance(toolkit, Toolkit) else toolkit) == home


def test_a_toolkit_that_could_not_be_looked_for_is_unknown():
    assert isinstance(
        derived.toolkit_for_builds(machine(toolkits={"installed": Unknown("no answer")})), Unknown
    )


@pytest.mark.parametrize(
    ("cuda", "runs"), [("12.8", True), ("12.0", True), ("11.8", True), ("13.0", False)]
)
def test_a_driver_runs_its_own_major_and_older_ones(cuda: str, runs: bool):
    assert derived.runs_cuda(machine(**OLD_DRIVER), cuda) is runs


def test_what_libcuda_answers_outranks_the_drivers_number():
    init = CudaInit(code=0, driver_version="13.0")

    assert derived.runs_cuda(machine(driver={**OLD_DRIVER["driver"], "cuda_init": init}), "13.0")


@pytest.mark.parametrize(
    ("chosen_by", "changes", "wanted"),
    [
        ("VIRTUAL_ENV", {}, True),
        ("--python", {}, True),
        ("PATH", {}, False),
        ("VIRTUAL_ENV", NO_GPU, False),
    ],
)
def test_torch_is_wanted_where_somebody_chose_the_python(
    chosen_by: str, changes: Any, wanted: bool
):
    python = replace(HEALTHY.pytorch.python, chosen_by=chosen_by)  # type: ignore[type-var]

    assert derived.is_torch_wanted(machine(pytorch={"python": python}, **changes)) is wanted


def test_of_two_copies_of_a_wheel_the_one_next_to_torch_counts():
    near, far = (
        Distribution(name="nvidia-nccl-cu13", version=version, location=site)
        for version, site in (("2.28.9", SITE), ("2.10", "/home/me/.local"))
    )
    torch = Distribution(name="torch", version="2.11.0", location=SITE)

    found = derived.wheels_here(machine(pytorch={"distributions": (far, torch, near)}))

    assert found == {"nvidia-nccl-cu13": near}


def test_torchs_requirements_are_those_of_the_torch_that_is_imported():
    stray = Distribution(name="torch", version="2.5", location="/x", requires=("triton==3.1",))
    own = Distribution(name="torch", version="2.11", location=SITE, requires=("triton==3.6",))

    found = machine(pytorch={"distributions": (stray, own)})

    assert derived.torch_requirements(found) == ("triton==3.6",)


def test_parts_of_one_version_make_a_whole_cudnn():
    part = library("libcudnn_ops.so.9", "/x/libcudnn_ops.so.9", "9.14.0")

    def whole(*parts: Any) -> bool:
        return derived.cudnn_is_of_one_version(machine(cudnn={"sublibraries_for_torch": parts}))

    assert whole(part, part)
    assert not whole(part, replace(part, version="9.19.0"))
    assert not whole(part, replace(part, path=None))
    assert not whole()


def test_only_what_deep_saw_to_the_end_works():
    assert derived.works_on_gpus(machine(deep=DEEP))
    assert not derived.works_on_gpus(machine())
    assert not derived.works_on_gpus(machine(deep=replace(DEEP, import_error="ImportError: x")))
    assert not derived.works_on_gpus(machine(deep=replace(DEEP, gpus=())))


def test_a_cudnn_has_the_version_of_its_name_else_of_its_install():
    front = next(lib.path for lib in seen(HEALTHY.libraries.resolved) if "cudnn" in lib.soname)
    unnamed = machine(libraries={"resolved": ()})

    assert derived.cudnn_version(HEALTHY, seen(front)) == "9.19.0"
    assert derived.cudnn_version(HEALTHY, "/lib/x86_64-linux-gnu/libcudnn.so.9") == "9.14.0"
    assert derived.cudnn_version(unnamed, seen(front)) == "9.19.0"
    assert isinstance(derived.cudnn_version(HEALTHY, "/opt/libcudnn.so.9"), Unknown)
