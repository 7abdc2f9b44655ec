"""Measured on real GPUs: the products that a burn compares bit for bit are exact there."""

import json
from pathlib import Path
from typing import Any

import pytest

from gpucheck.workloads.burn_plan import CORE, TENSOR

TABLE = Path(__file__).with_name("exactness.json")
GPUS: dict[str, Any] = json.loads(TABLE.read_text()) if TABLE.exists() else {}


@pytest.mark.skipif(not GPUS, reason="tools/exactness.py was not run on a real GPU")
@pytest.mark.parametrize("model", GPUS)
def test_no_product_that_a_burn_compares_is_rounded(model: str):
    rows = GPUS[model]["rows"]

    for kind in {kind for kind, _ in (*TENSOR, *CORE)}:
        mine = [row for row in rows if row["dtype"] == kind]
        assert {row["library"] for row in mine} == {"cublas", "cublaslt"}, kind
        assert all(row["wrong"] == 0 and row["elements"] > 0 for row in mine), kind
