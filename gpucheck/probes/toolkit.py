"""Finds the CUDA toolkits on disk, and the host compiler that their nvcc would call."""

import json
import os
import re
import shlex
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from gpucheck.knowledge import driver_cuda, host_compiler
from gpucheck.probes.child import Child, Ended, run
from gpucheck.snapshot import HostCompiler, Maybe, Toolkit, Toolkits, Unknown
from gpucheck.versions import version_tuple

Origin = Literal["local", "distribution", "conda", "pip", "module", "hpc_sdk", "other"]

#: Where a distribution's own package puts its toolkit; its headers and libraries lie in /usr.
DISTRIBUTION_HOME = "/usr/lib/nvidia-cuda-toolkit"

_NOT_RUN = Unknown("--quick runs no compiler", "by design")
_LIMIT_BYTES = 1 << 20  # of a text file that we read: version files and headers are far smaller
_LINKS_LIMIT = 40  # as the kernel's own
_HOME_VARIABLES = ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "EBROOTCUDA")
_WRAPPERS = {"ccache", "sccache", "distcc", "icecc"}
_TARGETS = ("x86_64-linux", "sbsa-linux", "aarch64-linux")
_MULTIARCH = ("x86_64-linux-gnu", "aarch64-linux-gnu")


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
    disk = _Disk(root)
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
    for nvcc in _all_on_path(disk, path, "nvcc"):
        first_nvcc = first_nvcc or nvcc
        home = _home_of_nvcc(disk, nvcc)
        first_home = first_home or home
        if home is not None:
            found.setdefault(home, [])
    asked = {
        home: _ask_version(disk, home, variables, deadline_seconds, run_nvcc) for home in found
    }
    compiler = _HostCompilerSearch(disk, variables, path)
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


class _Disk:
    """Reads the file system under a root, following absolute links within it."""

    def __init__(self, root: Path) -> None:
        self._root = str(root).rstrip("/")
        self.unreadable: str | None = None

    def real(self, path: str) -> str:
        """Return where *path* lies for the kernel."""
        return self._root + path

    def resolve(self, path: str) -> str | None:
        """Follow every link of an absolute path; None where it leads to nothing."""
        pending = [part for part in reversed(path.split("/")) if part]
        done = ""
        links = 0
        while pending:
            part = pending.pop()
            if part == ".":
                continue
            if part == "..":
                done = done.rpartition("/")[0]
                continue
            here = f"{done}/{part}"
            try:
                mode = os.lstat(self.real(here)).st_mode
                if not stat.S_ISLNK(mode):
                    done = here
                    continue
                target = str(Path(self.real(here)).readlink())
            except (OSError, ValueError):
                return None
            links += 1
            if links > _LINKS_LIMIT:
                return None
            if target.startswith("/"):
                done = ""
            pending += [part for part in reversed(target.split("/")) if part]
        return done or "/"

    def is_link(self, path: str) -> bool:
        try:
            return stat.S_ISLNK(os.lstat(self.real(path)).st_mode)
        except (OSError, ValueError):
            return False

    def is_file(self, path: str) -> bool:
        resolved = self.resolve(path)
        try:
            return resolved is not None and stat.S_ISREG(Path(self.real(resolved)).stat().st_mode)
        except OSError:
            return False

    def names(self, folder: str) -> list[str]:
        """Return the sorted names in a folder; none where it cannot be listed."""
        resolved = self.resolve(folder)
        if resolved is None:
            return []
        try:
            return sorted(entry.name for entry in Path(self.real(resolved)).iterdir())
        except NotADirectoryError:
            return []
        except OSError as error:
            self.unreadable = f"{folder}: {error.strerror}"
            return []

    def text(self, path: str) -> str | None:
        """Return the beginning of a text file; None where there is none to read."""
        resolved = self.resolve(path)
        if resolved is None:
            return None
        try:
            # O_NONBLOCK: a FIFO in the place of a file must not hold us up.
            descriptor = os.open(self.real(resolved), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return None
            return os.read(descriptor, _LIMIT_BYTES).decode("utf-8", "replace")
        except OSError:
            return None
        finally:
            os.close(descriptor)


# ------------------------------------------------------------------------------ where they are


def _candidates(disk: _Disk, variables: Mapping[str, str]) -> Iterator[str]:
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


def _looks_like_toolkit(disk: _Disk, home: str) -> bool:
    return home == DISTRIBUTION_HOME or (
        disk.is_file(f"{home}/bin/nvcc")
        or _cudart_directory(disk, home) is not None
        or disk.is_file(f"{home}/version.json")
    )


def _all_on_path(disk: _Disk, path: list[str], name: str) -> Iterator[str]:
    for folder in path:
        file = f"{folder.rstrip('/')}/{name}"
        if disk.is_file(file):
            yield file


def _home_of_nvcc(disk: _Disk, nvcc: str, depth: int = 4) -> str | None:
    """Return the home of the toolkit that an nvcc belongs to, through links and wrapper scripts."""
    resolved = disk.resolve(nvcc)
    if resolved is None or resolved.rpartition("/")[2] in _WRAPPERS or depth == 0:
        return None
    folder = resolved.rpartition("/")[0]
    home = folder.rpartition("/")[0] if folder.endswith("/bin") else ""
    text = disk.text(resolved) or ""
    if text.startswith("#!"):
        target = nvcc_in_script(text)
        if target is not None and target != resolved:
            return _home_of_nvcc(disk, target, depth - 1)
        if _cudart_directory(disk, home) is None:
            return None
    return home or None


def nvcc_in_script(text: str) -> str | None:
    """Return the absolute path of the nvcc that a wrapper script runs."""
    found = re.search(r"(?<![\w.$}])(/[\w./+-]*/bin/nvcc)\b", text)
    return None if found is None else found.group(1)


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
    disk: _Disk,
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
    disk: _Disk,
    home: str,
    names: list[str],
    child: Child | None,
    variables: Mapping[str, str],
    deadline_seconds: float,
    run_nvcc: bool,
) -> Toolkit:
    includes = _include_directories(home)
    nvcc = f"{home}/bin/nvcc" if disk.is_file(f"{home}/bin/nvcc") else None
    version_json = _first(disk, [f"{home}/version.json"], parse_version_json)
    version_txt = _first(disk, [f"{home}/version.txt"], parse_version_txt)
    header = _first(disk, [f"{i}/cuda_runtime_api.h" for i in includes], parse_cudart_version)
    libraries = _cudart_directory(disk, home)
    nvcc_version: Maybe[str]
    nvcc_error = None
    if nvcc is None:
        nvcc_version = None
    elif child is None:
        nvcc_version = _NOT_RUN if not run_nvcc else None
    else:
        nvcc_version, nvcc_error = judge_nvcc(child.end())
    version = _version(
        version_json, nvcc_version, header, version_txt, _cudart_version(disk, libraries)
    )
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


def _first(disk: _Disk, paths: list[str], parse: Callable[[str], str | Unknown]) -> Maybe[str]:
    """Return what *parse* reads in the first of these files; None where none is there."""
    for path in paths:
        text = disk.text(path)
        if text is not None:
            return parse(text)
    return None


def _include_directories(home: str) -> list[str]:
    if home in {DISTRIBUTION_HOME, "/usr"}:
        return ["/usr/include", "/usr/include/cuda", f"{DISTRIBUTION_HOME}/include"]
    return [f"{home}/include", *(f"{home}/targets/{target}/include" for target in _TARGETS)]


def _cudart_directory(disk: _Disk, home: str) -> str | None:
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


def _cudart_version(disk: _Disk, folder: str | None) -> str | None:
    """Return the version in the full name of a libcudart: libcudart.so.12.4.127 → "12.4.127"."""
    for name in disk.names(folder) if folder else ():
        version = name.removeprefix("libcudart.so.")
        if version != name and len(version_tuple(version)) >= 2:
            return version
    return None


def _compat(disk: _Disk, home: str) -> tuple[str | None, Maybe[str]]:
    """Return the folder and the driver version of a toolkit's forward-compatibility libcuda."""
    folder = f"{home}/compat"
    found = False
    for name in disk.names(folder):
        version = name.removeprefix("libcuda.so.")
        found = found or name.startswith("libcuda.so")
        if version != name and len(version_tuple(version)) >= 2:
            return folder, version
    return (folder, Unknown("its libcuda has no version in its name")) if found else (None, None)


def _version(*sources: Maybe[str]) -> Maybe[str]:
    """Return major and minor by the first source that knows them."""
    why = None
    for source in sources:
        if isinstance(source, Unknown):
            why = why or source
        elif source is not None and len(parts := version_tuple(source)) >= 2:
            return f"{parts[0]}.{parts[1]}"
    return why or Unknown("no file of this toolkit says its version")


def _limits(disk: _Disk, includes: list[str], version: Maybe[str]) -> tuple[Maybe[int], Maybe[int]]:
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


def parse_nvcc_version(text: str) -> str | None:
    """Read the version out of what `nvcc --version` prints: "13.0.88"."""
    found = re.search(r"release [0-9.]+, V([0-9]{1,3}(?:\.[0-9]{1,6}){1,3})", text)
    return None if found is None else found.group(1)


def judge_nvcc(ended: Ended) -> tuple[Maybe[str], str | None]:
    """Return the version that an nvcc printed, and why it would not run.

    A late one is unknown rather than broken: the file system may be slow.
    """
    if ended.late_after_seconds is not None:
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


def parse_compiler_version(
    text: str,
) -> tuple[Literal["gcc", "clang", "other"], str | None]:
    """Read the kind and the version of a compiler out of what its `--version` prints."""
    first = text.split("\n", 1)[0]
    clang = re.search(r"\bclang version ([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})", text)
    if clang is not None:
        return "clang", clang.group(1)
    if "Free Software Foundation" in text:
        # The vendor stands in brackets before the version, and may hold one of its own.
        found = re.search(r"\) ([0-9]{1,4}(?:\.[0-9]{1,4}){0,2})\b", first)
        return "gcc", None if found is None else found.group(1)
    return "other", None


# ------------------------------------------------------------------------------ the host compiler


class _HostCompilerSearch:
    """Finds the compiler that nvcc would call, and asks it for its version in a child."""

    def __init__(self, disk: _Disk, variables: Mapping[str, str], path: list[str]) -> None:
        self._disk = disk
        self._variables = variables
        self._path = path
        self._child: Child | None = None
        self.file, self.chosen_by = self._choose()

    def ask(self, deadline_seconds: float, *, run_it: bool) -> None:
        if self.file is not None and run_it:
            self._child = Child(
                [self._disk.real(self.file), "--version"],
                deadline_seconds=deadline_seconds,
                environment={**self._variables, "LC_ALL": "C"},
                limit_bytes=1 << 16,
            )

    def answer(self) -> Maybe[HostCompiler]:
        if self.file is None:
            return None
        kind, version = compiler_by_name(self._disk.resolve(self.file) or self.file)
        why = "its name does not say" if self._child is None else ""
        if self._child is not None:
            ended = self._child.end()
            if ended.why is None:
                reported = parse_compiler_version(ended.stdout.decode("utf-8", "replace"))
                kind, version = reported[0], reported[1] or version
                why = "its --version prints none"
            else:
                why = f"{self.file} --version: {ended.why}"
        return HostCompiler(
            path=self.file,
            kind=kind,
            version=version or Unknown(why),
            chosen_by=self.chosen_by,
        )

    def _choose(self) -> tuple[str | None, str]:
        flags = " ".join(
            self._variables.get(name, "") for name in ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")
        )
        ccbin = ccbin_in_flags(flags)
        named = [("NVCC_PREPEND_FLAGS", ccbin)] if ccbin else []
        named += [
            (name, self._variables.get(name, ""))
            for name in ("NVCC_CCBIN", "CUDAHOSTCXX", "CXX", "CC")
        ]
        for name, command in named:
            file = self._find(command)
            if file is not None:
                return file, name
        for name in ("g++", "gcc", "c++"):
            file = self._find(name)
            if file is not None:
                return file, "PATH"
        return None, "PATH"

    def _find(self, command: str) -> str | None:
        """Return the file of a compiler's command, which may be a folder or have a wrapper."""
        try:
            words = [w for w in shlex.split(command) if w.rpartition("/")[2] not in _WRAPPERS]
        except ValueError:
            return None
        if not words:
            return None
        if words[0].startswith("/"):
            for file in (words[0], f"{words[0].rstrip('/')}/g++", f"{words[0].rstrip('/')}/gcc"):
                if self._disk.is_file(file):
                    return file
            return None
        if "/" in words[0]:
            return None
        return next(_all_on_path(self._disk, self._path, words[0]), None)


def ccbin_in_flags(flags: str) -> str | None:
    """Return the last -ccbin in nvcc's flags, as conda's activation sets it."""
    found = re.findall(r"(?:^|\s)(?:-ccbin|--compiler-bindir)(?:=|\s+)(\S+)", flags)
    return found[-1] if found else None


def compiler_by_name(
    path: str,
) -> tuple[Literal["gcc", "clang", "other"], str | None]:
    """Read kind and major version out of a file's name: …/x86_64-linux-gnu-g++-13."""
    found = re.fullmatch(
        r"(?:[\w.]+-)*(gcc|g\+\+|clang|clang\+\+)(?:-([0-9]{1,3}(?:\.[0-9]{1,3}){0,2}))?",
        path.rpartition("/")[2],
    )
    if found is None:
        return "other", None
    return ("clang" if found.group(1).startswith("clang") else "gcc"), found.group(2)
