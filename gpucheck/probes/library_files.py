"""Says of a CUDA library's file which version it is, and where it comes from."""
# Paths are strings here, as the loader sees and reports them:
# ruff: noqa: PTH112, PTH120

import functools
import os
import re
from collections.abc import Sequence

from gpucheck.probes.files import names_in, read_text
from gpucheck.probes.readable import readable
from gpucheck.snapshot import Origin, Torch, Unknown

#: What the catalogue's LIB family looks at: the CUDA libraries that wheels bring.
CUDA_LIBRARY = re.compile(
    r"lib(cudart|cublas|cublasLt|cudnn\w*|cufft|cufftw|curand|cusolver|cusolverMg|cusparse"
    r"|cusparseLt|nvJitLink|nvrtc|nvrtc-builtins|nccl|cupti|nvshmem_host|cufile|nvToolsExt)\.so\b"
)


def cuda_major(torch: Torch) -> int | None:
    """Return the CUDA major that *torch* was built for."""
    text = torch.cuda if isinstance(torch.cuda, str) else ""
    head = text.partition(".")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) < 4 else None


#: Which NVIDIA wheel brings a library, without the -cu12 or -cu13 that some names end in.
_WHEELS = {
    "cudart": "cuda-runtime",
    "cublas": "cublas",
    "cublasLt": "cublas",
    "cudnn": "cudnn",
    "cufft": "cufft",
    "cufftw": "cufft",
    "curand": "curand",
    "cusolver": "cusolver",
    "cusolverMg": "cusolver",
    "cusparse": "cusparse",
    "cusparseLt": "cusparselt",
    "nvJitLink": "nvjitlink",
    "nvrtc": "cuda-nvrtc",
    "nvrtc-builtins": "cuda-nvrtc",
    "nccl": "nccl",
    "cupti": "cuda-cupti",
    "nvshmem_host": "nvshmem",
    "cufile": "cufile",
    "nvToolsExt": "nvtx",
}
_IN_WHEEL = re.compile(r"(.*)/nvidia/([^/]+)/lib/([^/]+)")
_FILE_VERSION = re.compile(r"\.so\.(\d+(?:\.\d+)+)$")
_NAME = re.compile(r"lib([\w-]+?)\.so")


def forget() -> None:
    """Forget what was read: the files may have changed since the last examination."""
    _wheels_in.cache_clear()
    _conda_prefix.cache_clear()


def wheel_libraries(sites: Sequence[str], major: int | None) -> dict[str, str]:
    """Return the CUDA libraries that the wheels below *sites* bring: path by SONAME.

    Where two folders hold one SONAME, the one of torch's own CUDA *major* counts. Older torch
    wheels hold the libraries themselves, in torch/lib.
    """
    found: dict[str, str] = {}
    for site in sites:
        names = names_in(f"{site}/torch/lib")
        for name in names if isinstance(names, tuple) else ():
            if CUDA_LIBRARY.match(name):
                found.setdefault(name, f"{site}/torch/lib/{name}")
        folders = names_in(f"{site}/nvidia")
        if not isinstance(folders, tuple):
            continue
        own = f"cu{major}"
        for folder in sorted(folders, key=lambda name: (name != own, name)):
            names = names_in(f"{site}/nvidia/{folder}/lib")
            for name in names if isinstance(names, tuple) else ():
                if CUDA_LIBRARY.match(name):
                    found.setdefault(name, f"{site}/nvidia/{folder}/lib/{name}")
    return found


def conda_libraries(prefix: str) -> dict[str, str]:
    """Return the CUDA libraries of the conda environment at *prefix*: path by SONAME."""
    names = names_in(f"{prefix}/lib") if os.path.isdir(f"{prefix}/conda-meta") else None
    return {
        name: f"{prefix}/lib/{name}"
        for name in (names if isinstance(names, tuple) else ())
        if CUDA_LIBRARY.match(name)
    }


def version_of(path: str) -> str | Unknown:
    """Return the version of the library file *path*, as the best witness next to it says.

    Witnesses: the metadata of the wheel that it lies in, a cudnn_version.h that belongs to it, the
    name of the file itself. CUPTI's file names count years, not CUDA versions: unknown.
    """
    real = os.path.realpath(path)
    for candidate in (path, real):
        inside = _IN_WHEEL.fullmatch(candidate)
        if inside is not None:
            version = _wheel_version(inside[1], inside[2], inside[3])
            if version is not None and inside[3].startswith("libcudnn"):
                # The fourth number counts builds; cuDNN itself and its file names leave it out.
                version = ".".join(version.split(".")[:3])
            if version is not None:
                return version
    named = _FILE_VERSION.search(real)
    if named is not None:
        if int(named[1].partition(".")[0][:9]) >= 1000:
            return Unknown("the name of its file counts years")
        return named[1]
    return Unknown(readable(f"{path} does not tell its version"))


def _wheel_version(site: str, folder: str, file: str) -> str | None:
    name = _NAME.match(file)
    if name is None:
        return None
    stem = "cudnn" if name[1].startswith("cudnn") else name[1]
    wanted = _WHEELS.get(stem)
    if wanted is None:
        return None
    found = {v for n, v in _wheels_in(site) if re.sub(r"-cu\d+$", "", n) == f"nvidia-{wanted}"}
    if len(found) > 1 and folder.startswith("cu") and folder[2:].isdigit():
        # CUDA 13 has its own folder, and wheels whose names have no ending.
        plain = {v for n, v in _wheels_in(site) if n == f"nvidia-{wanted}"}
        found = plain or found
    elif len(found) > 1 and stem not in ("cudnn", "nccl", "cusparseLt", "nvshmem_host"):
        found = {v for n, v in _wheels_in(site) if n == f"nvidia-{wanted}-cu12"} or found
    if stem == "cudnn" and len(found) != 1:
        header = read_text(f"{site}/nvidia/{folder}/include/cudnn_version.h")
        return header_version(header) if isinstance(header, str) else None
    return found.pop() if len(found) == 1 else None


@functools.lru_cache(maxsize=16)
def _wheels_in(site: str) -> tuple[tuple[str, str], ...]:
    """Return name and version of the NVIDIA wheels in a site-packages folder."""
    names = names_in(site)
    found = []
    for name in names if isinstance(names, tuple) else ():
        if name.startswith("nvidia_") and name.endswith(".dist-info"):
            distribution, _, version = name.removesuffix(".dist-info").partition("-")
            found.append((distribution.replace("_", "-").lower(), version))
    return tuple(found)


_MACRO = re.compile(
    r"^[ \t]*#[ \t]*define[ \t]+CUDNN_(MAJOR|MINOR|PATCHLEVEL)[ \t]+(\d{1,4})\b", re.MULTILINE
)


def header_version(text: str) -> str | None:
    """Return the version that a cudnn_version.h defines: "9.19.0"; None where it defines none."""
    found = dict(_MACRO.findall(text))
    try:
        return ".".join(str(int(found[key])) for key in ("MAJOR", "MINOR", "PATCHLEVEL"))
    except KeyError:
        return None


def origin_of(
    path: str,
    real: str,
    via: str,
    system_directories: Sequence[str],
    sys_path: Sequence[str] = (),
) -> Origin:
    """Say in one word where a library comes from."""
    if _IN_WHEEL.fullmatch(path) or _IN_WHEEL.fullmatch(real):
        return "wheel"
    folder = os.path.dirname(real)
    if any(
        real.startswith(f"{os.path.realpath(site)}/") for site in sys_path if "packages" in site
    ):
        return "wheel"
    if _TOOLKIT.search(folder):
        return "toolkit"
    if _conda_prefix(folder) is not None:
        return "conda"
    system = {*system_directories, "/usr/lib64", "/lib64", "/usr/lib", "/lib"}
    if folder in system or folder in {os.path.realpath(directory) for directory in system}:
        return "system"
    return "LD_LIBRARY_PATH" if via == "LD_LIBRARY_PATH" else "other"


_TOOLKIT = re.compile(r"/cuda(-\d[\d.]*)?/|/cuda-\d[^/]*/|/targets/[a-z0-9_]+-linux/lib$|/hpc_sdk/")


@functools.lru_cache(maxsize=256)
def _conda_prefix(folder: str) -> str | None:
    """Return the conda environment that *folder* lies in."""
    while len(folder) > 1:
        if os.path.isdir(f"{folder}/conda-meta"):
            return folder
        folder = os.path.dirname(folder)
    return None
