"""Gathers what the processes of a smoke training report, and makes facts of it."""

import socket
from typing import Any

import msgspec

from gpucheck.probes import messages
from gpucheck.probes.messages import Message, TrainingDevice
from gpucheck.snapshot import (
    NOT_EXAMINED,
    DataFault,
    KernelLog,
    Known,
    NotFinite,
    PeerCopy,
    Replica,
    SoloRun,
    Training,
    TrainingFailure,
    TrainingGpu,
    Unknown,
    Xid,
    replace,
)
from gpucheck.workloads.launch import Place
from gpucheck.workloads.plan import DEFAULT_GPUS, Plan
from gpucheck.workloads.watch import Watch


class Phases:
    """How long each phase took, in milliseconds."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._name = "import"
        self._since = self._first = 0.0

    def start(self, now: float) -> None:
        self._since = self._first = now

    def begin(self, name: str, now: float) -> None:
        self._spent[self._name] = self._spent.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now

    def end(self, now: float) -> None:
        self.begin("", now)

    def milliseconds(self) -> dict[str, float]:
        spent = {name: round(seconds * 1000, 1) for name, seconds in self._spent.items() if name}
        return {**spent, "total": round((self._since - self._first) * 1000, 1)}


class Gathered:
    """What the processes reported, as it comes, and as facts in the end.

    Processes name GPUs by CUDA's numbers, which CUDA_VISIBLE_DEVICES changes; the facts name them
    by NVML's, which are those of nvidia-smi, wherever NVML shows the GPU.
    """

    def __init__(self, plan: Plan, place: Place) -> None:
        self._plan = plan
        self._place = place
        self._reported: dict[str, Any] = {}
        self._devices: list[TrainingDevice] = []
        self._replicas: tuple[messages.ReplicaWork, ...] = ()
        self._copies: list[messages.Copied] = []
        self._solo: list[messages.TrainedAlone] = []
        self._losses: list[float] = []
        # moments of the training, to which NVML's readings are held
        self._cuda_start = self._from = self._until = float("inf")
        self.phases = Phases()
        self.watch = Watch()
        self.failure: TrainingFailure | None = None
        self.new_xids: Known[tuple[Xid, ...]] = NOT_EXAMINED

    # ------------------------------------------------------------------------ what is reported

    def take(self, rank: int, message: Message) -> None:
        """Note what the process of *rank* reported."""
        if isinstance(message, messages.TrainingDevices):
            self._devices += [gpu for gpu in message.gpus if gpu not in self._devices]
        if rank not in (0, self._place.rank):
            return
        match message:
            case messages.Phase():
                self._enter(message)
            case messages.TrainingDevices():
                self._reported |= {
                    "replicas_wanted": message.wanted,
                    "gpus_visible": message.visible,
                    "gpus_missing": message.missing,
                }
                if self._plan.device == "cuda":
                    self._reported["cuda_unavailable"] = message.unavailable
            case messages.DataRead():
                self._reported |= {
                    "data": message.kind,
                    "data_directory": message.directory,
                    "data_fault": None,
                }
            case messages.DataFaulty():
                self._reported["data_fault"] = DataFault(
                    path=message.path, problem=message.problem, expected=message.expected
                )
            case messages.Copied():
                self._copies.append(message)
            case messages.CopiesDone():
                self._reported["copies"] = ()  # filled when the GPUs' numbers are known
            case _:
                self._take_result(message)

    def _enter(self, phase: messages.Phase) -> None:
        self.phases.begin(phase.name, phase.at)
        if phase.torch is not None:
            self._reported["torch"] = phase.torch
        if phase.name == "CUDA start":
            self._cuda_start = phase.at
        elif phase.name == "training":
            self._from = phase.at
        elif phase.name == "parity":
            self._until = min(self._until, phase.at)

    def _take_result(self, message: Message) -> None:
        match message:
            case messages.Loss(loss=loss):
                self._losses.append(loss)
            case messages.Curve():
                self._reported |= {
                    "losses": message.losses,
                    "accuracy": message.accuracy,
                    "first_epoch_accuracy": message.first_epoch_accuracy,
                    "images_per_second": message.images_per_second,
                    "not_finite": None,
                }
            case messages.ReferenceCurve():
                self._reported |= {
                    "reference_losses": message.losses,
                    "reference_accuracy": message.accuracy,
                    "reference_images_per_second": message.images_per_second,
                }
            case messages.ReplicasDone():
                self._replicas = message.replicas
                mine = [one.device for one in message.replicas if self._is_here(one)]
                self._devices += [gpu for gpu in mine if gpu and gpu not in self._devices]
            case messages.TrainedAlone():
                self._solo.append(message)
            case messages.NotFiniteNumber():
                self._reported["not_finite"] = NotFinite(step=message.step, what=message.what)

    # --------------------------------------------------------------------------------- numbers

    @staticmethod
    def _is_here(replica: messages.ReplicaWork) -> bool:
        return replica.host in (None, socket.gethostname())

    def number(self, cuda: int) -> int:
        """Return NVML's index of a GPU by its number in one of the processes of this host."""
        device = next((gpu for gpu in self._devices if gpu.index == cuda), None)
        return cuda if device is None else self._number_of(device)

    def _number_of(self, device: TrainingDevice) -> int:
        number = self.watch.number(device.uuid, device.bus_id)
        return device.index if number is None else number

    def _number_of_replica(self, replica: messages.ReplicaWork) -> int | None:
        if replica.device is not None and self._is_here(replica):
            return self._number_of(replica.device)
        if replica.gpu is None or replica.device is not None:
            return replica.gpu
        return self.number(replica.gpu)

    def _copy(self, copy: messages.Copied) -> PeerCopy:
        source, target = copy.source, copy.target
        gpus: tuple[int, ...] = ()
        if self._plan.strategy == "ddp":
            here = {one.position: one for one in self._replicas if self._is_here(one)}
            numbers = [
                self._number_of_replica(here[end]) for end in (source, target) if end in here
            ]
            gpus = tuple(number for number in numbers if number is not None)
        elif self._plan.device == "cuda":
            source, target = gpus = self.number(source), self.number(target)
        return PeerCopy(source=source, target=target, error=copy.error, gpus=gpus)

    # ----------------------------------------------------------------------------------- facts

    def training(self) -> Training:
        """Return all that is known."""
        plan = self._plan
        facts = dict(self._reported)
        if self._losses:
            facts.setdefault("losses", tuple(self._losses))
        if self._solo:
            facts["solo"] = tuple(self._solo_run(run) for run in self._solo)
        if self._replicas:
            facts["replicas"] = tuple(self._replica(one) for one in self._replicas)
        if "copies" in facts:
            facts["copies"] = tuple(self._copy(copy) for copy in self._copies)
        if self._devices or "gpus_visible" in facts:
            gpus = {self._number_of(device): device for device in self._devices}
            facts["gpus"] = tuple(self._gpu(at, gpus[at]) for at in sorted(gpus))
        for field in msgspec.structs.fields(Training):
            if field.default is NOT_EXAMINED and field.name not in facts:
                facts[field.name] = Unknown(self._why_unknown())
        failure = self.failure
        if failure is not None and self._plan.device == "cuda":
            failure = replace(failure, gpus=tuple(self.number(gpu) for gpu in failure.gpus))
        facts |= {"failure": failure, "new_xids": self.new_xids}
        wanted = str(self._place.world) if self._place.joined else plan.gpus or DEFAULT_GPUS
        return Training(
            strategy=plan.strategy,
            device=plan.device,
            epochs=plan.epochs,
            batch_size=plan.batch_size,
            learning_rate=plan.learning_rate,
            seed=plan.seed,
            log_interval=plan.log_interval,
            gpus_wanted=wanted,
            phases_ms=self.phases.milliseconds(),
            **facts,
        )

    def _replica(self, one: messages.ReplicaWork) -> Replica:
        return Replica(
            position=one.position,
            gpu=self._number_of_replica(one),
            host=one.host,
            images=one.images,
            share=one.share,
            output_difference=one.output_difference,
        )

    def _solo_run(self, run: messages.TrainedAlone) -> SoloRun:
        where = "cpu"
        if run.gpu is not None:
            where = f"gpu {self.number(run.gpu)}"
        elif run.rank is not None:
            where = f"rank {run.rank}"
        return SoloRun(where=where, losses=run.losses, error=run.error)

    def _gpu(self, number: int, device: TrainingDevice) -> TrainingGpu:
        return TrainingGpu(
            index=number,
            name=device.name,
            uuid=device.uuid,
            bus_id=device.bus_id,
            total_bytes=device.total_bytes,
            free_bytes=device.free_bytes,
            watched=self.watch.of(
                device.uuid,
                device.bus_id,
                cuda_start=self._cuda_start,
                since=self._from,
                until=self._until,
            ),
        )

    def not_begun(self) -> TrainingFailure | None:
        """Return why a training that nothing stopped has no result, None where it has one."""
        if self._place.rank or "accuracy" in self._reported or "not_finite" in self._reported:
            return None  # in a job rank 0 alone has results
        if isinstance(self._reported.get("data_fault"), DataFault):
            return TrainingFailure(kind="blocked", phase="data", message="the data cannot be used")
        return TrainingFailure(kind="blocked", phase="CUDA start", message="there are too few GPUs")

    def _why_unknown(self) -> str:
        if self.failure is not None and self.failure.kind == "blocked":
            return "the training was not begun"
        return "the training did not get that far"


def new_xids(before: KernelLog) -> Known[tuple[Xid, ...]]:
    """Return the Xids that the kernel logged since the reading *before*."""
    from gpucheck.probes import kernel_log

    if isinstance(before.xids, Unknown):
        return before.xids
    now = kernel_log.probe().xids
    if isinstance(now, Unknown):
        return now
    counts = {(xid.bus_id, xid.number): xid.count for xid in before.xids}
    return tuple(
        replace(xid, count=xid.count - counts.get((xid.bus_id, xid.number), 0))
        for xid in now
        if xid.count > counts.get((xid.bus_id, xid.number), 0)
    )
