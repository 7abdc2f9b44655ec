import functools
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpucheck.shellenv import snippet
from gpucheck.shellenv.exports import Exports
from gpucheck.shellenv.snippet import Shell
from gpucheck.shellenv.startup_file import (
    Installed,
    Record,
    State,
    find,
    install,
    old_exports,
    state,
    uninstall,
)
from gpucheck.usage_error import UsageError


def kept(*installed: Installed) -> dict[str, Record]:
    """The records that the state directory has after these writes."""
    return {each.digest: each.record for each in installed}


@functools.cache
def lines_for(shell: str, home: str = "/usr/local/cuda") -> str:
    """The lines that `gpucheck env install` writes for *shell*."""
    return snippet.render(
        Exports(
            cuda_home=home,
            version="13.0",
            bin_directory=f"{home}/bin",
            library_directory=f"{home}/lib64",
            library_reason="in: the loader does not find them otherwise",
        ),
        Shell(shell),
    )


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
SHELLS = st.sampled_from(["bash", "zsh", "sh", "ksh", "fish", "tcsh", "environment.d"])
many = settings(
    max_examples=10_000 if os.environ.get("GPUCHECK_SOAK") else 2_000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@many
@given(FILES, SHELLS)
def test_install_then_uninstall_gives_back_every_byte(text: bytes, shell: str):
    installed = install(text, lines_for(shell), Record(shell=shell))

    assert installed.text != text
    assert uninstall(installed.text, kept(installed)) == text


@many
@given(FILES, SHELLS)
def test_without_a_record_exactly_the_block_is_taken_out(text: bytes, shell: str):
    installed = install(text, lines_for(shell), Record(shell=shell)).text
    block = find(installed)

    assert block is not None
    assert installed[block.start : block.end].startswith(BEGINS + b"\n")
    assert uninstall(installed) == installed[: block.start] + installed[block.end :]


@many
@given(FILES, SHELLS)
def test_replacing_old_exports_and_uninstall_gives_back_every_byte(text: bytes, shell: str):
    lines = {old.line for old in old_exports(text, shell) if old.keeps is None}

    installed = install(text, lines_for(shell), Record(shell=shell), replaced_lines=lines)

    assert not [old for old in old_exports(installed.text, shell) if old.keeps is None]
    assert uninstall(installed.text, kept(installed)) == text


@many
@given(FILES, SHELLS)
def test_installing_twice_is_installing_once(text: bytes, shell: str):
    once = install(text, lines_for(shell), Record(shell=shell))

    assert install(once.text, lines_for(shell), Record(shell=shell), records=kept(once)) == once


@many
@given(FILES, SHELLS)
def test_another_toolkit_in_between_changes_nothing(text: bytes, shell: str):
    first = install(text, lines_for(shell), Record(shell=shell))
    lines = {old.line for old in old_exports(first.text, shell) if old.keeps is None}

    second = install(
        first.text,
        lines_for(shell, "/usr/local/cuda-12.4"),
        Record(shell=shell, cuda="12.4"),
        records=kept(first),
        replaced_lines=lines,
    )

    assert second.text.count(BEGINS + b"\n") == first.text.count(BEGINS + b"\n")
    assert uninstall(second.text, kept(first, second)) == text


@settings(max_examples=500, deadline=None)
@given(FILES, FILES, FILES)
def test_lines_that_the_user_added_since_stay_as_they_are(text: bytes, above: bytes, below: bytes):
    if text and not text.endswith(b"\n"):
        text += b"\n"
    above += b"\n"
    installed = install(text, SNIPPET, BASH)

    changed = above + installed.text + below
    assert uninstall(changed, kept(installed)) == above + text + below


def test_a_file_that_was_absent_is_absent_again():
    installed = install(None, SNIPPET, BASH)

    assert uninstall(installed.text, kept(installed)) is None
    more = installed.text + b"alias ll='ls -l'\n"
    assert uninstall(more, kept(installed)) == b"alias ll='ls -l'\n"


def test_an_empty_file_stays_an_empty_file():
    installed = install(b"", SNIPPET, BASH)

    assert uninstall(installed.text, kept(installed)) == b""


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

    installed = install(text, SNIPPET, BASH).text

    assert installed.startswith(b"umask 022\n\n" + BEGINS)
    assert installed.endswith(ENDS + b"\n" + exit_line + b"alias ll='ls -l'\n")


def test_in_tcsh_the_block_goes_before_the_exit_for_scripts():
    text = b"if (! $?prompt) exit\nset history = 100\n"

    assert install(text, SNIPPET, Record(shell="tcsh")).text.endswith(ENDS + b"\n" + text)


def test_without_an_early_exit_the_block_comes_last():
    assert install(b"umask 022", SNIPPET, BASH).text.startswith(b"umask 022\n" + BEGINS)


def test_a_line_that_goes_on_does_not_swallow_the_mark():
    installed = install(b"alias x=y \\", SNIPPET, BASH)

    assert installed.text.startswith(b"alias x=y \\\n\n" + BEGINS)
    assert uninstall(installed.text, kept(installed)) == b"alias x=y \\"


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
    installed = install(b"a", SNIPPET, BASH)
    edited, records = installed.text.replace(b"cuda-13.0", b"cuda-13.1"), kept(installed)

    assert state(edited, SNIPPET, records) is State.EDITED
    with pytest.raises(UsageError, match="edited by hand"):
        install(edited, SNIPPET, BASH, records=records)
    with pytest.raises(UsageError, match="edited by hand"):
        uninstall(edited, records)
    assert uninstall(edited, records, force=True) == b"a"
    again = install(edited, SNIPPET, BASH, records=records, force=True)
    assert state(again.text, SNIPPET, kept(again)) is State.CURRENT


def test_the_state_tells_absent_current_and_outdated():
    installed = install(b"a\n", SNIPPET, BASH).text

    assert state(None, SNIPPET) is State.ABSENT
    assert state(b"a\n", SNIPPET) is State.ABSENT
    assert state(installed, SNIPPET) is State.CURRENT
    assert state(installed, OTHER) is State.OUTDATED


#: What gpucheck 0.1.0 wrote into a file that held "a", without a newline.
OLD_BLOCK = b"""a
# >>> gpucheck >>>
# Written by `gpucheck env install`; `gpucheck env uninstall` undoes it to the byte.
# record: {"shell": "bash", "cuda": "12.4", "ld_library_path": "auto", "newline_added": true, \
"blank_line_added": false, "was_absent": false, "replaced": 0}
# checksum: 0cd9b6019c97669a
# CUDA 12.4. Runs no program; sourced again, it changes nothing more.
export CUDA_HOME='/usr/local/cuda-12.4'
# <<< gpucheck <<<
"""


def test_a_block_of_version_0_1_0_is_recognized_replaced_and_undone():
    block = find(OLD_BLOCK)

    assert block is not None
    assert (block.is_old, block.is_old_edited) == (True, False)
    assert uninstall(OLD_BLOCK) == b"a"
    new = install(OLD_BLOCK, SNIPPET, BASH)
    assert b"# record" not in new.text
    assert new.text.count(BEGINS) == 1
    assert uninstall(new.text, kept(new)) == b"a"


def test_a_block_of_version_0_1_0_that_was_edited_is_refused_without_force():
    edited = OLD_BLOCK.replace(b"cuda-12.4'", b"cuda-12.5'")

    with pytest.raises(UsageError, match="edited by hand"):
        install(edited, SNIPPET, BASH)
    assert state(edited, SNIPPET) is State.EDITED
    assert uninstall(edited, force=True) == b"a"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_a_record_that_does_not_fit_is_no_record(fields: object):
    assert Record.read(fields) is None
    assert Record.read({"shell": "bash", "more": fields}) is None


def test_a_path_with_our_own_marks_in_it_is_refused():
    hostile = "export CUDA_HOME='/x\n# <<< gpucheck <<<\n'\n"

    with pytest.raises(UsageError, match="one pair"):
        install(b"", hostile, BASH)


def test_old_exports_are_found_with_their_lines_and_faults():
    text = (
        b"alias x=y\nexport CUDA_HOME=/usr/local/cuda\nexportCUDA_HOME=/usr/local/cuda\n" + RECIPE
    )

    found = old_exports(text, "bash")

    assert [(old.line, old.keeps) for old in found] == [(2, None), (3, None), (4, None)]
    assert found[1].mangled == "no space after export"


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
