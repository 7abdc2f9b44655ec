"""Is a cable between two network namespaces: `python cable.py PID PID`, until it is stopped.

A tap device in each namespace, and frames carried from one to the other. It needs /dev/net/tun
alone: not every kernel has veth. Stopped with SIGSTOP it is a cable that was cut.
"""

import ctypes
import fcntl
import os
import select
import struct
import sys

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000


def plug(pid: str) -> int:
    """Put a tap device named "cable" into the namespace of a process, and return its descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if libc.setns(namespace, _CLONE_NEWNET):
        sys.exit(f"setns: {os.strerror(ctypes.get_errno())}")
    tap = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH14x", b"cable", _IFF_TAP_NO_PI))
    return tap


def main() -> None:
    """Carry frames."""
    one, other = (plug(pid) for pid in sys.argv[1:])
    print("plugged", flush=True)
    while True:
        for ready in select.select([one, other], [], [])[0]:
            try:
                os.write(other if ready == one else one, os.read(ready, 65_536))
            except OSError:
                pass  # a side that is not up yet takes no frames


if __name__ == "__main__":
    main()
