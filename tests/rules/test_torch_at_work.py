"""The rules about torch at work."""

import pytest

from gpucheck.report import examine
from gpucheck.rules import RULES, torch_build
from gpucheck.rules import torch_at_work as rules
from gpucheck.snapshot import Deep, Unknown
from machines import (
    advice,
    commands,
    gpu,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
    with_variables,
)
from torches import CPU, DEEP, NO_GPU, OLD_DRIVER, WORKS, change, deep, torch

# --------------------------------------------------------------------------- TOR007 to TOR009

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

    assert "newer Linux" in advice(found)


def test_unavailable_cuda_shows_torchs_own_warning():
    bad = deep(is_available=False, warning="CUDA initialization: Unexpected error")

    [found] = symptoms(rules.not_available, machine(deep=bad))

    assert "CUDA initialization: Unexpected error" in found.saw


def test_unavailable_cuda_folds_under_its_cause():
    bad = machine(deep=deep(is_available=False, device_count=0, gpus=()), **OLD_DRIVER)

    report = examine(
        bad, rules=[torch_build.driver_too_old, rules.not_available, rules.other_count]
    )

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

    report = examine(bad, rules=[torch_build.no_kernels, rules.work_fails])

    assert [(f.code, f.explained_by) for f in report.findings] == [
        ("TOR005", None),
        ("TOR009", "TOR005"),
    ]


def test_a_step_that_was_not_reached_is_not_checked():
    late = change(WORKS, convolution=Unknown("no answer in 60 s"))

    [answer] = not_checked(rules.work_fails, machine(deep=deep(gpus=(late,))))

    assert answer.subject == "gpu 0"
    assert answer.why == "a cuDNN convolution: no answer in 60 s"


# ------------------------------------------------------------------------------------- TOR012
def test_another_count_than_nvmls_is_an_error():
    [found] = symptoms(rules.other_count, machine(deep=deep(device_count=1)))

    assert found.saw == "torch sees 1 GPU, NVML 2"


def test_visible_devices_explain_another_count():
    chosen = with_variables(machine(deep=deep(device_count=1)), CUDA_VISIBLE_DEVICES="1")

    assert not is_applicable(rules.other_count, chosen)


def test_mig_explains_another_count():
    mig = machine(deep=deep(device_count=1), nvml={"gpus": (gpu(0, mig_is_on=True), gpu(1))})

    assert not is_applicable(rules.other_count, mig)


def test_a_cxx_library_that_is_too_old_is_not_an_old_linux():
    error = "ImportError: libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by x.so)"

    [found] = symptoms(rules.import_fails, machine(deep=deep(import_error=error)))

    assert found.explained_by == ("LIB006",)
    assert "newer Linux" not in advice(found)


def test_a_file_that_is_missing_is_brought_back_at_the_version_that_is_here():
    error = "OSError: libcublas.so.13: cannot open shared object file"

    [found] = symptoms(rules.import_fails, machine(deep=deep(import_error=error)))

    assert commands(found) == (
        "/opt/venv/bin/python3 -m pip install --force-reinstall --no-deps torch==2.11.0",
    )


# ------------------------------------------------------------------------------------- together


def test_on_a_machine_without_a_gpu_torch_gives_neither_error_nor_warning():
    every = [rule for rule in RULES if rule.family == "TOR"]
    alone = {"distributions": ()}
    for changes in ({**torch(**CPU), **alone}, {"torch": None, "elsewhere": (), **alone}):
        for workload in (None, deep(is_available=False, device_count=0, gpus=(), copies=())):
            report = examine(machine(pytorch=changes, deep=workload, **NO_GPU), rules=every)

            assert report.verdict == "healthy"
            assert {n.code for n in report.not_checked} <= {"TOR007"}
