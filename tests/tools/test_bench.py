"""A benchmark gives figures of commands that did what they are timed for, and of no others."""

import subprocess
import sys

import pytest

from tools import bench, bench_fleet

PASSES = [sys.executable, "-c", ""]
FAILS = [sys.executable, "-c", "import sys; sys.exit('no msgspec here')"]
REPORT = [sys.executable, "-c", 'print(\'{"verdict": "broken"}\')']


def test_a_command_that_fails_has_no_time():
    with pytest.raises(bench.CommandError, match="exit status 1: no msgspec here"):
        bench.Timed(FAILS)()


def test_a_report_with_another_verdict_has_no_time():
    timed = bench.Timed(REPORT, check=bench.verdict_is("healthy"))

    with pytest.raises(bench.CommandError, match="the verdict is broken"):
        timed()


def test_a_row_of_a_failing_command_says_so_and_fails_the_run(capsys: pytest.CaptureFixture[str]):
    table = bench.Table(runs=1)

    table.pair("ours", bench.Timed(FAILS), "theirs", bench.Timed(PASSES), "≤ 1.3")

    assert table.has_failures
    assert "| ours | no figure | theirs | – | FAILED: exit status 1" in capsys.readouterr().out


def test_a_row_of_commands_that_work_is_a_figure(capsys: pytest.CaptureFixture[str]):
    table = bench.Table(runs=1)

    table.pair("ours", bench.Timed(PASSES), "theirs", bench.Timed(PASSES), "≤ 1.3")

    assert not table.has_failures
    assert " s | theirs | " in capsys.readouterr().out


def test_the_program_ends_with_status_1_where_a_dependency_is_missing(tmp_path):
    """gpucheck is there, and what it needs is not: as in an environment that is half installed."""
    (tmp_path / "msgspec.py").write_text("raise ModuleNotFoundError('msgspec')")

    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "tools.bench",
            "--only",
            "doctor",
            "--runs",
            "1",
            "--torch",
            "false",
        ],
        env={"PYTHONPATH": f"{tmp_path}:{bench.TESTS.parent}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 1, ended.stderr
    assert "FAILED: exit status 3" in ended.stdout


def test_the_fleet_s_figure_is_of_a_report_that_finds_the_one_with_another_driver():
    judged, read, wrong = bench_fleet.measure(40)

    assert wrong == ""
    assert judged.seconds > 0
    assert read.cpu_seconds > 0
    assert judged.most_bytes > 10_000_000
    assert "examined" in bench_fleet.wrong_with(judged.output, 41)
