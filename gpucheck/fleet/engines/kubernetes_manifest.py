"""Writes the Job that asks one node of a Kubernetes cluster, and prints it as YAML."""

import json
from collections.abc import Iterator

from gpucheck.fleet.engines.interface import Settings, Task

GPU = "nvidia.com/gpu"
#: Labels of ours; the index is the task's, since a node's name may be too long for a label.
RUN, INDEX = "gpucheck/run", "gpucheck/index"
SPARE_SECONDS = 60  # after which the cluster itself ends what we did not
KEPT_SECONDS = 600

#: A container has 64 MiB, which is too little for NCCL
#: (https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting/runtime_and_mpi_issues.html),
#: and would be found small on every node.
SHARED_MEMORY = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}

Json = dict[str, object]


def job(task: Task, index: int, run: str, settings: Settings, gpus: int, seconds: float) -> Json:
    """Return the Job of *task*, the *index*-th of *run*, on a node of *gpus* GPUs.

    It goes through the scheduler, by affinity: a pod with a nodeName would pass its count of GPUs
    by. It tolerates every taint: a cordoned node is examined too.
    """
    labels = {"app.kubernetes.io/name": "gpucheck", RUN: run, INDEX: str(index)}
    container: Json = {
        "name": "gpucheck",
        "image": settings.image,
        "command": list(task.words),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
        "volumeMounts": [{"name": "shared-memory", "mountPath": "/dev/shm"}],  # noqa: S108
    }
    if task.takes_gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    else:  # shows all GPUs and takes none: the runtime class reads these
        container["env"] = [
            {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
            {"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "compute,utility"},
        ]
    pod: Json = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "affinity": {"nodeAffinity": _only_on(task.node)},
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
        "volumes": [SHARED_MEMORY],
    }
    if task.meets_others:
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if settings.runtime_class:
        pod["runtimeClassName"] = settings.runtime_class
    metadata: Json = {"name": f"gpucheck-{run}-{index}", "labels": labels}
    if settings.namespace:
        metadata["namespace"] = settings.namespace
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": int(seconds) + SPARE_SECONDS,
            "ttlSecondsAfterFinished": KEPT_SECONDS,
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def _only_on(node: str) -> Json:
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    term = {"matchFields": [field]}
    return {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}


def yaml(document: Json) -> str:
    """Return *document* as YAML, of which JSON's texts and numbers are a part."""
    return "".join(f"{line}\n" for line in _lines(document))


def _lines(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            name = key if key.isalnum() else json.dumps(key)
            if isinstance(inner, dict | list) and inner:
                yield f"{name}:"
                yield from (f"  {line}" for line in _lines(inner))
            else:
                yield f"{name}: {json.dumps(inner)}"
    elif isinstance(value, list):
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield json.dumps(value)
