"""`gpucheck fleet` and the hooks on a real Slurm: eight nodes, and what can be wrong with them."""

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_cluster
from slurm_cluster import Cluster, NoClusterError

from gpucheck import snapshot_file
from gpucheck.fleet.hooks import hook
from gpucheck.fleet.reading import answers
from machines import HEALTHY, gpu, machine

pytestmark = pytest.mark.skipif(
    slurm_cluster.why_not() is not None, reason=str(slurm_cluster.why_not())
)

LOST = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="gone"))})
#: What `gpucheck` is on the nodes: the real one, but where a node is to break.
ON_A_NODE = """\
case $SLURMD_NODENAME in
n3) echo "$CUDA_VISIBLE_DEVICES" >> {folder}/gpus ;;
n6) kill -9 $$ ;;
n7) echo "Segmentation fault"; exit 0 ;;
esac
exec {python} -m gpucheck "$@"
"""
#: slurmd gives its health check SLURMD_NODENAME and nothing else: no PATH, no SLURM_CONF.
HEALTH_CHECK = """\
case $SLURMD_NODENAME in n1|n8) ;; *) exit 0 ;; esac
export PATH={folder}/health:$PATH SLURM_CONF={folder}/slurm.conf
exec sh {folder}/hook.sh
"""
IN_THE_HEALTH_CHECK = """\
exec {python} -m gpucheck doctor --from {folder}/$SLURMD_NODENAME.facts.json --format oneline
"""


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("slurm")
    words = {"folder": folder, "python": sys.executable}
    (folder / "hook.sh").write_text(hook("slurm-healthcheck"))
    for node, facts in (("n1", HEALTHY), ("n8", LOST)):
        snapshot_file.save(snapshot_file.as_json(facts), folder / f"{node}.facts.json")
    script(folder / "health" / "gpucheck", IN_THE_HEALTH_CHECK.format(**words))
    script(folder / "gpucheck", ON_A_NODE.format(**words))
    check = script(folder / "check", HEALTH_CHECK.format(**words))
    try:
        with slurm_cluster.cluster(folder, check) as made:
            made.call("scontrol", "update", "nodename=n5", "state=drain", "reason=bad PSU")
            yield made
    except NoClusterError as error:
        pytest.skip(f"no Slurm comes up here: {error}")


def fleet(slurm: Cluster, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return slurm.call(
        *(sys.executable, "-m", "gpucheck", "fleet", *arguments, "--engine", "slurm"),
        *("--remote-command", str(slurm.folder / "gpucheck")),
    )


def reasons(folder: Path) -> dict[str, str]:
    return {answer.node: answer.failure for answer in answers([str(folder)])}


def test_the_health_check_drains_the_broken_node_with_our_reason(slurm: Cluster):
    assert slurm.state("n8").startswith("drained|gpucheck: broken")
    assert "GPU001" in slurm.state("n8")


def test_the_health_check_leaves_a_healthy_node_alone(slurm: Cluster):
    state, _, reason = slurm.state("n1").partition("|")

    assert "drain" not in state
    assert reason == "none"


def test_every_node_of_the_cluster_is_in_the_report_whatever_became_of_it(
    slurm: Cluster, tmp_path: Path
):
    slurm.stop_node("n4")
    out = tmp_path / "out"

    done = fleet(slurm, "run", "quick", "--out", str(out), "--timeout", "30", "--format", "json")

    report = json.loads(done.stdout)
    why = reasons(out)
    assert (report["nodes"], report["examined"], report["exit_code"]) == (8, 3, 1)
    assert why["n1"] == why["n2"] == why["n3"] == ""
    assert "Task launch" in why["n4"] or "Communication connection failure" in why["n4"]
    assert why["n5"] == "drained: bad PSU"
    assert "task 0: Killed" in why["n6"]
    assert why["n7"] == "what it sent is no snapshot: Segmentation fault"
    assert why["n8"].startswith("drained: gpucheck: broken")
    missing = [each["nodes"] for each in report["findings"] if each["code"] == "FLT003"]
    assert sorted(missing) == ["n4", "n5", "n6", "n7", "n8"]
    assert set((slurm.folder / "gpus").read_text().split()) == {"0,1"}
    assert not slurm.call("squeue", "--noheader", "--states=running,pending").stdout


def test_a_node_whose_gpus_are_in_use_is_late_and_leaves_no_job(slurm: Cluster, tmp_path: Path):
    with subprocess.Popen(
        ["srun", "--nodelist=n2", "--gres=gpu:2", "--time=1", "sleep", "60"],
        env=slurm.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as holder:
        while "n2" not in slurm.nodes_in("mixed", "allocated"):
            time.sleep(0.05)
        done = fleet(slurm, "run", "--nodes", "n2", "--out", str(tmp_path / "out"), "--timeout=1")
        holder.terminate()

    assert done.returncode == 1
    assert reasons(tmp_path / "out")["n2"].startswith("late: 1 s; srun: job")
    assert "queued and waiting for resources" in reasons(tmp_path / "out")["n2"]
    queue = slurm.call("squeue", "--noheader", "--format=%j", "--states=pending,running").stdout
    assert "gpucheck" not in queue


def test_a_node_that_slurm_does_not_know_is_a_row(slurm: Cluster, tmp_path: Path):
    out = tmp_path / "out"

    done = fleet(slurm, "run", "quick", "--nodes", "n2,login1", "--out", str(out))

    assert reasons(out) == {"n2": "", "login1": "Slurm knows no node of this name"}, done.stderr


def test_the_planned_script_is_one_that_sbatch_runs(slurm: Cluster, tmp_path: Path):
    out = tmp_path / "out"
    planned = fleet(slurm, "plan", "quick", "--nodes", "n[1-3,5]", "--out", str(out))
    (tmp_path / "job.sh").write_text(planned.stdout)

    slurm.batch(tmp_path / "job.sh", f"--output={tmp_path}/log")

    assert "# n5 is left out: drained: bad PSU" in planned.stdout
    assert reasons(out) == {"n1": "", "n2": "", "n3": ""}, (tmp_path / "log").read_text()
    judged = slurm.call(sys.executable, "-m", "gpucheck", "fleet", "judge", str(out))
    assert "3 of 3 nodes examined" in judged.stdout


def test_inside_a_job_its_nodes_are_asked_as_steps(slurm: Cluster, tmp_path: Path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "gpucheck", "fleet", "run", "quick", "--engine", "slurm"]
    words += ["--out", str(out), "--remote-command", str(slurm.folder / "gpucheck")]
    text = f"#!/bin/sh\n{shlex.join(words)} > {tmp_path}/report\n"
    (tmp_path / "job.sh").write_text(text)

    slurm.batch(
        tmp_path / "job.sh",
        *("--nodelist=n[1-2]", "--nodes=2", "--gres=gpu:2", f"--output={tmp_path}/log"),
    )

    assert reasons(out) == {"n1": "", "n2": ""}, (tmp_path / "log").read_text()
    assert "2 of 2 nodes examined" in (tmp_path / "report").read_text()


def test_a_signal_leaves_no_job(slurm: Cluster, tmp_path: Path):
    sleeps = script(tmp_path / "sleeps", "exec sleep 300\n")
    words = [sys.executable, "-m", "gpucheck", "fleet", "run", "--engine", "slurm"]
    words += ["--nodes", "n1", "--out", str(tmp_path / "out"), "--remote-command", str(sleeps)]
    process = subprocess.Popen(words, env=slurm.environment, stdout=subprocess.DEVNULL)
    queue = ("squeue", "--noheader", "--name=gpucheck", "--format=%T", "--nodelist=n1")
    until = time.monotonic() + 30
    while "RUNNING" not in slurm.call(*queue).stdout and time.monotonic() < until:
        time.sleep(0.1)

    process.terminate()
    process.wait(30)

    while (left := slurm.call(*queue).stdout) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left
