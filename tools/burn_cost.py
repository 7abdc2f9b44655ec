"""Measures what checking costs a burn: the same loop with and without it, in turn, in one run.

    python tools/burn_cost.py [GPU] [SECONDS]        (in a Python that has torch)

Prints for each kind of product the median rates and by how much the checked loop is slower. With
SECONDS (default 2) each loop lasts that long; five rounds, after a warm-up to the power limit.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpucheck.payload import exact
from gpucheck.payload.burn_products import Arena, Product, burn, set_precision
from gpucheck.payload.burn_report import Report

ROUNDS = 5
SHAPES = {
    "short": exact.Shape(8192, 8192, 1, 120, 256),
    "long": exact.Shape(8192, 8192, 8, 42, 256),
}
KINDS = (
    ("bf16", "short"),
    ("bf16", "long"),
    ("fp16", "long"),
    ("int8", "long"),
    ("tf32", "short"),
    ("fp32", "short"),
    ("fp64", "short"),
)


class Unchecked(Product):
    """The same products, and nobody looks at them."""

    def check(self, slot: Any, flag: Any) -> None:
        pass


def rate(product: Product, seconds: float) -> float:
    """Return 10^12 operations a second of the burn's own loop."""
    report = Report("tensor")
    operations = took = 0.0
    for _ in burn(product, seconds, report, number=1):
        facts = report.take()
        operations += sum(work["amount"] for work in facts["work"])
        took += sum(work["seconds"] for work in facts["work"])
        if facts["faults"]:
            raise SystemExit(f"wrong results: {facts['faults']}")
    return operations / took / 1e12


def main() -> None:
    """Print one JSON object."""
    device = torch.device("cuda", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 2.0
    torch.cuda.set_device(device)
    set_precision()
    memory = torch.zeros(12 << 27, dtype=torch.int64, device=device)  # 12 GiB
    references = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in SHAPES.items():
            exact.prove(shape, f"{folder}/{name}")
            references[name] = exact.read(shape, f"{folder}/{name}")
    rows = []
    for kind, name in KINDS:
        rates: dict[str, list[float]] = {"checked": [], "unchecked": []}
        for turn in range(ROUNDS + 1):
            for way, make in (("checked", Product), ("unchecked", Unchecked)):
                product = make(kind, SHAPES[name], Arena(memory), references[name], device)
                found = rate(product, seconds)
                if turn:  # the first warms up
                    rates[way].append(found)
        checked, unchecked = (statistics.median(rates[way]) for way in ("checked", "unchecked"))
        row = {
            "kind": kind,
            "size": SHAPES[name].name,
            "unchecked": round(unchecked, 1),
            "checked": round(checked, 1),
            "cost": round(1 - checked / unchecked, 4),
        }
        rows.append(row)
        print(row, file=sys.stderr)
    name = torch.cuda.get_device_name(device)
    print(json.dumps({"gpu": name, "torch": str(torch.__version__), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
