"""`gpucheck fleet` through a real sshd of this machine: many logins, noise, silence, strangers."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gpucheck.fleet.engines.ssh import Ssh
from gpucheck.fleet.reading import answers
from gpucheck.fleet.run import gather, tasks
from machines import HEALTHY

LOGINS = 50
UP_SECONDS = 10.0
SERVER = """\
ListenAddress 127.0.0.1
Port {quiet}
Port {noisy}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/key.pub
PidFile none
UsePAM no
UseDNS no
StrictModes no
Banner {folder}/banner
MaxStartups 2:50:20
Match LocalPort {noisy}
    ForceCommand echo "Welcome to {{gpu}}"; sh -c "$SSH_ORIGINAL_COMMAND"; echo "logout"
"""
CLIENT = """\
Host *
    HostName 127.0.0.1
    User {user}
    IdentitiesOnly yes
    KexAlgorithms curve25519-sha256
Host * !other
    IdentityFile {folder}/key
Host stranger
    UserKnownHostsFile {folder}/nobody
    GlobalKnownHostsFile {folder}/nobody
Host other
    IdentityFile {folder}/other_key
Host silent
    Port {silent}
Host closed
    Port 1
Host noisy
    Port {noisy}
Host *
    Port {quiet}
    UserKnownHostsFile {folder}/known_hosts
"""


def why_not() -> str | None:
    """Return why there can be no sshd here; None: there can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    absent = [name for name in ("sshd", "ssh", "ssh-keygen") if not shutil.which(name, path=path)]
    if absent:
        return f"not installed: {', '.join(absent)} (make engines)"
    if os.geteuid() == 0 and not Path("/run/sshd").is_dir():
        return "sshd started by root needs the directory /run/sshd (make engines)"
    return None


pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start sshd; yield a folder in which `ssh` is OpenSSH with the test's own configuration."""
    folder = tmp_path_factory.mktemp("ssh")
    for name in ("host_key", "key", "other_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name])
    (folder / "banner").write_text("Authorized {use} only\n")
    (folder / "good.json").write_bytes(msgspec.json.encode(HEALTHY))
    with socket.socket() as silent, socket.socket() as one, socket.socket() as two:
        for each in (silent, one, two):
            each.bind(("127.0.0.1", 0))
        ports = {"quiet": one.getsockname()[1], "noisy": two.getsockname()[1]}
        silent.listen()
        one.close()
        two.close()
        words = {**ports, "folder": folder, "user": getpass.getuser()}
        (folder / "sshd_config").write_text(SERVER.format(**words))
        words["silent"] = silent.getsockname()[1]
        (folder / "ssh_config").write_text(CLIENT.format(**words))
        host_key = (folder / "host_key.pub").read_text()
        known = [f"[127.0.0.1]:{port} {host_key}" for port in ports.values()]
        (folder / "known_hosts").write_text("".join(known))
        ssh = folder / "ssh"
        ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
        ssh.chmod(0o755)
        gpucheck = folder / "gpucheck"
        gpucheck.write_text(f"#!/bin/sh\ncat {folder}/good.json\n")
        gpucheck.chmod(0o755)
        with (folder / "log").open("wb") as log:
            daemon = subprocess.Popen(
                [_sshd(), "-D", "-e", "-f", folder / "sshd_config"], stdin=-3, stderr=log
            )
        try:
            _wait_for(ports["quiet"], daemon, folder / "log")
            yield folder
        finally:
            daemon.terminate()
            daemon.wait()


def _sshd() -> str:
    """sshd starts itself anew for each connection, and so has to be called by its whole path."""
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin") or "sshd"


def _wait_for(port: int, daemon: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + UP_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if daemon.poll() is not None or time.monotonic() > until:
                pytest.skip(f"no sshd comes up here: {log.read_text()}")
            time.sleep(0.05)
        else:
            return


def asked(sshd: Path, nodes: list[str], out: Path, monkeypatch, seconds: float) -> dict[str, str]:
    monkeypatch.setenv("PATH", str(sshd), prepend=":")
    wanted = tasks("doctor", nodes, [str(sshd / "gpucheck")])
    for _ in gather(Ssh(), wanted, out, job="doctor", timeout_seconds=seconds):
        pass
    return {answer.node: answer.failure for answer in answers([str(out)])}


def test_fifty_logins_at_once_are_all_answered_though_the_server_turns_some_away(
    sshd: Path, tmp_path: Path, monkeypatch
):
    nodes = [f"gpu{number:02d}" for number in range(LOGINS)]

    why = asked(sshd, nodes, tmp_path, monkeypatch, 60)

    assert why == dict.fromkeys(nodes, "")
    assert "MaxStartups" in (sshd / "log").read_text()


def test_what_a_login_prints_is_no_part_of_the_answer(sshd: Path, tmp_path: Path, monkeypatch):
    assert asked(sshd, ["noisy"], tmp_path, monkeypatch, 30) == {"noisy": ""}
    assert (tmp_path / "noisy.json").read_bytes() == (sshd / "good.json").read_bytes()


def test_who_does_not_let_us_in_is_named_with_the_reason(sshd: Path, tmp_path: Path, monkeypatch):
    why = asked(sshd, ["stranger", "other", "closed"], tmp_path, monkeypatch, 30)

    assert "Host key verification failed" in why["stranger"]
    assert "Permission denied (publickey" in why["other"]
    assert "Connection refused" in why["closed"]


def test_who_takes_a_login_and_says_nothing_is_late(sshd: Path, tmp_path: Path, monkeypatch):
    assert asked(sshd, ["silent"], tmp_path, monkeypatch, 2) == {"silent": "late: 2 s"}
