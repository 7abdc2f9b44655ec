"""Completion by Tab in real shells, on a terminal of tmux; and what its installation writes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminals import GPUCHECK, Terminal

from gpucheck.cli import completion

SHELLS = ("bash", "zsh", "fish")
#: What is typed before Tab, and what the screen shows then.
INSERTED = {
    "gpucheck do": "gpucheck doctor",
    "gpucheck doctor --expe": "gpucheck doctor --expect-gpus",
    "gpucheck doctor --format mark": "gpucheck doctor --format markdown",
    "gpucheck doctor --from sto": "gpucheck doctor --from stored.json",
    "gpucheck help do": "gpucheck help doctor",
    "gpucheck fleet j": "gpucheck fleet judge",
    "gpucheck fleet hook slurm-p": "gpucheck fleet hook slurm-prolog",
    "gpucheck env ins": "gpucheck env install",
    "gpucheck env --shell tcs": "gpucheck env --shell tcsh",
    "gpucheck env install --ld-library-path al": "gpucheck env install --ld-library-path always",
    "gpucheck smoke --device cp": "gpucheck smoke --device cpu",
}
LISTED = {
    "gpucheck doctor --format ": "sarif",
    "gpucheck explain DRV00": "DRV006",
    "gpucheck doctor --select GPU,DRV00": "GPU,DRV006",
}


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for each in opened:
        each.close()


@pytest.mark.shells
@pytest.mark.parametrize("shell", SHELLS)
def test_tab_completes_in_a_real_shell_from_the_first_time_on(
    shell: str, tmp_path: Path, terminals: list[Terminal]
):
    for program in (shell, "tmux"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (make shells)")
    (tmp_path / "stored.json").touch()
    terminals.append(before := Terminal(shell, tmp_path))
    before.types("gpucheck --install-completion\n")
    assert before.shows("Open a new shell"), before.screen()

    terminals.append(after := Terminal(shell, tmp_path))

    for line, expected in INSERTED.items():
        assert after.completes(line, expected), f"{line}: {after.screen()}"
    for line, expected in LISTED.items():  # bash shows them at the second Tab
        assert after.completes(line, expected, tabs=1 + (shell == "bash")), after.screen()


def installed(shell: str, home: Path) -> str:
    """Install completion, called from *shell*; return what was said."""
    done = subprocess.run(
        [shell, "-c", f"{GPUCHECK} --install-completion; true"],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout


def test_a_second_installation_changes_nothing(tmp_path: Path):
    (tmp_path / ".bashrc").write_bytes(b"echo caf\xe9")  # no UTF-8, and no newline at its end

    first = installed("bash", tmp_path)
    content = (tmp_path / ".bashrc").read_bytes()
    second = installed("bash", tmp_path)

    script = tmp_path / ".local/share/gpucheck/completion.bash"
    assert first.splitlines()[:2] == [f"Wrote {script}", f"Wrote {tmp_path}/.bashrc"]
    assert content == (
        b"echo caf\xe9\n" + f"[ ! -r {script} ] || . {script}  # completion of gpucheck\n".encode()
    )
    assert second == "Open a new shell to complete gpucheck by Tab.\n"
    assert (tmp_path / ".bashrc").read_bytes() == content


def test_what_is_printed_is_what_is_installed(tmp_path: Path):
    shown = subprocess.run(
        ["bash", "-c", f"{GPUCHECK} --show-completion; true"],
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert shown.stdout == completion.SCRIPTS["bash"]
    assert not list(tmp_path.iterdir())


@pytest.mark.shells
def test_a_shell_without_completion_is_refused(tmp_path: Path):
    if shutil.which("tcsh") is None:
        pytest.skip("tcsh is not installed (make shells)")

    done = subprocess.run(
        ["tcsh", "-f", "-c", f"{GPUCHECK} --install-completion; exit $status"],
        env={"HOME": str(tmp_path), "PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr == "gpucheck: completion is for bash, zsh, fish, and this is tcsh\n"
    assert not list(tmp_path.iterdir())
