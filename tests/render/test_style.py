"""The output is fit for where it goes."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucheck.render.style import Style, cells, fit, of_standard_output, wrap


class Output:
    def __init__(self, terminal: bool = True, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


def style_of(monkeypatch: pytest.MonkeyPatch, output: Output, **variables: str) -> Style:
    monkeypatch.setattr(sys, "stdout", output)
    return of_standard_output(variables)


def test_a_terminal_gets_colour_and_its_width(monkeypatch: pytest.MonkeyPatch):
    style = style_of(monkeypatch, Output(), COLUMNS="97", LANG="en_GB.UTF-8", TERM="xterm")

    assert style == Style(width=97, colour=True, unicode=True)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_no_colour_gets_none(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
):
    assert not style_of(monkeypatch, Output(), **variables).colour


def test_a_pipe_gets_no_colour_and_80_columns(monkeypatch: pytest.MonkeyPatch):
    style = style_of(monkeypatch, Output(terminal=False))

    assert style == Style(width=80, colour=False, unicode=True)


@pytest.mark.parametrize("name", ["LC_ALL", "LC_CTYPE", "LANG"])
@pytest.mark.parametrize("value", ["C", "POSIX"])
def test_the_plain_locale_gets_ascii(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    assert not style_of(monkeypatch, Output(), **{name: value}).unicode


def test_the_locale_that_python_makes_of_none_counts_as_none(monkeypatch: pytest.MonkeyPatch):
    assert style_of(monkeypatch, Output(), LC_CTYPE="C.UTF-8").unicode
    assert not style_of(monkeypatch, Output(), LC_CTYPE="C.UTF-8", LANG="C").unicode


def test_an_output_that_is_not_utf_8_gets_ascii(monkeypatch: pytest.MonkeyPatch):
    assert not style_of(monkeypatch, Output(encoding="latin-1"), LANG="en_GB.UTF-8").unicode


@pytest.mark.parametrize("columns", ["0", "-5", "wide", "99999999999999999999", "1"])
def test_a_senseless_width_does_no_harm(monkeypatch: pytest.MonkeyPatch, columns: str):
    assert 40 <= style_of(monkeypatch, Output(terminal=False), COLUMNS=columns).width <= 240


def test_signs_differ_by_shape():
    signs = [Style().sign(s) for s in ("error", "warning", "info", "good", "unknown", "none")]

    assert len(set(signs)) == len(signs)
    ascii_signs = [Style(unicode=False).finish(sign) for sign in signs]
    assert len(set(ascii_signs)) == len(signs)
    assert all(sign.isascii() for sign in ascii_signs)


@given(st.text(max_size=300), st.integers(10, 60))
def test_wrapped_text_fits_and_loses_nothing(text: str, width: int):
    lines = list(wrap(text, width))

    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.text(max_size=100), st.integers(2, 40))
def test_fitted_text_has_exactly_its_width(text: str, width: int):
    assert cells(fit(text, width)) == width


def test_a_long_path_is_broken_behind_a_slash():
    lines = list(wrap("/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04", 30))

    assert lines == ["/usr/lib/x86_64-linux-gnu/", "libcuda.so.580.159.04"]
