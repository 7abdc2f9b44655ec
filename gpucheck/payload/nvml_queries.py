"""The questions that gpucheck asks NVML, each with what it means to ask: one call, or several.

A query's answer is numbers, texts and lists of them as NVML has them (milliwatts, masks, codes).
pynvml is a parameter, so that this file is imported without it. Old drivers lack newer functions:
where an older one answers the same question, it is asked in its place.

It is long because it is a table: a row for each question that NVML is asked.
"""

# ruff: noqa: ANN401 - pynvml has no types: what it answers is Any, and is handed on as such
from __future__ import annotations

import os

TYPE_CHECKING = False  # typing's own would cost the import of typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Tuple, Union

    #: key, NVML's function, and how to ask: a function of ours, or its further arguments
    Query = Tuple[str, str, Union[Callable[[Any, Any], Any], Tuple[int, ...]]]

NOT_SUPPORTED, FUNCTION_NOT_FOUND, GPU_IS_LOST = 3, 13, 15
INVALID_ARGUMENT, NOT_FOUND, VERSION_MISMATCH = 2, 6, 25
MOST_GPUS = 256  # a library that lies about their number must not cost us our memory
MOST_LINKS = 36  # NVML_NVLINK_MAX_LINKS
SWITCH = 2  # NVML_NVLINK_DEVICE_TYPE_SWITCH
VGPU = 2  # NVML_GPU_VIRTUALIZATION_MODE_VGPU

# NVML_FI_DEV_*, all asked for in one call
MEMORY_TEMPERATURE = 82
LINKS_TO_SWITCHES = 147
SLOWDOWN_MARGIN = 194
RECOVERY_ACTION = 230
SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE = 269, 270, 271
FIELDS = (
    MEMORY_TEMPERATURE,
    LINKS_TO_SWITCHES,
    SLOWDOWN_MARGIN,
    RECOVERY_ACTION,
    SOFTWARE_THERMAL,
    HARDWARE_THERMAL,
    POWER_BRAKE,
)
LATER_FIELDS = (SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE)

#: nvmlValueType_t → member of nvmlValue_t
VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


def pci(nvml: Any, handle: Any) -> list[Any]:
    """Return the bus id and the device id."""
    info = nvml.nvmlDeviceGetPciInfo(handle)
    return [info.busId, info.pciDeviceId]


def gsp(nvml: Any, handle: Any) -> bytes:
    """Return the version of the GPU's own firmware; pynvml's older function wants the buffer."""
    import ctypes

    buffer = (ctypes.c_char * 64)()
    nvml.nvmlDeviceGetGspFirmwareVersion(handle, buffer)
    return buffer.value


def words(symbol: str, count: int) -> Callable[[Any, Any], list[int]]:
    """Make a query whose answer is a struct of *count* integers after its version.

    pynvml has functions for them since 570 to 580; we support older ones.
    """

    def ask(nvml: Any, handle: Any) -> list[int]:
        import ctypes

        answer = (ctypes.c_int * (1 + count))()
        answer[0] = ctypes.sizeof(answer) | 1 << 24
        code = nvml._nvmlGetFunctionPointer(symbol)(handle, ctypes.byref(answer))
        if code:
            raise nvml.NVMLError(code)
        return answer[1:]

    return ask


def memory(nvml: Any, handle: Any) -> list[int | None]:
    """Return total, used, free and reserved bytes; drivers before 510 do not tell the last."""
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError as error:
        if error.value not in (FUNCTION_NOT_FOUND, VERSION_MISMATCH):
            raise
    else:
        return [info.total, info.used, info.free, info.reserved]
    old = nvml.nvmlDeviceGetMemoryInfo(handle)
    return [old.total, old.used, old.free, None]


def bar1(nvml: Any, handle: Any) -> int:
    """Return the size of the BAR1 window in bytes."""
    return int(nvml.nvmlDeviceGetBAR1MemoryInfo(handle).bar1Total)


def processes(kind: str) -> Callable[[Any, Any], list[list[int | None]]]:
    """Make the query for the *kind* of processes: "Compute", "Graphics" or "MPSCompute"."""
    symbol = f"nvmlDeviceGet{kind}RunningProcesses"

    def ask(nvml: Any, handle: Any) -> list[list[int | None]]:
        for version in ("_v3", "_v2"):
            try:
                found = getattr(nvml, symbol + version)(handle)
            except nvml.NVMLError as error:
                if error.value != FUNCTION_NOT_FOUND:
                    raise
            else:
                return [[one.pid, one.usedGpuMemory] for one in found]
        return _processes_v1(nvml, handle, symbol)

    return ask


def _processes_v1(nvml: Any, handle: Any, symbol: str) -> list[list[int | None]]:
    """Ask drivers before 450, whose struct ends after the bytes; pynvml dropped it."""
    import ctypes

    class Process(ctypes.Structure):
        _fields_ = (("pid", ctypes.c_uint), ("used", ctypes.c_ulonglong))

    function = nvml._nvmlGetFunctionPointer(symbol)
    count = ctypes.c_uint(1024)
    found = (Process * count.value)()
    code = function(handle, ctypes.byref(count), found)
    if code:
        raise nvml.NVMLError(code)
    unknown = ctypes.c_ulonglong(-1).value
    return [[one.pid, None if one.used == unknown else one.used] for one in found[: count.value]]


def event_reasons(nvml: Any, handle: Any) -> int:
    """Return the mask of clocks event reasons, by its older name where the driver knows only it."""
    for symbol in (
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetCurrentClocksThrottleReasons",
    ):
        try:
            return int(getattr(nvml, symbol)(handle))
        except (AttributeError, nvml.NVMLError) as error:
            if getattr(error, "value", FUNCTION_NOT_FOUND) != FUNCTION_NOT_FOUND:
                raise
    raise nvml.NVMLError(FUNCTION_NOT_FOUND)


def utilization(nvml: Any, handle: Any) -> int:
    """Return how many percent of the last period a kernel ran."""
    return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def sram(nvml: Any, handle: Any) -> list[int]:
    """Return how many uncorrected errors the SRAM ever had, and whether they are too many."""
    status = nvml.c_nvmlEccSramErrorStatus_v1_t()
    nvml.nvmlDeviceGetSramEccErrorStatus(handle, nvml.byref(status))
    return [status.aggregateUncParity + status.aggregateUncSecDed, status.bThresholdExceeded]


def histogram(nvml: Any, handle: Any) -> list[int]:
    """Return how many banks have all, many, some, few, and no spare rows left."""
    found = nvml.nvmlDeviceGetRowRemapperHistogram(handle)
    return [found.max, found.high, found.partial, found.low, found.none]


def retired_pages(nvml: Any, handle: Any) -> list[int]:
    """Return the pages retired for single-bit and double-bit errors, and whether more wait."""
    # the pending status is NotSupported on Ampere and newer, where the lists may not be
    pending = nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)
    counts = [len(nvml.nvmlDeviceGetRetiredPages(handle, cause)) for cause in (0, 1)]
    return [*counts, pending]


def fabric(nvml: Any, handle: Any) -> list[int | None]:
    """Return state, status, and health mask and summary where this driver tells them.

    The structs are nvml.h's, written out here: older pynvml had the UUID at a wrong length, and
    so read the state from behind the struct.
    """
    from ctypes import Structure, byref, c_ubyte, c_uint, sizeof

    version: Any = ("version", c_uint)
    head: Any = [("uuid", c_ubyte * 16), ("status", c_uint), ("clique", c_uint)]
    head.append(("state", c_ubyte))

    class Fabric3(Structure):
        _fields_ = [version, *head, ("health", c_uint), ("summary", c_ubyte)]

    class Fabric2(Structure):
        _fields_ = [version, *head, ("health", c_uint)]

    class Fabric1(Structure):
        _fields_ = head

    for number, layout, symbol in (
        (3, Fabric3, "nvmlDeviceGetGpuFabricInfoV"),
        (2, Fabric2, "nvmlDeviceGetGpuFabricInfoV"),
        (1, Fabric1, "nvmlDeviceGetGpuFabricInfo"),
    ):
        found: Any = layout()
        if number > 1:
            found.version = sizeof(layout) | number << 24
        try:
            code = nvml._nvmlGetFunctionPointer(symbol)(handle, byref(found))
        except nvml.NVMLError as error:
            code = error.value
        if code == 0:
            health = getattr(found, "health", None)
            return [found.state, found.status, health, getattr(found, "summary", None)]
        if code not in (FUNCTION_NOT_FOUND, VERSION_MISMATCH):
            break
    raise nvml.NVMLError(code)


def mig_devices(nvml: Any, handle: Any) -> list[str]:
    """Return the UUIDs of the MIG devices, of which each has a compute instance."""
    found: list[str] = []
    if not nvml.nvmlDeviceGetMigMode(handle)[0]:
        return found
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            device = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError as error:
            if error.value in (NOT_FOUND, INVALID_ARGUMENT):
                continue
            raise
        found.append(nvml.nvmlDeviceGetUUID(device))
    return found


def nvlinks(nvml: Any, handle: Any) -> list[list[Any]]:
    """Return for each link: state, version, kind of the other end, and its bus id.

    What fails is a list with NVML's error code in its place: `[3]`.
    """

    def ask(symbol: str, link: int) -> Any:
        try:
            return getattr(nvml, symbol)(handle, link)
        except nvml.NVMLError as error:
            if error.value == GPU_IS_LOST:
                raise
            return [error.value]

    found: list[list[Any]] = []
    for link in range(MOST_LINKS):
        state = ask("nvmlDeviceGetNvLinkState", link)
        if isinstance(state, list):
            if state in ([INVALID_ARGUMENT], [NOT_SUPPORTED]):
                break  # the links end here
            if not found:
                raise nvml.NVMLError(state[0])
        found.append([state, ask("nvmlDeviceGetNvLinkVersion", link), None, None])
    if not found:
        raise nvml.NVMLError(NOT_SUPPORTED)
    up = [link for link, facts in enumerate(found) if facts[0] == 1]
    if not up:
        return found
    switched = fields(nvml, handle, (LINKS_TO_SWITCHES,))[0][1]
    for link in up:
        if switched >= len(up):  # one call instead of two for each of 18 links
            found[link][2] = SWITCH
            continue
        found[link][2] = ask("nvmlDeviceGetNvLinkRemoteDeviceType", link)
        remote = ask("nvmlDeviceGetNvLinkRemotePciInfo", link)
        found[link][3] = remote if isinstance(remote, list) else remote.busId
    return found


def nvlink_errors(nvml: Any, handle: Any) -> list[list[Any]]:
    """Return for each link that is up: its number, and replay, recovery, CRC flit and CRC data."""
    found: list[list[Any]] = []
    for link in range(MOST_LINKS):
        try:
            if not nvml.nvmlDeviceGetNvLinkState(handle, link):
                continue
        except nvml.NVMLError as error:
            if error.value == GPU_IS_LOST or not link:
                raise
            break
        counts: list[Any] = []
        for counter in range(4):
            try:
                counts.append(nvml.nvmlDeviceGetNvLinkErrorCounter(handle, link, counter))
            except nvml.NVMLError as error:
                counts.append([error.value])
        found.append([link, *counts])
    return found


def fields(nvml: Any, handle: Any, numbers: tuple[int, ...] = FIELDS) -> list[list[Any]]:
    """Return for each field its error code, and its value."""
    found = []
    for answer in nvml.nvmlDeviceGetFieldValues(handle, list(numbers)):
        member = VALUE_MEMBERS[answer.valueType] if answer.valueType < 7 else "ullVal"
        found.append([answer.nvmlReturn, getattr(answer.value, member)])
    return found


def later_fields(nvml: Any, handle: Any) -> list[list[Any]]:
    """Return the counters among the fields."""
    return fields(nvml, handle, LATER_FIELDS)


def c2c(nvml: Any, handle: Any) -> int:
    """Return whether the chip-to-chip link to a Grace CPU is on."""
    return int(nvml.nvmlDeviceGetC2cModeInfoV(handle).isC2cEnabled)


def cpu_affinity(nvml: Any, handle: Any) -> str | list[int]:
    """Return the nearest CPUs as the kernel lists them, else NVML's mask of them, 64 to a number.

    NVML looks through the whole of /sys for it: 22 ms with 32 CPUs.
    """
    kernels = _of_kernel(nvml, handle, "local_cpulist")
    if kernels:
        return kernels
    words = max(1, (os.sysconf("SC_NPROCESSORS_CONF") + 63) // 64)
    return list(nvml.nvmlDeviceGetCpuAffinity(handle, words))


def memory_affinity(nvml: Any, handle: Any) -> str | list[int]:
    """Return the nearest NUMA node as the kernel has it, else NVML's mask of them."""
    kernels = _of_kernel(nvml, handle, "numa_node")
    if kernels:
        return "" if kernels == "-1" else kernels
    return list(nvml.nvmlDeviceGetMemoryAffinity(handle, 1, 0))


def _of_kernel(nvml: Any, handle: Any, name: str) -> str:
    """Return what the kernel says of a GPU's PCI function; "" where it says nothing."""
    path = f"/sys/bus/pci/devices/{bus_id(pci(nvml, handle)[0])}/{name}"
    try:
        with open(path, encoding="ascii") as file:
            return file.read(4096).strip()
    except (OSError, ValueError):
        return ""


def licenses(nvml: Any, handle: Any) -> list[Any]:
    """Return whether licenses exist here, and for each feature: licensed, enabled, product.

    Asked of virtual GPUs only. The structs of version 3 end before the date of expiry.
    """
    if nvml.nvmlDeviceGetVirtualizationMode(handle) != VGPU:
        raise nvml.NVMLError(NOT_SUPPORTED)
    try:
        found = nvml.nvmlDeviceGetGridLicensableFeatures_v4(handle)
    except nvml.NVMLError as error:
        if error.value != FUNCTION_NOT_FOUND:
            raise
        found = nvml.c_nvmlGridLicensableFeatures_v3_t()
        function = nvml._nvmlGetFunctionPointer("nvmlDeviceGetGridLicensableFeatures_v3")
        code = function(handle, nvml.byref(found))
        if code:
            raise nvml.NVMLError(code) from error
    features = list(found.gridLicensableFeatures)[: found.licensableFeaturesCount]
    return [
        found.isGridLicenseSupported,
        [[one.featureState, one.featureEnabled, one.productName] for one in features],
    ]


def confidential(nvml: Any) -> int:
    """Return whether the confidential computing of this system's GPUs is on."""
    return int(nvml.nvmlSystemGetConfComputeState().ccFeature)


SYSTEM = ("open", "init", "driver", "cuda", "confidential", "ready", "count")

#: the names of the functions behind SYSTEM, for people
SYSTEM_SYMBOLS = {
    "open": "opening libnvidia-ml.so.1",
    "init": "nvmlInitWithFlags",
    "driver": "nvmlSystemGetDriverVersion",
    "cuda": "nvmlSystemGetCudaDriverVersion_v2",
    "confidential": "nvmlSystemGetConfComputeState",
    "ready": "nvmlSystemGetConfComputeGpusReadyState",
    "count": "nvmlDeviceGetCount_v2",
}

GPU: tuple[Query, ...] = (
    ("pci", "nvmlDeviceGetPciInfo", pci),
    ("uuid", "nvmlDeviceGetUUID", ()),
    ("name", "nvmlDeviceGetName", ()),
    ("serial", "nvmlDeviceGetSerial", ()),
    ("minor_number", "nvmlDeviceGetMinorNumber", ()),
    ("compute_capability", "nvmlDeviceGetCudaComputeCapability", ()),
    ("vbios", "nvmlDeviceGetVbiosVersion", ()),
    ("inforom", "nvmlDeviceGetInforomImageVersion", ()),
    ("gsp", "nvmlDeviceGetGspFirmwareVersion", gsp),
    ("memory", "nvmlDeviceGetMemoryInfo", memory),
    ("bar1", "nvmlDeviceGetBAR1MemoryInfo", bar1),
    ("compute", "nvmlDeviceGetComputeRunningProcesses", processes("Compute")),
    ("graphics", "nvmlDeviceGetGraphicsRunningProcesses", processes("Graphics")),
    ("mps", "nvmlDeviceGetMPSComputeRunningProcesses", processes("MPSCompute")),
    ("temperature", "nvmlDeviceGetTemperature", (0,)),
    (
        "margin",
        "nvmlDeviceGetMarginTemperature",
        words("nvmlDeviceGetMarginTemperature", 1),
    ),
    ("fan", "nvmlDeviceGetFanSpeed", ()),
    ("shutdown", "nvmlDeviceGetTemperatureThreshold", (0,)),
    ("slowdown", "nvmlDeviceGetTemperatureThreshold", (1,)),
    ("memory_max", "nvmlDeviceGetTemperatureThreshold", (2,)),
    ("gpu_max", "nvmlDeviceGetTemperatureThreshold", (3,)),
    ("power", "nvmlDeviceGetPowerUsage", ()),
    ("power_limit", "nvmlDeviceGetEnforcedPowerLimit", ()),
    ("power_default", "nvmlDeviceGetPowerManagementDefaultLimit", ()),
    ("clock_sm", "nvmlDeviceGetClockInfo", (1,)),
    ("clock_memory", "nvmlDeviceGetClockInfo", (2,)),
    ("clock_sm_max", "nvmlDeviceGetMaxClockInfo", (1,)),
    ("clock_memory_max", "nvmlDeviceGetMaxClockInfo", (2,)),
    ("application_clock", "nvmlDeviceGetApplicationsClock", (1,)),
    ("application_clock_default", "nvmlDeviceGetDefaultApplicationsClock", (1,)),
    ("performance_state", "nvmlDeviceGetPerformanceState", ()),
    ("utilization", "nvmlDeviceGetUtilizationRates", utilization),
    ("event_reasons", "nvmlDeviceGetCurrentClocksEventReasons", event_reasons),
    ("fields", "nvmlDeviceGetFieldValues", fields),
    ("ecc_mode", "nvmlDeviceGetEccMode", ()),
    ("ecc_default", "nvmlDeviceGetDefaultEccMode", ()),
    ("corrected_volatile", "nvmlDeviceGetTotalEccErrors", (0, 0)),
    ("corrected_aggregate", "nvmlDeviceGetTotalEccErrors", (0, 1)),
    ("uncorrected_volatile", "nvmlDeviceGetTotalEccErrors", (1, 0)),
    ("uncorrected_aggregate", "nvmlDeviceGetTotalEccErrors", (1, 1)),
    ("sram", "nvmlDeviceGetSramEccErrorStatus", sram),
    ("remapped_rows", "nvmlDeviceGetRemappedRows", ()),
    ("remap_histogram", "nvmlDeviceGetRowRemapperHistogram", histogram),
    ("retired_pages", "nvmlDeviceGetRetiredPagesPendingStatus", retired_pages),
    (
        "unrepairable",
        "nvmlDeviceGetUnrepairableMemoryFlag_v1",
        words("nvmlDeviceGetUnrepairableMemoryFlag_v1", 1),
    ),
    ("repair", "nvmlDeviceGetRepairStatus", words("nvmlDeviceGetRepairStatus", 2)),
    ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", ()),
    ("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", ()),
    ("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth", ()),
    ("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth", ()),
    ("pcie_replays", "nvmlDeviceGetPcieReplayCounter", ()),
    ("nvlinks", "nvmlDeviceGetNvLinkState", nvlinks),
    ("fabric", "nvmlDeviceGetGpuFabricInfoV", fabric),
    ("persistence", "nvmlDeviceGetPersistenceMode", ()),
    ("display_active", "nvmlDeviceGetDisplayActive", ()),
    ("compute_mode", "nvmlDeviceGetComputeMode", ()),
    ("virtualization", "nvmlDeviceGetVirtualizationMode", ()),
    ("license", "nvmlDeviceGetGridLicensableFeatures_v4", licenses),
    ("mig_mode", "nvmlDeviceGetMigMode", ()),
    ("mig_devices", "nvmlDeviceGetMigDeviceHandleByIndex", mig_devices),
    ("c2c", "nvmlDeviceGetC2cModeInfoV", c2c),
    ("numa_node", "nvmlDeviceGetNumaNodeId", ()),
    ("cpu_affinity", "nvmlDeviceGetCpuAffinity", cpu_affinity),
    ("memory_affinity", "nvmlDeviceGetMemoryAffinity", memory_affinity),
)

#: 55 ms on an H200: only where a later sample follows
NVLINK_ERRORS: Query = ("nvlink_errors", "nvmlDeviceGetNvLinkErrorCounter", nvlink_errors)

#: 70 ms on an H200: with --deep, and of a few GPUs where cuInit takes more than a second
INFOROM_CHECK: Query = ("inforom_check", "nvmlDeviceValidateInforom", ())

#: what every later sample reads again: what is judged by how it grows
RATES: tuple[Query, ...] = (
    ("event_reasons", "nvmlDeviceGetCurrentClocksEventReasons", event_reasons),
    ("pcie_replays", "nvmlDeviceGetPcieReplayCounter", ()),
    ("corrected_volatile", "nvmlDeviceGetTotalEccErrors", (0, 0)),
    ("fields", "nvmlDeviceGetFieldValues", later_fields),
)

#: and whether a link that was slower than it could be is still slow at work
LINK: tuple[Query, ...] = (
    ("performance_state", "nvmlDeviceGetPerformanceState", ()),
    ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration", ()),
    ("utilization", "nvmlDeviceGetUtilizationRates", utilization),
)

#: what a whole sample reads again, the slowest last
LATER: tuple[Query, ...] = (
    *RATES,
    *LINK,
    ("clock_sm", "nvmlDeviceGetClockInfo", (1,)),
    ("memory", "nvmlDeviceGetMemoryInfo", memory),
    ("compute", "nvmlDeviceGetComputeRunningProcesses", processes("Compute")),
    ("graphics", "nvmlDeviceGetGraphicsRunningProcesses", processes("Graphics")),
    ("mps", "nvmlDeviceGetMPSComputeRunningProcesses", processes("MPSCompute")),
    NVLINK_ERRORS,
)

HANDLE: Query = ("handle", "nvmlDeviceGetHandleByIndex", ())


def plan(*, deep: bool, watch: bool, later: bool) -> tuple[Query, ...]:
    """Return the queries of each GPU, in their order."""
    if later:
        return (HANDLE, *LATER)
    more = ((NVLINK_ERRORS,) if watch else ()) + ((INFOROM_CHECK,) if deep else ())
    return (HANDLE, *GPU, *more)


def answer(
    nvml: Any, symbol: str, ask: Callable[..., Any] | None, *arguments: Any
) -> tuple[str, Any, int | None, str]:
    """Return what became of one query: outcome, value, NVML's code and its text.

    Without *ask* it is pynvml's function *symbol*. The outcome is "value", "not supported",
    "missing" (this driver's library has no such function), "lost" (NVML says GPU_IS_LOST) or
    "error"; its code is None where it was not NVML that failed.
    """
    try:
        return "value", _plain((ask or getattr(nvml, symbol))(*arguments)), None, ""
    except nvml.NVMLError as error:
        if error.value == NOT_SUPPORTED:
            return "not supported", None, NOT_SUPPORTED, ""
        if error.value == FUNCTION_NOT_FOUND:
            return "missing", None, FUNCTION_NOT_FOUND, symbol
        if error.value == GPU_IS_LOST:
            return "lost", None, GPU_IS_LOST, symbol
        return "error", None, error.value, str(error)
    except UnicodeDecodeError:
        return "error", None, None, "the answer is not text"
    except AttributeError as error:
        return "error", None, None, f"this pynvml is too old: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a strange library makes pynvml do
        return "error", None, None, repr(error)


def bus_id(text: str) -> str:
    """Write NVML's bus id as Linux does: "00000000:0A:00.0" → "0000:0a:00.0"."""
    domain, bus, device = text.lower().split(":")
    return f"{int(domain, 16):04x}:{bus}:{device}"


def ask(nvml: Any, query: Query, handle: Any) -> tuple[str, Any, int | None, str]:
    """Return what became of one query of the tables."""
    _, symbol, how = query
    if isinstance(how, tuple):
        return answer(nvml, symbol, None, handle, *how)
    return answer(nvml, symbol, how, nvml, handle)


def _plain(value: Any) -> Any:
    """Return *value* as JSON can hold it."""
    if isinstance(value, bytes):  # pynvml decodes most texts, but not all
        return value.decode("utf-8", "replace")
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if value - value == 0 else None  # neither infinite nor no number
    if value is None or isinstance(value, (str, int)):
        return value
    return str(value)
