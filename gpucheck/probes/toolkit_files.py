"""Reads what a CUDA toolkit's own files say of it: its version, its folders, its compiler."""

import json
import re
from collections.abc import Callable

from gpucheck.probes.rooted_disk import Disk
from gpucheck.snapshot import Maybe, Unknown
from gpucheck.versions import version_tuple

#: Where a distribution's own package puts its toolkit; its headers and libraries lie in /usr.
DISTRIBUTION_HOME = "/usr/lib/nvidia-cuda-toolkit"

WRAPPERS = frozenset({"ccache", "sccache", "distcc", "icecc"})
_TARGETS = ("x86_64-linux", "sbsa-linux", "aarch64-linux")
_MULTIARCH = ("x86_64-linux-gnu", "aarch64-linux-gnu")


def home_of_nvcc(disk: Disk, nvcc: str, depth: int = 4) -> str | None:
    """Return the home of the toolkit that an nvcc belongs to, through links and wrapper scripts."""
    resolved = disk.resolve(nvcc)
    if resolved is None or resolved.rpartition("/")[2] in WRAPPERS or depth == 0:
        return None
    folder = resolved.rpartition("/")[0]
    home = folder.rpartition("/")[0] if folder.endswith("/bin") else ""
    text = disk.text(resolved) or ""
    if text.startswith("#!"):
        target = nvcc_in_script(text)
        if target is not None and target != resolved:
            return home_of_nvcc(disk, target, depth - 1)
        if cudart_directory(disk, home) is None:
            return None
    return home or None


_PATH = re.compile(r"[\w./+-]+")
_PATH_BEGINS = re.compile(r"(?<![\w.$}])/")
_NVCC = re.compile(r"/bin/nvcc\b")


def nvcc_in_script(text: str) -> str | None:
    """Return the absolute path of the nvcc that a wrapper script runs.

    In three steps: one pattern for all would try each slash of a long path as its beginning.
    """
    for word in _PATH.finditer(text):
        start = _PATH_BEGINS.search(text, *word.span())
        ends = list(_NVCC.finditer(text, start.end(), word.end())) if start is not None else []
        if start is not None and ends:
            return text[start.start() : ends[-1].end()]
    return None


def include_directories(home: str) -> list[str]:
    """Return where a toolkit's headers lie, the likeliest first."""
    if home in {DISTRIBUTION_HOME, "/usr"}:
        return ["/usr/include", "/usr/include/cuda", f"{DISTRIBUTION_HOME}/include"]
    return [f"{home}/include", *(f"{home}/targets/{target}/include" for target in _TARGETS)]


def cudart_directory(disk: Disk, home: str) -> str | None:
    """Return the resolved folder in which a toolkit's libcudart lies."""
    if home in {DISTRIBUTION_HOME, "/usr"}:
        folders = [*(f"/usr/lib/{name}" for name in _MULTIARCH), "/usr/lib64"]
    else:
        folders = [*(f"{home}/targets/{name}/lib" for name in _TARGETS)]
        folders += [f"{home}/lib64", f"{home}/lib"]
    for folder in folders:
        if any(name.startswith("libcudart.so") for name in disk.names(folder)):
            return disk.resolve(folder)
    return None


def cudart_version(disk: Disk, folder: str | None) -> str | None:
    """Return the version in the full name of a libcudart: libcudart.so.12.4.127 → "12.4.127"."""
    for name in disk.names(folder) if folder else ():
        version = name.removeprefix("libcudart.so.")
        if version != name and len(version_tuple(version)) >= 2:
            return version
    return None


def version_by_files(disk: Disk, home: str) -> Maybe[str]:
    """Return "13.0" for the toolkit at *home* by its files alone; Unknown where none says it."""
    return best_version(*versions_in_files(disk, home))


def versions_in_files(
    disk: Disk, home: str
) -> tuple[Maybe[str], Maybe[str], Maybe[str], Maybe[str]]:
    """Return what version.json, the runtime's header, version.txt and libcudart's name say."""
    headers = [f"{folder}/cuda_runtime_api.h" for folder in include_directories(home)]
    return (
        first_of(disk, [f"{home}/version.json"], parse_version_json),
        first_of(disk, headers, parse_cudart_version),
        first_of(disk, [f"{home}/version.txt"], parse_version_txt),
        cudart_version(disk, cudart_directory(disk, home)),
    )


def first_of(disk: Disk, paths: list[str], parse: Callable[[str], str | Unknown]) -> Maybe[str]:
    """Return what *parse* reads in the first of these files; None where none is there."""
    for path in paths:
        text = disk.text(path)
        if text is not None:
            return parse(text)
    return None


def parse_version_json(text: str) -> str | Unknown:
    """Read the CUDA version out of a toolkit's `version.json`: "13.0.2"."""
    try:
        version = json.loads(text)["cuda"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Unknown(f"version.json is unreadable: {type(error).__name__}")
    if not isinstance(version, str) or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6}){1,3}", version):
        return Unknown("version.json holds no version")
    return version


def parse_version_txt(text: str) -> str | Unknown:
    """Read the version out of the `version.txt` of CUDA 11.0 and older: "10.2.89"."""
    found = re.search(r"CUDA Version ([0-9]{1,3}(?:\.[0-9]{1,6}){1,3})", text)
    return Unknown("version.txt holds no version") if found is None else found.group(1)


def parse_cudart_version(text: str) -> str | Unknown:
    """Read CUDART_VERSION (13000 is 13.0) out of `cuda_runtime_api.h`."""
    found = re.search(r"#[ \t]*define[ \t]+CUDART_VERSION[ \t]+([0-9]{4,6})\b", text)
    if found is None:
        return Unknown("cuda_runtime_api.h defines no CUDART_VERSION")
    number = int(found.group(1))
    return f"{number // 1000}.{number % 1000 // 10}"


def best_version(*sources: Maybe[str]) -> Maybe[str]:
    """Return major and minor by the first source that knows them."""
    why = None
    for source in sources:
        if isinstance(source, Unknown):
            why = why or source
        elif source is not None and len(parts := version_tuple(source)) >= 2:
            return f"{parts[0]}.{parts[1]}"
    return why or Unknown("no file of this toolkit says its version")
