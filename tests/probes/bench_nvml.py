"""Times the NVML probe against fakes with 1 to 16 GPUs: `python tests/probes/bench_nvml.py`.

The fakes answer at once, or each query as late as a real H200 does on average.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fakes.nvml import FakeNvml, h200

from gpucheck.probes import nvml

COUNTS = (1, 2, 4, 8, 16)
H200_QUERY_MILLISECONDS = 0.4  # 306 ms without the two InfoROM checks, by 282 queries


def costs(*, query_milliseconds: float = 0.0, runs: int = 5) -> dict[int, float]:
    """Return the median milliseconds of the whole probe, by the number of GPUs."""
    found = {}
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as directory:
            gpu = h200().sleeps("*", query_milliseconds) if query_milliseconds else h200()
            fake = FakeNvml(Path(directory), [gpu] * count)
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                result = nvml.probe(
                    deadline_seconds=30, environment=os.environ | fake.environment()
                )
                times.append(1000 * (time.perf_counter() - start))
                assert result.count == count
            found[count] = statistics.median(times)
    return found


def main() -> None:
    for late in (0.0, H200_QUERY_MILLISECONDS):
        measured = costs(query_milliseconds=late)
        each = (measured[COUNTS[-1]] - measured[1]) / (COUNTS[-1] - 1)
        print(
            f"queries of {late} ms:",
            *(f"{count} GPUs {ms:.0f} ms" for count, ms in measured.items()),
            f"{each:.1f} ms for each further GPU",
            sep="  ",
        )


if __name__ == "__main__":
    main()
