"""A GPU that hangs, crashes or is lost costs itself, and lies cost nothing."""

import threading
import time
from pathlib import Path

import msgspec
import pytest
from fakes import stuck
from fakes.nvml import (
    System,
    geforce_laptop,
    h200,
    mig,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucheck.probes import nvml
from gpucheck.probes.messages import NvmlAnswer
from gpucheck.probes.nvml_session import NvmlSession, _decoded
from gpucheck.snapshot import (
    Nvml,
    NvmlError,
    Unknown,
)
from nvml_looks import look, unknown_facts
from seen_facts import seen


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
    assert [gpu.state for gpu in seen(found.gpus)] == [
        *("ok", "lost", "ok", "hung", "ok", "crashed", "ok", "ok")
    ]
    assert found.count == 8
    whole = [gpu for gpu in seen(found.gpus) if gpu.state == "ok"]
    assert len(whole) == 5
    for gpu in whole:
        assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}
    assert seen(found.gpus)[1].error == "GPU_IS_LOST from nvmlDeviceGetHandleByIndex"
    assert seen(seen(found.gpus)[3].error).startswith("nvmlDeviceGetUUID did not answer in ")
    assert seen(found.gpus)[3].bus_id == "0000:00:09.0"
    assert seen(found.gpus)[5].error == "NVML crashed with SIGSEGV in nvmlDeviceGetTemperature"
    assert seen(found.gpus)[5].temperature_celsius == Unknown(seen(seen(found.gpus)[5].error))
    ways = {(pair.a, pair.b): pair.topology for pair in seen(found.pairs)}
    assert len(ways) == 28
    assert ways[0, 7] == "NV18"
    assert ways[0, 3] == Unknown(f"gpu 3: {seen(found.gpus)[3].error}")


def test_a_gpu_that_falls_off_the_bus_on_the_way_keeps_what_it_said(tmp_path):
    found = look(tmp_path, [h200().lost(after=5), h200()])

    lost, other = seen(found.gpus)
    assert lost.state == "lost"
    assert lost.name == "NVIDIA H200"
    assert lost.temperature_celsius == Unknown(seen(lost.error))
    assert other.state == "ok"


def test_a_lost_gpu_that_cannot_say_its_bus_id_has_the_one_that_is_left(tmp_path):
    for name in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)

    found = look(tmp_path, [h200(), h200().lost(), h200()], root=tmp_path)

    assert seen(found.gpus)[1].bus_id == "0000:00:07.0"
    assert isinstance(seen(found.gpus)[1].name, Unknown)


def test_a_lost_gpu_that_may_be_one_of_several_has_no_bus_id(tmp_path):
    for name in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / "proc/driver/nvidia/gpus" / name).mkdir(parents=True)

    found = look(tmp_path, [h200(), h200().lost(), h200().lost()], root=tmp_path)

    assert isinstance(seen(found.gpus)[1].bus_id, Unknown)
    assert isinstance(seen(found.gpus)[2].bus_id, Unknown)


def test_a_gpu_whose_handle_is_refused_is_recorded_with_the_reason(tmp_path):
    found = look(tmp_path, [h200(), h200().fails("nvmlDeviceGetHandleByIndex", 4)])

    assert seen(found.gpus)[1].state == "failed"
    assert seen(found.gpus)[1].error == "nvmlDeviceGetHandleByIndex: Insufficient Permissions"
    assert seen(found.gpus)[0].state == "ok"


def test_a_hang_that_holds_nvml_s_own_lock_is_traced_to_its_gpu(tmp_path):
    gpus = [h200(), h200().hangs("nvmlDeviceGetPowerUsage", locked=True), h200(), h200()]

    found = look(tmp_path, gpus, deadline_seconds=6)

    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "hung", "ok", "ok"]
    assert seen(seen(found.gpus)[1].error).startswith("nvmlDeviceGetPowerUsage did not answer in ")


def test_a_child_that_only_kill_ends_holds_nobody_up(tmp_path):
    started = time.monotonic()
    found = look(tmp_path, [h200().hangs("nvmlDeviceGetName", deaf=True)], deadline_seconds=1)

    assert time.monotonic() - started < 2
    assert seen(found.gpus)[0].state == "hung"


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
    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "hung", "ok"]
    assert seen(seen(found.gpus)[1].error).startswith("nvmlDeviceGetMigMode did not answer in ")
    assert seen(found.pairs)[1].p2p_read == "OK"


def test_a_library_that_ends_the_process_costs_one_gpu(tmp_path):
    found = look(tmp_path, [h200(), h200().exits("nvmlDeviceGetSerial", 4), h200()])

    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "crashed", "ok"]
    assert (
        seen(found.gpus)[1].error == "NVML ended the process with status 4 in nvmlDeviceGetSerial"
    )


def test_a_library_that_prints_megabytes_spoils_nothing(tmp_path):
    gpus = [
        h200().prints("nvmlDeviceGetName", 20 << 20).prints("nvmlDeviceGetSerial", 20 << 20, fd=2),
        h200(),
    ]

    found = look(tmp_path, gpus)

    for gpu in seen(found.gpus):
        assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}


def test_garbage_among_the_answers_costs_at_most_the_answer_it_hit(tmp_path):
    # the child's stdout is a copy of its own: a library would have to guess its number
    found = look(tmp_path, [h200().prints("nvmlDeviceGetName", 100, fd=3), h200()])

    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "ok"]
    assert len(unknown_facts(seen(found.gpus)[0])) <= 2
    assert seen(found.gpus)[1].name == "NVIDIA H200"


def test_a_flood_in_place_of_answers_is_stopped(tmp_path):
    found = look(tmp_path, [h200().prints("*", 64 << 20, after=20, fd=3)], deadline_seconds=5)

    assert seen(found.gpus)[0].state != "ok"


def test_slow_answers_up_to_the_deadline_leave_what_came(tmp_path):
    started = time.monotonic()
    found = look(tmp_path, [h200().sleeps("*", 300), h200()], deadline_seconds=2)

    assert time.monotonic() - started < 10  # all answers would take a minute
    slow, quick = seen(found.gpus)
    assert quick.state == "ok"
    assert slow.state == "hung"
    assert slow.bus_id == "0000:00:06.0"
    assert "was under way when NVML's 2 s were over" in seen(slow.error)


def test_a_crash_among_the_pairs_costs_only_pairs(tmp_path):
    found = look(tmp_path, [h200().crashes("nvmlDeviceGetP2PStatus"), h200()])

    assert [gpu.state for gpu in seen(found.gpus)] == ["ok", "ok"]
    assert seen(found.pairs)[0].p2p_read == Unknown(
        "NVML crashed with SIGSEGV in nvmlDeviceGetP2PStatus"
    )
    assert seen(found.pairs)[0].topology == "NV18"


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

    assert {n: seen(one.gpus)[0].temperature_celsius for n, one in found.items()} == {
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

    assert len(seen(found.gpus)) == 2
    assert seen(found.gpus)[0].later_sample is not None
    assert msgspec.json.decode(msgspec.json.encode(found), type=Nvml) == found


def test_what_is_read_survives_json(tmp_path):
    gpus = [h200(), geforce_laptop(), h200().lost(), mig()]

    found = look(tmp_path, gpus, deep=True, watch_seconds=0.01)

    assert msgspec.json.decode(msgspec.json.encode(found), type=Nvml) == found
