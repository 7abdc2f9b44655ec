"""Asks CUDA whether it works: `cuInit(0)` and its neighbors, each answer as it comes.

`_ctypes` without `ctypes` saves 5 ms of the doctor's critical path; `_exit` leaves the teardown to
the kernel. The names of the steps are the names of the calls.
"""

from __future__ import annotations

import _ctypes
import posix

from . import channel

LIBRARY = "libcuda.so.1"


class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
    """A C int."""

    _type_ = "i"


class Function(_ctypes.CFuncPtr):
    """A C function that returns an int."""

    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = Int


def main() -> None:
    """Open the library and call it."""
    channel.silence()
    ask()
    channel.emit("done")
    posix._exit(0)


def ask() -> None:
    """Report what each call answers, up to the first that fails."""
    channel.emit("calling", call="dlopen")
    try:
        handle = _ctypes.dlopen(LIBRARY, 0)
    except OSError as error:
        channel.emit("load error", text=str(error))
        return
    channel.emit("library", path=mapped_from(handle))
    code = call(handle, "cuInit", 0)
    if code is None:
        return
    channel.emit("answered", call="cuInit", value=code)
    for name in ("cuDriverGetVersion", "cuDeviceGetCount")[: 2 if code == 0 else 1]:
        number = Int(-1)
        if call(handle, name, _ctypes.byref(number)) == 0:
            channel.emit("answered", call=name, value=number.value)


def call(handle: int, name: str, *arguments: object) -> int | None:
    """Call a function of the library; None where the library has no such function."""
    channel.emit("calling", call=name)
    try:
        address = _ctypes.dlsym(handle, name)
    except OSError as error:
        channel.emit("load error", text=str(error))
        return None
    code: int = Function(address)(*arguments)
    return code


def mapped_from(handle: int) -> str:
    """Return the path of the file that the loader took, by where its cuInit lies in memory."""
    try:
        symbol = _ctypes.dlsym(handle, "cuInit")
        maps = posix.open("/proc/self/maps", posix.O_RDONLY)
        text = b""
        while True:
            chunk = posix.read(maps, 1 << 16)
            if not chunk:
                break
            text += chunk
    except OSError:
        return LIBRARY
    for line in text.splitlines():
        words = line.split(None, 5)
        start, _, end = words[0].partition(b"-")
        if int(start, 16) <= symbol < int(end, 16) and len(words) == 6:
            return words[5].decode("utf-8", "replace")
    return LIBRARY
