"""Reads the environment variables on a list, and looks where they lead."""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpucheck.probes import calling_shell, selected_files, toolkit_files, variable_sources
from gpucheck.probes.files import ABSENT, names_in
from gpucheck.probes.rooted_disk import Disk
from gpucheck.snapshot import (
    Environment,
    HomeVariable,
    PathEntry,
    PreloadEntry,
    Unknown,
    Variable,
    unread,
    value,
)

_NAMES = """
    BNB_CUDA_VERSION CC CC_FOR_BUILD COMPUTE_PROFILE CONDA_DEFAULT_ENV CONDA_PREFIX
    CUDAHOSTCXX CUDA_AUTO_BOOST
    CUDA_CACHE_DISABLE CUDA_CACHE_MAXSIZE CUDA_CACHE_PATH CUDA_COREDUMP_FILE
    CUDA_DEVICE_MAX_CONNECTIONS CUDA_DEVICE_ORDER CUDA_DEVICE_WAITS_ON_EXCEPTION
    CUDA_DISABLE_PTX_JIT CUDA_ENABLE_COREDUMP_ON_EXCEPTION CUDA_ENABLE_LIGHTWEIGHT_COREDUMP
    CUDA_ENABLE_USER_TRIGGERED_COREDUMP CUDA_FABRIC_INIT_TIMEOUT_MS CUDA_FORCE_PTX_JIT CUDA_HOME
    CUDA_INJECTION32_PATH CUDA_INJECTION64_PATH CUDA_LAUNCH_BLOCKING CUDA_LOG_FILE
    CUDA_MODULE_LOADING CUDA_MPS_ACTIVE_THREAD_PERCENTAGE CUDA_MPS_LOG_DIRECTORY
    CUDA_MPS_PIPE_DIRECTORY CUDA_PATH CUDA_PROFILE CUDA_ROOT CUDA_VERSION CUDA_VISIBLE_DEVICES
    CUDNN_HOME
    CUDNN_LOGDEST_DBG CUDNN_LOGINFO_DBG CUDNN_LOGLEVEL_DBG CUDNN_PATH CXX EBROOTCUDA FORCE_CUDA
    KUBERNETES_SERVICE_HOST LD_AUDIT LD_BIND_NOW LD_DEBUG LD_LIBRARY_PATH LD_PRELOAD LIBRARY_PATH
    LOADEDMODULES MASTER_ADDR MASTER_PORT MAX_JOBS MKL_NUM_THREADS NCCL_ALGO
    NCCL_ASYNC_ERROR_HANDLING NCCL_BUFFSIZE NCCL_COLLNET_ENABLE NCCL_CONF_FILE NCCL_CROSS_NIC
    NCCL_CUMEM_ENABLE NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_DMABUF_ENABLE NCCL_HOME NCCL_IB_DISABLE
    NCCL_IB_GID_INDEX NCCL_IB_HCA NCCL_IB_TIMEOUT NCCL_IGNORE_CPU_AFFINITY NCCL_LAUNCH_MODE
    NCCL_MAX_NCHANNELS NCCL_MIN_NCHANNELS NCCL_MNNVL_ENABLE NCCL_NET NCCL_NET_GDR_LEVEL
    NCCL_NET_PLUGIN NCCL_NVLS_ENABLE NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_PROTO NCCL_SHM_DISABLE
    NCCL_SOCKET_FAMILY NCCL_SOCKET_IFNAME NCCL_TOPO_FILE NCCL_VERSION NUMBAPRO_NVVM
    NUMBA_CUDA_DRIVER NVCC_APPEND_FLAGS NVCC_CCBIN
    NVCC_PREPEND_FLAGS NVIDIA_DISABLE_REQUIRE NVIDIA_DRIVER_CAPABILITIES NVIDIA_REQUIRE_CUDA
    NVIDIA_TF32_OVERRIDE NVIDIA_VISIBLE_DEVICES NVSHMEM_DISABLE_NVLS OMP_NUM_THREADS PATH
    PYTHONHOME PYTHONNOUSERSITE PYTHONPATH PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF
    PYTORCH_NO_CUDA_MEMORY_CACHING PYTORCH_NVML_BASED_CUDA_CHECK RANK RAY_JOB_ID RAY_RAYLET_PID
    SHELL SLURM_JOB_GPUS SLURM_JOB_ID SLURM_STEP_GPUS SLURM_STEP_ID
    TORCH_ALLOW_TF32_CUBLAS_OVERRIDE TORCH_CUDA_ARCH_LIST TORCH_CUDNN_V8_API_DISABLED
    TORCH_DISTRIBUTED_DEBUG TORCH_NCCL_ASYNC_ERROR_HANDLING TORCH_NCCL_BLOCKING_WAIT
    TORCH_NCCL_DESYNC_DEBUG TORCH_SHOW_CPP_STACKTRACES TORCH_SYMM_MEM_DISABLE_MULTICAST
    TORCH_USE_CUDA_DSA
    TRITON_LIBCUDA_PATH TRITON_PTXAS_PATH VIRTUAL_ENV WORLD_SIZE XLA_FLAGS
"""
#: All that is ever read of the environment. Anything else in it is nobody's business: it may hold
#: tokens and names.
VARIABLES = tuple(_NAMES.split())

_LIBRARY_FOLDERS = re.compile(
    r"(.+?)/(?:lib64|lib|targets/[^/]+/lib|extras/CUPTI/lib64|nvvm/lib64)(?:/stubs)?"
)
#: What belongs to the whole system is no toolkit's home merely for being above one.
_NO_HOMES = ("", "/", "/usr", "/usr/local")
_STUBS = re.compile(r"lib(?:cuda|nvidia-ml)\.so")
_RUNTIME = re.compile(r"libcudart\.so(?:\.([0-9]+\.[0-9]+))?")
_DRIVER_LIBRARY = re.compile(r"libcuda\.so\.([0-9]+\.[0-9.]+)")
#: Links are followed as in the whole system.
_DISK = Disk(Path("/"))
_MODULE_PLACES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")


def probe(variables: Mapping[str, str]) -> Environment:
    """Return what *variables* (usually `os.environ`) say, by the names in `VARIABLES` alone."""
    path = variables.get("PATH")
    library_path = variables.get("LD_LIBRARY_PATH")
    preload = variables.get("LD_PRELOAD")
    library_folders = split_library_path(library_path or "")
    programs = calling_shell.callers()
    return Environment(
        variables=tuple(
            Variable(name=name, value=variables[name]) for name in VARIABLES if name in variables
        ),
        sources=variable_sources.probe(variables, frozenset(VARIABLES)),
        selected_files=selected_files.probe(variables),
        session=calling_shell.session(programs, variables),
        shell=calling_shell.of_user(programs, variables),
        cuda_home=_home(variables.get("CUDA_HOME")),
        cuda_path=_home(variables.get("CUDA_PATH")),
        cuda_root=_home(variables.get("CUDA_ROOT")),
        path=None if path is None else tuple(_entry(text) for text in path.split(":")),
        # Wholly empty it means nothing to the loader, as if it were unset.
        ld_library_path=(
            tuple(_entry(text, libraries=True) for text in library_folders)
            if library_path
            else None
        ),
        ld_preload=(
            tuple(_preload(text, library_folders) for text in split_preload(preload))
            if preload and split_preload(preload)
            else None
        ),
    )


def split_library_path(value: str) -> list[str]:
    """Split as the loader does: at `:` and at `;` (ld.so(8)); empty elements are kept."""
    return re.split("[:;]", value)


def split_preload(value: str) -> list[str]:
    """Split as the loader does: at spaces and `:` (ld.so(8)); empty elements mean nothing."""
    return [text for text in re.split("[ :]", value) if text]


# ------------------------------------------------------------------------------- where it leads


def _resolve(text: str) -> str | Unknown | None:
    """Follow all links; None where nothing is there at the end of them."""
    try:
        return os.path.realpath(text, strict=True)
    except OSError as error:
        return None if error.errno in ABSENT else unread(text, error)
    except ValueError as error:  # a NUL byte
        return Unknown(f"{text!r}: {error}")


def _home(value: str | None) -> HomeVariable | None:
    if not value:
        return None  # set but empty is to every program that reads it as if it were unset
    resolved = _resolve(value)
    if resolved is None:
        return HomeVariable(
            value=value, resolved=None, has_nvcc=False, has_cudart=False, toolkit_version=None
        )
    if isinstance(resolved, Unknown):
        return HomeVariable(
            value=value,
            resolved=resolved,
            has_nvcc=resolved,
            has_cudart=resolved,
            toolkit_version=resolved,
        )
    return HomeVariable(
        value=value,
        resolved=resolved,
        has_nvcc=_is_file(f"{resolved}/bin/nvcc"),
        has_cudart=_has_runtime(resolved),
        toolkit_version=_version(resolved),
    )


def _is_file(path: str) -> bool | Unknown:
    try:
        return stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - Path is ten times slower
    except OSError as error:
        return False if error.errno in ABSENT else unread(path, error)
    except ValueError as error:
        return Unknown(f"{path!r}: {error}")


def _library_folders(home: str) -> list[str]:
    targets = names_in(f"{home}/targets")
    names = targets if isinstance(targets, tuple) else ()
    return [f"{home}/lib64", f"{home}/lib", *(f"{home}/targets/{name}/lib" for name in names)]


def _has_runtime(home: str) -> bool | Unknown:
    doubt: Unknown | None = None
    for folder in _library_folders(home):
        names = names_in(folder)
        if isinstance(names, Unknown):
            doubt = names
        elif names is not None and _runtime_in(names):
            return True
    return doubt or False


def _runtime_in(names: Iterable[str]) -> bool:
    return any(_RUNTIME.match(name) for name in names)


def _version(home: str) -> str | None:
    """Return "13.0" for the toolkit at *home*, by its files; None: nothing there says one."""
    return value(toolkit_files.version_by_files(_DISK, home))


# ------------------------------------------------------------------------- elements of path lists


def _entry(text: str, *, libraries: bool = False) -> PathEntry:
    resolved = _resolve(text or ".")
    if isinstance(resolved, Unknown):
        return PathEntry(
            text=text,
            resolved=resolved,
            is_world_writable=resolved,
            toolkit=resolved,
            toolkit_version=resolved,
            has_nvcc=resolved,
        )
    writable = is_world_writable(text or ".")
    if resolved is None or not Path(resolved).is_dir():
        return PathEntry(
            text=text,
            resolved=resolved,
            is_world_writable=writable,
            toolkit=None,
            toolkit_version=None,
            has_nvcc=False,
            joined=_joined(text) if resolved is None else (),
        )
    nvcc = _is_file(f"{resolved}/nvcc")
    names: tuple[str, ...] = ()
    if libraries:
        listing = names_in(resolved)
        names = listing if isinstance(listing, tuple) else ()
    home = _toolkit_of(resolved, nvcc is True, names)
    return PathEntry(
        text=text,
        resolved=resolved,
        is_world_writable=writable,
        toolkit=home,
        toolkit_version=_version(home) if isinstance(home, str) else home,
        has_nvcc=nvcc,
        stubs=_stubs(text, resolved, names),
        compat_libcuda=_compat(text, resolved, names),
    )


_WRONG_SEPARATORS = re.compile(r"[\s,;\x00-\x1f]+")


def _joined(text: str) -> tuple[str, ...]:
    """Return the directories that another separator than `:` joined into *text*, which is none."""
    parts = [part for part in _WRONG_SEPARATORS.split(text) if part]
    if len(parts) == 1 and text.startswith("/"):
        return _run_together(text)
    if len(parts) < 2 or not all(part.startswith("/") and Path(part).is_dir() for part in parts):
        return ()
    return tuple(parts)


def _run_together(text: str) -> tuple[str, ...]:
    """Return two directories that were written without anything between: "/a/lib/b/lib".

    `/a/lib$LD_LIBRARY_PATH` in a start-up file does it. The second has to be more than a folder
    of the root: "/usr/lib/x/usr" says nothing.
    """
    at = text.find("/", 1)
    while at > 0:
        first, second = text[:at], text[at:]
        if second.strip("/").count("/") and Path(first).is_dir() and Path(second).is_dir():
            return first, second
        at = text.find("/", at + 1)
    return ()


def _toolkit_of(folder: str, has_nvcc: bool, names: Iterable[str]) -> str | Unknown | None:
    """Return the home of the toolkit that *folder* (links followed) is part of."""
    if has_nvcc:
        return _home_of_compiler(f"{folder}/nvcc")
    found = _LIBRARY_FOLDERS.fullmatch(folder)
    home = found[1] if found else folder.rpartition("/")[0]
    if home in _NO_HOMES:
        return None
    if found is None and folder.rpartition("/")[2] not in ("bin", "compat"):
        return None
    if _is_file(f"{home}/bin/nvcc") is True or (found is not None and _runtime_in(names)):
        return home
    for mark in ("version.json", "include/cuda_runtime_api.h"):
        if _is_file(f"{home}/{mark}") is True:
            return home
    return None


def _home_of_compiler(path: str) -> str | Unknown:
    home = toolkit_files.home_of_nvcc(_DISK, path)
    return home or Unknown(
        f"{path} is a wrapper; which toolkit it belongs to could not be determined"
    )


def _stubs(text: str, resolved: str, names: Iterable[str]) -> tuple[str, ...]:
    if "stubs" not in (text.rstrip("/").rpartition("/")[2], resolved.rpartition("/")[2]):
        return ()
    return tuple(name for name in names if _STUBS.match(name))


def _compat(text: str, resolved: str, names: tuple[str, ...]) -> str | Unknown | None:
    """Return the driver version of the forward-compatibility libcuda in a `compat` folder."""
    if "compat" not in (*text.split("/"), *resolved.split("/")):
        return None
    libraries = [name for name in names if name.startswith("libcuda.so")]
    if not libraries:
        return None
    for name in libraries:
        real = _resolve(f"{resolved}/{name}")
        found = (
            _DRIVER_LIBRARY.fullmatch(real.rpartition("/")[2]) if isinstance(real, str) else None
        )
        if found is not None:
            return found[1]
    return Unknown(f"{resolved}/{libraries[0]} does not bear its version in its name")


def is_world_writable(text: str) -> bool | Unknown:
    """Whether anyone may put files into this folder, or put another folder in its place.

    Neither is hindered by a sticky bit on the folder itself: it only keeps people from removing
    each other's files. On a parent, such as /tmp, it does keep them from swapping what is there.
    Where the folder does not exist, anyone who may write above may create it.
    """
    try:
        return any(
            _may_be_swapped(path)
            for path in {os.path.abspath(text), os.path.realpath(text)}  # noqa: PTH100
        )
    except OSError as error:
        return unread(text, error)
    except ValueError as error:
        return Unknown(f"{text!r}: {error}")


def _may_be_swapped(path: str) -> bool:
    is_itself = True  # also of what is nearest above a folder that does not exist
    place = path
    while True:
        try:
            mode = os.stat(place).st_mode  # noqa: PTH116
        except OSError as error:
            if error.errno not in ABSENT:
                raise
        else:
            if mode & stat.S_IWOTH and (is_itself or not mode & stat.S_ISVTX):
                return True
            is_itself = False
        above = os.path.dirname(place)  # noqa: PTH120 - plain text: Path would cost ten times more
        if above == place:
            return False
        place = above


def _preload(text: str, library_path: Iterable[str]) -> PreloadEntry:
    if "$" in text:
        return PreloadEntry(text=text, resolved=Unknown(f"{text} holds a token of the loader's"))
    if "/" in text:
        return PreloadEntry(text=text, resolved=_resolve(text))
    for folder in (*library_path, *_MODULE_PLACES):
        found = _resolve(f"{folder or '.'}/{text}")
        if isinstance(found, str):
            return PreloadEntry(text=text, resolved=found)
    # The loader's cache and the folders of this architecture may still know it.
    return PreloadEntry(text=text, resolved=Unknown(f"where the loader finds {text} is not known"))
