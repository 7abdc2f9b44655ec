import gzip
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gpucheck.payload import mnist
from gpucheck.payload.mnist import FILES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, DataError

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None, reason="torch is not in this environment"
    ),
]


@pytest.fixture
def copy(digits: Path, tmp_path: Path) -> Path:
    """A folder whose files are links to the digits, so that one of them can be replaced."""
    for file in FILES:
        for name in (file.name, f"{file.name}.gz"):
            if (digits / name).exists():
                (tmp_path / name).symlink_to(digits / name)
    return tmp_path


def spoil(folder: Path, file: mnist.File, change: Callable[[bytes], bytes]) -> Path:
    """Replace a file by its changed content, unpacked."""
    path = folder / file.name
    packed = path.with_name(f"{file.name}.gz")
    content = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    for one in (path, packed):
        one.unlink(missing_ok=True)
    path.write_bytes(change(content))
    return path


def test_digits_are_read_whole(digits: Path):
    read = mnist.read(digits)

    assert len(read.train_images) == 60_000 * 784
    assert len(read.train_labels) == 60_000
    assert len(read.test_images) == 10_000 * 784
    assert set(read.test_labels) == set(range(10))


def test_synthetic_digits_are_the_same_on_every_machine(digits: Path):
    kind = mnist.read(digits).kind  # recognised by the checksums of all four files

    assert kind == ("mnist" if "GPUCHECK_MNIST" in os.environ else "synthetic")


@pytest.mark.parametrize("inside", ["", "raw", "MNIST/raw"])
def test_digits_are_found_where_torchvision_puts_them(digits: Path, tmp_path: Path, inside: str):
    folder = tmp_path / inside
    folder.parent.mkdir(parents=True, exist_ok=True)
    if inside:
        folder.symlink_to(digits)
    else:
        folder = digits

    assert mnist.find(tmp_path if inside else digits) == folder


def test_a_gzipped_file_is_read_too(copy: Path):
    path = spoil(copy, TEST_LABELS, lambda content: content)
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()

    assert len(mnist.read(copy).test_labels) == 10_000


def test_names_with_a_dot_are_read_too(copy: Path):
    path = spoil(copy, TEST_LABELS, lambda content: content)
    path.rename(copy / "t10k-labels.idx1-ubyte")

    assert len(mnist.read(copy).test_labels) == 10_000


def refused(folder: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        mnist.read(folder)
    return caught.value


def test_a_folder_without_digits_is_refused_with_the_names_that_were_expected(tmp_path: Path):
    error = refused(tmp_path)

    assert error.path == tmp_path
    assert "train-images-idx3-ubyte" in error.expected


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path):
    assert refused(tmp_path / "nowhere").problem == "no such folder"


def test_a_missing_file_is_named(copy: Path):
    spoil(copy, TEST_LABELS, lambda content: content).unlink()

    error = refused(copy)

    assert error.path.name == "t10k-labels-idx1-ubyte"
    assert error.problem == "missing"


def test_a_truncated_file_is_refused_with_both_sizes(copy: Path):
    path = spoil(copy, TRAIN_LABELS, lambda content: content[:1000])

    error = refused(copy)

    assert error.path == path
    assert error.problem == "1,000 bytes"
    assert "60,008 bytes" in error.expected


def test_a_truncated_gzip_file_is_refused(copy: Path):
    path = spoil(copy, TRAIN_LABELS, lambda content: gzip.compress(content)[:-500])

    error = refused(copy)

    assert error.path == path
    assert "cut off" in error.problem


def test_a_damaged_gzip_file_is_refused(copy: Path):
    def damage(content: bytes) -> bytes:
        packed = bytearray(gzip.compress(content))
        packed[-6] ^= 0xFF  # of the checksum at its end
        return bytes(packed)

    spoil(copy, TRAIN_LABELS, damage)

    assert "gzip" in refused(copy).problem


def test_a_wrong_magic_number_is_refused(copy: Path):
    spoil(copy, TRAIN_LABELS, lambda content: b"\0\0\x08\x03" + content[4:])

    error = refused(copy)

    assert (error.problem, error.expected) == ("magic number 2051", "2049")


def test_a_wrong_count_in_the_header_is_refused(copy: Path):
    spoil(copy, TRAIN_LABELS, lambda content: content[:4] + b"\0\0\0\1" + content[8:])

    assert "header" in refused(copy).problem


def test_a_label_of_11_is_refused_with_its_place(copy: Path):
    spoil(copy, TRAIN_LABELS, lambda content: content[:108] + b"\x0b" + content[109:])

    error = refused(copy)

    assert error.problem == "label 11 at item 100"
    assert error.expected == "labels from 0 to 9"


def test_one_changed_bit_is_refused_by_the_checksum(copy: Path):
    spoil(
        copy, TRAIN_LABELS, lambda content: content[:20] + bytes([content[20] ^ 1]) + content[21:]
    )

    error = refused(copy)

    assert "SHA-256" in error.problem
    assert TRAIN_LABELS.sha256["mnist"] in error.expected


def test_a_file_that_unpacks_without_end_does_not_fill_the_memory(copy: Path):
    spoil(copy, TRAIN_IMAGES, lambda _: gzip.compress(TRAIN_IMAGES.header() + bytes(200 << 20)))

    assert "too many bytes" in refused(copy).problem
