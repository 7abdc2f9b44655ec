"""How long the tests go on: a bounded share in every run, all of it under `make soak`."""

import os

IS_SOAK = bool(os.environ.get("GPUCHECK_SOAK"))


def rounds(always: int, in_soak: int) -> int:
    """Return how many rounds a test makes."""
    return in_soak if IS_SOAK else always
