"""The command line at first contact: help, completion, formats, machines, ignored findings."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gpucheck import snapshot_file
from gpucheck.cli import app
from gpucheck.render import RENDERERS, Format, Look, Renderer, render
from gpucheck.report import examine
from gpucheck.snapshot import Accepted, IgnoreList, Snapshot, replace
from machines import HEALTHY, gpu, machine
from seen_facts import seen

BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
COMMANDS = ("doctor", "explain", "smoke", "bench", "burn", "snapshot", "env")
LOST = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})


def gpucheck(*arguments: str, cwd: Path | None = None, **variables: str):
    return subprocess.run(
        [sys.executable, "-m", "gpucheck", *arguments],
        env={**BARE, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    snapshot_file.save(snapshot_file.as_json(HEALTHY), folder / "a.json")
    snapshot_file.save(snapshot_file.as_json(LOST), folder / "b.json.gz")
    return folder


# -------------------------------------------------------------------------------------- help


def test_the_first_screen_holds_the_whole_help():
    text = gpucheck("--help", COLUMNS="80", LINES="24").stdout

    assert text.count("\n") < 24  # the prompt needs a line too
    assert gpucheck().stdout == text


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command there is, and every command of a command."""
    for name in getattr(command, "commands", {}):
        yield (*words, name)
        yield from commands(command.commands[name], (*words, name))


def test_every_summary_is_whole_at_eighty_columns():
    text = gpucheck("--help", COLUMNS="80").stdout

    assert "..." not in text.replace("COMMAND [ARGS]...", "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
    assert "Examples:" in text


@pytest.mark.parametrize("words", [*commands(typer.main.get_command(app))], ids=" ".join)
def test_every_command_s_help_has_examples_and_exit_statuses(words: tuple[str, ...]):
    text = gpucheck(*words, "--help", COLUMNS="80").stdout

    assert f"gpucheck {words[0]}" in text[text.index("Examples:") :]
    assert "Exit status:" in text[text.index("Examples:") :]
    assert max(map(len, text.splitlines())) <= 80
    assert not re.search(r"<[a-z ]+>|<=|Install completion for", text)  # typer's own words


def test_the_doctor_s_options_are_in_groups():
    text = gpucheck("doctor", "--help").stdout

    groups = ["What to examine:", "How to judge:", "How to print:"]
    assert [line for line in text.splitlines() if line in groups] == groups
    assert text.index("--deep") < text.index("How to judge:") < text.index("--strict")


def test_help_shows_what_the_command_s_own_help_shows():
    assert gpucheck("help", "doctor").stdout == gpucheck("doctor", "--help").stdout
    assert "gpucheck env install" in gpucheck("help", "env", "install").stdout
    assert gpucheck("help").stdout == gpucheck("--help").stdout


def test_help_knows_what_was_meant():
    done = gpucheck("help", "docter")

    assert done.returncode == 2
    assert done.stderr == "gpucheck: help: there is no command 'docter': did you mean doctor?\n"


def test_a_code_that_nobody_knows_gets_those_near_it():
    done = gpucheck("doctor", "--select", "DRV06")

    assert done.returncode == 2
    assert "did you mean DRV0" in done.stderr


def test_the_version_has_a_short_name():
    assert gpucheck("-V").stdout == gpucheck("--version").stdout


# --------------------------------------------------------------------------------- completion


def completed(words: str, shell: str = "bash") -> str:
    return gpucheck(
        _GPUCHECK_COMPLETE=f"complete_{shell}",
        COMP_WORDS=words,
        COMP_CWORD=str(len(words.split()) - (0 if words.endswith(" ") else 1)),
        _TYPER_COMPLETE_ARGS=words,
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    ).stdout


def test_commands_options_values_and_codes_are_completed():
    assert "doctor" in completed("gpucheck do").split()
    assert "--select" in completed("gpucheck doctor --sel").split()
    assert "markdown" in completed("gpucheck doctor --format m").split()
    assert "DRV006" in completed("gpucheck explain DRV00").split()
    assert "GPU,DRV006" in completed("gpucheck doctor --select GPU,DRV00").split()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_titles_with_the_codes(shell: str):
    assert "DRV006" in completed("gpucheck explain DRV00", shell)


# ------------------------------------------------------------------------------------ formats


def test_every_format_has_a_renderer_and_is_offered():
    assert set(RENDERERS) == set(Format)
    shown = " ".join(gpucheck("doctor", "--help").stdout.split())
    assert f"--format FORMAT {', '.join(form.value for form in Format)}. Default: text." in shown


def test_a_new_format_gets_no_private_details():
    class Shared(Renderer):
        def text(self, report, look: Look) -> str:
            return repr(report.machine)

    assert Shared().identifies is False
    before = dict(RENDERERS)
    try:
        RENDERERS[Format.MARKDOWN] = Shared()  # type: ignore[index]
        text = render(examine(HEALTHY, rules=[]), Format.MARKDOWN)
    finally:
        RENDERERS.update(before)  # type: ignore[attr-defined]

    assert "host-1" not in text
    assert seen(seen(HEALTHY.nvml.gpus)[0].uuid) not in text


@pytest.mark.parametrize(
    "options",
    [
        ("--json", "--format", "text"),
        ("--json", "--format", "markdown"),
        ("--quiet", "--verbose"),
        ("--quiet", "--json"),
    ],
)
@pytest.mark.parametrize("command", ["doctor", "smoke"])
def test_options_that_contradict_each_other_are_refused(command: str, options: tuple[str, ...]):
    done = gpucheck(command, *options)

    assert done.returncode == 2
    assert re.search("contradict|shortens", done.stderr)


def test_json_may_be_asked_for_twice(stored: Path):
    file = str(stored / "a.json")
    done = gpucheck("doctor", "--json", "--format", "json", "--from", file)

    assert json.loads(done.stdout)["verdict"] == "healthy"


def test_quiet_is_silent_about_a_healthy_machine(stored: Path):
    healthy = gpucheck("doctor", "-q", "--from", str(stored / "a.json"))
    broken = gpucheck("doctor", "-q", "--from", str(stored / "b.json.gz"))

    assert (healthy.returncode, healthy.stdout) == (0, "")
    assert broken.returncode == 1
    assert broken.stdout.startswith("  ✗ GPU001")


# ------------------------------------------------------------------------------- several machines


def test_several_snapshots_get_a_line_each(stored: Path):
    done = gpucheck("doctor", "--from", str(stored))

    assert done.returncode == 1
    healthy, broken = done.stdout.splitlines()
    assert re.match(r"✓ healthy     …\S*/snapshots/a\.json  Healthy: ", healthy)
    assert re.match(r"✗ broken      …\S*/b\.json\.gz  GPU001 ", broken)


def test_several_snapshots_as_json_are_an_object_a_line(stored: Path):
    done = gpucheck(
        "doctor", "--json", "--from", str(stored / "a.json"), "--from", str(stored / "b.json.gz")
    )

    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["verdict"] for report in reports] == ["healthy", "broken"]


def test_a_bad_file_among_several_costs_only_itself(stored: Path):
    (stored / "c.json").write_text("{}")

    done = gpucheck("doctor", "--from", str(stored))

    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 2
    assert re.fullmatch(r"gpucheck: .*/c\.json: is no snapshot: .*\n", done.stderr)


def test_a_directory_without_a_snapshot_is_a_wrong_call(tmp_path: Path):
    done = gpucheck("doctor", "--from", str(tmp_path))

    assert done.returncode == 2
    assert "is a directory without a snapshot" in done.stderr


# ------------------------------------------------------------------------------------ snapshot


def test_a_snapshot_says_what_it_wrote_and_replaces_nothing_unasked(tmp_path: Path):
    file = tmp_path / "this.json"

    first = gpucheck("snapshot", "--quick", "-o", str(file))
    before = file.read_bytes()
    second = gpucheck("snapshot", "--quick", "-o", str(file))
    forced = gpucheck("snapshot", "--quick", "--force", "-o", str(file))

    assert re.fullmatch(rf"gpucheck: wrote {file} \([0-9.]+ KiB\)\n", first.stderr)
    assert second.returncode == 2
    assert second.stderr == f"gpucheck: {file}: is there already: --force replaces it\n"
    assert file.read_bytes() != before
    assert re.fullmatch(rf"gpucheck: replaced {file} \([0-9.]+ KiB\)\n", forced.stderr)


def test_a_snapshot_in_gz_is_compressed_and_read_again(tmp_path: Path):
    file = tmp_path / "this.json.gz"

    assert gpucheck("snapshot", "--quick", "-o", str(file)).returncode == 0

    assert json.loads(gzip.decompress(file.read_bytes()))["schema"] == "gpucheck.snapshot/1"
    assert isinstance(snapshot_file.read(str(file)), Snapshot)


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused(tmp_path: Path):
    file = tmp_path / "bomb.json.gz"
    file.write_bytes(gzip.compress(b" " * (snapshot_file.LIMIT_BYTES + 2)))

    done = gpucheck("doctor", "--from", str(file))

    assert done.returncode == 2
    assert "no snapshot does" in done.stderr


def test_a_terminal_is_not_flooded_with_a_snapshot():
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "gpucheck", "snapshot", "--quick"],
        env=BARE,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=subprocess.PIPE,
    ) as child:
        os.close(theirs)
        _, stderr = child.communicate(timeout=60)
    os.close(ours)

    assert child.returncode == 2
    assert b"name a file with -o FILE" in stderr


# --------------------------------------------------------------------------------- ignore list


def accepting(code: str) -> Snapshot:
    accepted = (Accepted(code=code, reason="it is being replaced", file="/etc/gpucheck.toml"),)
    return replace(LOST, ignore_list=IgnoreList(accepted=accepted))


def test_what_is_accepted_is_no_part_of_the_verdict_and_is_counted(tmp_path: Path):
    file = tmp_path / "s.json"
    snapshot_file.save(snapshot_file.as_json(accepting("GPU001")), file)

    done = gpucheck("doctor", "--from", str(file))
    verbose = gpucheck("doctor", "-v", "--from", str(file))
    found = json.loads(gpucheck("doctor", "--json", "--from", str(file)).stdout)

    assert "✗ GPU001" not in done.stdout
    assert "Ignored: 1 finding (GPU001)." in done.stdout
    assert "ignored: it is being replaced" in " ".join(verbose.stdout.split())
    assert "GPU001" in found["ignored"]
    assert "GPU001" not in {finding["code"] for finding in found["findings"]}


def test_a_whole_family_may_be_accepted():
    assert not {each.code[:3] for each in examine(accepting("GPU")).findings} & {"GPU"}


def test_the_list_beside_a_project_is_read(tmp_path: Path):
    (tmp_path / "gpucheck.toml").write_text(
        '[[ignore]]\ncode = "DRV"\nreason = "this machine has no GPU"\n'
    )

    found = json.loads(gpucheck("doctor", "--quick", "--json", cwd=tmp_path).stdout)

    assert not [each for each in found["findings"] if each["code"].startswith("DRV")]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("nonsense", "gpucheck.toml: is not TOML"),
        ('[[ignore]]\ncode = "DRV999"\nreason = "x"', "called 'DRV999': did you mean DRV0"),
    ],
)
def test_a_list_that_is_wrong_is_a_wrong_call(tmp_path: Path, content: str, complaint: str):
    (tmp_path / "gpucheck.toml").write_text(content)

    done = gpucheck("doctor", "--quick", cwd=tmp_path)

    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
