"""Text from outside is shown, and never obeyed."""

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.render import Format, Look, render
from gpucheck.render.sanitize import LONGEST, clean, clean_machine
from gpucheck.report import examine
from gpucheck.rule import Answers, Command, Remedy, Severity, Symptom, rule
from gpucheck.snapshot import Snapshot
from machines import HEALTHY, gpu, machine

HOSTILE = (
    "\x1b]0;owned\x07\x1b[31mred\x1b[0m \x9b31m \x1bPq#0\x1b\\ "
    "\u202egnp.exe\u202c \r\n\ttail\x00\x7f"
    "\u2066x\u2069 \ud800 [bold]not markup[/bold] | `tick` <b>html</b>"
)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain text", "plain text"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07name", "name"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1bP1;2q...\x1b\\after", "after"),
        ("\x9b31mred", "red"),
        ("a\nb\tc\r\nd", "a b c d"),
        ("evil\u202etxt.exe", "eviltxt.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("null\x00bell\x07del\x7f", "nullbelldel"),
        ("half \ud83d a pair", "half \ufffd a pair"),
        ("café 中文 🙂", "café 中文 🙂"),
    ],
)
def test_what_steers_a_terminal_is_taken_out(raw: str, shown: str):
    assert clean(raw) == shown


@given(st.text(st.characters(codec=None, categories=None), max_size=200))
def test_no_control_character_survives_and_cleaning_twice_changes_nothing(raw: str):
    once = clean(raw)

    assert not [c for c in once if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert clean(once) == once
    once.encode()


def test_a_flood_is_cut():
    assert len(clean("x" * 1_000_000)) < LONGEST + 100


def test_a_clean_machine_is_left_as_it_is():
    assert clean_machine(HEALTHY) is HEALTHY


@rule("AAA001", Severity.ERROR, "hostile")
def repeats_what_it_saw(machine: Snapshot) -> Answers:
    """Why it matters."""
    yield Symptom(saw=HOSTILE, remedy=Remedy(HOSTILE, (Command(HOSTILE),)), subject=HOSTILE)


@pytest.mark.parametrize("form", list(Format))
def test_no_report_shows_hostile_text_raw(form: Format):
    hostile = machine(
        host={"name": HOSTILE, "distribution": HOSTILE},
        driver={"module_version": HOSTILE},
        nvml={"gpus": (gpu(0, name=HOSTILE), gpu(1))},
    )
    report = examine(hostile, rules=[*_rules_of_every_section(), repeats_what_it_saw])

    text = render(report, form, Look(verbose=True, identify=True))

    shown = text.replace("\n", "")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert "\u202e" not in text
    text.encode()
    if form is Format.JSON:
        assert msgspec.json.decode(text)["host"]["name"].startswith("red")
    if form is Format.TEXT:
        assert "[bold]not markup[/bold]" in " ".join(text.split())
    if form is Format.MARKDOWN:
        assert "<b>" not in text.replace("\\<b\\>", "").partition("```")[0]


def _rules_of_every_section() -> list:
    def passes(code: str):
        @rule(code, Severity.ERROR, "passes")
        def judge(machine: Snapshot) -> Answers:
            """Why."""
            yield from ()

        return judge

    families = ("HST", "DRV", "GPU", "CUD", "DNN", "LIB", "ENV", "TOR", "LNK")
    return [passes(f"{family}001") for family in families]
