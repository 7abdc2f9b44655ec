"""Times gpucheck beside what it is measured against, in turns, in one run (`make bench`).

Every figure is a whole process, start to exit. Two commands take turns (A B A B ...), so that a
machine whose speed drifts slows both; the ratio is the median of the pairs' own ratios. Rows that
this machine cannot measure (no GPU, no torch, no gcc) say so.
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


def seconds(command: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    """Return how long *command* takes, start to exit; what it prints is thrown away."""
    began = time.perf_counter()
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment)
    return time.perf_counter() - began


class Pair:
    """Two commands timed in turns."""

    def __init__(self, ours: Sequence[str], other: Sequence[str], runs: int) -> None:
        seconds(ours), seconds(other)  # one warm-up each
        pairs = [(seconds(ours), seconds(other)) for _ in range(runs)]
        self.ours = statistics.median(a for a, _ in pairs)
        self.other = statistics.median(b for _, b in pairs)
        self.ratio = statistics.median(a / b for a, b in pairs)


def row(what: str, beside: str, target: str, pair: Pair) -> None:
    print(
        f"| {what} | {pair.ours:.3f} s | {beside} | {pair.other:.3f} s | {pair.ratio:.2f} |"
        f" {target} |",
        flush=True,
    )


def absent(what: str, beside: str, target: str, why: str) -> None:
    print(f"| {what} | – | {beside} | – | {why} | {target} |", flush=True)


def start_up(runs: int, trivial: Path) -> None:
    app = [sys.executable, str(trivial)]
    for arguments in (["--help"], ["--version"], ["explain", "DRV006"]):
        pair = Pair([*GPUCHECK, *arguments], app, runs)
        row(f"`gpucheck {' '.join(arguments)}`", "a trivial typer app", "≤ 1.3", pair)


def doctor(runs: int, trivial: Path) -> None:
    if not has_gpu():
        pair = Pair([*GPUCHECK, "doctor"], [sys.executable, str(trivial)], runs)
        row("`gpucheck doctor`, no GPU", "a trivial typer app", "≤ 3", pair)
        why = "no GPU here"
        absent("`gpucheck doctor`", "a bare `cuInit`", "≤ 1.25", why)
        absent("`gpucheck doctor --quick`", "`nvidia-smi -q`", "≤ 1.5", why)
    else:
        absent("`gpucheck doctor`, no GPU", "a trivial typer app", "≤ 3", "a GPU is here")
        bare = [sys.executable, "-c", BARE_CUINIT]
        row(
            "`gpucheck doctor`",
            "a bare `cuInit`",
            "≤ 1.25",
            Pair([*GPUCHECK, "doctor"], bare, runs),
        )
        quick = Pair([*GPUCHECK, "doctor", "--quick"], ["nvidia-smi", "-q"], runs)
        row("`gpucheck doctor --quick`", "`nvidia-smi -q`", "≤ 1.5", quick)
    if has_torch():
        env = [sys.executable, "-m", "torch.utils.collect_env"]
        pair = Pair([*GPUCHECK, "doctor"], env, max(2, runs // 2))
        row("`gpucheck doctor`", "`python -m torch.utils.collect_env`", "≤ 0.17", pair)
    else:
        absent("`gpucheck doctor`", "`torch.utils.collect_env`", "≤ 0.17", "no torch here")


def further_gpus(runs: int) -> None:
    """Time NVML's own part on the fakes: 1, 2, 4, 8, 16 GPUs."""
    if shutil.which("gcc") is None:
        absent("each further GPU", "the fake NVML", "≤ 10 ms", "no gcc here")
        return
    sys.path.insert(0, str(Path(__file__).parent))
    from fakes.nvml import FakeNvml, h200

    medians: dict[int, float] = {}
    for count in (1, 2, 4, 8, 16):
        with tempfile.TemporaryDirectory() as folder:
            fake = FakeNvml(Path(folder), gpus=[h200()] * count)
            environment = {**os.environ, **fake.environment()}
            command = [*GPUCHECK, "doctor", "--quick", "--json"]
            seconds(command, environment)
            medians[count] = statistics.median(seconds(command, environment) for _ in range(runs))
    each = (medians[16] - medians[1]) / 15 * 1000
    times = ", ".join(f"{count}: {value:.3f} s" for count, value in medians.items())
    print(
        f"| each further GPU (fakes; {times}) | {each:.1f} ms | – | – | – | ≤ 10 ms |", flush=True
    )


def judging() -> None:
    """Judge stored snapshots of 8 GPUs each, and see that their number makes no difference."""
    sys.path.insert(0, str(Path(__file__).parent))
    import machines
    from gpucheck.report import examine

    eight = machines.machine(nvml={"gpus": tuple(machines.gpu(n) for n in range(8)), "count": 8})
    examine(eight)
    rates = []
    for number in (500, 2000):
        began = time.process_time()
        for _ in range(number):
            examine(eight)
        rates.append(number / (time.process_time() - began))
    print(
        f"| judging 2,000 snapshots of 8 GPUs | {rates[1]:,.0f} a second and core | 500 of them |"
        f" {rates[0]:,.0f} a second | {rates[1] / rates[0]:.2f} | ≥ 1,000 a second |",
        flush=True,
    )


def smoke(runs: int) -> None:
    what, beside = "`gpucheck smoke --gpus all`", "`import torch` and the first CUDA call"
    if not has_gpu() or not has_torch():
        absent(what, beside, "≤ 1.5, and the training", "no GPU with torch here")
        return
    few = max(2, runs // 3)
    training: list[float] = []

    def ours() -> float:
        began = time.perf_counter()
        ended = subprocess.run(
            [*GPUCHECK, "smoke", "--gpus", "all", "--json"], capture_output=True, text=True
        )
        took = time.perf_counter() - began
        phases = json.loads(ended.stdout)["training"]["phases_ms"]
        training.append(sum(v for k, v in phases.items() if k in ("training", "parity")) / 1000)
        return took

    bare = [sys.executable, "-c", FIRST_CUDA_CALL]
    ours(), seconds(bare)
    training.clear()
    pairs = [(ours(), seconds(bare)) for _ in range(few)]
    mine, other = (statistics.median(side) for side in zip(*pairs, strict=True))
    steps = statistics.median(training)
    print(
        f"| {what} | {mine:.3f} s, {steps:.3f} s of it training | {beside} | {other:.3f} s |"
        f" {(mine - steps) / other:.2f} | ≤ 1.5, and the training |",
        flush=True,
    )


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and Path("/proc/driver/nvidia/version").exists()


def has_torch() -> bool:
    return (
        subprocess.run(
            [sys.executable, "-c", "import importlib.util as u; exit(not u.find_spec('torch'))"]
        ).returncode
        == 0
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each command")
    parser.add_argument(
        "--only", help="comma-separated: start_up,doctor,further_gpus,judging,smoke"
    )
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()};")
    print(f"medians of {arguments.runs} runs, taken in turns.\n")
    print("| what | takes | beside | takes | ratio | target |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        trivial = Path(folder) / "trivial.py"
        trivial.write_text(TRIVIAL_APP)
        parts: dict[str, Callable[[], None]] = {
            "start_up": lambda: start_up(arguments.runs, trivial),
            "doctor": lambda: doctor(arguments.runs, trivial),
            "further_gpus": lambda: further_gpus(arguments.runs),
            "judging": judging,
            "smoke": lambda: smoke(arguments.runs),
        }
        for name, part in parts.items():
            if arguments.only is None or name in arguments.only.split(","):
                part()


if __name__ == "__main__":
    main()
