"""What the processes of a training report becomes facts that name GPUs as nvidia-smi does."""

import socket
from typing import Any

from gpucheck.probes import messages
from gpucheck.snapshot import Training, TrainingFailure
from gpucheck.workloads.gather import Gathered
from gpucheck.workloads.launch import Place
from gpucheck.workloads.plan import Plan


def device(index: int, uuid: str) -> messages.TrainingDevice:
    return messages.TrainingDevice(
        index=index, name="H200", uuid=uuid, bus_id=None, free_bytes=1 << 36, total_bytes=1 << 37
    )


def reading(index: int) -> messages.GpuReading:
    return messages.GpuReading(index=index, uuid=f"GPU-{index}", bus_id=None)


def devices(*gpus: messages.TrainingDevice) -> messages.TrainingDevices:
    return messages.TrainingDevices(
        at=1.0, visible=len(gpus), wanted=len(gpus), unavailable=None, missing=(), gpus=gpus
    )


def work(position: int, gpu: int, **more: Any) -> messages.ReplicaWork:
    return messages.ReplicaWork(
        position=position, gpu=gpu, images=30_000, share=0.5, output_difference=0.0, **more
    )


def gathered(plan: Plan, place: Place, *reported: messages.Message) -> Gathered:
    facts = Gathered(plan, place)
    facts.watch.add(messages.GpuReadings(at=0.5, gpus=tuple(map(reading, range(4)))))
    for message in reported:
        facts.take(place.rank, message)
    return facts


def known(training: Training) -> tuple[list[int], list[object]]:
    assert isinstance(training.gpus, tuple)
    assert isinstance(training.replicas, tuple)
    return [gpu.index for gpu in training.gpus], [one.gpu for one in training.replicas]


def test_gpus_that_cuda_visible_devices_renumbers_have_nvidia_smis_numbers():
    """CUDA_VISIBLE_DEVICES=2,3: CUDA calls them 0 and 1."""
    facts = gathered(
        Plan(),
        Place(),
        devices(device(0, "GPU-2"), device(1, "GPU-3")),
        messages.Copied(at=2.0, source=0, target=1, error="differs"),
        messages.CopiesDone(at=2.0),
        messages.ReplicasDone(at=3.0, replicas=(work(0, 0), work(1, 1))),
        messages.TrainedAlone(at=4.0, gpu=1, rank=None, losses=(2.0,), error=None),
    )
    facts.failure = TrainingFailure(kind="hang", gpus=(1,))

    training = facts.training()

    assert known(training) == ([2, 3], [2, 3])
    assert isinstance(training.copies, tuple)
    assert [(c.source, c.target, c.gpus) for c in training.copies] == [(2, 3, (2, 3))]
    assert isinstance(training.solo, tuple)
    assert training.solo[0].where == "gpu 3"
    assert isinstance(training.failure, TrainingFailure)
    assert training.failure.gpus == (3,)


def test_under_torchrun_rank_0_names_every_ranks_real_gpu():
    here = socket.gethostname()
    facts = gathered(
        Plan(strategy="ddp"),
        Place(joined=True, world=3),
        devices(device(0, "GPU-0")),
        messages.Copied(at=2.0, source=0, target=1, error="differs"),
        messages.Copied(at=2.0, source=0, target=2, error=None),
        messages.CopiesDone(at=2.0),
        messages.ReplicasDone(
            at=3.0,
            replicas=(
                work(0, 0, host=here, device=device(0, "GPU-0")),
                # srun showed this task one GPU alone, as number 0
                work(1, 0, host=here, device=device(0, "GPU-1")),
                work(2, 1, host="another", device=device(1, "GPU-else")),
            ),
        ),
    )

    training = facts.training()

    assert known(training) == ([0, 1], [0, 1, 1])
    assert isinstance(training.copies, tuple)
    assert [copy.gpus for copy in training.copies] == [(0, 1), (0,)]


def test_where_nvml_shows_nothing_cudas_numbers_stay():
    facts = Gathered(Plan(), Place())
    facts.take(0, devices(device(0, "GPU-9")))
    facts.take(0, messages.ReplicasDone(at=3.0, replicas=(work(0, 0),)))

    assert known(facts.training()) == ([0], [0])
