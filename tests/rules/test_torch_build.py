"""The rules about which torch build is here."""

import pytest

from gpucheck.rule import Severity
from gpucheck.rules import torch_build as rules
from gpucheck.snapshot import CudaInit, Distribution, Unknown
from machines import (
    CUDA_13,
    HEALTHY,
    SITE,
    advice,
    commands,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)
from seen_facts import seen
from torches import CPU, DEEP, NO_GPU, OLD_DRIVER, change, torch

# ------------------------------------------------------------------------------------- TOR001


def test_a_python_without_torch_is_a_warning_that_says_where_one_is():
    bad = machine(pytorch={"torch": None, "elsewhere": ("/opt/conda/bin/python",)})

    [found] = symptoms(rules.no_torch, bad)

    assert found.saw == (
        "/opt/venv/bin/python3 (Python 3.12.3), chosen by VIRTUAL_ENV, has no torch; there is "
        "one in /opt/conda/bin/python"
    )
    assert commands(found) == ("gpucheck doctor --python /opt/conda/bin/python",)


def test_without_another_the_wheel_that_fits_the_driver_is_named():
    bad = machine(pytorch={"torch": None, "elsewhere": (), "distributions": ()})

    [found] = symptoms(rules.no_torch, bad)

    assert commands(found) == (
        (
            "/opt/venv/bin/python3 -m pip install torch==2.15.0+cu132 --index-url "
            "https://download.pytorch.org/whl/cu132"
        ),
    )


def test_a_users_site_folder_is_no_python_to_name():
    site = "/home/me/.local/lib/python3.12/site-packages"
    bad = machine(pytorch={"torch": None, "elsewhere": (site,)})

    [found] = symptoms(rules.no_torch, bad)

    assert site in found.saw
    assert commands(found) == ()


def test_no_python_at_all_is_said():
    assert symptoms(rules.no_torch, machine(pytorch={"python": None, "torch": None}))


def test_a_missing_torch_without_a_gpu_is_only_mentioned():
    [found] = symptoms(rules.no_torch, machine(pytorch={"torch": None}, **NO_GPU))

    assert found.severity is None
    assert rules.no_torch.severity is Severity.INFO
    assert "DRV001" in rules.no_torch.caused_by


def test_a_host_whose_python_nobody_chose_needs_no_torch():
    python = change(seen(HEALTHY.pytorch.python), chosen_by="PATH", path="/usr/bin/python3")

    [found] = symptoms(
        rules.no_torch, machine(pytorch={"torch": None, "elsewhere": (), "python": python})
    )

    assert found.severity is None
    assert commands(found) == ()


def test_a_python_that_was_asked_for_and_has_none_is_a_warning():
    python = change(seen(HEALTHY.pytorch.python), chosen_by="--python")

    [found] = symptoms(
        rules.no_torch, machine(pytorch={"torch": None, "elsewhere": (), "python": python})
    )

    assert found.severity is Severity.WARNING


def test_a_python_that_could_not_be_asked_is_not_one_without_torch():
    bad = machine(pytorch={"torch": Unknown("no answer in 5 s")})

    assert not symptoms(rules.no_torch, bad)
    assert not_checked(rules.no_torch, bad)


# ------------------------------------------------------------------------------------- TOR002


def test_a_cpu_only_build_beside_a_gpu_is_an_error_with_the_right_index():
    [found] = symptoms(rules.cpu_build, machine(pytorch=torch(**CPU)))

    assert found.severity is None
    assert "2.11.0+cpu" in found.saw
    assert commands(found) == (
        (
            "/opt/venv/bin/python3 -m pip install torch==2.11.0+cu130 torchvision==0.26.0+cu130 "
            "--index-url https://download.pytorch.org/whl/cu130"
        ),
    )


def test_a_torch_later_than_the_last_torchaudio_is_of_a_cuda_that_torchaudio_has():
    bad = machine(
        pytorch={
            **torch(**{**CPU, "version": "2.13.0+cpu"}),
            "distributions": (
                Distribution(name="torch", version="2.13.0+cpu", location=SITE),
                Distribution(name="torchaudio", version="2.11.0", location=SITE),
            ),
        }
    )

    [found] = symptoms(rules.cpu_build, bad)

    [text] = commands(found)
    assert "torch==2.13.0+cu130 torchaudio==2.11.0+cu130 " in text


def test_a_cpu_only_build_without_a_gpu_is_only_mentioned():
    [found] = symptoms(rules.cpu_build, machine(pytorch=torch(**CPU), **NO_GPU))

    assert found.severity is Severity.INFO


def test_a_build_for_cuda_is_fine():
    assert passes(rules.cpu_build, machine())


def test_whether_a_gpu_is_here_has_to_be_known():
    unsure = machine(
        pytorch=torch(**CPU),
        host={"pci_gpus": Unknown("/sys is not there")},
        nvml={"count": Unknown("no NVML")},
        driver={"cuda_init": None},
    )

    assert not_checked(rules.cpu_build, unsure)
    assert not symptoms(rules.cpu_build, unsure)


def test_a_python_kept_by_uv_is_filled_by_uv():
    python = change(seen(HEALTHY.pytorch.python), uses_uv=True)

    [found] = symptoms(rules.cpu_build, machine(pytorch={**torch(**CPU), "python": python}))

    assert commands(found)[0].startswith("uv pip install --python /opt/venv/bin/python3 ")


# ------------------------------------------------------------------------------------- TOR003


@pytest.mark.parametrize("build", ["rocm", "xpu"])
def test_a_build_for_another_vendor_is_an_error(build):
    assert symptoms(rules.foreign_build, machine(pytorch=torch(build=build, cuda=None)))


def test_a_build_for_another_vendor_on_its_own_machine_is_none_of_our_business():
    rocm = machine(pytorch=torch(build="rocm", cuda=None), **NO_GPU)

    assert not is_applicable(rules.foreign_build, rocm)


def test_cuda_on_nvidia_is_fine():
    assert passes(rules.foreign_build, machine())


# ------------------------------------------------------------------------------------- TOR004


def test_a_driver_of_an_older_major_is_an_error_with_both_fixes():
    [found] = symptoms(rules.driver_too_old, machine(**OLD_DRIVER))

    assert found.saw == (
        "torch 2.11.0+cu130 is built for CUDA 13.0; driver 550.54.15 runs up to CUDA 12.4"
    )
    assert "Install driver 580.65.06 or newer" in advice(found)
    assert "cuda-compat-13-0" in advice(found)
    assert commands(found) == (
        (
            "/opt/venv/bin/python3 -m pip install torch==2.11.0+cu128 torchvision==0.26.0+cu128 "
            "--index-url https://download.pytorch.org/whl/cu128"
        ),
    )


def test_a_geforce_is_not_offered_the_compatibility_package():
    geforce = {
        **OLD_DRIVER["nvml"],
        "gpus": (gpu(0, name="NVIDIA GeForce RTX 4090", compute_capability="8.9"),),
    }

    [found] = symptoms(rules.driver_too_old, machine(driver=OLD_DRIVER["driver"], nvml=geforce))

    assert "cuda-compat" not in advice(found)


def test_a_compatibility_libcuda_that_a_toolkit_brought_is_put_to_use():
    brought = change(CUDA_13, compat_directory=f"{CUDA_13.home}/compat", compat_version="580.65.06")
    older = change(brought, compat_version="570.86.10")

    [found] = symptoms(
        rules.driver_too_old, machine(toolkits={"installed": (brought,)}, **OLD_DRIVER)
    )
    [other] = symptoms(
        rules.driver_too_old, machine(toolkits={"installed": (older,)}, **OLD_DRIVER)
    )

    assert "Put /usr/local/cuda-13.0/compat, whose libcuda 580.65.06" in advice(found)
    assert "Install cuda-compat-13-0" in advice(other)


def test_minor_version_compatibility_holds():
    good = machine(pytorch=torch(cuda="12.9", version="2.8.0+cu129"), **OLD_DRIVER)

    assert passes(rules.driver_too_old, good)


def test_a_driver_below_the_floor_of_its_own_major_is_an_error():
    bad = machine(
        pytorch=torch(cuda="11.8", version="2.7.1+cu118"),
        driver={"module_version": "450.51.06", "cuda_init": None},
        nvml={"cuda_version": "11.0", "driver_version": "450.51.06"},
    )

    assert symptoms(rules.driver_too_old, bad)


def test_a_newer_driver_runs_an_older_major():
    assert passes(rules.driver_too_old, machine(pytorch=torch(cuda="11.8", version="2.7.1+cu118")))


def test_a_compatibility_library_in_use_counts_as_the_newer_driver():
    init = CudaInit(library="/usr/local/cuda/compat/libcuda.so.1", code=0, driver_version="13.0")
    good = machine(driver={**OLD_DRIVER["driver"], "cuda_init": init}, nvml=OLD_DRIVER["nvml"])

    assert passes(rules.driver_too_old, good)


def test_a_compatibility_library_that_wins_counts_where_nothing_was_called():
    libraries = HEALTHY.driver.libraries
    assert isinstance(libraries, tuple)
    compat = change(libraries[0], is_compat=True, version="580.65.06")
    good = machine(driver={**OLD_DRIVER["driver"], "libraries": (compat,)}, nvml=OLD_DRIVER["nvml"])

    assert passes(rules.driver_too_old, good)


def test_a_torch_that_was_seen_to_work_outranks_the_numbers():
    assert passes(rules.driver_too_old, machine(deep=DEEP, **OLD_DRIVER))


def test_a_driver_and_a_cuda_that_no_table_knows_are_not_judged():
    new = machine(
        pytorch=torch(cuda="15.0"),
        driver={"module_version": "999.1", "cuda_init": None},
        nvml={"cuda_version": Unknown("no NVML"), "driver_version": "999.1"},
    )

    assert not_checked(rules.driver_too_old, new)
    assert not symptoms(rules.driver_too_old, new)


def test_without_a_driver_its_age_is_no_question():
    none = machine(
        driver={"module_version": None, "libraries": (), "cuda_init": None},
        nvml={"cuda_version": Unknown("no NVML"), "driver_version": Unknown("no NVML")},
    )

    assert not is_applicable(rules.driver_too_old, none)


# ------------------------------------------------------------------------------------- TOR005


def test_a_gpu_that_the_build_has_no_code_for_is_an_error():
    volta = machine(
        nvml={"gpus": (gpu(0, name="Tesla V100-SXM2-16GB", compute_capability="7.0"), gpu(1))}
    )

    [found] = symptoms(rules.no_kernels, volta)

    assert found.subject == "gpu 0"
    assert found.saw.startswith("Tesla V100-SXM2-16GB is sm_70; torch 2.11.0+cu130 has code for ")


def test_gpus_of_one_kind_are_one_finding():
    eight = tuple(gpu(n, name="NVIDIA B200", compute_capability="10.0") for n in range(8))
    old = torch(architectures=("sm_80", "sm_90"))

    [found] = symptoms(rules.no_kernels, machine(pytorch=old, nvml={"gpus": eight}))

    assert found.subject.startswith("gpu 0, gpu 1, ")


@pytest.mark.parametrize(
    ("capability", "architectures"),
    [("8.6", ("sm_80",)), ("8.9", ("sm_86",)), ("12.0", ("sm_90", "compute_90"))],
)
def test_a_lower_minor_and_ptx_serve(capability, architectures):
    good = machine(
        pytorch=torch(architectures=architectures),
        nvml={"gpus": (gpu(0, compute_capability=capability),)},
    )

    assert passes(rules.no_kernels, good)


def test_a_kernel_that_was_seen_to_run_outranks_the_list():
    assert passes(rules.no_kernels, machine(pytorch=torch(architectures=("sm_80",)), deep=DEEP))


def test_a_build_without_a_list_is_not_judged():
    unknown = torch(architectures=Unknown("no list of architectures in this build"))

    assert not_checked(rules.no_kernels, machine(pytorch=unknown))
