"""Finds which of the system's packages files belong to, without running a package manager."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from gpucheck.probes.files import names_in, read_bytes
from gpucheck.snapshot import Unknown

_LIST_LIMIT_BYTES = 4 << 20
_MOST_LISTS = 256


def owners_of(
    paths: Iterable[str], words: Sequence[str], root: Path = Path("/")
) -> dict[str, str] | Unknown:
    """Return the Debian package of each of *paths* that one brought, by its path.

    Only packages whose names hold one of *words* are asked: a system has thousands. Unknown where
    the system keeps another kind of list: rpm's is a database.
    """
    folder = root / "var/lib/dpkg/info"
    names = names_in(folder)
    if not isinstance(names, tuple):
        return Unknown("this system has no lists of dpkg's")
    top = "" if root == Path("/") else str(root)
    wanted = {
        spelling.encode("utf-8", "surrogateescape"): path
        for path in paths
        for spelling in _spellings(path.removeprefix(top))
    }
    lists = [n for n in names if n.endswith(".list") and any(word in n for word in words)]
    found: dict[str, str] = {}
    for name in lists[:_MOST_LISTS]:
        data = read_bytes(folder / name, _LIST_LIMIT_BYTES)
        for line in data.splitlines() if isinstance(data, bytes) else ():
            if line in wanted:
                found.setdefault(wanted[line], name.removesuffix(".list").partition(":")[0])
    return found


def _spellings(path: str) -> Iterator[str]:
    """Yield how a package may list *path*: before the merged /usr it lay in /lib."""
    yield path
    yield path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}"
