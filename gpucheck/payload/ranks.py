"""Runs the training as one rank of several under DistributedDataParallel.

NCCL on GPUs, gloo on the CPU. During the training, each rank leaves a sign of life in the store
twice a second, and rank 0 reports how long it has not heard of whom: a rank or a host
that is lost has a name, whatever the collective operations are waiting for.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import torch
from torch import distributed, nn

from . import mnist, training
from .assignment import Assignment
from .training import Emit

_BEAT_SECONDS = 0.5


def run(work: Assignment, emit: Emit, read: Callable[[], mnist.Digits]) -> None:
    """Train as rank `work.rank` of `work.world`."""
    devices = training.choose_gpus(work, emit)
    device = devices[0] if work.joined else devices[work.rank]
    emit("phase", name="rendezvous")
    ranks = Ranks(work, device)
    emit = ranks.start_beating(emit)

    emit("phase", name="data")
    digits = ranks.one_by_one_on_each_host(read)
    data = training.Data.on(device, digits)
    emit("data", kind=digits.kind, directory=str(digits.directory))

    emit("phase", name="copies")
    copies = ranks.check_copies(device, emit)

    emit("phase", name="training")
    torch.manual_seed(work.seed)
    classifier = training.Classifier().to(device)
    model = nn.parallel.DistributedDataParallel(
        classifier, device_ids=None if device.type == "cpu" else [device.index]
    )
    progress_events = training.ProgressEvents([device], work, emit)
    not_finite = None
    curve = None
    try:
        curve = training.train(
            model,
            classifier,
            data,
            work,
            emit,
            epochs=work.epochs,
            rank=work.rank,
            world=work.world,
            total=ranks.sum,
            begin=progress_events.begin,
        )
    except training.NotFiniteError as error:
        not_finite = {"step": error.step, "what": error.what}
    images = sum(count for _, count in classifier.done)
    ranks.put(
        f"facts/{work.rank}",
        {
            "position": work.rank,
            "gpu": device.index,
            "host": socket.gethostname(),
            "images": images,
            "share": images / (len(data.images) * work.epochs),
            "output_difference": ranks.difference_from_rank_0(classifier, data, work, device),
            "device": None if device.index is None else training.describe(device.index),
            "copies": copies,
        },
    )
    if work.rank == 0:
        facts = [ranks.get(f"facts/{rank}") for rank in range(work.world)]
        for copy in (copy for fact in facts for copy in fact.pop("copies")):
            emit("copied", **copy)
        emit("copies done")
        emit("replicas", replicas=facts)
        _compare(work, emit, ranks, curve, not_finite, digits, data, device)
    else:
        emit("waiting")
        if ranks.get("verdict")["odd"]:
            ranks.put(f"solo/{work.rank}", _alone(device, digits, work, emit))
        ranks.put(f"left/{work.rank}", {})


def _compare(
    work: Assignment,
    emit: Emit,
    ranks: Ranks,
    curve: training.Curve | None,
    not_finite: dict[str, Any] | None,
    digits: mnist.Digits,
    data: training.Data,
    device: torch.device,
) -> None:
    """Hold the curve against that of rank 0's GPU alone, and find the rank that is the odd one."""
    odd = True
    if curve is None:
        emit("not finite", **(not_finite or {}))
    else:
        emit("trained", **training.facts_of(curve))
        emit("phase", name="parity")
        reference = training.alone(device, digits, work, emit, data)
        emit("reference", **training.facts_of(reference))
        odd = training.differs(curve.first_epoch_losses, reference.first_epoch_losses)
    ranks.put("verdict", {"odd": odd})
    if odd:
        emit("phase", name="parity")
        for rank in range(work.world):
            solo = ranks.get(f"solo/{rank}") if rank else _alone(device, digits, work, emit)
            emit("solo", gpu=None, rank=rank, **solo)
        solo = _alone(torch.device("cpu"), digits, work, emit)
        emit("solo", gpu=None, rank=None, **solo)
    for rank in range(1, work.world):  # the store lives in rank 0: it leaves last
        ranks.get(f"left/{rank}")


def _alone(
    device: torch.device, digits: mnist.Digits, work: Assignment, emit: Emit
) -> dict[str, Any]:
    try:
        curve = training.alone(device, digits, work, emit)
    except (training.NotFiniteError, RuntimeError) as error:
        return {"losses": [], "error": training.last_line(error)}
    return {"losses": curve.first_epoch_losses, "error": None}


class Ranks:
    """The other ranks: the process group, and the store through which facts go."""

    def __init__(self, work: Assignment, device: torch.device) -> None:
        self._work = work
        self._host = socket.gethostname()
        self._prefix = f"gpucheck/{work.rendezvous_id}"
        self._store = self._connect(is_master=work.rank == 0 and not work.agent_store)
        # Our parent's deadline comes first: it knows what to say.
        patience = timedelta(seconds=work.timeout_seconds * 1.5)
        if device.type == "cuda":
            torch.cuda.set_device(device)
        distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=distributed.PrefixStore(f"{self._prefix}/group", self._connect()),
            rank=work.rank,
            world_size=work.world,
            timeout=patience,
        )
        self._device = device

    def _connect(self, *, is_master: bool = False) -> Any:  # noqa: ANN401 - torch's own
        return distributed.TCPStore(
            self._work.address,
            self._work.port,
            is_master=is_master,
            wait_for_workers=False,
            timeout=timedelta(seconds=self._work.timeout_seconds * 1.5),
        )

    def put(self, key: str, facts: Any) -> None:  # noqa: ANN401 - JSON
        """Leave *facts* for the other ranks."""
        self._store.set(f"{self._prefix}/{key}", json.dumps(facts))

    def get(self, key: str) -> Any:  # noqa: ANN401 - JSON
        """Return the facts that a rank left, waiting for them; RuntimeError if none come."""
        return json.loads(self._store.get(f"{self._prefix}/{key}"))

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return *tensor* added up over all ranks."""
        tensor = tensor.clone()
        distributed.all_reduce(tensor)
        return tensor

    def one_by_one_on_each_host(self, read: Callable[[], mnist.Digits]) -> mnist.Digits:
        """Let the first rank of each host read first: it may have to download or draw."""
        if self._work.local_rank == 0:
            try:
                return read()
            finally:
                self.put(f"data/{self._host}", {})
        self.get(f"data/{self._host}")
        return read()

    def check_copies(self, device: torch.device, emit: Emit) -> list[dict[str, Any]]:
        """Let each rank send bytes to all others; return what came wrong or right to this one."""
        results: list[dict[str, Any]] = []
        for source in range(self._work.world):
            emit("copying", source=source, target=self._work.rank)
            error = None
            for size in training.COPY_BYTES:
                generator = torch.Generator().manual_seed(source * 31 + size)
                expected = training.random_bytes(size, generator).to(device)
                sent = expected if source == self._work.rank else torch.zeros_like(expected)
                sent = training.copy(sent, device)
                distributed.broadcast(sent, src=source)
                wrong = sent != expected
                if error is None and wrong.any():
                    first = int(wrong.nonzero()[0])
                    error = f"{int(wrong.sum()):,} of {size:,} bytes differ, first at {first:,}"
            if source != self._work.rank:
                results.append({"source": source, "target": self._work.rank, "error": error})
        return results

    def difference_from_rank_0(
        self, classifier: nn.Module, data: training.Data, work: Assignment, device: torch.device
    ) -> float:
        """Return how far this rank's scores of one batch are from those of rank 0."""
        with torch.no_grad():
            mine = classifier(data.test_images[: work.batch_size])
        first = mine.clone() if work.rank == 0 else torch.zeros_like(mine, device=device)
        distributed.broadcast(first, src=0)
        gap = float((mine - first).abs().max())
        return gap if gap < 1e9 else 1e9

    def start_beating(self, emit: Emit) -> Emit:
        """Leave signs of life from now on; as rank 0, report what is heard of the others."""
        now: dict[str, object] = {"step": 0, "phase": ""}

        def noting(event: str, **facts: object) -> None:
            if event == "batch":
                now["step"] = facts["number"]
            elif event == "phase":
                now["phase"] = facts["name"]
            emit(event, **facts)

        threading.Thread(target=self._beat, args=(now, emit), daemon=True).start()
        return noting

    def _beat(self, now: dict[str, object], emit: Emit) -> None:
        store = self._connect()  # a waiting get() holds its connection
        heard: dict[int, tuple[str, float]] = {}
        count = 0
        while True:
            count += 1
            sign = json.dumps({"count": count, "host": self._host, "stands": _stands(), **now})
            try:
                store.set(f"{self._prefix}/beat/{self._work.rank}", sign)
                if self._work.rank == 0:
                    emit("ranks", ranks=self._hear(store, heard))
            except RuntimeError:
                return  # the store is gone; the training itself will notice
            time.sleep(_BEAT_SECONDS)

    def _hear(self, store: Any, heard: dict[int, tuple[str, float]]) -> list[dict[str, Any]]:  # noqa: ANN401
        """Return for each rank what it last said, and how many seconds ago that was new."""
        lines = []
        for rank in range(self._work.world):
            key = f"{self._prefix}/beat/{rank}"
            if not store.check([key]):
                continue
            sign = store.get(key).decode()
            if heard.get(rank, ("", 0.0))[0] != sign:
                heard[rank] = (sign, time.monotonic())
            age = time.monotonic() - heard[rank][1]
            lines.append({"rank": rank, "silent_seconds": age, **json.loads(sign)})
        return lines


def _stands() -> str:
    """Return where the main thread stands: a rank that the others wait for stands elsewhere."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    if frame is None:
        return ""
    code = frame.f_code
    return f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}"
