import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucheck.shellenv.startup_file import (
    Record,
    State,
    find,
    install,
    old_exports,
    state,
    uninstall,
)
from gpucheck.usage_error import UsageError

SNIPPET = "export CUDA_HOME='/usr/local/cuda-13.0'\n"
OTHER = "export CUDA_HOME='/usr/local/cuda-12.4'\nexport X='é'\n"
BASH = Record(shell="bash")
BEGINS, ENDS = b"# >>> gpucheck >>>", b"# <<< gpucheck <<<"
EARLY_EXIT = b"# If not running interactively\ncase $- in\n    *i*) ;;\n      *) return;;\nesac\n"
RECIPE = b"export LD_LIBRARY_PATH=${CUDA_HOME}/lib64:$LD_LIBRARY_PATH\n"

LINES = st.sampled_from(
    [
        *(b"", b" ", b"alias ll='ls -l'", b"export EDITOR=vi", b"echo \xff\xfe", b"caf\xc3\xa9"),
        *(b"foo \\", b"foo\\\\", b"cat <<EOF", b"EOF", b"'", b'"', b"if true; then", b"fi", b"}"),
        *EARLY_EXIT.splitlines(),
        *(b"[[ $- != *i* ]] && return", b'[ -z "$PS1" ] && return', b"#!/bin/bash", b"#"),
        *(b"export CUDA_HOME=/usr/local/cuda", b"exportCUDA_HOME=/usr/local/cuda"),
        *(RECIPE.strip(), b"  export PATH=/usr/local/cuda/bin:$PATH", b"export PATH=$HOME/bin"),
        *(b": #gpucheck-replaced-1# x", b": #gpucheck-replaced-2# x", b"# >>> conda >>>"),
        *(
            BEGINS + b" not",
            b" " + BEGINS,
            b"# record: {}",
            b"\0",
            b"\x0c",
            b"a\rb",
            b"\xe2\x80\xa8",
        ),
    ]
)
FILES = st.one_of(
    st.tuples(
        st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\n", b"\r\n"])), max_size=12),
        st.one_of(st.just(b""), LINES),
    ).map(lambda parts: b"".join(line + end for line, end in parts[0]) + parts[1]),
    st.binary(max_size=60).filter(lambda text: BEGINS not in text and ENDS not in text),
)
SHELLS = st.sampled_from(["bash", "zsh", "sh", "ksh", "fish", "tcsh"])
ten_thousand = settings(
    max_examples=2500,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@ten_thousand
@given(FILES, SHELLS)
def test_install_then_uninstall_gives_back_every_byte(text: bytes, shell: str):
    installed = install(text, SNIPPET, Record(shell=shell))

    assert installed != text
    assert uninstall(installed) == text


@ten_thousand
@given(FILES, SHELLS)
def test_replacing_old_exports_and_uninstall_gives_back_every_byte(text: bytes, shell: str):
    lines = {old.line for old in old_exports(text, shell) if old.keeps is None}

    installed = install(text, SNIPPET, Record(shell=shell), replaced_lines=lines)

    assert not [old for old in old_exports(installed, shell) if old.keeps is None]
    assert uninstall(installed) == text


@ten_thousand
@given(FILES, SHELLS)
def test_installing_twice_is_installing_once(text: bytes, shell: str):
    once = install(text, SNIPPET, Record(shell=shell))

    assert install(once, SNIPPET, Record(shell=shell)) == once


@ten_thousand
@given(FILES, SHELLS)
def test_another_toolkit_in_between_changes_nothing(text: bytes, shell: str):
    first = install(text, SNIPPET, Record(shell=shell))
    lines = {old.line for old in old_exports(first, shell) if old.keeps is None}

    second = install(first, OTHER, Record(shell=shell, cuda="12.4"), replaced_lines=lines)

    assert second.count(BEGINS + b"\n") == first.count(BEGINS + b"\n")
    assert install(second, SNIPPET, Record(shell=shell)).count(ENDS) == first.count(ENDS)
    assert uninstall(second) == text


@settings(max_examples=500, deadline=None)
@given(FILES, FILES, FILES)
def test_lines_that_the_user_added_since_stay_as_they_are(text: bytes, above: bytes, below: bytes):
    if text and not text.endswith(b"\n"):
        text += b"\n"
    above += b"\n"
    installed = install(text, SNIPPET, BASH)

    assert uninstall(above + installed + below) == above + text + below


def test_a_file_that_was_absent_is_absent_again():
    installed = install(None, SNIPPET, BASH)

    assert uninstall(installed) is None
    assert uninstall(installed + b"alias ll='ls -l'\n") == b"alias ll='ls -l'\n"


def test_an_empty_file_stays_an_empty_file():
    assert uninstall(install(b"", SNIPPET, BASH)) == b""


@pytest.mark.parametrize(
    "exit_line",
    [
        EARLY_EXIT,
        b"[[ $- != *i* ]] && return\n",
        b'[ -z "$PS1" ] && return\n',
        b"if [[ $- != *i* ]]; then\n    return\nfi\n",
    ],
)
def test_the_block_goes_before_the_early_exit(exit_line: bytes):
    text = b"umask 022\n\n" + exit_line + b"alias ll='ls -l'\n"

    installed = install(text, SNIPPET, BASH)

    assert installed.startswith(b"umask 022\n\n" + BEGINS)
    assert installed.endswith(ENDS + b"\n" + exit_line + b"alias ll='ls -l'\n")


def test_in_tcsh_the_block_goes_before_the_exit_for_scripts():
    text = b"if (! $?prompt) exit\nset history = 100\n"

    assert install(text, SNIPPET, Record(shell="tcsh")).endswith(ENDS + b"\n" + text)


def test_without_an_early_exit_the_block_comes_last():
    assert install(b"umask 022", SNIPPET, BASH).startswith(b"umask 022\n" + BEGINS)


def test_a_line_that_goes_on_does_not_swallow_the_mark():
    installed = install(b"alias x=y \\", SNIPPET, BASH)

    assert installed.startswith(b"alias x=y \\\n\n" + BEGINS)
    assert uninstall(installed) == b"alias x=y \\"


@pytest.mark.parametrize(
    "text",
    [
        BEGINS + b"\n",
        ENDS + b"\n",
        ENDS + b"\n" + BEGINS + b"\n",
        (BEGINS + b"\n" + ENDS + b"\n") * 2,
        BEGINS + b"\n" + BEGINS + b"\n" + ENDS + b"\n",
    ],
)
def test_damaged_marks_are_refused(text: bytes):
    with pytest.raises(UsageError, match="one pair"):
        install(text, SNIPPET, BASH)
    with pytest.raises(UsageError, match="one pair"):
        uninstall(text)


def test_a_block_edited_by_hand_is_refused_without_force():
    edited = install(b"a\n", SNIPPET, BASH).replace(b"cuda-13.0", b"cuda-13.1")

    assert state(edited, SNIPPET) is State.EDITED
    with pytest.raises(UsageError, match="edited by hand"):
        install(edited, SNIPPET, BASH)
    with pytest.raises(UsageError, match="edited by hand"):
        uninstall(edited)
    assert uninstall(edited, force=True) == b"a\n"
    assert state(install(edited, SNIPPET, BASH, force=True), SNIPPET) is State.CURRENT


def test_the_state_tells_absent_current_and_outdated():
    installed = install(b"a\n", SNIPPET, BASH)

    assert state(None, SNIPPET) is State.ABSENT
    assert state(b"a\n", SNIPPET) is State.ABSENT
    assert state(installed, SNIPPET) is State.CURRENT
    assert state(installed, OTHER) is State.OUTDATED


def test_the_block_remembers_how_it_was_made():
    record = Record(shell="zsh", cuda="/opt/my cuda", ld_library_path="never")

    block = find(install(b"a", SNIPPET, record))

    assert block is not None
    assert block.record is not None
    assert (block.record.cuda, block.record.ld_library_path) == ("/opt/my cuda", "never")
    assert block.record.newline_added


def test_a_path_with_our_own_marks_in_it_is_refused():
    hostile = "export CUDA_HOME='/x\n# <<< gpucheck <<<\n'\n"

    with pytest.raises(UsageError, match="marks"):
        install(b"", hostile, BASH)


def test_old_exports_are_found_with_their_lines_and_faults():
    text = (
        b"alias x=y\nexport CUDA_HOME=/usr/local/cuda\nexportCUDA_HOME=/usr/local/cuda\n" + RECIPE
    )

    found = old_exports(text, "bash")

    assert [(old.line, old.keeps) for old in found] == [(2, None), (3, None), (4, None)]
    assert found[1].mangled == "no blank after export"


@pytest.mark.parametrize(
    "line",
    [
        "export CUDA_HOME=/usr/local/cuda",
        "  export CUDA_HOME = /usr/local/cuda",
        "exportCUDA_HOME=/usr/local/cuda",
        "export PATH=/usr/local/cuda/bin:$PATH",
        'export PATH="/usr/local/cuda/bin${PATH:+:${PATH}}"',
        "export PATH=$PATH:$CUDA_HOME/bin # CUDA",
        "PATH=/usr/local/cuda-12.4/bin:$PATH; export PATH",
        "[ -d /usr/local/cuda ] && export CUDA_HOME=/usr/local/cuda",
        "export CUDA_PATH=/usr/local/cuda-11.8",
        "CUDA_ROOT=/opt/x; export CUDA_ROOT",
        "export CUDA_HOME=/usr/local/cuda PATH=/usr/local/cuda/bin:$PATH",
        "export LD_LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/cuda/extras/CUPTI/lib64",
    ],
)
def test_a_line_of_nothing_but_cuda_can_be_put_out_of_use(line: str):
    [old] = old_exports(line.encode() + b"\n", "bash")

    assert old.keeps is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("export PATH=/usr/local/cuda/bin:$HOME/bin:$PATH", "$HOME/bin"),
        ("export EDITOR=vi; export CUDA_HOME=/usr/local/cuda", "EDITOR="),
        ("export CUDA_HOME=/usr/local/cuda; echo hello", "echo"),
        ("if true; then export CUDA_HOME=/usr/local/cuda", "begins or ends"),
        ("set_cuda() { export CUDA_HOME=/usr/local/cuda; }", "more than"),
        ("export LD_LIBRARY_PATH=/usr/local/cuda/lib64:\\", "longer line"),
        ("true && \\\nexport CUDA_HOME=/usr/local/cuda", "longer line"),
        ("true &&\nexport CUDA_HOME=/usr/local/cuda", "longer command"),
        ("(export CUDA_HOME=/usr/local/cuda)", "more than"),
    ],
)
def test_a_line_that_holds_more_is_pointed_out_and_left(line: str, why: str):
    found = old_exports(line.encode() + b"\n", "bash")

    assert [old for old in found if old.keeps is not None and why in old.keeps], found


@pytest.mark.parametrize(
    ("shell", "line"),
    [
        ("fish", "set -gx CUDA_HOME /opt/x"),
        ("fish", "set -x PATH /usr/local/cuda/bin $PATH"),
        ("tcsh", "setenv CUDA_HOME /opt/x"),
        ("tcsh", "setenv LD_LIBRARY_PATH /usr/local/cuda/lib64:$LD_LIBRARY_PATH"),
    ],
)
def test_other_shells_old_exports_are_found_too(shell: str, line: str):
    [old] = old_exports(line.encode(), shell)

    assert old.keeps is None
