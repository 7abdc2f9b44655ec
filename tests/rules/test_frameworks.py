"""Rules about frameworks other than torch, and builds that exclude one another: PKG004, PKG006."""

from typing import Any

import msgspec
import pytest

from gpucheck.report import examine
from gpucheck.rule import Severity
from gpucheck.rules.frameworks import same_files, unfit_framework
from gpucheck.snapshot import (
    Distribution,
    FileClash,
    Framework,
    GpuPackage,
    PackageLibrary,
    Snapshot,
    Unknown,
)
from machines import HEALTHY, SITE, is_applicable, machine, passes, symptoms, with_variables
from torches import OLD_DRIVER

NO_TORCH: dict[str, Any] = {"torch": None, "distributions": ()}
JAX = Framework(
    name="jax",
    version="0.6.1",
    distribution="jax-cuda12-plugin",
    is_gpu_build=True,
    cuda="12",
    cudnn="9",
)
TENSORFLOW = Framework(
    name="TensorFlow",
    version="2.17.0",
    distribution="tensorflow",
    is_gpu_build=True,
    cuda="12.3",
    cudnn="8",
)


def with_frameworks(*found: Framework, base: Snapshot = HEALTHY, **sections: Any) -> Snapshot:
    sections = {"pytorch": NO_TORCH, **sections}
    packages = {"frameworks": found, **sections.pop("packages", {})}
    return machine(base, packages=packages, **sections)


def changed(framework: Framework, **changes: Any) -> Framework:
    return msgspec.structs.replace(framework, **changes)


# ---------------------------------------------------------------------------------------- PKG004


def clash(*distributions: str, present: str | None, folder: str = "onnxruntime") -> Snapshot:
    found = FileClash(
        folder=f"{SITE}/{folder}", distributions=distributions, files=2, present=present
    )
    return machine(packages={"clashes": (found,)})


def test_the_cpu_build_over_the_gpu_build_is_an_error():
    pair = ("onnxruntime 1.23.2", "onnxruntime-gpu 1.23.2")

    [symptom] = symptoms(same_files, clash(*pair, present=pair[0]))

    assert symptom.severity is Severity.ERROR
    assert symptom.saw == (
        "onnxruntime 1.23.2 and onnxruntime-gpu 1.23.2 both own 2 compiled files in "
        f"{SITE}/onnxruntime; those of onnxruntime 1.23.2 are there: no CUDAExecutionProvider"
    )
    texts = [step.text for step in symptom.remedy.steps]
    assert any("uninstall" in text and "onnxruntime-gpu" in text for text in texts)
    assert texts[-1].endswith("onnxruntime-gpu==1.23.2")


@pytest.mark.parametrize("present", ["onnxruntime-gpu 1.23.2", None])
def test_the_gpu_build_over_the_cpu_build_is_a_warning(present: str | None):
    pair = ("onnxruntime 1.23.2", "onnxruntime-gpu 1.23.2")

    [symptom] = symptoms(same_files, clash(*pair, present=present))

    assert symptom.severity is None


def test_of_two_cupys_the_one_for_torchs_cuda_stays():
    pair = ("cupy-cuda12x 13.6.0", "cupy-cuda13x 13.6.0")

    [symptom] = symptoms(same_files, clash(*pair, present=pair[0], folder="cupy"))

    assert symptom.severity is None
    assert symptom.remedy.steps[-1].text.endswith("cupy-cuda13x==13.6.0")


def test_of_two_that_nobody_knows_the_reader_chooses():
    pair = ("opencv-python 4.11.0.86", "opencv-python-headless 4.11.0.86")

    [symptom] = symptoms(same_files, clash(*pair, present=pair[1], folder="cv2"))

    assert symptom.remedy.text == "Uninstall both, then install the one that you want"


def test_one_pair_in_several_folders_is_one_finding():
    pair = ("cupy-cuda12x 13.6.0", "cupy-cuda13x 13.6.0")
    folders = [
        FileClash(folder=f"{SITE}/{name}", distributions=pair, files=3, present=pair[0])
        for name in ("cupy", "cupy_backends")
    ]

    [symptom] = symptoms(same_files, machine(packages={"clashes": tuple(folders)}))

    assert "6 compiled files" in symptom.saw


def test_a_python_without_clashes_passes():
    assert passes(same_files, HEALTHY)


# ---------------------------------------------------------------------------------------- PKG006


@pytest.mark.parametrize("framework", [JAX, TENSORFLOW], ids=lambda each: each.name)
def test_a_framework_that_is_built_for_this_driver_passes(framework: Framework):
    assert passes(unfit_framework, with_frameworks(framework))


@pytest.mark.parametrize("framework", [JAX, TENSORFLOW], ids=lambda each: each.name)
def test_a_cpu_build_beside_a_gpu_is_a_warning(framework: Framework):
    plain = changed(framework, is_gpu_build=False, cuda=None)

    [symptom] = symptoms(unfit_framework, with_frameworks(plain))

    assert symptom.severity is None
    assert "is built without CUDA, and a GPU is here" in symptom.saw


@pytest.mark.parametrize("others", [{"pytorch": HEALTHY.pytorch}, {}])
def test_a_cpu_build_beside_a_framework_with_cuda_is_worth_a_note(others: dict[str, Any]):
    plain = changed(JAX, is_gpu_build=False, cuda=None)
    found = (plain,) if others else (plain, TENSORFLOW)

    [symptom] = symptoms(unfit_framework, with_frameworks(*found, **others))

    assert symptom.severity is Severity.INFO


def test_a_cpu_build_on_a_machine_without_gpu_is_right():
    plain = changed(JAX, is_gpu_build=False, cuda=None)
    no_gpu = with_frameworks(
        plain,
        host={"pci_gpus": ()},
        nvml={"count": 0, "gpus": ()},
        driver={"cuda_init": None},
    )

    assert not is_applicable(unfit_framework, no_gpu)


def test_a_cpu_only_onnxruntime_is_nobodys_fault():
    plain = Framework(
        name="ONNX Runtime",
        version="1.23.2",
        distribution="onnxruntime",
        is_gpu_build=False,
        cuda=None,
    )

    assert passes(unfit_framework, with_frameworks(plain))


def test_a_build_for_a_newer_major_than_the_drivers_is_an_error():
    new = changed(JAX, distribution="jax-cuda13-plugin", cuda="13")

    [symptom] = symptoms(unfit_framework, with_frameworks(new, **OLD_DRIVER))

    assert symptom.severity is Severity.ERROR
    assert symptom.saw == (
        "jax-cuda13-plugin 0.6.1 is built for CUDA 13; driver 550.54.15 runs up to CUDA 12.4"
    )
    assert symptom.remedy.alternatives[0].text.startswith("Install driver 580")


def test_a_newer_minor_of_the_drivers_major_runs():
    minor = changed(TENSORFLOW, cuda="12.9")

    assert passes(unfit_framework, with_frameworks(minor, **OLD_DRIVER))


def shadowed(version: str) -> Snapshot:
    found = PackageLibrary(
        soname="libcusparse.so.12",
        needed_by=f"{SITE}/jax_plugins/xla_cuda12/xla_cuda_plugin.so",
        path="/opt/sw/cuda/12.1/lib64/libcusparse.so.12",
        version=version,
        found_via="LD_LIBRARY_PATH",
        directory="/opt/sw/cuda/12.1/lib64",
        wheel_path=f"{SITE}/nvidia/cusparse/lib/libcusparse.so.12",
        wheel_version="12.5.8.93",
    )
    packages = tuple(
        GpuPackage(name=name, version="0.6.1", libraries=(found,))
        for name in ("jax-cuda12-plugin", "jax-cuda12-pjrt")
    )
    base = with_frameworks(JAX, packages={"gpu_packages": packages})
    return with_variables(base, LD_LIBRARY_PATH="/opt/sw/cuda/12.1/lib64")


def test_a_toolkit_in_place_of_jaxs_own_wheels_is_one_finding():
    [symptom] = symptoms(unfit_framework, shadowed("12.1.0.106"))

    assert symptom.saw == (
        "LD_LIBRARY_PATH gives jax 0.6.1 libcusparse.so.12: "
        "/opt/sw/cuda/12.1/lib64/libcusparse.so.12 (12.1.0.106) instead of "
        f"{SITE}/nvidia/cusparse/lib/libcusparse.so.12 (12.5.8.93)"
    )
    assert symptom.remedy.steps[0].text == "unset LD_LIBRARY_PATH"


def test_the_same_version_by_another_way_is_fine():
    assert passes(unfit_framework, shadowed("12.5.8.93"))


def beside_torch(cudnn: str, requirement: str = "nvidia-cudnn-cu12<10.0,>=9.8") -> Snapshot:
    wheel = Distribution(name="nvidia-cudnn-cu12", version=cudnn, location=SITE)
    return with_frameworks(
        changed(JAX, requires=(requirement,)),
        pytorch={"torch": None, "distributions": (wheel,)},
    )


def test_a_cudnn_older_than_jax_was_built_with():
    [symptom] = symptoms(unfit_framework, beside_torch("9.1.0.70"))

    assert symptom.saw == (
        "jax-cuda12-plugin 0.6.1: nvidia-cudnn-cu12 9.1.0.70 is here, at least 9.8 is required"
    )


@pytest.mark.parametrize("version", ["9.8.0.87", "9.19.0.56"])
def test_a_cudnn_as_new_as_jax_asks_for_is_fine(version: str):
    assert passes(unfit_framework, beside_torch(version))


def test_frameworks_that_could_not_be_read_are_not_checked():
    unknown = machine(packages={"frameworks": Unknown("permission denied")})

    found = examine(unknown, select=("PKG006",))

    assert [each.why for each in found.not_checked] == ["permission denied"]
