"""Reads which torch a Python would import, and what is installed with it, without importing it."""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gpucheck.knowledge import torch_cuda
from gpucheck.probes import distributions
from gpucheck.probes.architectures import compiled_architectures
from gpucheck.probes.child import payload_command, run
from gpucheck.probes.messages import MessageError, PythonAnswer, decode_all
from gpucheck.probes.python_manager import with_manager
from gpucheck.snapshot import (
    Distribution,
    Known,
    Maybe,
    Python,
    PyTorch,
    Torch,
    Unknown,
    replace,
    unknown_section,
    value,
)

Build = Literal["cuda", "cpu", "rocm", "xpu"]

_TEXT_LIMIT_BYTES = 4 << 20  # RECORD of torch itself is 2 MB, every other file is smaller


def probe(
    python: str | None, variables: Mapping[str, str], deadline_seconds: float = 5.0
) -> PyTorch:
    """Return the facts of *python*'s torch; None chooses the Python as `doctor --python` says.

    A Python whose paths no file names is asked in a child, which has *deadline_seconds*.
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
    wheels = list(distributions.wheels(sites, value(answer.version) or ""))
    found = [wheel.distribution for wheel in wheels]
    found += distributions.conda_packages(answer.prefix)
    torch = _torch(answer, sites, found, variables)
    damaged, mixed = distributions.compare_records(wheels)
    asked = Python(
        path=path,
        version=answer.version,
        chosen_by=chosen_by,
        prefix=answer.prefix,
        sys_path=tuple(answer.sys_path),
    )
    installer = next((each.installer for each in found if each.name == "torch"), None)
    return PyTorch(
        python=with_manager(asked, variables, value(installer) or ""),
        torch=torch,
        elsewhere=tuple(_elsewhere(variables, answer.prefix)) if torch is None else (),
        distributions=tuple(found),
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
        environment={**variables, "PYTHONDONTWRITEBYTECODE": "1"},  # not next to our own files
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
    """Return what the files of a virtual environment tell; None where they leave it open."""
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


# ---------------------------------------------------------------------------------------- torch


def _torch(
    python: _Interpreter,
    sites: Sequence[str],
    installed: Sequence[Distribution],
    variables: Mapping[str, str],
) -> Maybe[Torch]:
    holders = [site for site in sites if _has_torch(site)]
    if not holders:
        if any(d.name == "torch" and d.installer != "conda" for d in installed):
            return Unknown("torch is installed, but its folder is on no path: an editable install?")
        return None
    site = holders[0]
    own = [d for d in installed if d.name == "torch" and d.location == site]
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
        architectures = compiled_architectures(Path(site, "torch/lib/libtorch_python.so")) or (
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
