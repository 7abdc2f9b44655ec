"""A file system that never answers, for tests of processes that are stuck in the kernel.

Whoever looks into it waits in state D: a request that the server of a FUSE file system has read and
does not answer is waited for even after SIGKILL. Needs root and /dev/fuse.
"""

import ctypes
import errno
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FUSE_INIT = 26
FUSE_ACCESS = 34
MNT_DETACH = 2


def why_not() -> str | None:
    """Say why there can be no such file system here; None where there can."""
    if os.geteuid() != 0:
        return "a stuck file system needs root"
    return None if os.access("/dev/fuse", os.R_OK | os.W_OK) else "there is no /dev/fuse here"


@contextmanager
def stuck_file_system(place: Path) -> Iterator[Path]:
    """Mount one at *place*; on the way out whoever hangs there is let go with an error.

    A process may make it its current directory: that is all that works.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"stuck", os.fsencode(place), b"fuse", 0, options) != 0:
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, os.strerror(number), str(place))
    server = subprocess.Popen([sys.executable, __file__, str(device)], pass_fds=[device])
    os.close(device)
    try:
        yield place
    finally:
        # The last one to hold the device ends the connection: whoever hangs there is let go.
        server.kill()
        server.wait()
        libc.umount2(os.fsencode(place), MNT_DETACH)


def _serve(device: int) -> None:
    """Shake hands, then read every request and answer none but whether one may come in."""
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:
            return
        _, opcode, unique = struct.unpack_from("<IIQ", request)
        if opcode == FUSE_INIT:
            body = struct.pack("<IIIIHHIIHHIII20x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0, 0, 0)
            os.write(device, struct.pack("<IiQ", 16 + len(body), 0, unique) + body)
        elif opcode == FUSE_ACCESS:
            os.write(device, struct.pack("<IiQ", 16, -errno.ENOSYS, unique))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
