"""Compiled files are those of RECORD; what was read of them is kept while they stay the same."""

import os
from pathlib import Path

import pytest
from elf_files import elf
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.probes import package_files
from gpucheck.probes.package_files import CompiledFile, Site, compiled_files, read_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    (folder / "vllm").mkdir(parents=True)
    (folder / "vllm/_C.abi3.so").write_bytes(elf(needed=["libcudart.so.13"], runpath="$ORIGIN"))
    (folder / "vllm-0.21.0.dist-info").mkdir()
    record = "vllm/__init__.py,sha256=a,3\nvllm/_C.abi3.so,sha256=b,900\n"
    (folder / "vllm-0.21.0.dist-info/RECORD").write_text(record)
    return folder


def look(site: Path, cache: Path) -> Site:
    found = read_site(str(site), cache)
    for package in found.distributions:
        for file in package.files:
            found.notes(file.path)
    found.save()
    return found


def test_shared_objects_are_found_among_the_other_lines_of_a_record():
    record = (
        b"a/b.py,sha256=x,1\n"
        b"a/lib.so,sha256=abc,20\n"
        b"a/lib.so.1.2,,\r\n"
        b"a/source.soup.txt,sha256=x,3\n"
        b'"a/with, comma.so",sha256=x,4\n'
        b"../../../outside.so,sha256=x,5\n"
        b"/absolute.so,sha256=x,5\n"
        b"a/last.so,sha256=def,7"
    )

    assert list(compiled_files(record)) == [
        CompiledFile("a/lib.so", 20, "sha256=abc"),
        CompiledFile("a/lib.so.1.2", -1, ""),
        CompiledFile("a/last.so", 7, "sha256=def"),
    ]


@given(st.binary() | st.text().map(str.encode))
def test_any_record_can_be_read(record: bytes):
    assert all(file.path and ".so" in file.path for file in compiled_files(record))


def test_what_a_file_needs_is_read_from_its_headers(site: Path, tmp_path: Path):
    [package] = look(site, tmp_path / "cache").distributions
    notes = read_site(str(site), tmp_path / "cache").notes("vllm/_C.abi3.so")

    assert (package.name, package.version) == ("vllm", "0.21.0")
    assert notes is not None
    assert notes.needed == ("libcudart.so.13",)
    assert notes.asks


def test_a_known_file_is_not_read_again(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    look(site, tmp_path / "cache")
    monkeypatch.setattr(package_files, "read_elf", lambda path: pytest.fail(f"read {path}"))

    notes = look(site, tmp_path / "cache").notes("vllm/_C.abi3.so")

    assert notes is not None
    assert notes.needed == ("libcudart.so.13",)


def test_a_changed_file_is_read_again(site: Path, tmp_path: Path):
    look(site, tmp_path / "cache")
    file = site / "vllm/_C.abi3.so"
    before = file.stat()
    content = elf(needed=["libcudart.so.12"], runpath="$ORIGIN")
    file.write_bytes(content)
    assert len(content) == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))

    notes = look(site, tmp_path / "cache").notes("vllm/_C.abi3.so")

    assert notes is not None
    assert notes.needed == ("libcudart.so.12",)


def test_a_changed_record_is_read_again(site: Path, tmp_path: Path):
    look(site, tmp_path / "cache")
    (site / "vllm-0.21.0.dist-info/RECORD").write_text("vllm/other.so,sha256=c,1\n")

    [package] = look(site, tmp_path / "cache").distributions

    assert [file.path for file in package.files] == ["vllm/other.so"]


def test_a_file_that_is_gone_is_none(site: Path, tmp_path: Path):
    look(site, tmp_path / "cache")
    (site / "vllm/_C.abi3.so").unlink()

    assert look(site, tmp_path / "cache").notes("vllm/_C.abi3.so") is None


@pytest.mark.parametrize("damage", [b"", b"\x00\xff broken", b"\x94\x01\xa0\x80\x80"])
def test_a_damaged_cache_costs_nothing_but_time(site: Path, tmp_path: Path, damage: bytes):
    look(site, tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    file.write_bytes(damage)

    notes = look(site, tmp_path / "cache").notes("vllm/_C.abi3.so")

    assert notes is not None
    assert notes.needed == ("libcudart.so.13",)
    assert file.read_bytes() != damage


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(site: Path, tmp_path: Path):
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("a file, where a folder is wanted")

    notes = look(site, in_the_way).notes("vllm/_C.abi3.so")

    assert notes is not None
    assert in_the_way.read_text() == "a file, where a folder is wanted"


def test_the_place_is_the_one_that_platformdirs_names(monkeypatch: pytest.MonkeyPatch):
    import platformdirs

    for variables in ({"XDG_CACHE_HOME": "/var/cache/ada"}, {"HOME": "/home/ada"}):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

        named = platformdirs.user_cache_path("gpucheck", appauthor=False)

        assert package_files.cache_directory() == named / "packages"


def test_nothing_is_kept_where_the_platform_names_no_place(site: Path):
    found = read_site(str(site), None)
    found.notes("vllm/_C.abi3.so")
    found.save()

    assert found.cache_file is None


def test_the_cache_is_the_users_own_and_leaves_nothing_half_written(site: Path, tmp_path: Path):
    look(site, tmp_path / "cache")

    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".msgpack"]
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


def test_environments_that_went_are_forgotten(site: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    cache.mkdir()
    for number in range(40):
        (cache / f"site-{number}.msgpack").write_bytes(b"old")
        os.utime(cache / f"site-{number}.msgpack", (number, number))

    look(site, cache)

    assert len(list(cache.iterdir())) == 32
    assert not (cache / "site-0.msgpack").exists()


def asks_now(site: Path, cache: Path) -> bool:
    found = read_site(str(site), cache)
    answers = [found.asks(package) for package in found.distributions]
    found.save()
    return any(answers)


def test_a_package_that_asks_for_nothing_is_looked_at_again_when_its_record_changes(
    site: Path, tmp_path: Path
):
    file, cache = site / "vllm/_C.abi3.so", tmp_path / "cache"
    file.write_bytes(elf(needed=["libm.so.6"]))
    assert not asks_now(site, cache)
    file.write_bytes(elf(needed=["libcudart.so.13"]))
    assert not asks_now(site, cache)

    record = site / "vllm-0.21.0.dist-info/RECORD"
    record.write_text(f"{record.read_text()}vllm/more.py,sha256=c,1\n")

    assert asks_now(site, cache)


def test_a_package_that_asks_for_cuda_is_looked_at_each_time(site: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    assert asks_now(site, cache)

    (site / "vllm/_C.abi3.so").write_bytes(elf(needed=["libm.so.6"]))

    assert not asks_now(site, cache)
