"""Pieces that the tests of torch's rules share."""

from typing import Any

import msgspec

from gpucheck.snapshot import Deep, Distribution, GpuWork
from machines import HEALTHY, SITE

change = msgspec.structs.replace
NO_GPU: dict[str, Any] = {
    "host": {"pci_gpus": ()},
    "nvml": {"count": 0, "gpus": ()},
    "driver": {"cuda_init": None},
}
OLD_DRIVER: dict[str, Any] = {
    "driver": {"module_version": "550.54.15", "cuda_init": None},
    "nvml": {"cuda_version": "12.4", "driver_version": "550.54.15"},
}
CPU: dict[str, Any] = {"build": "cpu", "version": "2.11.0+cpu", "cuda": None}
WORKS = GpuWork(index=0, bus_id="0000:00:06.0", kernel=None, matrix_product=None, convolution=None)
DEEP = Deep(
    import_error=None,
    is_available=True,
    warning=None,
    device_count=2,
    torch_cuda="13.0",
    cudnn="9.19.0",
    architectures=("sm_90",),
    gpus=(WORKS, change(WORKS, index=1, bus_id="0000:00:07.0")),
    copies=(),
)


def torch(**changes: Any) -> dict[str, Any]:
    return {"torch": change(HEALTHY.pytorch.torch, **changes)}  # type: ignore[type-var]


def deep(**changes: Any) -> Deep:
    return change(DEEP, **changes)


def distributions(*found: tuple[str, str, tuple[str, ...]]) -> dict[str, Any]:
    return {
        "distributions": tuple(
            Distribution(name=name, version=version, location=SITE, installer="pip", requires=needs)
            for name, version, needs in found
        )
    }
