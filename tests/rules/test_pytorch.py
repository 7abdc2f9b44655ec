"""The rules about PyTorch."""

import msgspec
import pytest

from gpucheck.report import examine
from gpucheck.rule import Rule, Severity
from gpucheck.rules import pytorch as rules
from gpucheck.snapshot import (
    CudaInit,
    Deep,
    Distribution,
    GpuWork,
    Unknown,
)
from machines import (
    HEALTHY,
    SITE,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)

change = msgspec.structs.replace
NO_GPU = {"host": {"pci_gpus": ()}, "nvml": {"count": 0, "gpus": ()}, "driver": {"cuda_init": None}}
OLD_DRIVER = {
    "driver": {"module_version": "550.54.15", "cuda_init": None},
    "nvml": {"cuda_version": "12.4", "driver_version": "550.54.15"},
}
WORKS = GpuWork(index=0, bus_id="0000:00:06.0", kernel=None, matrix_product=None, convolution=None)
DEEP = Deep(
    import_error=None,
    is_available=True,
    warning=None,
    device_count=2,
    torch_cuda="13.0",
    cudnn="9.19.0",
    architectures=("sm_90",),
    gpus=(WORKS, change(WORKS, index=1, bus_id="0000:00:07.0")),
    copies=(),
)


def torch(**changes):
    return {"torch": change(HEALTHY.pytorch.torch, **changes)}


def deep(**changes) -> Deep:
    return change(DEEP, **changes)


def distributions(*found):
    return {
        "distributions": tuple(
            Distribution(name=name, version=version, location=SITE, installer="pip", requires=needs)
            for name, version, needs in found
        )
    }


# ------------------------------------------------------------------------------------- TOR001


def test_a_python_without_torch_is_a_warning_that_says_where_one_is():
    bad = machine(pytorch={"torch": None, "elsewhere": ("/opt/conda/bin/python",)})

    [found] = symptoms(rules.no_torch, bad)

    assert found.saw == (
        "/opt/venv/bin/python3 (Python 3.12.3), chosen by VIRTUAL_ENV, has no torch; there is "
        "one in /opt/conda/bin/python"
    )
    assert found.commands == ("gpucheck doctor --python /opt/conda/bin/python",)


def test_without_another_the_wheel_that_fits_the_driver_is_named():
    bad = machine(pytorch={"torch": None, "elsewhere": (), "distributions": ()})

    [found] = symptoms(rules.no_torch, bad)

    assert found.commands == (
        (
            "/opt/venv/bin/python3 -m pip install torch --index-url "
            "https://download.pytorch.org/whl/cu132"
        ),
    )


def test_no_python_at_all_is_said():
    assert symptoms(rules.no_torch, machine(pytorch={"python": None, "torch": None}))


def test_a_missing_torch_without_a_gpu_is_only_mentioned():
    [found] = symptoms(rules.no_torch, machine(pytorch={"torch": None}, **NO_GPU))

    assert found.severity is Severity.INFO
    assert "DRV001" in rules.no_torch.caused_by


def test_a_python_that_could_not_be_asked_is_not_one_without_torch():
    bad = machine(pytorch={"torch": Unknown("no answer in 5 s")})

    assert not symptoms(rules.no_torch, bad)
    assert not_checked(rules.no_torch, bad)


# ------------------------------------------------------------------------------------- TOR002

CPU = {"build": "cpu", "version": "2.11.0+cpu", "cuda": None}


def test_a_cpu_only_build_beside_a_gpu_is_an_error_with_the_right_index():
    [found] = symptoms(rules.cpu_build, machine(pytorch=torch(**CPU)))

    assert found.severity is None
    assert "2.11.0+cpu" in found.saw
    assert found.commands == (
        (
            "/opt/venv/bin/python3 -m pip install --force-reinstall torch torchvision --index-url "
            "https://download.pytorch.org/whl/cu132"
        ),
    )


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


def test_a_python_kept_by_uv_is_mended_by_uv():
    uv = Distribution(name="torch", version="2.11.0", location=SITE, installer="uv")

    [found] = symptoms(rules.cpu_build, machine(pytorch={**torch(**CPU), "distributions": (uv,)}))

    assert found.commands[0].startswith("uv pip install --python /opt/venv/bin/python3 ")


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
    assert "install driver 580.65.06 or newer" in found.fix
    assert "cuda-compat-13-0" in found.fix
    assert found.commands == (
        (
            "/opt/venv/bin/python3 -m pip install --force-reinstall torch torchvision --index-url "
            "https://download.pytorch.org/whl/cu126"
        ),
    )


def test_a_geforce_is_not_offered_the_compatibility_package():
    geforce = {
        **OLD_DRIVER["nvml"],
        "gpus": (gpu(0, name="NVIDIA GeForce RTX 4090", compute_capability="8.9"),),
    }

    [found] = symptoms(rules.driver_too_old, machine(driver=OLD_DRIVER["driver"], nvml=geforce))

    assert "cuda-compat" not in found.fix


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
        driver={"module_version": None, "cuda_init": None},
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


# ------------------------------------------------------------------------------------- TOR006


TORCH = ("torch", "2.11.0", ("triton==3.6.0",))


def test_a_torchvision_that_requires_another_torch_is_an_error():
    bad = distributions(TORCH, ("torchvision", "0.25.0", ("torch==2.10.0",)))

    [found] = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert found.saw == "torchvision 0.25.0 requires torch==2.10.0; torch is 2.11.0+cu130"
    assert found.commands == (
        (
            "/opt/venv/bin/python3 -m pip install --force-reinstall torch==2.11.0 "
            "torchvision==0.26.0 --index-url https://download.pytorch.org/whl/cu130"
        ),
    )


def test_where_the_wheel_says_nothing_the_table_tells():
    bad = distributions(TORCH, ("torchvision", "0.25.0", ()), ("torchaudio", "2.8.0", ()))

    found = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert [each.subject for each in found] == ["torchvision", "torchaudio"]
    assert found[0].saw == "torchvision 0.25.0 is made for torch 2.10.0; torch is 2.11.0+cu130"


def test_the_right_companions_are_fine():
    good = distributions(
        TORCH,
        ("torchvision", "0.26.0", ("torch==2.11.0",)),
        ("torchaudio", "2.11.0", ()),
        ("triton", "3.6.0", ()),
    )

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_torchvision_that_allows_later_releases_is_fine():
    good = {
        **distributions(
            ("torch", "2.15.0", ()),
            ("torchvision", "0.29.2+cu130", ("torch>=2.14.0",)),
        ),
        **torch(version="2.15.0+cu130"),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_vendors_own_builds_that_pin_one_another_are_fine():
    version = "2.9.0a0+145a3a7bda.nv25.10"
    good = {
        **torch(version=version),
        **distributions(
            ("torch", version, ()), ("torchvision", "0.24.0a0+094e7af5", (f"torch=={version}",))
        ),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_a_version_that_the_table_does_not_know_is_not_judged():
    new = distributions(TORCH, ("torchvision", "0.99.0", ()))

    assert not symptoms(rules.mismatched_companions, machine(pytorch=new))
    assert not_checked(rules.mismatched_companions, machine(pytorch=new))


@pytest.mark.parametrize(
    ("changes", "torchvision"),
    [
        (CPU, "0.26.0"),  # the default index gives the CUDA build
        (CPU, "0.26.0+cu130"),
        ({}, "0.26.0+cpu"),
        ({}, "0.26.0+cu128"),  # another CUDA major
        ({"version": "2.11.0+cu128", "cuda": "12.8"}, "0.26.0"),
    ],
)
def test_builds_of_different_kinds_do_not_fit(changes, torchvision):
    found = {
        **torch(**changes),
        **distributions(TORCH, ("torchvision", torchvision, ("torch==2.11.0",))),
    }

    assert symptoms(rules.mismatched_companions, machine(pytorch=found))


@pytest.mark.parametrize(
    ("changes", "torchvision"),
    [
        (CPU, "0.26.0+cpu"),
        ({}, "0.26.0"),
        ({}, "0.26.0+cu130"),
        ({"version": "2.11.0+cu128", "cuda": "12.8"}, "0.26.0+cu126"),  # one major
    ],
)
def test_builds_of_one_kind_fit(changes, torchvision):
    found = {
        **torch(**changes),
        **distributions(TORCH, ("torchvision", torchvision, ("torch==2.11.0",))),
    }

    assert passes(rules.mismatched_companions, machine(pytorch=found))


def test_another_triton_than_torch_requires_is_an_error():
    bad = distributions(TORCH, ("triton", "3.5.0", ()))

    [found] = symptoms(rules.mismatched_companions, machine(pytorch=bad))

    assert found.saw == ("triton 3.5.0 is installed; torch 2.11.0+cu130 requires triton==3.6.0")


def test_a_compatible_triton_is_fine():
    good = distributions(
        ("torch", "2.14.0", ("triton~=3.8.0",)),
        ("triton", "3.8.2", ()),
    )

    assert passes(rules.mismatched_companions, machine(pytorch=good))


def test_torch_alone_has_no_companions():
    assert not is_applicable(rules.mismatched_companions, machine(pytorch=distributions(TORCH)))


# ---------------------------------------------------------------------------- TOR007 to TOR009

DEEP_RULES = (rules.import_fails, rules.not_available, rules.work_fails, rules.other_count)


@pytest.mark.parametrize("rule", DEEP_RULES, ids=lambda rule: rule.code)
def test_without_deep_it_is_not_checked(rule):
    [answer] = not_checked(rule, machine(deep=None))

    assert answer.why == "needs --deep"


@pytest.mark.parametrize("rule", DEEP_RULES, ids=lambda rule: rule.code)
def test_a_torch_that_works_is_fine(rule):
    assert passes(rule, machine(deep=DEEP))


@pytest.mark.parametrize("rule", DEEP_RULES, ids=lambda rule: rule.code)
def test_a_trial_that_did_not_come_so_far_is_not_checked(rule):
    nothing = Deep()

    assert not_checked(rule, machine(deep=nothing))
    assert not symptoms(rule, machine(deep=nothing))


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("ImportError: libfoo.so: undefined symbol: __nvJitLinkComplete_12_4", "LIB001"),
        ("OSError: libcudnn.so.9: cannot open shared object file", "DNN001"),
        ("OSError: libcublas.so.13: cannot open shared object file", "LIB003"),
        ("ImportError: cannot import name 'x' from partially initialized module", "TOR010"),
        ("crashed with SIGSEGV while importing torch", "LIB001"),
    ],
)
def test_an_import_that_fails_shows_the_error_and_names_causes(error, cause):
    [found] = symptoms(rules.import_fails, machine(deep=deep(import_error=error)))

    assert found.saw == error
    assert cause in found.explained_by


def test_a_glibc_that_is_too_old_is_told():
    error = "ImportError: /lib/libc.so.6: version `GLIBC_2.28' not found (required by libtorch.so)"

    [found] = symptoms(rules.import_fails, machine(deep=deep(import_error=error)))

    assert "newer Linux" in found.fix


def test_unavailable_cuda_shows_torchs_own_warning():
    bad = deep(is_available=False, warning="CUDA initialization: Unexpected error")

    [found] = symptoms(rules.not_available, machine(deep=bad))

    assert "CUDA initialization: Unexpected error" in found.saw


def test_unavailable_cuda_folds_under_its_cause():
    bad = machine(deep=deep(is_available=False, device_count=0, gpus=()), **OLD_DRIVER)

    report = examine(bad, rules=[rules.driver_too_old, rules.not_available, rules.other_count])

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("TOR004", None),
        ("TOR008", "TOR004"),
        ("TOR012", "TOR004"),
    ]


def test_a_machine_without_a_gpu_is_rightly_without_cuda():
    none = machine(deep=deep(is_available=False, device_count=0, gpus=()), **NO_GPU)

    assert not is_applicable(rules.not_available, none)


def test_a_failing_import_is_not_also_unavailable():
    bad = deep(import_error="ImportError: x", is_available=Unknown("torch cannot be imported"))

    assert not symptoms(rules.not_available, machine(deep=bad))


def test_work_that_fails_names_the_gpu_by_nvmls_number():
    bad = change(WORKS, index=1, bus_id="0000:00:06.0", matrix_product="differs in 12 places")

    [found] = symptoms(rules.work_fails, machine(deep=deep(gpus=(bad,))))

    assert found.subject == "gpu 0"
    assert found.saw == "a matrix product: differs in 12 places"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("CUDA error: no kernel image is available for execution on the device", "TOR005"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "DNN003"),
        ("CUDA out of memory", "GPU019"),
    ],
)
def test_errors_at_work_name_their_causes(error, cause):
    bad = change(WORKS, convolution=error)

    [found] = symptoms(rules.work_fails, machine(deep=deep(gpus=(bad,))))

    assert cause in found.explained_by


def test_no_kernel_image_folds_under_the_build():
    bad = machine(
        pytorch=torch(architectures=("sm_80",)),
        deep=deep(
            gpus=(change(WORKS, kernel="no kernel image is available for execution on the device"),)
        ),
    )

    report = examine(bad, rules=[rules.no_kernels, rules.work_fails])

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("TOR005", None),
        ("TOR009", "TOR005"),
    ]


def test_a_step_that_was_not_reached_is_not_checked():
    late = change(WORKS, convolution=Unknown("no answer in 60 s"))

    [answer] = not_checked(rules.work_fails, machine(deep=deep(gpus=(late,))))

    assert answer.subject == "gpu 0"
    assert answer.why == "a cuDNN convolution: no answer in 60 s"


# ---------------------------------------------------------------------------- TOR010 to TOR012


@pytest.mark.parametrize(
    ("why", "fix"),
    [
        ("a folder named torch in the current directory, /src", "another folder"),
        ("PYTHONPATH names /opt/lib", "PYTHONPATH"),
        ("it lies in the user's site folder, /home/me/.local", "Uninstall"),
    ],
)
def test_a_torch_from_elsewhere_is_a_warning(why, fix):
    [found] = symptoms(
        rules.outside_environment, machine(pytorch=torch(is_outside_environment=why))
    )

    assert found.saw == why
    assert fix in found.fix


def test_the_environments_own_torch_is_fine():
    assert passes(rules.outside_environment, machine())


def test_conda_and_pip_in_one_prefix_are_a_warning():
    both = (
        Distribution(name="torch", version="2.11.0", location=SITE, installer="pip"),
        Distribution(name="torch", version="2.5.1", location="/opt/venv", installer="conda"),
    )

    [found] = symptoms(rules.conda_and_pip, machine(pytorch={"distributions": both}))

    assert found.saw == "conda installed torch 2.5.1, and pip 2.11.0, both in /opt/venv"


def test_two_prefixes_are_two_environments():
    apart = (
        Distribution(name="torch", version="2.11.0", location="/home/me/.local", installer="pip"),
        Distribution(name="torch", version="2.5.1", location="/opt/venv", installer="conda"),
    )

    assert passes(rules.conda_and_pip, machine(pytorch={"distributions": apart}))


def test_another_count_than_nvmls_is_an_error():
    [found] = symptoms(rules.other_count, machine(deep=deep(device_count=1)))

    assert found.saw == "torch sees 1 GPU, NVML 2"


def test_visible_devices_explain_another_count():
    chosen = with_variables(machine(deep=deep(device_count=1)), CUDA_VISIBLE_DEVICES="1")

    assert not is_applicable(rules.other_count, chosen)


def test_mig_explains_another_count():
    mig = machine(deep=deep(device_count=1), nvml={"gpus": (gpu(0, mig_is_on=True), gpu(1))})

    assert not is_applicable(rules.other_count, mig)


# ------------------------------------------------------------------------------------- together


def test_on_a_machine_without_a_gpu_torch_gives_neither_error_nor_warning():
    every = [rule for rule in vars(rules).values() if isinstance(rule, Rule)]
    alone = {"distributions": ()}
    for changes in ({**torch(**CPU), **alone}, {"torch": None, "elsewhere": (), **alone}):
        for workload in (None, deep(is_available=False, device_count=0, gpus=(), copies=())):
            report = examine(machine(pytorch=changes, deep=workload, **NO_GPU), rules=every)

            assert report.verdict == "healthy"
            assert {n.code for n in report.not_checked} <= {"TOR007"}
