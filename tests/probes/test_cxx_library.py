"""Which libstdc++ torch's process gets, and what it lacks: the model and the real loader agree."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpucheck.probes import cxx_library
from gpucheck.probes.elf import read_elf
from gpucheck.probes.elf_versions import defined_versions, needed_versions
from gpucheck.probes.ld_so import Process
from gpucheck.probes.this_loader import this_loader
from gpucheck.snapshot import CxxLibrary


def library(folder: Path, *versions: str) -> Path:
    """A libstdc++.so.6 with a function in each of *versions*."""
    folder.mkdir(parents=True, exist_ok=True)
    body = "".join(f"void f{n}(void) {{}}\n" for n in range(len(versions)))
    script = "".join(f"{v} {{ global: f{n}; }};\n" for n, v in enumerate(versions))
    (folder / "versions").write_text(script)
    path = folder / "libstdc++.so.6"
    options = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libstdc++.so.6"]
    subprocess.run(
        ["gcc", *options, "-Wl,--version-script,versions", "-xc", "-", "-o", path],
        cwd=folder,
        input=body.encode(),
        check=True,
    )
    return path


def user(path: Path, newest: Path, functions: int) -> Path:
    """A library that needs all versions of *newest*."""
    calls = "".join(f"void f{n}(void); " for n in range(functions))
    uses = "".join(f"f{n}();" for n in range(functions))
    options = ["-shared", "-fPIC", "-nostdlib", "-xc", "-", "-o", str(path)]
    subprocess.run(
        ["gcc", *options, "-xnone", str(newest)],
        input=f"{calls} void use(void) {{ {uses} }}".encode(),
        check=True,
    )
    return path


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path, Path]:
    new = library(tmp_path / "new", "GLIBCXX_3.4.9", "GLIBCXX_3.4.29", "CXXABI_1.3.13")
    old = library(tmp_path / "old", "GLIBCXX_3.4.9")
    return user(tmp_path / "libtorch_python.so", new, 3), new, old


def look(asker: Path, folder: Path, prefix: str = "/nowhere") -> object:
    variables = {"LD_LIBRARY_PATH": str(folder)}
    elf = read_elf(os.path.realpath(sys.executable))
    assert elf.interpreter is not None
    loader = this_loader(variables, elf.interpreter, machine=elf.machine)
    process = Process(loader, sys.executable)
    process.start()
    process.trace(str(asker))
    return cxx_library.look(process, prefix)


def opens(asker: Path, folder: Path) -> str:
    """Return the real loader's message; "" where it opens."""
    program = "import ctypes, sys\ntry: ctypes.CDLL(sys.argv[1])\nexcept OSError as e: print(e)"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, asker],
        env={"LD_LIBRARY_PATH": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.strip()


def test_versions_are_read_from_real_libraries(trees):
    asker, new, old = trees

    assert needed_versions(str(asker))["libstdc++.so.6"] == {
        *("GLIBCXX_3.4.9", "GLIBCXX_3.4.29", "CXXABI_1.3.13")
    }
    assert defined_versions(str(new)) >= {"GLIBCXX_3.4.29"}  # type: ignore[operator]
    assert "GLIBCXX_3.4.29" not in (defined_versions(str(old)) or ())


def test_an_old_copy_lacks_what_the_real_loader_misses(trees):
    asker, _, old = trees

    found = look(asker, old.parent)

    assert isinstance(found, CxxLibrary)
    assert found.path == str(old)
    assert found.found_via == "LD_LIBRARY_PATH"
    assert found.newest == "GLIBCXX_3.4.9"
    assert found.missing == ("CXXABI_1.3.13", "GLIBCXX_3.4.29")
    assert found.needed_by == str(asker)
    assert "' not found" in opens(asker, old.parent)


def test_a_new_copy_has_all_and_the_real_loader_opens_it(trees):
    asker, new, _ = trees

    found = look(asker, new.parent)

    assert isinstance(found, CxxLibrary)
    assert found.missing == ()
    assert opens(asker, new.parent) == ""


def test_a_newer_copy_in_the_environment_is_named(trees, tmp_path):
    asker, new, old = trees
    (tmp_path / "env/lib").mkdir(parents=True)
    newer = tmp_path / "env/lib/libstdc++.so.6.0.33"
    newer.write_bytes(new.read_bytes())

    found = look(asker, old.parent, str(tmp_path / "env"))

    assert isinstance(found, CxxLibrary)
    assert str(newer) in found.newer


def test_where_nothing_asks_for_it_there_is_none(tmp_path):
    source = tmp_path / "plain.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-nostdlib", "-xc", "-", "-o", source],
        input=b"int x;",
        check=True,
    )
    uses = "libstdc++.so.6" in read_elf(os.path.realpath(sys.executable)).needed

    assert (look(source, tmp_path) is None) is not uses


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01" + b"\xff" * 200, b"text"])
def test_a_broken_file_needs_and_defines_nothing(tmp_path, content):
    path = tmp_path / "x.so"
    path.write_bytes(content)

    assert needed_versions(str(path)) == {}
    assert not defined_versions(str(path))
