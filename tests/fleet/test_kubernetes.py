"""`gpucheck fleet` on Kubernetes: manifests that its schemas accept, and what becomes of a Job."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.kubernetes_api import Node, ended, serving, waiting

from gpucheck.fleet.engines.interface import Settings, Task
from gpucheck.fleet.engines.kubernetes_jobs import Kubernetes
from gpucheck.fleet.engines.kubernetes_manifest import job, yaml
from gpucheck.fleet.hooks import hook
from gpucheck.fleet.run import gather, tasks
from gpucheck.usage_error import UsageError
from machines import HEALTHY

VERSIONS = ("1.28", "1.31", "1.34")
GOOD = msgspec.json.encode(HEALTHY)
SETTINGS = Settings(image="registry.example.org/gpucheck:1", namespace="ops")


@pytest.mark.parametrize("what", ["doctor", "bench", "smoke"])
def test_the_planned_jobs_are_valid(what: str, tmp_path: Path):
    validate = pytest.importorskip("kubernetes_validate")
    yaml_of = pytest.importorskip("yaml")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gpucheck", "fleet", "plan", what, "--engine", "kubernetes"),
            *("--nodes", "gpu[1-2]", "--gpus", "8", "--image", SETTINGS.image),
        ],
        env={"PATH": "/usr/bin:/bin", "KUBECONFIG": str(tmp_path / "absent"), "HOME": "/nowhere"},
        capture_output=True,
        text=True,
    )

    documents = list(yaml_of.safe_load_all(done.stdout))

    assert (done.returncode, len(documents)) == (0, 2), done.stderr
    for version in VERSIONS:
        for document in documents:
            validate.validate(document, version, strict=True)
    [container] = documents[0]["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "gpucheck"
    assert ("nvidia.com/gpu" in str(container["resources"])) == (what != "doctor")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_hooks_daemon_set_is_valid(version: str):
    validate = pytest.importorskip("kubernetes_validate")
    yaml_of = pytest.importorskip("yaml")

    validate.validate(yaml_of.safe_load(hook("kubernetes-daemonset")), version, strict=True)


def test_the_printed_manifest_is_the_one_that_is_sent():
    yaml_of = pytest.importorskip("yaml")
    words = ("gpucheck", "--python", 'a "b" \\ #c', "é\n", "yes", "1.0", "{}")
    body = job(Task(node="n1", words=words, takes_gpus=True), 3, "ab12", SETTINGS, 8, 60)

    assert yaml_of.safe_load(yaml(body)) == body


@pytest.mark.parametrize("version", VERSIONS)
def test_tasks_that_meet_use_the_network_of_their_nodes(version: str):
    validate = pytest.importorskip("kubernetes_validate")
    alone = Task(node="n1", words=("gpucheck",), takes_gpus=True)
    meets = Task(node="n1", words=("gpucheck",), takes_gpus=True, meets_others=True)

    pods = []
    for task in (alone, meets):
        body: Any = job(task, 0, "ab12", SETTINGS, 8, 60)
        validate.validate(body, version, strict=True)
        pods.append(body["spec"]["template"]["spec"])

    assert [pod.get("hostNetwork", False) for pod in pods] == [False, True]


def asked(nodes: dict[str, Node], tmp_path: Path, what: str = "doctor", seconds: float = 1.0):
    """Ask every node of a cluster; return the reasons, and what the server saw."""
    pytest.importorskip("kubernetes")
    with serving(nodes, tmp_path / "kubeconfig") as api, pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        patch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        engine = Kubernetes(Settings(image="gpucheck:1"), look_seconds=0.05)
        wanted = tasks(what, engine.nodes(), ["gpucheck"])
        out = tmp_path / "out"
        outcomes = gather(engine, wanted, out, job=what, timeout_seconds=seconds, fan_out=4)
        return {one.node: one.why for one in outcomes}, api


def test_every_node_is_an_answer_or_says_what_the_cluster_says(tmp_path: Path):
    gone = {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    why, api = asked(
        {
            "well": Node(status=ended(), log=GOOD),
            "broken": Node(status=ended(1), log=GOOD),
            "garbage": Node(status=ended(), log=b"Segmentation fault\n"),
            "killed": Node(status=ended(137, reason="OOMKilled")),
            "evicted": Node(
                status={"phase": "Failed", "reason": "Evicted", "message": "The node was low"}
            ),
            "no-image": Node(status=waiting("ImagePullBackOff", "not found")),
            "busy": Node(
                status={
                    "phase": "Pending",
                    "conditions": [{**unscheduled, "message": "Insufficient nvidia.com/gpu"}],
                }
            ),
            "quota": Node(event="exceeded quota: gpus"),
            "refused": Node(refuses='pods "x" is forbidden: violates PodSecurity'),
            "no-log": Node(status=ended(), log=502),
            "hangs": Node(status={"phase": "Running"}),
            "gone": Node(ready={**gone, "message": "Kubelet stopped posting node status."}),
        },
        tmp_path,
    )

    assert why == {
        "well": "",
        "broken": "",
        "garbage": "what it sent is no snapshot: Segmentation fault",
        "killed": "its container ended with status 137: OOMKilled",
        "evicted": "its pod failed: Evicted: The node was low",
        "no-image": "ImagePullBackOff: not found",
        "busy": "late: 1 s; Unschedulable: Insufficient nvidia.com/gpu",
        "quota": "late: 1 s; FailedCreate: exceeded quota: gpus",
        "refused": 'the API server refused (403): pods "x" is forbidden: violates PodSecurity',
        "no-log": "late: 1 s; the API server refused (502): the kubelet does not answer",
        "hangs": "late: 1 s",
        "gone": "not ready: NodeStatusUnknown: Kubelet stopped posting node status.",
    }
    assert (tmp_path / "out" / "well.json").read_bytes() == GOOD
    assert len(api.made) == 10
    assert not api.jobs, "a Job was left behind"


def test_a_job_that_works_the_gpus_takes_all_that_the_node_offers(tmp_path: Path):
    nodes = {
        "n1": Node(status=ended(), log=GOOD, gpus=4),
        "n2": Node(gpus=0, labels={"nvidia.com/gpu.present": "true"}),
    }

    why, api = asked(nodes, tmp_path, "bench")

    assert why == {"n1": "", "n2": "the node offers no nvidia.com/gpu"}
    [container] = api.made[0]["spec"]["template"]["spec"]["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "4"}}


def test_nodes_without_gpus_are_not_meant_unless_they_are_named(tmp_path: Path):
    nodes = {
        "cpu": Node(gpus=0),
        "off": Node(gpus=0, labels={"nvidia.com/gpu.present": "false"}),
        "nfd": Node(
            status=ended(),
            log=GOOD,
            gpus=0,
            labels={"feature.node.kubernetes.io/pci-0302_10de.present": "true"},
        ),
    }

    assert asked(nodes, tmp_path)[0] == {"nfd": ""}


def test_whoever_leaves_early_leaves_no_job(tmp_path: Path, monkeypatch):
    pytest.importorskip("kubernetes")
    nodes = {"n1": Node(status=ended(), log=GOOD), "n2": Node(status={"phase": "Running"})}
    with serving(nodes, tmp_path / "kubeconfig") as api:
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        engine = Kubernetes(Settings(image="gpucheck:1"), look_seconds=0.05)
        wanted = tasks("doctor", ["n1", "n2"], ["gpucheck"])
        outcomes = gather(engine, wanted, tmp_path / "out", job="doctor", timeout_seconds=60)
        assert next(outcomes).node == "n1"
        assert len(api.jobs) == 1

        outcomes.close()

        assert not api.jobs


def test_a_signal_leaves_no_job(tmp_path: Path):
    pytest.importorskip("kubernetes")
    with serving({"n1": Node(status={"phase": "Running"})}, tmp_path / "kubeconfig") as api:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "gpucheck", "fleet", "run", "--engine", "kubernetes"),
                *("--image", "gpucheck:1", "--out", str(tmp_path / "out")),
            ],
            env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
            stdout=subprocess.DEVNULL,
        )
        until = time.monotonic() + 60
        while not api.jobs and time.monotonic() < until:
            time.sleep(0.02)
        assert api.jobs

        process.terminate()
        process.wait(30)

        assert not api.jobs


def test_without_a_cluster_or_an_image_the_call_is_wrong(tmp_path: Path, monkeypatch):
    with pytest.raises(UsageError, match="needs --image"):
        Kubernetes(Settings())
    pytest.importorskip("kubernetes")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    with pytest.raises(UsageError, match="--engine kubernetes: "):
        Kubernetes(SETTINGS).nodes()
