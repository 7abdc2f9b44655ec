"""Frameworks other than torch are known by their own files."""

from pathlib import Path

import pytest

from gpucheck.probes import frameworks
from gpucheck.probes.package_files import Installed
from gpucheck.snapshot import Framework, Unknown


def probe(
    site: Path, *packages: tuple[str, str], needed: dict[str, tuple[str, ...]] | None = None
) -> list[Framework]:
    installed = [
        Installed(name, version, str(site), str(site / f"{name}.dist-info"))
        for name, version in packages
    ]
    return list(frameworks.probe(installed, lambda name: (needed or {}).get(name, ())))


def test_jax_has_the_cuda_of_its_plugin(tmp_path: Path):
    [jax] = probe(tmp_path, ("jax", "0.6.1"), ("jaxlib", "0.6.1"), ("jax-cuda12-plugin", "0.6.1"))

    assert (jax.name, jax.distribution) == ("jax", "jax-cuda12-plugin")
    assert (jax.is_gpu_build, jax.cuda) == (True, "12")


def test_jax_without_a_plugin_is_the_cpus(tmp_path: Path):
    [jax] = probe(tmp_path, ("jax", "0.6.1"), ("jaxlib", "0.6.1"))

    assert (jax.is_gpu_build, jax.cuda) == (False, None)


def test_an_old_jaxlib_tells_its_cuda_by_its_version(tmp_path: Path):
    [jax] = probe(tmp_path, ("jax", "0.4.20"), ("jaxlib", "0.4.20+cuda12.cudnn89"))

    assert (jax.is_gpu_build, jax.cuda, jax.cudnn) == (True, "12", "8")


def test_condas_jaxlib_brings_the_plugin_itself(tmp_path: Path):
    (tmp_path / "jax_plugins/xla_cuda12").mkdir(parents=True)

    [jax] = probe(tmp_path, ("jax", "0.6.1"), ("jaxlib", "0.6.1"))

    assert (jax.is_gpu_build, jax.cuda, jax.distribution) == (True, "12", "jaxlib")


def test_a_jax_for_amd_is_nobodys_fault_here(tmp_path: Path):
    assert probe(tmp_path, ("jax", "0.6.1"), ("jax-rocm60-plugin", "0.6.1")) == []


def plant_build_info(site: Path, text: str) -> None:
    folder = site / "tensorflow/python/platform"
    folder.mkdir(parents=True)
    (folder / "build_info.py").write_text(text)


def test_tensorflow_tells_its_build(tmp_path: Path):
    plant_build_info(
        tmp_path,
        "build_info = collections.OrderedDict([('cpu_compiler', '/usr/bin/clang'), "
        "('cuda_compute_capabilities', ['sm_60', 'compute_90']), ('cuda_version', '12.5.1'), "
        "('cudnn_version', '9'), ('is_cuda_build', True), ('is_rocm_build', False)])\n",
    )
    described = tmp_path / "tensorflow.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(
        "Name: tensorflow\n"
        'Requires-Dist: nvidia-cudnn-cu12<10.0,>=9.3.0.75; extra == "and-cuda"\n'
        "Requires-Dist: numpy>=1.26\n"
    )

    [found] = probe(tmp_path, ("tensorflow", "2.21.0"))

    assert (found.is_gpu_build, found.cuda, found.cudnn) == (True, "12.5.1", "9")
    assert found.requires == ("nvidia-cudnn-cu12<10.0,>=9.3.0.75",)


def test_a_tensorflow_that_is_built_for_the_cpu(tmp_path: Path):
    plant_build_info(tmp_path, "build_info = OrderedDict([('is_cuda_build', False)])\n")

    [found] = probe(tmp_path, ("tensorflow-cpu", "2.17.0"))

    assert (found.is_gpu_build, found.cuda) == (False, None)


def test_a_tensorflow_whose_build_is_not_told_is_unknown(tmp_path: Path):
    [found] = probe(tmp_path, ("tensorflow", "2.17.0"))

    assert isinstance(found.is_gpu_build, Unknown)


@pytest.mark.parametrize(
    ("name", "cuda"), [("cupy-cuda12x", "12"), ("cupy-cuda13x", "13"), ("cupy-cuda117", "11")]
)
def test_cupys_wheels_are_named_after_their_cuda(tmp_path: Path, name: str, cuda: str):
    [found] = probe(tmp_path, (name, "13.4.1"))

    assert (found.name, found.cuda) == ("CuPy", cuda)


def test_a_cupy_without_a_cuda_in_its_name_is_known_by_what_it_needs(tmp_path: Path):
    [found] = probe(tmp_path, ("cupy", "13.4.1"), needed={"cupy": ("libcublas.so.12",)})

    assert found.cuda == "12"


def test_numba_alone_is_no_gpu_framework(tmp_path: Path):
    assert probe(tmp_path, ("numba", "0.61.2")) == []
    assert [each.name for each in probe(tmp_path, ("numba", "1"), ("numba-cuda", "1"))] == ["Numba"]


def test_the_gpu_build_of_onnxruntime_is_told_from_the_plain_one(tmp_path: Path):
    [gpu] = probe(
        tmp_path,
        ("onnxruntime-gpu", "1.23.2"),
        needed={"onnxruntime-gpu": ("libcudart.so.12", "libcufft.so.11")},
    )
    [plain] = probe(tmp_path, ("onnxruntime", "1.23.2"))

    assert (gpu.is_gpu_build, gpu.cuda) == (True, "12")
    assert (plain.is_gpu_build, plain.cuda) == (False, None)


def test_paddle_tells_its_build(tmp_path: Path):
    (tmp_path / "paddle/version").mkdir(parents=True)
    file = tmp_path / "paddle/version/__init__.py"
    file.write_text(
        "full_version     = '3.0.0'\ncuda_version     = '12.6'\ncudnn_version = '9.5.1'\n"
    )

    [found] = probe(tmp_path, ("paddlepaddle-gpu", "3.0.0"))
    file.write_text("cuda_version     = 'False'\ncudnn_version    = 'False'\n")
    [plain] = probe(tmp_path, ("paddlepaddle", "3.0.0"))

    assert (found.is_gpu_build, found.cuda, found.cudnn) == (True, "12.6", "9.5.1")
    assert (plain.is_gpu_build, plain.cuda) == (False, None)
