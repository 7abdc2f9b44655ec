import pytest

from gpucheck.rule import Severity
from gpucheck.rules import leftover_variables
from gpucheck.snapshot import Distribution, SelectedFile
from machines import commands, machine, passes, symptoms, with_variables
from seen_facts import seen


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_LAUNCH_BLOCKING", "1"),
        ("CUDA_PROFILE", "1"),
        ("COMPUTE_PROFILE", "1"),
        ("CUDA_INJECTION64_PATH", "/opt/tool.so"),
        ("NVIDIA_TF32_OVERRIDE", "0"),
        ("CUDA_AUTO_BOOST", "0"),
        ("TORCH_USE_CUDA_DSA", "1"),
        ("TORCH_DISTRIBUTED_DEBUG", "DETAIL"),
    ],
)
def test_a_debugging_variable_that_is_on_is_a_warning(name, value):
    [found] = symptoms(leftover_variables.debugging_is_on, with_variables(**{name: value}))

    assert found.subject == name
    assert commands(found) == (f"unset {name}",)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_LAUNCH_BLOCKING", "0"),
        ("CUDA_LAUNCH_BLOCKING", ""),
        ("NVIDIA_TF32_OVERRIDE", "1"),
        ("TORCH_DISTRIBUTED_DEBUG", "OFF"),
        ("TORCH_DISTRIBUTED_DEBUG", "INFO"),
    ],
)
def test_a_debugging_variable_at_its_off_value_is_fine(name, value):
    assert passes(leftover_variables.debugging_is_on, with_variables(**{name: value}))


@pytest.mark.parametrize("name", ["NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"])
def test_a_fast_path_that_is_off_is_a_warning(name):
    [found] = symptoms(leftover_variables.nccl_is_hobbled, with_variables(**{name: "1"}))

    assert found.severity is None


def test_infiniband_that_is_off_matters_where_it_is():
    m = with_variables(NCCL_IB_DISABLE="1")

    assert passes(leftover_variables.nccl_is_hobbled, m)
    assert symptoms(
        leftover_variables.nccl_is_hobbled, machine(m, host={"rdma_devices": ("mlx5_0",)})
    )


def test_nvls_that_is_off_is_a_remark():
    [found] = symptoms(leftover_variables.nccl_is_hobbled, with_variables(NCCL_NVLS_ENABLE="0"))

    assert found.severity is Severity.INFO


def test_peers_that_cannot_reach_each_other_lose_nothing():
    from gpucheck.snapshot import GpuPair

    m = machine(
        with_variables(NCCL_P2P_DISABLE="1"), nvml={"pairs": (GpuPair(a=0, b=1, p2p_read="CNS"),)}
    )

    assert passes(leftover_variables.nccl_is_hobbled, m)


def selecting(name, path, exists, *distributions):
    m = with_variables(**{name: path})
    found = tuple(Distribution(name=each, version="1.0") for each in distributions)
    selected = SelectedFile(variable=name, value=path, exists=exists)
    return machine(
        m,
        environment={"selected_files": (selected,)},
        pytorch={"distributions": (*seen(m.pytorch.distributions), *found)},
    )


@pytest.mark.parametrize(
    ("name", "reader"),
    [
        ("TRITON_PTXAS_PATH", "triton"),
        ("NUMBA_CUDA_DRIVER", "numba"),
        ("XLA_FLAGS", "jax"),
        ("BNB_CUDA_VERSION", "bitsandbytes"),
    ],
)
def test_a_variable_that_selects_a_missing_file_is_an_error(name, reader):
    [found] = symptoms(
        leftover_variables.selected_file_is_missing, selecting(name, "/gone", False, reader)
    )

    assert found.severity is None
    assert "/gone, which does not exist" in found.saw
    assert commands(found) == (f"unset {name}",)


def test_a_variable_that_only_builds_read_is_a_warning():
    m = selecting("CUDNN_PATH", "/gone", False)

    [found] = symptoms(leftover_variables.selected_file_is_missing, m)

    assert found.severity is Severity.WARNING


def test_a_variable_of_a_package_that_is_not_here_is_nobodys_business():
    m = selecting("NUMBA_CUDA_DRIVER", "/gone", False)

    assert passes(leftover_variables.selected_file_is_missing, m)


def test_a_variable_that_selects_what_is_there_is_fine():
    m = selecting("TRITON_PTXAS_PATH", "/opt/ptxas", True)

    assert passes(leftover_variables.selected_file_is_missing, m)
