"""A redacted snapshot names nobody, and is judged as the original is."""

import msgspec
import pytest

from gpucheck import snapshot_file
from gpucheck.privacy import Owner, owner, redact
from gpucheck.report import examine
from gpucheck.snapshot import (
    CudaInit,
    Python,
    Snapshot,
    StartupFile,
    StartupFiles,
    StartupSetting,
    Unknown,
    Xid,
)
from machines import HEALTHY, gpu, machine, path_entry, with_variables
from seen_facts import seen

ALICE = Owner(home="/home/alice", user="alice", host="rack7.example.org")
UUIDS = (
    "GPU-1c9d0a3e-1111-2222-3333-444455556666",
    "GPU-1c9d0a3f-1111-2222-3333-444455556666",
)
PRIVATE = machine(
    with_variables(CUDA_HOME="/home/alice/cuda", CUDA_VISIBLE_DEVICES=f"{UUIDS[1]},GPU-1c9d0a3e"),
    host={"name": "rack7.example.org", "groups": ("alice", "video")},
    environment={
        "path": (path_entry("/home/alice/bin"), path_entry("/home/bob/bin")),
        "ld_library_path": (path_entry("/scratch/alice/lib"), path_entry("")),
    },
    startup_files=StartupFiles(
        files=(
            StartupFile(
                path="/home/alice/.bashrc",
                settings=(
                    StartupSetting(
                        line=3,
                        variable="PATH",
                        text='export PATH="/home/alice/bin:$PATH"',
                        value="/home/alice/bin:",
                    ),
                ),
            ),
        )
    ),
    pytorch={"python": Python(path="/home/alice/venv/bin/python", chosen_by="VIRTUAL_ENV")},
    nvml={
        "gpus": tuple(
            gpu(n, uuid=uuid, mig_devices=(f"MIG-{uuid[4:]}",)) for n, uuid in enumerate(UUIDS)
        )
    },
    kernel_log={
        "xids": (Xid(bus_id="0000:00:06.0", number=31, count=1, text="rack7 kernel: by alice"),)
    },
)
SECRETS = (
    "alice",
    "bob",
    "rack7",
    "example.org",
    "1c9d0a3",
    "444455556666",
    "165092301234",
)


def json_of(snapshot: Snapshot) -> str:
    return msgspec.json.encode(snapshot).decode()


def test_no_private_detail_is_left():
    text = json_of(redact(PRIVATE, ALICE))

    for secret in SECRETS:
        assert secret not in text, secret
    assert '"name":"host"' in text
    assert "/~/cuda" in text
    assert "/scratch/user/lib" in text


def test_the_facts_that_tell_no_tales_stay():
    redacted = redact(PRIVATE, ALICE)

    assert redacted.driver == PRIVATE.driver
    assert redacted.toolkits == PRIVATE.toolkits
    assert redacted.host.groups == ("user", "video")
    assert isinstance(redacted.nvml.gpus, tuple)
    assert redacted.nvml.gpus[0].bus_id == "0000:00:06.0"


def test_redacting_twice_is_as_good_as_once():
    once = redact(PRIVATE, ALICE)

    assert redact(once, ALICE) == once
    assert redact(once, owner()) == once


def test_the_same_name_gets_the_same_token_every_time():
    assert redact(PRIVATE, ALICE) == redact(PRIVATE, ALICE)


def test_a_uuid_in_a_variable_still_names_its_gpu():
    redacted = redact(PRIVATE, ALICE)

    assert isinstance(redacted.nvml.gpus, tuple)
    first, second = (one.uuid for one in redacted.nvml.gpus)
    assert first != second
    assert redacted.environment.variable("CUDA_VISIBLE_DEVICES") == f"{second},{first}"


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("GPU-1c9d0a3e", 1),
        ("GPU-1C9D0A3E-1111", 1),
        ("GPU-1c9d0a3", 2),
        ("GPU-", 2),
        ("GPU-ffff", 0),
    ],
)
def test_a_prefix_names_as_many_gpus_as_before(given: str, names: int):
    redacted = redact(with_variables(PRIVATE, CUDA_VISIBLE_DEVICES=given), ALICE)

    prefix = redacted.environment.variable("CUDA_VISIBLE_DEVICES")
    assert isinstance(redacted.nvml.gpus, tuple)
    assert sum(str(one.uuid).startswith(str(prefix)) for one in redacted.nvml.gpus) == names


def test_different_homes_stay_different():
    redacted = redact(PRIVATE, ALICE)

    assert isinstance(redacted.environment.path, tuple)
    mine, other = (entry.text for entry in redacted.environment.path)
    assert mine == "/~/bin"
    assert other != mine
    assert other.startswith("/~")


@pytest.mark.parametrize("home", ["/", "", "/usr/local", "/nonexistent"])
def test_a_home_that_is_no_home_is_left_alone(home: str):
    redacted = redact(HEALTHY, Owner(home=home, user="nvidia", host="localhost"))

    assert redacted.toolkits == HEALTHY.toolkits
    assert redacted.environment == HEALTHY.environment


def test_a_host_name_that_is_a_word_of_ours_spoils_nothing():
    redacted = redact(HEALTHY, Owner(home="/root", user="root", host="H200"))

    assert isinstance(redacted.nvml.gpus, tuple)
    assert redacted.nvml.gpus[0].name == "NVIDIA H200"


BROKEN = {
    "healthy": HEALTHY,
    "private": PRIVATE,
    "nothing known": Snapshot(),
    "hidden": with_variables(CUDA_VISIBLE_DEVICES=""),
    "unknown uuid": with_variables(PRIVATE, CUDA_VISIBLE_DEVICES="GPU-ffffffff"),
    "ambiguous uuid": with_variables(PRIVATE, CUDA_VISIBLE_DEVICES="GPU-1c9"),
    "twice": with_variables(PRIVATE, CUDA_VISIBLE_DEVICES=f"{UUIDS[0]},{UUIDS[0][:12]}"),
    "mig": with_variables(PRIVATE, CUDA_VISIBLE_DEVICES=f"MIG-{UUIDS[0][4:]}"),
    "mismatch": machine(driver={"module_version": "570.86.15"}),
    "no driver": machine(driver={"module_version": None, "libraries": ()}),
    "cuInit": machine(driver={"cuda_init": CudaInit(library="libcuda.so.1", code=803)}),
    "no torch": machine(pytorch={"torch": None}),
    "lost": machine(nvml={"gpus": (gpu(0, state="lost"), gpu(1))}),
    "unknown": machine(nvml={"gpus": Unknown("/home/alice is not there")}),
    "home on PATH": machine(
        environment={"path": (path_entry("/home/alice/bin"), path_entry("/usr/bin"))}
    ),
    "home in a home": machine(
        environment={
            "cuda_home": msgspec.structs.replace(
                seen(HEALTHY.environment.cuda_home),
                value="/home/alice/cuda",
                resolved="/home/alice/cuda-13.0",
            )
        }
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_redacted_snapshot_is_judged_as_the_original(name: str):
    def judged(snapshot: Snapshot) -> list:
        report = examine(snapshot)
        return [
            report.verdict,
            [(f.code, f.severity, f.explained_by) for f in report.findings],
            [n.code for n in report.not_checked],
            report.passed,
        ]

    redacted = redact(BROKEN[name], ALICE)
    stored = msgspec.json.decode(snapshot_file.as_json(redacted), type=Snapshot)

    assert judged(redacted) == judged(BROKEN[name])
    assert judged(stored) == judged(BROKEN[name])


def test_a_snapshot_of_thousands_of_texts_is_redacted_at_once():
    import time

    big = machine(
        PRIVATE, environment={"path": tuple(path_entry(f"/home/u{n}/bin") for n in range(300))}
    )
    started = time.monotonic()

    redact(big, ALICE)

    assert time.monotonic() - started < 5
