"""Looks whether the files are there that variables make a program use."""

import os
import re
from collections.abc import Iterator, Mapping

from gpucheck.probes.files import ABSENT, names_in
from gpucheck.snapshot import SelectedFile, Unknown

#: Variables whose value is the path itself.
#: Sources: Triton's README ("TRITON_PTXAS_PATH", "TRITON_LIBCUDA_PATH"); Numba's "Environment
#: variables" (NUMBA_CUDA_DRIVER, NUMBAPRO_NVVM); torch.utils.cpp_extension (CUDNN_HOME,
#: CUDNN_PATH); Transformer Engine's setup (CUDNN_PATH, NCCL_HOME).
PATHS = (
    *("TRITON_LIBCUDA_PATH", "TRITON_PTXAS_PATH", "NUMBA_CUDA_DRIVER", "NUMBAPRO_NVVM"),
    *("CUDNN_PATH", "CUDNN_HOME", "NCCL_HOME"),
)
_DATA_DIRECTORY = re.compile(r"--xla_gpu_cuda_data_dir=(\S+)")  # OpenXLA, "XLA Flags Guidance"


def probe(variables: Mapping[str, str]) -> tuple[SelectedFile, ...]:
    """Return what each such variable that is set selects, and whether it is there."""
    return tuple(_selected(variables))


def _selected(variables: Mapping[str, str]) -> Iterator[SelectedFile]:
    for name in PATHS:
        if variables.get(name):
            path = variables[name]
            yield SelectedFile(variable=name, value=path, exists=_exists(path))
    found = _DATA_DIRECTORY.search(variables.get("XLA_FLAGS", ""))
    if found is not None:
        path = found[1].strip("\"'")
        yield SelectedFile(variable="XLA_FLAGS", value=path, exists=_exists(path))
    version = variables.get("BNB_CUDA_VERSION", "").replace(".", "")
    if version.isdigit():
        yield from _bitsandbytes(variables, f"libbitsandbytes_cuda{version}.so")


def _exists(path: str) -> bool | Unknown:
    try:
        os.stat(path)  # noqa: PTH116 - one call
    except OSError as error:
        return False if error.errno in ABSENT else Unknown(f"{path}: {error.strerror}")
    except ValueError as error:
        return Unknown(f"{path!r}: {error}")
    return True


def _bitsandbytes(variables: Mapping[str, str], library: str) -> Iterator[SelectedFile]:
    """Yield the library that bitsandbytes is made to load; nothing where the package is not here.

    Source: bitsandbytes' documentation, "Installation": BNB_CUDA_VERSION overrides the CUDA
    version that torch has, and with it the file name.
    """
    folders = [folder for folder in _packages(variables) if names_in(folder) is not None]
    if folders:
        places = [f"{folder}/{library}" for folder in folders]
        there = [_exists(place) for place in places]
        unknown = next((each for each in there if isinstance(each, Unknown)), False)
        yield SelectedFile(
            variable="BNB_CUDA_VERSION", value=places[0], exists=True in there or unknown
        )


def _packages(variables: Mapping[str, str]) -> Iterator[str]:
    """Yield where the active environment, or the Python on PATH, would have bitsandbytes."""
    prefixes = [variables.get(name, "") for name in ("VIRTUAL_ENV", "CONDA_PREFIX")]
    if not any(prefixes):
        prefixes = [
            folder.removesuffix("/bin")
            for folder in variables.get("PATH", "").split(":")
            if folder.startswith("/") and folder.endswith("/bin") and _exists(f"{folder}/python3")
        ]
    for prefix in prefixes:
        names = names_in(f"{prefix}/lib") if prefix else None
        for name in names if isinstance(names, tuple) else ():
            if name.startswith("python3"):
                yield f"{prefix}/lib/{name}/site-packages/bitsandbytes"
                yield f"{prefix}/lib/{name}/dist-packages/bitsandbytes"
