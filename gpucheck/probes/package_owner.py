"""Finds which of the system's packages a file belongs to, without running a package manager."""

from pathlib import Path

from gpucheck.probes.files import names_in, read_bytes
from gpucheck.snapshot import Unknown

_LIST_LIMIT_BYTES = 4 << 20


def owner_of(path: str, root: Path = Path("/")) -> str | Unknown | None:
    """Return the Debian package that brought the file *path*; None: none did.

    Unknown where the system keeps another kind of list: rpm's is a database.
    """
    folder = root / "var/lib/dpkg/info"
    names = names_in(folder)
    if not isinstance(names, tuple):
        return Unknown("this system has no lists of dpkg's")
    top = "" if root == Path("/") else str(root)
    inside = path.removeprefix(top)
    # A merged /usr: packages may list /lib/… for what now lies in /usr/lib/….
    spellings = {inside, inside.removeprefix("/usr"), f"/usr{inside}"}
    lines = [f"\n{each}\n".encode("utf-8", "surrogateescape") for each in spellings if each]
    for name in sorted(names, key=lambda each: not each.startswith(_stem(inside))):
        if name.endswith(".list"):
            data = read_bytes(folder / name, _LIST_LIMIT_BYTES)
            if isinstance(data, bytes) and any(line in b"\n" + data for line in lines):
                return name.removesuffix(".list").partition(":")[0]
    return None


def _stem(path: str) -> str:
    """Return how the package is most likely called: libcudnn_ops.so.9 → "libcudnn"."""
    return path.rpartition("/")[2].partition(".")[0].partition("_")[0]
