"""Asks CUDA whether it works: `cuInit(0)` in a bare child process."""

import sys
from typing import TYPE_CHECKING

from gpucheck.probes.child import Child

if TYPE_CHECKING:
    from gpucheck.snapshot import CudaInit, Unknown

LIMIT_BYTES = 1 << 20

# The child imports as little as there is: `_ctypes` without `ctypes` saves 5 ms. Each
# answer is written as it comes, so that a call that never returns has a name. What the library
# prints goes to /dev/null. `_exit` leaves the teardown to the kernel. The names of the steps are
# the names of the calls.
_SOURCE = """
import posix, _ctypes
out = posix.dup(1)
null = posix.open("/dev/null", posix.O_RDWR)
posix.dup2(null, 1)
posix.dup2(null, 2)
def say(*words):
    posix.write(out, b" ".join(w if type(w) is bytes else str(w).encode("utf-8", "replace")
                               for w in words).replace(b"\\n", b" ") + b"\\n")
class Int(_ctypes._SimpleCData):
    _type_ = "i"
class Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL
    _restype_ = Int
say("start", "dlopen")
try:
    handle = _ctypes.dlopen("libcuda.so.1", 0)
except OSError as error:
    say("load_error", error)
    say("done")
    posix._exit(0)
path = b"libcuda.so.1"
try:
    maps = posix.open("/proc/self/maps", posix.O_RDONLY)
    text = b""
    while chunk := posix.read(maps, 1 << 16):
        text += chunk
    symbol = _ctypes.dlsym(handle, "cuInit")
    for line in text.splitlines():
        words = line.split(None, 5)
        start, _, end = words[0].partition(b"-")
        if int(start, 16) <= symbol < int(end, 16) and len(words) == 6:
            path = words[5]
except OSError as error:
    pass
say("library", path)
def call(name, *arguments):
    say("start", name)
    try:
        address = _ctypes.dlsym(handle, name)
    except OSError as error:
        say("load_error", error)
        return None
    return Function(address)(*arguments)
code = call("cuInit", 0)
if code is None:
    say("done")
    posix._exit(0)
say("cuInit", code)
for name in ("cuDriverGetVersion", "cuDeviceGetCount")[: 2 if code == 0 else 1]:
    number = Int(-1)
    if call(name, _ctypes.byref(number)) == 0:
        say(name, number.value)
say("done")
posix._exit(0)
"""


def start(deadline_seconds: float) -> Child:
    """Start the child, with this process's environment: the user's own LD_LIBRARY_PATH counts.

    It works while the other probes do: `cuInit` is the slowest part of the doctor (0.6 s with two
    H200s, nearly all of it the driver's own).
    """
    return Child(
        [sys.executable, "-I", "-S", "-c", _SOURCE],
        deadline_seconds=deadline_seconds,
        limit_bytes=LIMIT_BYTES,
    )


def finish(child: Child) -> "CudaInit | Unknown":
    """Return what the child found out, at the latest when its deadline is over.

    A call that did not come back, or that killed the child, is a fact of its own
    (`CudaInit.trouble`); a child that gave nothing to go by is Unknown.
    """
    lines: list[bytes] = []
    with child:
        for line in child.lines():
            lines.append(line)
            if line == b"done":
                # All is said. Its exit may take the driver a while where persistence is off.
                return parse(lines, None)
        return parse(lines, child.end().why)


def parse(lines: list[bytes], why: str | None) -> "CudaInit | Unknown":
    """Read the child's answers; *why* says how the child ended where it did not end well."""
    # Not above: the child is started before anything that takes time to import.
    from gpucheck.snapshot import CudaInit, Unknown

    answers: dict[str, str] = {}
    step = ""
    for line in lines:
        name, _, value = line.decode("utf-8", "replace").partition(" ")
        if name == "start":
            step = value
        else:
            answers[name] = value
    if "done" not in answers and step not in _STEPS:
        return Unknown(why or "the child gave no answer that makes sense")
    if "done" not in answers:
        ended = why or "the child ended"
        return CudaInit(
            library=answers.get("library"),
            code=_number(answers.get("cuInit")),
            driver_version=_version(answers.get("cuDriverGetVersion")),
            error=f"{ended} to {step}" if ended.startswith("no answer") else f"{ended} in {step}",
        )
    return CudaInit(
        library=answers.get("library"),
        load_error=answers.get("load_error") if "cuInit" not in answers else None,
        code=_number(answers.get("cuInit")),
        driver_version=_version(answers.get("cuDriverGetVersion")),
        device_count=_number(answers.get("cuDeviceGetCount")),
    )


_STEPS = ("dlopen", "cuInit", "cuDriverGetVersion", "cuDeviceGetCount")


def _number(text: str | None) -> int | None:
    try:
        return None if text is None else int(text[:12])
    except ValueError:
        return None


def _version(text: str | None) -> str | None:
    """Turn cuDriverGetVersion's number, major * 1000 + minor * 10, into "13.0"."""
    number = _number(text)
    if number is None or number <= 0:
        return None
    return f"{number // 1000}.{number % 1000 // 10}"
