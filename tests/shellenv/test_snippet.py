import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gpucheck.shellenv import snippet, user_units
from gpucheck.shellenv.exports import Exports
from gpucheck.shellenv.snippet import Shell
from gpucheck.shellenv.startup_file import Record, install
from gpucheck.usage_error import UsageError

HOSTILE = '/opt/it\'s a "cuda" $HOME `x` \\ é $(touch x)'


def exports(home: str = "/opt/cuda", **changes: object) -> Exports:
    usual: dict = {
        "cuda_home": home,
        "version": "13.0",
        "bin_directory": f"{home}/bin",
        "library_directory": f"{home}/lib64",
        "library_reason": "in: because",
    }
    return Exports(**(usual | changes))


@pytest.mark.parametrize("shell", Shell)
def test_no_placeholder_is_left_and_the_last_line_ends(shell: Shell):
    text = snippet.render(exports(), shell)

    assert not re.search(r"@[A-Za-z_]+@", text)
    assert text.endswith("\n")


@pytest.mark.parametrize("shell", Shell)
def test_words_in_a_comment_cannot_end_its_line(shell: Shell):
    told = exports(library_reason="out:\ntouch x\r\u2028touch y", library_directory=None)

    text = snippet.render(told, shell)

    assert "out:?touch x??touch y" in text


@pytest.mark.parametrize("shell", Shell)
def test_what_looks_like_a_placeholder_in_a_path_stays(shell: Shell):
    assert "/opt/@LIBRARIES@@BIN@" in snippet.render(exports("/opt/@LIBRARIES@@BIN@"), shell)


def test_a_dockerfile_extends_what_the_image_has():
    text = snippet.render(exports(HOSTILE), Shell.DOCKERFILE)

    quoted = r""""/opt/it's a \"cuda\" \$HOME `x` \\ é \$(touch x)"""
    assert f'ENV CUDA_HOME={quoted}"\n' in text
    assert f'ENV PATH={quoted}/bin":${{PATH}}\n' in text
    assert f'{quoted}/lib64"${{LD_LIBRARY_PATH:+:${{LD_LIBRARY_PATH}}}}\n' in text


def test_a_dockerfile_has_no_way_to_write_a_newline():
    with pytest.raises(UsageError, match="Dockerfile"):
        snippet.render(exports("/opt/a\nb"), Shell.DOCKERFILE)


def test_what_stays_out_has_no_line_in_a_file_format():
    without = exports(library_directory=None, bin_directory=None)

    for shell in (Shell.DOCKERFILE, Shell.MODULEFILE, Shell.SYSTEMD):
        lines = snippet.render(without, shell).splitlines()
        assert not [line for line in lines if line[0] not in "#-" and "LD_LIBRARY_PATH" in line]
    assert "ENV PATH" not in snippet.render(without, Shell.DOCKERFILE)


def test_systemd_gets_whole_values():
    text = snippet.render(exports(HOSTILE + "\nx"), Shell.SYSTEMD)

    # systemd.exec(5): in double quotes, a backslash escapes ", \, ` and $
    values = re.findall(r'^([A-Z_]+)="((?:[^"\\]|\\.)*)"$', text, re.MULTILINE)
    plain = {name: re.sub(r"\\(.)", r"\1", value) for name, value in values}
    home = HOSTILE + "\nx"
    assert plain["CUDA_HOME"] == home
    assert plain["PATH"] == f"{home}/bin:{snippet.SYSTEMD_PATH}"
    assert plain["LD_LIBRARY_PATH"] == f"{home}/lib64"


def test_lua_reads_back_the_path(tmp_path: Path):
    lua = next(filter(None, map(shutil.which, ("lua", "lua5.4", "lua5.3", "lua5.1"))), None)
    home = HOSTILE + "\n\x01]]"
    text = snippet.render(exports(home), Shell.MODULEFILE)

    assert "\\010\\001]]" in text
    if lua is None:
        pytest.skip("Lua is not installed")
    program = tmp_path / "program.lua"
    shown = "function setenv(name, value) io.write(name, '=', value, '\\0') end\n"
    shown += "function whatis(_) end help, family = whatis, whatis\n"
    program.write_text(f"{shown}prepend_path = setenv\n{text}", encoding="utf-8", newline="")
    ended = subprocess.run([lua, str(program)], capture_output=True, timeout=60)
    wanted = f"CUDA_HOME={home}\0PATH={home}/bin\0LD_LIBRARY_PATH={home}/lib64\0"
    assert ended.stdout.decode() == wanted, ended.stderr


@pytest.mark.parametrize("libraries", [None, "/opt/cuda/lib64"])
@pytest.mark.parametrize("shell", [each for each in Shell if each.has_startup_file])
def test_the_block_is_short(shell: Shell, libraries: str | None):
    text = snippet.render(exports(library_directory=libraries), shell)

    block = install(b"", text, Record(shell=shell.value)).text
    assert block.count(b"\n") <= (12 if shell is Shell.TCSH else 8)


def test_tcl_reads_back_the_path(tmp_path: Path):
    tclsh = shutil.which("tclsh")
    text = snippet.render(exports(HOSTILE + "{[x]}"), Shell.TCL)

    assert text.startswith("#%Module")
    if tclsh is None:
        pytest.skip("Tcl is not installed")
    program = tmp_path / "program.tcl"
    procs = "proc setenv {n v} {puts $n=$v}\nproc prepend-path {n v} {puts $n=$v}\n"
    procs += "proc module-whatis {x} {}\nproc conflict {x} {}\n"
    program.write_text(procs + text, encoding="utf-8")
    ended = subprocess.run([tclsh, str(program)], capture_output=True, text=True, timeout=60)
    assert ended.stdout.startswith(f"CUDA_HOME={HOSTILE}{{[x]}}\n"), ended.stderr


def test_environment_d_extends_what_the_session_has():
    assert "PATH=/opt/cuda/bin:${PATH}\n" in snippet.render(
        exports("/opt/cuda"), Shell.ENVIRONMENT_D
    )
    with pytest.raises(UsageError, match="newline"):
        snippet.render(exports("/opt/a\nb"), Shell.ENVIRONMENT_D)


@pytest.mark.parametrize("home", ["/opt/cuda", HOSTILE + " ${x:-y} %h $$ $HOME"])
def test_systemd_itself_reads_back_environment_d(home: str, tmp_path: Path):
    if not any(file.exists() for file in user_units.GENERATORS):
        pytest.skip("systemd is not installed")
    (tmp_path / "environment.d").mkdir()
    text = snippet.render(exports(home), Shell.ENVIRONMENT_D)
    (tmp_path / "environment.d/60-cuda.conf").write_text(text)

    found, why = user_units.variables({"XDG_CONFIG_HOME": str(tmp_path)}, 20.0)

    assert found is not None, why
    assert found["CUDA_HOME"] == home
    assert found["PATH"].startswith(f"{home}/bin:/usr/local/sbin:")
    assert found["LD_LIBRARY_PATH"] == f"{home}/lib64"


@pytest.mark.parametrize(
    "shell", [Shell.BASH, Shell.ZSH, Shell.FISH, Shell.TCSH, Shell.ENVIRONMENT_D]
)
def test_the_block_of_a_plain_toolkit_fits_a_terminal(shell: Shell):
    plain = exports(
        "/usr/local/cuda",
        library_directory=None,
        library_reason="out: the loader finds them anyway, by /etc/ld.so.conf",
    )

    lines = snippet.render(plain, shell).splitlines()

    assert [line for line in lines if len(line) > 78] == []  # env diff puts a + before them
