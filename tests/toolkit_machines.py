"""Toolkits, and the variables that lead to them, for the tests of their rules."""

from typing import Any

import msgspec

from gpucheck.snapshot import HomeVariable, Toolkit
from machines import CUDA_12

DISTRIBUTION = msgspec.structs.replace(
    CUDA_12,
    home="/usr/lib/nvidia-cuda-toolkit",
    names=("/usr/lib/nvidia-cuda-toolkit",),
    origin="distribution",
)


def home(path: str, version: str = "13.0") -> HomeVariable:
    return HomeVariable(
        value=path, resolved=path, has_nvcc=True, has_cudart=True, toolkit_version=version
    )


def toolkits(*installed: Toolkit, **changes: Any) -> dict[str, Any]:
    return {"installed": installed, **changes}
