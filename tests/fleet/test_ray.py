"""`gpucheck fleet` on a real Ray cluster of three nodes on this machine, one of which goes away."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpucheck.fleet.engines.interface import Task
from gpucheck.fleet.engines.ray_tasks import Ray, named
from gpucheck.fleet.reading import answers
from gpucheck.fleet.run import gather
from gpucheck.probes.messages import RayNode
from gpucheck.snapshot_file import as_json
from gpucheck.usage_error import UsageError
from machines import HEALTHY

#: A Python with ray, which costs too much to install for every run of the tests.
PYTHON = os.environ.get("GPUCHECK_RAY_PYTHON") or (sys.executable if find_spec("ray") else "")
GPUS = 8
#: Starts the nodes, says so, and removes each that it is told to by a line of stdin.
CLUSTER = """\
import json, sys
from ray.cluster_utils import Cluster

head = {"num_cpus": 1, "include_dashboard": False, "temp_dir": sys.argv[1]}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = {node.node_id: node for node in [cluster.head_node]}
for _ in range(2):
    node = cluster.add_node(num_cpus=1, num_gpus=8)
    nodes[node.node_id] = node
cluster.wait_for_nodes()
print(json.dumps([cluster.address, list(nodes)]), flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes[line.strip()], allow_graceful=False)
cluster.shutdown()
"""

real = pytest.mark.skipif(
    not PYTHON, reason="ray is not installed here (pip install ray, or GPUCHECK_RAY_PYTHON)"
)


@dataclass
class Cluster:
    process: "subprocess.Popen[str]"
    address: str
    ids: list[str]

    def remove(self, node_id: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(f"{node_id}\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def ray() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # its sockets allow no long name
    process = subprocess.Popen(
        [PYTHON, "-c", CLUSTER, folder],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith('["'):
                yield Cluster(process, *json.loads(line))
                break
        else:
            pytest.skip("no cluster of Ray comes up here")
    finally:
        process.communicate(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


@real
def test_a_node_that_is_removed_in_mid_run_is_a_row_with_the_reason(ray: Cluster, tmp_path: Path):
    engine = Ray(address=ray.address, python=PYTHON)
    head, well, lost = sorted(engine.nodes(), key=lambda name: _position(name, ray))
    (tmp_path / "facts.json").write_text(as_json(HEALTHY))
    cat = ("cat", str(tmp_path / "facts.json"))
    started = tmp_path / "started"
    wanted = [
        Task(node=head, words=("sh", "-c", "echo oops >&2; exit 3")),
        Task(node=well, words=cat),
        Task(node=lost, words=("sh", "-c", f"echo $$ > {started}; exec sleep 300")),
        Task(node="elsewhere", words=cat),
    ]

    def remove_when_it_runs() -> None:
        until = time.monotonic() + 60
        while not (started.exists() and started.read_text()) and time.monotonic() < until:
            time.sleep(0.05)
        ray.remove(next(each for each in ray.ids if each[:8] in lost))

    remover = threading.Thread(target=remove_when_it_runs)
    remover.start()
    for _ in gather(engine, wanted, tmp_path / "out", job="doctor", timeout_seconds=90):
        pass
    remover.join()

    why = {answer.node: answer.failure for answer in answers([str(tmp_path / "out")])}
    assert why[well] == ""
    assert why[head] == "sh ended with status 3: oops"
    assert "the node it was running on is dead" in why[lost]
    assert why["elsewhere"] == "Ray knows no node of this name"
    until = time.monotonic() + 10
    while _runs(int(started.read_text())) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _runs(int(started.read_text())), "what ran on the lost node was left behind"


def _position(name: str, ray: Cluster) -> int:
    return next(at for at, each in enumerate(ray.ids) if each[:8] in name)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@real
def test_a_job_that_works_the_gpus_takes_them_and_one_that_looks_sees_them(
    ray: Cluster, tmp_path: Path
):
    engine = Ray(address=ray.address, python=PYTHON)
    head, well = sorted(engine.nodes(), key=lambda name: _position(name, ray))[:2]
    show = f"echo ${{CUDA_VISIBLE_DEVICES-unset}} >> {tmp_path}/$0"
    words = ("sh", "-c", show)

    def run(*tasks: Task) -> dict[str, str]:
        outputs = engine.run(tasks, timeout_seconds=60, fan_out=4)
        return {output.node: output.why for output in outputs}

    busy = run(
        Task(node=head, words=(*words, "head"), takes_gpus=True),
        Task(node=well, words=(*words, "works"), takes_gpus=True),
    )
    looks = run(Task(node=well, words=(*words, "looks")))

    assert busy == {head: "Ray counts no GPU on this node", well: ""}
    assert looks == {well: ""}
    assert (tmp_path / "works").read_text() == "0,1,2,3,4,5,6,7\n"
    assert (tmp_path / "looks").read_text() == "unset\n"


@real
def test_the_planned_program_does_the_same(ray: Cluster, tmp_path: Path):
    engine = Ray(address=ray.address, python=PYTHON)
    well = sorted(engine.nodes(), key=lambda name: _position(name, ray))[1]
    (tmp_path / "facts.json").write_text(as_json(HEALTHY))
    wanted = [Task(node=well, words=("cat", str(tmp_path / "facts.json")), takes_gpus=True)]

    program = engine.plan(wanted, timeout_seconds=60, out=tmp_path / "out")
    done = subprocess.run([PYTHON, "-c", program], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert [each.failure for each in answers([str(tmp_path / "out")])] == [""]


def node(host: str, node_id: str, *, alive: bool = True, why: str = "") -> RayNode:
    return RayNode(
        at=0.0,
        node_id=node_id * 8,
        host=host,
        is_alive=alive,
        died_unexpectedly=bool(why),
        why_dead=why,
        gpus=8 if alive else 0,
    )


def test_a_node_is_called_by_its_host_and_by_rays_id_where_a_host_has_several():
    nodes = [
        node("gpu1", "a"),
        node("gpu2", "b"),
        node("gpu2", "c"),
        node("gpu3", "d", alive=False),
    ]

    assert list(named(nodes)) == ["gpu1", "gpu2-bbbbbbbb", "gpu2-cccccccc", "gpu3"]


def test_a_dead_node_whose_host_is_back_counts_no_more():
    nodes = [node("gpu1", "a", alive=False, why="missed heartbeats"), node("gpu1", "b")]

    assert named(nodes)["gpu1"].is_alive


def test_a_python_without_ray_is_named(tmp_path: Path):
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)

    with pytest.raises(UsageError, match="--engine ray: No module named 'ray'"):
        Ray(python=str(bare)).nodes()


def test_a_driver_that_does_not_come_up_is_named():
    with pytest.raises(UsageError, match="the driver under /bin/false: exit status 1"):
        Ray(python="/bin/false").nodes()
