"""Reads what gpucheck needs of a Kubernetes API server's answers: nodes, pods and events."""

import msgspec


class Metadata(msgspec.Struct, frozen=True):
    """Of any object."""

    name: str = ""
    labels: dict[str, str] = {}


class Condition(msgspec.Struct, frozen=True):
    """Of a node or a pod."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """What the kubelet says of its machine."""

    conditions: tuple[Condition, ...] = ()
    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}


class Node(msgspec.Struct, frozen=True):
    """A machine of the cluster."""

    metadata: Metadata
    status: NodeStatus = NodeStatus()

    @property
    def why_not_ready(self) -> str:
        for condition in self.status.conditions:
            if condition.type == "Ready":
                if condition.status == "True":
                    return ""
                return f"not ready: {condition.reason}: {condition.message}".rstrip(": ")
        return "its kubelet has never reported"

    @property
    def has_gpus(self) -> bool:
        """Also where the device plugin is broken: labels of GPU or node feature discovery stay."""
        return "nvidia.com/gpu" in self.status.capacity or any(
            value != "false" and (key.startswith("nvidia.com/gpu") or "_10de.present" in key)
            for key, value in self.metadata.labels.items()
        )


class Ended(msgspec.Struct, frozen=True, rename="camel"):
    """How a container ended."""

    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""


class Waiting(msgspec.Struct, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class State(msgspec.Struct, frozen=True):
    """One of the two, or neither while it runs."""

    terminated: Ended | None = None
    waiting: Waiting | None = None


class ContainerStatus(msgspec.Struct, frozen=True):
    """Of the pod's only container."""

    state: State = State()


class PodStatus(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a pod so far."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(msgspec.Struct, frozen=True):
    """What a Job started on a node."""

    metadata: Metadata
    status: PodStatus = PodStatus()

    @property
    def has_ended(self) -> bool:
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def waiting(self) -> Waiting:
        for container in self.status.container_statuses:
            if container.state.waiting:
                return container.state.waiting
        return Waiting()

    @property
    def why_failed(self) -> str:
        if self.status.phase == "Succeeded":
            return ""
        for container in self.status.container_statuses:
            if ended := container.state.terminated:
                how = f"signal {ended.signal}" if ended.signal else f"status {ended.exit_code}"
                why = ended.message or ("" if ended.reason == "Error" else ended.reason)
                return f"its container ended with {how}" + (f": {why}" if why else "")
        why = self.status.message or "no message"
        return f"its pod failed: {self.status.reason or 'no reason'}: {why}"

    @property
    def why_not_running(self) -> str:
        """What the scheduler or the kubelet says of a pod that is pending."""
        if self.waiting.reason:
            return f"{self.waiting.reason}: {self.waiting.message}".rstrip(": ")
        for condition in self.status.conditions:
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"{condition.reason}: {condition.message}".rstrip(": ")
        return "" if self.status.phase == "Running" else self.status.phase.lower()


class ListMetadata(msgspec.Struct, frozen=True, rename={"next_page": "continue"}):
    """How a long list goes on."""

    next_page: str = ""


class NodeList(msgspec.Struct, frozen=True):
    """A page of nodes."""

    items: tuple[Node, ...] = ()
    metadata: ListMetadata = ListMetadata()


class PodList(msgspec.Struct, frozen=True):
    """The pods of a run."""

    items: tuple[Pod, ...] = ()


class Event(msgspec.Struct, frozen=True):
    """What the cluster noted about an object."""

    reason: str | None = None
    message: str | None = None
    type: str | None = None


class EventList(msgspec.Struct, frozen=True):
    """Of one object."""

    items: tuple[Event, ...] = ()


class Problem(msgspec.Struct, frozen=True):
    """What the server says when it refuses (metav1.Status)."""

    message: str = ""
