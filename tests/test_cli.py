"""The commands as a user runs them: outputs, statuses, and never a traceback.

It is long because it is one list of what a user may do wrong.
"""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

from gpucheck import __version__, snapshot_file
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, machine

#: No more than a shell on a fresh machine has; HOME is unset on purpose.
BARE = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


def gpucheck(
    *arguments: str,
    variables: dict[str, str] | None = None,
    stdin: bytes | None = None,
    start: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run the command in a bare environment; *start* is Python to run before it."""
    command = [sys.executable, "-m", "gpucheck", *arguments]
    if start:
        program = f"{start}\nimport sys; sys.argv = {['gpucheck', *arguments]!r}\n"
        program += "from gpucheck.__main__ import main; main()"
        command = [sys.executable, "-c", program]
    done = subprocess.run(
        command,
        env={**BARE, **(variables or {})},
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
    )
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def is_one_line(text: str) -> bool:
    return text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("stored") / "healthy.json"
    snapshot_file.save(snapshot_file.as_json(HEALTHY), file)
    return str(file)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A machine on which one GPU is lost: an error of the GPU family."""
    from machines import gpu

    file = tmp_path_factory.mktemp("stored") / "broken.json"
    lost = machine(nvml={"gpus": (gpu(0), gpu(1, state="lost", error="GPU_IS_LOST"))})
    snapshot_file.save(snapshot_file.as_json(lost), file)
    return str(file)


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A machine with a warning alone: memory errors wait for a remap."""
    from gpucheck.snapshot import RemappedRows
    from machines import gpu

    file = tmp_path_factory.mktemp("stored") / "worn.json"
    rows = RemappedRows(correctable=1, uncorrectable=0, is_pending=True, has_failed=False)
    snapshot_file.save(
        snapshot_file.as_json(machine(nvml={"gpus": (gpu(0), gpu(1, remapped_rows=rows))})), file
    )
    return str(file)


def test_the_version():
    done = gpucheck("--version")

    assert (done.returncode, done.stdout, done.stderr) == (0, f"gpucheck {__version__}\n", "")


def test_help_names_every_command_and_imports_neither_torch_nor_nvml_nor_the_rules():
    done = gpucheck("--help", start=REPORT_IMPORTS)

    for command in ("doctor", "explain", "snapshot"):
        assert f"  {command}  " in done.stdout
    imported = set(done.stderr.split())
    assert not imported & {"torch", "pynvml", "gpucheck.rules", "gpucheck.snapshot"}


def test_json_does_not_pay_for_the_terminal(healthy: str):
    # Older versions of typer import rich themselves.
    bare = subprocess.run(
        [sys.executable, "-c", f"{REPORT_IMPORTS}import typer"], capture_output=True
    )
    done = gpucheck("doctor", "--json", "--from", healthy, start=REPORT_IMPORTS)

    ours = set(done.stderr.split()) - set(bare.stderr.decode().split())
    assert not ours & {"rich", "gpucheck.render.terminal", "gpucheck.probes"}


REPORT_IMPORTS = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
"""


def test_without_a_command_there_is_help():
    assert gpucheck().stdout == gpucheck("--help").stdout
    assert gpucheck().returncode == 0


def test_a_healthy_machine(healthy: str):
    done = gpucheck("doctor", "--from", healthy)

    assert (done.returncode, done.stderr) == (0, "")
    assert "✓ Driver       580.159.04, open module, CUDA 13.0" in done.stdout
    assert "✓ Healthy: " in done.stdout


def test_a_broken_machine_gives_status_1(broken: str):
    done = gpucheck("doctor", "--from", broken)

    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ GPU001" in done.stdout
    assert "Fix first: GPU001" in done.stdout


def test_a_warning_gives_status_0_and_1_where_it_is_strict(worn: str):
    assert gpucheck("doctor", "--from", worn).returncode == 0
    assert gpucheck("doctor", "--from", worn, "--strict").returncode == 1


def test_json_is_one_object_of_the_published_schema(broken: str):
    schema = json.loads(gpucheck("doctor", "--schema").stdout)

    done = gpucheck("doctor", "--from", broken, "--json")

    found = json.loads(done.stdout)
    jsonschema.Draft202012Validator(schema).validate(found)
    assert done.stderr == ""
    assert done.returncode == found["exit_code"] == 1
    assert gpucheck("doctor", "--from", broken, "--format", "json").stdout == done.stdout


def test_json_stays_json_where_only_ascii_can_be_written(tmp_path: Path):
    file = tmp_path / "odd.json"
    snapshot_file.save(snapshot_file.as_json(machine(host={"name": "bücher-🙂"})), file)

    done = gpucheck(
        *("doctor", "--from", str(file), "--json", "--identify"),
        variables={"PYTHONIOENCODING": "ascii"},
    )

    assert done.stdout.isascii()
    assert json.loads(done.stdout)["host"]["name"] == "bücher-🙂"


def test_markdown(broken: str):
    done = gpucheck("doctor", "--from", broken, "--format", "markdown")

    assert done.stdout.startswith("## gpucheck report: broken\n")
    assert done.returncode == 1


def test_a_snapshot_may_come_through_stdin():
    done = gpucheck("doctor", "--from", "-", stdin=snapshot_file.as_json(HEALTHY).encode())

    assert done.returncode == 0
    assert "Healthy" in done.stdout


def test_select_and_ignore_take_lists_and_may_be_repeated(broken: str):
    def judged(*options: str) -> set[str]:
        found = json.loads(gpucheck("doctor", "--from", broken, "--json", *options).stdout)
        return {
            *(finding["code"] for finding in found["findings"]),
            *(one["code"] for one in found["not_checked"]),
            *found["passed"],
        }

    assert {code[:3] for code in judged("--select", "GPU,lnk001")} == {"GPU", "LNK"}
    assert judged("--select", "GPU001", "--select", "GPU004") == {"GPU001", "GPU004"}
    assert judged("--select", "GPU001,GPU004", "--ignore", "GPU001") == {"GPU004"}


def test_expecting_another_number_of_gpus_is_an_error(healthy: str):
    assert gpucheck("doctor", "--from", healthy, "--expect-gpus", "2").returncode == 0

    done = gpucheck("doctor", "--from", healthy, "--expect-gpus", "8")

    assert done.returncode == 1
    assert "GPU022" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonsense"], "No such command"),
        (["doctor", "--nonsense"], "No such option"),
        (["doctor", "surplus"], "unexpected extra argument"),
        (["doctor", "--format", "xml"], "--format"),
        (["doctor", "--timeout", "soon"], "--timeout"),
        (["doctor", "--timeout", "nan"], "--timeout"),
        (["doctor", "--timeout", "0"], "--timeout"),
        (["doctor", "--expect-gpus", "-1"], "--expect-gpus"),
        (["doctor", "--watch", "-1"], "--watch"),
        (["doctor", "--select", "NOPE"], "no rule and no family is called 'NOPE'"),
        (["doctor", "--ignore", "GPU001,GPU999"], "no rule and no family is called 'GPU999'"),
        (["doctor", "--deep", "--quick"], "contradict"),
        (["doctor", "--json", "--format", "markdown"], "contradict"),
        (["doctor", "--from", "x", "--deep"], "--deep examines this machine"),
        (["doctor", "--from", "x", "--python", sys.executable], "--python examines this machine"),
        (["doctor", "--python", "/nope"], "--python /nope: is not there"),
        (["doctor", "--python", "/etc/passwd"], "/etc/passwd: is not a program"),
        (["doctor", "--python", "/etc"], "/etc: is a directory without bin/python"),
        (["doctor", "--quick", "--python", "/bin/true"], "/bin/true does not answer as a Python"),
        (["doctor", "--python", "nopython"], "--python nopython: is not on PATH"),
        (["snapshot", "--quick", "--python", "/nope"], "--python /nope: is not there"),
        (["smoke", "--python", "/nope"], "--python /nope: is not there"),
        (["doctor", "--from", "/absent"], "/absent: no such file"),
        (["doctor", "--from", "/proc/self"], "/proc/self: is a directory without a snapshot"),
        (["doctor", "--from", "/dev/zero"], "is a device"),
        (["doctor", "--from", "-"], "stdin: is empty"),
        (["doctor", "--from", "\x1b[31mred"], "red: no such file"),
        (["explain"], "there is no text to explain"),
        (["explain", "--list", "GPU001"], "--list lists the rules"),
        (["explain", "GPU9"], "no rule is called GPU9"),
        (["explain", "hello world"], "gpucheck knows no error in this text"),
        (["snapshot", "--quick", "-o", "/absent/file"], "/absent/file: cannot be written"),
    ],
)
def test_a_wrong_call_gives_status_2_and_one_line(arguments: list[str], complaint: str):
    done = gpucheck(*arguments)

    assert done.returncode == 2
    assert is_one_line(done.stderr)
    assert complaint in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


BREAKS = "import gpucheck.report\ndef examine(*a, **k): raise ZeroDivisionError('a\\x1b[31m\\nb')\n"
BREAKS += "gpucheck.report.examine = examine"


def test_a_failure_of_our_own_gives_status_3_and_one_line(healthy: str):
    done = gpucheck("doctor", "--from", healthy, start=BREAKS)

    assert done.returncode == 3
    assert is_one_line(done.stderr)
    assert "gpucheck itself failed: ZeroDivisionError: a b" in done.stderr


def test_the_traceback_of_a_failure_can_be_had(healthy: str):
    done = gpucheck(
        "doctor", "--from", healthy, start=BREAKS, variables={"GPUCHECK_TRACEBACK": "1"}
    )

    assert done.returncode == 3
    assert "Traceback" in done.stderr


def test_ctrl_c_gives_status_130_and_nothing_more(healthy: str):
    start = "import gpucheck.report\ndef examine(*a, **k): raise KeyboardInterrupt\n"

    done = gpucheck("doctor", "--from", healthy, start=start + "gpucheck.report.examine = examine")

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("stream", ["1", "2"])
@pytest.mark.parametrize("arguments", [["doctor", "--from"], ["doctor", "--json", "--from"]])
def test_a_closed_stream_changes_the_status_of_nothing(
    broken: str, arguments: list[str], stream: str
):
    done = subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {stream}>&-',
            "sh",
            sys.executable,
            "-m",
            "gpucheck",
            *arguments,
            broken,
        ],
        env=BARE,
        capture_output=True,
        timeout=60,
    )

    assert done.returncode == 1
    assert done.stderr == b""


@pytest.mark.parametrize("arguments", [["doctor", "--from"], ["doctor", "-v", "--json", "--from"]])
def test_a_reader_that_has_seen_enough_is_no_trouble(healthy: str, arguments: list[str]):
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [sys.executable, "-m", "gpucheck", *arguments, healthy],
        env=BARE,
        stdout=writer,
        stderr=subprocess.PIPE,
        timeout=60,
    )

    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_that_cannot_be_written_is_told(healthy: str):
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gpucheck", "doctor", "--from", healthy],
            env=BARE,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )

    assert done.returncode == 3
    assert done.stderr == b"gpucheck: the output could not be written: No space left on device\n"


def test_the_plain_locale_gets_ascii(broken: str):
    done = gpucheck("doctor", "-v", "--from", broken, variables={"LC_ALL": "C"})

    assert done.stdout.isascii()
    assert "x GPU001" in done.stdout
    assert gpucheck("explain", "--list", variables={"LC_ALL": "C"}).stdout.isascii()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_width_is_kept(broken: str, columns: int):
    done = gpucheck("doctor", "-v", "--from", broken, variables={"COLUMNS": str(columns)})

    longest = max(
        len(line)
        for line in done.stdout.splitlines()
        if "explain" not in line and "sudo" not in line
    )
    assert longest <= columns
    assert "H200" in done.stdout


def on_a_terminal(*arguments: str, **variables: str) -> str:
    """What the command writes to a terminal."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "gpucheck", *arguments],
            {**BARE, "TERM": "xterm", **variables},
        )
    text = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            break
        if not chunk:
            break
        text += chunk
    os.waitpid(child, 0)
    os.close(terminal)
    return text.decode()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_terminal_gets_colour_unless_it_wants_none(broken: str):
    assert "\x1b[31m✗\x1b[0m" in on_a_terminal("doctor", "--from", broken)
    assert "\x1b" not in on_a_terminal("doctor", "--from", broken, NO_COLOR="1")
    assert "\x1b" not in on_a_terminal("doctor", "--from", broken, "--json")


def test_a_working_directory_that_is_gone_is_no_trouble(tmp_path: Path, healthy: str):
    folder = tmp_path / "gone"
    folder.mkdir()
    program = f"import os; os.rmdir({str(folder)!r})\n"
    program += f"import sys; sys.argv = ['gpucheck', 'doctor', '--from', {healthy!r}]\n"
    program += "from gpucheck.__main__ import main; main()"

    done = subprocess.run(
        # -I: an installed command does not look for modules in the working directory either
        [sys.executable, "-I", "-c", program],
        cwd=folder,
        env=BARE,
        capture_output=True,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, b"")


def test_a_snapshot_of_this_machine_is_judged_as_the_machine_is(tmp_path: Path):
    file = tmp_path / "this.json"

    written = gpucheck("snapshot", "--quick", "-o", str(file))

    assert (written.returncode, written.stdout) == (0, "")
    assert re.fullmatch(rf"gpucheck: wrote {file} \([0-9.]+ KiB\)\n", written.stderr)
    assert isinstance(snapshot_file.read(str(file)), Snapshot)
    direct = json.loads(gpucheck("doctor", "--quick", "--json").stdout)
    judged = json.loads(gpucheck("doctor", "--from", str(file), "--json").stdout)
    assert judged["verdict"] == direct["verdict"]
    assert [f["code"] for f in judged["findings"]] == [f["code"] for f in direct["findings"]]


def test_a_snapshot_names_this_host_only_where_that_is_asked_for():
    name = json.loads(gpucheck("snapshot", "--quick").stdout)["host"]["name"]
    real = json.loads(gpucheck("snapshot", "--quick", "--identify").stdout)["host"]["name"]

    assert name == "host"
    assert real == os.uname().nodename


def test_a_variable_that_is_no_text_costs_nothing():
    found = json.loads(
        gpucheck(
            "doctor", "--quick", "--json", variables={"CUDA_HOME": "/tmp/\udcff\x1b[31m"}
        ).stdout
    )

    assert found["host"]["system"] == os.uname().sysname
    [finding] = [one for one in found["findings"] if one["code"] == "ENV002"]
    assert "/tmp/\ufffd" in finding["saw"]


def test_explain_reads_a_pasted_error_from_stdin():
    done = gpucheck("explain", "-", stdin=b"\xffcuda error: uncorrectable ecc error encountered\n")

    assert done.returncode == 0
    assert "GPU004" in done.stdout


def test_explain_needs_no_quotes_around_an_error():
    done = gpucheck("explain", *["no", "CUDA-capable", "device", "is", "detected"])

    assert done.stdout.startswith("Error 100:")


def test_a_fifo_that_never_opens_is_given_up_on_within_two_seconds(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    started = time.monotonic()

    done = gpucheck("doctor", "--from", str(tmp_path / "fifo"))

    assert time.monotonic() - started < 4  # a second, and a slow machine's start of Python
    assert done.returncode == 2
    assert is_one_line(done.stderr)


def test_a_terminated_command_leaves_no_traceback(tmp_path: Path):
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    child = subprocess.Popen(
        [sys.executable, "-m", "gpucheck", "doctor", "--from", f"/dev/fd/{writer}"],
        env=BARE,
        pass_fds=[writer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(1.5)
    child.send_signal(signal.SIGINT)

    stdout, stderr = child.communicate(timeout=30)

    os.close(writer)
    assert (child.returncode, stdout, stderr) == (130, b"", b"")


@pytest.mark.namespaces
def test_a_read_only_file_system_is_no_trouble(healthy: str):
    program = (
        "mount --make-rprivate / && mount --rbind / /mnt && mount -o remount,bind,ro /mnt"
        " || exit 99\n"
        'exec chroot /mnt env -i LANG=C.UTF-8 "$@"'
    )
    started = ["unshare", "-m", "sh", "-c", program, "sh", sys.executable, "-m", "gpucheck"]
    done = subprocess.run([*started, "--version"], capture_output=True, timeout=60)
    if done.returncode in (1, 99) or shutil.which("chroot") is None:
        pytest.skip(f"no private mount namespaces: {done.stderr.decode().strip()}")

    stored_one = subprocess.run([*started, "doctor", "--from", healthy], capture_output=True)
    this_one = subprocess.run([*started, "doctor", "--quick"], capture_output=True, timeout=60)

    assert (done.returncode, done.stderr) == (0, b"")
    assert (stored_one.returncode, stored_one.stderr) == (0, b"")
    assert this_one.returncode in (0, 1)
    assert this_one.stderr == b""
    assert b"kernel" in this_one.stdout
