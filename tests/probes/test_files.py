import os

import pytest

from gpucheck.probes import files
from gpucheck.snapshot import Unknown


def test_a_file_is_read_up_to_the_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"0123456789")

    assert files.read_bytes(tmp_path / "file", 4) == b"0123"


def test_a_file_that_is_not_there_is_none(tmp_path):
    (tmp_path / "file").touch()

    assert files.read_text(tmp_path / "gone") is None
    assert files.read_text(tmp_path / "file" / "below") is None
    assert files.read_text(tmp_path / ("x" * 300)) is None
    assert files.names_in(tmp_path / "gone") is None


def test_a_fifo_a_folder_and_a_device_are_unknown_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")

    for place in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        assert isinstance(files.read_bytes(place), Unknown)


def test_a_link_to_itself_is_unknown(tmp_path):
    (tmp_path / "loop").symlink_to("loop")

    assert isinstance(files.read_text(tmp_path / "loop"), Unknown)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_unknown(tmp_path):
    (tmp_path / "file").touch(mode=0)

    assert files.read_text(tmp_path / "file") == Unknown(f"{tmp_path}/file: Permission denied")


def test_a_name_with_a_nul_byte_is_unknown():
    assert isinstance(files.read_bytes("a\0b"), Unknown)
    assert isinstance(files.names_in("a\0b"), Unknown)


def test_bytes_that_are_no_text_are_replaced(tmp_path):
    (tmp_path / "file").write_bytes(b"a\xffb")

    assert files.read_text(tmp_path / "file") == "a�b"
