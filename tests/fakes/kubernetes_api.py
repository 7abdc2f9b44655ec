"""A Kubernetes API server for tests: nodes, Jobs, their pods and logs, over real HTTP.

What becomes of a Job depends on the node that it is bound to; nothing is scheduled or run.
"""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

Json = dict[str, Any]
READY = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}


@dataclass
class Node:
    """A machine of the cluster, and what becomes of a pod on it."""

    status: Json = field(default_factory=dict)  # of the pod
    log: bytes | int = b""  # what the pod wrote, or the status with which that is refused
    refuses: str = ""  # why the Job is not made
    event: str = ""  # why the Job has no pod
    ready: Json = field(default_factory=lambda: dict(READY))
    gpus: int = 8
    labels: Mapping[str, str] = field(default_factory=dict)


def ended(code: int = 0, **more: object) -> Json:
    """Return the status of a pod whose container has ended."""
    terminated = {"exitCode": code, "reason": "Completed" if code == 0 else "Error", **more}
    phase = "Succeeded" if code == 0 else "Failed"
    return {"phase": phase, "containerStatuses": [{"state": {"terminated": terminated}}]}


def waiting(reason: str, message: str) -> Json:
    """Return the status of a pod whose container does not start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"state": state}]}


@dataclass
class Api:
    """What the server holds."""

    nodes: dict[str, Node]
    jobs: dict[str, Json] = field(default_factory=dict)
    made: list[Json] = field(default_factory=list)  # all Jobs, the deleted ones too
    page: int = 2

    def answer(self, method: str, path: str, query: dict[str, str], body: Json) -> object:
        """Return the answer to a call: an object, bytes, or a status with a message."""
        match method, *path.strip("/").split("/"):
            case "GET", "api", "v1", "nodes":
                return self._node_page(int(query.get("continue", "0")))
            case "GET", "api", "v1", "nodes", name:
                return self._node(name)
            case "POST", "apis", "batch", "v1", "namespaces", _, "jobs":
                return self._make(body)
            case "GET", "api", "v1", "namespaces", _, "pods":
                return {"kind": "PodList", "items": self._pods(query["labelSelector"])}
            case "GET", "api", "v1", "namespaces", _, "pods", name, "log":
                return self.nodes[_node_of(self.jobs[name.removesuffix("-pod")])].log
            case "GET", "api", "v1", "namespaces", _, "events":
                return {"kind": "EventList", "items": self._events(query["fieldSelector"])}
            case "DELETE", "apis", "batch", "v1", "namespaces", _, "jobs", name:
                return self.jobs.pop(name)
            case "DELETE", "apis", "batch", "v1", "namespaces", _, "jobs":
                self.jobs = {
                    name: job
                    for name, job in self.jobs.items()
                    if not _fits(job, query["labelSelector"])
                }
                return {"kind": "Status", "status": "Success"}
        return 404, f"{method} {path}: not found"

    def _node(self, name: str) -> Json:
        node = self.nodes[name]
        gpus = {"nvidia.com/gpu": str(node.gpus)} if node.gpus else {}
        return {
            "metadata": {"name": name, "labels": node.labels},
            "status": {"conditions": [node.ready], "capacity": gpus, "allocatable": gpus},
        }

    def _node_page(self, first: int) -> Json:
        names = list(self.nodes)
        last = first + self.page
        items = [self._node(name) for name in names[first:last]]
        more = {"continue": str(last)} if last < len(names) else {}
        return {"kind": "NodeList", "metadata": more, "items": items}

    def _make(self, job: Json) -> object:
        node = self.nodes[_node_of(job)]
        if node.refuses:
            return 403, node.refuses
        self.made.append(job)
        self.jobs[job["metadata"]["name"]] = job
        return job

    def _pods(self, selector: str) -> list[Json]:
        return [
            {
                "metadata": {"name": f"{name}-pod", "labels": job["metadata"]["labels"]},
                "status": self.nodes[_node_of(job)].status,
            }
            for name, job in self.jobs.items()
            if _fits(job, selector) and not self.nodes[_node_of(job)].event
        ]

    def _events(self, selector: str) -> list[Json]:
        job = self.jobs[selector.partition("=")[2]]
        message = self.nodes[_node_of(job)].event
        return [{"type": "Warning", "reason": "FailedCreate", "message": message}]


def _node_of(job: Json) -> str:
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    [term] = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    [name] = term["matchFields"][0]["values"]
    return str(name)


def _fits(job: Json, selector: str) -> bool:
    key, _, value = selector.partition("=")
    return bool(job["metadata"]["labels"][key] == value)


@contextmanager
def serving(nodes: dict[str, Node], kubeconfig: Path) -> Iterator[Api]:
    """Serve a cluster of *nodes*, and write the file by which clients find it."""
    api = Api(nodes)
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            url = urlparse(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size) or b"{}")
            with lock:
                found = api.answer(self.command, url.path, query, body)
            status = 200
            if isinstance(found, int):
                found = found, "the kubelet does not answer"
            if isinstance(found, tuple):
                status, message = found
                found = {"kind": "Status", "status": "Failure", "message": message}
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the library's names

        def log_message(self, format: str, *values: object) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    context = {"cluster": "c", "user": "u", "namespace": "ops"}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [
            {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        ],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": context}],
    }
    kubeconfig.write_text(json.dumps(config))
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
