"""Calls a Kubernetes API server through the client `kubernetes`, and says why where that fails."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from gpucheck.fleet.engines import kubernetes_answers as api
from gpucheck.fleet.engines.kubernetes_manifest import RUN
from gpucheck.fleet.engines.processes import ANSWER_LIMIT_BYTES
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from kubernetes import client

REQUEST_SECONDS = 30
PAGE = 500  # nodes in one answer
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_Answer = TypeVar("_Answer")


class NoClusterError(UsageError):
    """There is no client, no configuration or no server."""


def connect(namespace: str) -> "Server":
    """Return the server of this user's configuration, or of the pod that this runs in."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise NoClusterError(
            "--engine kubernetes: pip install 'gpucheck-doctor[kubernetes]'"
        ) from None
    file = os.environ.get("KUBECONFIG")  # the client reads it once, when it is imported
    try:
        config.load_kube_config(config_file=file)
        _, active = config.list_kube_config_contexts(config_file=file)
        namespace = namespace or active.get("context", {}).get("namespace", "")
    except config.ConfigException as error:
        try:
            config.load_incluster_config()
            namespace = namespace or _SERVICE_ACCOUNT.read_text(encoding="utf-8").strip()
        except (config.ConfigException, OSError):
            raise NoClusterError(f"--engine kubernetes: {error}") from None
    return Server(client.ApiClient(), namespace or "default")


class Server:
    """The calls to the API server. Answers are read as bytes.

    The client's own decoding takes long for thousands of nodes, and turns a log that is JSON into
    Python's notation of it (https://github.com/kubernetes-client/python/issues/811).
    """

    def __init__(self, connection: "client.ApiClient", namespace: str) -> None:
        from kubernetes import client

        self._core = client.CoreV1Api(connection)
        self._batch = client.BatchV1Api(connection)
        self._namespace = namespace
        self._raw = {"_preload_content": False, "_request_timeout": REQUEST_SECONDS}

    def nodes(self) -> list[api.Node]:
        """Return all nodes. NoClusterError: the server does not answer, or refuses."""
        found: list[api.Node] = []
        page = ""
        while True:
            words: dict[str, object] = {"limit": PAGE, **self._raw}
            if page:
                words["_continue"] = page
            answer, why = _called(api.NodeList, self._core.list_node, **words)
            if answer is None:
                raise NoClusterError(f"--engine kubernetes: {why}")
            found += answer.items
            page = answer.metadata.next_page
            if not page:
                return found

    def node(self, name: str) -> api.Node | None:
        """Return the node as it is now; None: nobody can say."""
        return _called(api.Node, self._core.read_node, name, **self._raw)[0]

    def pods(self, run: str) -> tuple[api.Pod, ...]:
        """Return the pods of *run*; none where the server does not answer this time."""
        answer, _ = _called(
            api.PodList,
            self._core.list_namespaced_pod,
            self._namespace,
            label_selector=f"{RUN}={run}",
            **self._raw,
        )
        return answer.items if answer else ()

    def log(self, pod: str) -> tuple[bytes, str]:
        """Return what *pod* wrote, or why that cannot be read."""
        words = {"limit_bytes": ANSWER_LIMIT_BYTES, **self._raw}
        return _bytes(self._core.read_namespaced_pod_log, pod, self._namespace, **words)

    def create_job(self, body: dict[str, object]) -> str:
        """Make a Job; return why it was refused, or ""."""
        return _bytes(self._batch.create_namespaced_job, self._namespace, body, **self._raw)[1]

    def delete_job(self, name: str) -> None:
        """Delete a Job and its pod."""
        words = {"propagation_policy": "Background", **self._raw}
        _bytes(self._batch.delete_namespaced_job, name, self._namespace, **words)

    def delete_jobs(self, run: str) -> None:
        """Delete what is left of *run*."""
        words = {"propagation_policy": "Background", "label_selector": f"{RUN}={run}", **self._raw}
        _bytes(self._batch.delete_collection_namespaced_job, self._namespace, **words)

    def warning_of(self, name: str) -> str:
        """Return the last warning about a Job: what refused its pod."""
        answer, _ = _called(
            api.EventList,
            self._core.list_namespaced_event,
            self._namespace,
            field_selector=f"involvedObject.name={name}",
            **self._raw,
        )
        warnings = [event for event in answer.items if event.type == "Warning"] if answer else []
        return f"{warnings[-1].reason}: {warnings[-1].message}" if warnings else ""


def _called(
    kind: type[_Answer], call: Callable[..., Any], *values: object, **words: object
) -> tuple[_Answer | None, str]:
    """Return what the server answered, or None and why not."""
    content, why = _bytes(call, *values, **words)
    if why:
        return None, why
    try:
        return msgspec.json.decode(content, type=kind), ""
    except msgspec.MsgspecError as error:
        return None, f"the API server's answer is not understood: {error}"


def _bytes(call: Callable[..., Any], *values: object, **words: object) -> tuple[bytes, str]:
    """Return what the server sent, or why there is nothing."""
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        return bytes(call(*values, **words).data), ""
    except ApiException as error:
        try:
            said = msgspec.json.decode(error.body or b"", type=api.Problem).message
        except msgspec.MsgspecError:
            said = str(error.reason)
        return b"", f"the API server refused ({error.status}): {said}"
    except HTTPError as error:
        return b"", f"the API server does not answer: {error}"
