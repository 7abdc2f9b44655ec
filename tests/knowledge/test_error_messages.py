"""Every error that people paste is known by its real text."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.knowledge import error_messages
from gpucheck.rules import RULES

#: As the programs print them, with the paths and numbers of some machine.
REAL = json.loads(Path(__file__).with_name("error_texts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [message.id for message in error_messages.table().messages])
def test_the_real_text_is_known_for_what_it_is(name: str):
    found = error_messages.find(REAL[name])

    assert found[0].id == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "ModuleNotFoundError: No module named 'torch'",
        "ValueError: optimizer got an empty parameter list",
        "KeyError: 'cuda'",
        "I use CUDA, cuDNN and NCCL on an NVIDIA GPU with PyTorch",
    ],
)
def test_a_text_that_is_no_error_of_the_machine_is_not_known(text: str):
    assert error_messages.find(text) == ()


def test_case_line_ends_and_colours_do_not_matter():
    text = "\x1b[31mFAILED TO\n  Initialize NVML:\t driver/Library\x1b[0m version\r\nmismatch"

    assert error_messages.find(text)[0].id == "nvml-mismatch"


def test_the_parts_of_a_pattern_must_stand_close_by():
    far = "libcudnn.so.9 is here. " + "x " * 500 + "libfoo.so: cannot open shared object file"

    assert error_messages.find(far) == ()


@given(st.text(max_size=500))
def test_any_text_may_be_pasted(text: str):
    error_messages.find(text)


@pytest.mark.parametrize("part", ["libcudnn", "detected cuda version", "libcudnn*", "*", "nvrm: "])
def test_a_megabyte_of_half_a_pattern_takes_no_time(part: str):
    text = part * ((1 << 20) // len(part))
    started = time.monotonic()

    error_messages.find(text)

    assert time.monotonic() - started < 5


def test_patterns_are_written_as_they_are_searched():
    for message in error_messages.table().messages:
        for pattern in message.patterns:
            assert pattern == " ".join(pattern.casefold().split())
            assert len(pattern.split("*")[0]) >= 6, "too short to be searched fast"


def test_every_row_names_sources_that_are_listed_and_none_stands_twice():
    table = error_messages.table()

    for message in table.messages:
        assert message.source
        assert set(message.source) <= set(table.sources)
        assert message.confidence in {"high", "medium", "low"}
        assert message.meaning.endswith((".", ")"))
        assert message.fix.endswith(".")
    names = [message.id for message in table.messages]
    patterns = [pattern for message in table.messages for pattern in message.patterns]
    assert len(names) == len(set(names))
    assert len(patterns) == len(set(patterns))
    assert len(names) >= 25


def test_messages_name_rules_that_exist():
    codes = {rule.code for rule in RULES}

    for message in error_messages.table().messages:
        assert set(message.codes) <= codes, message.id
