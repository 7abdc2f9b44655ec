"""Shows which products of whole numbers a GPU computes without any rounding.

    python exactness.py [GPU] [TABLE]        (in a Python that has torch)

Prints a JSON object; TABLE is a file of such objects by GPU model, in which this one's place is
taken (tests/knowledge/exactness.json is the one that is committed).

Integers whose every partial sum stays below 2^24 have one right product in fp32, whatever the order
of the additions. For each data type, inner size and cuBLAS or cuBLASLt, this counts the elements
that differ from the product in float64, which is exact too (below 2^53).
"""

import json
import sys
from pathlib import Path

import torch

#: largest input, inner size, order of the result
SHAPES = ((120, 8192, 8192), (42, 65_536, 4096), (120, 1024, 8192))
FP8_SHAPES = ((1, 8192, 8192), (2, 1024, 8192), (4, 8192, 8192), (8, 512, 8192))


def whole(rows: int, columns: int, reach: int, seed: int, device: torch.device) -> torch.Tensor:
    """Return integers from -reach to reach."""
    generator = torch.Generator(device=device).manual_seed(seed)
    return torch.randint(-reach, reach + 1, (rows, columns), device=device, generator=generator)


def product(left: torch.Tensor, right: torch.Tensor, dtype: str) -> torch.Tensor:
    """Multiply as the bench does, with the result in fp32 (int8: int32)."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    if dtype == "int8":
        return torch._int_mm(left.to(torch.int8), right.t().contiguous().to(torch.int8).t())
    if dtype == "fp8":
        one = torch.ones((), device=left.device)
        return torch._scaled_mm(
            left.to(torch.float8_e4m3fn),
            right.t().contiguous().to(torch.float8_e4m3fn).t(),
            scale_a=one,
            scale_b=one,
            out_dtype=torch.float32,
        )
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}
    kind = kinds.get(dtype, torch.float32)
    if dtype in ("bf16", "fp16"):
        return torch.mm(left.to(kind), right.to(kind), out_dtype=torch.float32)
    return torch.mm(left.to(kind), right.to(kind))


def main() -> None:
    """Try every combination, and print a JSON object."""
    device = torch.device("cuda", int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    rows = []
    for library in ("cublas", "cublaslt"):
        torch.backends.cuda.preferred_blas_library(library)
        for dtype in ("bf16", "fp16", "tf32", "fp32", "fp64", "int8", "fp8"):
            for reach, inner, order in FP8_SHAPES if dtype == "fp8" else SHAPES:
                left = whole(order, inner, reach, 1, device)
                right = whole(inner, order, reach, 2, device)
                row = {"library": library, "dtype": dtype, "reach": reach, "k": inner}
                try:
                    found = product(left, right, dtype)
                    expected = torch.mm(left.double(), right.double())
                    row |= {"elements": found.numel(), "wrong": int((found != expected).sum())}
                except (RuntimeError, AttributeError, TypeError, NotImplementedError) as error:
                    row["error"] = str(error).splitlines()[0][:200]
                rows.append(row)
                print(row, file=sys.stderr)
    name = torch.cuda.get_device_name(device)
    found = {"gpu": name, "torch": str(torch.__version__), "rows": rows}
    print(json.dumps(found, indent=1))
    if len(sys.argv) > 2:
        table = Path(sys.argv[2])
        known = json.loads(table.read_text()) if table.exists() else {}
        known[name] = found
        table.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
