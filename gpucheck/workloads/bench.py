"""Measures what each GPU does: plans the measures, has them made, and gathers the figures.

A process for each GPU, so that one that hangs costs only itself, and one that owns them all for
copies between them and all-reduce. Sizes and order follow NVIDIA's and Microsoft's benchmarks
(nvbandwidth, nccl-tests, SuperBench): products and device memory on all GPUs at once, as in real
work, host copies one at a time.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from gpucheck.payload.assignment import GpuChoiceError, chosen_gpus
from gpucheck.probes.child import Child
from gpucheck.probes.messages import BenchDevice, BenchReady, GpuReading, Measured
from gpucheck.snapshot import NOT_SUPPORTED, Bench, BenchGpu, Figure, Reading, Unknown, replace
from gpucheck.versions import version_tuple
from gpucheck.workloads import launch, watch
from gpucheck.workloads.bench_worker import Worker, WorkerError, environment

MEASURES = ("gemm", "memory", "copy", "peer", "allreduce")
METHOD = 1
_PRODUCTS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
LEAST_CAPABILITY = {"tf32": (8, 0), "bf16": (8, 0), "fp8": (8, 9), "int8": (7, 5)}
#: A figure below this share of its equals is measured twice; the rules' own limits are lower.
_LOW = {
    **dict.fromkeys(_PRODUCTS, 0.93),
    "memory": 0.98,
    **dict.fromkeys(("h2d", "d2h", "peer"), 0.96),
}
_SAMPLE_SECONDS = 0.1
_START_SECONDS = 120.0  # a cold disk takes long over torch's gigabytes
_ANSWER_SECONDS = 30.0

Progress = Callable[[str], None]


class BenchPlanError(ValueError):
    """What was asked for cannot be done; the message is for whoever asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """What to measure."""

    gpus: str = "all"  # as for smoke; on the CPU a count
    only: tuple[str, ...] = MEASURES
    quick: bool = False
    device: str = "cuda"

    def check(self) -> None:
        """Raise BenchPlanError where this cannot be done."""
        try:
            numbers = chosen_gpus(self.gpus, 1)
        except GpuChoiceError as error:
            raise BenchPlanError(str(error)) from None
        if len(set(numbers)) < len(numbers):
            raise BenchPlanError(f"--gpus {self.gpus}: each GPU is measured once")
        for name in self.only:
            if name not in MEASURES:
                raise BenchPlanError(f"--only {name}: choose among {', '.join(MEASURES)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large and how long each measure is."""

    product: int = 8192
    fp32_product: int = 4096
    memory: int = 1 << 30
    host: int = 256 << 20
    peer: int = 256 << 20
    reduce: tuple[int, ...] = (16 << 20, 256 << 20, 1 << 30)
    seconds: float = 0.4
    warm_up: float = 0.3  # power and clock have settled by then


FULL = Sizes()
QUICK = Sizes(host=64 << 20, peer=64 << 20, reduce=())
ON_CPU = Sizes(
    product=256,
    fp32_product=256,
    memory=1 << 22,
    host=1 << 20,
    peer=1 << 20,
    reduce=(1 << 20,),
    seconds=0.05,
    warm_up=0.02,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One measure on one worker: *gpus* are CUDA's numbers."""

    measure: str
    gpus: tuple[int, ...]
    size: int
    order: str  # the program's name of it
    arguments: Mapping[str, object]


class BenchRun:
    """Workers under way: `with BenchRun(plan) as run: bench = run.measure()`.

    They import torch at once; no GPU is touched before `measure`, so that the caller can see what
    else runs there.
    """

    def __init__(
        self,
        plan: BenchPlan,
        *,
        python: str | None = None,
        variables: Mapping[str, str] = os.environ,
        progress: Progress = lambda text: None,  # noqa: ARG005
    ) -> None:
        plan.check()
        self.plan = plan
        self._sizes = ON_CPU if plan.device == "cpu" else QUICK if plan.quick else FULL
        self._variables = variables
        self._python = launch.python_for(python, variables)
        self._progress = progress
        self._watch = watch.Watch()
        self._watcher: Child | None = None
        self._workers: dict[int, Worker] = {}
        self._all: Worker | None = None
        self._devices: dict[int, BenchDevice] = {}
        self._figures: list[Figure] = []

    def __enter__(self) -> "BenchRun":
        self._began = time.monotonic()
        if self.plan.device == "cuda":
            self._watcher = watch.start(_SAMPLE_SECONDS)
            threading.Thread(target=self._watch.follow, args=(self._watcher,), daemon=True).start()
        try:
            for gpu in self._gpus():
                self._workers[gpu] = self._worker()
            if len(self._workers) > 1:
                self._all = self._worker()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for worker in (*self._workers.values(), *((self._all,) if self._all else ())):
            worker.end()
        if self._watcher is not None:
            self._watcher.kill()

    def _worker(self) -> Worker:
        return Worker(self._python, self.plan.device, environment(self._variables))

    def _gpus(self) -> list[int]:
        if self.plan.device == "cpu":
            return chosen_gpus(self.plan.gpus, 2)
        visible = launch.visible_gpus(self._variables, self._watch.count(deadline_seconds=10.0))
        return chosen_gpus(self.plan.gpus, visible)

    # -------------------------------------------------------------------------- measuring

    def measure(self, busy: Mapping[int, str] | None = None) -> Bench:
        """Make all measures; what could not be measured is unknown, and says why.

        *busy* are GPUs, by NVML's index, that are left alone, and the reason.
        """
        ready, left_out = self._start_up(busy or {})
        for batch in self._together():
            self._run_together(batch)
        for job in self._alone():
            self._run_alone(job)
        for jobs in self._host_copies_together():
            self._run_together(jobs, suffix=" together")
        self._between()
        self._repeat_what_is_low()
        not_begun = (
            Figure(measure="start", gpus=(gpu,), size=0, value=Unknown(why))
            for gpu, why in left_out.items()
        )
        return Bench(
            device="cpu" if self.plan.device == "cpu" else "cuda",
            method=METHOD,
            torch=Unknown("no worker started") if ready is None else ready.torch,
            cuda=None if ready is None else ready.cuda,
            gpus=tuple(self._gpu(device) for device in self._devices.values()),
            figures=(*self._figures, *not_begun),
            nvls=self._nvls(),
            elapsed_seconds=round(time.monotonic() - self._began, 1),
        )

    def _start_up(self, busy: Mapping[int, str]) -> tuple[BenchReady | None, dict[int, str]]:
        """Start CUDA on every GPU at once; return what torch is, and why a GPU is left out."""
        ready: BenchReady | None = None
        left_out: dict[int, str] = {}
        asked: dict[int, int] = {}
        self._progress("importing torch")
        for gpu, worker in self._workers.items():
            try:
                left = self._began + _START_SECONDS - time.monotonic()  # they all began together
                ready = worker.await_ready(max(1.0, round(left, 1)))
                asked[gpu] = worker.order("describe", gpu=gpu)
            except WorkerError as error:
                left_out[gpu] = str(error)
        self._progress("starting CUDA on every GPU")
        for gpu, order in asked.items():
            try:
                device = self._described(self._workers[gpu], order)
            except WorkerError as error:
                left_out[gpu] = str(error)
                continue
            number = self._number_of(device)
            if number in busy:
                left_out[number] = busy[number]
                self._workers[gpu].end()
            else:
                self._devices[gpu] = device
        return ready, left_out

    @staticmethod
    def _described(worker: Worker, order: int) -> BenchDevice:
        answer = worker.await_(order, _ANSWER_SECONDS)
        if answer.device is None:
            raise WorkerError(answer.error or "the GPU does not start")
        return answer.device

    def _together(self) -> Iterator[list[Job]]:
        """Yield what all GPUs do at once: the same product on each, then device memory."""
        sizes, live = self._sizes, self._devices
        if "gemm" in self.plan.only:
            for dtype in _PRODUCTS:
                jobs = [
                    self._product(gpu, dtype)
                    for gpu, device in live.items()
                    if self._can(device, dtype)
                ]
                if jobs:
                    yield jobs
        if "memory" in self.plan.only and live:
            yield [
                Job(
                    measure="memory",
                    gpus=(gpu,),
                    size=self._memory_size(device),
                    order="memory",
                    arguments={
                        "gpu": gpu,
                        "size": self._memory_size(device),
                        "seconds": sizes.seconds / 2,
                    },
                )
                for gpu, device in live.items()
            ]

    def _can(self, device: BenchDevice, dtype: str) -> bool:
        if self.plan.device == "cpu":
            return dtype in ("fp32", "bf16")
        capability = version_tuple(device.compute_capability or "0.0")
        if self.plan.quick:
            return dtype == ("bf16" if capability >= (8, 0) else "fp16")
        return dtype == "fp32" or capability >= LEAST_CAPABILITY.get(dtype, (7, 0))

    def _product(self, gpu: int, dtype: str) -> Job:
        sizes = self._sizes
        free = self._devices[gpu].free_bytes
        size = sizes.fp32_product if dtype == "fp32" else sizes.product
        if free is not None and free < 8 << 30:
            size = min(size, 4096)
        return Job(
            measure=dtype,
            gpus=(gpu,),
            size=size,
            order="gemm",
            arguments={
                "gpu": gpu,
                "dtype": dtype,
                "size": size,
                "seconds": sizes.seconds,
                "warm_up": sizes.warm_up,
            },
        )

    def _memory_size(self, device: BenchDevice) -> int:
        size = max(self._sizes.memory, 10 * device.l2_bytes)
        if device.free_bytes is not None:
            size = min(size, device.free_bytes // 4)
        return size // 4096 * 4096

    def _alone(self) -> Iterator[Job]:
        if "copy" in self.plan.only:
            for gpu in self._devices:
                yield from (self._host_copy(gpu, direction) for direction in ("h2d", "d2h"))

    def _host_copy(self, gpu: int, direction: str) -> Job:
        size = self._sizes.host
        arguments = {
            "gpu": gpu,
            "direction": direction,
            "size": size,
            "seconds": self._sizes.seconds / 4,
        }
        return Job(measure=direction, gpus=(gpu,), size=size, order="host", arguments=arguments)

    def _host_copies_together(self) -> Iterator[list[Job]]:
        if "copy" in self.plan.only and len(self._devices) > 1 and not self.plan.quick:
            for direction in ("h2d", "d2h"):
                yield [self._host_copy(gpu, direction) for gpu in self._devices]

    def _between(self) -> None:
        """Copy between every two GPUs, and add up over all of them."""
        live = list(self._devices)
        if self._all is None or len(live) < 2:
            return
        try:
            self._all.await_ready(_START_SECONDS)
        except WorkerError as error:
            self._figures.append(Figure(measure="peer", gpus=(), size=0, value=Unknown(str(error))))
            return
        if "peer" in self.plan.only:
            for source in live:
                for target in live:
                    if source != target:
                        self._run_alone(self._peer(source, target))
        if "allreduce" in self.plan.only:
            for size in self._sizes.reduce:
                self._run_alone(
                    Job(
                        measure="all-reduce",
                        gpus=tuple(live),
                        size=size,
                        order="all-reduce",
                        arguments={"gpus": live, "size": size, "rounds": 20},
                    )
                )

    def _peer(self, source: int, target: int) -> Job:
        size = self._sizes.peer
        arguments = {"source": source, "target": target, "size": size, "seconds": 0.02}
        return Job(
            measure="peer", gpus=(source, target), size=size, order="peer", arguments=arguments
        )

    # --------------------------------------------------------------------------- orders

    def _worker_of(self, job: Job) -> Worker | None:
        return self._workers.get(job.gpus[0]) if len(job.gpus) == 1 else self._all

    def _run_together(self, jobs: Sequence[Job], suffix: str = "") -> None:
        self._progress(f"{jobs[0].measure}{suffix}, all GPUs at once")
        ordered = [
            (job, worker, worker.order(job.order, **job.arguments))
            for job in jobs
            if (worker := self._worker_of(job)) is not None
        ]
        for job, worker, number in ordered:
            self._figures.append(self._take(job, worker, number, suffix))

    def _run_alone(self, job: Job) -> None:
        worker = self._worker_of(job)
        if worker is not None:
            where = " → ".join(map(str, job.gpus)) if job.measure == "peer" else ""
            self._progress(f"{job.measure} {where}".strip())
            number = worker.order(job.order, **job.arguments)
            self._figures.append(self._take(job, worker, number))

    def _take(self, job: Job, worker: Worker, number: int, suffix: str = "") -> Figure:
        numbers = tuple(self._number(gpu) for gpu in job.gpus)
        figure = Figure(measure=job.measure + suffix, gpus=numbers, size=job.size)
        try:
            answer = worker.await_(number, _ANSWER_SECONDS)
        except WorkerError as error:
            return replace(figure, value=Unknown(str(error)))
        if answer.value is None:
            return replace(figure, value=Unknown(answer.error or "no answer"))
        return replace(
            figure,
            value=answer.value,
            low=answer.low,
            high=answer.high,
            burst=answer.burst,
            wrong=answer.wrong,
            **self._meanwhile(job.gpus[0], answer),
        )

    def _repeat_what_is_low(self) -> None:
        """Measure again, alone, what is low among its equals: that rules out chance."""
        again = {at: one for at, one in enumerate(self._figures) if self._is_low(one)}
        cuda = {self._number(gpu): gpu for gpu in self._devices}
        for at, figure in again.items():
            ends = [cuda[gpu] for gpu in figure.gpus]
            if figure.measure == "peer":
                job = self._peer(*ends)
            elif figure.measure in ("h2d", "d2h"):
                job = self._host_copy(ends[0], figure.measure)
            elif figure.measure == "memory":
                batch = next(jobs for jobs in self._together() if jobs[0].measure == "memory")
                job = next(one for one in batch if one.gpus == tuple(ends))
            else:
                job = self._product(ends[0], figure.measure)
            worker = self._worker_of(job)
            if worker is None or worker.error is not None:
                continue
            self._progress(f"{figure.measure} once more")
            number = worker.order(job.order, **job.arguments)
            second = self._take(job, worker, number)
            if not isinstance(second.value, Unknown):
                self._figures[at] = replace(figure, repeated=second.value)

    def _is_low(self, figure: Figure) -> bool:
        share = _LOW.get(figure.measure)
        rates = [
            one.value
            for one in self._figures
            if one.measure == figure.measure and not isinstance(one.value, Unknown)
        ]
        if share is None or isinstance(figure.value, Unknown) or len(rates) < 2:
            return False
        usual = median(rates) if len(rates) > 2 else max(rates)
        return figure.value < share * usual

    # ---------------------------------------------------------------------------- facts

    def _number(self, gpu: int) -> int:
        return self._number_of(self._devices[gpu])

    def _number_of(self, device: BenchDevice) -> int:
        number = self._watch.number(device.uuid, device.bus_id)
        return device.index if number is None else number

    def _gpu(self, device: BenchDevice) -> BenchGpu:
        number = self._number(device.index)
        seen = next((one for one in self._watch.newest() if one.index == number), None)
        return BenchGpu(
            index=number,
            name=device.name,
            uuid=device.uuid,
            bus_id=device.bus_id,
            compute_capability=device.compute_capability,
            multiprocessors=device.multiprocessors,
            memory_bus_bits=None if seen is None else seen.memory_bus_bits,
            cpus=device.cpus,
        )

    def _meanwhile(self, gpu: int, answer: Measured) -> dict[str, Reading[float]]:
        """Return what NVML saw of a GPU while a measure was made."""
        device = self._devices[gpu]
        seen = self._watch.between(device.uuid, device.bus_id, answer.began, answer.at)
        reasons = [one.clocks_event_reasons for one in seen if one.clocks_event_reasons is not None]
        lasting = [bit for bit in range(64) if sum(r >> bit & 1 for r in reasons) > 1]
        clocks = _numbers(seen, "clock_sm_mhz")
        power = _numbers(seen, "power_watts")
        heat = _numbers(seen, "temperature_celsius")
        generations, widths = _numbers(seen, "pcie_generation"), _numbers(seen, "pcie_width")
        return {
            "clock_sm_mhz": median(clocks) if clocks else NOT_SUPPORTED,
            "clock_sm_maximum_mhz": max(clocks) if clocks else NOT_SUPPORTED,
            "power_watts": round(median(power), 1) if power else NOT_SUPPORTED,
            "temperature_celsius": max(heat) if heat else NOT_SUPPORTED,
            "clocks_event_reasons": sum(1 << bit for bit in lasting) if reasons else NOT_SUPPORTED,
            "pcie_generation": int(max(generations)) if generations else NOT_SUPPORTED,
            "pcie_width": int(max(widths)) if widths else NOT_SUPPORTED,
        }

    def _nvls(self) -> "bool | Unknown":
        if self._variables.get("NCCL_NVLS_ENABLE") == "0":
            return False
        if self._all is None or not any(one.measure == "all-reduce" for one in self._figures):
            return Unknown("no all-reduce was measured")
        self._all.end()
        until = time.monotonic() + 1.0
        while not self._all.stderr and time.monotonic() < until:
            time.sleep(0.01)  # for the thread that reads it
        said = re.findall(rb"NVLS multicast support is (not )?available", self._all.stderr)
        if not said:
            return Unknown("NCCL did not say whether it uses NVLS")
        return not any(said)


def _numbers(seen: Sequence[GpuReading], name: str) -> list[float]:
    return [number for one in seen if (number := getattr(one, name)) is not None]
