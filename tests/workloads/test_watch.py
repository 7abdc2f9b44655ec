import itertools
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes.nvml import FakeNvml, a100_pcie, h200, old_driver

from gpucheck.probes.child import payload_command
from gpucheck.probes.messages import GpuReading, GpuReadings, NvmlFailed, decode
from gpucheck.snapshot import NOT_SUPPORTED, Unknown, WatchedGpu
from gpucheck.workloads.shared_memory import remove_unused, shared_memory
from gpucheck.workloads.watch import Watch

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


def readings(fake: FakeNvml, count: int, *pauses: str) -> list[Any]:
    """The first messages that the watching child writes."""
    with subprocess.Popen(
        payload_command(sys.executable, "watch_gpus", *pauses, isolated=True, pynvml=True),
        stdout=subprocess.PIPE,
        env={**os.environ, **fake.environment()},
    ) as child:
        assert child.stdout is not None
        lines = [decode(line) for line in itertools.islice(child.stdout, count)]
        child.kill()
    return lines


@needs_gcc
def test_every_gpu_is_read_again_and_again(tmp_path: Path):
    fake = FakeNvml(tmp_path, gpus=[h200(temperature=41), h200(temperature=52)])

    first, second = readings(fake, 2, "0.1", "3600")

    assert second.at > first.at
    assert [gpu.temperature_celsius for gpu in first.gpus] == [41, 52]
    for gpu in first.gpus:
        assert gpu.uuid.startswith("GPU-")
        assert all(value is not None for value in msgspec.structs.astuple(gpu))
    for gpu in second.gpus:
        assert gpu.temperature_celsius is not None
        assert gpu.nvlink_errors is None, "counters are read seldom"


@needs_gcc
def test_memory_is_counted_as_the_doctor_counts_it_and_a_bus_is_named_as_linux_names_it(
    tmp_path: Path,
):
    gpu = h200(memory="150754820096 644939776 149036138496 1073741824", pci="0001:0A:00.0 0 0")

    [line] = readings(FakeNvml(tmp_path, gpus=[gpu]), 1)

    assert line.gpus[0].memory_used_bytes == 1 << 30  # without what the driver reserves
    assert line.gpus[0].bus_id == "0001:0a:00.0"


@needs_gcc
def test_an_old_driver_is_watched_by_the_older_names(tmp_path: Path):
    gpu = a100_pcie(event_reasons=5)

    [line] = readings(FakeNvml(tmp_path, gpus=[gpu], **old_driver()), 1)

    assert line.gpus[0].clocks_event_reasons == 5
    assert line.gpus[0].memory_used_bytes == 647299072


@needs_gcc
def test_one_query_that_fails_costs_that_one_reading(tmp_path: Path):
    fake = FakeNvml(tmp_path, gpus=[h200().fails("nvmlDeviceGetTemperature", 999)])

    [line] = readings(fake, 1)

    assert line.gpus[0].temperature_celsius is None
    assert line.gpus[0].power_watts is not None


@needs_gcc
def test_without_nvml_the_reason_is_reported(tmp_path: Path):
    [line] = readings(FakeNvml(tmp_path, gpus=[h200()], init_error=9), 1)

    assert isinstance(line, NvmlFailed)
    assert line.text


# ----------------------------------------------------------------------------------- the sum of it


def watch(**changes: list[Any]) -> WatchedGpu:
    """Ten readings, a second apart; CUDA starts at 3, the training goes from 4 to 8."""
    still: dict[str, Any] = {
        "memory_used_bytes": [second << 30 for second in range(10)],
        "utilization_percent": [0, 0, 0, 0, 5, 60, 70, 10, 0, 0],
        "temperature_celsius": [40] * 10,
        "power_watts": [80.0] * 10,
        "clocks_event_reasons": [0] * 10,
        "corrected_ecc": [7] * 10,
        "uncorrected_ecc": [None] * 10,
        **changes,
    }
    seen = Watch()
    for second in range(10):
        now = {name: values[second] for name, values in still.items()}
        gpu = GpuReading(index=3, uuid="GPU-1", bus_id="b", **now)
        seen.add(GpuReadings(at=float(second), gpus=(gpu,)))
    facts = seen.of("GPU-1", None, cuda_start=3.0, since=4.0, until=8.0)
    assert isinstance(facts, WatchedGpu)
    return facts


def test_the_readings_during_the_training_are_summed_up():
    facts = watch()

    assert (facts.index, facts.samples) == (3, 5)
    assert facts.memory_used_before_bytes == 0
    assert facts.memory_used_maximum_bytes == 8 << 30
    assert facts.utilization_maximum_percent == 70
    assert facts.corrected_ecc_added == 0
    assert facts.uncorrected_ecc_added == NOT_SUPPORTED


def test_errors_that_were_counted_meanwhile_are_added():
    assert watch(corrected_ecc=[7] * 5 + [9] * 5).corrected_ecc_added == 2


def test_a_slowdown_that_flashes_up_once_is_no_fact():
    assert watch(clocks_event_reasons=[0] * 5 + [8] + [0] * 4).clocks_event_reasons == 0
    assert watch(clocks_event_reasons=[0] * 5 + [8, 0, 8, 0, 0]).clocks_event_reasons == 8


def test_a_gpu_that_nvml_does_not_show_is_unknown():
    seen = Watch()
    seen.close("crashed with SIGSEGV")

    facts = seen.of("GPU-1", None, cuda_start=0.0, since=0.0, until=1.0)

    assert facts == Unknown("crashed with SIGSEGV")


# --------------------------------------------------------------------------------- shared memory


def test_shared_memory_that_nobody_maps_is_removed_and_what_is_mapped_stays(tmp_path: Path):
    left, used, other = (tmp_path / name for name in ("nccl-left", "nccl-used", "sem.other"))
    for file in (left, used, other):
        file.write_bytes(bytes(4096))
    with used.open("r+b") as opened, mmap.mmap(opened.fileno(), 0):
        remove_unused(shared_memory(tmp_path))

    assert not left.exists()
    assert used.exists()
    assert other.exists()
