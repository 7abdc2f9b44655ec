"""The package as other people's programs use it."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import gpucheck
from gpucheck import snapshot_file
from machines import HEALTHY, gpu, machine

BROKEN = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_import_costs_nothing():
    done = run("""
        import sys
        before = set(sys.modules)
        import gpucheck
        print(sorted(set(sys.modules) - before))
    """)

    assert done.stdout == "['gpucheck']\n", done.stderr


def test_a_machine_is_collected_examined_and_shown_from_outside():
    done = run("""
        import gpucheck
        machine = gpucheck.collect(gpucheck.Scope(quick=True, expect_gpus=3))
        assert isinstance(machine, gpucheck.Snapshot)
        report = gpucheck.examine(machine)
        assert isinstance(report, gpucheck.Report)
        print(machine.host.system, machine.expected_gpus, report.verdict)
        print(gpucheck.render(report).splitlines()[0])
    """)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Linux 3 ")
    assert "gpucheck 0" in done.stdout


def test_threads_of_the_caller_are_no_matter():
    done = run("""
        import threading, gpucheck
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        print(gpucheck.collect(gpucheck.Scope(quick=True)).host.system)
    """)

    assert done.stdout == "Linux\n", done.stderr


def test_a_function_keeps_its_name_whatever_submodule_was_imported_before():
    done = run("""
        import gpucheck.collect, gpucheck.render.style
        import gpucheck
        print(callable(gpucheck.collect), callable(gpucheck.render), gpucheck.__version__)
    """)

    assert done.stdout == f"True True {gpucheck.__version__}\n", done.stderr


def test_a_wrong_scope_is_a_usage_error():
    with pytest.raises(gpucheck.UsageError, match="/nope: is not there"):
        gpucheck.Scope(python="/nope")
    with pytest.raises(gpucheck.UsageError, match="/bin/true"):
        gpucheck.collect(gpucheck.Scope(quick=True, python="/bin/true"))


def test_an_examination_that_breaks_off_is_a_collection_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")

    with pytest.raises(gpucheck.CollectionError, match="exit status 1"):
        gpucheck.collect(gpucheck.Scope(quick=True))


def test_a_stored_snapshot_is_loaded_and_shown_without_asking_the_terminal(tmp_path: Path):
    file = tmp_path / "stored.json.gz"
    snapshot_file.save(snapshot_file.as_json(BROKEN), file)

    report = gpucheck.examine(gpucheck.load(file))

    assert report.verdict == "broken"
    assert max(map(len, gpucheck.render(report, width=60).splitlines()[:5])) <= 60
    assert gpucheck.render(report, "json").startswith("{")
    assert gpucheck.render(report, "markdown").startswith("## gpucheck report: broken")


def test_every_public_name_is_there():
    for name in gpucheck.__all__:
        assert getattr(gpucheck, name) is not None
    assert set(gpucheck.__all__) <= set(dir(gpucheck))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        gpucheck.nonsense  # type: ignore[attr-defined]  # noqa: B018
    assert gpucheck.examine(HEALTHY).verdict == "healthy"
