"""Asks each node of a Kubernetes cluster by a Job of its own, and reads the answer from its log."""

import secrets
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.fleet.engines import kubernetes_answers as api
from gpucheck.fleet.engines.interface import Engine, Output, Settings, Task
from gpucheck.fleet.engines.kubernetes_manifest import GPU, INDEX, job, yaml
from gpucheck.fleet.engines.kubernetes_server import NoClusterError, Server, connect
from gpucheck.usage_error import UsageError

LOOK_SECONDS = 1.0
#: Reasons of a waiting container that no longer wait changes.
_FINAL = frozenset(
    {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError"}
)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """A task whose Job is made."""

    task: Task
    began: float
    job: str
    pod: api.Pod | None = None
    log_error: str = ""


class Kubernetes(Engine):
    """One Job for each node."""

    def __init__(self, settings: Settings, look_seconds: float = LOOK_SECONDS) -> None:
        if not settings.image:
            raise UsageError("--engine kubernetes needs --image: one that holds gpucheck")
        self._settings = settings
        self._look_seconds = look_seconds
        self._server: Server | None = None
        self._nodes: dict[str, api.Node] = {}

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes with GPUs, whether or not these can be used now."""
        names = tuple(name for name, node in self._known().items() if node.has_gpus)
        if not names:
            raise UsageError("--engine kubernetes: no node of the cluster has NVIDIA GPUs")
        return names

    def out_of_reach(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return the nodes that are not there or not ready; all may be well without a cluster."""
        try:
            known = self._known()
        except NoClusterError:
            return {}  # a plan for another place; `run` refuses
        away = {}
        for name in nodes:
            node = known.get(name)
            why = node.why_not_ready if node else "the cluster has no node of this name"
            if why:
                away[name] = why
        return away

    def plan(self, tasks: Sequence[Task], *, timeout_seconds: float, out: Path) -> str:
        """Print the manifest, and how its answers are fetched."""
        run = secrets.token_hex(4)
        lines = ["# kubectl apply --filename THIS, and when the Jobs have ended:"]
        for index, task in enumerate(tasks):
            log = f"kubectl logs job/gpucheck-{run}-{index}"
            lines.append(f"#   {log} > {out / task.node}.json")
        documents = []
        for index, task in enumerate(tasks):
            gpus = self._gpus_of(task)
            one = job(task, index, run, self._settings, gpus, timeout_seconds)
            documents.append(f"---\n{yaml(one)}")
        return "".join(f"{line}\n" for line in lines) + "".join(documents)

    def run(
        self, tasks: Sequence[Task], *, timeout_seconds: float, fan_out: int
    ) -> Generator[Output, None, None]:
        """Make a Job for each task, and look once a second what became of them."""
        server = self._connected()
        run = secrets.token_hex(4)
        left = list(enumerate(tasks))[::-1]
        asked: dict[str, _Asked] = {}
        try:
            while left or asked:
                while left and len(asked) < fan_out:
                    index, task = left.pop()
                    made = self._make(server, run, index, task, timeout_seconds)
                    if isinstance(made, Output):
                        yield made
                    else:
                        asked[str(index)] = made
                time.sleep(self._look_seconds)
                for key, output in self._ended(server, run, asked, timeout_seconds):
                    server.delete_job(asked.pop(key).job)
                    yield output
        finally:
            server.delete_jobs(run)

    def _make(
        self, server: Server, run: str, index: int, task: Task, timeout_seconds: float
    ) -> _Asked | Output:
        gpus = self._gpus_of(task)
        if task.takes_gpus and not gpus:
            return Output(node=task.node, why=f"the node offers no {GPU}")
        body = job(task, index, run, self._settings, gpus, timeout_seconds)
        if why := server.create_job(body):
            return Output(node=task.node, why=why)
        return _Asked(task=task, began=time.monotonic(), job=f"gpucheck-{run}-{index}")

    def _ended(
        self, server: Server, run: str, asked: dict[str, _Asked], timeout_seconds: float
    ) -> list[tuple[str, Output]]:
        """Return the tasks that have an output now."""
        for pod in server.pods(run):
            if one := asked.get(pod.metadata.labels.get(INDEX, "")):
                one.pod = pod
        return [
            (index, output)
            for index, one in asked.items()
            if (output := self._output(server, one, timeout_seconds))
        ]

    def _output(self, server: Server, one: _Asked, timeout_seconds: float) -> Output | None:
        """Return what became of a task; None: nothing yet."""
        seconds = time.monotonic() - one.began
        pod, node = one.pod, one.task.node
        if pod and pod.has_ended:
            content, one.log_error = server.log(pod.metadata.name)
            if not one.log_error:
                return Output(node=node, content=content, why=pod.why_failed, seconds=seconds)
        elif pod and pod.waiting.reason in _FINAL:
            return Output(node=node, why=pod.why_not_running, seconds=seconds)
        if seconds < timeout_seconds:
            return None
        return Output(node=node, why=self._why_late(server, one, timeout_seconds), seconds=seconds)

    def _why_late(self, server: Server, one: _Asked, timeout_seconds: float) -> str:
        """Say what the cluster says: of the node, the pod, or the Job that got no pod."""
        node = server.node(one.task.node)
        said = (node.why_not_ready if node else "") or one.log_error
        if not said:
            said = one.pod.why_not_running if one.pod else server.warning_of(one.job)
        return f"late: {timeout_seconds:g} s" + (f"; {said}" if said else "")

    def _gpus_of(self, task: Task) -> int:
        if not task.takes_gpus:
            return 0
        if self._settings.gpus is not None:
            return self._settings.gpus
        try:
            node = self._known().get(task.node)
        except NoClusterError as error:
            raise UsageError(f"{error}; --gpus says how many GPUs a node has") from None
        return int(node.status.allocatable.get(GPU, "0")) if node else 0

    def _known(self) -> dict[str, api.Node]:
        if not self._nodes:
            self._nodes = {node.metadata.name: node for node in self._connected().nodes()}
        return self._nodes

    def _connected(self) -> Server:
        if self._server is None:
            self._server = connect(self._settings.namespace)
        return self._server
