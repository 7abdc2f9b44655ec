"""The owner's word on what to leave out is read from all its places, and never guessed at."""

from pathlib import Path

import pytest

from gpucheck.probes.ignore_list import parse, places, probe
from gpucheck.snapshot import Accepted, Unknown

ONE = b'[[ignore]]\ncode = "DRV014"\nreason = "a laptop"\n'


def test_the_files_of_machine_user_and_project_all_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    machine, user, project = tmp_path / "etc", tmp_path / "config/gpucheck", tmp_path / "project"
    for folder in (machine, user, project):
        folder.mkdir(parents=True)
    (machine / "gpucheck.toml").write_bytes(ONE)
    (user / "gpucheck.toml").write_text('[[ignore]]\ncode = "DNN"\nreason = "not used"\n')
    (project / "gpucheck.toml").write_text('[[ignore]]\ncode = "DRV014"\nreason = "as agreed"\n')
    monkeypatch.chdir(project)

    found = probe({"XDG_CONFIG_HOME": str(tmp_path / "config")}, tmp_path)

    assert not isinstance(found, Unknown)
    assert {(each.code, each.reason) for each in found} == {
        ("DRV014", "as agreed"),
        ("DNN", "not used"),
    }


def test_the_user_s_file_is_in_the_configuration_directory_of_the_home():
    assert Path("/home/ada/.config/gpucheck/gpucheck.toml") in list(places({"HOME": "/home/ada"}))


def test_a_file_that_is_not_there_accepts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    assert probe({}, tmp_path) == ()


def test_an_entry_has_a_code_and_a_reason():
    assert parse(ONE, "f") == (Accepted(code="DRV014", reason="a laptop", file="f"),)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"not toml", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b'ignored = "DRV014"', "'ignored' has no meaning"),
        (b'[[ignore]]\ncode = "DRV014"', "has a code and a reason"),
        (b'ignore = ["DRV014"]', "has a code and a reason"),
        (b'[[ignore]]\ncode = "DRV014"\nreason = "x"\nsince = 3', "and nothing else"),
        (b'[[ignore]]\ncode = "drv14"\nreason = "x"', "is no rule"),
        (b'[[ignore]]\ncode = 14\nreason = "x"', "is no rule"),
        (b'[[ignore]]\ncode = "DRV014"\nreason = " "', "has no reason"),
    ],
)
def test_a_file_that_is_wrong_says_where_and_why(content: bytes, problem: str):
    found = parse(content, "/etc/gpucheck.toml")

    assert isinstance(found, Unknown)
    assert found.why.startswith("/etc/gpucheck.toml: ")
    assert problem in found.why
