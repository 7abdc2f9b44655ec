"""One place writes to the terminal, and it cleans what it is given."""

import ast
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from gpucheck import console
from gpucheck.pending import Board

PACKAGE = Path(__file__).parent.parent / "gpucheck"
WRITERS = {"stdout", "stderr"}


def writes(source: str) -> list[int]:
    """Return the lines that print, or that write to one of the standard streams."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in ("print", "input"):
            found.append(node.lineno)
        if (
            isinstance(node, ast.Attribute)
            and node.attr in ("write", "buffer", "flush", "writelines")
            and isinstance(node.value, ast.Attribute)
            and node.value.attr in WRITERS
            and isinstance(node.value.value, ast.Name)
            and node.value.value.id == "sys"
        ):
            found.append(node.lineno)
    return found


def test_the_console_alone_writes_to_the_terminal():
    elsewhere = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if "payload" not in path.parts and path.name != "console.py"
        if (lines := writes(path.read_text(encoding="utf-8")))
    }

    assert not elsewhere


def test_a_writer_would_be_noticed():
    assert writes("import sys\nsys.stderr.write('x')\nprint('y')") == [2, 3]


def test_a_complaint_is_one_line_without_control_sequences(capsys: pytest.CaptureFixture[str]):
    console.complain("gpucheck: \x1b[31mred\nand more")

    assert capsys.readouterr().err == "gpucheck: red and more\n"


def test_nobody_is_asked_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)

        assert console.ask("Write?", default=True) is None


@pytest.mark.parametrize(
    ("answer", "default", "expected"),
    [(b"y\n", False, True), (b"no\n", True, False), (b"\n", True, True), (b"\n", False, False)],
)
def test_an_answer_on_a_terminal_counts_and_none_is_the_default(
    answer: bytes, default: bool, expected: bool
):
    ours, theirs = pty.openpty()
    program = f"from gpucheck import console; print(console.ask('Write?', default={default}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=theirs, stdout=subprocess.PIPE, stderr=theirs
    ) as child:
        os.close(theirs)
        os.write(ours, answer)
        stdout, _ = child.communicate(timeout=30)
    os.close(ours)

    assert stdout == f"{expected}\n".encode()


WAITS = """
import sys, time
from gpucheck import console
with console.waiting(lambda: "cuInit, nvml", ends_at=time.monotonic() + 9, after_seconds=0.1):
    time.sleep(0.5)
"""


def test_waiting_on_a_terminal_says_for_whom_since_when_and_until_when():
    ours, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", WAITS], stderr=theirs) as child:
        os.close(theirs)
        child.wait(timeout=30)
    text = os.read(ours, 4096).decode()
    os.close(ours)

    assert "Waiting for cuInit, nvml for 0 s, until " in text
    assert "at the latest" in text
    assert text.endswith("\r\x1b[K")


def test_waiting_is_silent_where_nobody_looks():
    done = subprocess.run([sys.executable, "-c", WAITS], capture_output=True, timeout=30)

    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_is_awaited_is_seen_from_the_process_that_waits():
    board = Board()
    other = os.fork()
    if other == 0:
        board.add("cuInit")
        board.add("nvml")
        board.add("host")
        board.remove("nvml")
        os._exit(0)
    os.waitpid(other, 0)  # and no other child of this process's

    assert board.read() == "cuInit, host"


@pytest.mark.parametrize(
    ("called", "path", "said"),
    [
        ("/opt/venv/bin/gpucheck", "/usr/bin:/opt/venv/bin", "gpucheck"),
        ("/opt/venv/bin/gpucheck", "/usr/bin", "/opt/venv/bin/gpucheck"),
        (".venv/bin/gpucheck", "/usr/bin", ".venv/bin/gpucheck"),
        ("/opt/gpucheck/__main__.py", "/usr/bin", f"{sys.executable} -m gpucheck"),
        ("/opt/my venv/bin/gpucheck", "/usr/bin", "'/opt/my venv/bin/gpucheck'"),
        ("-c", "/usr/bin", "gpucheck"),
    ],
)
def test_commands_name_gpucheck_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, called: str, path: str, said: str
):
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setenv("PATH", path)

    assert console.program() == said
