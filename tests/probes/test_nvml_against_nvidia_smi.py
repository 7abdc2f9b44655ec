"""Our rows equal nvidia-smi's, field by field."""

import shutil
import subprocess
from pathlib import Path

import pytest
from fakes.nvml import (
    h200,
)

from gpucheck.payload.nvml_queries import bus_id
from gpucheck.probes import nvml
from gpucheck.snapshot import (
    Nvml,
)
from nvml_looks import look, unknown_facts
from seen_facts import seen

RECORDED = Path(__file__).parents[1] / "recorded" / "h200_nvml.json"


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
    for texts, gpu in zip(logged, seen(found.gpus), strict=True):
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
    for gpu in seen(found.gpus):
        odd = {name: why for name, why in unknown_facts(gpu).items() if "too old" not in why}
        assert odd == {}
