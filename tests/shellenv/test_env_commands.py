"""`gpucheck env …` as a user calls it, in homes of its own, with real shells.

It is long because its homes and real shells are set up once for all commands.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from elf_files import elf
from fakes import stuck
from terminals import Terminal

from gpucheck.shellenv import user_units

GPUCHECK = Path(sys.executable).parent / "gpucheck"
BASHRC = b"""# ~/.bashrc: executed by bash(1) for non-login shells.

# If not running interactively, don't do anything
case $- in
    *i*) ;;
      *) return;;
esac
alias ll='ls -l'"""
PROFILE = b"""if [ -n "$BASH_VERSION" ]; then
    if [ -f "$HOME/.bashrc" ]; then
        . "$HOME/.bashrc"
    fi
fi
"""


class Machine:
    """A home, a toolkit, and the environment of a fresh session."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.toolkit = folder / "my `touch x` cuda-12.4"
        (self.toolkit / "bin").mkdir(parents=True)
        (self.toolkit / "lib64").mkdir()
        (self.toolkit / "lib64" / "libcudart.so.12").touch()
        version = {"cuda": {"name": "CUDA SDK", "version": "12.4.1"}}
        (self.toolkit / "version.json").write_text(json.dumps(version))
        self.nvcc = self.toolkit / "bin" / "nvcc"
        self.nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.4, V12.4.131'\n")
        self.nvcc.chmod(0o755)
        self.variables = {
            "HOME": str(self.home),
            "PATH": "/usr/bin:/bin",
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def run(self, *command: str, text: str = "", **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            input=text,
            cwd=self.home,
            env=self.variables | variables,
            timeout=100,
        )

    def env(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        return self.run(str(GPUCHECK), "env", *arguments, **variables)

    def install(self, *arguments: str, shell: str = "bash") -> subprocess.CompletedProcess:
        choice = ("--cuda", str(self.toolkit), "--shell", shell)
        return self.env("install", "--yes", *choice, *arguments)


@pytest.fixture
def here(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def complaints(output: str) -> list[str]:
    """The codes of the doctor's errors and warnings."""
    return [each["code"] for each in json.loads(output)["findings"] if each["severity"] != "info"]


SHOW = 'echo "$CUDA_HOME"; command -v nvcc'
DOCTOR = f"{GPUCHECK} doctor --json --select ENV"


@pytest.mark.parametrize("files", [{}, {".bashrc": BASHRC, ".profile": PROFILE}], ids=["empty", ""])
def test_in_a_fresh_home_every_kind_of_bash_gets_the_exports(here: Machine, files: dict):
    for name, content in files.items():
        (here.home / name).write_bytes(content)

    installed = here.install()

    assert installed.returncode == 0, installed.stderr
    assert installed.stdout.count("✓") == 3
    right = f"{here.toolkit}\n{here.nvcc}\n"
    assert here.run("bash", "-l", "-c", SHOW).stdout == right
    assert here.run("bash", "-i", "-c", SHOW).stdout == right
    # As sshd starts it: bash reads ~/.bashrc by itself, though it is not interactive.
    assert here.run("bash", "-c", f". ~/.bashrc; {SHOW}").stdout == right
    assert complaints(here.run("bash", "-l", "-c", DOCTOR).stdout) == []
    assert complaints(here.run("bash", "-i", "-c", DOCTOR).stdout) == []
    assert here.env("status", "--shell", "bash").returncode == 0
    assert not (here.home / "x").exists()

    assert here.env("uninstall", "--yes", "--shell", "bash").returncode == 0
    assert {path.name: path.read_bytes() for path in here.home.iterdir()} == files


def test_a_bash_that_ssh_starts_reads_the_exports(here: Machine):
    (here.home / ".bashrc").write_bytes(BASHRC)
    probe = here.run("bash", "-c", "alias -p", SSH_CLIENT="127.0.0.1 1 2")
    (here.home / ".bashrc").write_bytes(b"echo read\n")
    if here.run("bash", "-c", ":", SSH_CLIENT="127.0.0.1 1 2").stdout != "read\n":
        pytest.skip("this bash is built without SSH_SOURCE_BASHRC")
    (here.home / ".bashrc").write_bytes(BASHRC)
    assert probe.stdout == ""

    here.install()

    shown = here.run("bash", "-c", SHOW, SSH_CLIENT="127.0.0.1 1 2").stdout
    assert shown == f"{here.toolkit}\n{here.nvcc}\n"


OTHER_SHELLS = {
    "zsh": ["-i", "-c", SHOW],
    "fish": ["-c", 'echo "$CUDA_HOME"; command -v nvcc'],
    "tcsh": ["-c", 'echo "$CUDA_HOME"; which nvcc'],
    "sh": ["-l", "-c", SHOW],
    "ksh": ["-l", "-c", 'print -r -- "$CUDA_HOME"; print -r -- "${PATH%%:*}/nvcc"'],
}


@pytest.mark.shells
@pytest.mark.parametrize("shell", OTHER_SHELLS)
def test_other_shells_get_the_exports_too_and_lose_them_without_a_trace(shell: str, here: Machine):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (make shells)")

    installed = here.install(shell=shell)

    assert installed.returncode == 0, installed.stdout + installed.stderr
    seen = here.run(shell, *OTHER_SHELLS[shell])
    assert seen.stdout == f"{here.toolkit}\n{here.nvcc}\n", seen.stderr
    assert here.env("uninstall", "--yes", "--shell", shell).returncode == 0
    assert not [
        path for path in here.home.rglob("*") if path.is_file() and "fish" not in path.parts
    ]
    assert not list(here.home.glob(".config/fish/conf.d/*"))


@pytest.mark.shells
@pytest.mark.parametrize(
    ("shell", "command"),
    [
        ("bash", 'set -eu; eval "$({0})"; '),
        ("zsh", 'set -eu; eval "$({0})"; '),
        ("dash", 'set -eu; eval "$({0})"; '),
        ("mksh", 'set -eu; eval "$({0})"; '),
        ("fish", "{0} | source; or exit 9; "),
        ("tcsh", "{0} | source /dev/stdin; "),
    ],
)
def test_the_printed_snippet_can_be_taken_at_once(shell: str, command: str, here: Machine):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (make shells)")
    call = f'{GPUCHECK} env --cuda "$WANTED"'

    seen = here.run(
        shell, "-c", command.format(call) + 'echo "$CUDA_HOME"', WANTED=str(here.toolkit)
    )

    assert (seen.stdout, seen.returncode) == (f"{here.toolkit}\n", 0), seen.stderr


RECIPE = """export CUDA_HOME={home}
export PATH="$CUDA_HOME/bin:$PATH"
export LD_LIBRARY_PATH=${{CUDA_HOME}}/lib64:$LD_LIBRARY_PATH
if [ -d {home} ]; then
    exportCUDA_HOME={home}
fi
export EDITOR=vi"""


def test_the_classical_recipe_is_found_replaced_and_given_back(here: Machine):
    plain = here.toolkit.rename(here.toolkit.parent / "cuda-12.4")
    here.toolkit = plain
    recipe = RECIPE.format(home=plain)
    (here.home / ".bashrc").write_text(recipe)
    before = complaints(here.run("bash", "-i", "-c", DOCTOR).stdout)

    unasked = here.install()
    pointed_out = here.install("--no-replace")
    overridden = here.env("status", "--shell", "bash")
    replaced = here.install("--replace")

    assert {"ENV010", "ENV028", "ENV031"} <= set(before)
    assert unasked.returncode == 1
    assert "lines 1-3, 5 of" in unasked.stdout
    assert "--replace comments them out, --no-replace leaves them" in unasked.stdout
    assert f"{here.home}/.bashrc:3: export LD_LIBRARY_PATH" in pointed_out.stdout
    assert "--replace comments it out" in pointed_out.stdout
    assert (overridden.stdout.count(": current\n"), overridden.returncode) == (2, 0)
    assert replaced.returncode == 0, replaced.stdout
    assert complaints(here.run("bash", "-i", "-c", DOCTOR).stdout) == []
    assert here.run("bash", "-i", "-c", SHOW + "; echo $EDITOR").stdout.endswith("nvcc\nvi\n")
    here.env("uninstall", "--yes", "--shell", "bash")
    assert (here.home / ".bashrc").read_text() == recipe


def test_exports_in_a_file_that_bashrc_reads_are_pointed_out_too(here: Machine):
    (here.home / ".bashrc").write_text("source ~/.cuda_env\n")
    (here.home / ".cuda_env").write_text("\nexport CUDA_HOME=/usr/local/cuda-11.8\n")

    shown = here.env("diff", "--shell", "bash", "--cuda", str(here.toolkit)).stdout

    assert f"{here.home}/.cuda_env:2: export CUDA_HOME=/usr/local/cuda-11.8\n" in shown
    assert f"it is in a file that {here.home}/.bashrc reads" in shown


def test_diff_and_a_refused_question_change_nothing(here: Machine):
    file = here.home / ".bashrc"
    file.write_bytes(BASHRC)

    shown = here.env("diff", "--shell", "bash", "--cuda", str(here.toolkit))
    unasked = here.env("install", "--shell", "bash", "--cuda", str(here.toolkit))

    assert "+# >>> gpucheck >>>" in shown.stdout
    assert shown.returncode == 0
    assert unasked.returncode == 2
    assert unasked.stderr.endswith("there is no terminal to ask on: --yes writes without asking\n")
    assert file.read_bytes() == BASHRC
    assert here.env("status", "--shell", "bash").stdout == f"{file}: absent\n"


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("n", 1), ("", 1)])
def test_on_a_terminal_it_asks_and_takes_no_for_an_answer(answer: str, status: int, here: Machine):
    file = here.home / ".bashrc"
    file.write_bytes(BASHRC)
    ours, its = os.openpty()
    command = [str(GPUCHECK), "env", "install", "--shell", "bash", "--cuda", str(here.toolkit)]

    os.write(ours, f"{answer}\n".encode())
    ended = subprocess.run(command, stdin=its, capture_output=True, env=here.variables, timeout=60)
    os.close(ours)
    os.close(its)

    assert ended.returncode == status, ended.stderr
    assert ended.stderr.endswith(b".bashrc? [y/N] ") or b".profile? [y/N] " in ended.stderr
    assert (file.read_bytes() == BASHRC) == (status != 0)


def test_status_tells_a_block_that_was_edited_and_one_that_is_out_of_date(here: Machine):
    file = here.home / ".bashrc"
    here.install("--file", str(file))
    installed = file.read_text()

    shutil.rmtree(here.toolkit)
    outdated = here.env("status", "--file", str(file), "--shell", "sh")
    file.write_text(installed.replace("CUDA 12.4", "CUDA 12.5"))
    edited = here.env("status", "--file", str(file), "--shell", "sh")
    refused = here.env("uninstall", "--yes", "--file", str(file), "--shell", "sh")
    forced = here.env("uninstall", "--yes", "--force", "--file", str(file), "--shell", "sh")

    assert (outdated.stdout.startswith(f"{file}: outdated: CUDA_HOME "), outdated.returncode) == (
        True,
        1,
    )
    assert (edited.stdout, edited.returncode) == (f"{file}: edited by hand\n", 1)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert (forced.returncode, file.exists()) == (0, False)


def test_a_link_to_a_dotfiles_repository_stays_a_link(here: Machine, tmp_path: Path):
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "bashrc").write_bytes(BASHRC)
    (here.home / ".bashrc").symlink_to("../dotfiles/bashrc")

    here.install()

    assert (here.home / ".bashrc").readlink() == Path("../dotfiles/bashrc")
    assert b">>> gpucheck" in (tmp_path / "dotfiles" / "bashrc").read_bytes()


def test_two_installs_at_once_leave_one_whole_block(here: Machine):
    file = here.home / ".bashrc"
    file.write_bytes(BASHRC)
    command = [str(GPUCHECK), "env", "install", "--yes", "--shell", "bash", "--cuda"]
    command += [str(here.toolkit), "--file", str(file)]

    both = [
        subprocess.Popen(
            command, env=here.variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    endings = [(process.communicate()[1], process.returncode) for process in both]

    assert 0 in [status for _, status in endings]
    for error, status in endings:
        assert status == 0 or (status == 2 and b"changed by somebody" in error), error
    assert file.read_bytes().count(b"# >>> gpucheck >>>\n") == 1
    here.env("uninstall", "--yes", "--file", str(file), "--shell", "bash")
    assert file.read_bytes() == BASHRC


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--shell", "powershell"], "--shell powershell: one of bash"),
        (["--ld-library-path", "perhaps"], "one of auto, always, never"),
        (["--cuda", "99.9"], "no such toolkit here"),
        (["install", "--yes", "--shell", "systemd"], "systemd has no start-up file"),
        (["install", "--yes", "--shell", "bash", "--file", "/dev/null"], "no regular file"),
        (["install", "--yes", "--shell", "bash", "--file", "/"], "is a directory"),
        (["--cuda", "12.4", "install"], "put the options behind install"),
        (["--list", "--shell", "bash"], "give it alone"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(arguments: list[str], why: str, here: Machine):
    refused = here.env(*arguments, CUDA_HOME=str(here.toolkit))

    assert (refused.returncode, refused.stdout) == (2, "")
    assert why in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_without_any_toolkit_nothing_is_printed_for_a_shell_to_run(here: Machine):
    listed = here.env("--list")
    if "no CUDA toolkit" not in listed.stdout:
        pytest.skip("this machine has a CUDA toolkit")

    printed = here.env("--shell", "bash")

    assert (printed.stdout, printed.returncode) == ("", 2)


def test_the_list_names_every_toolkit(here: Machine):
    listed = here.env("--list", CUDA_HOME=str(here.toolkit))

    assert f"12.4  {here.toolkit}  {here.nvcc}" in listed.stdout


def put_torch_into(venv: Path) -> None:
    """A CUDA build of torch by pip, as far as reading tells: its library, and one of a wheel."""
    site = venv / f"lib/python3.{sys.version_info.minor}/site-packages"
    python = Path(os.path.realpath(sys.executable))
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(python)
    (venv / "pyvenv.cfg").write_text(f"home = {python.parent}\n")
    (site / "torch/lib").mkdir(parents=True)
    (site / "torch/__init__.py").touch()
    (site / "torch/version.py").write_text(
        "__version__ = '2.5.1+cu124'\ndebug = False\ncuda = '12.4'\ngit_version = 'x'\nhip = None\n"
    )
    (site / "torch/_C.so").write_bytes(elf(needed=["libtorch_cuda.so"], rpath="$ORIGIN/lib"))
    (site / "torch/lib/libtorch_cuda.so").write_bytes(
        elf(needed=["libcudart.so.12"], runpath="$ORIGIN/../../nvidia/cuda_runtime/lib")
    )
    (site / "nvidia/cuda_runtime/lib").mkdir(parents=True)
    (site / "nvidia/cuda_runtime/lib/libcudart.so.12").write_bytes(elf(soname="libcudart.so.12"))
    for name, version in (("torch", "2.5.1"), ("nvidia_cuda_runtime_cu12", "12.4.127")):
        (site / f"{name}-{version}.dist-info").mkdir()
        (site / f"{name}-{version}.dist-info/METADATA").write_text(
            f"Name: {name.replace('_', '-')}\nVersion: {version}\n"
        )
        record = "nvidia/cuda_runtime/lib/libcudart.so.12,,\n" if name != "torch" else ""
        (site / f"{name}-{version}.dist-info/RECORD").write_text(record)


def test_beside_a_pip_torch_auto_leaves_ld_library_path_and_always_is_complained_of(here: Machine):
    put_torch_into(here.home / "venv")
    library = here.toolkit / "lib64" / "libcudart.so.12"
    library.unlink()
    (here.toolkit / "lib64" / "libcudart.so.12.1.105").write_bytes(elf(soname="libcudart.so.12"))
    library.symlink_to("libcudart.so.12.1.105")
    active = {"VIRTUAL_ENV": str(here.home / "venv")}
    call = ("--shell", "bash", "--cuda", str(here.toolkit))

    automatic = here.env(*call, **active).stdout
    always = here.env(*call, "--ld-library-path", "always", **active).stdout

    def judged(snippet: str) -> list[str]:
        script = f"{snippet}{GPUCHECK} doctor --json --select LIB"
        return complaints(here.run("bash", "-c", script, **active).stdout)

    assert "# LD_LIBRARY_PATH: out: PyTorch 2.5.1+cu124 brings its own" in automatic
    assert judged(automatic) == []
    assert judged(always) == ["LIB001"]


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
def test_a_toolkit_on_a_dead_file_system_holds_nobody_up(here: Machine, tmp_path: Path):
    (tmp_path / "dead").mkdir()
    with stuck.stuck_file_system(tmp_path / "dead") as dead:
        began = time.monotonic()

        printed = here.env("--shell", "bash", CUDA_HOME=f"{dead}/cuda-12.4")

    assert time.monotonic() - began < 25
    assert printed.returncode == 1
    assert "no answer in 6 s" in printed.stderr
    assert not printed.stdout


def test_a_path_that_is_no_unicode_keeps_its_bytes(here: Machine):
    toolkit = os.fsencode(here.home) + b"/caf\xe9 cuda-12.4"
    shutil.copytree(here.toolkit, os.fsdecode(toolkit))

    printed = subprocess.run(
        [GPUCHECK, "env", "--shell", "bash", "--cuda", toolkit],
        capture_output=True,
        env=here.variables,
        timeout=100,
    )

    assert printed.returncode == 0, printed.stderr
    show = b'\nprintf %s "$CUDA_HOME"'
    seen = subprocess.run(["bash", "-c", printed.stdout + show], capture_output=True, timeout=100)
    assert seen.stdout == toolkit


OTHER = "export CUDA_HOME=/usr/local/cuda-11.8\n"


def test_a_line_behind_the_block_that_overrides_it_is_named(here: Machine):
    file = here.home / ".bashrc"
    here.install("--file", str(file))
    file.write_text(file.read_text() + OTHER)

    seen = here.env("status", "--file", str(file), "--shell", "bash")

    line = file.read_text().count("\n")
    assert seen.stdout.startswith(f"{file}: overridden by {file}:{line}; ")
    assert seen.returncode == 1


def test_without_the_state_directory_exactly_the_block_is_taken_out(here: Machine):
    file = here.home / ".bashrc"
    file.write_bytes(BASHRC)
    here.install("--file", str(file))
    shutil.rmtree(here.home.parent / "state")

    removed = here.env("uninstall", "--yes", "--file", str(file), "--shell", "bash")

    assert removed.returncode == 0, removed.stderr
    assert file.read_bytes() == BASHRC


def test_a_state_directory_that_cannot_be_written_leaves_all_as_it_was(here: Machine):
    file = here.home / ".bashrc"
    file.write_bytes(BASHRC)
    (here.home.parent / "state").write_text("a file")

    refused = here.install("--file", str(file))

    assert refused.returncode == 2
    assert "nothing was written" in refused.stderr
    assert file.read_bytes() == BASHRC


OTHERS = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is not installed")
def test_a_state_directory_that_root_made_is_named_with_its_owner():
    with tempfile.TemporaryDirectory() as folder:  # not below root's own, which others cannot enter
        Path(folder).chmod(0o755)
        here = Machine(Path(folder))
        if here.run(*OTHERS, str(GPUCHECK), "--version").returncode != 0:
            pytest.skip("another user may not run this gpucheck")
        here.install()  # under sudo -E, say: the state directory is root's now
        here.env("uninstall", "--yes", "--shell", "bash")
        os.chown(here.home, 65534, 65534)
        call = ("--shell", "bash", "--cuda", str(here.toolkit))

        refused = here.run(*OTHERS, str(GPUCHECK), "env", "install", "--yes", *call)

        assert refused.returncode == 2
        assert "nothing was written. It belongs to uid 0: give it back" in refused.stderr
        assert f"{folder}/state/gpucheck" in refused.stderr
        assert not (here.home / ".bashrc").exists()


@pytest.mark.namespaces
@pytest.mark.parametrize(("shell", "name"), [("zsh", "gpucheck.sh"), ("tcsh", "gpucheck.csh")])
def test_the_file_for_every_user_is_written_read_and_removed(shell: str, name: str, here: Machine):
    alone = ["unshare", "-m", "sh", "-ec"]
    mount = "mount -t tmpfs none /etc/profile.d"
    if here.run(*alone, mount).returncode != 0:
        pytest.skip("no private mount namespaces here")
    call = f"{GPUCHECK} env {{}} --yes --system --shell {shell}"
    read = (
        f". /etc/profile.d/{name}; echo $CUDA_HOME"
        if shell == "zsh"
        else f"ls /etc/profile.d/{name}"
    )

    done = here.run(
        *alone,
        f"{mount}; {call.format('install')} --cuda '{here.toolkit}'; {read}; "
        f"{call.format('uninstall')}; ls -A /etc/profile.d",
    )

    assert done.returncode == 0, done.stderr
    assert f"Wrote /etc/profile.d/{name}\n" in done.stdout
    assert f"{here.toolkit if shell == 'zsh' else f'/etc/profile.d/{name}'}\n" in done.stdout
    assert done.stdout.endswith(f"Removed /etc/profile.d/{name}\n")


def test_outdated_says_from_what_to_what_and_how_to_write_it_again(here: Machine):
    file = here.home / ".bashrc"
    shutil.copytree(here.toolkit, newer := here.home / "cuda-12.6")
    (newer / "version.json").write_text('{"cuda": {"version": "12.6.0"}}')
    call = ("--shell", "bash", "--file", str(file))
    here.env("install", "--yes", *call, "--cuda", "12", CUDA_HOME=str(here.toolkit))
    shutil.rmtree(here.toolkit)

    seen = here.env("status", *call, CUDA_HOME=str(newer))

    assert seen.stdout.startswith(
        f"{file}: outdated: CUDA_HOME {here.toolkit} → {newer}; "
        "`gpucheck env install` writes it again\n"
    )
    assert seen.returncode == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_writes_no_start_up_file_of_another_user_unless_it_is_named(here: Machine):
    os.chown(here.home, 1234, 1234)

    refused = here.install()
    named = here.install("--file", str(here.home / ".bashrc"))

    assert refused.returncode == 2
    assert "belongs to another user" in refused.stderr
    assert "--file" in refused.stderr
    assert named.returncode == 0, named.stderr
    assert (here.home / ".bashrc").stat().st_uid == 1234


@pytest.mark.parametrize(("answer", "is_replaced"), [("y", True), ("", True), ("n", False)])
def test_on_a_terminal_it_asks_about_hand_written_lines(
    answer: str, is_replaced: bool, here: Machine
):
    file = here.home / ".bashrc"
    file.write_text(OTHER)
    ours, its = os.openpty()
    command = [str(GPUCHECK), "env", "install", "--yes", "--shell", "bash", "--file", str(file)]

    os.write(ours, f"{answer}\n".encode())
    ended = subprocess.run(
        [*command, "--cuda", str(here.toolkit)],
        stdin=its,
        capture_output=True,
        env=here.variables,
        timeout=60,
    )
    os.close(ours)
    os.close(its)

    assert b"Comment out line 1 of ~/.bashrc too? [Y/n] " in ended.stderr
    assert file.read_text().startswith(": #gpucheck-replaced") == is_replaced


@pytest.mark.shells
def test_at_24_lines_the_question_is_last_and_names_the_file(here: Machine):
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed (make shells)")
    plain = here.toolkit.rename(here.home / "cuda-12.4")
    (here.home / ".bashrc").write_bytes(BASHRC)
    (here.home / ".profile").write_bytes(PROFILE)
    terminal = Terminal("bash", here.home, columns=80, lines=24)

    try:
        terminal.types(f"clear; gpucheck env install --cuda {plain}\n")
        asked = terminal.shows("[y/N]")
        seen, colored = terminal.screen(), terminal.screen(colors=True)
        terminal.types("n\n")
        refused = terminal.shows("Nothing was changed.")
    finally:
        terminal.close()

    assert asked
    assert refused
    assert seen.rstrip().splitlines()[-1] == "Write ~/.bashrc? [y/N]"
    assert "--- " in seen  # the change is on the same screen, from its beginning
    assert "\x1b[32m+# >>> gpucheck >>>" in colored


def test_the_user_s_systemd_units_get_the_exports_too(here: Machine):
    file = here.home / ".config/environment.d/60-cuda.conf"

    installed = here.install(shell="environment.d")
    block = file.read_text()
    again = here.env("status", "--shell", "environment.d")
    removed = here.env("uninstall", "--yes", "--shell", "environment.d")

    assert installed.returncode == 0, installed.stderr
    assert "systemctl --user daemon-reload" in installed.stdout
    if any(generator.exists() for generator in user_units.GENERATORS):
        assert f"✓ a systemd user unit: CUDA_HOME {here.toolkit}" in installed.stdout
    assert f'CUDA_HOME="{here.toolkit}"\n' in block
    assert (again.stdout, again.returncode) == (f"{file}: current\n", 0)
    assert removed.returncode == 0
    assert not file.exists()


def test_for_every_user_the_exports_go_into_profile_d(here: Machine):
    shown = here.env("diff", "--system", "--shell", "zsh", "--cuda", str(here.toolkit))

    assert "+++ /etc/profile.d/gpucheck.sh" in shown.stdout
    assert "typeset" not in shown.stdout
    assert here.env("diff", "--system", "--file", "x").returncode == 2


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
@pytest.mark.parametrize("command", ["install", "uninstall", "status", "diff"])
@pytest.mark.parametrize("place", ["HOME", "--file", "XDG_STATE_HOME", "ZDOTDIR"])
def test_a_dead_file_system_ends_the_command_with_one_line(
    command: str, place: str, here: Machine, tmp_path: Path
):
    (tmp_path / "dead").mkdir()
    with stuck.stuck_file_system(tmp_path / "dead") as dead:
        began = time.monotonic()
        options = ["--file", f"{dead}/x"] if place == "--file" else []
        variables = {} if options else {place: str(dead)}

        ended = here.env(command, "--shell", "zsh", *options, **variables)

        assert time.monotonic() - began < 10
    assert ended.returncode == 1
    assert "did not answer in 5 s" in ended.stderr
    assert ended.stderr.count("\n") == 1
