"""A real Slurm of eight nodes on this machine: slurmctld, and one slurmd for each node."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "sinfo")
NODES = tuple(f"n{number}" for number in range(1, 9))
AS_GPUS = ("/dev/null", "/dev/zero")  # any two devices: Slurm only counts and numbers them
UP_SECONDS = 40.0
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def why_not() -> str | None:
    """Return why there can be no Slurm here; None: there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(absent)} (make engines)" if absent else None


class NoClusterError(Exception):
    """The daemons are installed, and no cluster of them comes up on this machine."""


@dataclass
class Cluster:
    """The daemons, and the environment in which Slurm's commands reach them."""

    folder: Path
    health_check: Path
    environment: dict[str, str] = field(default_factory=dict)
    daemons: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def start(self) -> None:
        """Start all, and wait until every node is known to be there."""
        self._write_configuration()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        names = {name: f"--{name}={self.folder}/munge.{suffix}" for name, suffix in _MUNGE.items()}
        self._start("munged", "--foreground", "--force", *names.values())
        self._wait_for("munge.sock", (self.folder / "munge.sock").exists)
        self._start("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)
        self._wait_for("the nodes", lambda: not self.nodes_in("unknown", "unk", "down"))

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node, name=node)

    def stop_node(self, node: str) -> None:
        """End a node's slurmd at once, as a machine that loses its power does."""
        daemon = self.daemons.pop(node)
        daemon.kill()
        daemon.wait()

    def call(self, *words: str, seconds: float = 60.0) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=seconds
        )

    def batch(self, script: Path, *options: str) -> None:
        """Submit *script*, and wait for its end; `sbatch --wait` looks every ten seconds."""
        submitted = self.call("sbatch", "--parsable", *options, str(script))
        if submitted.returncode:
            raise RuntimeError(submitted.stderr)
        until = time.monotonic() + 60
        while self.call("squeue", "--noheader", f"--jobs={submitted.stdout.strip()}").stdout:
            if time.monotonic() > until:
                raise TimeoutError(str(script))
            time.sleep(0.1)

    def state(self, node: str) -> str:
        done = self.call("sinfo", "--noheader", "--Node", "--format=%T|%E", f"--nodes={node}")
        return done.stdout.strip()

    def nodes_in(self, *states: str) -> list[str]:
        done = self.call("sinfo", "--noheader", "--Node", "--format=%N|%T")
        if done.returncode:
            return list(NODES)
        rows = [line.split("|") for line in done.stdout.split()]
        return [name for name, state in rows if state.rstrip("*") in states]

    def end(self) -> None:
        if self.daemons:
            with suppress(OSError, subprocess.TimeoutExpired):
                self.call("scancel", "--full", f"--user={getpass.getuser()}", seconds=5)
        for daemon in reversed(self.daemons.values()):
            with suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGTERM)
        for daemon in self.daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                os.killpg(daemon.pid, signal.SIGKILL)
                daemon.wait()

    def _start(self, program: str, *arguments: str, name: str = "") -> None:
        log = self.folder / f"{name or program}.out"
        with log.open("wb") as stream:
            self.daemons[name or program] = subprocess.Popen(
                [shutil.which(program, path=_PATH) or program, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    def _wait_for(self, what: str, is_there) -> None:
        until = time.monotonic() + UP_SECONDS
        while not is_there():
            gone = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if gone or time.monotonic() > until:
                whose = gone[0] if gone else "slurmctld"
                said = (self.folder / f"{whose}.out").read_text(errors="replace").splitlines()
                raise NoClusterError(f"waited for {what}; {whose}: {' / '.join(said[-2:])}")
            time.sleep(0.05)

    def _write_configuration(self) -> None:
        user = getpass.getuser()
        host = socket.gethostname().partition(".")[0]
        controller, first = _free_ports()
        gres = [f"NodeName=n[1-3] Name=gpu File={device}\n" for device in AS_GPUS]
        (self.folder / "gres.conf").write_text("".join(gres))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        common = f"NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN"
        lines = (
            "ClusterName=gpucheck",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            f"SlurmUser={user}",
            f"SlurmdUser={user}",
            "AuthType=auth/munge",
            "CredType=cred/munge",
            f"AuthInfo=socket={self.folder}/munge.sock",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_Core",
            "SwitchType=switch/none",
            "MpiDefault=none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "GresTypes=gpu",
            "ReturnToService=0",
            "SlurmdParameters=config_overrides",  # this machine may have fewer cores
            "SchedulerParameters=batch_sched_delay=0,sched_min_interval=0",
            "MessageTimeout=5",  # how long a dead node is waited for
            f"HealthCheckProgram={self.health_check}",
            "HealthCheckInterval=3600",  # it runs once when a node starts, too
            f"NodeName=n[1-3] Port=[{first}-{first + 2}] Gres=gpu:{len(AS_GPUS)} {common}",
            f"NodeName=n[4-8] Port=[{first + 3}-{first + 7}] {common}",
            "PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        )
        configuration = self.folder / "slurm.conf"
        configuration.write_text("".join(f"{line}\n" for line in lines))
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            "PATH": _PATH,
            "SLURM_CONF": str(configuration),
        }


_MUNGE = {
    "socket": "sock",
    "key-file": "key",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def _free_ports() -> tuple[int, int]:
    """Return a free port, and the first of as many free ones in a row as there are nodes."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    begin = 20_000 + worker % 12 * 1000 + os.getpid() % 500
    for first in range(begin, 32_000, len(NODES) + 1):
        with suppress(OSError):
            for port in range(first, first + len(NODES) + 1):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first, first + 1
    raise NoClusterError("no nine free ports in a row")


@contextmanager
def cluster(folder: Path, health_check: Path) -> Iterator[Cluster]:
    """Start a cluster in *folder*, and leave nothing of it. NoClusterError: none comes up."""
    made = Cluster(folder, health_check)
    try:
        made.start()
        yield made
    finally:
        made.end()
