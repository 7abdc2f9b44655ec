"""What NVML answers becomes facts, on recorded and on older machines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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

import machines
from gpucheck.probes import nvml
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    ConfidentialComputing,
    Fabric,
    Memory,
    NotSupported,
    NvmlError,
    RetiredPages,
    Unknown,
    VgpuLicense,
    replace,
)
from nvml_looks import look, unknown_facts
from seen_facts import seen, why

RECORDED = Path(__file__).parents[1] / "recorded" / "h200_nvml.json"


# ------------------------------------------------------------------------------------ the recording


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
    gpu = seen(found.gpus)[0]
    assert unknown_facts(gpu) == {}
    assert replace(gpu, nvlinks=(), later_sample=None) == machines.gpu(
        uuid="GPU-00000000-0000-0000-0000-000000000000",
        serial="1650923000000",
        memory_temperature_celsius=41,
        power_watts=82.22,
        clock_sm_mhz=780,
        fabric=Fabric(state=3, status=0, health=0, health_summary=0),
        nvlinks=(),
    )


def test_the_nvlinks_of_a_recorded_h200_keep_their_crc_counts(tmp_path):
    recorded = json.loads(RECORDED.read_text())["more"]

    found = look(tmp_path, [h200(), h200()], deep=True, watch_seconds=0.01)

    links = seen(seen(found.gpus)[0].nvlinks)
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

    [pair] = seen(found.pairs)
    assert (pair.a, pair.b, pair.topology) == (0, 1, "NV18")
    assert (pair.p2p_read, pair.p2p_write, pair.p2p_nvlink) == ("OK", "OK", "OK")


def test_the_path_of_the_library_is_the_one_that_was_mapped(tmp_path):
    found = look(tmp_path, [h200()])

    linked = tmp_path / "nvml-library" / "libnvidia-ml.so.1"
    assert found.library == str(linked.resolve())


def test_a_first_reading_leaves_out_what_takes_long(tmp_path):
    found = look(tmp_path, [h200(), h200()], quick=True)

    gpu = seen(found.gpus)[0]
    assert why(gpu.inforom_is_valid) == "read with --deep"
    assert why(seen(gpu.nvlinks)[0].crc_data_errors) == "read with --deep or --watch"
    assert gpu.later_sample is None
    assert seen(found.pairs)[0].p2p_read == seen(found.pairs)[0].p2p_write == "OK"
    assert seen(found.pairs)[0].p2p_nvlink == Unknown("left out by --quick", "by design")


# ----------------------------------------------------------------------------------- other machines


def test_what_a_laptop_has_not_is_not_supported_rather_than_unknown(tmp_path):
    found = look(tmp_path, [geforce_laptop()])

    [gpu] = seen(found.gpus)
    assert unknown_facts(gpu) == {"inforom_is_valid": "read with --deep"}
    for name in ("ecc_is_on", "nvlinks", "fabric", "mig_is_on", "remapped_rows", "retired_pages"):
        assert isinstance(getattr(gpu, name), NotSupported), name
    assert gpu.bus_id == "0000:01:00.0"
    assert seen(gpu.thresholds).memory_max_celsius == NOT_SUPPORTED
    assert gpu.display_active is True
    assert gpu.performance_state == 8


def test_an_a100_with_no_bridge_has_links_that_are_down(tmp_path):
    found = look(tmp_path, [a100_pcie(), a100_pcie()], deep=True, watch_seconds=0.01)

    gpu = seen(found.gpus)[0]
    assert [link.is_up for link in seen(gpu.nvlinks)] == [False] * 12
    assert seen(gpu.nvlinks)[0].remote_kind == Unknown("the link is down")
    assert seen(gpu.nvlinks)[0].crc_data_errors == Unknown("the link is down")
    assert gpu.fabric == Fabric(state=0, health=0, health_summary=0)
    assert seen(found.pairs)[0].topology == "PXB"
    assert seen(found.pairs)[0].p2p_nvlink == "NS"


def test_the_mig_devices_of_a_cut_gpu_are_named(tmp_path):
    found = look(tmp_path, [mig(), mig(mig_devices=(Error(6), Error(6)))])

    cut, empty = seen(found.gpus)
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

    assert seen(found.gpus)[0].retired_pages == RetiredPages(
        single_bit=61, double_bit=2, is_pending=True
    )


def test_links_straight_to_a_neighbour_are_counted_and_named(tmp_path):
    def bridged(other: str) -> FakeGpu:
        answers: dict[str, object] = {}
        for link in range(12):
            answers[f"nvmlDeviceGetNvLinkState.{link}"] = 1 if link < 4 else 0
            answers[f"nvmlDeviceGetNvLinkVersion.{link}"] = 3
            answers[f"nvmlDeviceGetNvLinkRemoteDeviceType.{link}"] = 0
            answers[f"nvmlDeviceGetNvLinkRemotePciInfo.{link}"] = other
        return a100_pcie(answers=answers)

    found = look(tmp_path, [bridged("0000:00:07.0"), bridged("0000:00:06.0"), a100_pcie()])

    link = seen(seen(found.gpus)[0].nvlinks)[0]
    assert (link.is_up, link.remote_kind, link.remote_bus_id) == (True, "gpu", "0000:00:07.0")
    assert seen(found.pairs)[0].topology == "NV4"


# -------------------------------------------------------------------------------------- old drivers


def test_an_old_driver_is_asked_by_the_older_names(tmp_path):
    holds = {os.getpid(): 1 << 20}

    found = look(
        tmp_path,
        [a100_pcie(processes=holds, graphics_processes={1: 7}, event_reasons=5)],
        fake=old_driver(),
    )

    [gpu] = seen(found.gpus)
    assert found.cuda_version == "11.0"
    assert gpu.clocks_event_reasons == 5
    assert gpu.memory == Memory(
        total_bytes=85899345920,
        used_bytes=647299072,
        free_bytes=85252046848,
        reserved_bytes=NOT_SUPPORTED,
    )
    assert {one.pid: one.used_bytes for one in seen(gpu.processes)} == holds | {1: 7}


def test_what_an_old_driver_does_not_know_is_unknown_with_the_name_of_what_it_lacks(tmp_path):
    found = look(tmp_path, [a100_pcie()], fake=old_driver())

    unknown = unknown_facts(seen(found.gpus)[0])
    assert unknown["temperature_margin_celsius"] == (
        "driver too old: nvmlDeviceGetMarginTemperature missing"
    )
    assert unknown["recovery_action"] == "driver too old: field 230 missing"
    assert unknown["fabric"] == "driver too old: nvmlDeviceGetGpuFabricInfoV missing"
    assert seen(found.gpus)[0].state == "ok"


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

    assert seen(found.gpus)[0].fabric == fabric


# ------------------------------------------------------------------------------------------- errors


def test_one_error_costs_one_fact(tmp_path):
    found = look(tmp_path, [h200(name=Error(999), serial=Error(4), temperature=Error(27))])

    [gpu] = seen(found.gpus)
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
    assert seen(found.error).call == "open"
    assert seen(found.error).code is None
    assert "libnvidia-ml.so.1" in seen(found.error).message


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

    assert seen(found.error).message.startswith(said)
    assert seen(found.error).code is None


def test_a_machine_without_gpus_is_no_error(tmp_path):
    found = look(tmp_path, [])

    assert found.error is None
    assert (found.count, found.gpus, found.pairs) == (0, (), ())


def test_a_corrupt_inforom_is_told_from_one_that_could_not_be_checked(tmp_path):
    gpus = [h200(inforom_check=Error(14)), h200(inforom_check=Error(999)), h200()]

    found = look(tmp_path, gpus, deep=True, watch_seconds=0.01)

    assert seen(found.gpus)[0].inforom_is_valid is False
    assert seen(found.gpus)[1].inforom_is_valid == Unknown(
        "nvmlDeviceValidateInforom: Unknown Error"
    )
    assert seen(found.gpus)[2].inforom_is_valid is True


def test_a_name_that_is_not_text_costs_that_fact_alone(tmp_path):
    fake = FakeNvml(tmp_path, [h200()])
    fake.reported.write_bytes(
        fake.reported.read_bytes().replace(b"NVIDIA H200", b"NVIDIA \xff\xfe")
    )

    found = nvml.probe(deadline_seconds=20, environment=os.environ | fake.environment())

    assert seen(found.gpus)[0].name == Unknown("nvmlDeviceGetName: the answer is not text")
    assert seen(found.gpus)[0].temperature_celsius == 37


# ------------------------------------------------------------------------- virtual and confidential


@pytest.mark.parametrize("missing", [(), ("nvmlDeviceGetGridLicensableFeatures_v4",)], ids=str)
@pytest.mark.parametrize(
    ("answer", "is_licensed"), [("1 2 0 0", False), ("1 1 0 1 2 1 1", True), ("1 2 0 1", False)]
)
def test_the_license_of_a_virtual_gpu_is_read(tmp_path, answer, is_licensed, missing):
    found = look(tmp_path, [h200(virtualization=2, license=answer)], fake={"missing": missing})

    assert seen(found.gpus)[0].virtualization == "vgpu"
    assert seen(found.gpus)[0].vgpu_license == VgpuLicense(
        is_needed=True, is_licensed=is_licensed, product="NVIDIA RTX Virtual Workstation"
    )


def test_a_gpu_that_is_passed_through_is_asked_for_no_license(tmp_path):
    found = look(tmp_path, [h200(license="1 2 0 0")])

    assert seen(found.gpus)[0].vgpu_license == NOT_SUPPORTED


def test_confidential_computing_is_read_where_the_driver_knows_it(tmp_path):
    system = System(confidential="2 1 0", gpus_ready=0)
    for name in ("old", "off"):
        (tmp_path / name).mkdir()

    on = look(tmp_path, [h200()], fake={"system": system})
    off = look(tmp_path / "off", [h200()])
    old = look(tmp_path / "old", [a100_pcie()], fake=old_driver())

    assert on.confidential_computing == ConfidentialComputing(is_on=True, gpus_are_ready=False)
    assert off.confidential_computing == ConfidentialComputing(is_on=False, gpus_are_ready=True)
    assert "driver too old" in why(old.confidential_computing)


def test_the_fan_is_read_where_there_is_one(tmp_path):
    found = look(tmp_path, [h200(fan=40), h200()])

    assert [gpu.fan_percent for gpu in seen(found.gpus)] == [40, NOT_SUPPORTED]
