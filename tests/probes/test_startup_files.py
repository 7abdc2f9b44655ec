"""Start-up files are read as the shells would read them, and nothing in them is run.

It is long because a shell's grammar is: each way to write a line is tried.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpucheck.knowledge.shells import Dialect
from gpucheck.probes import startup_files
from gpucheck.probes.startup_files import parse
from gpucheck.snapshot import CARRIAGE_RETURN, StartupFile, StartupSetting, Unknown
from seen_facts import seen

EXIT_BY_CASE = "case $- in\n    *i*) ;;\n      *) return;;\nesac\n"
PIECES = (*"ab=:/ \t\n\\'\"`$(){}#;&|<>-+~*[]!", "CUDA_HOME", "export ", "if ", "fi", "case ", "${")
SHELL_TEXT = st.lists(st.sampled_from(PIECES), max_size=120).map("".join)


def read(text: str, path: str = "/home/u/.bashrc", dialect: Dialect = "sh") -> list[StartupSetting]:
    settings_found = parse(text, path, dialect, "/home/u").settings
    assert isinstance(settings_found, tuple)
    return list(settings_found)


def value(text: str, dialect: Dialect = "sh") -> object:
    return read(text, dialect=dialect)[-1].value


# ------------------------------------------------------------------------------- what is set, where


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("export CUDA_HOME=/usr/local/cuda", "/usr/local/cuda"),
        ("export CUDA_HOME=/usr/local/cuda # the default", "/usr/local/cuda"),
        ('export CUDA_HOME="/opt/my cuda"', "/opt/my cuda"),
        ("export CUDA_HOME='/opt/$x'", "/opt/$x"),
        (r"export CUDA_HOME=/opt/my\ cuda", "/opt/my cuda"),
        ("export CUDA_HOME=~/cuda", "/home/u/cuda"),
        ("export CUDA_HOME=$HOME/cuda", "/home/u/cuda"),
        ("CUDA_HOME=/x; export CUDA_HOME", "/x"),
        ("CUDA_HOME=/x\nexport CUDA_HOME", "/x"),
        ("declare -x CUDA_HOME=/x", "/x"),
        ("V=12.4\nexport CUDA_HOME=/usr/local/cuda-${V}", "/usr/local/cuda-12.4"),
        ("V=12.4; export CUDA_HOME=/usr/local/cuda-${V:-13}", "/usr/local/cuda-12.4"),
        ("export A=1 CUDA_HOME=/x B=2", "/x"),
        ("export CUDA_HOME=/usr/\\\nlocal", "/usr/local"),
        ("export CUDA_HOME=/a && export PATH=$CUDA_HOME/bin:$PATH", "/a/bin:$PATH"),
        ("export PATH=/a/bin${PATH:+:${PATH}}", "/a/bin:$PATH"),
        ("export LD_LIBRARY_PATH+=:/x", "$LD_LIBRARY_PATH:/x"),
    ],
)
def test_a_value_is_expanded_as_far_as_reading_tells(text, expected):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "export CUDA_HOME=$(dirname /x/y)",
        "export CUDA_HOME=`which nvcc`",
        "export CUDA_HOME=$ELSEWHERE/cuda",
        "export CUDA_HOME=/usr/local/cuda-$1",
        "export CUDA_HOME=~other/cuda",
        "CUDA_HOME=/never/exported",
    ],
)
def test_what_only_running_would_tell_is_unknown(text):
    assert isinstance(value(text), Unknown)


@pytest.mark.parametrize(
    "text",
    [
        "# export CUDA_HOME=/x",
        "echo export CUDA_HOME=/x",
        "CUDA_HOME=/x make",
        "alias c='export CUDA_HOME=/x'",
        "cat <<EOF\nexport CUDA_HOME=/x\nEOF\n",
        "unset CUDA_HOME",
        "export CUDA_HOME",
        "MY_CUDA_HOME=/x",
        "export CUDA_HOMES=/x",
    ],
)
def test_what_sets_nothing_is_no_setting(text):
    assert read(text) == []


def test_lines_are_counted_from_one():
    found = read("\n# c\nexport CUDA_HOME=/a\ncat <<X\nb\nX\nx='\n'\nexport PATH=/c\n")

    assert [setting.line for setting in found] == [3, 9]
    assert found[0].text == "export CUDA_HOME=/a"


@pytest.mark.parametrize(
    "text",
    [
        "if [ -d /x ]; then\n  export CUDA_HOME=/x\nfi",
        "[ -d /x ] && export CUDA_HOME=/x",
        "use() {\n  export CUDA_HOME=/x\n}",
        "function use {\n  export CUDA_HOME=/x\n}",
        "for v in 12 13; do export CUDA_HOME=/x; done",
        "case $HOSTNAME in\n  a*) export CUDA_HOME=/x;;\nesac",
        "(export CUDA_HOME=/x)",
    ],
)
def test_what_may_never_run_is_conditional(text):
    [found] = read(text)

    assert found.is_conditional


@pytest.mark.parametrize(
    "before",
    [
        "if [ -d /x ]; then\n  y\nfi\n",
        "use() {\n  y\n}\n",
        "f() { y; }\n",
        "for v in 1; do y; done\n",
        "case $x in a) y;; esac\n",
        "(cd /x)\n",
        "[ -d /x ] && y\n",
        "{ y; }\n",
    ],
)
def test_what_stands_behind_a_condition_is_not_conditional(before):
    [found] = read(f"{before}export CUDA_HOME=/x\n")

    assert not found.is_conditional


def test_what_is_made_of_a_conditional_value_is_conditional_too():
    _, found = read("[ -d /x ] && export CUDA_HOME=/x\nexport PATH=$CUDA_HOME/bin:$PATH\n")

    assert found.is_conditional


@pytest.mark.parametrize(
    ("exit_lines", "line"),
    [
        (EXIT_BY_CASE, 3),
        ('[ -z "$PS1" ] && return\n', 1),
        ("[[ $- != *i* ]] && return\n", 1),
        ("[[ $- == *i* ]] || return 0\n", 1),
        ('if [ -z "$PS1" ]; then\n  return\nfi\n', 2),
        ('[ -z "${PS1-}" ] && exit\n', 1),
    ],
)
def test_the_line_that_ends_the_file_early_is_found(exit_lines, line):
    file = parse(f"{exit_lines}export CUDA_HOME=/x\n", "/home/u/.bashrc", "sh", "/home/u")

    assert file.early_exit_line == line
    assert seen(file.settings)[0].after_early_exit


@pytest.mark.parametrize(
    "text", ["[ -f /x ] || return\n", "f() { [ -z $PS1 ] && return; }\n", "echo $PS1\n"]
)
def test_other_returns_end_nothing_early(text):
    assert parse(text, "/home/u/.bashrc").early_exit_line is None


def test_a_setting_before_the_early_exit_is_not_after_it():
    file = parse(f"export CUDA_HOME=/x\n{EXIT_BY_CASE}", "/home/u/.bashrc")

    assert not seen(file.settings)[0].after_early_exit


def test_gpuchecks_own_block_is_noted_and_passed_over():
    text = (
        "a\n# >>> gpucheck >>>\nexport CUDA_HOME=/x\n# <<< gpucheck <<<\nexport PATH=/a/cuda/bin\n"
    )

    file = parse(text, "/home/u/.bashrc")

    assert file.block is not None
    assert (file.block.line, file.block.last_line, file.block.cuda_home) == (2, 4, "/x")
    assert file.block.exists is False
    assert [(s.variable, s.line) for s in seen(file.settings)] == [("PATH", 5)]


# ------------------------------------------------------------------------------- the other dialects


def test_fish_sets_lists():
    found = read("set -gx CUDA_HOME /x\nset -gx PATH $CUDA_HOME/bin $PATH\n", dialect="fish")

    assert [setting.value for setting in found] == ["/x", "/x/bin:$PATH"]


def test_fish_wants_no_equals_sign():
    [found] = read("set -gx CUDA_HOME=/x\n", dialect="fish")

    assert found.mangled == "a = where fish wants a space"


def test_the_c_shells_have_their_own_command():
    good, bad = read("setenv CUDA_HOME /x\nsetenv CUDA_HOME=/x\n", dialect="csh")

    assert good.value == "/x"
    assert bad.mangled == "a = where setenv wants a space"


def test_a_guard_of_the_c_shells_is_a_guard():
    text = "if ($?LD_LIBRARY_PATH) then\n setenv LD_LIBRARY_PATH /x:$LD_LIBRARY_PATH\nendif\n"

    [guarded] = read(text, dialect="csh")
    [bare] = read("setenv LD_LIBRARY_PATH /x:$LD_LIBRARY_PATH\n", dialect="csh")

    assert not guarded.unguarded
    assert bare.unguarded


def test_etc_environment_expands_nothing():
    good, bad = read('CUDA_HOME="/x"\nPATH="/a:$PATH"\n', "/etc/environment", "environment")

    assert good.value == "/x"
    assert bad.mangled == "a $, which this file does not expand"


# -------------------------------------------------------------------------------- files and folders


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "home/u").mkdir(parents=True)
    return tmp_path / "home/u", tmp_path / "root"


def look(places: tuple[Path, Path]) -> dict[str, StartupFile]:
    home, root = places
    files = seen(startup_files.probe(home, root).files)
    return {file.path.replace(str(home), "~"): file for file in files}


def test_the_files_of_the_user_and_of_the_system_are_found(places):
    home, root = places
    for name in (
        ".bashrc",
        ".zshrc",
        ".tcshrc",
        ".config/fish/config.fish",
        ".config/fish/conf.d/cuda.fish",
    ):
        write(home / name, "# x\n")
    for name in ("etc/profile", "etc/profile.d/cuda.sh", "etc/environment", "etc/bash.bashrc"):
        write(root / name, "# x\n")

    assert set(look(places)) == {
        "~/.bashrc",
        "~/.zshrc",
        "~/.tcshrc",
        "~/.config/fish/config.fish",
        "~/.config/fish/conf.d/cuda.fish",
        "/etc/profile",
        "/etc/profile.d/cuda.sh",
        "/etc/environment",
        "/etc/bash.bashrc",
    }


def test_no_home_leaves_the_files_of_the_system(places):
    write(places[1] / "etc/profile", "# x\n")

    [file] = seen(startup_files.probe(None, places[1]).files)

    assert file.path == "/etc/profile"


def test_files_that_are_read_in_turn_are_followed(places):
    home, _ = places
    write(home / ".bashrc", ". ~/.cuda\nsource $HOME/.more\n. ./relative\n. $(x)\n")
    write(home / ".cuda", "export CUDA_HOME=/x\n")
    write(home / ".more", "source ~/.bashrc\n")  # a circle

    found = look(places)

    assert set(found) == {"~/.bashrc", "~/.cuda", "~/.more"}
    assert found["~/.bashrc"].sources == (f"{home}/.cuda", f"{home}/.more")
    assert seen(found["~/.cuda"].settings)[0].value == "/x"


def test_one_file_under_two_names_is_read_once(places):
    write(places[0] / ".bashrc", "export CUDA_HOME=/x\n")
    (places[0] / ".profile").symlink_to(".bashrc")

    assert len(look(places)) == 1


def test_what_is_no_plain_text_file_is_unknown(places):
    home, _ = places
    os.mkfifo(home / ".bashrc")
    (home / ".profile").mkdir()
    write(home / ".zshrc", b"a\0b")
    (home / ".zshenv").touch()
    os.truncate(home / ".zshenv", 100 << 20)

    found = look(places)

    assert all(isinstance(file.settings, Unknown) for file in found.values())
    assert len(found) == 4


def test_bytes_that_are_no_utf8_do_not_hide_the_rest(places):
    write(places[0] / ".bashrc", b"# caf\xe9\nexport CUDA_HOME=/x\n")

    [file] = look(places).values()

    assert seen(file.settings)[0].value == "/x"


def test_the_end_of_a_line_of_windows_goes_into_the_value_as_bash_itself_has_it(places):
    path = places[0] / ".bashrc"
    write(path, b"export CUDA_HOME=/x\r\nexport PATH=/y:$PATH\n")

    [file] = look(places).values()

    assert [setting.mangled for setting in seen(file.settings)] == [CARRIAGE_RETURN, None]
    bash = ["bash", "--norc", "-c", '. "$1"; printf %s "$CUDA_HOME"', "bash", str(path)]
    assert subprocess.run(bash, capture_output=True, check=True).stdout == b"/x\r"


# ---------------------------------------------------------------------------------- any text at all


@settings(max_examples=150, deadline=None)
@given(SHELL_TEXT, st.sampled_from(["sh", "csh", "fish", "environment"]))
def test_any_text_is_read_without_a_stumble(text, dialect):
    parse(text, "/home/u/.bashrc", dialect, "/home/u")


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_characters_are_read_without_a_stumble(text):
    parse(text, "/home/u/.bashrc", "sh", None)
    parse(f"export CUDA_HOME={text}", "/home/u/.bashrc", "sh", None)


@pytest.mark.parametrize("piece", ["$(", "${", "`", '"', "'", "(", "a<<b\n", "{ ", "if ", "\\"])
def test_a_file_made_to_be_slow_is_not(piece):
    parse(piece * (30_000 // len(piece)), "/home/u/.bashrc", "sh", "/home/u")


# -------------------------------------------------------------------------------- against real bash

WORDS = st.sampled_from(
    [
        "/usr/local/cuda",
        "'/a b'",
        '"/a b"',
        "~/cuda",
        "$HOME/c",
        "${HOME}/c",
        "$V",
        "${V}-x",
        "${V:-/d}",
        "${W:-/d}",
        "${V:+/e}",
        r"/a\ b",
        '"$V"',
        "'$V'",
        '"${V}/x"',
        "/x/$V/y",
        "$CUDA_HOME/sub",
        '"a\\$b"',
        "/p:$V",
    ]
)


@pytest.mark.shells
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@settings(max_examples=30, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=4))
def test_values_are_those_that_bash_gives(words):
    lines = ["V=12.4", *(f"export CUDA_HOME={word}" for word in words)]
    text = "\n".join(lines) + "\n"

    reported = seen(parse(text, "/home/u/.bashrc", "sh", "/home/u").settings)

    shown = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", f'{text}printf %s "$CUDA_HOME"'],
        env={"HOME": "/home/u"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    last = reported[-1].value
    if isinstance(last, str) and "$CUDA_HOME" not in last:
        assert last == shown


LIST_PIECES = st.sampled_from(
    [
        "/x/lib",
        "/y",
        ":",
        ":",
        "$LD_LIBRARY_PATH",
        "${LD_LIBRARY_PATH}",
        '"$LD_LIBRARY_PATH"',
        "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}",
        "${LD_LIBRARY_PATH:+${LD_LIBRARY_PATH}:}",
        "${LD_LIBRARY_PATH+:$LD_LIBRARY_PATH}",
        "${LD_LIBRARY_PATH:-/z}",
        "$V",
    ]
)


@pytest.mark.shells
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@settings(max_examples=40, deadline=None)
@given(st.lists(LIST_PIECES, min_size=1, max_size=5))
def test_a_line_is_unguarded_where_bash_makes_an_empty_element_of_it(pieces):
    line = f"export LD_LIBRARY_PATH={''.join(pieces)}"

    [reported] = seen(parse(f"V=/v\n{line}\n", "/home/u/.bashrc").settings)

    shown = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", f'V=/v; {line}; printf %s "$LD_LIBRARY_PATH"'],
        env={},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    extends = "LD_LIBRARY_PATH" in "".join(pieces)
    assert reported.unguarded == (extends and shown != "" and "" in shown.split(":"))


@pytest.mark.shells
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    "start",
    [
        EXIT_BY_CASE,
        '[ -z "$PS1" ] && return\n',
        "[[ $- != *i* ]] && return\n",
        "[[ $- == *i* ]] || return 0\n",
        'if [ -z "$PS1" ]; then\n  return\nfi\n',
        "if [[ $- != *i* ]]; then return; fi\n",
        "f() { [ -z $PS1 ] && return; }\nf\n",
        "[ -f /etc/passwd ] || return\n",
        "case $- in *i*) bind x;; esac\n",
    ],
)
def test_a_setting_is_after_the_early_exit_where_bash_does_not_reach_it(start, tmp_path):
    script = tmp_path / "bashrc"
    script.write_text(f"{start}export CUDA_HOME=/x\n")

    [reported] = seen(parse(script.read_text(), "/home/u/.bashrc").settings)

    shown = subprocess.run(
        ["bash", "--norc", "--noprofile", "-c", f'. {script}; printf %s "$CUDA_HOME"'],
        env={},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    assert reported.after_early_exit == (shown == "")


GROWING = {
    "a value that doubles with each line": "export PATH=$PATH:/opt/x/bin:$PATH\n",
    "substitutions that never end": "$(a ",
    "substitutions that never end, in quotes": 'export PATH="$(a $(b ${c:-',
    "functions that never end": "f() { (",
    "parentheses": "(",
    "conditions that never end": "if [ -t 0 ]; then exit;",
    "assignments in one line": "A=1 ",
    "here-documents": "cat <<E\n",
    "quotes": "'\"\\",
}


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("dialect", ["sh", "fish", "csh"])
def test_a_file_of_any_shape_is_read_in_time_that_grows_with_it(name, dialect):
    piece = GROWING[name]
    text = piece * (200_000 // len(piece))

    started = time.process_time()
    parse(text, "/home/u/.bashrc", dialect, "/home/u")

    assert time.process_time() - started < 10  # 2 s where it is slowest; hours before


def test_a_value_that_no_variable_could_hold_is_unknown():
    file = parse("export PATH=/x\n" + "export PATH=$PATH:/opt/x/bin:$PATH\n" * 40, "/x")

    assert isinstance(file.settings, tuple)
    assert isinstance(file.settings[5].value, str)
    assert isinstance(file.settings[-1].value, Unknown)


def test_a_file_that_is_too_large_is_unknown(tmp_path: Path):
    (tmp_path / ".bashrc").write_bytes(b"a" * (startup_files.LIMIT_BYTES + 1))

    [file] = seen(startup_files.probe(tmp_path, tmp_path / "no root").files)

    assert isinstance(file.settings, Unknown)


def test_under_sudo_the_callers_files_are_read_too(tmp_path: Path):
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada/.bashrc").write_text("export PATH=/usr/local/cuda/bin:$PATH\n")

    found = startup_files.probe(None, tmp_path / "root", invoking_home=tmp_path / "ada")

    [file] = seen(found.invoking_user)
    assert seen(file.settings)[0].variable == "PATH"
    assert startup_files.probe(None, tmp_path / "root").invoking_user is None
