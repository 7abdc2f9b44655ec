import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpucheck.shellenv import shells
from gpucheck.shellenv.snippet import Shell
from gpucheck.usage_error import UsageError


@pytest.mark.shells
@pytest.mark.parametrize("name", ["bash", "dash", "zsh", "fish", "tcsh", "ksh", "mksh"])
def test_a_real_shell_is_recognised(name: str, tmp_path: Path):
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed (make shells)")
    ask = tmp_path / "ask.py"
    ask.write_text("from gpucheck.shellenv import shells\nprint(shells.reading_us({}).value)\n")

    ended = subprocess.run(
        [name, "-c", f"{sys.executable} {ask}; true"],
        capture_output=True,
        env={"HOME": str(tmp_path), "PATH": os.defpath},
        timeout=60,
    )

    expected = {"dash": "sh", "mksh": "ksh"}.get(name, name)
    assert ended.stdout.decode().strip() == expected, ended.stderr


def test_each_shell_has_its_file():
    home = {"HOME": "/home/me"}

    files = {shell: str(shells.startup_file(shell, home)) for shell in Shell}

    assert files[Shell.BASH] == "/home/me/.bashrc"
    assert files[Shell.ZSH] == "/home/me/.zshrc"
    assert files[Shell.FISH] == "/home/me/.config/fish/conf.d/gpucheck.fish"
    assert files[Shell.TCSH] == "/home/me/.tcshrc"
    assert files[Shell.SH] == files[Shell.KSH] == "/home/me/.profile"
    moved = {"HOME": "/home/me", "ZDOTDIR": "/z", "XDG_CONFIG_HOME": "/c"}
    assert str(shells.startup_file(Shell.ZSH, moved)) == "/z/.zshrc"
    assert str(shells.startup_file(Shell.FISH, moved)) == "/c/fish/conf.d/gpucheck.fish"


def test_a_new_tcshrc_never_hides_the_cshrc_that_is_there(tmp_path: Path):
    (tmp_path / ".cshrc").touch()

    assert shells.startup_file(Shell.TCSH, {"HOME": str(tmp_path)}).name == ".cshrc"


def test_a_login_file_leads_to_bashrc_only_by_a_live_line():
    assert shells.leads_to_bashrc(b'[ -f ~/.bashrc ] && . "$HOME/.bashrc"\n')
    assert not shells.leads_to_bashrc(b"# include .bashrc if it exists\n")
    assert not shells.leads_to_bashrc(None)


def test_a_shell_that_prints_and_fails_at_its_start_is_still_seen(tmp_path: Path):
    (tmp_path / ".bashrc").write_text("echo hello; no-such-command; export CUDA_HOME=/x\n")

    seen = shells.look(
        Shell.BASH, shells.Start(kind="interactive", arguments=("-i",)), {"HOME": str(tmp_path)}
    )

    assert seen.variables is not None
    assert seen.variables["CUDA_HOME"] == "/x"


def test_a_shell_that_hangs_or_leaves_at_its_start_is_told(tmp_path: Path):
    interactive = shells.Start(kind="interactive", arguments=("-i",))
    (tmp_path / ".bashrc").write_text("echo gone >&2; exit 3\n")
    left = shells.look(Shell.BASH, interactive, {"HOME": str(tmp_path)})
    (tmp_path / ".bashrc").write_text("sleep 60\n")
    late = shells.look(Shell.BASH, interactive, {"HOME": str(tmp_path)}, deadline_seconds=0.5)

    assert (left.variables, late.variables) == (None, None)
    assert "exit status 3" in left.why
    assert "no answer in 0.5 s" in late.why


@pytest.mark.shells
def test_zsh_is_asked_where_its_files_are(tmp_path: Path):
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed (make shells)")
    (tmp_path / ".zshenv").write_text("ZDOTDIR=$HOME/.config/zsh\n")
    here = {"HOME": str(tmp_path), "PATH": os.defpath}

    assert shells.startup_file(Shell.ZSH, here) == tmp_path / ".config/zsh/.zshrc"
    (tmp_path / ".zshenv").write_text("export EDITOR=vi\n")
    assert shells.startup_file(Shell.ZSH, here) == tmp_path / ".zshrc"


def test_a_home_that_is_no_path_is_refused():
    with pytest.raises(UsageError, match="no absolute path"):
        shells.startup_file(Shell.BASH, {"HOME": "~"})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_leaves_the_home_of_another_user_alone(tmp_path: Path):
    os.chown(tmp_path, 1234, 1234)

    with pytest.raises(UsageError, match="belongs to another user"):
        shells.startup_file(Shell.BASH, {"HOME": str(tmp_path)})
