"""Which package brought a file, by dpkg's own lists."""

from pathlib import Path

from gpucheck.probes.package_owner import owners_of
from gpucheck.snapshot import Unknown


def lists(root: Path, **packages: str) -> None:
    folder = root / "var/lib/dpkg/info"
    folder.mkdir(parents=True)
    for name, text in packages.items():
        (folder / f"{name.replace('_', '-')}:amd64.list").write_text(text)


def test_a_file_is_owned_by_the_package_that_lists_it_by_either_path(tmp_path):
    lists(
        tmp_path,
        libcudnn9="/.\n/usr/lib/libcudnn_ops.so.9.23.0\n/usr/lib/libcudnn.so.9\n",
        libcudnn8="/lib/libcudnn.so.8.9.7\n",
        other="/usr/lib/libfoo.so\n",
    )
    paths = [f"{tmp_path}/usr/lib/{name}" for name in ("libcudnn_ops.so.9.23.0", "x", "libfoo.so")]
    old = f"{tmp_path}/usr/lib/libcudnn.so.8.9.7"

    assert owners_of([*paths, old], ("cudnn",), tmp_path) == {
        paths[0]: "libcudnn9",
        old: "libcudnn8",
    }


def test_a_name_that_only_begins_like_a_listed_one_is_nobodys(tmp_path):
    lists(tmp_path, libcudnn9="/usr/lib/libcudnn.so.9.23.0\n")

    assert owners_of([f"{tmp_path}/usr/lib/libcudnn.so.9"], ("cudnn",), tmp_path) == {}


def test_a_system_without_dpkg_does_not_tell(tmp_path):
    assert isinstance(owners_of(["/usr/lib/x.so"], ("cudnn",), tmp_path), Unknown)
