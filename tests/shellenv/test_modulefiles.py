"""The modulefiles in the real Lmod and the real Environment Modules."""

import subprocess
from pathlib import Path

import pytest

from gpucheck.shellenv import snippet
from gpucheck.shellenv.exports import Exports
from gpucheck.shellenv.snippet import Shell

#: Where Debian's packages lmod and environment-modules have their start: one excludes the other.
LMOD = Path("/usr/share/lmod/lmod/init/bash")
MODULES = Path("/usr/share/modules/init/bash")


def modulefile(folder: Path, shell: Shell, version: str) -> str:
    """Write the modulefile cuda/*version* into *folder*; return its toolkit, an odd path."""
    home = f"/opt/my [x] $HOME cuda-{version}"
    exports = Exports(
        cuda_home=home,
        version=version,
        bin_directory=f"{home}/bin",
        library_directory=f"{home}/lib64",
        library_reason="in: because",
    )
    (folder / "cuda").mkdir(exist_ok=True)
    name = f"cuda/{version}{'.lua' if shell is Shell.MODULEFILE else ''}"
    (folder / name).write_text(snippet.render(exports, shell), encoding="utf-8")
    return home


def modules(start: Path, folder: Path, commands: str) -> str:
    """What a fresh bash says that uses *folder* and runs *commands*."""
    ended = subprocess.run(
        ["bash", "-c", f". {start}; module use {folder}; {commands}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "LANG": "C.UTF-8"},
        timeout=60,
    )
    return ended.stdout


SHOW = 'echo "=$CUDA_HOME=$PATH=$LD_LIBRARY_PATH="'


@pytest.mark.parametrize(
    ("start", "shell"), [(LMOD, Shell.MODULEFILE), (MODULES, Shell.TCL)], ids=["Lmod", "Modules"]
)
def test_a_module_describes_itself_is_loaded_and_leaves_nothing(
    start: Path, shell: Shell, tmp_path: Path
):
    if not start.exists():
        pytest.skip(f"{start} is not there")
    home = modulefile(tmp_path, shell, "13.0")

    described = modules(start, tmp_path, "module whatis cuda/13.0; module help cuda/13.0")
    used = modules(start, tmp_path, f"module load cuda; {SHOW}; module unload cuda; {SHOW}")

    assert "CUDA" in described
    assert "Sets CUDA_HOME and PATH for the CUDA toolkit 13.0." in described
    assert f"={home}={home}/bin:/usr/bin:/bin={home}/lib64=\n" in used
    assert "==/usr/bin:/bin==\n" in used


@pytest.mark.parametrize(
    ("start", "shell"), [(LMOD, Shell.MODULEFILE), (MODULES, Shell.TCL)], ids=["Lmod", "Modules"]
)
def test_two_toolkits_are_never_loaded_at_once(start: Path, shell: Shell, tmp_path: Path):
    if not start.exists():
        pytest.skip(f"{start} is not there")
    homes = {modulefile(tmp_path, shell, version) for version in ("12.4", "13.0")}

    both = modules(start, tmp_path, f"module load cuda/12.4; module load cuda/13.0; {SHOW}")

    assert sum(f"{home}/bin" in both.rpartition("\n=")[2] for home in homes) == 1


def test_a_family_keeps_one_cuda_of_any_name_loaded(tmp_path: Path):
    if not LMOD.exists():
        pytest.skip(f"{LMOD} is not there")
    modulefile(tmp_path, Shell.MODULEFILE, "13.0")
    (tmp_path / "nvhpc").mkdir()
    (tmp_path / "nvhpc/25.lua").write_text('family("cuda")\nsetenv("NVHPC", "25")\n')

    seen = modules(LMOD, tmp_path, f"module load cuda; module load nvhpc; {SHOW}")

    assert "==/usr/bin:/bin==\n" in seen
