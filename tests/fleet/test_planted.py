"""A fleet with planted truths, from files to report: each is found, and nothing else is."""

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench_facts import TYPICAL, figure, measured

from gpucheck.snapshot import Snapshot, replace
from machines import gpu

NODES = 96
RACK_SIZE = 8
CHANCE = random.Random(20_251)


def benched(share: float = 1.0, slow: int | None = None) -> Snapshot:
    """A machine of four GPUs, as healthy ones differ; GPU *slow* is at 85 percent of that."""
    figures = [
        figure(measure, index, value=TYPICAL[measure] * share * (0.85 if index == slow else 1.0)
               * (1 + CHANCE.gauss(0, 0.002)))
        for measure in ("bf16", "memory")
        for index in range(4)
    ]  # fmt: skip
    return measured(*figures, count=4)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    nodes = {f"gpu{n:02d}": benched() for n in range(NODES)}
    other = nodes["gpu05"].driver
    nodes["gpu05"] = replace(nodes["gpu05"], driver=replace(other, module_version="575.57.08"))
    nodes["gpu17"] = benched(slow=2)
    for n in range(40, 48):
        nodes[f"gpu{n}"] = benched(share=0.96)
    lost = nodes["gpu60"].nvml
    gpus = (*lost.gpus[:3], gpu(3, state="lost"))  # type: ignore[index]
    nodes["gpu60"] = replace(nodes["gpu60"], nvml=replace(lost, gpus=gpus))
    files = {name: msgspec.json.encode(machine) for name, machine in nodes.items()}
    files["gpu70"] = files["gpu70"][: len(files["gpu70"]) // 2]
    files["gpu71"] = b"\x00\xff garbage"
    for name, content in files.items():
        if name in ("gpu72", "gpu73"):
            packed = gzip.compress(content)
            half = packed[: len(packed) // 2] if name == "gpu73" else packed
            (folder / f"{name}.json.gz").write_bytes(half)
        else:
            (folder / f"{name}.json").write_bytes(content)
    (folder / "gpu74.json").unlink()
    (folder / "gpu74.failed").write_text("ssh ended with status 255: Connection refused\n")
    racks = "".join(f"gpu{n:02d} r{n // RACK_SIZE}\n" for n in range(NODES))
    (folder / "racks.txt").write_text(racks)
    return folder


def test_each_planted_truth_is_found_and_nothing_else(fleet: Path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gpucheck", "fleet", "judge", str(fleet), "--format", "json"),
            *("--asked", f"gpu[00-{NODES - 1}],gpu99", "--racks", str(fleet / "racks.txt")),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert (report["verdict"], report["nodes"], report["examined"]) == ("broken", NODES + 1, 92)
    by_code: dict[str, set[str]] = {}
    for each in report["findings"]:
        if not each["is_fleet_wide"]:
            by_code.setdefault(each["code"], set()).add(each["nodes"])
    assert by_code.pop("FLT001") == {"gpu05"}
    assert by_code.pop("FLT010") == {"gpu17"}
    assert by_code.pop("FLT011") == {"gpu[40-47]"}
    assert by_code.pop("GPU001") == {"gpu60"}
    assert by_code.pop("FLT003") == {"gpu70", "gpu71", "gpu73", "gpu74", "gpu99"}
    assert by_code.pop("PRF001") == by_code.pop("PRF004") == {"gpu17"}
    own = {code: nodes for code, nodes in by_code.items() if nodes != {"gpu60"}}
    assert own == {}
