"""A fake NVML for tests: a real libnvidia-ml.so.1, built with gcc, that answers what it is told.

    fake = FakeNvml(tmp_path, gpus=[h200(), h200(temperature=95)])
    subprocess.run(["gpucheck", "doctor"], env=os.environ | fake.environment())

tests/test_provoked.py has one example for every rule about GPUs and links.

The profiles are `h200()`, `a100_pcie()`, `geforce_laptop()` and `mig()`; `old_driver()` gives the
symbols that a driver of 2020 lacks: `FakeNvml(tmp_path, gpus=[a100_pcie()], **old_driver())`.

What a GPU answers is changed by name (all names are in NAMES; units as NVML has them):

    h200(temperature=95)                        another answer
    h200(name=Error(999))                       this query fails with that code
    h200(pcie_replays=[0, 500])                 0 in the first process that asks, 500 in the next
                                                (gpucheck reads the counters twice with --deep)
    h200(nvlinks_down=(3, 4), crc_data=[11, 90000])
    h200(processes={4242: 1 << 30})             process id: bytes

or by NVML's own name and arguments, where NAMES has none:

    h200(answers={"nvmlDeviceGetFieldValues.230.0": "1 2"})

What goes wrong is said by methods, each of which returns a changed copy; *function* is NVML's name
without `_v2` or `_v3`, or "*" for whatever is called; *after* counts the calls that still go well:

    h200().lost()                               GPU_IS_LOST to everything
    h200().lost(after=20)                       it falls off the bus on the way
    h200().hangs("nvmlDeviceGetTemperature")    that call never returns
    h200().hangs("*", after=2)                  the third query of this GPU never returns
    h200().hangs("*", deaf=True)                and no signal but KILL ends the process
    h200().hangs("*", locked=True)              and no call for another GPU returns any more
    h200().touches("nvmlDeviceGetName", path)   opens a file first; fakes/stuck.py has file systems
                                                where that never ends, not even by KILL
    h200().crashes("nvmlDeviceGetName")         SIGSEGV
    h200().exits("nvmlDeviceGetName", 3)        the library ends the process
    h200().prints("nvmlDeviceGetName", 1 << 20) a library that writes a megabyte to stdout
    h200().sleeps("*", 1.5)                     each query takes 1.5 ms longer
    h200().fails("nvmlDeviceGetSerial", 4)      NO_PERMISSION

The library as a whole: `FakeNvml(..., init_error=9)` (DRIVER_NOT_LOADED; 18 is
LIB_RM_VERSION_MISMATCH, 4 NO_PERMISSION, 999 UNKNOWN), `system=System(...)`, `missing=("symbol",)`,
`installed=False` (an empty directory: the library is not found there).

It is long because an H200 has an answer for every call.
"""

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("fake_nvml.c")


@dataclass(frozen=True)
class Error:
    """An NVML error code as the answer."""

    code: int


NOT_SUPPORTED = Error(3)
UNSIGNED, UNSIGNED_LONG_LONG, SIGNED = 1, 3, 5  # nvmlValueType_t

#: our names for what NVML answers: query, and how the value is written
NAMES = {
    "name": "nvmlDeviceGetName",
    "uuid": "nvmlDeviceGetUUID",
    "serial": "nvmlDeviceGetSerial",
    "pci": "nvmlDeviceGetPciInfo",  # "0000:00:06.0 0x233510de 0x18bf10de"
    "minor_number": "nvmlDeviceGetMinorNumber",
    "compute_capability": "nvmlDeviceGetCudaComputeCapability",  # "9 0"
    "vbios": "nvmlDeviceGetVbiosVersion",
    "inforom": "nvmlDeviceGetInforomImageVersion",
    "inforom_check": "nvmlDeviceValidateInforom",  # 0, or Error(14): corrupt
    "gsp": "nvmlDeviceGetGspFirmwareVersion",
    "memory": "nvmlDeviceGetMemoryInfo",  # bytes: "total reserved free used"
    "bar1": "nvmlDeviceGetBAR1MemoryInfo",  # bytes: "total free used"
    "processes": "nvmlDeviceGetComputeRunningProcesses",
    "graphics_processes": "nvmlDeviceGetGraphicsRunningProcesses",
    "mps_processes": "nvmlDeviceGetMPSComputeRunningProcesses",
    "temperature": "nvmlDeviceGetTemperature.0",
    "temperature_margin": "nvmlDeviceGetMarginTemperature",
    "slowdown_margin": "field 194 signed",
    "memory_temperature": "field 82 unsigned",
    "shutdown_temperature": "nvmlDeviceGetTemperatureThreshold.0",
    "slowdown_temperature": "nvmlDeviceGetTemperatureThreshold.1",
    "memory_max_temperature": "nvmlDeviceGetTemperatureThreshold.2",
    "gpu_max_temperature": "nvmlDeviceGetTemperatureThreshold.3",
    "power_milliwatts": "nvmlDeviceGetPowerUsage",
    "power_limit_milliwatts": "nvmlDeviceGetEnforcedPowerLimit",
    "power_default_milliwatts": "nvmlDeviceGetPowerManagementDefaultLimit",
    "power_range_milliwatts": "nvmlDeviceGetPowerManagementLimitConstraints",  # "200000 700000"
    "sm_clock": "nvmlDeviceGetClockInfo.1",
    "memory_clock": "nvmlDeviceGetClockInfo.2",
    "sm_clock_max": "nvmlDeviceGetMaxClockInfo.1",
    "memory_clock_max": "nvmlDeviceGetMaxClockInfo.2",
    "application_clock": "nvmlDeviceGetApplicationsClock.1",
    "application_clock_default": "nvmlDeviceGetDefaultApplicationsClock.1",
    "performance_state": "nvmlDeviceGetPerformanceState",
    "utilization": "nvmlDeviceGetUtilizationRates",  # "gpu memory"
    "event_reasons": "nvmlDeviceGetCurrentClocksEventReasons",  # the mask
    "software_power_cap_ns": "field 74 long",
    "software_thermal_ns": "field 269 long",
    "hardware_thermal_ns": "field 270 long",
    "power_brake_ns": "field 271 long",
    "ecc_mode": "nvmlDeviceGetEccMode",  # "current pending"
    "ecc_default": "nvmlDeviceGetDefaultEccMode",
    "corrected_volatile": "nvmlDeviceGetTotalEccErrors.0.0",
    "corrected_aggregate": "nvmlDeviceGetTotalEccErrors.0.1",
    "uncorrected_volatile": "nvmlDeviceGetTotalEccErrors.1.0",
    "uncorrected_aggregate": "nvmlDeviceGetTotalEccErrors.1.1",
    "sram_status": "nvmlDeviceGetSramEccErrorStatus",  # twelve numbers; the last: exceeded
    "remapped_rows": "nvmlDeviceGetRemappedRows",  # "correctable uncorrectable pending failed"
    "remap_histogram": "nvmlDeviceGetRowRemapperHistogram",  # "max high partial low none"
    "retired_single_bit": "nvmlDeviceGetRetiredPages.0",  # how many pages
    "retired_double_bit": "nvmlDeviceGetRetiredPages.1",
    "retired_pending": "nvmlDeviceGetRetiredPagesPendingStatus",
    "unrepairable_memory": "nvmlDeviceGetUnrepairableMemoryFlag_v1",
    "repair_status": "nvmlDeviceGetRepairStatus",  # "channel tpc": pending
    "recovery_action": "field 230 unsigned",
    "pcie_generation": "nvmlDeviceGetCurrPcieLinkGeneration",
    "pcie_generation_max": "nvmlDeviceGetMaxPcieLinkGeneration",
    "pcie_generation_gpu_max": "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "pcie_width": "nvmlDeviceGetCurrPcieLinkWidth",
    "pcie_width_max": "nvmlDeviceGetMaxPcieLinkWidth",
    "pcie_replays": "nvmlDeviceGetPcieReplayCounter",
    "nvlinks_to_switches": "field 147 unsigned",
    "fabric": "nvmlDeviceGetGpuFabricInfo",  # "state status health_mask health_summary"
    "persistence": "nvmlDeviceGetPersistenceMode",
    "display_active": "nvmlDeviceGetDisplayActive",
    "fan": "nvmlDeviceGetFanSpeed",  # percent
    "virtualization": "nvmlDeviceGetVirtualizationMode",  # 0 none, 1 passthrough, 2 vGPU
    "license": "nvmlDeviceGetGridLicensableFeatures",  # "supported code licensed enabled ..."
    "compute_mode": "nvmlDeviceGetComputeMode",
    "mig_mode": "nvmlDeviceGetMigMode",  # "current pending"
    "mig_device_most": "nvmlDeviceGetMaxMigDeviceCount",
    "c2c": "nvmlDeviceGetC2cModeInfoV",
    "numa_node": "nvmlDeviceGetNumaNodeId",
    "cpu_affinity": "nvmlDeviceGetCpuAffinity",  # 64-bit masks
    "memory_affinity": "nvmlDeviceGetMemoryAffinity",
}


@dataclass(frozen=True)
class Fault:
    """One way in which a GPU, or the library (gpu -1), goes wrong."""

    function: str
    kind: str
    argument: str = ""
    after: int = 0


@dataclass(frozen=True)
class FakeGpu:
    """What one GPU answers, and what goes wrong with it."""

    answers: Mapping[str, Any]
    faults: tuple[Fault, ...] = ()
    #: what it answers of every other GPU: P2P read, write, NVLink, atomics, PCI; common ancestor
    p2p: tuple[int, ...] = (0, 0, 0, 0, 5)
    topology: int = 30

    def but(self, *, answers: Mapping[str, Any] | None = None, **changes: Any) -> "FakeGpu":
        """Return this GPU with other answers; see the module's docstring."""
        found = dict(self.answers)
        more: dict[str, Any] = {}
        for name, value in changes.items():
            if name in ("p2p", "topology"):
                more[name] = value
            elif name == "nvlinks_down":
                found |= {f"nvmlDeviceGetNvLinkState.{link}": 0 for link in value}
            elif name in NVLINK_COUNTERS:
                counter = NVLINK_COUNTERS[name]
                # all of it on link 0: what rules judge is growth, on any link
                found[f"nvmlDeviceGetNvLinkErrorCounter.0.{counter}"] = value
            elif name == "mig_devices":
                found |= {
                    f"nvmlDeviceGetMigDeviceHandleByIndex.{n}": v for n, v in enumerate(value)
                }
            elif NAMES[name].startswith("field "):
                _, number, kind = NAMES[name].split()
                found[f"nvmlDeviceGetFieldValues.{number}.0"] = _field(kind, value)
            else:
                found[NAMES[name]] = value
        return replace(self, answers=found | dict(answers or {}), **more)

    def lost(self, after: int = 0) -> "FakeGpu":
        return self._with(Fault("*", "error", "15", after))

    def fails(self, function: str, code: int, after: int = 0) -> "FakeGpu":
        return self._with(Fault(function, "error", str(code), after))

    def hangs(
        self, function: str, after: int = 0, *, deaf: bool = False, locked: bool = False
    ) -> "FakeGpu":
        """*deaf*: only SIGKILL ends it. *locked*: no other call returns any more either."""
        kind = "hang_deaf" if deaf else "hang_all" if locked else "hang"
        return self._with(Fault(function, kind, "", after))

    def touches(self, function: str, path: Path, after: int = 0) -> "FakeGpu":
        return self._with(Fault(function, "touch", str(path), after))

    def crashes(self, function: str, after: int = 0, *, abort: bool = False) -> "FakeGpu":
        return self._with(Fault(function, "abort" if abort else "crash", "", after))

    def exits(self, function: str, status: int, after: int = 0) -> "FakeGpu":
        return self._with(Fault(function, "exit", str(status), after))

    def prints(self, function: str, size: int, after: int = 0, *, fd: int = 1) -> "FakeGpu":
        return self._with(Fault(function, f"print{fd}", str(size), after))

    def sleeps(self, function: str, milliseconds: float, after: int = 0) -> "FakeGpu":
        return self._with(Fault(function, "sleep", str(milliseconds), after))

    def _with(self, fault: Fault) -> "FakeGpu":
        return replace(self, faults=(*self.faults, fault))


NVLINK_COUNTERS = {"replay": 0, "recovery": 1, "crc_flit": 2, "crc_data": 3}


def _field(kind: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_field(kind, one) for one in value]
    if isinstance(value, Error):
        return value
    number = {"unsigned": UNSIGNED, "long": UNSIGNED_LONG_LONG, "signed": SIGNED}[kind]
    return f"{number} {value}"


# ------------------------------------------------------------------------------------- profiles

#: CRC data errors of the 18 links of a healthy H200, as recorded
CRC_DATA = (15, 13, 19, 22, 25, 30, 28, 26, 23, 23, 11, 19, 58, 35, 12, 16, 28, 34)


def h200(**changes: Any) -> FakeGpu:
    """An idle H200 of a machine with two, driver 580.159.04: its answers as they were recorded."""
    links: dict[str, Any] = {}
    for link, errors in enumerate(CRC_DATA):
        links[f"nvmlDeviceGetNvLinkState.{link}"] = 1
        links[f"nvmlDeviceGetNvLinkVersion.{link}"] = 6
        links[f"nvmlDeviceGetNvLinkRemoteDeviceType.{link}"] = 2
        links[f"nvmlDeviceGetNvLinkRemotePciInfo.{link}"] = "0000:00:00.0"
        for counter, value in enumerate((0, 0, 0, errors)):
            links[f"nvmlDeviceGetNvLinkErrorCounter.{link}.{counter}"] = value
    for link in range(len(CRC_DATA), 36):
        links[f"nvmlDeviceGetNvLinkState.{link}"] = Error(2)
    recorded_fields = dict.fromkeys((138, 139, 142, 143, 144, 145, 146, 161, 162, 163), 0)
    recorded_fields |= {140: 424, 141: 543, 164: 26562}
    for number, value in recorded_fields.items():
        links[f"nvmlDeviceGetFieldValues.{number}.0"] = f"{UNSIGNED} {value}"
    links["nvmlDeviceGetCurrentClockFreqs"] = _clocks(780, 345, 3201)
    links["nvmlDeviceGetPerformanceModes"] = (
        f"perf=0, {_clocks(345, 345, 2201)} ; perf=1, {_clocks(345, 345, 3201)}"
    )
    return FakeGpu(links).but(
        name="NVIDIA H200",
        vbios="96.00.A5.00.1A",
        inforom="G520.0282.02.02",
        inforom_check=0,
        gsp="580.159.04",
        compute_capability="9 0",
        memory="150754820096 644939776 150109880320 0",
        bar1="274877906944 274876203008 1703936",
        processes={},
        graphics_processes={},
        mps_processes={},
        temperature=37,
        temperature_margin=50,
        slowdown_margin=-2,
        memory_temperature=41,
        shutdown_temperature=95,
        slowdown_temperature=89,
        memory_max_temperature=95,
        gpu_max_temperature=87,
        power_milliwatts=82220,
        power_limit_milliwatts=700000,
        power_default_milliwatts=700000,
        power_range_milliwatts="200000 700000",
        sm_clock=780,
        memory_clock=3201,
        sm_clock_max=1980,
        memory_clock_max=3201,
        application_clock=1980,
        application_clock_default=1980,
        performance_state=0,
        utilization="0 0",
        event_reasons=1,
        software_power_cap_ns=0,
        software_thermal_ns=0,
        hardware_thermal_ns=0,
        power_brake_ns=0,
        ecc_mode="1 1",
        ecc_default=1,
        corrected_volatile=0,
        corrected_aggregate=0,
        uncorrected_volatile=0,
        uncorrected_aggregate=0,
        sram_status="0 0 0 0 0 0 0 0 0 0 0 0",
        remapped_rows="0 0 0 0",
        remap_histogram="3072 0 0 0 0",
        unrepairable_memory=0,
        repair_status="0 0",
        recovery_action=0,
        pcie_generation=5,
        pcie_generation_max=5,
        pcie_generation_gpu_max=5,
        pcie_width=16,
        pcie_width_max=16,
        pcie_replays=0,
        nvlinks_to_switches=18,
        fabric="3 0 0 0",
        persistence=1,
        display_active=0,
        virtualization=1,
        license=0,
        compute_mode=0,
        mig_mode="0 0",
        mig_device_most=0,
        c2c=0,
        cpu_affinity="4294967295 0 0 0",
        memory_affinity="1",
        answers={
            "nvmlDeviceGetAccountingBufferSize": 4000,
            "nvmlDeviceGetAccountingMode": 0,
            "nvmlDeviceGetAccountingPids": "",
            "nvmlDeviceGetAddressingMode": 0,
            "nvmlDeviceGetComputeInstanceId": Error(2),
            "nvmlDeviceGetConfComputeGpuCertificate": Error(999),
            "nvmlDeviceGetConfComputeMemSizeInfo": "0 146591680",
            "nvmlDeviceGetConfComputeProtectedMemoryUsage": "0 0 0",
            "nvmlDeviceGetDecoderUtilization": "0 100000",
            "nvmlDeviceGetDynamicPstatesInfo": 0,
            "nvmlDeviceGetEncoderSessions": "",
            "nvmlDeviceGetEncoderStats": "0 0 0",
            "nvmlDeviceGetEncoderUtilization": "0 100000",
            "nvmlDeviceGetFBCSessions": "",
            "nvmlDeviceGetFBCStats": "0 0 0",
            "nvmlDeviceGetFanSpeedRPM": Error(2),
            "nvmlDeviceGetGpcClkMinMaxVfOffset": "0 0",
            "nvmlDeviceGetGpcClkVfOffset": 0,
            "nvmlDeviceGetGpuInstanceId": Error(2),
            "nvmlDeviceGetJpgUtilization": "0 100000",
            "nvmlDeviceGetLastBBXFlushTime": Error(27),
            "nvmlDeviceGetMemClkMinMaxVfOffset": "0 0",
            "nvmlDeviceGetMemClkVfOffset": 0,
            "nvmlDeviceGetMinMaxFanSpeed": Error(2),
            "nvmlDeviceGetOfaUtilization": "0 100000",
            "nvmlDeviceGetPdi": 14845668391640686147,
            "nvmlDeviceGetSupportedEventTypes": 65439,
            "nvmlDeviceGetSupportedMemoryClocks": "3201 2201",
            "nvmlDeviceGetSupportedPerformanceStates": "2 0",
            "nvmlDeviceGetAdaptiveClockInfoStatus": 1,
            "nvmlDeviceGetArchitecture": 9,
            "nvmlDeviceGetBoardId": 6,
            "nvmlDeviceGetBoardPartNumber": "692-2G520-0282-001",
            "nvmlDeviceGetBrand": 14,
            "nvmlDeviceGetBusType": 2,
            "nvmlDeviceGetClockInfo.0": 780,
            "nvmlDeviceGetClockInfo.3": 780,
            "nvmlDeviceGetDisplayMode": 1,
            "nvmlDeviceGetGspFirmwareMode": "1 1",
            "nvmlDeviceGetInforomConfigurationChecksum": 0,
            "nvmlDeviceGetIrqNum": 41,
            "nvmlDeviceGetMaxClockInfo.0": 1980,
            "nvmlDeviceGetMaxClockInfo.3": 1545,
            "nvmlDeviceGetMemoryBusWidth": 6016,
            "nvmlDeviceGetModuleId": 5,
            "nvmlDeviceGetMultiGpuBoard": 0,
            "nvmlDeviceGetNumFans": 0,
            "nvmlDeviceGetNumGpuCores": 16896,
            "nvmlDeviceGetPcieLinkMaxSpeed": 5,
            "nvmlDeviceGetPcieSpeed": 32000,
            "nvmlDeviceGetPowerManagementLimit": 700000,
            "nvmlDeviceGetPowerManagementMode": 1,
            "nvmlDeviceGetPowerSource": 0,
            "nvmlDeviceGetPowerState": 0,
            "nvmlDeviceGetSupportedClocksEventReasons": 511,
            "nvmlDeviceGetTotalEnergyConsumption": 7731664,
        },
    ).but(**changes)  # fmt: skip


def _clocks(core: int, core_least: int, memory: int) -> str:
    """Write clocks in MHz as NVML does; an H200 runs its memory at one of two."""
    return (
        f"nvclock={core}, nvclockmin={core_least}, nvclockmax=1980, nvclockeditable=0, "
        f"memclock={memory}, memclockmin={memory}, memclockmax={memory}, memclockeditable=0, "
        f"memTransferRate={2 * memory}, memTransferRatemin={2 * memory}, "
        f"memTransferRatemax={2 * memory}, memTransferRateeditable=0"
    )


def a100_pcie(**changes: Any) -> FakeGpu:
    """An idle A100 PCIe of 80 GB with no NVLink bridge, on bare metal."""
    links: dict[str, object] = {f"nvmlDeviceGetNvLinkState.{link}": 0 for link in range(12)}
    links |= {f"nvmlDeviceGetNvLinkVersion.{link}": Error(3) for link in range(12)}
    links |= {f"nvmlDeviceGetNvLinkState.{link}": Error(2) for link in range(12, 36)}
    return h200(
        name="NVIDIA A100 80GB PCIe",
        vbios="92.00.68.00.01",
        inforom="1001.0230.00.03",
        compute_capability="8 0",
        memory="85899345920 647299072 85252046848 0",
        bar1="137438953472 137436856320 2097152",
        temperature=34,
        temperature_margin=Error(3),
        slowdown_margin=Error(3),
        memory_temperature=38,
        shutdown_temperature=92,
        slowdown_temperature=89,
        memory_max_temperature=95,
        gpu_max_temperature=85,
        power_milliwatts=45210,
        power_limit_milliwatts=300000,
        power_default_milliwatts=300000,
        power_range_milliwatts="150000 300000",
        sm_clock=210,
        memory_clock=1512,
        sm_clock_max=1410,
        memory_clock_max=1512,
        application_clock=1410,
        application_clock_default=1410,
        remap_histogram="640 0 0 0 0",
        pcie_generation=4,
        pcie_generation_max=4,
        pcie_generation_gpu_max=4,
        nvlinks_to_switches=0,
        fabric="0 0 0 0",
        mig_device_most=7,
        unrepairable_memory=Error(3),
        repair_status=Error(3),
        p2p=(0, 0, 5),
        topology=20,
        answers={
            key: Error(3)
            for link in range(18)
            for key in (
                f"nvmlDeviceGetNvLinkRemoteDeviceType.{link}",
                f"nvmlDeviceGetNvLinkRemotePciInfo.{link}",
                *(f"nvmlDeviceGetNvLinkErrorCounter.{link}.{c}" for c in range(4)),
            )
        }
        | links,
    ).but(**changes)


def geforce_laptop(**changes: Any) -> FakeGpu:
    """An RTX 4060 Laptop GPU that drives the screen: half of NVML is NotSupported there."""
    return FakeGpu({}, p2p=(1, 1, 5), topology=20).but(
        name="NVIDIA GeForce RTX 4060 Laptop GPU",
        pci="0000:01:00.0 0x28e010de 0x00000000",
        vbios="95.07.31.00.3B",
        gsp="580.159.04",
        inforom="G001.0000.94.01",
        compute_capability="8 9",
        memory="8585740288 401408000 7915700224 268632064",
        bar1="8589934592 8575254528 14680064",
        processes={},
        graphics_processes={1: -1},
        mps_processes={},
        temperature=46,
        shutdown_temperature=105,
        slowdown_temperature=102,
        gpu_max_temperature=87,
        power_milliwatts=4210,
        power_default_milliwatts=80000,
        power_limit_milliwatts=45000,
        sm_clock=210,
        memory_clock=405,
        sm_clock_max=3105,
        memory_clock_max=8001,
        performance_state=8,
        utilization="3 5",
        event_reasons=1,
        software_power_cap_ns=0,
        recovery_action=0,
        pcie_generation=1,
        pcie_generation_max=4,
        pcie_generation_gpu_max=4,
        pcie_width=8,
        pcie_width_max=8,
        pcie_replays=0,
        persistence=0,
        display_active=1,
        compute_mode=0,
        cpu_affinity="65535",
        memory_affinity="1",
    ).but(**changes)  # fmt: skip


def mig(**changes: Any) -> FakeGpu:
    """An H200 cut into two MIG devices, both with a compute instance."""
    return h200(
        mig_mode="1 1",
        mig_device_most=7,
        mig_devices=(
            "MIG-aaaaaaaa-0000-0000-0000-000000000000",
            "MIG-bbbbbbbb-0000-0000-0000-000000000000",
        ),
        utilization=Error(3),
        processes=Error(3),
    ).but(**changes)


#: symbols that drivers of the 450 and 460 series do not have
NEWER_SYMBOLS = (
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses_v2",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v2",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses_v2",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetSupportedClocksEventReasons",
    "nvmlDeviceGetMarginTemperature",
    "nvmlDeviceGetTemperatureV",
    "nvmlDeviceGetGpuFabricInfo",
    "nvmlDeviceGetGpuFabricInfoV",
    "nvmlDeviceGetSramEccErrorStatus",
    "nvmlDeviceGetRowRemapperHistogram",
    "nvmlDeviceGetUnrepairableMemoryFlag_v1",
    "nvmlDeviceGetRepairStatus",
    "nvmlDeviceGetC2cModeInfoV",
    "nvmlDeviceGetGspFirmwareVersion",
    "nvmlDeviceGetGspFirmwareMode",
    "nvmlDeviceGetGpuMaxPcieLinkGeneration",
    "nvmlDeviceGetNvLinkRemoteDeviceType",
    "nvmlDeviceGetNumaNodeId",
    "nvmlDeviceGetDefaultEccMode",
    "nvmlDeviceGetMemoryAffinity",
    "nvmlSystemGetCudaDriverVersion_v2",
    "nvmlSystemGetConfComputeState",
    "nvmlSystemGetConfComputeGpusReadyState",
    "nvmlDeviceGetGridLicensableFeatures_v4",
)


def old_driver() -> dict[str, Any]:
    """Arguments for FakeNvml: driver 450, without the symbols that came later."""
    return {
        "missing": NEWER_SYMBOLS,
        "system": System(driver="450.51.06", nvml="11.450.51.06", cuda=11000, fields_up_to=160),
    }


# ---------------------------------------------------------------------------------- the library


@dataclass(frozen=True)
class System:
    """What the library says of itself."""

    driver: str = "580.159.04"
    nvml: str = "13.580.159.04"
    cuda: int | Error = 13000
    count: int | Error | None = None  # None: as many as there are GPUs
    confidential: str | Error = "2 0 0"  # environment, feature, developer tools
    gpus_ready: int | Error = 1
    fabric_version: int = 3  # newest struct that nvmlDeviceGetGpuFabricInfoV knows
    fields_up_to: int = 10_000  # later field ids are INVALID_ARGUMENT
    faults: tuple[Fault, ...] = field(default=())


class FakeNvml:
    """A directory with a libnvidia-ml.so.1, and the file that tells it what to answer."""

    def __init__(
        self,
        directory: Path,
        gpus: Sequence[FakeGpu] = (),
        *,
        system: System = System(),
        init_error: int | None = None,
        missing: Sequence[str] = (),
        installed: bool = True,
    ) -> None:
        self.reported = directory / "nvml-answers"
        self.library_directory = directory / "nvml-library"
        self.library_directory.mkdir()
        if installed:
            built = build(directory, missing)
            (self.library_directory / "libnvidia-ml.so.1").symlink_to(built)
        faults = list(system.faults)
        if init_error is not None:
            faults.append(Fault("nvmlInit", "error", str(init_error)))
        lines = [_fault_line(-1, fault) for fault in faults]
        count = len(gpus) if system.count is None else system.count
        for query, value in (
            ("nvmlSystemGetDriverVersion", system.driver),
            ("nvmlSystemGetNVMLVersion", system.nvml),
            ("nvmlSystemGetCudaDriverVersion", system.cuda),
            ("nvmlDeviceGetCount", count),
            ("nvmlSystemGetConfComputeState", system.confidential),
            ("nvmlSystemGetConfComputeGpusReadyState", system.gpus_ready),
            ("fabric_version", system.fabric_version),
        ):
            lines.append(_answer_line(-1, query, value))
        for index, gpu in enumerate(gpus):
            lines += _gpu_lines(index, gpu, len(gpus), system.fields_up_to)
        self.reported.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """Return the variables under which a program loads this library and no other."""
        return {"LD_LIBRARY_PATH": str(self.library_directory), "FAKE_NVML": str(self.reported)}


def build(directory: Path, missing: Sequence[str] = ()) -> Path:
    """Compile the library without the symbols *missing*, once for all tests of this run."""
    key = hashlib.sha256(SOURCE.read_bytes() + "\0".join(missing).encode()).hexdigest()[:16]
    run = next((p for p in directory.parents if p.parent.name.startswith("pytest-of-")), directory)
    library = run / f"fake-nvml-{key}.so"
    if library.exists():
        return library
    own = f"{key}-{os.getpid()}"
    unfinished = run / f"fake-nvml-{own}.so"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-pthread", "-Wl,-soname,libnvidia-ml.so.1"]
    if missing:
        versions = run / f"fake-nvml-{own}.map"
        versions.write_text(f"{{ local: {' '.join(f'{symbol};' for symbol in missing)} }};")
        command.append(f"-Wl,--version-script={versions}")
    subprocess.run([*command, "-o", unfinished, SOURCE], check=True, capture_output=True)
    unfinished.rename(library)  # another test process may be building it too
    return library


def _gpu_lines(index: int, gpu: FakeGpu, count: int, fields_up_to: int) -> list[str]:
    answers: dict[str, Any] = {
        "nvmlDeviceGetIndex": index,
        "nvmlDeviceGetMinorNumber": index,
        "nvmlDeviceGetUUID": f"GPU-{index:08x}-0000-0000-0000-000000000000",
        "nvmlDeviceGetSerial": f"16509230{index:05d}",
        "nvmlDeviceGetPciInfo": f"0000:00:{6 + index:02x}.0 0x233510de 0x18bf10de",
        "nvmlDeviceGetBoardId": 6 + index,
    }
    for other in range(count):
        if other != index:
            for caps, status in enumerate(gpu.p2p):
                answers[f"nvmlDeviceGetP2PStatus.{other}.{caps}"] = status
            answers[f"nvmlDeviceGetTopologyCommonAncestor.{other}"] = gpu.topology
    answers |= gpu.answers
    for query in answers:
        function, *arguments = query.split(".")
        if function == "nvmlDeviceGetFieldValues" and int(arguments[0]) > fields_up_to:
            answers[query] = Error(2)
    lines = [_answer_line(index, query, value) for query, value in answers.items()]
    return lines + [_fault_line(index, fault) for fault in gpu.faults]


def _answer_line(gpu: int, query: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return "\t".join(["answer", str(gpu), query, *map(_written, values)])


def _fault_line(gpu: int, fault: Fault) -> str:
    return "\t".join(
        ["fault", str(gpu), fault.function, str(fault.after), fault.kind, fault.argument]
    )


def _written(value: Any) -> str:
    if isinstance(value, Error):
        return f"!{value.code}"
    if isinstance(value, Mapping):
        return " ".join(f"{process}:{size}" for process, size in value.items())
    return str(value)
