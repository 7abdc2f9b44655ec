"""Times `gpucheck fleet judge` on thousands of snapshots, with a planted truth, and its memory."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gpucheck.privacy import redact
from gpucheck.snapshot import Driver, Snapshot, replace

NODES = 10_000
CORES = 2
ODD_ONE = 4711  # has another driver
READ = (
    "import msgspec, sys\n"
    "for line in open(sys.argv[1], 'rb'):\n"
    "    assert msgspec.json.decode(line)['snapshot']\n"
)
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Ran:
    """A process and its children: how long, and the most memory at a time, what is shared once."""

    seconds: float
    cpu_seconds: float  # what it would take on idle cores, times their number
    most_bytes: int
    output: bytes
    status: int


def eight_gpus() -> Snapshot:
    """Return the healthy machine of the tests with 8 GPUs, as `gpucheck snapshot` writes it."""
    import machines

    gpus = tuple(machines.gpu(number) for number in range(8))
    return redact(machines.machine(nvml={"gpus": gpus, "count": len(gpus)}))


def write(folder: Path, machine: Snapshot, number: int = NODES) -> Path:
    """Write *number* nodes as JSON lines, one of which has another driver; return the file."""
    plain = msgspec.json.encode(machine)
    driver: Driver = replace(machine.driver, module_version="575.57.08")
    odd = msgspec.json.encode(replace(machine, driver=driver))
    path = folder / "fleet.jsonl"
    with path.open("wb") as file:
        for node in range(number):
            snapshot = odd if node == min(ODD_ONE, number - 1) else plain
            file.write(b'{"node":"gpu%05d","snapshot":%b}\n' % (node, snapshot))
    return path


def run(command: list[str]) -> Ran:
    """Run *command* on as many cores as the target says."""
    cores = set(sorted(os.sched_getaffinity(0))[:CORES])
    before = _cpu_of_children()
    with tempfile.TemporaryFile() as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=output,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),  # noqa: PLW1509 - no threads here
        )
        most = 0
        while process.poll() is None:
            most = max(most, _memory_of_tree(process.pid))
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - began
        output.seek(0)
        cpu = _cpu_of_children() - before
        return Ran(seconds, cpu, most, output.read(), process.returncode)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory_of_tree(root: int) -> int:
    """Return the bytes that a process and all below it hold (their proportional set size)."""
    total, left = 0, [root]
    while left:
        pid = left.pop()
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            left += [
                int(child) for task in tasks for child in (task / "children").read_text().split()
            ]
        except OSError:  # it has ended
            continue
        total += next(
            int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:")
        )
    return total


def wrong_with(report: bytes, number: int = NODES) -> str:
    """Say what is wrong with the report on the nodes of `write`; "" where it is right."""
    facts = json.loads(report)
    drift = [each for each in facts["findings"] if each["code"] == "FLT001"]
    if facts["examined"] != number:
        return f"{facts['examined']:,} of {number:,} nodes were examined"
    odd = f"gpu{min(ODD_ONE, number - 1):05d}"
    if [(each["nodes"], each["saw"][:9]) for each in drift] != [(odd, "driver is")]:
        return f"{odd} alone has another driver, and FLT001 has {[each['nodes'] for each in drift]}"
    return ""


def measure(number: int = NODES) -> tuple[Ran, Ran, str]:
    """Return the judging, the bare reading of the same JSON, and what is wrong ("": nothing)."""
    with tempfile.TemporaryDirectory() as folder:
        file = write(Path(folder), eight_gpus(), number)
        words = ["-m", "gpucheck", "fleet", "judge", str(file), "--format", "json"]
        judged = run([sys.executable, *words])
        read = run([sys.executable, "-c", READ, str(file)])
    if judged.status not in (0, 1) or read.status != 0:
        return judged, read, f"exit status {judged.status or read.status}"
    return judged, read, wrong_with(judged.output, number)
