"""Symbols are read as the loader and nm read them."""

import subprocess
from pathlib import Path

import pytest
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes.elf_symbols import SymbolError, Symbols, gnu_hash, library_names

SOURCE = """
extern int wanted_one(void), wanted_two(void), other(void);
extern int weak_one(void) __attribute__((weak));
const char name[] = "libcudnn_ops_infer.so.8";
const char text[] = "cannot open libcublas.so.12 here";
int given_one(void) { return wanted_one() + wanted_two() + other() + (weak_one ? weak_one() : 0); }
int given_two(void) { return name[0] + text[0]; }
static int hidden(void) { return 1; }
int given_three(void) { return hidden(); }
"""


@pytest.fixture(scope="module", params=["gnu", "sysv", "both"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("symbols") / "lib.so"
    options = ("-shared", "-fPIC", "-O0", "-nostdlib", f"-Wl,--hash-style={request.param}")
    command = ["gcc", "-w", "-x", "c", "-", "-o", str(path), *options]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return path


def test_undefined_symbols_are_those_of_nm_without_the_weak_ones(library: Path):
    with Symbols(str(library)) as symbols:
        found = sorted(symbols.undefined((b"wanted", b"weak")))

    assert found == [b"wanted_one", b"wanted_two"]


def test_what_a_file_defines_is_found_by_its_hash_table(library: Path):
    with Symbols(str(library)) as symbols:
        answers = {
            name: symbols.defines(name.encode())
            for name in ("given_one", "given_two", "given_three", "wanted_one", "hidden", "none")
        }
        has_hash = symbols.has_hash

    given = ["given_one", "given_two", "given_three"]
    assert [name for name, is_there in answers.items() if is_there] == (given if has_hash else [])


def test_a_file_that_defines_nothing_still_tells_what_it_needs(tmp_path: Path):
    path = tmp_path / "lib.so"
    source = "extern int wanted(void); static int (*call)(void) = wanted;\n"
    source += "__attribute__((used)) static int go(void) { return call(); }"
    command = ["gcc", "-w", "-x", "c", "-", "-o", str(path), "-shared", "-fPIC", "-nostdlib"]
    subprocess.run(command, input=source, text=True, check=True)

    with Symbols(str(path)) as symbols:
        assert list(symbols.undefined((b"wanted",))) == [b"wanted"]


def test_the_c_library_defines_what_nm_says():
    path = "/lib/x86_64-linux-gnu/libm.so.6"
    if not Path(path).exists():
        pytest.skip("no libm in Debian's place")
    listed = subprocess.run(["nm", "-D", path], capture_output=True, text=True).stdout.splitlines()
    names = {line.split()[-1].partition("@")[0] for line in listed if " T " in line}

    with Symbols(path) as symbols:
        assert all(symbols.defines(name.encode()) for name in names)
        assert not symbols.defines(b"_ZN3c105ErrorC2Ev")


def test_the_hash_is_that_of_the_gnu_tools():
    assert gnu_hash(b"") == 5381
    assert gnu_hash(b"printf") == 0x156B2BB8


@pytest.mark.parametrize(
    "content", [b"", b"no ELF file at all", elf(soname="x")[:100], elf(machine=3)]
)
def test_a_file_that_is_no_object_of_this_machine_is_an_error(tmp_path: Path, content: bytes):
    path = tmp_path / "lib.so"
    path.write_bytes(content)

    with pytest.raises(SymbolError):
        Symbols(str(path))


@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=12))
def test_damaged_headers_are_an_error_or_an_answer_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
):
    path = tmp_path_factory.getbasetemp() / "damaged.so"
    content = bytearray(_library(tmp_path_factory).read_bytes())
    for at, byte in changes:
        content[at] = byte
    path.write_bytes(content)

    try:
        with Symbols(str(path)) as symbols:
            found = list(symbols.undefined((b"wanted",)))
            answer = symbols.defines(b"given_one")
    except SymbolError:
        return

    assert len(found) <= 1000
    assert answer in (True, False)
    assert isinstance(library_names(str(path)), tuple)


def _library(folders: pytest.TempPathFactory) -> Path:
    path = folders.getbasetemp() / "whole.so"
    if not path.exists():
        command = ["gcc", "-w", "-x", "c", "-", "-o", str(path), "-shared", "-fPIC", "-nostdlib"]
        subprocess.run(command, input=SOURCE, text=True, check=True)
    return path


def test_names_that_stand_alone_are_those_that_a_library_opens(library: Path):
    assert library_names(str(library)) == ("libcudnn_ops_infer.so.8",)


def test_a_file_that_is_not_there_names_nothing(tmp_path: Path):
    assert library_names(str(tmp_path / "none.so")) == ()
