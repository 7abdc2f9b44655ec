"""Every fault of a GPU, provoked through a library that pynvml loads, and found by the command.

The rules themselves are tested on facts; here the whole way is, from the library to the report.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.nvml import (
    Error,
    FakeGpu,
    FakeNvml,
    System,
    a100_pcie,
    geforce_laptop,
    h200,
    mig,
    old_driver,
)

BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def doctor(directory: Path, gpus: list[FakeGpu], *arguments: str, **fake: Any) -> dict[str, Any]:
    built = FakeNvml(directory, gpus, **fake)
    done = subprocess.run(
        [sys.executable, "-m", "gpucheck", "doctor", "--json", "--identify", *arguments],
        env={**BARE, **built.environment()},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=100,
    )
    assert done.stderr == b""
    report = json.loads(done.stdout)
    assert report["exit_code"] == done.returncode
    return report


def findings(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["code"], one["severity"], one["subject"]) for one in report["findings"]]


SOUND_SRAM = "0 0 0 0 0 0 0 0 0 0 0"
LINK_DOWN_8 = {f"nvmlDeviceGetNvLinkState.{link}": 0 for link in range(8)}
GPU = "gpu 1"

#: code, severity, whom it names, and the GPU that stands beside a healthy H200
PROVOKED = [
    ("GPU001", "error", GPU, h200().lost()),
    ("GPU001", "error", GPU, h200().lost(after=30)),
    ("GPU002", "error", GPU, h200().hangs("nvmlDeviceGetTemperature")),
    ("GPU002", "error", GPU, h200().crashes("nvmlDeviceGetFieldValues")),
    ("GPU003", "error", GPU, h200(recovery_action=1)),
    ("GPU003", "warning", GPU, h200(recovery_action=3)),
    ("GPU004", "error", GPU, h200(uncorrected_volatile=2)),
    ("GPU005", "warning", GPU, h200(remapped_rows="0 1 1 0")),
    ("GPU005", "warning", GPU, h200(repair_status="1 0")),
    ("GPU006", "error", GPU, h200(remapped_rows="0 9 0 1")),
    ("GPU007", "warning", GPU, h200(remap_histogram="3000 0 70 1 1")),
    (
        "GPU008",
        "warning",
        GPU,
        h200(retired_single_bit=3, retired_double_bit=0, retired_pending=1),
    ),
    (
        "GPU008",
        "error",
        GPU,
        h200(retired_single_bit=60, retired_double_bit=0, retired_pending=0),
    ),
    ("GPU009", "warning", GPU, h200(ecc_mode="0 0")),
    ("GPU009", "warning", GPU, h200(ecc_mode="1 0")),
    ("GPU010", "warning", GPU, h200(corrected_volatile=10_001)),
    ("GPU010", "warning", GPU, h200(corrected_volatile=[5, 500])),
    ("GPU011", "error", GPU, h200(sram_status=f"{SOUND_SRAM} 1")),
    ("GPU012", "error", GPU, h200(event_reasons=0x48)),
    ("GPU012", "error", GPU, h200(event_reasons=0x80 | 0x4)),
    ("GPU012", "error", GPU, h200(event_reasons=[0x8, 0x9])),
    ("GPU012", "warning", GPU, h200(event_reasons=0x20)),
    ("GPU013", "error", GPU, h200(temperature=90)),
    ("GPU013", "warning", GPU, h200(temperature=84)),
    ("GPU014", "warning", GPU, h200(power_limit_milliwatts=500_000)),
    ("GPU015", "warning", GPU, h200(application_clock=1200)),
    ("GPU016", "error", GPU, h200(compute_mode=2)),
    ("GPU016", "warning", GPU, h200(compute_mode=3)),
    ("GPU017", "error", GPU, mig(mig_devices=(Error(6), Error(6)))),
    ("GPU017", "warning", GPU, h200(mig_mode="0 1")),
    ("GPU019", "warning", GPU, h200(memory="150754820096 644939776 148962396160 1147483648")),
    ("GPU021", "info", None, a100_pcie()),
    ("GPU021", "warning", None, h200(power_limit_milliwatts=600_000)),
    ("GPU025", "error", GPU, h200(virtualization=2, license="1 2 0 0")),
    ("GPU023", "error", GPU, h200(unrepairable_memory=1)),
    ("GPU024", "warning", None, h200(vbios="96.00.A5.00.02")),
    ("LNK001", "warning", GPU, h200(pcie_width=8)),
    ("LNK001", "error", GPU, h200(pcie_width=4)),
    ("LNK003", "warning", GPU, h200(pcie_replays=[7, 4000])),
    ("LNK004", "error", GPU, h200(nvlinks_down=(3, 4))),
    ("LNK005", "warning", GPU, h200(crc_data=[15, 90_015])),
    ("LNK005", "warning", GPU, h200(replay=[0, 3])),
    ("LNK006", "error", GPU, h200(fabric="3 999 0 0")),
    ("LNK006", "error", GPU, h200(fabric="1 0 0 0")),
]


@pytest.mark.parametrize(
    ("code", "severity", "subject", "gpu"),
    PROVOKED,
    ids=[f"{code}-{severity}-{n}" for n, (code, severity, *_) in enumerate(PROVOKED)],
)
def test_each_fault_of_a_gpu_is_found(tmp_path, code, severity, subject, gpu):
    twice = ("--watch", "0.2") if code in ("GPU010", "GPU012", "LNK003", "LNK005") else ()

    report = doctor(tmp_path, [h200(), gpu], "--quick", "--select", code, "--timeout", "8", *twice)

    found = findings(report)
    assert [(one[0], one[1]) for one in found] == [(code, severity)]
    assert subject in (found[0][2], None)
    assert report["exit_code"] == (1 if severity == "error" else 0)


def test_gpus_that_cannot_reach_each_other_are_told_of(tmp_path):
    apart = h200(p2p=(1, 1, 5, 5, 5))

    report = doctor(tmp_path, [apart, apart], "--quick", "--select", "LNK007")

    assert [(code, severity) for code, severity, _ in findings(report)] == [("LNK007", "info")]


def test_a_corrupt_inforom_is_found_by_deep_alone(tmp_path):
    gpus = [h200(), h200(inforom_check=Error(14))]
    (tmp_path / "quick").mkdir()

    deep = doctor(tmp_path, gpus, "--deep", "--select", "GPU018")
    quick = doctor(tmp_path / "quick", gpus, "--quick", "--select", "GPU018")

    assert findings(deep) == [("GPU018", "warning", GPU)]
    assert findings(quick) == []
    assert {one["code"] for one in quick["not_checked"]} == {"GPU018"}


@pytest.mark.parametrize(
    "gpu",
    [
        h200(),
        h200(event_reasons=0x1 | 0x2 | 0x4 | 0x10 | 0x100),
        h200(performance_state=8, pcie_generation=1, sm_clock=345),
        h200(power_limit_milliwatts=750_000),
        h200(corrected_volatile=40),
        h200(pcie_replays=12_000),
        h200(crc_data=58),
        h200(fabric="0 0 0 0"),
        h200(recovery_action=0),
        h200(temperature=70),
        mig(),
        a100_pcie(),
        geforce_laptop(),
    ],
)
def test_what_healthy_gpus_show_gives_no_complaint(tmp_path, gpu):
    report = doctor(
        tmp_path, [gpu, gpu], "--quick", "--watch", "0.2", "--select", "GPU,LNK", "--timeout", "9"
    )

    assert [one for one in findings(report) if one[1] != "info"] == []
    assert report["verdict"] == "healthy"


def test_an_old_driver_gives_no_complaint_but_open_questions(tmp_path):
    report = doctor(
        tmp_path, [a100_pcie(), a100_pcie()], "--quick", "--select", "GPU,LNK", **old_driver()
    )

    assert [one for one in findings(report) if one[1] != "info"] == []
    whys = {one["code"]: one["why"] for one in report["not_checked"]}
    assert whys["GPU003"] == "driver too old: field 230 missing"


def test_a_fabric_that_an_older_struct_tells_of_is_judged_too(tmp_path):
    report = doctor(
        tmp_path,
        [h200(fabric="3 999 0 0")],
        "--quick",
        "--select",
        "LNK006",
        system=System(fabric_version=2),
    )

    assert findings(report) == [("LNK006", "error", "gpu 0")]


def test_three_kinds_of_dead_gpus_among_eight_are_three_findings_and_five_rows(tmp_path):
    gpus = [
        h200(),
        h200().lost(),
        h200(),
        h200().hangs("*", after=2),
        h200(),
        h200().crashes("nvmlDeviceGetName"),
        h200(),
        h200(),
    ]

    report = doctor(tmp_path, gpus, "--quick", "--select", "GPU,LNK", "--timeout", "8")

    errors = [one for one in findings(report) if one[1] == "error"]
    assert sorted(errors) == [
        ("GPU001", "error", "gpu 1"),
        ("GPU002", "error", "gpu 3"),
        ("GPU002", "error", "gpu 5"),
    ]
    assert len(report["gpus"]) == 8
    assert [row["state"] for row in report["gpus"]].count("ok") == 5


def test_a_lost_gpu_explains_the_links_that_are_down_on_its_neighbours(tmp_path):
    gpus = [h200(answers=LINK_DOWN_8), h200().lost()]

    report = doctor(tmp_path, gpus, "--quick", "--select", "GPU,LNK,DRV015")

    explained = {one["code"]: one["explained_by"] for one in report["findings"]}
    assert explained["GPU001"] is None
    assert explained["LNK004"] == "GPU001"


def test_the_number_of_gpus_that_a_scheduler_expects_is_held_to(tmp_path):
    (tmp_path / "right").mkdir()

    wrong = doctor(tmp_path, [h200()], "--quick", "--select", "GPU", "--expect-gpus", "8")
    right = doctor(tmp_path / "right", [h200()], "--quick", "--select", "GPU", "--expect-gpus", "1")

    assert [code for code, *_ in findings(wrong)] == ["GPU022"]
    assert wrong["exit_code"] == 1
    assert findings(right) == []
    assert right["exit_code"] == 0


def test_ignored_codes_and_strictness_decide_the_exit_status(tmp_path):
    gpus = [h200(), h200(power_limit_milliwatts=500_000)]
    codes = []
    for number, options in enumerate(
        ((), ("--strict",), ("--strict", "--ignore", "GPU014,GPU021"))
    ):
        directory = tmp_path / str(number)
        directory.mkdir()

        report = doctor(directory, gpus, "--quick", "--select", "GPU", *options)

        codes.append(report["exit_code"])
    assert codes == [0, 1, 0]
