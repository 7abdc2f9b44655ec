"""Looks at a fake NVML as the doctor does, for the tests of its probe."""

import os

import msgspec
from fakes.nvml import FakeNvml

from gpucheck.probes import nvml
from gpucheck.snapshot import Gpu, GpuSample, Nvml, Unknown
from seen_facts import seen


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


def later_sample(found: Nvml) -> GpuSample:
    """The second reading of the first GPU."""
    return seen(seen(found.gpus)[0].later_sample)


def crc_errors(gpu: Gpu) -> int:
    """The CRC errors of all NVLinks of *gpu*."""
    links = seen(gpu.nvlinks)
    return sum(seen(link.crc_data_errors) + seen(link.crc_flit_errors) for link in links)
