"""Rules about packages that need CUDA's or torch's libraries: PKG001, PKG002, PKG003, PKG005."""

from typing import Any

import msgspec
import pytest

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules.packages import (
    built_for_another_cuda,
    built_for_another_torch,
    not_on_its_path,
    older_library_first,
    readable_symbol,
)
from gpucheck.snapshot import (
    DamagedFile,
    GpuPackage,
    PackageLibrary,
    Snapshot,
    TorchMismatch,
    Unknown,
)
from machines import (
    HEALTHY,
    SITE,
    commands,
    is_applicable,
    machine,
    not_checked,
    passes,
    symptoms,
)
from seen_facts import seen

CUDART = f"{SITE}/nvidia/cu13/lib/libcudart.so.13"


def library(soname: str, **changes: Any) -> PackageLibrary:
    """A library that is nowhere."""
    facts: dict[str, Any] = {"needed_by": f"{SITE}/vllm/_C.abi3.so", "path": None, "version": None}
    return PackageLibrary(soname=soname, **{**facts, **changes})


def package(*libraries: PackageLibrary, **changes: Any) -> GpuPackage:
    facts: dict[str, Any] = {"name": "vllm", "version": "0.19.0", "uses_torch": True}
    return GpuPackage(libraries=libraries, location=SITE, **{**facts, **changes})


def with_packages(*found: GpuPackage, base: Snapshot = HEALTHY, **sections: Any) -> Snapshot:
    return machine(base, packages={"gpu_packages": found}, **sections)


RULES = (built_for_another_cuda, built_for_another_torch, not_on_its_path, older_library_first)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_python_without_gpu_packages_passes(rule):
    assert passes(rule, HEALTHY)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_packages_that_could_not_be_read_are_not_checked(rule):
    unknown = machine(packages={"gpu_packages": Unknown("linked statically")})

    assert [each.why for each in not_checked(rule, unknown)] == ["linked statically"]


@pytest.mark.parametrize("rule", RULES[:1] + RULES[2:3], ids=lambda rule: rule.code)
def test_nobody_misses_cuda_where_no_gpu_is(rule):
    no_gpu = with_packages(
        package(library("libcudart.so.12")),
        host={"pci_gpus": ()},
        nvml={"count": 0, "gpus": ()},
        driver={"cuda_init": None},
    )

    assert not is_applicable(rule, no_gpu)


# ---------------------------------------------------------------------------------------- PKG001


def test_a_package_for_another_cuda_than_torchs():
    lacking = library("libcudart.so.12", other_majors=(CUDART,))

    [symptom] = symptoms(built_for_another_cuda, with_packages(package(lacking)))

    assert symptom.saw == (
        f"{SITE}/vllm/_C.abi3.so needs libcudart.so.12, which nothing here provides; torch "
        "2.11.0+cu130 comes with libcudart.so.13: vllm 0.19.0 is built for CUDA 12"
    )
    texts = [way.text for way in symptom.remedy.alternatives]
    assert texts[0] == "Install a build of vllm that is made for CUDA 13.0, as torch is"
    assert texts[1].startswith("Install torch 2.11.0 for CUDA 12.")


def test_torch_is_not_offered_for_a_cuda_that_the_driver_does_not_run():
    lacking = library("libcudart.so.13", other_majors=("/x/libcudart.so.12",))
    torch = msgspec.structs.replace(seen(HEALTHY.pytorch.torch), cuda="12.6")
    old = with_packages(
        package(lacking),
        driver={"module_version": "550.54.14", "cuda_init": None},
        nvml={"driver_version": "550.54.14", "cuda_version": "12.4"},
        pytorch={"torch": torch},
    )

    [symptom] = symptoms(built_for_another_cuda, old)

    assert symptom.remedy.alternatives == ()
    assert "made for CUDA 12.6" in symptom.remedy.text


def test_parts_that_are_loaded_on_demand_give_a_warning():
    lacking = library("libcudart.so.12", is_on_demand=True)

    [symptom] = symptoms(built_for_another_cuda, with_packages(package(lacking)))

    assert symptom.severity is Severity.WARNING


def test_a_library_that_is_here_off_the_path_of_an_unknown_package_is_left_to_it():
    hidden = library("libcudart.so.12", elsewhere=(CUDART,))

    assert passes(built_for_another_cuda, with_packages(package(hidden)))
    assert passes(not_on_its_path, with_packages(package(hidden)))


def test_a_library_whose_wheel_is_damaged_is_that_wheels_matter():
    lacking = library("libcudart.so.13")
    damaged = DamagedFile(distribution="nvidia-cuda-runtime", path=CUDART, problem="missing")

    [symptom] = symptoms(
        built_for_another_cuda,
        with_packages(package(lacking), pytorch={"damaged": (damaged,)}),
    )

    assert "LIB003" in symptom.explained_by


def test_onnxruntime_names_the_extra_that_brings_its_libraries():
    lacking = library("libcublasLt.so.12", is_on_demand=True)
    found = package(lacking, name="onnxruntime-gpu", version="1.23.2", uses_torch=False)

    [symptom] = symptoms(built_for_another_cuda, with_packages(found))

    [step] = symptom.remedy.steps[-1:]
    assert "onnxruntime-gpu[cuda,cudnn]==1.23.2" in step.text


# ---------------------------------------------------------------------------------------- PKG002


def mismatch(**changes: Any) -> GpuPackage:
    facts: dict[str, Any] = {"file": f"{SITE}/flash_attn_2_cuda.so", "count": 1}
    found = TorchMismatch(**{**facts, **changes})
    return package(name="flash-attn", version="2.7.4", mismatches=(found,))


def test_a_symbol_that_torch_does_not_have():
    symbols = ("_ZN3c105ErrorC2ENS_14SourceLocationESs",)

    [symptom] = symptoms(
        built_for_another_torch, with_packages(mismatch(symbols=symbols, count=13))
    )

    assert symptom.saw == (
        f"flash-attn 2.7.4: {SITE}/flash_attn_2_cuda.so needs {symbols[0]} (c10::Error::Error) "
        "and 12 more, which torch 2.11.0+cu130 does not define"
    )


def test_a_library_that_a_cpu_only_torch_does_not_have():
    [symptom] = symptoms(built_for_another_torch, with_packages(mismatch(library="libc10_cuda.so")))

    assert "needs libc10_cuda.so, which torch 2.11.0+cu130 does not have" in symptom.saw


def test_torchvision_is_compared_by_another_rule():
    found = package(
        name="torchvision", mismatches=(TorchMismatch(file="x.so", library="libc10_cuda.so"),)
    )

    [symptom] = symptoms(built_for_another_torch, with_packages(found))

    assert symptom.explained_by == ("TOR006",)


def test_a_package_for_another_cuda_and_another_torch_is_one_cause():
    both = package(
        library("libcudart.so.12"),
        mismatches=(TorchMismatch(file="x.so", symbols=("_ZN2at5emptyEv",), count=1),),
    )

    found = examine(with_packages(both), select=("PKG",)).findings

    assert [(each.code, each.explained_by) for each in found] == [
        ("PKG001", None),
        ("PKG002", "PKG001"),
    ]


@pytest.mark.parametrize(
    ("symbol", "plain"),
    [
        ("_ZN3c105ErrorC2ENS_14SourceLocationESs", "c10::Error::Error"),
        ("_ZN3c107Warning4warnERKS0_", "c10::Warning::warn"),
        ("_ZNK2at10TensorBase14const_data_ptrIiLi0EEEPKT_v", "at::TensorBase::const_data_ptr"),
        ("_ZN3c105ErrorD1Ev", "c10::Error::~Error"),
        ("PyInit_x", ""),
    ],
)
def test_mangled_names_can_be_read(symbol: str, plain: str):
    assert readable_symbol(symbol) == plain


# ---------------------------------------------------------------------------------------- PKG003

CUDNN_9 = f"{SITE}/nvidia/cudnn/lib/libcudnn.so.9"


def ctranslate2(*libraries: PackageLibrary, version: str = "4.4.0") -> Snapshot:
    found = package(*libraries, name="ctranslate2", version=version, uses_torch=False)
    return with_packages(found)


def test_a_package_that_wants_another_major_of_cudnn():
    wanted = library("libcudnn_ops_infer.so.8", is_opened=True, other_majors=(CUDNN_9,))

    [symptom] = symptoms(not_on_its_path, ctranslate2(wanted))

    assert symptom.saw == (
        "ctranslate2 4.4.0 opens libcudnn_ops_infer.so.8, which nothing provides; "
        f"only {CUDNN_9} is here"
    )
    assert "ctranslate2==4.5.0" in symptom.remedy.steps[-1].text


def test_a_library_that_is_nowhere_comes_by_its_wheel_and_is_named_to_the_loader():
    wanted = library("libcublas.so.12", is_opened=True)

    [symptom] = symptoms(not_on_its_path, ctranslate2(wanted, version="4.8.5"))

    bring, look = commands(symptom)
    assert bring.endswith("-m pip install nvidia-cublas-cu12")
    assert look.startswith("export LD_LIBRARY_PATH=$(/opt/venv/bin/python3 -c 'import glob")


def test_numba_cuda_names_the_extra_for_the_drivers_cuda():
    lacks = library("libnvvm.so", is_opened=True)
    found = package(lacks, name="numba-cuda", version="0.30.4", uses_torch=False)

    [symptom] = symptoms(not_on_its_path, with_packages(found))

    assert commands(symptom)[-1].endswith("'numba-cuda[cu13]==0.30.4'")


def test_a_package_whose_name_says_its_cuda_is_replaced_by_its_twin():
    lacking = library("libcublas.so.11", other_majors=("/site/libcublas.so.12",))
    found = package(lacking, name="cupy-cuda11x", version="13.3.0", uses_torch=False)

    [symptom] = symptoms(built_for_another_cuda, with_packages(found))

    assert [text.rpartition("pip ")[2] for text in commands(symptom)] == [
        "uninstall -y cupy-cuda11x",
        "install cupy-cuda12x",
    ]


def test_a_library_off_the_path_of_a_package_that_looks_there_alone():
    hidden = library("libcublas.so.12", is_opened=True, elsewhere=("/site/cublas/libcublas.so.12",))

    [symptom] = symptoms(not_on_its_path, ctranslate2(hidden))

    assert symptom.saw == (
        "libcublas.so.12 is in /site/cublas, where ctranslate2 4.4.0 does not look"
    )
    assert symptom.remedy.steps[0].text == (
        "export LD_LIBRARY_PATH=/site/cublas${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    )
    assert symptom.remedy.steps[0].lasts == "shell"


def test_a_library_that_torch_brings_is_worth_a_note():
    hidden = library(
        "libcublas.so.12",
        is_opened=True,
        is_loaded_by_torch=True,
        elsewhere=("/site/cublas/libcublas.so.12",),
    )

    [symptom] = symptoms(not_on_its_path, ctranslate2(hidden, version="4.8.5"))

    assert symptom.severity is Severity.INFO


def test_a_package_whose_own_code_looks_into_the_wheels_finds_them():
    hidden = library("libcublas.so.12", elsewhere=("/site/cublas/libcublas.so.12",))
    cupy = package(hidden, name="cupy-cuda12x", version="14.0.1", uses_torch=False)

    assert passes(not_on_its_path, with_packages(cupy))


def test_the_two_halves_of_a_jax_plugin_are_one_finding():
    halves = [
        package(library(name, is_opened=True), name=half, version="0.6.1", uses_torch=False)
        for half, name in (
            ("jax-cuda12-plugin", "libcusparse.so.12"),
            ("jax-cuda12-pjrt", "libcudart.so.12"),
        )
    ]

    [symptom] = symptoms(not_on_its_path, with_packages(*halves))

    assert "libcusparse.so.12 and libcudart.so.12" in symptom.saw
    assert "jax[cuda12]==0.6.1" in symptom.remedy.steps[-1].text


# ---------------------------------------------------------------------------------------- PKG005


def cupy(version: str, path: str = "/usr/lib/libnccl.so.2", name: str = "cupy-cuda13x") -> Snapshot:
    found = library("libnccl.so.2", path=path, version=version, found_via="ld.so.cache")
    return with_packages(package(found, name=name, version="13.6.0", uses_torch=False))


def test_an_older_library_that_would_come_first():
    [symptom] = symptoms(older_library_first, cupy("2.16.2"))

    assert symptom.saw == (
        "cupy-cuda13x 13.6.0 gets /usr/lib/libnccl.so.2 (2.16.2), torch brings libnccl.so.2 2.28.9"
    )


@pytest.mark.parametrize(
    "snapshot",
    [cupy("2.28.9"), cupy("2.29.3"), cupy("2.16.2", f"{SITE}/nvidia/nccl/lib/libnccl.so.2")],
)
def test_a_library_as_new_as_torchs_or_torchs_own_is_fine(snapshot: Snapshot):
    assert passes(older_library_first, snapshot)
