"""Finds the CUDA toolkits on disk, and the host compiler that their nvcc would call."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from gpucheck.knowledge import driver_cuda, host_compiler
from gpucheck.poverty import is_own
from gpucheck.probes.child import Child, Ended, run
from gpucheck.probes.cxx_compiler import HostCompilerSearch, all_on_path
from gpucheck.probes.rooted_disk import Disk
from gpucheck.probes.toolkit_files import (
    DISTRIBUTION_HOME,
    best_version,
    cudart_directory,
    home_of_nvcc,
    include_directories,
    versions_in_files,
)
from gpucheck.snapshot import Maybe, Toolkit, Toolkits, Unknown
from gpucheck.versions import version_tuple

Origin = Literal["local", "distribution", "conda", "pip", "module", "hpc_sdk", "other"]

_NOT_RUN = Unknown("--quick runs no compiler", "by design")
_HOME_VARIABLES = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "EBROOTCUDA")


def probe(
    variables: Mapping[str, str],
    root: Path = Path("/"),
    deadline_seconds: float = 5.0,
    *,
    run_nvcc: bool = True,
) -> Toolkits:
    """Return every CUDA toolkit that is installed under *root* or that *variables* lead to.

    Each nvcc is asked for its version in a child, all side by side; without *run_nvcc* none is.
    Paths in the facts are without *root*.
    """
    disk = Disk(root)
    path = [entry for entry in variables.get("PATH", "").split(":") if entry.startswith("/")]
    found: dict[str, list[str]] = {}  # resolved home → the names that lead to it
    dangling: list[str] = []
    for name in _candidates(disk, variables):
        home = disk.resolve(name)
        if home is None:
            if disk.is_link(name):
                dangling.append(name)
        elif _looks_like_toolkit(disk, home):
            found.setdefault(home, []).append(name)
    first_nvcc, first_home = None, None
    for nvcc in all_on_path(disk, path, "nvcc"):
        first_nvcc = first_nvcc or nvcc
        home = home_of_nvcc(disk, nvcc)
        first_home = first_home or home
        if home is not None:
            found.setdefault(home, [])
    asked = {
        home: _ask_version(disk, home, variables, deadline_seconds, run_nvcc) for home in found
    }
    compiler = HostCompilerSearch(disk, variables, path)
    compiler.ask(deadline_seconds, run_it=run_nvcc and any(asked.values()))
    installed = tuple(
        _toolkit(disk, home, names, child, variables, deadline_seconds, run_nvcc)
        for (home, names), child in zip(found.items(), asked.values(), strict=True)
    )
    unreadable = disk.unreadable
    return Toolkits(
        installed=Unknown(unreadable) if unreadable and not installed else installed,
        dangling=tuple(dict.fromkeys(dangling)),
        default=disk.resolve("/usr/local/cuda"),
        first_nvcc=first_nvcc,
        first_nvcc_home=first_home
        if first_home or not first_nvcc
        else Unknown(f"{first_nvcc} is a script that does not say which toolkit it runs"),
        host_compiler=compiler.answer(),
    )


# ------------------------------------------------------------------------------ where they are


def _candidates(disk: Disk, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield every path that may be a toolkit's home, or a link to one."""
    for folder in ("/usr/local", "/opt"):
        for name in disk.names(folder):
            if re.fullmatch(r"cuda(-[0-9.]+)?", name):
                yield f"{folder}/{name}"
    yield DISTRIBUTION_HOME
    for system in disk.names("/opt/nvidia/hpc_sdk"):
        for release in disk.names(f"/opt/nvidia/hpc_sdk/{system}"):
            base = f"/opt/nvidia/hpc_sdk/{system}/{release}/cuda"
            for version in disk.names(base):
                if version[:1].isdigit():
                    yield f"{base}/{version}"
    for variable in (*_HOME_VARIABLES, "CONDA_PREFIX"):
        value = variables.get(variable, "")
        # ENV002 speaks of a CUDA_HOME that leads nowhere; here only what exists counts.
        if value.startswith("/") and disk.resolve(value) is not None:
            yield value.rstrip("/") or "/"


def _looks_like_toolkit(disk: Disk, home: str) -> bool:
    return home == DISTRIBUTION_HOME or (
        disk.is_file(f"{home}/bin/nvcc")
        or cudart_directory(disk, home) is not None
        or disk.is_file(f"{home}/version.json")
    )


def _origin(home: str, variables: Mapping[str, str]) -> Origin:
    conda = variables.get("CONDA_PREFIX", "").rstrip("/")
    if "/site-packages/" in home or "/dist-packages/" in home:
        return "pip"
    if home in {DISTRIBUTION_HOME, "/usr"}:
        return "distribution"
    if "/hpc_sdk/" in home:
        return "hpc_sdk"
    if (conda and home == conda) or "/envs/" in home or "conda" in home or "mamba" in home:
        return "conda"
    if home == variables.get("EBROOTCUDA", "").rstrip("/") or "/spack/" in home:
        return "module"
    return "local" if re.match(r"/(usr/local|opt)/cuda", home) else "other"


# --------------------------------------------------------------------------------- what they are


def _ask_version(
    disk: Disk,
    home: str,
    variables: Mapping[str, str],
    deadline_seconds: float,
    run_nvcc: bool,
) -> Child | None:
    if not run_nvcc or not disk.is_file(f"{home}/bin/nvcc"):
        return None
    return Child(
        [disk.real(f"{home}/bin/nvcc"), "--version"],
        deadline_seconds=deadline_seconds,
        environment=variables,
        limit_bytes=1 << 16,
    )


def _toolkit(
    disk: Disk,
    home: str,
    names: list[str],
    child: Child | None,
    variables: Mapping[str, str],
    deadline_seconds: float,
    run_nvcc: bool,
) -> Toolkit:
    includes = include_directories(home)
    nvcc = f"{home}/bin/nvcc" if disk.is_file(f"{home}/bin/nvcc") else None
    version_json, header, version_txt, named = versions_in_files(disk, home)
    libraries = cudart_directory(disk, home)
    nvcc_version: Maybe[str]
    nvcc_error = None
    if nvcc is None:
        nvcc_version = None
    elif child is None:
        nvcc_version = _NOT_RUN if not run_nvcc else None
    else:
        nvcc_version, nvcc_error = judge_nvcc(child.end())
    version = best_version(version_json, nvcc_version, header, version_txt, named)
    compat = _compat(disk, home)
    gcc, clang = _limits(disk, includes, version)
    return Toolkit(
        home=home,
        names=tuple(dict.fromkeys(names)),
        version=version,
        version_json=version_json,
        nvcc=nvcc,
        nvcc_version=nvcc_version,
        nvcc_error=nvcc_error,
        nvcc_architectures=None
        if nvcc is None
        else _architectures(
            disk.real(nvcc),
            version,
            variables,
            deadline_seconds,
            child is not None and not nvcc_error,
        ),
        max_gcc=gcc if nvcc else None,
        max_clang=clang if nvcc else None,
        has_cudart=libraries is not None,
        library_directory=libraries,
        compat_directory=compat[0],
        compat_version=compat[1],
        origin=_origin(home, variables),
    )


def _compat(disk: Disk, home: str) -> tuple[str | None, Maybe[str]]:
    """Return the folder and the driver version of a toolkit's forward-compatibility libcuda."""
    folder = f"{home}/compat"
    found = False
    for name in disk.names(folder):
        version = name.removeprefix("libcuda.so.")
        found = found or name.startswith("libcuda.so")
        if version != name and len(version_tuple(version)) >= 2:
            return folder, version
    return (folder, Unknown("its libcuda has no version in its name")) if found else (None, None)


def _limits(disk: Disk, includes: list[str], version: Maybe[str]) -> tuple[Maybe[int], Maybe[int]]:
    """Return the newest gcc and clang, by the toolkit's own header, else by the table."""
    for folder in includes:
        text = disk.text(f"{folder}/crt/host_config.h")
        if text is not None:
            return parse_host_config(text)
    row = host_compiler.limit_of(version) if isinstance(version, str) else None
    if row is not None:
        return row.max_gcc, row.max_clang
    why = Unknown("crt/host_config.h is not there, and the table does not know this release")
    return why, why


def _architectures(
    nvcc: str,
    version: Maybe[str],
    variables: Mapping[str, str],
    deadline_seconds: float,
    ask: bool,
) -> Maybe[tuple[str, ...]]:
    """Return what an nvcc compiles for: by the table, else by its own word."""
    known = driver_cuda.architectures_of_toolkit(version) if isinstance(version, str) else None
    if known is not None:
        return known
    if not ask:
        return Unknown("the table does not know this release")
    ended = run(
        [nvcc, "--list-gpu-code"],
        deadline_seconds=deadline_seconds,
        environment=variables,
        limit_bytes=1 << 16,
    )
    if ended.why is not None:
        return Unknown(f"nvcc --list-gpu-code: {ended.why}")
    return parse_gpu_codes(ended.stdout.decode("utf-8", "replace"))


# -------------------------------------------------------------------------------------- parsers


def parse_nvcc_version(text: str) -> str | None:
    """Read the version out of what `nvcc --version` prints: "13.0.88"."""
    found = re.search(r"release [0-9.]+, V([0-9]{1,3}(?:\.[0-9]{1,6}){1,3})", text)
    return None if found is None else found.group(1)


def judge_nvcc(ended: Ended) -> tuple[Maybe[str], str | None]:
    """Return the version that an nvcc printed, and why it would not run.

    A late one is unknown rather than broken (the file system may be slow), as is one that failed
    for want of what gpucheck lacks.
    """
    if ended.late_after_seconds is not None or is_own(ended.why or ""):
        return Unknown(f"nvcc --version: {ended.why}"), None
    output = ended.stdout.decode("utf-8", "replace")
    if ended.why is None:
        version = parse_nvcc_version(output)
        return (version, None) if version else (None, "nvcc --version prints no version")
    lines = (ended.stderr.decode("utf-8", "replace") + output).strip().splitlines()
    detail = f": {lines[-1].strip()[:200]}" if lines else ""
    return None, f"{ended.why}{detail}"


def parse_host_config(text: str) -> tuple[int | None, int | None]:
    """Read the newest gcc and clang majors that `crt/host_config.h` accepts; None: no limit.

    The conditions count, not the texts of the errors: those of CUDA 12.2 and 12.3 contradict them.
    """
    gcc = re.search(r"^[ \t]*#[ \t]*if[ \t]+\(?__GNUC__[ \t]*>[ \t]*([0-9]{1,3})\b", text, re.M)
    clang = re.search(r"__clang_major__[ \t]*>=[ \t]*([0-9]{1,3})\b", text)
    return (
        None if gcc is None else int(gcc.group(1)),
        None if clang is None else int(clang.group(1)) - 1,
    )


def parse_gpu_codes(text: str) -> tuple[str, ...] | Unknown:
    """Read what `nvcc --list-gpu-code` prints: one "sm_90" a line."""
    found = tuple(dict.fromkeys(re.findall(r"^sm_[0-9]{2,4}[af]?$", text, re.M)))
    return found or Unknown("nvcc --list-gpu-code names no architecture")
