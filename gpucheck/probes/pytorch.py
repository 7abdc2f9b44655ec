"""Reads which torch a Python would import, and what stands beside it, without importing it."""

import mmap
import os
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpucheck.knowledge import torch_cuda
from gpucheck.probes.child import payload_command, run
from gpucheck.probes.messages import MessageError, PythonAnswer, decode_all
from gpucheck.snapshot import (
    DamagedFile,
    Distribution,
    Known,
    Maybe,
    Python,
    PyTorch,
    Torch,
    Unknown,
    replace,
    unknown_section,
)

Build = Literal["cuda", "cpu", "rocm", "xpu"]

_TEXT_LIMIT_BYTES = 4 << 20  # RECORD of torch itself is 2 MB, every other file is smaller
_DAMAGE_LIMIT = 100  # files of one wheel: a folder that was deleted is one trouble, not thousands
_READ_ONLY_DATA_LIMIT_BYTES = 256 << 20


def probe(
    python: str | None, variables: Mapping[str, str], deadline_seconds: float = 5.0
) -> PyTorch:
    """Return the facts of *python*'s torch; None chooses the Python as `doctor --python` says.

    A Python whose paths no file tells is asked in a child, which has *deadline_seconds*.
    """
    choice = choose_python(python, variables)
    if choice is None:
        return PyTorch(
            python=None,
            torch=None,
            elsewhere=tuple(_elsewhere(variables, "")),
            distributions=(),
            damaged=(),
            mixed_wheels=(),
        )
    path, chosen_by = choice
    answer = _interpreter(path, variables, deadline_seconds)
    if isinstance(answer, Unknown):
        asked = Python(path=path, version=answer, chosen_by=chosen_by)
        return replace(unknown_section(PyTorch, answer.why), python=asked)
    sites = [folder for folder in answer.sys_path if Path(folder).is_dir()]
    wheels = list(_wheels(sites, answer))
    distributions = [*(wheel.distribution for wheel in wheels), *_conda_packages(answer.prefix)]
    torch = _torch(answer, sites, distributions, variables)
    damaged, mixed = _records(wheels)
    return PyTorch(
        python=Python(
            path=path,
            version=answer.version,
            chosen_by=chosen_by,
            prefix=answer.prefix,
            sys_path=tuple(answer.sys_path),
        ),
        torch=torch,
        elsewhere=tuple(_elsewhere(variables, answer.prefix)) if torch is None else (),
        distributions=tuple(distributions),
        damaged=tuple(damaged),
        mixed_wheels=tuple(mixed),
    )


# ------------------------------------------------------------------------------------ the Python


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interpreter:
    """What is known of a Python, by files or by its own word."""

    version: Maybe[str]
    prefix: str
    is_environment: bool  # a virtual or conda environment: its packages are meant to be its own
    sys_path: Sequence[str]
    user_site: str | None


def choose_python(python: str | None, variables: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the path of the Python to examine, and what chose it; None where there is none."""
    if python is not None:
        if "/" not in python:
            return _on_path(python, variables) or python, "--python"
        file = Path(python).absolute()
        return str(_python_in(file) if file.is_dir() else file), "--python"
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        folder = variables.get(name, "")
        if folder.startswith("/") and (
            _python_in(Path(folder)).is_symlink() or Path(folder).is_dir()
        ):
            return str(_python_in(Path(folder))), name
    own = sys.executable
    if own and any(_has_torch(entry) for entry in sys.path if entry):
        return own, "gpucheck's own"
    for name in ("python3", "python"):
        found = _on_path(name, variables)
        if found is not None:
            return found, "PATH"
    return (own, "gpucheck's own") if own else None


def _python_in(prefix: Path) -> Path:
    """Return the Python of an environment, which may be called python3 alone."""
    for name in ("python", "python3"):
        if os.path.lexists(prefix / "bin" / name):
            return prefix / "bin" / name
    return prefix / "bin" / "python"


def _on_path(name: str, variables: Mapping[str, str]) -> str | None:
    for folder in variables.get("PATH", "").split(":"):
        file = f"{folder.rstrip('/')}/{name}"
        if folder.startswith("/") and os.access(file, os.X_OK) and not Path(file).is_dir():
            return file
    return None


def _has_torch(folder: str) -> bool:
    return Path(folder, "torch", "__init__.py").is_file()


def _interpreter(
    path: str, variables: Mapping[str, str], deadline_seconds: float
) -> _Interpreter | Unknown:
    if not Path(path).exists():
        fault = "is a link to nothing" if Path(path).is_symlink() else "is not there"
        return Unknown(f"{path} {fault}")
    from_files = None if variables.get("PYTHONHOME") else _virtual_environment(path, variables)
    if from_files is not None:
        return from_files
    ended = run(
        payload_command(path, "describe_python"),
        deadline_seconds=deadline_seconds,
        environment=variables,
        limit_bytes=1 << 20,
    )
    if ended.why is not None:
        return Unknown(f"{path}: {ended.why}")
    return described(ended.stdout) or Unknown(f"{path} does not answer as a Python does")


def described(output: bytes) -> _Interpreter | None:
    """Read what a Python said of itself; None where it said nothing."""
    try:
        messages = decode_all(output)
    except MessageError:
        return None  # a program of another kind, called as if it were a Python
    for message in messages:
        if isinstance(message, PythonAnswer):
            return _Interpreter(
                version=message.version,
                prefix=message.prefix,
                is_environment=message.prefix != message.base_prefix
                or Path(message.prefix, "conda-meta").is_dir(),
                sys_path=list(dict.fromkeys(message.path)),
                user_site=message.user_site,
            )
    return None


def _virtual_environment(path: str, variables: Mapping[str, str]) -> _Interpreter | None:
    """Return what the files of a virtual environment tell; None where they leave a doubt."""
    prefix = Path(path).parent.parent
    settings = parse_pyvenv(_text(prefix / "pyvenv.cfg") or "")
    if "home" not in settings or settings.get("include-system-site-packages", "") != "false":
        return None
    folders = list(prefix.glob("lib/python3.*/site-packages"))
    if len(folders) != 1:
        return None
    version = re.match(
        r"[0-9]+\.[0-9]+\.[0-9]+", settings.get("version_info") or settings.get("version") or ""
    )
    named = [entry for entry in variables.get("PYTHONPATH", "").split(":") if entry.startswith("/")]
    site = str(folders[0])
    return _Interpreter(
        version=version.group() if version else folders[0].parent.name.removeprefix("python"),
        prefix=str(prefix),
        is_environment=True,
        sys_path=list(dict.fromkeys([*named, site, *_path_files(site)])),
        user_site=None,
    )


def parse_pyvenv(text: str) -> dict[str, str]:
    """Read `pyvenv.cfg`: lower-case keys and values."""
    settings: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals:
            settings[key.strip().lower()] = value.strip()
    return {**settings, **{k: v.lower() for k, v in settings.items() if k.startswith("include-")}}


def _path_files(site: str) -> Iterator[str]:
    """Yield the folders that the .pth files of a site-packages folder add."""
    for name in _names(site):
        if not name.endswith(".pth"):
            continue
        for line in (_text(Path(site, name)) or "").splitlines():
            entry = line.strip()
            if not entry or entry.startswith(("#", "import ", "import\t")) or "\0" in entry:
                continue
            folder = os.path.normpath(Path(site, entry))
            if Path(folder).is_dir():
                yield folder


# -------------------------------------------------------------------------------- distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wheel:
    """An installed distribution, and where its own description lies."""

    distribution: Distribution
    folder: str  # …/nvidia_cudnn_cu13-9.19.0.56.dist-info


_WATCHED = re.compile(
    r"(?:torch|torchvision|torchaudio|triton|pytorch[_-]triton[\w-]*|cuda[_-]toolkit"
    r"|cuda[_-]bindings|nvidia[_-][\w.-]*?)-([^-]+)(?:-py[0-9.]+)?\.(?:dist|egg)-info",
    re.IGNORECASE,
)
#: Those whose METADATA says what they need of the others.
_TELLERS = ("torch", "torchvision", "torchaudio")
_NEEDS = re.compile(r"(?:torch|triton|pytorch-triton.*|cuda-toolkit|cuda-bindings|nvidia-.*)")


def _wheels(sites: Iterable[str], python: _Interpreter) -> Iterator[_Wheel]:
    for site in sites:
        for folder in _names(site):
            found = _WATCHED.fullmatch(folder)
            if found is None:
                continue
            name = normalise(folder[: found.start(1) - 1])
            version = found.group(1)
            described = Path(site, folder)
            installer = _text(described / "INSTALLER", 256) if name in _TELLERS else None
            yield _Wheel(
                folder=str(described),
                distribution=Distribution(
                    name=name,
                    version=version,
                    location=site,
                    installer=installer.strip() or None if installer else None,
                    requires=_requirements(described, site, python) if name in _TELLERS else (),
                ),
            )


def normalise(name: str) -> str:
    """Return a distribution's name as the packaging standard (PEP 503) spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(described: Path, site: str, python: _Interpreter) -> tuple[str, ...]:
    version = python.version if isinstance(python.version, str) else ""
    needs: list[str] = []
    for requirement in parse_requirements(_text(described / "METADATA") or "", version):
        if not _NEEDS.fullmatch(requirement.name):
            continue
        needs.append(requirement.name + requirement.specifier)
        if requirement.name == "cuda-toolkit" and requirement.extras:
            # From 2.11 on torch names the CUDA libraries through this metapackage.
            for meta in Path(site).glob("cuda_toolkit-*.dist-info/METADATA"):
                needs += [
                    inner.name + inner.specifier
                    for inner in parse_requirements(
                        _text(meta) or "", version, extras=requirement.extras
                    )
                    if inner.name.startswith("nvidia-")
                ]
    return tuple(dict.fromkeys(needs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A line `Requires-Dist` that applies here."""

    name: str
    specifier: str  # "==9.19.0.56"
    extras: tuple[str, ...]


_REQUIREMENT = re.compile(
    r"([A-Za-z0-9][\w.-]*)[ \t]*(?:\[([\w ,.-]*)\])?[ \t]*\(?([^;()@]*)\)?[ \t]*(?:;(.*))?"
)


def parse_requirements(
    metadata: str, python_version: str, *, extras: Sequence[str] = ()
) -> Iterator[Requirement]:
    """Yield the requirements in a METADATA file that apply to this system and these *extras*."""
    header = re.split(r"\r?\n\r?\n", metadata, maxsplit=1)[0]
    for line in header.splitlines():
        if not line.startswith("Requires-Dist:"):
            continue
        found = _REQUIREMENT.fullmatch(line.removeprefix("Requires-Dist:").strip())
        if found is None:
            continue
        marker = (found.group(4) or "").strip()
        if marker and not _applies(marker, python_version, extras):
            continue
        yield Requirement(
            name=normalise(found.group(1)),
            specifier=found.group(3).replace(" ", ""),
            extras=tuple(e.strip() for e in (found.group(2) or "").split(",") if e.strip()),
        )


_CLAUSE = re.compile(r"""\(?\s*(\w+)\s*==\s*["']([^"']*)["']\s*\)?""")


def _applies(marker: str, python_version: str, extras: Sequence[str]) -> bool:
    """Evaluate a marker; the plain ones without `packaging`, whose import costs milliseconds."""
    here = {
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "platform_machine": os.uname().machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    clauses = [_CLAUSE.fullmatch(clause.strip()) for clause in marker.split(" and ")]
    if all(c is not None and (c.group(1) in here or c.group(1) == "extra") for c in clauses):
        return all(
            c.group(2) in extras if c.group(1) == "extra" else here[c.group(1)] == c.group(2)
            for c in clauses
            if c is not None
        )
    from packaging.markers import (
        InvalidMarker,
        Marker,
        UndefinedComparison,
        UndefinedEnvironmentName,
    )

    environment = {
        **here,
        "python_full_version": python_version or "3.0",
        "python_version": ".".join(python_version.split(".")[:2]) or "3.0",
    }
    try:
        parsed = Marker(marker)
        return any(parsed.evaluate({**environment, "extra": extra}) for extra in extras or [""])
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, ValueError):
        return False


def _conda_packages(prefix: str) -> Iterator[Distribution]:
    """Yield what conda says it installed: its `pytorch` is reported as torch."""
    names = {"pytorch": "torch", "torchvision": "torchvision", "torchaudio": "torchaudio"}
    for file in _names(f"{prefix}/conda-meta"):
        parts = file.removesuffix(".json").rsplit("-", 2)
        if file.endswith(".json") and len(parts) == 3 and parts[0] in names:
            yield Distribution(
                name=names[parts[0]], version=parts[1], location=prefix, installer="conda"
            )


# ---------------------------------------------------------------------------------------- torch


def _torch(
    python: _Interpreter,
    sites: Sequence[str],
    distributions: Sequence[Distribution],
    variables: Mapping[str, str],
) -> Maybe[Torch]:
    holders = [site for site in sites if _has_torch(site)]
    if not holders:
        if any(d.name == "torch" and d.installer != "conda" for d in distributions):
            return Unknown("torch is installed, but its folder is on no path: an editable install?")
        return None
    site = holders[0]
    own = [d for d in distributions if d.name == "torch" and d.location == site]
    wheel = own[0] if own else None
    text = _text(Path(site, "torch", "version.py"))
    reported = parse_torch_version("" if text is None else text)
    was_read = "__version__" in reported
    if not was_read and wheel is not None:
        reported = {"__version__": wheel.version}
    version: Known[str] = reported.get("__version__") or Unknown(
        f"{site}/torch/version.py says none"
    )
    build = _build(reported, was_read)
    cuda: Maybe[str] = (
        reported.get("cuda") if was_read else Unknown("torch/version.py cannot be read")
    )
    table = (
        torch_cuda.variant_of(version, cuda)
        if isinstance(version, str)
        and isinstance(cuda, str)
        and re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+(\+cu[0-9]+)?", version)
        and (wheel is None or wheel.installer != "conda")
        and os.uname().machine == "x86_64"
        else None
    )
    needs = wheel.requires if wheel is not None else ()
    why = Unknown("this build does not say")
    if build != "cuda":
        cudnn: Maybe[str] = None
        nccl: Maybe[str] = None
        architectures: Known[tuple[str, ...]] = ()
    else:
        cudnn = _pinned(needs, "nvidia-cudnn-cu") or (table.cudnn if table else why)
        nccl = _pinned(needs, "nvidia-nccl-cu") or ((table.nccl or why) if table else why)
        architectures = _compiled_architectures(Path(site, "torch/lib/libtorch_python.so")) or (
            table.architectures if table else Unknown("no list of architectures in this build")
        )
    return Torch(
        version=version,
        location=f"{site}/torch",
        build=build,
        cuda=cuda if build == "cuda" or isinstance(cuda, Unknown) else None,
        cudnn=cudnn,
        nccl=nccl,
        architectures=architectures,
        is_outside_environment=_outside(python, site, len(holders), variables),
    )


_SETTING = re.compile(
    r"(__version__|cuda|hip|rocm|xpu|git_version)\b[^='\"]*=\s*(['\"])([^'\"\\]{1,200})\2\s*(?:#.*)?$"
)


def parse_torch_version(text: str) -> dict[str, str]:
    """Read the strings that torch's `version.py` sets: __version__, cuda, hip, xpu, git_version."""
    reported: dict[str, str] = {}
    for line in text.splitlines()[:200]:
        found = _SETTING.match(line)
        if found is not None:
            reported[found.group(1)] = found.group(3)
    return reported


def _build(reported: Mapping[str, str], was_read: bool) -> Known[Build]:
    local = reported.get("__version__", "").partition("+")[2]
    if "cuda" in reported:
        return "cuda"
    if "hip" in reported or "rocm" in reported or local.startswith("rocm"):
        return "rocm"
    if "xpu" in reported or local.startswith("xpu"):
        return "xpu"
    if local.startswith("cu") and torch_cuda.cuda_of_variant(local) is not None:
        return "cuda"
    if was_read:
        return "cpu"
    return "cpu" if local.startswith("cpu") else Unknown("torch/version.py cannot be read")


def _pinned(needs: Iterable[str], name: str) -> str | None:
    """Return the version that a requirement pins: nvidia-cudnn-cu13==9.19.0.56 → "9.19.0.56"."""
    for need in needs:
        if need.startswith(name) and "==" in need:
            version = need.partition("==")[2]
            return version if "*" not in version else None
    return None


_LIST_LIMIT_BYTES = 1000
_FLAGS = re.compile(rb"(?:sm|compute)_[0-9]{2,3}[af]?(?: (?:sm|compute)_[0-9]{2,3}[af]?)*(?=\0)")


def _compiled_architectures(library: Path) -> tuple[str, ...] | None:
    """Return the list that `torch.cuda.get_arch_list()` prints, out of the library that holds it.

    torch compiles it in as one string, "sm_75 sm_80 … compute_120", among the read-only data.
    """
    try:
        with (
            library.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            place = read_only_data(content)
            if place is None:
                return None
            found = list(_flags(content, place[0], place[0] + place[1]))
    except (OSError, ValueError):
        return None
    longest = max(found, key=len, default=b"")
    return tuple(longest.decode("ascii").split()) or None


def _flags(content: mmap.mmap, start: int, end: int) -> Iterator[bytes]:
    """Yield every list of architectures; `find` skips megabytes far faster than a pattern does."""
    at = content.find(b"sm_", start, end)
    while at >= 0:
        string = content.rfind(b"\0", max(0, at - _LIST_LIMIT_BYTES), at) + 1
        found = _FLAGS.match(content, string, end) if string else None
        if found is not None and found.end() > at:
            yield found.group()
            at = found.end()
        at = content.find(b"sm_", at + 1, end)


def read_only_data(content: "bytes | mmap.mmap") -> tuple[int, int] | None:
    """Return offset and size of the section .rodata of a 64-bit little-endian ELF file."""
    try:
        if content[:6] != b"\x7fELF\x02\x01":
            return None
        (start,) = struct.unpack_from("<Q", content, 0x28)
        size, count, names_index = struct.unpack_from("<HHH", content, 0x3A)
        if size < 64:
            return None
        section = struct.Struct("<IIQQQQ")
        names_at = section.unpack_from(content, start + names_index * size)[4]
        for index in range(count):
            header = section.unpack_from(content, start + index * size)
            at = names_at + header[0]
            if content[at : at + 8] == b".rodata\0":
                offset, length = header[4], header[5]
                return offset, min(length, _READ_ONLY_DATA_LIMIT_BYTES)
    except (struct.error, OverflowError):
        pass
    return None


def _outside(
    python: _Interpreter, site: str, holders: int, variables: Mapping[str, str]
) -> str | None:
    """Say why the torch that would be imported is not the environment's own; None: it is.

    A system Python whose only torch is the user's, or a module's on PYTHONPATH, is as it should
    be: only where an environment is active, or another torch is hidden, something is askew.
    """
    try:
        here = str(Path.cwd())
    except OSError:
        here = ""
    if here and here != site and _has_torch(here) and not variables.get("PYTHONSAFEPATH"):
        return f"a folder named torch in the current directory, {here}"
    if not python.is_environment and holders < 2:
        return None
    named = [entry.rstrip("/") for entry in variables.get("PYTHONPATH", "").split(":") if entry]
    if site in named:
        return f"PYTHONPATH names {site}"
    if python.user_site is not None and site == python.user_site:
        return f"it lies in the user's site folder, {site}"
    return None


# --------------------------------------------------------------------------- RECORDs of the wheels


def _records(wheels: Iterable[_Wheel]) -> tuple[list[DamagedFile], list[str]]:
    """Return the files that are not as recorded, and the folders that two wheels' files share."""
    damaged: list[DamagedFile] = []
    folders: dict[tuple[str, str], dict[str, str]] = {}  # library, folder → {suffix: wheel}
    for wheel in wheels:
        name = wheel.distribution.name
        if not name.startswith("nvidia-"):
            continue
        location = wheel.distribution.location
        library, _, major = name.rpartition("-cu")
        mine: set[str] = set()
        fault = 0
        for path, size in parse_record(_text(Path(wheel.folder, "RECORD")) or ""):
            file = f"{location}/{path}"
            if major.isdigit() and ".so" in path:
                mine.add(file.rpartition("/")[0])
            if fault < _DAMAGE_LIMIT:
                problem = _problem(file, size)
                if problem is not None:
                    fault += 1
                    damaged.append(
                        DamagedFile(distribution=name, path=os.path.normpath(file), problem=problem)
                    )
        for folder in mine:
            folders.setdefault((library, folder), {})[major] = name
    return damaged, sorted(folder for (_, folder), names in folders.items() if len(names) > 1)


def _problem(file: str, size: int) -> str | None:
    try:
        have = os.stat(file).st_size  # noqa: PTH116 - thousands of files: a Path costs more than the call
    except FileNotFoundError:
        return "missing"
    except (OSError, ValueError):
        return None  # not to be looked at is not damaged
    return None if have == size else f"{have} bytes instead of {size}"


def parse_record(text: str) -> Iterator[tuple[str, int]]:
    """Yield path and size in bytes of every file in a RECORD that has a size; not .pyc files."""
    for line in text.splitlines():
        if line.startswith('"'):
            import csv  # only paths with a comma in them are quoted

            try:
                fields = next(iter(csv.reader([line])), [])
            except csv.Error:
                continue
        else:
            fields = line.rsplit(",", 2)
        if len(fields) != 3 or not fields[0] or "\0" in fields[0] or fields[0].endswith(".pyc"):
            continue
        size = fields[2]
        if size.isascii() and size.isdigit() and len(size) < 20:
            yield fields[0], int(size)


# ------------------------------------------------------------------------------------- elsewhere


def _elsewhere(variables: Mapping[str, str], prefix: str) -> Iterator[str]:
    """Yield the other Pythons, in the usual places, that have a torch."""
    home = variables.get("HOME", "")
    prefixes: list[Path] = [Path(sys.prefix), Path("/opt/venv"), Path("/opt/conda")]
    prefixes += [
        Path(variables[name]) for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if variables.get(name)
    ]
    try:
        here = Path.cwd()
        prefixes += [here / ".venv", here / "venv"]
    except OSError:
        pass
    if home.startswith("/"):
        for name in ("miniconda3", "anaconda3", "miniforge3", "mambaforge", ".venv", "venv"):
            prefixes.append(Path(home, name))
    prefixes += [
        Path(folder).parent
        for folder in variables.get("PATH", "").split(":")
        if folder.startswith("/") and folder.rstrip("/").endswith("/bin")
    ]
    seen = {os.path.realpath(prefix)} if prefix else set()
    for each in prefixes:
        environments = [each, *(each / "envs" / name for name in _names(str(each / "envs")))]
        for environment in environments:
            real = os.path.realpath(environment)
            if real in seen:
                continue
            seen.add(real)
            for pattern in ("site-packages", "dist-packages"):
                for site in sorted(environment.glob(f"lib/python3*/{pattern}")):
                    if _has_torch(str(site)):
                        yield f"{_python_in(environment)}"
                        break
                else:
                    continue
                break
    if home.startswith("/"):
        for site in sorted(Path(home, ".local/lib").glob("python3*/site-packages")):
            if _has_torch(str(site)):
                yield str(site)


# --------------------------------------------------------------------------------------- reading


def _names(folder: str) -> list[str]:
    """Return the sorted names in a folder; none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - site-packages holds thousands of names
    except (OSError, ValueError):
        return []


def _text(path: Path, limit_bytes: int = _TEXT_LIMIT_BYTES) -> str | None:
    """Return the beginning of a regular file as text; None where there is none to read."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return file.read(limit_bytes).decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
