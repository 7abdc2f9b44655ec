"""The README, followed to the letter: each of its commands in a login shell of a fresh home.

In this machine's own system, and, as root, in a fresh Debian and a fresh Ubuntu. It takes minutes
and the network, so that `make soak` alone does it.
"""

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].strip()
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
#: The statuses that are right where there may be no GPU, no torch and no toolkit.
RIGHT = {
    "gpucheck doctor": (0, 1),
    "gpucheck smoke": (0, 1, 2),
    "gpucheck env install": (0, 2),
}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
#: A toolkit, as far as `gpucheck env` looks at one.
TOOLKIT = """\
mkdir -p /usr/local/cuda-12.4/bin /usr/local/cuda-12.4/lib64
touch /usr/local/cuda-12.4/lib64/libcudart.so.12
echo '{"cuda": {"version": "12.4.1"}}' > /usr/local/cuda-12.4/version.json
cd /usr/local/cuda-12.4/bin
printf '#!/bin/sh\\necho Cuda compilation tools, release 12.4, V12.4.131\\n' > nvcc
chmod +x nvcc
ln -s cuda-12.4 /usr/local/cuda
"""

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("GPUCHECK_SOAK"), reason="takes minutes and the network (make soak)"
    ),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


@dataclass(frozen=True)
class Answer:
    status: int
    text: str


def typed(command: Sequence[str], variables: Mapping[str, str], seconds: float = 900.0) -> Answer:
    """Run *command* on a terminal of its own; a question there is answered with yes."""
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(command[0], list(command), dict(variables))
    text, answered, until = b"", 0, time.monotonic() + seconds
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 1.0)[0]:
            continue
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        text += chunk
        if re.search(rb"\[(y/N|Y/n)\] $", text[answered:]):
            answered = len(text)
            os.write(terminal, b"y\n")
    else:
        os.kill(child, 9)
    os.close(terminal)
    return Answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text.decode())


def follow(
    shell: Sequence[str], commands: Sequence[str], variables: Mapping[str, str]
) -> dict[str, Answer]:
    """Type each of *commands* into a new login shell, in the clone; return what they answered."""
    answers = {}
    for command in commands:
        answers[command] = answer = typed([*shell, f"cd ~/gpucheck && {command}"], variables)
        print(f"$ {command}\n{answer.text}\n[{answer.status}]\n")
        assert answer.status in RIGHT.get(command, (0,)), answer.text
        assert "Traceback" not in answer.text
        assert "itself failed" not in answer.text
    return answers


def test_the_readme_has_its_commands():
    assert "make install" in COMMANDS
    assert len([each for each in COMMANDS if each.startswith("gpucheck ")]) == 5


def test_in_a_fresh_home_every_line_works(tmp_path: Path):
    clone = tmp_path / "gpucheck"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True, timeout=60)
    for file in (".bashrc", ".profile"):
        if Path("/etc/skel", file).exists():
            shutil.copy(Path("/etc/skel", file), tmp_path)
    variables = {
        "HOME": str(tmp_path),
        "PATH": f"{tmp_path}/.local/bin:{os.environ['PATH']}",
        "TERM": "xterm",
        "LANG": "C.UTF-8",
    }

    answers = follow(
        ["bash", "-lic"], [each for each in COMMANDS if not each.startswith("sudo ")], variables
    )

    assert f"gpucheck is installed: {tmp_path}/.local/bin/gpucheck" in answers["make install"].text
    asked = answers["gpucheck env install"]
    assert ("no CUDA toolkit" in asked.text) == (asked.status == 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.namespaces
@pytest.mark.parametrize(
    ("suite", "mirror"),
    [
        ("bookworm", "http://deb.debian.org/debian"),
        ("trixie", "http://deb.debian.org/debian"),
        ("jammy", "http://archive.ubuntu.com/ubuntu"),
    ],
)
def test_in_a_fresh_system_every_line_works(suite: str, mirror: str, tmp_path: Path):
    if shutil.which("debootstrap") is None:
        pytest.skip("debootstrap is not installed")
    system = tmp_path / "system"
    made = subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            "--include=sudo,ca-certificates",
            suite,
            system,
            mirror,
        ],
        capture_output=True,
        text=True,
        timeout=1800,
    )
    if made.returncode != 0:
        pytest.skip(f"debootstrap: {made.stdout[-300:]}")
    for file in ("/etc/resolv.conf", "/etc/hosts", str(CERTIFICATES)):  # what this network needs
        shutil.copy(file, f"{system}{file}")
    (system / "etc/apt/sources.list").write_text(
        f"deb {mirror} {suite} main{' universe' if 'ubuntu' in mirror else ''}\n"
    )
    setup = "useradd -m -s /bin/bash ada; echo 'ada ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/ada\n"
    subprocess.run(
        ["chroot", system, "sh", "-ec", f"apt-get -qq update\n{setup}{TOOLKIT}"], check=True
    )
    home = system / "home/ada"
    subprocess.run(["git", "clone", "-q", ROOT, home / "gpucheck"], check=True, timeout=60)
    subprocess.run(["chroot", system, "chown", "-R", "ada:", "/home/ada"], check=True, timeout=60)

    answers = follow(inside(system), COMMANDS, {"PATH": os.environ["PATH"], "TERM": "xterm"})

    assert "gpucheck is installed: /home/ada/.local/bin/gpucheck" in answers["make install"].text
    # The link, not the version: an upgrade of the toolkit then changes nothing here.
    block = (home / ".bashrc").read_text().partition(">>> gpucheck >>>")[2]
    assert "export CUDA_HOME=/usr/local/cuda\n" in block


def inside(system: Path) -> list[str]:
    """Return what runs a command in a login shell of the user in *system*, its mounts private."""
    root = shlex.quote(str(system))
    mounts = [f"mount -t proc proc {root}/proc"]
    mounts += [f"mount --rbind {folder} {root}{folder}" for folder in ("/dev", "/sys")]
    login = f'exec chroot {root} su - ada -- -c \'export PIP_CERT={CERTIFICATES}; eval "$0"\' "$0"'
    return ["unshare", "-m", "sh", "-c", " && ".join([*mounts, login])]
