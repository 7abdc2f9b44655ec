"""A file that the user names is written whole, stays private where it is, and holds nobody up."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes import stuck

from gpucheck import snapshot_file
from gpucheck.cli.judgement import Judgement
from gpucheck.cli.workload_output import WorkloadOutput
from gpucheck.privacy import redact
from gpucheck.probes.apart import within
from gpucheck.render import Format
from gpucheck.report import examine
from gpucheck.usage_error import NoAnswerError, UsageError
from machines import HEALTHY, machine, path_entry

TEXT = snapshot_file.as_json(HEALTHY)


def gpucheck(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_fails_halfway_leaves_the_old_file(tmp_path: Path):
    file = tmp_path / "report.json"
    file.write_text("old")
    command = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from pathlib import Path; from gpucheck import snapshot_file;"
        f"snapshot_file.save('x' * 5000, Path({str(file)!r}), force=True)"
    )

    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)

    assert "cannot be written" in ended.stderr
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_what_identifies_only_its_owner_may_read(tmp_path: Path):
    snapshot_file.save(TEXT, tmp_path / "private.json", is_private=True)
    snapshot_file.save(TEXT, tmp_path / "plain.json")

    assert (tmp_path / "private.json").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "plain.json").stat().st_mode & 0o044


@pytest.mark.parametrize("form", [Format.TEXT, Format.JSON, Format.MARKDOWN])
@pytest.mark.parametrize("identify", [True, False])
def test_a_report_that_names_somebody_is_for_its_owner_alone(
    tmp_path: Path, form: Format, identify: bool
):
    """The text is what a terminal shows, names and all."""
    named = machine(environment={"path": (path_entry("/home/ada7/bin"),)}, host={"name": "rack12"})
    file = tmp_path / "report"

    Judgement(form=form, verbose=True, identify=identify, output=file).of_machine(named)

    assert (file.stat().st_mode & 0o077 == 0) == (identify or form is Format.TEXT)


@pytest.mark.parametrize("identify", [True, False])
def test_the_facts_of_a_workload_that_identify_are_for_their_owner_alone(
    tmp_path: Path, identify: bool, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "facts.json"
    output = WorkloadOutput(
        form=Format.JSON, facts_to=file, verbose=False, quiet=False, identify=identify
    )

    output.write(examine(machine(host={"name": "rack12"})), redact)

    assert ("rack12" in file.read_text()) == identify
    assert ("rack12" in capsys.readouterr().out) == identify
    assert (file.stat().st_mode & 0o077 == 0) == identify


def test_one_file_takes_no_reports_of_several_machines(tmp_path: Path):
    for name in ("a.json", "b.json"):
        snapshot_file.save(TEXT, tmp_path / name)

    done = gpucheck("doctor", "--from", str(tmp_path), "-o", str(tmp_path / "report"))

    assert done.returncode == 2
    assert "-o takes the report of one machine" in done.stderr
    assert not (tmp_path / "report").exists()


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")

    snapshot_file.save(TEXT, tmp_path / "link.json", force=True)

    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == TEXT


def test_a_fifo_that_nobody_reads_is_an_error_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")

    began = time.monotonic()
    with pytest.raises(UsageError, match="cannot be written"):
        snapshot_file.save(TEXT, tmp_path / "fifo")
    assert time.monotonic() - began < 5


def test_work_that_never_ends_is_named():
    with pytest.raises(NoAnswerError, match=r"/mnt/dead did not answer in 0.2 s"):
        within(0.2, "/mnt/dead", lambda: time.sleep(30))


@pytest.mark.skipif(stuck.why_not() is not None, reason=str(stuck.why_not()))
@pytest.mark.parametrize(
    "arguments",
    [
        ["doctor", "--from", "{}/snapshot.json"],
        ["doctor", "--from", "{}"],
        ["doctor", "--quick", "--format", "prometheus", "-o", "{}/x.prom"],
        ["snapshot", "--quick", "-o", "{}/snapshot.json"],
    ],
    ids=" ".join,
)
def test_a_dead_file_system_holds_nobody_up(arguments: list[str], tmp_path: Path):
    place = tmp_path / "dead"
    place.mkdir()
    with stuck.stuck_file_system(place):
        began = time.monotonic()
        ended = gpucheck(*(word.format(place) for word in arguments))
        took = time.monotonic() - began

    assert ended.returncode == 1, ended.stderr
    assert "did not answer in" in ended.stderr
    assert took < 40
