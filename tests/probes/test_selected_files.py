"""Whether what a variable selects is there, by real files."""

from pathlib import Path

from gpucheck.probes import selected_files


def selected(**variables: str) -> dict[str, tuple[str, object]]:
    return {each.variable: (each.value, each.exists) for each in selected_files.probe(variables)}


def test_paths_are_looked_at(tmp_path: Path):
    (tmp_path / "ptxas").touch()

    found = selected(TRITON_PTXAS_PATH=f"{tmp_path}/ptxas", CUDNN_PATH=f"{tmp_path}/cudnn")

    assert found == {
        "TRITON_PTXAS_PATH": (f"{tmp_path}/ptxas", True),
        "CUDNN_PATH": (f"{tmp_path}/cudnn", False),
    }


def test_the_toolkit_among_xlas_flags_is_found(tmp_path: Path):
    flags = f"--xla_cpu=1 --xla_gpu_cuda_data_dir={tmp_path}/gone --xla_x"

    assert selected(XLA_FLAGS=flags) == {"XLA_FLAGS": (f"{tmp_path}/gone", False)}


def test_the_library_that_bitsandbytes_would_load_is_looked_for(tmp_path: Path):
    package = tmp_path / "lib/python3.12/site-packages/bitsandbytes"
    package.mkdir(parents=True)
    (package / "libbitsandbytes_cuda124.so").touch()

    right = selected(VIRTUAL_ENV=str(tmp_path), BNB_CUDA_VERSION="124")
    wrong = selected(VIRTUAL_ENV=str(tmp_path), BNB_CUDA_VERSION="11.8")

    assert right["BNB_CUDA_VERSION"][1] is True
    assert wrong["BNB_CUDA_VERSION"] == (f"{package}/libbitsandbytes_cuda118.so", False)


def test_without_bitsandbytes_its_variable_selects_nothing(tmp_path: Path):
    assert selected(VIRTUAL_ENV=str(tmp_path), BNB_CUDA_VERSION="118", PATH="") == {}
