"""Which toolkit to build with, and by which name."""

from typing import Any

import pytest

from gpucheck import derived
from gpucheck.snapshot import Toolkit, Unknown, replace
from machines import CUDA_12, CUDA_13, HEALTHY, machine, with_variables
from seen_facts import seen
from toolkit_machines import DISTRIBUTION
from torches import CPU, NO_GPU, OLD_DRIVER, torch


@pytest.mark.parametrize(
    ("changes", "major"),
    [({}, 13), ({"cuda": "12.6"}, 12), (CPU, None), ({"cuda": Unknown("no version.py")}, None)],
)
def test_torchs_major_is_that_of_a_cuda_build(changes: dict[str, Any], major: int | None):
    assert derived.torch_cuda_major(machine(pytorch=torch(**changes))) == major


def test_a_toolkit_fits_torch_by_its_major():
    assert derived.fits_torch(HEALTHY, CUDA_13) is True
    assert derived.fits_torch(HEALTHY, CUDA_12) is False
    assert derived.fits_torch(machine(pytorch={"torch": None}), CUDA_12) is None


@pytest.mark.parametrize(
    ("toolkit", "name"),
    [
        (CUDA_13, "/usr/local/cuda"),  # the link that leads to it outlives an upgrade
        (CUDA_12, "/usr/local/cuda-12.4"),
        (DISTRIBUTION, "/usr"),
    ],
)
def test_a_home_is_named_as_it_will_last(toolkit: Toolkit, name: str):
    assert derived.home_name(toolkit) == name


def preferred(*installed: Toolkit, **changes: Any) -> list[str]:
    here = machine(toolkits={"installed": installed}, **changes)
    return [toolkit.home for toolkit in derived.toolkits_by_preference(here)]


def test_torchs_major_goes_before_the_newest():
    assert preferred(CUDA_13, CUDA_12)[0] == CUDA_13.home
    assert preferred(CUDA_13, CUDA_12, pytorch=torch(cuda="12.6"))[0] == CUDA_12.home


def test_what_the_driver_runs_a_compiler_and_all_users_go_first():
    bare = replace(CUDA_13, home="/opt/bare", nvcc=None)
    conda = replace(CUDA_13, home="/opt/conda", origin="conda")

    assert preferred(CUDA_13, CUDA_12, pytorch={"torch": None}, **OLD_DRIVER)[0] == CUDA_12.home
    assert preferred(bare, CUDA_13) == [CUDA_13.home, "/opt/bare"]
    assert preferred(conda, CUDA_13) == [CUDA_13.home, "/opt/conda"]


def test_a_toolkit_of_another_major_than_torchs_is_not_recommended():
    only_12 = machine(toolkits={"installed": (CUDA_12,)})

    assert derived.recommended_home(HEALTHY) == "/usr/local/cuda"
    assert derived.recommended_home(only_12) is None
    assert derived.recommended_home(machine(toolkits={"installed": Unknown("no")})) is None


def test_a_machine_uses_cuda_by_a_gpu_a_toolkit_or_a_variable():
    nothing = with_variables(machine(**NO_GPU, toolkits={"installed": ()}), CUDA_HOME=None)

    assert not derived.uses_cuda(nothing)
    assert derived.uses_cuda(machine(nothing, toolkits={"installed": (CUDA_13,)}))
    assert derived.uses_cuda(machine(nothing, toolkits={"installed": Unknown("no permission")}))
    assert derived.uses_cuda(with_variables(nothing, NCCL_DEBUG="INFO"))
    assert derived.uses_cuda(machine(nothing, host={"pci_gpus": HEALTHY.host.pci_gpus}))


def test_the_users_shell_is_bash_where_it_is_not_known():
    fish = derived.user_shell(machine(environment={"shell": "fish"}))
    unknown = derived.user_shell(machine(environment={"shell": Unknown("no /proc")}))

    assert (fish.name, unknown.name) == ("fish", "bash")
    assert seen(HEALTHY.environment.shell) == "bash"
