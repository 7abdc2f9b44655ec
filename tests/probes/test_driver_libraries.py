"""Which copies of the driver's libraries are here, whose they are, which the loader takes."""

import os
from pathlib import Path

import pytest
from elf_files import elf

from gpucheck.probes import driver_libraries
from gpucheck.probes.driver_libraries import parse_mount_points, probe
from gpucheck.snapshot import DriverLibrary

MODULE = "580.95.05"


def put(root: Path, path: str, content: bytes | None = None) -> Path:
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(elf(soname="libcuda.so.1") if content is None else content)
    return place


def copies(root: Path, library_path: str = "", module: str = MODULE) -> list[DriverLibrary]:
    return [c for c in probe(root, library_path, module) if c.soname == "libcuda.so.1"]


def test_a_relative_element_of_ld_library_path_wins_as_it_does_for_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    put(tmp_path, "usr/lib/libcuda.so.1")
    put(tmp_path, "job/rel/libcuda.so.1")
    monkeypatch.chdir(tmp_path / "job")

    [winner] = [c for c in copies(tmp_path, "rel") if c.is_selected]

    assert winner.path.endswith("job/rel/libcuda.so.1")
    assert winner.found_via == "LD_LIBRARY_PATH"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="x86-64's own subfolders")
def test_a_copy_for_this_processor_wins_over_the_plain_one(tmp_path: Path):
    put(tmp_path, "opt/driver/libcuda.so.1")
    put(tmp_path, "opt/driver/glibc-hwcaps/x86-64-v2/libcuda.so.1")
    flags = "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"
    put(tmp_path, "proc/cpuinfo", f"vendor_id\t: GenuineIntel\nflags\t\t: {flags}\n".encode())

    [winner] = [c for c in copies(tmp_path, "/opt/driver") if c.is_selected]

    assert winner.path == "/opt/driver/glibc-hwcaps/x86-64-v2/libcuda.so.1"


def test_a_library_under_its_full_name_only_is_seen_and_does_not_win(tmp_path: Path):
    put(tmp_path, "usr/lib/libcuda.so.610.43.02")
    (tmp_path / "usr/lib/libcuda.so.1").symlink_to("libcuda.so.610.43.02")
    put(tmp_path, f"usr/lib/libcuda.so.{MODULE}")

    image, host = copies(tmp_path)

    assert (image.version, image.is_selected) == ("610.43.02", True)
    assert (host.version, host.is_selected, host.found_via) == (MODULE, False, "its full name only")


def test_a_compatibility_library_is_known_by_its_file_under_any_name(tmp_path: Path):
    compat = put(tmp_path, "usr/local/cuda-12.1/compat/libcuda.so.530.30.02")
    mounted = tmp_path / "usr/lib/libcuda.so.530.30.02"
    mounted.parent.mkdir(parents=True)
    os.link(compat, mounted)  # a bind mount has device and inode of its source, too
    (tmp_path / "usr/lib/libcuda.so.1").symlink_to(mounted.name)

    [library] = copies(tmp_path, module="525.60.13")

    assert library.is_compat


def test_a_copy_of_the_compatibility_library_is_known_by_size_and_version(tmp_path: Path):
    put(tmp_path, "usr/local/cuda-12.1/compat/libcuda.so.530.30.02")
    put(tmp_path, "opt/x/libcuda.so.530.30.02")
    (tmp_path / "opt/x/libcuda.so.1").symlink_to("libcuda.so.530.30.02")

    [other] = copies(tmp_path, "/opt/x", module="525.60.13")
    [own] = copies(tmp_path, "/opt/x", module="530.30.02")

    assert other.is_compat
    assert not own.is_compat


def test_the_driver_s_own_library_next_to_a_compatibility_package_is_none(tmp_path: Path):
    put(tmp_path, "usr/local/cuda-12.1/compat/libcuda.so.530.30.02")
    put(tmp_path, "usr/lib/libcuda.so.580.95.05")
    (tmp_path / "usr/lib/libcuda.so.1").symlink_to("libcuda.so.580.95.05")

    [library] = copies(tmp_path)

    assert not library.is_compat


def test_a_library_that_was_mounted_into_the_container_is_told_from_the_image_s(tmp_path: Path):
    put(tmp_path, f"usr/lib/libcuda.so.{MODULE}")
    (tmp_path / "usr/lib/libcuda.so.1").symlink_to(f"libcuda.so.{MODULE}")
    put(tmp_path, "opt/own/libcuda.so.1")
    table = (
        "21 1 0:20 / / rw,relatime - overlay overlay rw\n"
        f"80 21 8:1 /x /usr/lib/libcuda.so.{MODULE} ro,nosuid - ext4 /dev/sda1 rw\n"
    )
    put(tmp_path, "proc/self/mountinfo", table.encode())

    own, host = copies(tmp_path, "/opt/own")

    assert (own.is_mounted, host.is_mounted) == (False, True)


def test_mount_points_are_read_with_their_escapes_and_without_whole_systems():
    text = (
        "21 1 0:20 / / rw - overlay overlay rw\n22 21 0:21 / /usr rw - ext4 /dev/sda1 rw\n"
        "23 21 0:22 / /mnt/a\\040b rw - ext4 /dev/sdb1 rw\nshort line\n"
    )

    assert parse_mount_points(text) == {"/mnt/a b"}


def test_the_package_of_a_copy_is_named_where_one_of_two_has_to_go(tmp_path: Path):
    put(tmp_path, "usr/lib/x/libcuda.so.610.43.02")
    (tmp_path / "usr/lib/x/libcuda.so.1").symlink_to("libcuda.so.610.43.02")
    put(
        tmp_path,
        "var/lib/dpkg/info/libnvidia-compute-610:amd64.list",
        b"/.\n/lib/x/libcuda.so.610.43.02\n/lib/x/libcuda.so.1\n",
    )

    [library] = copies(tmp_path, "/usr/lib/x")

    assert library.package == "libnvidia-compute-610"


def test_two_names_of_one_library_are_asked_for():
    assert driver_libraries.SONAMES == ("libcuda.so.1", "libnvidia-ml.so.1")
