"""Opens one copy of cuDNN, and asks it for its version and that of its CUDA runtime."""

from __future__ import annotations

import ctypes

from . import channel


def main(path: str) -> None:
    """Report what the library at *path* says of itself, or the loader's message."""
    channel.reserve_stdout()
    found: dict[str, int | None] = {"version": None, "cuda": None}
    error = None
    try:
        library = ctypes.CDLL(path)
        for key, name in (("version", "cudnnGetVersion"), ("cuda", "cudnnGetCudartVersion")):
            function = getattr(library, name)
            function.restype = ctypes.c_size_t
            found[key] = function()
    except (OSError, AttributeError) as caught:
        error = str(caught)
    channel.emit("cudnn", error=error, **found)
