"""Proves on real GPUs what the tests cannot: smoke, ddp, deep and bench with torch elsewhere.

    python tools/prove_on_gpus.py --torch-python PYTHON [--data DIR] [--out DIR] [--runs 10]

Run it with a Python that has gpucheck and no torch; PYTHON has torch. It takes about six minutes,
prints a line for each thing that was tried, and exits with 1 where one was not as expected. With
--out the reports are kept there as JSON.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Proof:
    """Tries things, and keeps what came out."""

    def __init__(self, torch_python: str, out: Path | None) -> None:
        self.torch_python = torch_python
        self.out = out
        self.failures = 0
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)

    def gpucheck(self, name: str, *options: str, **variables: str) -> Any:
        """Run gpucheck with --json; a report that is not healthy is a failure."""
        command = [sys.executable, "-m", "gpucheck", *options, "--json"]
        return self.report(name, command, **variables)

    def report(self, name: str, command: list[str], **variables: str) -> Any:
        began = time.monotonic()
        ended = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **variables}
        )
        seconds = time.monotonic() - began
        try:
            report = json.loads(ended.stdout)
        except ValueError:
            report = {"verdict": "no report", "findings": []}
        serious = [
            f"{one['code']} {one['subject']}: {one['saw']}"
            for one in report["findings"]
            if one["severity"] != "info"
        ]
        self.say(name, not serious and ended.returncode == 0, f"{seconds:5.1f} s", *serious)
        if not report["findings"] and report["verdict"] == "no report":
            print(ended.stderr[-2000:])
        self.keep(name, report)
        return report

    def say(self, name: str, is_good: bool, *words: str) -> None:
        self.failures += not is_good
        print("good" if is_good else "BAD ", f"{name:28}", *words, flush=True)

    def keep(self, name: str, content: Any) -> None:
        if self.out is not None:
            file = self.out / f"{name.replace(' ', '-')}.json"
            file.write_text(json.dumps(content, indent=1))


def main() -> None:
    """Try everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--torch-python", required=True)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    given = parser.parse_args()
    proof = Proof(given.torch_python, given.out)
    proof.say("gpucheck's own Python", importlib.util.find_spec("torch") is None, "has no torch")
    other = ("--python", given.torch_python)
    data = ("--data", given.data)
    smoke = proof.gpucheck("smoke, all GPUs", "smoke", *other, *data)
    training = smoke.get("training") or {}
    print("     parity", training.get("parity"), "phases", training.get("phases_ms"))
    active = str(Path(given.torch_python).absolute().parents[1])
    proof.gpucheck("smoke, active environment", "smoke", *data, VIRTUAL_ENV=active)
    proof.gpucheck("smoke, ddp", "smoke", *other, *data, "--strategy", "ddp")
    hidden = proof.gpucheck("smoke, GPU 1 alone", "smoke", *other, *data, CUDA_VISIBLE_DEVICES="1")
    named = [gpu["index"] for gpu in (hidden.get("training") or {}).get("per_gpu") or ()]
    proof.say("its GPU is called 1", named == [1], str(named))
    torchrun(proof, other, data)
    proof.gpucheck("doctor --deep", "doctor", "--deep", *other, "--ignore", "TOR,PKG,ENV,CUD,HST")
    bench(proof, other, given.runs)
    folder = tempfile.mkdtemp()
    burn = proof.gpucheck("burn", "burn", "--minutes", "2", "-o", f"{folder}/burn", *other)
    for gpu in (burn.get("burn") or {}).get("gpus", ()):
        share = gpu["load_share"] or 0.0
        proof.say(f"load of GPU {gpu['index']}", share > 0.98, f"{share:.2%}")
    for name, tool in (
        ("exactness", "exactness.py"),
        ("plain bench", "plain_bench.py"),
        ("cost of checking", "burn_cost.py"),
    ):
        ended = subprocess.run(
            [given.torch_python, str(HERE / tool)], capture_output=True, text=True
        )
        proof.say(name, ended.returncode == 0, ended.stderr[-300:] if ended.returncode else "")
        if ended.returncode == 0:
            found = json.loads(ended.stdout)
            proof.keep(name, found)
            print("    ", _exact(found) if name == "exactness" else found)
    sys.exit(proof.failures > 0)


def torchrun(proof: Proof, other: tuple[str, ...], data: tuple[str, ...]) -> None:
    """Let torchrun start two ranks of gpucheck, each of which finds its own GPU."""
    command = [proof.torch_python, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", "--no-python", sys.executable, "-m", "gpucheck", "smoke"]
    report = proof.report("torchrun", [*command, "--strategy", "ddp", *other, *data, "--json"])
    replicas = (report.get("training") or {}).get("replicas") or ()
    gpus = [one["gpu"] for one in replicas]
    proof.say("its ranks' GPUs", gpus == [0, 1], str(gpus))


def bench(proof: Proof, other: tuple[str, ...], runs: int) -> None:
    """Bench several times, and print how far the runs differ."""
    rates: dict[str, list[float]] = {}
    for run in range(runs):
        options = ("--quick",) if run == 1 else ()
        report = proof.gpucheck(f"bench {run}", "bench", *other, "--baseline", "none", *options)
        for one in (report.get("bench") or {}).get("figures", ()):
            if one["value"] is not None and not options:
                key = f"{one['measure']} {'-'.join(map(str, one['gpus']))} {one['size'] >> 20}"
                rates.setdefault(key, []).append(one["value"])
            elif one["error"]:
                print("     not measured:", one["measure"], one["gpus"], one["error"])
    for key, values in rates.items():
        spread = (max(values) - min(values)) / statistics.median(values)
        print(f"     {key:28} {statistics.median(values):10.1f}  spread {spread:6.1%}")


def _exact(found: Any) -> str:
    tried = [row for row in found["rows"] if "wrong" in row]
    wrong = [row for row in tried if row["wrong"]]
    failed = {f"{row['dtype']} {row['library']}: {row['error']}" for row in found["rows"]
              if "error" in row}  # fmt: skip
    return f"{found['gpu']}: {len(tried)} combinations, {len(wrong)} not exact {wrong} {failed}"


if __name__ == "__main__":
    main()
