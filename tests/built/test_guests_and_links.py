"""Whole machines whose GPUs or links somebody reported as broken, each with a sound twin.

Virtual GPUs, confidential guests, NVLink 5 boards, errors that only the kernel counted, and what
only two looks a moment apart can tell.
"""

import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from built.machine import BUS_IDS, BuiltMachine
from fakes.nvml import Error, FakeGpu, System, geforce_laptop, h200

pytestmark = pytest.mark.namespaces


def found(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["code"], one["severity"]) for one in report["findings"]]


def roots(report: dict[str, Any]) -> list[str]:
    return [one["code"] for one in report["findings"] if one["explained_by"] is None]


def the_finding(report: dict[str, Any], code: str) -> dict[str, Any]:
    [one] = [one for one in report["findings"] if one["code"] == code]
    return one


def commands(finding: dict[str, Any]) -> str:
    return repr(finding["commands"])


def virtual(machine: BuiltMachine) -> None:
    machine.proc("cpuinfo", "processor\t: 0\nflags\t\t: fpu sse2 avx2 hypervisor\n")


def load(machine: BuiltMachine, *modules: str) -> None:
    """Have the kernel list these modules; a sandbox without /proc/modules shows them in /sys."""
    machine.proc("modules", "".join(f"{name} 1 0 - Live 0x0\n" for name in modules))
    for name in modules:
        machine.sys(f"module/{name}/initstate", "live\n")


def gpus_at(machine: BuiltMachine, gpu: FakeGpu, count: int, device: str = "2335") -> list[str]:
    """Put *count* GPUs like *gpu* into the machine; return their bus ids."""
    bus_ids = [f"0000:{n:02x}:00.0" for n in range(1, count + 1)]
    machine.pci(*bus_ids)
    machine.kernel_module(gpus=bus_ids)
    machine.gpus = [gpu.but(pci=f"{bus_id} 0x{device}10de 0x00000000") for bus_id in bus_ids]
    for minor in range(count):
        machine.device(f"nvidia{minor}")
    return bus_ids


# ------------------------------------------------------------------------------- guests of others


A10Q = {"name": "NVIDIA A10-24Q", "virtualization": 2, "fabric": Error(3)}
EXPIRED = "NVRM: nvidia-vgpu: Unlicensed Unrestricted state timer has expired"


def test_a_virtual_gpu_whose_license_ran_out(machine: BuiltMachine):
    virtual(machine)
    machine.gpus = [h200(**A10Q, license="1 2 0 0")] * 2
    machine.kernel_log(EXPIRED)

    report = machine.doctor("--quick", "--select", "GPU025")

    assert set(found(report)) == {("GPU025", "error")}
    assert "nvidia-gridd" in commands(report["findings"][0])


def test_a_virtual_gpu_with_its_license(machine: BuiltMachine):
    virtual(machine)
    machine.gpus = [h200(**A10Q, license="1 2 1 1")] * 2

    report = machine.doctor("--quick", "--select", "GPU,LNK")

    assert report["verdict"] == "healthy"
    assert "GPU025" in report["passed"]


def test_a_confidential_guest_whose_gpu_is_not_set_ready(machine: BuiltMachine):
    virtual(machine)
    gpus_at(machine, h200(name="NVIDIA H100 PCIe", fabric="0 0 0 0"), 1)
    machine.nvml_options = {"system": System(confidential="2 1 0", gpus_ready=0)}
    machine.environment |= {"FAKE_CODE": "802"}

    report = machine.doctor("--select", "GPU,LNK,DRV009")

    assert roots(report) == ["GPU026"]
    assert the_finding(report, "DRV009")["explained_by"] == "GPU026"
    assert "conf-compute -srs 1" in commands(report["findings"][0])


def test_a_confidential_guest_whose_gpu_is_ready(machine: BuiltMachine):
    virtual(machine)
    machine.nvml_options = {"system": System(confidential="2 1 0", gpus_ready=1)}

    report = machine.doctor("--quick", "--select", "GPU026")

    assert report["passed"] == ["GPU026"]


# ------------------------------------------------------------------------------------- the fabric


B200 = {"name": "NVIDIA B200", "compute_capability": "10 0"}


def nvlink_5(machine: BuiltMachine, fabric: str, *modules: str) -> None:
    """A board with eight B200s and the ConnectX-7 functions that manage its switches."""
    gpus_at(machine, h200(**B200, fabric=fabric), 8, "2901")
    for n in range(4):
        at = f"class/infiniband/mlx5_{n}/device"
        machine.sys(f"{at}/vpd", "\x82\x10\x00NVIDIA ConnectX-7 SW_MNG")
    load(machine, "nvidia_uvm", "nvidia", *modules)
    machine.write("/usr/bin/nvlsm", mode=0o755)


def test_a_board_with_nvlink_5_and_without_its_modules_is_one_finding(machine: BuiltMachine):
    nvlink_5(machine, "2 0 0 0")
    machine.environment |= {"FAKE_CODE": "802"}

    report = machine.doctor("--select", "GPU,LNK,DRV009,DRV010,HST003")

    assert roots(report) == ["LNK006"]
    fabric = the_finding(report, "LNK006")
    assert fabric["gpus"] == list(range(8))
    assert "module mlx5_ib" in fabric["saw"]
    assert "module ib_umad" in fabric["saw"]
    assert "modprobe ib_umad" in commands(fabric)


def test_a_board_with_nvlink_5_whose_fabric_is_complete_is_healthy(machine: BuiltMachine):
    nvlink_5(machine, "3 0 0 1", "mlx5_ib", "ib_umad", "ib_core")

    report = machine.doctor("--quick", "--select", "GPU,LNK,HST003")

    assert [one for one in found(report) if one[1] != "info"] == []


def test_gpus_of_somebody_elses_board_in_a_container_are_the_hosts_business(machine: BuiltMachine):
    machine.write("/.dockerenv")
    machine.gpus = [h200(fabric="2 0 0 0"), h200(fabric="2 0 0 0")]

    report = machine.doctor("--quick", "--select", "LNK006")

    fabric = the_finding(report, "LNK006")
    assert fabric["gpus"] == [0, 1]
    assert "host" in fabric["fix"]
    assert "systemctl" not in commands(fabric)


def test_nvlink_5_errors_on_two_cards_that_took_programs_down(machine: BuiltMachine):
    ids = gpus_at(machine, h200(name="NVIDIA B300 SXM6 AC", compute_capability="10 3"), 8, "3182")
    machine.kernel_log(
        *(
            f"NVRM: Xid (PCI:{bus_id[:-2]}): 145, RLW_RXPIPE Nonfatal XC0 i0 Link {link:02}"
            " (0x0409a0c2 0x00000000 0x00000000 0x00000000)"
            for bus_id in ids[:2]
            for link in range(18)
        ),
        f"NVRM: Xid (PCI:{ids[0][:-2]}): 45, pid=77, name=python3, Ch 00000008, caused by previous"
        " Xid 145",
    )

    report = machine.doctor("--quick", "--select", "GPU,LNK")

    worst = report["findings"][0]
    assert (worst["code"], worst["severity"], worst["gpus"]) == ("GPU020", "error", [0])
    assert "on 18 links" in worst["saw"]
    assert "reset all GPUs together or reboot" in worst["fix"]


# -------------------------------------------------------------------------- what the kernel counted


PORT = "0000:00:01.0"
AER = (
    f"pcieport {PORT}: AER: Multiple Correctable error message received from {PORT}",
    f"pcieport {PORT}: PCIe Bus Error: severity=Correctable, type=Data Link Layer, (Receiver ID)",
)


def below_a_port(machine: BuiltMachine, **totals: int) -> None:
    """Put a port above both GPUs that counted errors."""
    devices = machine.place / "sys/bus/pci/devices"
    above = machine.place / f"sys/devices/pci0000:00/{PORT}"
    above.mkdir(parents=True)
    acs = struct.pack("<IHH", 0x000D | 1 << 16, 0x5F, 0x11)
    (above / "config").write_bytes(bytes(256) + acs + bytes(3832))
    for name, total in (
        ("correctable", "TOTAL_ERR_COR"),
        ("nonfatal", "TOTAL_ERR_NONFATAL"),
        ("fatal", "TOTAL_ERR_FATAL"),
    ):
        (above / f"aer_dev_{name}").write_text(f"RxErr 0\n{total} {totals.get(name, 0)}\n")
    for bus_id in BUS_IDS:
        (devices / bus_id).rename(above / bus_id)
        (devices / bus_id).symlink_to(f"../../../devices/pci0000:00/{PORT}/{bus_id}")


def test_a_bad_link_above_the_gpus(machine: BuiltMachine):
    below_a_port(machine, correctable=4166)
    machine.kernel_log(*AER * 120)

    report = machine.doctor("--quick", "--select", "LNK")

    assert found(report) == [("LNK012", "warning")]
    assert "4,166 corrected PCIe errors" in report["findings"][0]["saw"]
    assert [row["verdict"] for row in report["gpus"]] == ["degraded", "degraded"]


def test_a_link_that_lost_data(machine: BuiltMachine):
    below_a_port(machine, nonfatal=1)

    report = machine.doctor("--quick", "--select", "LNK012")

    assert found(report) == [("LNK012", "error")]


def test_a_few_corrected_errors_come_with_every_link(machine: BuiltMachine):
    below_a_port(machine, correctable=7)

    report = machine.doctor("--quick", "--select", "LNK012")

    assert report["passed"] == ["LNK012"]


def test_a_fatal_error_of_a_switch(machine: BuiltMachine):
    machine.pci_device("0000:c3:00.0", kind="0x068000", device="0x22a3")
    machine.kernel_log(
        "nvidia-nvswitch3: SXid (PCI:0000:c3:00.0): 20034, Fatal, Link 30 LTSSM Fault Up",
        "nvidia-nvswitch3: SXid (PCI:0000:c3:00.0): 22013, Non-fatal, Link 31 Minion Link DLREQ",
    )

    report = machine.doctor("--quick", "--select", "LNK013")

    assert found(report) == [("LNK013", "error"), ("LNK013", "info")]
    assert "SXid 20034" in report["findings"][0]["saw"]


def infiniband(machine: BuiltMachine) -> None:
    """An adapter, the closed kernel module, and nvidia_peermem loaded for it."""
    machine.sys("class/infiniband/mlx5_0/node_type", "1: CA\n")
    machine.kernel_module(kind="")
    load(machine, "nvidia_uvm", "nvidia", "nvidia_peermem")


def test_a_peermem_that_is_loaded_and_not_registered(machine: BuiltMachine):
    infiniband(machine)

    report = machine.doctor("--quick", "--select", "LNK011")

    assert found(report) == [("LNK011", "warning")]
    assert "loaded and not registered" in report["findings"][0]["saw"]


def test_a_peermem_that_is_registered(machine: BuiltMachine):
    infiniband(machine)
    machine.sys("kernel/mm/memory_peers/nv_mem/version", "1.0\n")

    report = machine.doctor("--quick", "--select", "LNK011")

    assert found(report) == []


# ------------------------------------------------------------------------------------ heat and BARs


def test_a_laptop_whose_platform_holds_the_gpu_cool(machine: BuiltMachine):
    gpus_at(
        machine,
        geforce_laptop(
            name="NVIDIA GeForce MX330",
            temperature=56,
            shutdown_temperature=102,
            slowdown_temperature=97,
            gpu_max_temperature=57,
            event_reasons=0x20,
        ),
        1,
        "1d16",
    )

    report = machine.doctor("--quick", "--select", "GPU,LNK")

    assert [one for one in found(report) if one[1] != "info"] == []
    assert "the platform holds this GPU to 57 °C" in the_finding(report, "GPU013")["saw"]


@pytest.mark.parametrize(
    ("capability", "codes"), [("8 9", ["LNK009"]), ("7 5", [])], ids=["Ada", "Turing"]
)
def test_a_small_bar_is_a_note_on_gpus_that_could_have_more(
    machine: BuiltMachine, capability: str, codes: list[str]
):
    small = h200(bar1="268435456 266731520 1703936", compute_capability=capability)
    machine.gpus = [h200(), small]

    report = machine.doctor("--quick", "--select", "LNK009")

    assert [one["code"] for one in report["findings"]] == codes


# ----------------------------------------------------------------------------------- two looks


@contextmanager
def slow_cuda(machine: BuiltMachine, seconds: float = 3.0) -> Iterator[None]:
    """Let cuInit take as long as it takes a driver to wake its GPUs."""
    machine.environment |= {"FAKE_CUDA": "cuInit=sleep", "FAKE_SECONDS": str(seconds)}
    yield


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"corrected_volatile": [0, 50]}, "GPU010"),
        ({"hardware_thermal_ns": [0, 900_000_000]}, "GPU012"),
        ({"pcie_replays": [3, 500]}, "LNK003"),
        ({"crc_data": [15, 90_000]}, "LNK005"),
        ({"inforom_check": Error(14)}, "GPU018"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_plain_doctor_sees_counters_that_grow(
    machine: BuiltMachine, changes: dict[str, Any], code: str
):
    machine.gpus = [h200(), h200(**changes)]
    with slow_cuda(machine):
        report = machine.doctor("--select", "GPU010,GPU012,GPU018,LNK003,LNK005")

    assert [one["code"] for one in report["findings"]] == [code]
    assert report["findings"][0]["gpus"] == [1]


def test_the_plain_doctor_sees_counters_that_stand_still(machine: BuiltMachine):
    with slow_cuda(machine):
        report = machine.doctor("--select", "GPU010,GPU012,GPU018,LNK003,LNK005")

    assert found(report) == []
    assert report["passed"] == ["GPU010", "GPU012", "GPU018", "LNK003", "LNK005"]


def test_a_busy_gpu_with_a_slow_link_is_found_without_deep(machine: BuiltMachine):
    busy = {"performance_state": 0, "utilization": "100 60"}
    machine.gpus = [h200(**busy), h200(**busy, pcie_generation=3)]

    report = machine.doctor("--quick", "--select", "LNK002")

    assert found(report) == [("LNK002", "warning")]


HELD = "150754820096 644939776 148962396160 1147483648"
FREE = "150754820096 644939776 150109880320 0"


def test_memory_that_nobody_owns_is_found_at_the_second_look(machine: BuiltMachine):
    machine.gpus = [h200(), h200(memory=HELD)]

    report = machine.doctor("--quick", "--select", "GPU019")

    assert found(report) == [("GPU019", "warning")]


def test_memory_of_a_process_that_was_just_ending_is_nothing(machine: BuiltMachine):
    machine.gpus = [h200(), h200(memory=[HELD, FREE])]

    report = machine.doctor("--quick", "--select", "GPU019")

    assert report["passed"] == ["GPU019"]


@pytest.mark.skipif(shutil.which("sleep") is None, reason="no program to give another name")
@pytest.mark.parametrize("is_running", [True, False])
def test_exclusive_process_is_right_where_mps_runs(
    machine: BuiltMachine, tmp_path: Path, is_running: bool
):
    machine.gpus = [h200(compute_mode=3), h200(compute_mode=3)]
    program = tmp_path / "nvidia-cuda-mps-control"
    shutil.copy(shutil.which("sleep") or "", program)
    daemon: Sequence[str | Path] = [program if is_running else sys.executable, "60"]
    with subprocess.Popen([*daemon] if is_running else [sys.executable, "-c", ""]) as process:
        report = machine.doctor("--quick", "--select", "GPU016")
        process.kill()

    assert found(report) == ([] if is_running else [("GPU016", "warning")] * 2)
