"""Times gpucheck next to what it is measured against, in turns, in one run (`make bench`).

Every figure is a whole process, start to exit. Two commands take turns (A B A B ...), so that a
machine whose speed drifts slows both; the ratio is the median of the pairs' own ratios. A command
that fails, or a report with another verdict than this machine has, is no figure: its row says why,
and the run ends with status 1. Rows that this machine cannot measure (no GPU, no torch) say so.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
TRIVIAL_APP = """
import typer
app = typer.Typer(add_completion=False)
@app.command()
def hello() -> None:
    typer.echo("hello")
app()
"""
BARE_CUINIT = "import ctypes; assert ctypes.CDLL('libcuda.so.1').cuInit(0) == 0"
FIRST_CUDA_CALL = "import torch; torch.zeros(1).cuda()"
GPUCHECK = [sys.executable, "-m", "gpucheck"]
Check = Callable[[bytes], str]  # says what is wrong with a command's output; "" where it is right


class CommandError(Exception):
    """A timed command did not do what it is timed for."""


def accepts(_: bytes) -> str:
    return ""


def verdict_is(*verdicts: str) -> Check:
    """Return a check that a JSON report has one of *verdicts*."""

    def check(output: bytes) -> str:
        verdict = json.loads(output)["verdict"]
        return "" if verdict in verdicts else f"the verdict is {verdict}"

    return check


class Timed:
    """A command with the exit status and the output that make its time a figure."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        status: int = 0,
        check: Check = accepts,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = command
        self.status = status
        self.check = check
        self.environment = environment

    def __call__(self) -> float:
        """Return the seconds it takes, start to exit. CommandError: it failed."""
        began = time.perf_counter()
        ended = subprocess.run(
            self.command, stdin=subprocess.DEVNULL, capture_output=True, env=self.environment
        )
        took = time.perf_counter() - began
        if ended.returncode != self.status:
            last = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            raise CommandError(f"exit status {ended.returncode}: {last or 'nothing on stderr'}")
        wrong = self.check(ended.stdout)
        if wrong:
            raise CommandError(wrong)
        return took


class Table:
    """The rows printed so far, and whether every one that should be a figure is one."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.has_failures = False
        print("| what | takes | next to | takes | ratio | target |\n|---|---|---|---|---|---|")

    def row(self, *cells: str) -> None:
        print(f"| {' | '.join(cells)} |", flush=True)

    def pair(
        self, what: str, ours: Timed, other_name: str, other: Timed, target: str, *, runs: int = 0
    ) -> None:
        """Time two commands in turns, after one warm-up each."""
        try:
            ours(), other()
            pairs = [(ours(), other()) for _ in range(runs or self.runs)]
        except CommandError as error:
            self.failed(what, other_name, target, str(error))
            return
        mine, others = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        self.row(what, f"{mine:.3f} s", other_name, f"{others:.3f} s", f"{ratio:.2f}", target)

    def absent(self, what: str, other_name: str, target: str, why: str) -> None:
        self.row(what, "–", other_name, "–", why, target)

    def failed(self, what: str, other_name: str, target: str, why: str) -> None:
        self.has_failures = True
        self.row(what, "no figure", other_name, "–", f"FAILED: {why}", target)


def start_up(table: Table, trivial: Timed) -> None:
    for arguments in (["--help"], ["--version"], ["explain", "DRV006"]):
        ours = Timed([*GPUCHECK, *arguments])
        name = f"`gpucheck {' '.join(arguments)}`"
        table.pair(name, ours, "a trivial typer app", trivial, "≤ 1.3")


def doctor(table: Table, trivial: Timed, torch_python: str) -> None:
    app, no_gpu = "a trivial typer app", "`gpucheck doctor`, no GPU"
    plain = [*GPUCHECK, "doctor", "--json"]
    if has_gpu():
        table.absent(no_gpu, app, "≤ 3", "a GPU is here")
        sound = verdict_is("healthy", "degraded")
        ours = Timed(plain, check=sound)
        bare = Timed([sys.executable, "-c", BARE_CUINIT])
        table.pair("`gpucheck doctor`", ours, "a bare `cuInit`", bare, "≤ 1.25")
        quick = Timed([*plain, "--quick"], check=sound)
        smi = Timed(["nvidia-smi", "-q"])
        table.pair("`gpucheck doctor --quick`", quick, "`nvidia-smi -q`", smi, "≤ 1.5")
    else:
        ours = Timed(plain, status=1, check=verdict_is("broken"))
        table.pair(no_gpu, ours, app, trivial, "≤ 3")
        table.absent("`gpucheck doctor`", "a bare `cuInit`", "≤ 1.25", "no GPU here")
        table.absent("`gpucheck doctor --quick`", "`nvidia-smi -q`", "≤ 1.5", "no GPU here")
    collect_env = "`python -m torch.utils.collect_env`"
    if has_torch(torch_python):
        other = Timed([torch_python, "-m", "torch.utils.collect_env"])
        few = max(2, table.runs // 2)
        table.pair("`gpucheck doctor`", ours, collect_env, other, "–", runs=few)
    else:
        table.absent("`gpucheck doctor`", collect_env, "–", "no torch here")


def further_gpus(table: Table) -> None:
    """Time the quick doctor on the fakes: 1, 2, 4, 8, 16 GPUs."""
    what, beside, target = "each further GPU", "the fake NVML", "≤ 10 ms"
    if shutil.which("gcc") is None:
        table.absent(what, beside, target, "no gcc here")
        return
    sys.path.insert(0, str(TESTS))
    from fakes.nvml import FakeNvml, h200

    def sees(count: int) -> Check:
        def check(output: bytes) -> str:
            seen = len(json.loads(output)["gpus"])
            return "" if seen == count else f"{seen} GPUs were seen, not {count}"

        return check

    medians: dict[int, float] = {}
    for count in (1, 2, 4, 8, 16):
        with tempfile.TemporaryDirectory() as folder:
            fake = FakeNvml(Path(folder), gpus=[h200()] * count)
            command = [*GPUCHECK, "doctor", "--quick", "--json", "--select", "GPU001,GPU002"]
            ours = Timed(
                command, check=sees(count), environment={**os.environ, **fake.environment()}
            )
            try:
                ours()
                medians[count] = statistics.median(ours() for _ in range(table.runs))
            except CommandError as error:
                table.failed(what, beside, target, str(error))
                return
    each = (medians[16] - medians[1]) / 15 * 1000
    times = ", ".join(f"{count}: {value:.3f} s" for count, value in medians.items())
    table.row(what, f"{each:.1f} ms", f"{beside}: {times}", "–", "–", target)


def judging(table: Table) -> None:
    """Judge stored snapshots of 8 GPUs each, and see that their number makes no difference."""
    sys.path.insert(0, str(TESTS))
    import machines
    from gpucheck.report import examine

    what, target = "judging 2,000 snapshots of 8 GPUs", "≥ 1,000 a second"
    eight = machines.machine(nvml={"gpus": tuple(machines.gpu(n) for n in range(8)), "count": 8})
    report = examine(eight)
    if report.verdict != "healthy":
        table.failed(what, "500 of them", target, f"a healthy machine is {report.verdict}")
        return
    rates = []
    for number in (500, 2000):
        began = time.process_time()
        for _ in range(number):
            examine(eight)
        rates.append(number / (time.process_time() - began))
    table.row(
        what,
        f"{rates[1]:,.0f} a second and core",
        "500 of them",
        f"{rates[0]:,.0f} a second",
        f"{rates[1] / rates[0]:.2f}",
        target,
    )


def fleet(table: Table) -> None:
    """Judge ten thousand stored snapshots as one fleet, one of which has another driver."""
    sys.path.insert(0, str(TESTS))
    from tools import bench_fleet

    what = "`gpucheck fleet judge`, 10,000 nodes of 8 GPUs, 2 cores"
    beside, target = "reading the JSON", "≤ 10 s more, ≤ 300 MB"
    judged, read, wrong = bench_fleet.measure()
    if wrong:
        table.failed(what, beside, target, wrong)
        return
    table.row(
        what,
        f"{judged.seconds:.1f} s ({judged.cpu_seconds:.1f} of CPU), "
        f"{judged.most_bytes / 1e6:.0f} MB",
        beside,
        f"{read.seconds:.1f} s ({read.cpu_seconds:.1f} of CPU)",
        f"{judged.seconds - read.seconds:.1f} s more",
        target,
    )


def smoke(table: Table, torch_python: str) -> None:
    what, beside = "`gpucheck smoke --gpus all`", "`import torch` and the first CUDA call"
    target = "≤ 1.25, and the training"
    if not has_gpu() or not has_torch(torch_python):
        table.absent(what, beside, target, "no GPU with torch here")
        return
    training: list[float] = []

    def trained(output: bytes) -> str:
        report = json.loads(output)
        phases = report["training"]["phases_ms"]
        training.append(sum(v for k, v in phases.items() if k in ("training", "parity")) / 1000)
        return "" if report["verdict"] in ("healthy", "degraded") else report["verdict"]

    ours = Timed(
        [*GPUCHECK, "smoke", "--gpus", "all", "--json", "--python", torch_python], check=trained
    )
    bare = Timed([torch_python, "-c", FIRST_CUDA_CALL])
    try:
        ours(), bare()
        training.clear()
        pairs = [(ours(), bare()) for _ in range(max(2, table.runs // 3))]
    except CommandError as error:
        table.failed(what, beside, target, str(error))
        return
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    steps = statistics.median(training)
    table.row(
        what,
        f"{mine:.3f} s, {steps:.3f} s of it training",
        beside,
        f"{other:.3f} s",
        f"{(mine - steps) / other:.2f}",
        target,
    )


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and Path("/proc/driver/nvidia/version").exists()


def has_torch(python: str) -> bool:
    look = "import importlib.util as u; exit(not u.find_spec('torch'))"
    return subprocess.run([python, "-c", look]).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each command")
    parser.add_argument("--torch", default=sys.executable, help="a Python that has torch")
    parser.add_argument(
        "--only",
        help="comma-separated parts: start_up, doctor, further_gpus, judging, fleet, smoke",
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trivial.py"
        file.write_text(TRIVIAL_APP)
        trivial = Timed([sys.executable, str(file)], check=lambda out: "" if out else "no output")
        parts: dict[str, Callable[[Table], None]] = {
            "start_up": lambda table: start_up(table, trivial),
            "doctor": lambda table: doctor(table, trivial, arguments.torch),
            "further_gpus": further_gpus,
            "judging": judging,
            "fleet": fleet,
            "smoke": lambda table: smoke(table, arguments.torch),
        }
        chosen = arguments.only.split(",") if arguments.only else list(parts)
        if unknown := set(chosen) - set(parts):
            parser.error(
                f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}"
            )
        print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()};")
        print(f"medians of {arguments.runs} runs, taken in turns.\n")
        table = Table(arguments.runs)
        for name in chosen:
            parts[name](table)
    return int(table.has_failures)


if __name__ == "__main__":
    sys.exit(main())
