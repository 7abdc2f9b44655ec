"""Measures what `gpucheck bench` measures by hand, with torch.utils.benchmark, to compare.

python plain_bench.py [GPU]        (in a Python that has torch)
"""

import json
import sys

import torch
from torch.utils.benchmark import Timer


def rate(statement: str, amount: float, **names: object) -> float:
    """Return *amount* over the median time of *statement*, after a warm-up of half a second."""
    timer = Timer(statement, globals={"torch": torch, **names})
    timer.blocked_autorange(min_run_time=0.5)
    return amount / timer.blocked_autorange(min_run_time=1.0).median


def main() -> None:
    """Print the figures as JSON."""
    device = torch.device("cuda", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    torch.cuda.set_device(device)
    figures = {}
    for name, kind, order, tf32 in (
        ("fp32", torch.float32, 4096, False),
        ("tf32", torch.float32, 8192, True),
        ("fp16", torch.float16, 8192, False),
        ("bf16", torch.bfloat16, 8192, False),
    ):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        left, right = (torch.randn(order, order, device=device).to(kind) for _ in range(2))
        out = torch.empty_like(left)
        work = "torch.mm(left, right, out=out)"
        figures[name] = rate(work, 2e-12 * order**3, left=left, right=right, out=out)
    source = torch.ones(1 << 27, dtype=torch.int64, device=device)
    target = torch.empty_like(source)
    figures["memory"] = rate("target.copy_(source)", 2e-9 * (1 << 30), source=source, target=target)
    host = torch.ones(256 << 20, dtype=torch.uint8, pin_memory=True)
    there = torch.ones(256 << 20, dtype=torch.uint8, device=device)
    for name, a, b in (("h2d", host, there), ("d2h", there, host)):
        work = "b.copy_(a, non_blocking=True)"
        figures[name] = rate(work, 1e-9 * (256 << 20), a=a, b=b)
    print(json.dumps({name: round(figure, 1) for name, figure in figures.items()}))


if __name__ == "__main__":
    main()
