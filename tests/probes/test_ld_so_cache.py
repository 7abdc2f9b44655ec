"""ld.so.cache: our reader beside the system's own ldconfig."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes.ld_so_cache import Cache, CacheError, read_cache

LDCONFIG = shutil.which("ldconfig", path="/sbin:/usr/sbin:/bin:/usr/bin")
LINE = re.compile(r"^\t(\S+) \(([^)]*)\) => (.+)$", re.MULTILINE)
X86_64 = 0x0303
HWCAPS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")

needs_ldconfig = pytest.mark.skipif(LDCONFIG is None, reason="no ldconfig here")


def printed(cache: Path) -> list[tuple[str, str]]:
    """What `ldconfig -p` says of a cache, in its order."""
    listing = subprocess.run(
        [str(LDCONFIG), "-p", "-C", str(cache)], capture_output=True, text=True, check=True
    ).stdout
    return [(match[1], match[3]) for match in LINE.finditer(listing)]


def read(cache: Cache) -> list[tuple[str, str]]:
    return [(entry.name, entry.path) for entries in cache.entries.values() for entry in entries]


def tree(root: Path, *, of: bytes) -> Path:
    """A library directory with links and glibc-hwcaps subfolders, and a conf file naming it."""
    libraries = root / "lib"
    for folder in (
        libraries,
        libraries / "glibc-hwcaps/x86-64-v2",
        libraries / "glibc-hwcaps/x86-64-v3",
    ):
        folder.mkdir(parents=True)
        (folder / "libsample.so.1").write_bytes(of)
    conf = root / "ld.so.conf"
    conf.write_text(f"{libraries}\n")
    return conf


@pytest.fixture(scope="module")
def a_library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    source = tmp_path_factory.mktemp("source")
    subprocess.run(
        ["gcc", "-nostdlib", "-shared", "-Wl,-soname,libsample.so.1", "-o", "lib.so", "-xc", "-"],
        input=b"",
        cwd=source,
        check=True,
    )
    return (source / "lib.so").read_bytes()


@needs_ldconfig
def test_this_machines_cache_reads_as_ldconfig_prints_it():
    path = Path("/etc/ld.so.cache")
    if not path.exists():
        pytest.skip("no cache here")

    cache = read_cache(path.read_bytes())

    assert sorted(read(cache)) == sorted(printed(path))


@needs_ldconfig
@pytest.mark.parametrize("kind", ["new", "compat", "old"])
def test_each_format_reads_as_ldconfig_prints_it(tmp_path: Path, a_library: bytes, kind: str):
    conf = tree(tmp_path, of=a_library)
    path = tmp_path / "ld.so.cache"
    subprocess.run([str(LDCONFIG), "-X", "-c", kind, "-f", str(conf), "-C", str(path)], check=True)

    cache = read_cache(path.read_bytes())

    assert sorted(read(cache)) == sorted(printed(path))
    # The old format had no way to say that an entry belongs to a glibc-hwcaps subfolder.
    if kind != "old":
        assert cache.lookup("libsample.so.1", X86_64) == f"{tmp_path}/lib/libsample.so.1"


@needs_ldconfig
@pytest.mark.parametrize("best", [0, 1, 2])
def test_a_subfolder_that_the_processor_may_use_wins(tmp_path: Path, a_library: bytes, best: int):
    conf = tree(tmp_path, of=a_library)
    path = tmp_path / "ld.so.cache"
    subprocess.run([str(LDCONFIG), "-X", "-f", str(conf), "-C", str(path)], check=True)

    found = read_cache(path.read_bytes()).lookup("libsample.so.1", X86_64, HWCAPS[best:])

    expected = "x86-64-v2" if best == 2 else "x86-64-v3"
    assert found == f"{tmp_path}/lib/glibc-hwcaps/{expected}/libsample.so.1"


def new_format(*entries: tuple[str, str, int], order: str = "<", flag: int | None = None) -> bytes:
    """A cache in the new format, written by hand."""
    strings = bytearray()
    rows = b""
    start = 48 + 24 * len(entries)
    for name, path, flags in entries:
        at = start + len(strings)
        strings += name.encode() + b"\0" + path.encode() + b"\0"
        rows += struct.pack(order + "iIIIQ", flags, at, at + len(name) + 1, 0, 0)
    mark = {"<": 2, ">": 3}[order] if flag is None else flag
    header = struct.pack(order + "IIB3xI12x", len(entries), len(strings), mark, 0)
    return b"glibc-ld.so.cache1.1" + header + rows + bytes(strings)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("flag", [None, 0])
def test_both_byte_orders_are_read_with_and_without_the_flag(order: str, flag: int | None):
    data = new_format(("libx.so.1", "/opt/libx.so.1", 0x0A03), order=order, flag=flag)

    cache = read_cache(data)

    assert cache.lookup("libx.so.1", 0x0A03) == "/opt/libx.so.1"
    assert cache.lookup("libx.so.1", X86_64) is None


def test_the_first_entry_of_this_machine_wins():
    data = new_format(
        ("libx.so.1", "/32/libx.so.1", 0x0003),
        ("libx.so.1", "/a/libx.so.1", X86_64),
        ("libx.so.1", "/b/libx.so.1", X86_64),
    )

    cache = read_cache(data)

    assert cache.lookup("libx.so.1", X86_64) == "/a/libx.so.1"
    assert cache.paths("libx.so.1", X86_64) == ("/a/libx.so.1", "/b/libx.so.1")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"ld.so-1.7.0",
        b"glibc-ld.so.cache1.1",
        b"glibc-ld.so.cache2.0" + bytes(100),
        b"\x7fELF" + bytes(100),
        new_format(("a", "b", 1))[:60],
    ],
)
def test_a_damaged_cache_is_refused(data: bytes):
    with pytest.raises(CacheError):
        read_cache(data)


@given(
    st.sampled_from([b"", b"ld.so-1.7.0\0", b"glibc-ld.so.cache1.1"]),
    st.binary(max_size=400),
)
def test_no_bytes_raise_anything_but_cache_error(magic: bytes, rest: bytes):
    try:
        read_cache(magic + rest)
    except CacheError:
        pass


@given(st.integers(0, 200), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_good_cache_raises_anything_but_cache_error(at: int, new: bytes):
    data = bytearray(new_format(("liba.so.1", "/a/liba.so.1", X86_64), ("b", "/b", 1)))
    data[at : at + len(new)] = new

    try:
        read_cache(bytes(data))
    except CacheError:
        pass
