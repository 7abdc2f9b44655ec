"""Measures what the packages of a large Python environment cost: `python tools/bench_packages.py`.

A throw-away environment of 400 distributions with 3,000 shared objects is laid out: 30 of them use
CUDA, 20 are linked to torch, RECORDs list headers by the thousand as real ones do. The probe runs
on it with an empty cache, then with the one that it has written.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent.parent
sys.path[:0] = [str(HERE), str(HERE / "tests")]

from elf_files import elf  # noqa: E402
from wheel_tree import plant_torch  # noqa: E402

from gpucheck.probes import packages  # noqa: E402
from gpucheck.snapshot import PyTorch  # noqa: E402

DISTRIBUTIONS, OBJECTS = 400, 3000
WITH_CUDA, WITH_TORCH = 30, 20
OTHER_FILES = 200  # in each RECORD
TARGETS_MS = {"first": 300.0, "again": 30.0}


def plant(site: Path) -> PyTorch:
    """Fill *site*, and return what the probe of torch would say of it."""
    facts = plant_torch(site)
    for number in range(DISTRIBUTIONS):
        needed: tuple[str, ...] = ("libstdc++.so.6", "libm.so.6", "libc.so.6")
        if number < WITH_CUDA:
            needed = ("libcudart.so.13", "libcublas.so.13", *needed)
        if number < WITH_TORCH:
            needed = ("libc10.so", "libtorch_cuda.so", *needed)
        _distribution(site, f"package_{number}", needed, OBJECTS // DISTRIBUTIONS + (number % 2))
    return facts


def _distribution(site: Path, name: str, needed: Sequence[str], objects: int) -> None:
    (site / name).mkdir()
    rows = [f"{name}/include/header_{n}.h,sha256=abc,{n}" for n in range(OTHER_FILES)]
    for number in range(objects):
        file = f"{name}/module_{number}.abi3.so"
        content = elf(needed=needed, runpath="$ORIGIN", strings=b"x" * 4000)
        (site / file).write_bytes(content)
        rows.append(f"{file},sha256=abc,{len(content)}")
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {name}\nVersion: 1.0\n")
    (info / "RECORD").write_text("\n".join([*rows, ""]))


def measure(facts: PyTorch, cache: Path) -> float:
    """Return the milliseconds that one look takes."""
    started = time.perf_counter()
    found = packages.probe(facts, {}, cache=cache)
    elapsed = (time.perf_counter() - started) * 1000
    assert isinstance(found.gpu_packages, tuple)
    assert len(found.gpu_packages) == WITH_CUDA, "a run that looks at nothing is no figure"
    return elapsed


def main() -> None:
    """Print the medians, and whether they reach the targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site-packages")
        site.mkdir()
        facts = plant(site)
        times: dict[str, list[float]] = {"first": [], "again": []}
        for number in range(rounds):
            cache = Path(folder, f"cache-{number}")
            for each in times.values():
                each.append(measure(facts, cache))
    for kind, figures in times.items():
        median = statistics.median(figures)
        verdict = "reaches" if median <= TARGETS_MS[kind] else "misses"
        print(f"{kind}: {median:.0f} ms, {verdict} the target of {TARGETS_MS[kind]:.0f} ms")


if __name__ == "__main__":
    main()
