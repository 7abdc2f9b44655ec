"""Asks each node of a Ray cluster by a task that is bound to it."""

import json
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from gpucheck.fleet.engines.interface import Engine, Output, Task
from gpucheck.probes.child import Child, payload_command
from gpucheck.probes.messages import RayAnswer, RayListed, RayNode, RayRefused, messages_in
from gpucheck.usage_error import UsageError

LIST_SECONDS = 60.0
#: What a task may take beyond its own time: Ray's start of a worker, and of the driver itself.
SPARE_SECONDS = 60.0
LONGEST_RUN_SECONDS = 7 * 86400.0
LIMIT_BYTES = 80 << 20

PLAN = """\
# Run this with the cluster's own Python, on one of its machines, and then:
#   gpucheck fleet judge {folder}
import subprocess
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

COMMAND = {command}
NODES = {nodes}  # name: Ray's id, GPUs to take
FOLDER = Path({folder!r})


def answer(command, seconds):
    return subprocess.run(command, stdout=subprocess.PIPE, timeout=seconds).stdout


ray.init({address!r})
FOLDER.mkdir(parents=True, exist_ok=True)
asked = {{
    name: ray.remote(answer)
    .options(
        num_cpus=0,
        num_gpus=gpus,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    )
    .remote(COMMAND, {seconds:g})
    for name, (node, gpus) in NODES.items()
}}
for name, reference in asked.items():
    try:
        (FOLDER / f"{{name}}.json").write_bytes(ray.get(reference, timeout={longest:g}))
    except Exception as error:
        (FOLDER / f"{{name}}.failed").write_text(f"{{error}}\\n")
"""


class Ray(Engine):
    """One task for each node, in a driver that is a process of its own."""

    def __init__(self, *, address: str = "auto", python: str = "", gpus: int | None = None) -> None:
        self._address = address
        self._python = python or sys.executable
        self._gpus = gpus
        self._nodes: dict[str, RayNode] = {}

    def nodes(self) -> tuple[str, ...]:
        """Return the nodes that are alive, and those that died without being told to."""
        return tuple(
            name for name, node in self._known().items() if node.is_alive or node.died_unexpectedly
        )

    def out_of_reach(self, nodes: Sequence[str]) -> dict[str, str]:
        """Return those that are dead, or that Ray never knew."""
        known, away = self._known(), {}
        for name in nodes:
            node = known.get(name)
            if node is None:
                away[name] = "Ray knows no node of this name"
            elif not node.is_alive:
                away[name] = f"dead: {node.why_dead or 'Ray does not say why'}"
        return away

    def plan(self, tasks: Sequence[Task], *, timeout_seconds: float, out: Path) -> str:
        """Print a program that does the same."""
        known = self._known()
        nodes = {
            task.node: (known[task.node].node_id, self._gpus_of(task, known[task.node]))
            for task in tasks
        }
        return PLAN.format(
            folder=str(out),
            command=list(tasks[0].words) if tasks else [],
            nodes=nodes,
            address=self._address,
            seconds=timeout_seconds,
            longest=timeout_seconds + SPARE_SECONDS,
        )

    def run(
        self, tasks: Sequence[Task], *, timeout_seconds: float, fan_out: int
    ) -> Generator[Output, None, None]:
        """Run them in a driver; what it did not report is said of the driver's own end."""
        known = self._known()
        left = dict(enumerate(tasks))
        wanted = []
        for index, task in enumerate(tasks):
            node = known[task.node]
            gpus = self._gpus_of(task, node)
            if task.takes_gpus and not gpus:
                yield Output(node=left.pop(index).node, why="Ray counts no GPU on this node")
                continue
            words = list(task.words)
            wanted.append({"index": index, "node_id": node.node_id, "gpus": gpus, "words": words})
        order = {"tasks": wanted, "timeout_seconds": timeout_seconds, "fan_out": fan_out}
        with self._driver(LONGEST_RUN_SECONDS, takes_orders=True) as driver:
            driver.order(json.dumps(order))
            patience = timeout_seconds + SPARE_SECONDS
            for message in messages_in(driver.lines(stall_seconds=patience)):
                if isinstance(message, RayRefused):
                    raise UsageError(f"--engine ray: {message.why}")
                if isinstance(message, RayAnswer):
                    yield Output(
                        node=left.pop(message.index).node,
                        content=message.content.encode("utf-8", "replace"),
                        why=message.why,
                        seconds=message.seconds,
                    )
            why = driver.end().why
        for task in left.values():
            yield Output(node=task.node, why=f"Ray's driver: {why or 'ended without a word of it'}")

    def _gpus_of(self, task: Task, node: RayNode) -> int:
        if not task.takes_gpus:
            return 0
        return node.gpus if self._gpus is None else self._gpus

    def _known(self) -> dict[str, RayNode]:
        if not self._nodes:
            self._nodes = named(list(self._listed()))
        return self._nodes

    def _listed(self) -> Iterator[RayNode]:
        with self._driver(LIST_SECONDS) as driver:
            for message in messages_in(driver.lines()):
                if isinstance(message, RayRefused):
                    raise UsageError(f"--engine ray: {message.why}")
                if isinstance(message, RayNode):
                    yield message
                if isinstance(message, RayListed):
                    return
            why = driver.end().why
        raise UsageError(f"--engine ray: the driver under {self._python}: {why or 'said nothing'}")

    def _driver(self, seconds: float, *, takes_orders: bool = False) -> Child:
        return Child(
            payload_command(self._python, "ray_nodes", self._address),
            deadline_seconds=seconds,
            limit_bytes=LIMIT_BYTES,
            takes_orders=takes_orders,
            keeps_lines=False,
        )


def named(nodes: Sequence[RayNode]) -> dict[str, RayNode]:
    """Name each node by its host, and by the begin of Ray's id too where a host has several.

    A dead one whose host is back counts no more.
    """
    alive = Counter(node.host for node in nodes if node.is_alive)
    names = {}
    for node in nodes:
        if not node.is_alive and node.host in alive:
            continue
        several = alive[node.host] > 1
        names[f"{node.host}-{node.node_id[:8]}" if several else node.host] = node
    return names
