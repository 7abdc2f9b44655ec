"""What undoes a block is kept in the state directory, the last few of each file."""

import json
from pathlib import Path

import pytest

from gpucheck.shellenv import records
from gpucheck.shellenv.startup_file import Record

FILE = Path("/home/ada/.bashrc")


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "gpucheck"


def test_a_record_comes_back_as_it_was():
    record = Record(shell="zsh", cuda="/opt/my cuda", ld_library_path="never", newline_added=True)

    records.keep(FILE, "abc", record)

    assert records.load(FILE) == {"abc": record}
    assert records.load(Path("/home/ada/.zshrc")) == {}


def test_the_last_ten_records_stay_and_the_newest_is_the_last():
    for number in range(12):
        records.keep(FILE, str(number), Record(shell="bash"))
    records.keep(FILE, "5", Record(shell="zsh"))

    assert list(records.load(FILE)) == [*"234", *"6789", "10", "11", "5"]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"blocks": 3}', '{"blocks": {"a": []}}'])
def test_a_file_that_makes_no_sense_has_no_records(text: str):
    assert records.parse(text) == {}


def test_others_cannot_read_it(state: Path):
    records.keep(FILE, "abc", Record(shell="bash"))

    [file] = (state / "blocks").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(file.read_text())["file"] == str(FILE)
