"""Times the NVML probe: `python -m tools.bench_nvml [--here]`.

Against fakes with 1 to 16 GPUs, which answer at once or each query as late as a real H200 does on
average; with `--here` against this machine's own NVML, and each query by itself.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fakes.nvml import FakeNvml, h200

from gpucheck.probes import nvml, nvml_child
from gpucheck.probes.child import Child

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


def child_lines(*, parallel: bool, deep: bool) -> list[tuple[float, str]]:
    """Return what the child says here, each line with its milliseconds from the start."""
    command = nvml_child.nvml_command(
        capabilities=(0, 1, 2), deep=deep, watch=deep, parallel=parallel
    )
    found = []
    start = time.perf_counter()
    with Child(command, deadline_seconds=60) as child:
        for line in child.lines():
            found.append((1000 * (time.perf_counter() - start), line.decode()))
    return found


def here() -> None:
    for deep in (False, True):
        for parallel in (True, False):
            ends = [child_lines(parallel=parallel, deep=deep)[-1][0] for _ in range(7)]
            print(f"{deep=} {parallel=}: the child ends after {statistics.median(ends):.1f} ms")
    before = 0.0
    for at, line in child_lines(parallel=False, deep=True):
        print(f"{at:8.1f}  {at - before:+7.2f} ms  {line[:100]}")
        before = at


def main() -> None:
    if "--here" in sys.argv[1:]:
        here()
        return
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
