"""Ranks under DDP: on this host, under torchrun, and on two hosts that are namespaces."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

GPUCHECK = [sys.executable, "-m", "gpucheck", "smoke", "--strategy", "ddp", "--device", "cpu"]

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]


def run(command: list[str], tmp_path: Path, **variables: str) -> Any:
    """Run a command that prints a report as JSON, and return that report."""
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=110,
        env={
            **os.environ,
            "XDG_CACHE_HOME": str(tmp_path),
            "PET_LOG_DIR": str(tmp_path),  # torchrun's; by default it leaves a folder in /tmp
            **variables,
        },
    )
    assert "Traceback" not in ended.stdout
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout)


def found(report: Any) -> list[tuple[str, str]]:
    return [(finding["code"], finding["subject"]) for finding in report["findings"]]


def test_four_ranks_train_as_one(digits: Path, tmp_path: Path):
    report = run([*GPUCHECK, "--data", str(digits), "--json"], tmp_path)

    assert found(report) == []
    training = report["training"]
    assert training["parity"] < 1e-5
    assert [rank["images"] for rank in training["replicas"]] == [15_000] * 4


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("segv:30@1", "TRN011", "SIGSEGV in batch 30"),
        ("hang:30@1", "TRN005", "_hang"),
    ],
)
def test_the_rank_that_fails_is_named_not_those_that_wait(
    digits: Path, tmp_path: Path, faulty_python: str, fault: str, code: str, said: str
):
    options = ["--gpus", "3", "--timeout", "15", "--data", str(digits), "--json"]
    command = [*GPUCHECK, *options, "--python", faulty_python]

    report = run(command, tmp_path, GPUCHECK_TEST_FAULT=fault)

    [finding] = report["findings"]
    assert finding["code"] == code
    assert finding["subject"].startswith("rank 1 on ")
    assert said in finding["saw"]


def test_a_replica_that_computes_wrongly_is_found_among_ranks(
    digits: Path, tmp_path: Path, faulty_python: str
):
    options = ["--gpus", "2", "--data", str(digits), "--json"]
    command = [*GPUCHECK, *options, "--python", faulty_python]

    report = run(command, tmp_path, GPUCHECK_TEST_FAULT="nan:10@1")

    assert [code for code, _ in found(report)] == ["TRN002"]


def torchrun(ranks: int, *options: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}"]
    return [*launcher, "--standalone", "-m", *GPUCHECK[2:], *options]


def test_under_torchrun_rank_0_alone_speaks(digits: Path, tmp_path: Path):
    report = run(torchrun(4, "--data", str(digits), "--json"), tmp_path)

    assert found(report) == []
    assert len(report["training"]["replicas"]) == 4


def test_under_torchrun_a_killed_rank_is_named(digits: Path, tmp_path: Path, faulty_python: str):
    options = ["--timeout", "30", "--data", str(digits), "--json", "--python", faulty_python]
    command = torchrun(2, *options)

    report = run(command, tmp_path, GPUCHECK_TEST_FAULT="kill:30@1")

    [(code, subject)] = found(report)
    assert code == "TRN005"
    assert subject.startswith("rank 1 on ")


# ------------------------------------------------------------------------------------- two hosts


class Host:
    """A network namespace with a host name of its own; it ends with its first process."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.keeper = subprocess.Popen(
            ["unshare", "--net", "--uts", "sh", "-c", f"hostname {name}; exec sleep 600"], text=True
        )
        self.inside = ["nsenter", "--net", "--uts", "-t", str(self.keeper.pid)]

    def ip(self, *arguments: str) -> None:
        subprocess.run([*self.inside, "ip", *arguments], check=True, capture_output=True)


class Hosts:
    """Two hosts, and the cable between them."""

    def __init__(self) -> None:
        self.pair = Host("host-a", "10.77.0.1"), Host("host-b", "10.77.0.2")
        time.sleep(0.3)  # for unshare to be in its namespaces
        pids = [str(host.keeper.pid) for host in self.pair]
        self.cable = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("cable.py")), *pids],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.cable.stdout is not None
        if self.cable.stdout.readline() != "plugged\n":
            why = self.cable.communicate()[1].strip().splitlines()[-1:]
            self.end()
            pytest.skip(f"no network devices can be made here: {why}")
        for host in self.pair:
            host.ip("link", "set", "lo", "up")
            host.ip("address", "add", f"{host.address}/24", "dev", "cable")
            host.ip("link", "set", "cable", "up")

    def cut(self) -> None:
        self.cable.send_signal(signal.SIGSTOP)

    def end(self) -> None:
        for process in [self.cable, *(host.keeper for host in self.pair)]:
            process.kill()
            process.communicate()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    tried = subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(tried.stderr.strip())
    two = Hosts()
    yield two
    two.end()


def start_rank(rank: int, host: Host, *options: str, tmp_path: Path) -> "subprocess.Popen[str]":
    job = {
        "RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "10.77.0.1",
        "MASTER_PORT": "29511",
        "GLOO_SOCKET_IFNAME": "cable",
        "XDG_CACHE_HOME": str(tmp_path),
    }
    return subprocess.Popen(
        [*host.inside, *GPUCHECK, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **job},
    )


def test_a_host_that_is_cut_off_in_the_middle_is_named(hosts: Hosts, digits: Path, tmp_path: Path):
    options = ["--data", str(digits), "--epochs", "1000", "--timeout", "15"]
    ranks = [
        start_rank(rank, host, *options, tmp_path=tmp_path) for rank, host in enumerate(hosts.pair)
    ]
    try:
        assert ranks[0].stdout is not None
        line = ranks[0].stdout.readline()
        assert "Train Epoch" in line, ranks[0].communicate()

        hosts.cut()
        began = time.monotonic()
        output, errors = ranks[0].communicate(timeout=60)
        ranks[1].communicate(timeout=60)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()

    assert time.monotonic() - began < 60
    assert ranks[0].returncode == 1, errors
    assert ranks[1].returncode == 1
    assert "rank 1 on host-b gave no sign of life" in " ".join(output.split())
    assert "TRN005" in output
