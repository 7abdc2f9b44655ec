"""Looks at a fake NVML as the doctor does, for the tests of its probe."""

import os

import msgspec
from fakes.nvml import FakeNvml

from gpucheck.probes import nvml
from gpucheck.snapshot import Gpu, Nvml, Unknown


def look(directory, gpus, *, fake=None, deadline_seconds=20.0, **options) -> Nvml:
    built = FakeNvml(directory, gpus, **(fake or {}))
    return nvml.probe(
        deadline_seconds=deadline_seconds,
        environment=os.environ | built.environment(),
        **options,
    )


def unknown_facts(gpu: Gpu) -> dict[str, str]:
    values = msgspec.structs.asdict(gpu)
    return {name: value.why for name, value in values.items() if isinstance(value, Unknown)}
