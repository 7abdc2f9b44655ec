"""What stands where a snapshot was promised is refused in one line, within a second."""

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck import snapshot_file
from gpucheck.snapshot import Fact, Snapshot, unknown_section
from gpucheck.usage_error import UsageError
from machines import HEALTHY

SECTIONS = [each for each in msgspec.structs.fields(Snapshot) if isinstance(each.default, Fact)]
GOOD = snapshot_file.as_json(HEALTHY).encode()


def refusal_of(file: Path | str) -> str:
    started = time.monotonic()
    with pytest.raises(UsageError) as refused:
        snapshot_file.read(str(file))
    assert time.monotonic() - started < snapshot_file.FILE_SECONDS + 1  # the deadline's own grace
    assert "\n" not in str(refused.value)
    return str(refused.value)


def write(folder: Path, content: bytes) -> Path:
    file = folder / "snapshot.json"
    file.write_bytes(content)
    return file


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path):
    assert snapshot_file.read(str(write(tmp_path, GOOD))) == HEALTHY
    assert snapshot_file.read(str(write(tmp_path, b"\xef\xbb\xbf" + GOOD))) == HEALTHY


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b" \n\t", "is empty"),
        (GOOD[: len(GOOD) // 2], "is cut off after"),
        (b"[]", "a snapshot is one object"),
        (b'"text"', "a snapshot is one object"),
        (b"{}", "it lacks"),
        (b'{"schema": null}', "it lacks"),
        (b'{"schema": 7}', "is not the text"),
        (b'{"schema": {"a": [1]}}', "is not the text"),
        (b'{"schema": "gpucheck.snapshot/2"}', "from a newer gpucheck"),
        (b'{"schema": "gpucheck.snapshot/999999999999999999999"}', "from a newer gpucheck"),
        (b'{"schema": "gpucheck.snapshot/x"}', "this gpucheck reads"),
        (b'{"schema": "gpucheck.report/1", "verdict": "healthy"}', "is a report"),
        (b'{"schema": "something/1"}', "is a something/1"),
        (
            b'{"schema": "gpucheck.snapshot/1", "host": {"is": "host", "system": 7}}',
            "$.host.system",
        ),
        (b'{"schema": "gpucheck.snapshot/1", "nvml": {"type": "host"}}', "wrong type"),
        (b'{"schema": "gpucheck.snapshot/1", "expected_gpus": 1e400}', "out of range"),
        (b'{"schema": "gpucheck.snapshot/1", "expected_gpus": ' + b"9" * 100_000 + b"}", ""),
        (b'{"schema": "gpucheck.snapshot/1", "gpucheck": "\\ud800"}', "is not JSON"),
        (b'{"schema": "gpucheck.snapshot/1", "gpucheck": "\xff"}', "is not JSON"),
        (b"[" * 5_000_000, "a snapshot is one object"),
        (b'{"schema":' * 1_000_000, "nested too deeply"),
        (b'{"schema": "gpucheck.snapshot/1", "x": ' + b"[" * 1_000_000, "nested too deeply"),
        (b"\x1f\x8b\x08" + b"x" * 100, "is no whole gzip file"),
        ("{}".encode("utf-16"), "is UTF-16"),
        (b"\0" * 1000, "zero bytes"),
        (b"Sun Nov 22 NVIDIA-SMI", "is not JSON"),
    ],
)
def test_what_is_no_snapshot_is_refused(tmp_path: Path, content: bytes, why: str):
    assert why in refusal_of(write(tmp_path, content))


def test_a_gigabyte_of_zeros_is_not_read(tmp_path: Path):
    file = tmp_path / "zeros"
    with file.open("wb") as stream:
        stream.truncate(1 << 30)

    assert "1,024 MiB" in refusal_of(file)


def test_what_is_no_file_is_refused(tmp_path: Path):
    assert "is a directory" in refusal_of(tmp_path)
    assert "no such file" in refusal_of(tmp_path / "absent")
    assert "is a device" in refusal_of("/dev/zero")
    assert "null" in refusal_of("with\0null")


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")

        assert refusal_of("socket")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path):
    file = write(tmp_path, GOOD)
    file.chmod(0)

    assert "permission denied" in refusal_of(file)


def test_a_fifo_that_nobody_writes_to_is_given_up_on(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")

    assert "nothing came" in refusal_of(tmp_path / "fifo")


def test_a_fifo_that_stays_open_is_given_up_on(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    os.write(writer, b'{"schema":')

    assert "no end came after 10 bytes" in refusal_of(tmp_path / "fifo")

    os.close(writer)


def test_a_fifo_that_never_ends_is_given_up_on(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; f = open(sys.argv[1], 'wb')\nwhile f.write(b' ' * 65536): pass",
            str(tmp_path / "fifo"),
        ],
        stderr=subprocess.DEVNULL,
    ) as endless:
        why = refusal_of(tmp_path / "fifo")
        endless.kill()

    assert "more than 64 MiB" in why or "no end came" in why or "nothing came" in why


def test_a_snapshot_may_come_through_a_fifo(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(GOOD,))
    writer.start()

    assert snapshot_file.read(str(tmp_path / "fifo")) == HEALTHY

    writer.join()


def test_a_pipe_is_waited_for():
    reader, writer = os.pipe()

    def late() -> None:
        time.sleep(1.2)
        os.write(writer, GOOD[:1000])
        time.sleep(0.2)
        with os.fdopen(writer, "wb") as stream:
            stream.write(GOOD[1000:])

    thread = threading.Thread(target=late)
    thread.start()

    assert snapshot_file.read(f"/dev/fd/{reader}") == HEALTHY

    thread.join()
    os.close(reader)


def test_a_pipe_is_not_waited_for_longer_than_was_asked():
    reader, writer = os.pipe()

    with pytest.raises(UsageError, match=r"nothing came in 0\.2 s"):
        snapshot_file.read(f"/dev/fd/{reader}", patience_seconds=0.2)

    os.close(reader)
    os.close(writer)


def parsed(content: bytes) -> Snapshot | str:
    """The snapshot, or the refusal."""
    try:
        return snapshot_file.parse(content, "file")
    except UsageError as usage_error:
        return str(usage_error)


@given(st.binary(max_size=300))
def test_whatever_the_bytes_they_are_refused_in_one_line(content: bytes):
    refused = parsed(content)

    assert isinstance(refused, str)
    assert "\n" not in refused


@given(st.data())
def test_a_damaged_snapshot_is_a_snapshot_or_is_refused_in_one_line(data: st.DataObject):
    at = data.draw(st.integers(0, len(GOOD) - 1))
    length = data.draw(st.integers(0, 40))
    content = GOOD[:at] + data.draw(st.binary(max_size=8)) + GOOD[at + length :]

    found = parsed(content)

    assert isinstance(found, Snapshot) or "\n" not in found


def test_text_that_is_no_unicode_is_written_all_the_same():
    odd = msgspec.structs.replace(
        HEALTHY, host=msgspec.structs.replace(HEALTHY.host, name="half\udc80")
    )

    assert (
        snapshot_file.parse(snapshot_file.as_json(odd).encode(), "file").host.name == "half\ufffd"
    )


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="cannot be written: is a directory"):
        snapshot_file.save("{}", tmp_path)


@pytest.mark.parametrize("field", SECTIONS, ids=lambda field: field.name)
def test_a_section_of_which_nothing_is_known_is_stored_and_read(field: msgspec.structs.FieldInfo):
    machine = Snapshot(**{field.name: unknown_section(type(field.default), "no answer")})

    assert snapshot_file.parse(snapshot_file.as_json(machine).encode(), "x") == machine
