"""A command to copy holds outside words as words, and what would run one is noticed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from payloads import PAYLOADS, found_live

from gpucheck.render.remedy import Adviser
from gpucheck.render.sanitize import clean
from gpucheck.rule import command
from machines import HEALTHY


@pytest.mark.parametrize(
    "text",
    [
        "pip install $(payload_ran)",
        "sudo sh -c 'echo `payload_ran`'",
        ". /opt/venv/bin/activate && pip install $(payload_ran)",
        "echo x > /etc/$(payload_ran)",
        "ls 'a\npayload_ran",
        "ls\npayload_ran",
        "echo 'cut off",
    ],
)
def test_what_would_run_a_payload_is_noticed(text: str):
    assert found_live([text.encode()])


@pytest.mark.parametrize(
    "text",
    [
        "export X='$(payload_ran)'",
        "sudo sh -c 'echo '\\''$(payload_ran)'\\'''",
        "until nvidia-smi; do sleep 1; done",
        "exit 3",
    ],
)
def test_what_only_holds_one_is_fine(text: str):
    assert found_live([text.encode()]) == []


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_word_is_the_same_for_the_shell_after_it_was_cleaned(shell: str, payload: str):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed (make shells)")
    word = f"/opt/{payload}/it's"
    line = clean(command("printf %s {word}", word=word).text)

    printed = subprocess.run([shell, "-c", line], capture_output=True)

    assert printed.stdout == word.encode("utf-8", "surrogateescape")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_sh_reads_of_a_word_runs_nothing(payload: str, tmp_path: Path):
    """`sudo sh -c` may be dash, which does not know $'…'."""
    (tmp_path / "payload_ran").write_text(f"#!/bin/sh\n: > {tmp_path}/it-ran\n")
    (tmp_path / "payload_ran").chmod(0o755)
    step = command("printf %s {word} && cd /", root=True, word=f"\x07';payload_ran;'{payload}")
    [block] = Adviser(HEALTHY).blocks((step,))

    script = block.lines[0].removeprefix("sudo ")
    subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )

    assert script.startswith("sh -c ")
    assert not (tmp_path / "it-ran").exists()
