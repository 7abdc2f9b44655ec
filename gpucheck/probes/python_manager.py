"""Says who installs packages into a Python: pip, uv, conda, the distribution, or a project."""
# Paths are strings here, as they go into facts and commands:
# ruff: noqa: PTH112, PTH113, PTH120

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from gpucheck.probes.files import names_in, read_text
from gpucheck.snapshot import Python, PythonProject, replace

Tool = Literal["uv", "poetry", "pixi", "pipenv"]

_LIMIT_BYTES = 256 << 10
#: How far above an environment its project is looked for: PROJECT/.pixi/envs/NAME is the deepest.
_LEVELS = 4
#: What says that a folder is a project of a tool; the tool's own lock file says it best.
_LOCKS: tuple[tuple[str, Tool], ...] = (
    ("uv.lock", "uv"),
    ("poetry.lock", "poetry"),
    ("pixi.lock", "pixi"),
    ("pixi.toml", "pixi"),
    ("Pipfile.lock", "pipenv"),
    ("Pipfile", "pipenv"),
)
_SECTION = re.compile(r"^[ \t]*\[\[?tool\.(uv|pixi)[.\]]", re.MULTILINE)


def with_manager(python: Python, variables: Mapping[str, str], torch_installer: str = "") -> Python:
    """Return *python* with what its files say about who may install into it, and how.

    *torch_installer* is what torch's own INSTALLER file says: "pip", "uv".
    """
    folders = [entry for entry in python.sys_path if entry.endswith("-packages")]
    has_pip = any(os.path.isdir(f"{folder}/pip") for folder in python.sys_path)
    settings = read_text(f"{python.prefix}/pyvenv.cfg", _LIMIT_BYTES)
    made_by_uv = isinstance(settings, str) and any(
        line.partition("=")[0].strip() == "uv" for line in settings.splitlines()[:100]
    )
    own = next((each for each in folders if each.startswith(f"{python.prefix}/")), "")
    return replace(
        python,
        externally_managed=None if isinstance(settings, str) else _externally_managed(python),
        has_pip=has_pip,
        is_virtual=isinstance(settings, str),
        uses_uv=made_by_uv or (torch_installer == "uv" and not has_pip),
        is_writable=os.access(own or python.prefix, os.W_OK),
        conda_tool=_conda_tool(python.prefix, variables),
        project=_project(python.prefix),
    )


def _externally_managed(python: Python) -> str | None:
    """Return the file by which a distribution keeps pip out of its Python (PEP 668)."""
    for folder in python.sys_path:
        if re.search(r"/python3\.\d{1,3}$", folder):
            file = f"{folder}/EXTERNALLY-MANAGED"
            if os.path.isfile(file):
                return file
    return None


def _conda_tool(prefix: str, variables: Mapping[str, str]) -> str | None:
    """Return the program that manages the conda environment at *prefix*, as one would type it."""
    if not os.path.isdir(f"{prefix}/conda-meta"):
        return None
    if "/.pixi/envs/" in f"{prefix}/":
        return "pixi"
    root = prefix.partition("/envs/")[0]
    neighbors = [f"{root}/bin/{name}" for name in ("mamba", "conda")]
    on_path = _on_path(("conda", "mamba", "micromamba"), variables)
    if on_path:
        return on_path
    named = [variables.get(name, "") for name in ("CONDA_EXE", "MAMBA_EXE")]
    return next(
        (each for each in (*named, *neighbors) if each and os.access(each, os.X_OK)), "conda"
    )


def _on_path(names: Sequence[str], variables: Mapping[str, str]) -> str:
    folders = [each for each in variables.get("PATH", "").split(":") if each.startswith("/")]
    for name in names:
        if any(os.access(f"{folder.rstrip('/')}/{name}", os.X_OK) for folder in folders):
            return name
    return ""


def _project(prefix: str) -> PythonProject | None:
    """Return the project that the environment at *prefix* belongs to; None where there is none."""
    if not (
        os.path.isfile(f"{prefix}/pyvenv.cfg") or os.path.isdir(f"{prefix}/conda-meta")
    ):  # a system's Python belongs to no project
        return None
    for folder in _project_folders(prefix):
        tool = _tool_of(folder)
        if tool is not None:
            return PythonProject(tool=tool, folder=folder, file=_file_of(folder, tool))
    return None


def _project_folders(prefix: str) -> Iterator[str]:
    # pipenv keeps its environments together, each with a file that names its project.
    named = read_text(f"{prefix}/.project", 4096)
    if isinstance(named, str) and named.startswith("/"):
        yield named.splitlines()[0].rstrip("/")
    if "/pypoetry/virtualenvs/" in prefix:  # poetry's say nothing: it goes by the current folder
        yield from _and_above(_here())
    yield from _and_above(os.path.dirname(prefix))


def _here() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return ""


def _and_above(folder: str) -> Iterator[str]:
    for _ in range(_LEVELS):
        if len(folder) < 2:
            return
        yield folder
        folder = os.path.dirname(folder)


def _tool_of(folder: str) -> Tool | None:
    names = names_in(folder)
    if not isinstance(names, tuple):
        return None
    for name, tool in _LOCKS:
        if name in names:
            return tool
    if "pyproject.toml" in names:
        text = read_text(f"{folder}/pyproject.toml", _LIMIT_BYTES)
        found = _SECTION.search(text) if isinstance(text, str) else None
        if found is not None:
            return "uv" if found[1] == "uv" else "pixi"
    return None


def _file_of(folder: str, tool: Tool) -> str:
    own = {"pixi": "pixi.toml", "pipenv": "Pipfile"}.get(tool, "pyproject.toml")
    if tool == "pixi" and not os.path.isfile(f"{folder}/{own}"):
        own = "pyproject.toml"
    return f"{folder}/{own}"
