"""Lays out torch and NVIDIA's wheels in a folder, as pip does, out of tiny ELF files."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from elf_files import elf

from gpucheck.snapshot import Python, PyTorch, Torch

FOLDERS = ("cudnn", "nvshmem", "nccl", "cusparselt", "cu13")
#: folder below nvidia/, and what lies in its lib: (SONAME, what it needs)
CU13: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "cu13": (
        ("libcudart.so.13", ()),
        ("libcublasLt.so.13", ()),
        ("libcublas.so.13", ("libcublasLt.so.13",)),
        ("libnvJitLink.so.13", ()),
        ("libcusparse.so.12", ("libnvJitLink.so.13",)),
        ("libcusolver.so.12", ("libcublas.so.13", "libcublasLt.so.13", "libcusparse.so.12")),
        ("libnvrtc.so.13", ()),
        ("libcupti.so.13", ()),
    ),
    "nccl": (("libnccl.so.2", ()),),
    "cudnn": (
        ("libcudnn.so.9", ()),
        ("libcudnn_graph.so.9", ()),
        ("libcudnn_ops.so.9", ("libcudnn_graph.so.9",)),
        ("libcudnn_cnn.so.9", ("libcudnn_ops.so.9", "libcudnn_graph.so.9")),
        ("libcudnn_adv.so.9", ("libcudnn_ops.so.9", "libcudnn_graph.so.9")),
        ("libcudnn_engines_precompiled.so.9", ("libcudnn_graph.so.9",)),
        ("libcudnn_engines_runtime_compiled.so.9", ("libcudnn_graph.so.9",)),
        ("libcudnn_heuristic.so.9", ("libcudnn_graph.so.9",)),
    ),
}
WHEELS = (
    "nvidia_cuda_runtime-13.0.96",
    "nvidia_cublas-13.1.0.3",
    "nvidia_nvjitlink-13.0.88",
    "nvidia_cusparse-12.6.3.3",
    "nvidia_cusolver-12.0.4.66",
    "nvidia_cuda_nvrtc-13.0.88",
    "nvidia_cuda_cupti-13.0.85",
    "nvidia_nccl_cu13-2.28.9",
    "nvidia_cudnn_cu13-9.19.0.56",
)
TORCH_LIBRARIES: Mapping[str, Sequence[str]] = {
    "libtorch_global_deps.so": ("libcudart.so.13",),
    "libc10.so": (),
    "libtorch_cpu.so": ("libc10.so", "libcupti.so.13", "libcudart.so.13"),
    "libtorch_cuda.so": (
        "libcudart.so.13",
        "libcusparse.so.12",
        "libnccl.so.2",
        "libcublas.so.13",
        "libcublasLt.so.13",
        "libcudnn.so.9",
        "libtorch_cpu.so",
    ),
    "libtorch_python.so": ("libtorch_cpu.so", "libtorch_cuda.so", "libcudart.so.13"),
    "libtorch_cuda_linalg.so": ("libtorch_cuda.so", "libcusolver.so.12"),
    "libcaffe2_nvrtc.so": ("libnvrtc.so.13", "libcuda.so.1"),
}
#: The shape of the functions in torch/__init__.py that matter, from 2.9 on.
PRELOADING = """
def _get_cuda_dep_paths(path, lib_folder, lib_name):
    found = glob.glob(os.path.join(path, "nvidia", lib_folder, "lib", lib_name))
    found += glob.glob(os.path.join(path, "nvidia", f"cu{major}", "lib", lib_name))
    return found + glob.glob(os.path.join(path, lib_folder, "lib", lib_name))

def _preload_cuda_deps(err=None):
    cuda_libs = [
        ("cublas", "libcublasLt.so.*[0-9]"),
        ("cublas", "libcublas.so.*[0-9]"),
        ("cudnn", "libcudnn.so.*[0-9]"),
        ("cuda_nvrtc", "libnvrtc.so.*[0-9]"),
        ("cuda_runtime", "libcudart.so.*[0-9]"),
        ("nvjitlink", "libnvJitLink.so.*[0-9]"),
        ("cusparse", "libcusparse.so.*[0-9]"),
    ]
    _preload_cuda_lib("nvtx", "libnvToolsExt.so.*[0-9]", required=False)

def _load_global_deps():
    try:
        ctypes.CDLL(global_deps_lib_path)
        try:
            if "libcudart.so" not in _maps:
                return
            _preload_cuda_deps()
        except Exception:
            pass
    except OSError as err:
        _preload_cuda_deps(err)
        ctypes.CDLL(global_deps_lib_path)

rest = 1
"""


def plant_torch(
    site: Path,
    *,
    rpath_tag: str = "rpath",
    preloading: str = PRELOADING,
    wheels: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = CU13,
    metadata: Sequence[str] = WHEELS,
) -> PyTorch:
    """Fill *site* with a torch built for CUDA 13 and its wheels; return what a probe says of it."""
    search = ":".join(f"$ORIGIN/../../nvidia/{folder}/lib" for folder in FOLDERS) + ":$ORIGIN"
    library = site / "torch" / "lib"
    library.mkdir(parents=True)
    tag: dict[str, Any] = {rpath_tag: search}
    for name, needed in TORCH_LIBRARIES.items():
        (library / name).write_bytes(elf(soname=name, needed=needed, **tag))
    extension = site / "torch" / "_C.cpython-312-x86_64-linux-gnu.so"
    extension.write_bytes(elf(needed=["libtorch_python.so"], rpath="$ORIGIN/lib"))
    (site / "torch" / "__init__.py").write_text(preloading)
    for folder, files in wheels.items():
        plant_libraries(site / "nvidia" / folder / "lib", files)
    for name in metadata:
        (site / f"{name}.dist-info").mkdir()
    return PyTorch(
        python=Python(path=sys.executable, prefix=sys.prefix, sys_path=(str(site),)),
        torch=Torch(
            version="2.11.0+cu130",
            location=str(site / "torch"),
            build="cuda",
            cuda="13.0",
            cudnn="9.19.0.56",
        ),
        distributions=(),
        damaged=(),
        mixed_wheels=(),
    )


def plant_libraries(folder: Path, files: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Write libraries that look for what they need beside themselves, by DT_RUNPATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, needed in files:
        (folder / name).write_bytes(elf(soname=name, needed=needed, runpath="$ORIGIN"))


def plant_system_cudnn(folder: Path, version: str = "9.14.0") -> None:
    """Lay out cuDNN as a Linux package does: full versions, and links with the major alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, needed in CU13["cudnn"]:
        stem = name.removesuffix(".9")
        real = folder / f"{stem}.{version}"
        real.write_bytes(elf(soname=name, needed=needed))
        (folder / name).symlink_to(real.name)
        (folder / stem).symlink_to(name)


def remove(path: Path) -> None:
    """Take a file or a folder away."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
