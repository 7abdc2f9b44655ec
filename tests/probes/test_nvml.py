import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from fakes import stuck
from fakes.nvml import (
    Error,
    FakeGpu,
    FakeNvml,
    Fault,
    System,
    a100_pcie,
    geforce_laptop,
    h200,
    mig,
    old_driver,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucheck.payload import nvml as nvml_program
from gpucheck.payload import nvml_queries
from gpucheck.payload.nvml_queries import bus_id
from gpucheck.probes import nvml
from gpucheck.probes.gpu_processes import process_name
from gpucheck.probes.messages import NvmlAnswer
from gpucheck.probes.nvml_links import pcie_level
from gpucheck.probes.nvml_readings import ranges
from gpucheck.probes.nvml_session import NvmlSession, _decoded
from gpucheck.probes.sampling import Sampling
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    ConfidentialComputing,
    Fabric,
    Gpu,
    GpuProcess,
    GpuSample,
    Memory,
    NotSupported,
    Nvml,
    NvmlError,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    ThermalThresholds,
    Unknown,
    VgpuLicense,
)

RECORDED = Path(__file__).parents[1] / "recorded" / "h200_nvml.json"


def look(directory, gpus, *, fake=None, deadline_seconds=20.0, **options) -> Nvml:
    built = FakeNvml(directory, gpus, **(fake or {}))
    return nvml.probe(
        deadline_seconds=deadline_seconds,
        environment=os.environ | built.environment(),
        **options,
    )


def unknown_facts(gpu: Gpu) -> dict[str, str]:
    values = msgspec.structs.asdict(gpu)
    return {name: value.why for name, value in values.items() if isinstance(value, Unknown)}


# ------------------------------------------------------------------------------- the recording


ASK_ALL = """
import json, sys, pynvml
pynvml.nvmlInit()
handle = pynvml.nvmlDeviceGetHandleByIndex(0)
def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "_fields_"):
        return {name: plain(getattr(value, name)) for name, *_ in value._fields_}
    if isinstance(value, (int, str, type(None))):
        return value
    return getattr(value, "value", "an object")
answers = {}
for name in json.load(sys.stdin):
    try:
        answers[name] = plain(getattr(pynvml, name)(handle))
    except (AttributeError, TypeError):
        continue  # this module is older than the recording's
    except pynvml.NVMLError as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def test_the_fake_h200_answers_all_that_the_real_one_was_asked_and_the_same(tmp_path):
    recorded = json.loads(RECORDED.read_text())["calls"]
    fake = FakeNvml(tmp_path, [h200(serial="0000000000000")])

    answered = subprocess.run(
        [sys.executable, "-c", ASK_ALL],
        input=json.dumps(list(recorded)),
        env=os.environ | fake.environment(),
        capture_output=True,
        text=True,
        check=True,
    )

    answers = json.loads(answered.stdout)
    assert len(answers) > 100
    for name, was in recorded.items():
        if name not in answers:
            continue
        if isinstance(was, dict):
            plain = {key: value for key, value in was.items() if "object at" not in str(value)}
            assert {key: answers[name][key] for key in plain} == plain, name
        else:
            assert answers[name] == was, name


def test_a_recorded_h200_is_read_whole(tmp_path):
    found = look(tmp_path, [h200(), h200()], deep=True, watch_seconds=0.01)

    assert found.error is None
    assert found.driver_version == "580.159.04"
    assert found.cuda_version == "13.0"
    assert found.count == 2
    gpu = found.gpus[0]
    assert unknown_facts(gpu) == {}
    assert gpu.state == "ok"
    assert gpu.error is None
    assert msgspec.structs.asdict(gpu) | {"nvlinks": (), "later_sample": None} == {
        "index": 0,
        "state": "ok",
        "error": None,
        "name": "NVIDIA H200",
        "uuid": "GPU-00000000-0000-0000-0000-000000000000",
        "serial": "1650923000000",
        "bus_id": "0000:00:06.0",
        "minor_number": 0,
        "compute_capability": "9.0",
        "vbios_version": "96.00.A5.00.1A",
        "inforom_version": "G520.0282.02.02",
        "inforom_is_valid": True,
        "gsp_firmware_version": "580.159.04",
        "memory": Memory(
            total_bytes=150754820096,
            used_bytes=0,
            free_bytes=150109880320,
            reserved_bytes=644939776,
        ),
        "bar1_total_bytes": 274877906944,
        "processes": (),
        "temperature_celsius": 37,
        "memory_temperature_celsius": 41,
        "fan_percent": NOT_SUPPORTED,
        "temperature_margin_celsius": 50,
        "slowdown_margin_celsius": -2,
        "thresholds": ThermalThresholds(
            shutdown_celsius=95, slowdown_celsius=89, memory_max_celsius=95, gpu_max_celsius=87
        ),
        "power_watts": 82.22,
        "power_limit_enforced_watts": 700.0,
        "power_limit_default_watts": 700.0,
        "clock_sm_mhz": 780,
        "clock_memory_mhz": 3201,
        "clock_sm_max_mhz": 1980,
        "clock_memory_max_mhz": 3201,
        "application_clock_sm_mhz": 1980,
        "application_clock_sm_default_mhz": 1980,
        "performance_state": 0,
        "utilization_percent": 0,
        "clocks_event_reasons": 1,
        "hardware_thermal_slowdown_ns": 0,
        "power_brake_slowdown_ns": 0,
        "software_thermal_slowdown_ns": 0,
        "ecc_is_on": True,
        "ecc_is_on_after_reboot": True,
        "ecc_default": True,
        "corrected_ecc_volatile": 0,
        "uncorrected_ecc_volatile": 0,
        "corrected_ecc_aggregate": 0,
        "uncorrected_ecc_aggregate": 0,
        "sram_threshold_exceeded": False,
        "sram_uncorrected_aggregate": 0,
        "remapped_rows": RemappedRows(
            correctable=0, uncorrectable=0, is_pending=False, has_failed=False
        ),
        "remap_histogram": RemapHistogram(maximum=3072, high=0, partial=0, low=0, none=0),
        "retired_pages": NOT_SUPPORTED,
        "recovery_action": 0,
        "has_unrepairable_memory": False,
        "repair_is_pending": False,
        "pcie_generation": 5,
        "pcie_generation_max": 5,
        "pcie_width": 16,
        "pcie_width_max": 16,
        "pcie_replays": 0,
        "nvlinks": (),
        "fabric": Fabric(state=3, status=0, health=0, health_summary=0),
        "c2c_is_on": False,
        "persistence": True,
        "display_active": False,
        "virtualization": "passthrough",
        "vgpu_license": NOT_SUPPORTED,
        "compute_mode": 0,
        "mig_is_on": False,
        "mig_is_on_after_reset": False,
        "mig_devices": (),
        "numa_node": NOT_SUPPORTED,
        "cpu_affinity": "0-31",
        "numa_affinity": "0",
        "later_sample": None,
    }


def test_the_nvlinks_of_a_recorded_h200_keep_their_crc_counts(tmp_path):
    recorded = json.loads(RECORDED.read_text())["more"]

    found = look(tmp_path, [h200(), h200()], deep=True, watch_seconds=0.01)

    links = found.gpus[0].nvlinks
    assert len(links) == 18
    for link in links:
        assert link.is_up is True
        assert link.version == recorded[f"nvlink_ver_{link.index}"] == 6
        assert link.remote_kind == "switch"
        assert link.replay_errors == recorded[f"nvlink_err_{link.index}_0"]
        assert link.recovery_errors == recorded[f"nvlink_err_{link.index}_1"]
        assert link.crc_flit_errors == recorded[f"nvlink_err_{link.index}_2"]
        assert link.crc_data_errors == recorded[f"nvlink_err_{link.index}_3"]


def test_the_pair_of_recorded_h200s_is_joined_by_18_links(tmp_path):
    found = look(tmp_path, [h200(), h200()])

    [pair] = found.pairs
    assert (pair.a, pair.b, pair.topology) == (0, 1, "NV18")
    assert (pair.p2p_read, pair.p2p_write, pair.p2p_nvlink) == ("OK", "OK", "OK")


def test_the_path_of_the_library_is_the_one_that_was_mapped(tmp_path):
    found = look(tmp_path, [h200()])

    linked = tmp_path / "nvml-library" / "libnvidia-ml.so.1"
    assert found.library == str(linked.resolve())


def test_a_first_reading_leaves_out_what_takes_long(tmp_path):
    found = look(tmp_path, [h200(), h200()], quick=True)

    gpu = found.gpus[0]
    assert gpu.inforom_is_valid.why == "read with --deep"
    assert gpu.nvlinks[0].crc_data_errors.why == "read with --deep or --watch"
    assert gpu.later_sample is None
    assert found.pairs[0].p2p_read == found.pairs[0].p2p_write == "OK"
    assert found.pairs[0].p2p_nvlink == Unknown("left out by --quick", "by design")


# ------------------------------------------------------------------------------- other machines


def test_what_a_laptop_has_not_is_not_supported_rather_than_unknown(tmp_path):
    found = look(tmp_path, [geforce_laptop()])

    [gpu] = found.gpus
    assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}
    for name in ("ecc_is_on", "nvlinks", "fabric", "mig_is_on", "remapped_rows", "retired_pages"):
        assert isinstance(getattr(gpu, name), NotSupported), name
    assert gpu.bus_id == "0000:01:00.0"
    assert gpu.thresholds.memory_max_celsius == NOT_SUPPORTED
    assert gpu.display_active is True
    assert gpu.performance_state == 8


def test_an_a100_with_no_bridge_has_links_that_are_down(tmp_path):
    found = look(tmp_path, [a100_pcie(), a100_pcie()], deep=True, watch_seconds=0.01)

    gpu = found.gpus[0]
    assert [link.is_up for link in gpu.nvlinks] == [False] * 12
    assert gpu.nvlinks[0].remote_kind == Unknown("the link is down")
    assert gpu.nvlinks[0].crc_data_errors == Unknown("the link is down")
    assert gpu.fabric == Fabric(state=0, health=0, health_summary=0)
    assert found.pairs[0].topology == "PXB"
    assert found.pairs[0].p2p_nvlink == "NS"


def test_the_mig_devices_of_a_cut_gpu_are_named(tmp_path):
    found = look(tmp_path, [mig(), mig(mig_devices=(Error(6), Error(6)))])

    cut, empty = found.gpus
    assert cut.mig_is_on is True
    assert cut.mig_devices == (
        "MIG-aaaaaaaa-0000-0000-0000-000000000000",
        "MIG-bbbbbbbb-0000-0000-0000-000000000000",
    )
    assert empty.mig_devices == ()


def test_pages_retired_on_an_older_gpu_are_counted(tmp_path):
    found = look(
        tmp_path, [a100_pcie(retired_single_bit=61, retired_double_bit=2, retired_pending=1)]
    )

    assert found.gpus[0].retired_pages == RetiredPages(single_bit=61, double_bit=2, is_pending=True)


def test_links_straight_to_a_neighbour_are_counted_and_named(tmp_path):
    def bridged(other: str) -> FakeGpu:
        answers = {}
        for link in range(12):
            answers[f"nvmlDeviceGetNvLinkState.{link}"] = 1 if link < 4 else 0
            answers[f"nvmlDeviceGetNvLinkVersion.{link}"] = 3
            answers[f"nvmlDeviceGetNvLinkRemoteDeviceType.{link}"] = 0
            answers[f"nvmlDeviceGetNvLinkRemotePciInfo.{link}"] = other
        return a100_pcie(answers=answers)

    found = look(tmp_path, [bridged("0000:00:07.0"), bridged("0000:00:06.0"), a100_pcie()])

    link = found.gpus[0].nvlinks[0]
    assert (link.is_up, link.remote_kind, link.remote_bus_id) == (True, "gpu", "0000:00:07.0")
    assert found.pairs[0].topology == "NV4"


# --------------------------------------------------------------------------------- old drivers


def test_an_old_driver_is_asked_by_the_older_names(tmp_path):
    holds = {os.getpid(): 1 << 20}

    found = look(
        tmp_path,
        [a100_pcie(processes=holds, graphics_processes={1: 7}, event_reasons=5)],
        fake=old_driver(),
    )

    [gpu] = found.gpus
    assert found.cuda_version == "11.0"
    assert gpu.clocks_event_reasons == 5
    assert gpu.memory == Memory(
        total_bytes=85899345920,
        used_bytes=647299072,
        free_bytes=85252046848,
        reserved_bytes=NOT_SUPPORTED,
    )
    assert {one.pid: one.used_bytes for one in gpu.processes} == holds | {1: 7}


def test_what_an_old_driver_does_not_know_is_unknown_with_the_name_of_what_it_lacks(tmp_path):
    found = look(tmp_path, [a100_pcie()], fake=old_driver())

    unknown = unknown_facts(found.gpus[0])
    assert unknown["temperature_margin_celsius"] == (
        "driver too old: nvmlDeviceGetMarginTemperature missing"
    )
    assert unknown["recovery_action"] == "driver too old: field 230 missing"
    assert unknown["fabric"] == "driver too old: nvmlDeviceGetGpuFabricInfoV missing"
    assert found.gpus[0].state == "ok"


@pytest.mark.parametrize(
    ("newest", "fabric"),
    [
        (3, Fabric(state=3, status=0, health=5, health_summary=2)),
        (2, Fabric(state=3, status=0, health=5)),
        (1, Fabric(state=3, status=0)),
    ],
)
def test_the_fabric_is_read_by_the_newest_struct_that_the_driver_knows(tmp_path, newest, fabric):
    found = look(tmp_path, [h200(fabric="3 0 5 2")], fake={"system": System(fabric_version=newest)})

    assert found.gpus[0].fabric == fabric


# --------------------------------------------------------------------------------------- errors


def test_one_error_costs_one_fact(tmp_path):
    found = look(tmp_path, [h200(name=Error(999), serial=Error(4), temperature=Error(27))])

    [gpu] = found.gpus
    assert gpu.state == "ok"
    assert unknown_facts(gpu) == {
        "name": "nvmlDeviceGetName: Unknown Error",
        "serial": "nvmlDeviceGetSerial: Insufficient Permissions",
        "temperature_celsius": "nvmlDeviceGetTemperature: System is not in ready state",
        "inforom_is_valid": "read with --deep",
    }


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (9, "Driver Not Loaded"),
        (18, "RM has detected an NVML/RM version mismatch."),
        (4, "Insufficient Permissions"),
        (999, "Unknown Error"),
    ],
)
def test_a_library_that_does_not_initialise_says_why(tmp_path, code, message):
    found = look(tmp_path, [h200()], fake={"init_error": code})

    assert found.error == NvmlError(call="nvmlInitWithFlags", code=code, message=message)
    assert isinstance(found.library, str)
    assert found.gpus == Unknown(f"nvmlInitWithFlags: {message}")


def test_no_library_is_a_fact_with_the_loader_s_own_words(tmp_path):
    found = look(tmp_path, fake={"installed": False}, gpus=[])

    assert found.library is None
    assert found.error.call == "open"
    assert found.error.code is None
    assert "libnvidia-ml.so.1" in found.error.message


@pytest.mark.parametrize(
    ("function", "kind", "said"),
    [
        ("nvmlInit", "hang", "nvmlInitWithFlags did not answer in 0.5"),
        ("nvmlInit", "crash", "NVML crashed with SIGSEGV in nvmlInitWithFlags"),
        ("nvmlDeviceGetCount", "exit", "NVML ended the process with status 0 in"),
    ],
)
def test_a_library_that_falls_silent_before_it_counts_gpus_is_an_error(
    tmp_path, function, kind, said
):
    system = System(faults=(Fault(function, kind, "0"),))

    found = look(tmp_path, [h200()], fake={"system": system}, deadline_seconds=1)

    assert found.error.message.startswith(said)
    assert found.error.code is None


def test_a_machine_without_gpus_is_no_error(tmp_path):
    found = look(tmp_path, [])

    assert found.error is None
    assert (found.count, found.gpus, found.pairs) == (0, (), ())


def test_a_corrupt_inforom_is_told_from_one_that_could_not_be_checked(tmp_path):
    gpus = [h200(inforom_check=Error(14)), h200(inforom_check=Error(999)), h200()]

    found = look(tmp_path, gpus, deep=True, watch_seconds=0.01)

    assert found.gpus[0].inforom_is_valid is False
    assert found.gpus[1].inforom_is_valid == Unknown("nvmlDeviceValidateInforom: Unknown Error")
    assert found.gpus[2].inforom_is_valid is True


def test_a_name_that_is_not_text_costs_that_fact_alone(tmp_path):
    fake = FakeNvml(tmp_path, [h200()])
    fake.reported.write_bytes(
        fake.reported.read_bytes().replace(b"NVIDIA H200", b"NVIDIA \xff\xfe")
    )

    found = nvml.probe(deadline_seconds=20, environment=os.environ | fake.environment())

    assert found.gpus[0].name == Unknown("nvmlDeviceGetName: the answer is not text")
    assert found.gpus[0].temperature_celsius == 37


# ------------------------------------------------------------------------------------ isolation


def test_a_lost_a_hung_and_a_crashing_gpu_leave_five_full_rows_in_time(tmp_path):
    gpus = [
        h200(),
        h200().lost(),
        h200(),
        h200().hangs("*", after=2),
        h200(),
        h200().crashes("nvmlDeviceGetTemperature"),
        h200(),
        h200(),
    ]

    started = time.monotonic()
    found = look(tmp_path, gpus, deadline_seconds=8)
    took = time.monotonic() - started

    assert took < 9
    assert [gpu.state for gpu in found.gpus] == [
        *("ok", "lost", "ok", "hung", "ok", "crashed", "ok", "ok")
    ]
    assert found.count == 8
    whole = [gpu for gpu in found.gpus if gpu.state == "ok"]
    assert len(whole) == 5
    for gpu in whole:
        assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}
    assert found.gpus[1].error == "GPU_IS_LOST from nvmlDeviceGetHandleByIndex"
    assert found.gpus[3].error.startswith("nvmlDeviceGetUUID did not answer in ")
    assert found.gpus[3].bus_id == "0000:00:09.0"
    assert found.gpus[5].error == "NVML crashed with SIGSEGV in nvmlDeviceGetTemperature"
    assert found.gpus[5].temperature_celsius == Unknown(found.gpus[5].error)
    ways = {(pair.a, pair.b): pair.topology for pair in found.pairs}
    assert len(ways) == 28
    assert ways[0, 7] == "NV18"
    assert ways[0, 3] == Unknown(f"gpu 3: {found.gpus[3].error}")


def test_a_gpu_that_falls_off_the_bus_on_the_way_keeps_what_it_said(tmp_path):
    found = look(tmp_path, [h200().lost(after=5), h200()])

    lost, other = found.gpus
    assert lost.state == "lost"
    assert lost.name == "NVIDIA H200"
    assert lost.temperature_celsius == Unknown(lost.error)
    assert other.state == "ok"


def test_a_lost_gpu_that_cannot_say_its_bus_id_has_the_one_that_is_left(tmp_path):
    for name in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)

    found = look(tmp_path, [h200(), h200().lost(), h200()], root=tmp_path)

    assert found.gpus[1].bus_id == "0000:00:07.0"
    assert isinstance(found.gpus[1].name, Unknown)


def test_a_lost_gpu_that_may_be_one_of_several_has_no_bus_id(tmp_path):
    for name in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)

    found = look(tmp_path, [h200(), h200().lost(), h200().lost()], root=tmp_path)

    assert isinstance(found.gpus[1].bus_id, Unknown)
    assert isinstance(found.gpus[2].bus_id, Unknown)


def test_a_gpu_whose_handle_is_refused_is_recorded_with_the_reason(tmp_path):
    found = look(tmp_path, [h200(), h200().fails("nvmlDeviceGetHandleByIndex", 4)])

    assert found.gpus[1].state == "failed"
    assert found.gpus[1].error == "nvmlDeviceGetHandleByIndex: Insufficient Permissions"
    assert found.gpus[0].state == "ok"


def test_a_hang_that_holds_nvml_s_own_lock_is_traced_to_its_gpu(tmp_path):
    gpus = [h200(), h200().hangs("nvmlDeviceGetPowerUsage", locked=True), h200(), h200()]

    found = look(tmp_path, gpus, deadline_seconds=6)

    assert [gpu.state for gpu in found.gpus] == ["ok", "hung", "ok", "ok"]
    assert found.gpus[1].error.startswith("nvmlDeviceGetPowerUsage did not answer in ")


def test_a_child_that_only_kill_ends_holds_nobody_up(tmp_path):
    started = time.monotonic()
    found = look(tmp_path, [h200().hangs("nvmlDeviceGetName", deaf=True)], deadline_seconds=1)

    assert time.monotonic() - started < 2
    assert found.gpus[0].state == "hung"


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
def test_a_gpu_that_hangs_in_the_kernel_is_left_behind(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with stuck.stuck_file_system(place):
        gpus = [h200(), h200().touches("nvmlDeviceGetMigMode", place / "file"), h200()]

        started = time.monotonic()
        found = look(tmp_path, gpus, deadline_seconds=3)
        took = time.monotonic() - started

    assert took < 4
    assert [gpu.state for gpu in found.gpus] == ["ok", "hung", "ok"]
    assert found.gpus[1].error.startswith("nvmlDeviceGetMigMode did not answer in ")
    assert found.pairs[1].p2p_read == "OK"


def test_a_library_that_ends_the_process_costs_one_gpu(tmp_path):
    found = look(tmp_path, [h200(), h200().exits("nvmlDeviceGetSerial", 4), h200()])

    assert [gpu.state for gpu in found.gpus] == ["ok", "crashed", "ok"]
    assert found.gpus[1].error == "NVML ended the process with status 4 in nvmlDeviceGetSerial"


def test_a_library_that_prints_megabytes_spoils_nothing(tmp_path):
    gpus = [
        h200().prints("nvmlDeviceGetName", 20 << 20).prints("nvmlDeviceGetSerial", 20 << 20, fd=2),
        h200(),
    ]

    found = look(tmp_path, gpus)

    for gpu in found.gpus:
        assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}


def test_garbage_among_the_answers_costs_at_most_the_answer_it_hit(tmp_path):
    # the child's stdout is a copy of its own: a library would have to guess its number
    found = look(tmp_path, [h200().prints("nvmlDeviceGetName", 100, fd=3), h200()])

    assert [gpu.state for gpu in found.gpus] == ["ok", "ok"]
    assert len(unknown_facts(found.gpus[0])) <= 2
    assert found.gpus[1].name == "NVIDIA H200"


def test_a_flood_in_place_of_answers_is_stopped(tmp_path):
    found = look(tmp_path, [h200().prints("*", 64 << 20, after=20, fd=3)], deadline_seconds=5)

    assert found.gpus[0].state != "ok"


def test_slow_answers_up_to_the_deadline_leave_what_came(tmp_path):
    started = time.monotonic()
    found = look(tmp_path, [h200().sleeps("*", 300), h200()], deadline_seconds=2)

    assert time.monotonic() - started < 10  # all answers would take a minute
    slow, quick = found.gpus
    assert quick.state == "ok"
    assert slow.state == "hung"
    assert slow.bus_id == "0000:00:06.0"
    assert "was under way when NVML's 2 s were over" in slow.error


def test_a_crash_among_the_pairs_costs_only_pairs(tmp_path):
    found = look(tmp_path, [h200().crashes("nvmlDeviceGetP2PStatus"), h200()])

    assert [gpu.state for gpu in found.gpus] == ["ok", "ok"]
    assert found.pairs[0].p2p_read == Unknown("NVML crashed with SIGSEGV in nvmlDeviceGetP2PStatus")
    assert found.pairs[0].topology == "NV18"


def test_a_library_that_lies_about_the_number_of_gpus_costs_no_memory(tmp_path):
    found = look(tmp_path, [h200()], fake={"system": System(count=2_000_000_000)})

    assert found.error == NvmlError(
        call="nvmlDeviceGetCount_v2", message="it counts 2000000000 GPUs"
    )


def test_probes_in_threads_do_not_disturb_each_other(tmp_path):
    found = {}

    def examine(number: int) -> None:
        directory = tmp_path / str(number)
        directory.mkdir()
        found[number] = look(directory, [h200(temperature=number)])

    threads = [threading.Thread(target=examine, args=(n,)) for n in (41, 42, 43)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {n: one.gpus[0].temperature_celsius for n, one in found.items()} == {
        41: 41,
        42: 42,
        43: 43,
    }


def session(**changes) -> NvmlSession:
    plain = {"deep": False, "watch": False, "later": False, "capabilities": (), "environment": None}
    return NvmlSession(**{**plain, **changes})


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"nvml: loading",
        b"gpucheck:",
        b"gpucheck:[0]",
        b'gpucheck:{"type": "nvml answer", "at": 1.0}',
        b'gpucheck:{"type": "nvml answer", "at": 1.0, "gpu": "0", "query": "name"}',
        b"gpucheck:" + b"[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_line_that_makes_no_sense_is_passed_over(line):
    assert _decoded(line) is None


@pytest.mark.parametrize("gpu", [257, -5])
def test_an_answer_of_a_gpu_that_cannot_be_is_passed_over(gpu):
    talk = session()

    talk.take(NvmlAnswer(at=1.0, gpu=gpu, query="name", outcome="lost"))

    assert (talk.gpus, talk.pairs, talk.errors, talk.error) == ({}, {}, {}, None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)
OUTCOMES = st.sampled_from(["value", "value", "value", "error", "missing", "not supported", "lost"])
ANSWERS = st.builds(
    NvmlAnswer,
    at=st.just(1.0),
    gpu=st.just(0),
    query=st.just("any"),
    outcome=OUTCOMES,
    value=JSON,
    code=st.none() | st.integers(0, 999),
    text=st.text(max_size=5),
)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_answers_that_make_no_sense_are_unknown_and_never_an_exception(data):
    talk = session(deep=True, watch=True, capabilities=(0,))
    count = NvmlAnswer(at=1.0, gpu=None, query="count", outcome="value", value=2)
    talk.system = {"count": count}
    talk.system |= {key: data.draw(ANSWERS) for key in ("driver", "cuda", "confidential", "ready")}
    said = data.draw(st.lists(ANSWERS, min_size=1, max_size=5))
    keys = [query[0] for query in talk.plan]
    for index in (0, 1):
        talk.gpus[index] = {
            key: said[n % len(said)] for n, key in enumerate(keys) if key != "handle"
        }
    talk.samples = {1: {0: dict(talk.gpus[0])}}
    talk.pairs = {(0, 1): {"p2p 0": data.draw(ANSWERS), "level": data.draw(ANSWERS)}}

    found = nvml._with_samples(nvml._nvml(talk, Path("/")), talk, Path("/"))

    assert len(found.gpus) == 2
    assert found.gpus[0].later_sample is not None
    assert msgspec.json.decode(msgspec.json.encode(found), type=Nvml) == found


def test_what_is_read_survives_json(tmp_path):
    gpus = [h200(), geforce_laptop(), h200().lost(), mig()]

    found = look(tmp_path, gpus, deep=True, watch_seconds=0.01)

    assert msgspec.json.decode(msgspec.json.encode(found), type=Nvml) == found


# ---------------------------------------------------------------------------- two readings


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

    [read] = found.gpus
    second = read.later_sample
    assert second.after_seconds >= 0.1
    assert second.under_load is False
    assert (read.pcie_replays, second.pcie_replays) == (3, 503)
    assert (read.corrected_ecc_volatile, second.corrected_ecc_volatile) == (0, 40)
    assert (read.clocks_event_reasons, second.clocks_event_reasons) == (1, 0x48)
    assert (read.pcie_generation, second.pcie_generation) == (1, 5)
    assert (read.hardware_thermal_slowdown_ns, second.hardware_thermal_slowdown_ns) == (0, 1000)
    before = sum(link.crc_data_errors + link.crc_flit_errors for link in read.nvlinks)
    assert second.nvlink_crc_errors - before == 90000
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
    assert found.gpus[0].later_sample.under_load is True


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

    assert found.gpus[0].state == "ok"
    assert found.gpus[1].state == "lost"
    assert found.gpus[1].error.endswith("in the second reading")
    assert found.gpus[1].temperature_celsius == 37
    assert isinstance(found.gpus[1].later_sample, GpuSample)


def test_links_that_a_gpu_has_not_are_not_supported_in_the_second_reading_too(tmp_path):
    found = look(tmp_path, [geforce_laptop()], watch_seconds=0.01)

    assert found.gpus[0].later_sample.nvlink_crc_errors == NOT_SUPPORTED


# ------------------------------------------------------------- read again while cuInit is awaited


GROWING = {"pcie_replays": [3, 503], "crc_data": [15, 90015], "corrected_volatile": [0, 7]}


def test_the_counters_are_read_again_while_somebody_waits(tmp_path):
    found = look(tmp_path, [h200(**GROWING), h200()], sampling=Sampling())

    growing, still = found.gpus
    assert (growing.pcie_replays, growing.later_sample.pcie_replays) == (3, 503)
    assert growing.later_sample.corrected_ecc_volatile == 7
    before = sum(link.crc_data_errors for link in growing.nvlinks)
    assert growing.later_sample.nvlink_crc_errors - before == 90000
    assert growing.later_sample.after_seconds >= nvml_program.SAMPLES_AFTER_SECONDS[-1]
    assert growing.inforom_is_valid is True
    assert still.later_sample.pcie_replays == 0


def test_nobody_waits_for_the_counters(tmp_path):
    over = Sampling()
    over.end()

    started = time.monotonic()
    found = look(tmp_path, [h200(**GROWING)], sampling=over)

    assert time.monotonic() - started < nvml_program.SAMPLES_AFTER_SECONDS[-1]
    assert found.gpus[0].later_sample is None
    assert found.gpus[0].state == "ok"


def test_a_wait_that_ends_takes_what_came_so_far(tmp_path):
    slow = [h200().sleeps("nvmlDeviceValidateInforom", 60_000), h200()]
    sampling = Sampling()
    ended = []
    timer = threading.Timer(2.0, lambda: (ended.append(time.monotonic()), sampling.end()))

    timer.start()
    found = look(tmp_path, slow, sampling=sampling)
    took = time.monotonic() - ended[0]

    assert took < 0.5
    assert [gpu.state for gpu in found.gpus] == ["ok", "ok"]
    assert found.gpus[0].nvlinks[0].crc_data_errors == 15
    assert found.gpus[0].later_sample is None


def test_a_crash_after_all_was_said_costs_only_the_sample(tmp_path):
    found = look(tmp_path, [h200().crashes("nvmlDeviceValidateInforom")], sampling=Sampling())

    assert found.gpus[0].state == "ok"
    assert found.gpus[0].later_sample is None
    assert found.pairs == ()


def test_a_corrupt_inforom_is_found_without_deep_on_a_small_machine(tmp_path):
    found = look(tmp_path, [h200(inforom_check=Error(14)), h200()], sampling=Sampling())

    assert [gpu.inforom_is_valid for gpu in found.gpus] == [False, True]


def test_the_inforoms_of_many_gpus_are_left_to_deep(tmp_path):
    found = look(tmp_path, [h200(inforom_check=Error(14))] * 5, sampling=Sampling())

    assert {gpu.inforom_is_valid.why for gpu in found.gpus} == {"read with --deep"}
    assert all(gpu.later_sample is not None for gpu in found.gpus)


def test_a_gpu_that_is_lost_while_somebody_waits_is_lost(tmp_path):
    found = look(
        tmp_path, [h200().fails("nvmlDeviceValidateInforom", 15), h200()], sampling=Sampling()
    )

    assert [gpu.state for gpu in found.gpus] == ["lost", "ok"]


# --------------------------------------------------------------------------- who holds the memory


HELD = "150754820096 644939776 148962396160 1147483648"
FREE = "150754820096 644939776 150109880320 0"


def test_memory_that_nobody_owns_is_looked_at_again_a_second_later(tmp_path):
    found = look(tmp_path, [h200(memory=HELD), h200()], sees_all_processes=lambda: True)

    sample = found.gpus[0].later_sample
    assert sample.after_seconds >= 1.0
    assert sample.memory.used_bytes == 1147483648
    assert sample.processes == ()


def test_memory_that_a_process_left_in_the_meantime_is_seen_to_be_free(tmp_path):
    found = look(tmp_path, [h200(memory=[HELD, FREE])], sees_all_processes=lambda: True)

    assert found.gpus[0].later_sample.memory.used_bytes == 0


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

    assert found.gpus[0].later_sample is None


# ------------------------------------------------------------------------ virtual and confidential


@pytest.mark.parametrize("missing", [(), ("nvmlDeviceGetGridLicensableFeatures_v4",)], ids=str)
@pytest.mark.parametrize(
    ("answer", "is_licensed"), [("1 2 0 0", False), ("1 1 0 1 2 1 1", True), ("1 2 0 1", False)]
)
def test_the_license_of_a_virtual_gpu_is_read(tmp_path, answer, is_licensed, missing):
    found = look(tmp_path, [h200(virtualization=2, license=answer)], fake={"missing": missing})

    assert found.gpus[0].virtualization == "vgpu"
    assert found.gpus[0].vgpu_license == VgpuLicense(
        is_needed=True, is_licensed=is_licensed, product="NVIDIA RTX Virtual Workstation"
    )


def test_a_gpu_that_is_passed_through_is_asked_for_no_license(tmp_path):
    found = look(tmp_path, [h200(license="1 2 0 0")])

    assert found.gpus[0].vgpu_license == NOT_SUPPORTED


def test_confidential_computing_is_read_where_the_driver_knows_it(tmp_path):
    system = System(confidential="2 1 0", gpus_ready=0)
    for name in ("old", "off"):
        (tmp_path / name).mkdir()

    on = look(tmp_path, [h200()], fake={"system": system})
    off = look(tmp_path / "off", [h200()])
    old = look(tmp_path / "old", [a100_pcie()], fake=old_driver())

    assert on.confidential_computing == ConfidentialComputing(is_on=True, gpus_are_ready=False)
    assert off.confidential_computing == ConfidentialComputing(is_on=False, gpus_are_ready=True)
    assert "driver too old" in old.confidential_computing.why


def test_the_fan_is_read_where_there_is_one(tmp_path):
    found = look(tmp_path, [h200(fan=40), h200()])

    assert [gpu.fan_percent for gpu in found.gpus] == [40, NOT_SUPPORTED]


# ------------------------------------------------------------------------------------ processes


@contextlib.contextmanager
def zombie():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    try:
        yield process.pid
    finally:
        process.wait()


def test_processes_carry_their_names_and_whether_they_are_dead(tmp_path):
    with zombie() as dead:
        holds = {os.getpid(): 5 << 30, dead: 1 << 30, 4_000_000_000: -1}

        found = look(tmp_path, [h200(processes=holds, graphics_processes={os.getpid(): 1})])

    by_id = {one.pid: one for one in found.gpus[0].processes}
    assert len(by_id) == 3
    assert by_id[os.getpid()].name == Path("/proc/self/comm").read_text().strip()
    assert by_id[os.getpid()].used_bytes == 5 << 30
    assert by_id[os.getpid()].kind == "compute"
    assert by_id[dead].is_zombie is True
    assert by_id[4_000_000_000] == GpuProcess(
        pid=4_000_000_000, name=None, used_bytes=NOT_SUPPORTED
    )


def test_a_process_name_may_hold_brackets_and_blanks(tmp_path):
    (tmp_path / "proc/42").mkdir(parents=True)
    (tmp_path / "proc/42/stat").write_text("42 (a ) Z (b) S 1 42 42 0\n")

    assert process_name(42, tmp_path) == ("a ) Z (b", False)
    assert process_name(43, tmp_path) == (None, False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.namespaces
def test_a_process_that_proc_hides_is_not_taken_for_one_that_is_gone():
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}; from gpucheck.probes.nvml import process_name;"
        " print(process_name(1), end='')"
    )
    become = (
        'mount -t proc -o hidepid=2 proc /proc && exec setpriv --reuid 65534 --clear-groups "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", become, "sh", sys.executable, "-c", code]

    ended = subprocess.run(command, cwd="/", capture_output=True, text=True)

    if ended.returncode or not ended.stdout.startswith(("(None", "(Unknown")):
        pytest.skip(f"/proc hides nothing here: {ended.stderr or ended.stdout}")
    assert ended.stdout == "(Unknown(why='process 1 is hidden from this user'), False)"


# ------------------------------------------------------------------------------- pure functions


def test_bus_ids_are_written_as_linux_writes_them():
    assert bus_id("00000000:0A:00.0") == "0000:0a:00.0"
    assert bus_id("00010000:00:06.0") == "10000:00:06.0"


def test_masks_are_written_as_ranges():
    assert ranges([0b1011]) == "0-1,3"
    assert ranges([1 << 63, 1]) == "63-64"
    assert ranges([]) == ""


def device(root: Path, way: str, node: int = 0) -> str:
    home = root / "sys/devices" / way
    home.mkdir(parents=True)
    (home / "numa_node").write_text(f"{node}\n")
    link = root / "sys/bus/pci/devices" / home.name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(home)
    return home.name


@pytest.mark.parametrize(
    ("first", "second", "nodes", "word"),
    [
        ("pci0000:00/0000:00:06.0", "pci0000:00/0000:00:07.0", (0, 0), "PHB"),
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0",
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0",
            (0, 0),
            "PIX",
        ),
        (
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:00.0/0000:03:00.0/0000:05:00.0/0000:06:00.0",
            "pci0000:00/0000:00:01.0/0000:01:00.0/0000:02:01.0/0000:04:00.0",
            (0, 0),
            "PXB",
        ),
        ("pci0000:00/0000:00:06.0", "pci0000:40/0000:40:07.0", (0, 0), "NODE"),
        ("pci0000:00/0000:00:06.0", "pci0000:80/0000:80:07.0", (0, 1), "SYS"),
    ],
)
def test_the_way_through_pcie_is_read_from_the_kernel_s_tree(tmp_path, first, second, nodes, word):
    a = device(tmp_path, first, nodes[0])
    b = device(tmp_path, second, nodes[1])

    assert pcie_level(a, b, tmp_path) == word


def test_a_kernel_that_hides_its_devices_gives_no_way(tmp_path):
    assert pcie_level("0000:00:06.0", "0000:00:07.0", tmp_path) is None


def test_every_query_has_a_key_of_its_own():
    for second in (False, True):
        keys = [query[0] for query in nvml_queries.plan(deep=True, watch=True, later=second)]
        assert len(keys) == len(set(keys))


# ---------------------------------------------------------------------------------- real GPUs


def number(text: str) -> int:
    return int(text.partition(" ")[0].rstrip("x"))


def watts(text: str) -> float:
    return float(text.partition(" ")[0])


def nanoseconds(text: str) -> int:
    return 1000 * number(text)


def yes(text: str) -> bool:
    return {"Yes": True, "Enabled": True, "No": False, "Disabled": False}[text]


def mebibytes(size: int) -> int:
    return round(size / (1 << 20))


def one_of(*words: str):
    """Read a word as its place in a list; an underscore is a place that has no word."""
    return words.index


PCIE, WIDTH = "PCI/GPU Link Info/PCIe Generation/", "PCI/GPU Link Info/Link Width/"
HISTOGRAM = "Remapped Rows/Bank Remap Availability Histogram/"
ACTIONS = ("None", "Reset", "Reboot", "Drain P2P", "Drain and Reset")

#: the label of `nvidia-smi -q`, how to read it, and the same out of our row
SAME = {
    "Product Name": (str, lambda gpu: gpu.name),
    "GPU UUID": (str, lambda gpu: gpu.uuid),
    "Serial Number": (str, lambda gpu: gpu.serial),
    "Minor Number": (int, lambda gpu: gpu.minor_number),
    "VBIOS Version": (str, lambda gpu: gpu.vbios_version),
    "Inforom Version/Image Version": (str, lambda gpu: gpu.inforom_version),
    "GSP Firmware Version": (str, lambda gpu: gpu.gsp_firmware_version),
    "PCI/Bus Id": (bus_id, lambda gpu: gpu.bus_id),
    f"{PCIE}Max": (int, lambda gpu: gpu.pcie_generation_max),
    f"{WIDTH}Max": (number, lambda gpu: gpu.pcie_width_max),
    f"{WIDTH}Current": (number, lambda gpu: gpu.pcie_width),
    "PCI/Replays Since Reset": (int, lambda gpu: gpu.pcie_replays),
    "FB Memory Usage/Total": (number, lambda gpu: mebibytes(gpu.memory.total_bytes)),
    "BAR1 Memory Usage/Total": (number, lambda gpu: mebibytes(gpu.bar1_total_bytes)),
    "Persistence Mode": (yes, lambda gpu: gpu.persistence),
    "Display Active": (yes, lambda gpu: gpu.display_active),
    "Compute Mode": (
        one_of("Default", "_", "Prohibited", "Exclusive_Process"),
        lambda gpu: gpu.compute_mode,
    ),
    "GPU C2C Mode": (yes, lambda gpu: gpu.c2c_is_on),
    "ECC Mode/Current": (yes, lambda gpu: gpu.ecc_is_on),
    "ECC Mode/Pending": (yes, lambda gpu: gpu.ecc_is_on_after_reboot),
    "ECC Errors/Aggregate/DRAM Uncorrectable": (
        int,
        lambda gpu: gpu.uncorrected_ecc_aggregate - gpu.sram_uncorrected_aggregate,
    ),
    "ECC Errors/Aggregate/SRAM Threshold Exceeded": (
        yes,
        lambda gpu: gpu.sram_threshold_exceeded,
    ),
    "ECC Errors/Unrepairable Memory": (yes, lambda gpu: gpu.has_unrepairable_memory),
    "ECC Errors/Channel Repair Pending": (yes, lambda gpu: gpu.repair_is_pending),
    "MIG Mode/Current": (yes, lambda gpu: gpu.mig_is_on),
    "MIG Mode/Pending": (yes, lambda gpu: gpu.mig_is_on_after_reset),
    "Remapped Rows/Correctable Error": (int, lambda gpu: gpu.remapped_rows.correctable),
    "Remapped Rows/Uncorrectable Error": (int, lambda gpu: gpu.remapped_rows.uncorrectable),
    "Remapped Rows/Pending": (yes, lambda gpu: gpu.remapped_rows.is_pending),
    "Remapped Rows/Remapping Failure Occurred": (yes, lambda gpu: gpu.remapped_rows.has_failed),
    f"{HISTOGRAM}Max": (number, lambda gpu: gpu.remap_histogram.maximum),
    f"{HISTOGRAM}High": (number, lambda gpu: gpu.remap_histogram.high),
    f"{HISTOGRAM}Partial": (number, lambda gpu: gpu.remap_histogram.partial),
    f"{HISTOGRAM}Low": (number, lambda gpu: gpu.remap_histogram.low),
    f"{HISTOGRAM}None": (number, lambda gpu: gpu.remap_histogram.none),
    "Retired Pages/Single Bit ECC": (number, lambda gpu: gpu.retired_pages.single_bit),
    "GPU Power Readings/Current Power Limit": (watts, lambda gpu: gpu.power_limit_enforced_watts),
    "GPU Power Readings/Default Power Limit": (watts, lambda gpu: gpu.power_limit_default_watts),
    "Clocks Event Reasons Counters/SW Thermal Slowdown": (
        nanoseconds,
        lambda gpu: gpu.software_thermal_slowdown_ns,
    ),
    "Clocks Event Reasons Counters/HW Thermal Slowdown": (
        nanoseconds,
        lambda gpu: gpu.hardware_thermal_slowdown_ns,
    ),
    "Clocks Event Reasons Counters/HW Power Braking": (
        nanoseconds,
        lambda gpu: gpu.power_brake_slowdown_ns,
    ),
    "Max Clocks/SM": (number, lambda gpu: gpu.clock_sm_max_mhz),
    "Applications Clocks/Graphics": (number, lambda gpu: gpu.application_clock_sm_mhz),
    "Default Applications Clocks/Graphics": (
        number,
        lambda gpu: gpu.application_clock_sm_default_mhz,
    ),
    "GPU Recovery Action": (one_of(*ACTIONS), lambda gpu: gpu.recovery_action),
    "Fabric/State": (
        one_of("_", "Not Started", "In Progress", "Completed"),
        lambda gpu: gpu.fabric.state,
    ),
    "Fabric/Status": (one_of("Success"), lambda gpu: gpu.fabric.status),
}

#: readings that move: label, how to read it, ours, and how far they may differ
NEAR = {
    "Temperature/GPU Current Temp": (number, lambda gpu: gpu.temperature_celsius, 6),
    "Temperature/Memory Current Temp": (number, lambda gpu: gpu.memory_temperature_celsius, 6),
    "Temperature/GPU T.Limit Temp": (number, lambda gpu: gpu.temperature_margin_celsius, 6),
    "Temperature/GPU Slowdown T.Limit Temp": (
        number,
        lambda gpu: gpu.slowdown_margin_celsius,
        0,
    ),
    "FB Memory Usage/Used": (number, lambda gpu: mebibytes(gpu.memory.used_bytes), 64),
    "FB Memory Usage/Reserved": (number, lambda gpu: mebibytes(gpu.memory.reserved_bytes), 16),
    "FB Memory Usage/Free": (number, lambda gpu: mebibytes(gpu.memory.free_bytes), 64),
    "GPU Power Readings/Instantaneous Power Draw": (watts, lambda gpu: gpu.power_watts, 100),
    "Clocks/Memory": (number, lambda gpu: gpu.clock_memory_mhz, 1500),
}


def read_log(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Read `nvidia-smi -q`: what stands above the GPUs, and each GPU, by "Section/Label"."""
    top: dict[str, str] = {}
    gpus: list[dict[str, str]] = []
    sections: list[str] = []
    for line in text.splitlines():
        if line.startswith("GPU 0"):
            gpus.append({})
        elif line.strip():
            depth = (len(line) - len(line.lstrip())) // 4
            label, colon, value = line.strip().partition(" :")
            sections[max(depth - 1, 0) :] = [label.strip()]
            if colon:
                (gpus[-1] if gpus else top)["/".join(sections)] = value.strip()
    return top, gpus


def assert_same(found: Nvml, log: str) -> None:
    top, logged = read_log(log)
    assert found.driver_version == top["Driver Version"]
    assert found.cuda_version == top["CUDA Version"]
    assert found.count == int(top["Attached GPUs"])
    compared = 0
    differ = []
    for texts, gpu in zip(logged, found.gpus, strict=True):
        assert gpu.state == "ok"
        for label, (read, ours, *most) in (SAME | NEAR).items():
            text = texts.get(label, "N/A")
            if text.startswith(("N/A", "[N/A]", "Requested", "Unknown")):
                continue
            compared += 1
            theirs = read(text)
            if abs(ours(gpu) - theirs) > most[0] if most else ours(gpu) != theirs:
                differ.append((gpu.index, label, text, ours(gpu)))
    assert differ == []
    assert compared >= 20 * found.count


def test_the_recorded_answers_and_the_recorded_nvidia_smi_agree(tmp_path):
    serial = "0" * 13
    gpus = [
        h200(serial=serial),
        h200(serial=serial, uuid="GPU-11111111-1111-1111-1111-111111111111"),
    ]

    found = look(tmp_path, gpus)

    assert_same(found, RECORDED.with_name("h200_nvidia_smi_q.txt").read_text())


@pytest.mark.gpu
def test_the_rows_of_real_gpus_equal_nvidia_smi_s_field_by_field():
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi here")
    log = subprocess.run(["nvidia-smi", "-q"], capture_output=True, text=True, timeout=60)
    if log.returncode != 0:
        pytest.skip(f"nvidia-smi ends with {log.returncode}")

    found = nvml.probe(deep=True, deadline_seconds=60)

    assert_same(found, log.stdout)
    for gpu in found.gpus:
        odd = {name: why for name, why in unknown_facts(gpu).items() if "too old" not in why}
        assert odd == {}
