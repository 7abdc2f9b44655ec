"""Who installs packages into a Python, by the files that tools leave behind."""

from pathlib import Path

import pytest

from gpucheck.probes.python_manager import with_manager
from gpucheck.snapshot import Python, PythonProject


def environment(prefix: Path, settings: str = "home = /usr/bin\n") -> Python:
    site = prefix / "lib/python3.12/site-packages"
    (site / "pip").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text(settings)
    return Python(path=f"{prefix}/bin/python", prefix=str(prefix), sys_path=(str(site),))


def test_a_plain_environment_is_pips_own(tmp_path):
    found = with_manager(environment(tmp_path / "venv"), {})

    assert found.has_pip is True
    assert found.uses_uv is False
    assert found.is_writable is True
    assert found.externally_managed is None
    assert found.conda_tool is None
    assert found.project is None


def test_uv_writes_itself_into_the_environments_settings(tmp_path):
    python = environment(tmp_path / "venv", "home = /usr/bin\nuv = 0.9.1\n")

    assert with_manager(python, {}).uses_uv is True


def test_a_torch_that_uv_installed_where_there_is_no_pip_is_uvs(tmp_path):
    python = environment(tmp_path / "venv")
    (tmp_path / "venv/lib/python3.12/site-packages/pip").rmdir()

    found = with_manager(python, {}, torch_installer="uv")

    assert (found.has_pip, found.uses_uv) == (False, True)


def test_a_distribution_keeps_pip_out_by_a_file(tmp_path):
    library = tmp_path / "lib/python3.12"
    library.mkdir(parents=True)
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\n")
    python = Python(path=f"{tmp_path}/bin/python3", prefix=str(tmp_path), sys_path=(str(library),))

    assert with_manager(python, {}).externally_managed == f"{library}/EXTERNALLY-MANAGED"


def test_a_virtual_environment_on_such_a_python_is_free(tmp_path):
    library = tmp_path / "lib/python3.12"
    library.mkdir(parents=True)
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\n")
    python = environment(tmp_path / "venv")
    python = Python(
        path=python.path, prefix=python.prefix, sys_path=(*python.sys_path, str(library))
    )

    assert with_manager(python, {}).externally_managed is None


@pytest.mark.parametrize(
    ("name", "text", "tool", "file"),
    [
        ("uv.lock", "", "uv", "pyproject.toml"),
        ("pyproject.toml", "[tool.uv.sources]\n", "uv", "pyproject.toml"),
        ("pyproject.toml", "[[tool.uv.index]]\n", "uv", "pyproject.toml"),
        ("poetry.lock", "", "poetry", "pyproject.toml"),
        ("pixi.toml", "", "pixi", "pixi.toml"),
        ("Pipfile", "", "pipenv", "Pipfile"),
    ],
)
def test_the_project_beside_an_environment_owns_it(tmp_path, name, text, tool, file):
    (tmp_path / name).write_text(text)

    found = with_manager(environment(tmp_path / ".venv"), {})

    assert found.project == PythonProject(
        tool=tool, folder=str(tmp_path), file=f"{tmp_path}/{file}"
    )


def test_a_pyproject_that_speaks_of_no_such_tool_owns_nothing(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\n# [tool.uv]\n")

    assert with_manager(environment(tmp_path / ".venv"), {}).project is None


def test_pipenvs_environments_name_their_project(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Pipfile").touch()
    python = environment(tmp_path / "virtualenvs/app-Xy12")
    (tmp_path / "virtualenvs/app-Xy12/.project").write_text(f"{tmp_path}/app\n")

    found = with_manager(python, {})

    assert found.project == PythonProject(
        tool="pipenv", folder=f"{tmp_path}/app", file=f"{tmp_path}/app/Pipfile"
    )


def test_conda_is_named_as_one_types_it(tmp_path):
    python = environment(tmp_path / "micromamba/envs/gpu")
    (tmp_path / "micromamba/envs/gpu/conda-meta").mkdir()
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/micromamba"
    tool.touch(mode=0o755)

    assert with_manager(python, {"PATH": f"{tmp_path}/bin"}).conda_tool == "micromamba"
    assert with_manager(python, {"MAMBA_EXE": str(tool)}).conda_tool == str(tool)
    assert with_manager(python, {}).conda_tool == "conda"


def test_pixis_environments_are_conda_environments_of_their_project(tmp_path):
    (tmp_path / "pixi.toml").touch()
    python = environment(tmp_path / ".pixi/envs/default")
    (tmp_path / ".pixi/envs/default/conda-meta").mkdir()

    found = with_manager(python, {})

    assert found.conda_tool == "pixi"
    assert found.project == PythonProject(
        tool="pixi", folder=str(tmp_path), file=f"{tmp_path}/pixi.toml"
    )
