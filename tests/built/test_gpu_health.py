"""Faults of GPUs that show in the kernel's log, in its tree of devices, or under load only."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from built.machine import BUS_IDS, SITE, BuiltMachine
from fakes.nvml import Error, h200

pytestmark = pytest.mark.namespaces

#: A torch that does nothing but say that all GPUs are under load, and hold them so.
BUSY_TORCH = """
import os, sys, time

emit = sys.modules["gpucheck_payload.channel"].emit
emit("torch", import_error=None, cuda="13.0")
emit("cuda", is_available=True, device_count=0, warning=None)
emit("worked")
emit("loaded")
time.sleep(float(sys.argv[-1]))
emit("done")
os._exit(0)
"""
PERFORMANCE_IDLE, PERFORMANCE_BUSY = 8, 0


def found(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [(one["code"], one["severity"], one["subject"]) for one in report["findings"]]


def saw(report: dict[str, Any]) -> str:
    return "\n".join(one["saw"] for one in report["findings"])


# ---------------------------------------------------------------------------------- under load


def under_load(machine: BuiltMachine, *codes: str, **second: Any) -> dict[str, Any]:
    """Examine a machine whose GPU 1 is idle at first, and *second* under load."""
    idle = {"pcie_generation": 1, "performance_state": PERFORMANCE_IDLE, "sm_clock": 345}
    busy = {
        "pcie_generation": 5,
        "performance_state": PERFORMANCE_BUSY,
        "sm_clock": 1980,
        "utilization": "100 60",
        "event_reasons": 0,
        **second,
    }
    quiet = {"utilization": "0 0", "event_reasons": 1, **idle}
    sound = {name: [quiet[name], value] for name, value in {**busy, **BOTH_WELL}.items()}
    sick = {name: [quiet[name], value] for name, value in busy.items()}
    machine.gpus = [h200(**sound), h200(**sick)]
    machine.write(f"{SITE}/torch/__init__.py", BUSY_TORCH)
    return machine.doctor("--deep", "--select", ",".join(codes))


BOTH_WELL = {"pcie_generation": 5, "performance_state": 0, "sm_clock": 1980, "event_reasons": 0}


def test_a_slow_link_is_found_under_load(machine: BuiltMachine):
    report = under_load(machine, "LNK002", pcie_generation=3)

    assert found(report) == [("LNK002", "warning", "gpu 1")]
    assert "generation 3 under load" in saw(report)


def test_a_link_that_wakes_up_under_load_is_sound(machine: BuiltMachine):
    report = under_load(machine, "LNK002", "GPU015")

    assert found(report) == []
    assert report["passed"] == ["GPU015", "LNK002"]


def test_a_link_of_an_idle_gpu_is_not_judged(machine: BuiltMachine):
    machine.gpus = [h200(pcie_generation=1, performance_state=8), h200()]

    report = machine.doctor("--select", "LNK002")

    assert found(report) == []
    assert [(one["subject"], one["why"]) for one in report["not_checked"]] == [("gpu 0", "idle")]


def test_locked_clocks_are_found_under_load(machine: BuiltMachine):
    report = under_load(machine, "GPU015", sm_clock=1005)

    assert found(report) == [("GPU015", "warning", "gpu 1")]
    assert "1005 MHz under load" in saw(report)


def test_low_clocks_under_a_power_cap_are_not(machine: BuiltMachine):
    report = under_load(machine, "GPU015", sm_clock=1200, event_reasons=0x4)

    assert found(report) == []


def test_a_slowdown_that_only_load_brings_is_found(machine: BuiltMachine):
    report = under_load(machine, "GPU012", event_reasons=0x4 | 0x8 | 0x40)

    assert found(report) == [("GPU012", "error", "gpu 1")]


# ------------------------------------------------------------------------ the tree of devices


def bridge(machine: BuiltMachine, *, redirects: bool) -> None:
    """Put one bridge above both GPUs; byte 256 of its configuration space is the ACS header."""
    devices = machine.place / "sys/bus/pci/devices"
    above = machine.place / "sys/devices/pci0000:00/0000:00:01.0"
    above.mkdir(parents=True)
    acs = struct.pack("<IHH", 0x000D | 1 << 16, 0x5F, 0x1D if redirects else 0x11)
    (above / "config").write_bytes(bytes(256) + acs + bytes(3832))
    for bus_id in BUS_IDS:
        (devices / bus_id).rename(above / bus_id)
        (devices / bus_id).symlink_to(f"../../../devices/pci0000:00/0000:00:01.0/{bus_id}")


def test_a_bridge_that_redirects_is_found_on_bare_metal(machine: BuiltMachine):
    bridge(machine, redirects=True)

    report = machine.doctor("--quick", "--select", "LNK010")

    assert [(code, severity) for code, severity, _ in found(report)] == [("LNK010", "warning")]
    assert f"bridge 0000:00:01.0 above {', '.join(BUS_IDS)}" in saw(report)


def test_a_bridge_that_does_not_redirect_is_fine(machine: BuiltMachine):
    bridge(machine, redirects=False)

    report = machine.doctor("--quick", "--select", "LNK010")

    assert report["passed"] == ["LNK010"]


def test_a_bridge_is_the_hosts_business_in_a_virtual_machine(machine: BuiltMachine):
    bridge(machine, redirects=True)
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 avx2 hypervisor\n")

    report = machine.doctor("--quick", "--select", "LNK010")

    assert found(report) == []
    assert report["passed"] == []


def test_a_bridge_that_only_root_may_read_is_not_checked(machine: BuiltMachine):
    bridge(machine, redirects=True)
    config = machine.place / "sys/devices/pci0000:00/0000:00:01.0/config"
    config.write_bytes(config.read_bytes()[:64])

    report = machine.doctor("--quick", "--select", "LNK010")

    assert found(report) == []
    assert "only root may" in report["not_checked"][0]["why"]


@pytest.mark.parametrize(("second", "codes"), [("1", ["LNK008"]), ("0", [])])
def test_gpus_of_two_numa_nodes_are_told(machine: BuiltMachine, second: str, codes: list[str]):
    for bus_id, node in zip(BUS_IDS, ("0", second), strict=True):
        machine.sys(f"bus/pci/devices/{bus_id}/numa_node", f"{node}\n")

    report = machine.doctor("--quick", "--select", "LNK008")

    assert [one["code"] for one in report["findings"]] == codes
    assert all(one["severity"] == "info" for one in report["findings"])


@pytest.mark.parametrize(
    ("kind", "modules", "codes"),
    [
        ("", "", ["LNK011"]),
        ("", "nvidia_peermem 1 0 - Live 0x0\n", []),
        ("Open Kernel", "", []),
    ],
    ids=["neither", "peermem", "dma-buf"],
)
def test_infiniband_wants_a_way_to_the_gpus_memory(
    machine: BuiltMachine, kind: str, modules: str, codes: list[str]
):
    if not Path("/proc/modules").exists():
        pytest.skip("this kernel has no modules, and so no list of them to write over")
    machine.sys("class/infiniband/mlx5_0/node_type", "1: CA\n")
    machine.kernel_module(kind=kind)
    machine.proc("modules", f"{modules}nvidia_uvm 1 0 - Live 0x0\nnvidia 1 1 - Live 0x0\n")

    report = machine.doctor("--quick", "--select", "LNK011")

    assert [one["code"] for one in report["findings"]] == codes


# --------------------------------------------------------------------------------- the kernel log

#: lines of drivers from 390 to 580, and what comes of them: severity, words
LOGGED = [
    (
        ["NVRM: Xid (PCI:0000:00:07): 79, pid='<unknown>', name=<unknown>, GPU has fallen off"],
        "warning",
        "GPU no longer answers",
    ),
    (["NVRM: Xid (PCI:0000:00:07): 48, pid=7, An uncorrectable double bit error"], "error", "ECC"),
    (["NVRM: Xid (0000:00:07): 62, 0a76(2d50) 00000000 00000000"], "error", "PMU"),
    (["NVRM: Xid (PCI:0000:00:07): 119, pid=9, name=x, Timeout after 6s"], "error", "GSP"),
    (
        ["NVRM: Xid (PCI:0000:00:07): 31, pid=99, name=python3, Ch 00000008, intr 00000000."],
        "info",
        "MMU fault",
    ),
    (["NVRM: Xid (PCI:0000:00:07): 43, pid=99, name=python3, Ch 00000008"], "info", "healthy"),
    (["NVRM: Xid (PCI:0000:00:07): 94, pid=99, name=a, Contained: CE User"], "warning", "memory"),
    (
        [
            f"NVRM: Xid (PCI:0000:00:07): 13, pid={n}, name=job{n}, Graphics SM Warp Exception on"
            " (GPC 4, TPC 2, SM 1): Illegal Instruction Encoding"
            for n in (70, 71, 72)
        ],
        "warning",
        "job70, job71 and job72; always on GPC 4 TPC 2 SM 1, for 3 different programs",
    ),
    (
        [
            f"NVRM: Xid (PCI:0000:00:07): 13, pid={n}, name=job{n}, Graphics SM Warp Exception on"
            f" (GPC 4, TPC {n}, SM 1): Out Of Range Address"
            for n in (1, 2, 3)
        ],
        "info",
        "3 times",
    ),
    (
        [f"NVRM: Xid (PCI:0000:00:07): 31, pid={n}, name=job{n}, Ch 8" for n in (70, 71, 72)],
        "warning",
        "on this GPU alone of 2",
    ),
    (
        ["NVRM: Xid (PCI:0000:00:07): 154, action changed from 0x0 to 0x2 (Node Reboot Required)"],
        "info",
        "0x2 (Node Reboot Required)",
    ),
    (["NVRM: Xid (PCI:0000:00:07): 999, something new"], "warning", "something new"),
]


@pytest.mark.parametrize(
    ("lines", "severity", "words"), LOGGED, ids=[f"{n}-{one[1]}" for n, one in enumerate(LOGGED)]
)
def test_an_xid_is_one_finding_with_the_severity_of_its_table(
    machine: BuiltMachine, lines: list[str], severity: str, words: str
):
    machine.kernel_log(*lines)

    report = machine.doctor("--quick", "--select", "GPU020,GPU001")

    assert found(report) == [("GPU020", severity, "gpu 1")]
    assert words in saw(report)
    assert report["exit_code"] == int(severity == "error")


def test_an_xid_154_of_a_driver_that_nvml_asks_nothing_of_is_judged_by_its_text(
    machine: BuiltMachine,
):
    machine.gpus = [h200(), h200(recovery_action=Error(2))]
    machine.kernel_log(
        "NVRM: Xid (PCI:0000:00:07): 154, GPU recovery action changed from 0x0 (None) to 0x1"
        " (GPU Reset Required)"
    )

    report = machine.doctor("--quick", "--select", "GPU020")

    assert found(report) == [("GPU020", "error", "gpu 1")]
    assert "GPU Reset Required" in saw(report)


def test_an_nvswitch_error_is_never_looked_up_as_an_xid(machine: BuiltMachine):
    machine.kernel_log(
        "nvidia-nvswitch3: SXid (PCI:0000:00:07.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "nvidia-nvswitch: SXid (PCI:0000:00:06.0): 48, Non-fatal",
    )

    report = machine.doctor("--quick", "--select", "GPU020")

    assert report["passed"] == ["GPU020"]


def test_an_xid_79_of_a_gpu_that_is_gone_says_once_which_one_is_lost(machine: BuiltMachine):
    machine.gpus = [h200()]
    machine.kernel_log(
        "NVRM: Xid (PCI:0000:00:07): 79, pid=1, GPU has fallen off the bus.",
        "NVRM: GPU 0000:00:07.0: GPU has fallen off the bus.",
    )

    report = machine.doctor("--quick", "--select", "GPU", "--expect-gpus", "2")

    roots = [(f["code"], f["subject"]) for f in report["findings"] if f["explained_by"] is None]
    assert roots == [("GPU001", "GPU at 0000:00:07.0")]
    assert {f["code"] for f in report["findings"]} == {"GPU001", "GPU020", "GPU022"}


def test_one_failing_row_of_memory_is_one_complaint(machine: BuiltMachine):
    machine.gpus = [
        h200(),
        h200(uncorrected_volatile=1, remapped_rows="0 1 1 0", recovery_action=4),
    ]
    machine.kernel_log(
        "NVRM: Xid (PCI:0000:00:07): 48, pid=7, name=a, An uncorrectable double bit error",
        "NVRM: Xid (PCI:0000:00:07): 63, pid=7, name=a, Row Remapper: New row marked",
        "NVRM: Xid (PCI:0000:00:07): 94, pid=7, name=a, Contained: SM",
        "NVRM: Xid (PCI:0000:00:07): 154, GPU recovery action changed from 0x0 (None) to 0x4",
    )

    report = machine.doctor("--quick", "--select", "GPU,LNK")

    roots = [(f["code"], f["subject"]) for f in report["findings"] if f["explained_by"] is None]
    assert roots == [("GPU004", "gpu 1")]
    assert [row["verdict"] for row in report["gpus"]] == ["ok", "drain"]


def test_a_container_is_not_blamed_for_gpus_that_are_not_its_own(machine: BuiltMachine):
    machine.write("/.dockerenv")
    machine.gpus = [h200()]
    machine.kernel_log("NVRM: Xid (PCI:0000:00:07): 79, pid=1, GPU has fallen off the bus.")

    report = machine.doctor("--quick", "--select", "GPU")

    assert [(code, severity) for code, severity, _ in found(report)] == [("GPU020", "info")]
    assert report["verdict"] == "healthy"


def test_a_log_that_nobody_may_read_is_not_checked_with_the_command_that_would_let_it(
    machine: BuiltMachine,
):
    (machine.place / "dev/kmsg").chmod(0)
    machine.ordinary_user()
    for name in ("dmesg", "journalctl"):
        refuses = f"#!/bin/sh\necho '{name}: Operation not permitted' >&2\nexit 1\n"
        machine.write(f"/usr/bin/{name}", refuses, mode=0o755)

    report = machine.doctor("--quick", "--select", "GPU020")

    [unchecked] = report["not_checked"]
    assert unchecked["code"] == "GPU020"
    assert "/dev/kmsg: Permission denied" in unchecked["why"]
    assert "join the group systemd-journal" in unchecked["why"]


# -------------------------------------------------------------------------------- whole machines


@pytest.mark.parametrize("count", [1, 4, 16])
def test_any_number_of_healthy_gpus_is_healthy(machine: BuiltMachine, count: int):
    bus_ids = [f"0000:{n:02x}:00.0" for n in range(1, count + 1)]
    machine.pci(*bus_ids)
    machine.kernel_module(gpus=bus_ids)
    machine.gpus = [h200(pci=f"{bus_id} 0x233510de 0x18bf10de") for bus_id in bus_ids]

    report = machine.doctor("--quick", "--select", "GPU,LNK", "--expect-gpus", str(count))

    assert report["verdict"] == "healthy"
    assert [row["state"] for row in report["gpus"]] == ["ok"] * count
    assert len(json.dumps(report)) > 1000 * count
