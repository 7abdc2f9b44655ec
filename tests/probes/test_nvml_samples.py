"""Counters are read twice where there is time, and memory is looked at twice."""

import os
import threading
import time

import msgspec
import pytest
from fakes.nvml import (
    Error,
    FakeNvml,
    geforce_laptop,
    h200,
)

from gpucheck.payload import nvml as nvml_program
from gpucheck.probes import nvml
from gpucheck.probes.sampling import Sampling
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    GpuSample,
    Unknown,
)
from nvml_looks import crc_errors, later_sample, look
from seen_facts import seen, why

# ------------------------------------------------------------------------------------- two readings


def test_the_second_reading_counts_on(tmp_path):
    gpu = h200(
        pcie_replays=[3, 503],
        corrected_volatile=[0, 40],
        crc_data=[15, 90015],
        hardware_thermal_ns=[0, 1000],
        event_reasons=[1, 0x48],
        pcie_generation=[1, 5],
    )

    found = look(tmp_path, [gpu], watch_seconds=0.1)

    [read] = seen(found.gpus)
    second = seen(read.later_sample)
    assert second.after_seconds >= 0.1
    assert second.under_load is False
    assert (read.pcie_replays, second.pcie_replays) == (3, 503)
    assert (read.corrected_ecc_volatile, second.corrected_ecc_volatile) == (0, 40)
    assert (read.clocks_event_reasons, second.clocks_event_reasons) == (1, 0x48)
    assert (read.pcie_generation, second.pcie_generation) == (1, 5)
    slowed = (read.hardware_thermal_slowdown_ns, second.hardware_thermal_slowdown_ns)
    assert slowed == (0, 1000)
    assert seen(second.nvlink_crc_errors) - crc_errors(read) == 90000
    assert second.nvlink_replay_errors == second.nvlink_recovery_errors == 0
    assert second.utilization_percent == 0
    assert not any(isinstance(value, Unknown) for value in msgspec.structs.astuple(second))


def test_the_load_is_on_when_the_caller_says_so(tmp_path):
    asked = []

    def before_later_sample() -> bool:
        asked.append(time.monotonic())
        return True

    found = look(
        tmp_path, [h200()], deep=True, watch_seconds=0.01, before_later_sample=before_later_sample
    )

    assert len(asked) == 1
    assert later_sample(found).under_load is True


def test_a_gpu_that_is_lost_between_the_readings_keeps_its_first(tmp_path):
    built = FakeNvml(tmp_path, [h200(), h200()])
    broken = tmp_path / "broken"
    broken.mkdir()
    later = FakeNvml(broken, [h200(), h200().lost(after=2)])
    environment = os.environ | built.environment()
    first = nvml.probe(deadline_seconds=20, environment=environment)

    found = nvml.later_sample(
        first,
        since=time.monotonic(),
        under_load=True,
        deadline_seconds=20,
        environment=environment | later.environment(),
    )

    assert seen(found.gpus)[0].state == "ok"
    assert seen(found.gpus)[1].state == "lost"
    assert seen(seen(found.gpus)[1].error).endswith("in the second reading")
    assert seen(found.gpus)[1].temperature_celsius == 37
    assert isinstance(seen(found.gpus)[1].later_sample, GpuSample)


def test_links_that_a_gpu_has_not_are_not_supported_in_the_second_reading_too(tmp_path):
    found = look(tmp_path, [geforce_laptop()], watch_seconds=0.01)

    assert later_sample(found).nvlink_crc_errors == NOT_SUPPORTED


# --------------------------------------------------------------- read again while cuInit is awaited


NOT_SAMPLED = Unknown("read with --deep or --watch", "by design")
GROWING = {"pcie_replays": [3, 503], "crc_data": [15, 90015], "corrected_volatile": [0, 7]}


def test_the_counters_are_read_again_while_somebody_waits(tmp_path):
    found = look(tmp_path, [h200(**GROWING), h200()], sampling=Sampling())

    growing, still = seen(found.gpus)
    later = seen(growing.later_sample)
    assert (growing.pcie_replays, later.pcie_replays) == (3, 503)
    assert later.corrected_ecc_volatile == 7
    assert seen(later.nvlink_crc_errors) - crc_errors(growing) == 90000
    assert later.after_seconds >= nvml_program.SLOW_SAMPLE_AFTER_SECONDS
    assert growing.inforom_is_valid is True
    assert seen(still.later_sample).pcie_replays == 0


def test_nobody_waits_for_the_counters(tmp_path):
    over = Sampling()
    over.end()

    started = time.monotonic()
    found = look(tmp_path, [h200(**GROWING)], sampling=over)

    assert time.monotonic() - started < nvml_program.SLOW_ROUND_AFTER_SECONDS
    assert seen(found.gpus)[0].later_sample is None
    assert seen(found.gpus)[0].state == "ok"


def test_a_wait_that_ends_takes_what_came_so_far(tmp_path):
    slow = [h200().sleeps("nvmlDeviceValidateInforom", 60_000), h200()]
    sampling = Sampling()
    ended = []

    def end() -> None:
        ended.append(time.monotonic())
        sampling.end()

    threading.Timer(2.0, end).start()
    found = look(tmp_path, slow, sampling=sampling)
    took = time.monotonic() - ended[0]

    assert took < 0.5
    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "ok"]
    assert seen(seen(found.gpus)[0].nvlinks)[0].crc_data_errors == 15
    assert later_sample(found).pcie_replays == 0


def test_a_wait_that_ends_among_the_nvlinks_leaves_the_other_counters(tmp_path):
    slow = h200(**GROWING).sleeps("nvmlDeviceGetNvLinkErrorCounter", 60_000, after=18 * 4)
    sampling = Sampling()

    threading.Timer(3.0, sampling.end).start()
    found = look(tmp_path, [slow], sampling=sampling)

    sample = later_sample(found)
    assert sample.pcie_replays == 503
    assert sample.nvlink_crc_errors == NOT_SAMPLED


def test_a_crash_after_all_was_said_costs_only_the_sample(tmp_path):
    found = look(tmp_path, [h200().crashes("nvmlDeviceValidateInforom")], sampling=Sampling())

    assert seen(found.gpus)[0].state == "ok"
    assert later_sample(found).nvlink_crc_errors == NOT_SAMPLED
    assert found.pairs == ()


def test_a_corrupt_inforom_is_found_without_deep_on_a_small_machine(tmp_path):
    found = look(tmp_path, [h200(inforom_check=Error(14)), h200()], sampling=Sampling())

    assert [gpu.inforom_is_valid for gpu in seen(found.gpus)] == [False, True]


def test_the_inforoms_of_many_gpus_are_left_to_deep(tmp_path):
    found = look(tmp_path, [h200(inforom_check=Error(14))] * 5, sampling=Sampling())

    assert {why(gpu.inforom_is_valid) for gpu in seen(found.gpus)} == {"read with --deep"}
    assert all(gpu.later_sample is not None for gpu in seen(found.gpus))


def test_a_gpu_that_is_lost_while_somebody_waits_is_lost(tmp_path):
    found = look(
        tmp_path, [h200().fails("nvmlDeviceValidateInforom", 15), h200()], sampling=Sampling()
    )

    assert [gpu.state for gpu in seen(found.gpus)] == ["lost", "ok"]


# ----------------------------------------------------------------------------- who holds the memory


HELD = "150754820096 644939776 148962396160 1147483648"
FREE = "150754820096 644939776 150109880320 0"


def test_memory_that_nobody_owns_is_looked_at_again_a_second_later(tmp_path):
    found = look(tmp_path, [h200(memory=HELD), h200()], sees_all_processes=lambda: True)

    sample = later_sample(found)
    assert sample.after_seconds >= 1.0
    assert seen(sample.memory).used_bytes == 1147483648
    assert sample.processes == ()


def test_memory_that_a_process_left_in_the_meantime_is_seen_to_be_free(tmp_path):
    found = look(tmp_path, [h200(memory=[HELD, FREE])], sees_all_processes=lambda: True)

    assert seen(later_sample(found).memory).used_bytes == 0


@pytest.mark.parametrize(
    ("gpu", "sees_all"),
    [
        (h200(memory=HELD), False),
        (h200(), True),
        (h200(memory=HELD, processes={1: 1 << 30}), True),
        (h200(memory=HELD, mig_mode="1 1"), True),
        (geforce_laptop(), True),
    ],
    ids=["a container", "free", "owned", "MIG", "a display"],
)
def test_other_memory_costs_no_second(tmp_path, gpu, sees_all):
    found = look(tmp_path, [gpu], sees_all_processes=lambda: sees_all)

    assert seen(found.gpus)[0].later_sample is None
