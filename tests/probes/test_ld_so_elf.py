"""The ELF reader: what the loader needs of an object, and nothing that hostile bytes can break."""

import os
import struct
import subprocess
import time
from pathlib import Path

import pytest
from elf_files import I386, NODEFLIB, elf
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes.elf import Elf, ElfError, parse_elf, read_elf
from gpucheck.probes.ld_so_interpreter import hwcaps_of, legacy_subfolders_of, read_interpreter

SAMPLE = elf(soname="libx.so.1", needed=["liba.so", "libb.so"], runpath="$ORIGIN:/opt")


def parsed(data: bytes) -> Elf:
    return parse_elf(lambda size, at: data[at : at + size], file_bytes=len(data))


def test_what_the_linker_wrote_is_what_we_read(tmp_path: Path):
    flags = "-soname,libx.so.1,--no-as-needed,-z,nodefaultlib"
    flags += ",--disable-new-dtags,-rpath,$ORIGIN/../lib:/opt"
    subprocess.run(
        ["gcc", "-shared", "-nostdlib", f"-Wl,{flags}", "-o", "x.so", "-xc", "-", "-lm"],
        input=b"",
        cwd=tmp_path,
        check=True,
    )

    found = read_elf(str(tmp_path / "x.so"))

    assert found.soname == "libx.so.1"
    assert found.needed == ("libm.so.6",)
    assert found.rpath == "$ORIGIN/../lib:/opt"
    assert found.runpath is None
    assert found.no_default_directories


def test_a_runpath_makes_the_rpath_beside_it_void():
    found = parsed(elf(rpath="/a", runpath="/b"))

    assert (found.rpath, found.runpath) == (None, "/b")


def test_a_32_bit_object_is_read_too():
    found = parsed(elf(soname="libx.so.1", machine=I386, flags_1=NODEFLIB))

    assert (found.is_64_bit, found.machine, found.soname) == (False, I386, "libx.so.1")


def test_a_search_path_of_kilobytes_is_read_whole():
    path = ":".join(f"/opt/directory/number/{n}" for n in range(200))

    assert parsed(elf(rpath=path)).rpath == path


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "file too short"),
        (b"\x7fELF", "file too short"),
        (b"/* GNU ld script */\n" * 9, "invalid ELF header"),
        (SAMPLE[:300], "cut short at 300 bytes"),
    ],
)
def test_what_the_loader_refuses_is_refused_with_its_words(data: bytes, why: str):
    with pytest.raises(ElfError, match=why):
        parsed(data)


def test_a_fifo_does_not_hang_the_reader(tmp_path: Path):
    fifo = tmp_path / "libx.so"
    os.mkfifo(fifo)

    with pytest.raises(ElfError):
        read_elf(str(fifo))


@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_but_elf_error(data: bytes):
    for start in (b"", b"\x7fELF\2\1\1", SAMPLE[:64], SAMPLE[:176]):
        try:
            parse_elf(lambda size, at, data=start + data: data[at : at + size])  # type: ignore[misc]
        except ElfError:
            pass


@given(st.integers(0, len(SAMPLE)), st.binary(min_size=1, max_size=16))
def test_no_damage_to_a_good_object_raises_anything_but_elf_error(at: int, new: bytes):
    data = bytearray(SAMPLE)
    data[at : at + len(new)] = new

    try:
        parsed(bytes(data))
    except ElfError:
        pass


def test_an_offset_beyond_every_file_is_refused(tmp_path: Path):
    data = bytearray(SAMPLE)
    struct.pack_into("<Q", data, 32, 0xFFFFFFFFFFFFFFF0)  # where the program headers stand
    path = tmp_path / "libx.so"
    path.write_bytes(data)

    with pytest.raises(ElfError):
        read_elf(str(path))


def test_the_interpreters_own_directories_and_version_are_read():
    data = b"""\0/lib/x86_64-linux-gnu/\0/usr/lib/x86_64-linux-gnu/\0/lib/\0/usr/lib/\0rest
    ld.so (Debian GLIBC 2.36-9) stable release version 2.36."""

    directories, version = read_interpreter(data)

    assert directories == (
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib",
        "/usr/lib",
    )
    assert version == (2, 36)


def test_an_interpreter_from_before_2_33_knows_no_glibc_hwcaps():
    directories, version = read_interpreter(b"\0/lib64/\0/usr/lib64/\0")

    assert (directories, version) == (("/lib64", "/usr/lib64"), (2, 32))
    assert read_interpreter(b"\0/lib64/\0/usr/lib64/\0glibc-hwcaps\0")[1] is None
    assert read_interpreter(b"") == ((), None)


@given(st.binary(max_size=300))
def test_no_interpreter_raises(data: bytes):
    read_interpreter(b"/lib64/\0/usr/lib64/\0" + data)


def test_levels_of_the_processor_stand_best_first():
    v2 = ["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]
    v3 = ["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"]

    assert hwcaps_of([*v2, *v3]) == ("x86-64-v3", "x86-64-v2")
    assert hwcaps_of(v3) == ()


def test_subfolders_of_old_glibc_are_those_its_own_debug_output_shows():
    folders, platform = legacy_subfolders_of("x86_64", "AuthenticAMD", (), (2, 36))

    assert folders == (
        "tls/x86_64/x86_64",
        "tls/x86_64",
        "tls",
        "x86_64/x86_64",
        "x86_64",
    )
    assert platform == "x86_64"
    assert legacy_subfolders_of("x86_64", "AuthenticAMD", (), (2, 37)) == ((), "x86_64")


@pytest.mark.parametrize(
    "data",
    [b"/lib/lib" * 50_000, b"/lib/\0" * 50_000 + b"x", b"GLIBC" * 80_000, b"/" * 400_000],
)
def test_hostile_interpreters_take_no_time(data: bytes):
    started = time.monotonic()

    read_interpreter(data)

    assert time.monotonic() - started < 2
