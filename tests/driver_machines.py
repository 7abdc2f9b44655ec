"""Machines whose driver is broken in one way, for the tests of the driver's rules."""

from typing import Any

import msgspec

from gpucheck.report import examine
from gpucheck.rule import Rule, Symptom
from gpucheck.rules import RULES
from gpucheck.snapshot import (
    NOT_SUPPORTED,
    CudaInit,
    DeviceNode,
    DriverLibrary,
    NvmlError,
    PciGpu,
    Snapshot,
    Unknown,
)
from machines import BUS_IDS, DRIVER, HEALTHY, gpu, machine, symptoms

DRV = tuple(rule for rule in RULES if rule.family == "DRV")
UNREAD = Unknown("permission denied")
NO_NVML = NvmlError(call="open", message="libnvidia-ml.so.1: cannot open shared object file")
BLIND: dict[str, Any] = {
    "library": None,
    "error": NO_NVML,
    "count": Unknown("NVML does not work"),
    "gpus": Unknown("NVML does not work"),
}
NO_CUDA = CudaInit(load_error="libcuda.so.1: cannot open shared object file")
NO_GPU = machine(
    host={"pci_gpus": ()},
    driver={
        "module_version": None,
        "module_kind": None,
        "loaded_modules": (),
        "proc_gpus": (),
        "module_file": None,
        "module_file_version": None,
        "module_is_signed": None,
        "dkms_version": None,
        "dkms_kernels": (),
        "libraries": (),
        "device_nodes": (),
        "persistenced_running": False,
        "cuda_init": NO_CUDA,
    },
    nvml=BLIND,
)
NO_DRIVER = machine(
    NO_GPU,
    host={
        "pci_gpus": tuple(
            msgspec.structs.replace(card, driver=None)
            for card in HEALTHY.host.pci_gpus  # type: ignore[union-attr]
        )
    },
)
NOT_LOADED = machine(
    driver={
        "module_version": None,
        "module_kind": None,
        "loaded_modules": (),
        "proc_gpus": (),
        "module_file": None,
        "device_nodes": (),
        "cuda_init": CudaInit(library="/usr/lib/libcuda.so.1", code=100),
    },
    nvml={**BLIND, "error": NvmlError(call="nvmlInitWithFlags", code=9, message="not loaded")},
)
WSL = machine(
    NO_GPU,
    host={"is_wsl": True},
    driver={
        "libraries": tuple(
            DriverLibrary(
                soname=soname, path=f"/usr/lib/wsl/lib/{soname}", is_selected=True, is_stub=False
            )
            for soname in ("libcuda.so.1", "libnvidia-ml.so.1")
        ),
        "device_nodes": (DeviceNode(path="/dev/dxg", exists=True, can_open=True),),
        "cuda_init": CudaInit(library="/usr/lib/wsl/lib/libcuda.so.1", code=0, device_count=1),
    },
    nvml={"error": None, "count": 1, "gpus": (gpu(0, persistence=NOT_SUPPORTED),)},
)


def cuda(code: int, **changes: Any) -> CudaInit:
    return CudaInit(library="/usr/lib/x86_64-linux-gnu/libcuda.so.1", code=code, **changes)


def card(bus_id: str = BUS_IDS[1], device_id: str = "0x2335", **changes: Any) -> PciGpu:
    return PciGpu(**{"bus_id": bus_id, "device_id": device_id, "driver": "nvidia", **changes})


def library(path: str, version: Any = DRIVER, **changes: Any) -> DriverLibrary:
    soname = path.rpartition("/")[2]
    plain: dict[str, Any] = {"is_stub": False, "found_via": "ld.so.cache", "is_selected": False}
    return DriverLibrary(
        soname=soname, path=path, real_path=path, version=version, **{**plain, **changes}
    )


def node(path: str, **changes: Any) -> DeviceNode:
    plain: dict[str, Any] = {
        "exists": True,
        "mode": "crw-rw-rw-",
        "group": "root",
        "can_open": True,
    }
    return DeviceNode(path=path, **{**plain, **changes})


def nodes(**changed: DeviceNode | None) -> tuple[DeviceNode, ...]:
    names = ("nvidiactl", "nvidia_uvm", "nvidia0", "nvidia1")
    found = (changed.get(name, node(f"/dev/{name.replace('_', '-')}")) for name in names)
    return tuple(each for each in found if each is not None)


def missing(path: str) -> DeviceNode:
    return DeviceNode(path=path, exists=False)


def only(rule: Rule, snapshot: Snapshot) -> Symptom:
    [symptom] = symptoms(rule, snapshot)
    return symptom


def found_in(snapshot: Snapshot) -> dict[str, str | None]:
    report = examine(snapshot, rules=DRV)
    return {finding.code: finding.explained_by for finding in report.findings}
