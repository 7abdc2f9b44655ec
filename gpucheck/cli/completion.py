"""Completion of commands, options, their values and rule codes in bash, zsh and fish.

typer answers what could follow a line; the scripts and their installation are our own: those of
typer rewrite start-up files in place, and in zsh the first Tab of each shell completes nothing.
"""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gpucheck import console
from gpucheck.usage_error import UsageError

if TYPE_CHECKING:
    from gpucheck.shellenv.snippet import Shell

#: By this variable a script asks us what could follow (typer's protocol).
VARIABLE = "_GPUCHECK_COMPLETE"
SCRIPTS: Mapping[str, str] = {
    "bash": """\
_gpucheck() {
    local IFS=$'\\n'
    COMPREPLY=($(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD \\
        _GPUCHECK_COMPLETE=complete_bash "$1" 2>/dev/null))
}
complete -o default -F _gpucheck gpucheck
""",
    "zsh": """\
_gpucheck() {
    eval "$(_TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _GPUCHECK_COMPLETE=complete_zsh \\
        "${words[1]}" 2>/dev/null)"
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _gpucheck gpucheck
""",
    "fish": """\
function __gpucheck
    _GPUCHECK_COMPLETE=complete_fish _TYPER_COMPLETE_FISH_ACTION=$argv[1] \\
        _TYPER_COMPLETE_ARGS=(commandline -cp) gpucheck 2>/dev/null
end
complete -c gpucheck --no-files -a '(__gpucheck get-args)' -n '__gpucheck is-args'
""",
}


def answers() -> bool:
    """Make ready to answer a script, where one asks; return whether it does."""
    if VARIABLE not in os.environ:
        return False
    from typer._completion_classes import completion_init  # done only where its options are wanted

    completion_init()
    return True


def of_caller(is_wanted: bool) -> None:
    """Print the script for the calling shell, and leave."""
    if is_wanted:
        console.write(SCRIPTS[_shell().value])
        raise typer.Exit


def install(is_wanted: bool) -> None:
    """Store the script where the calling shell reads it, say where, and leave."""
    if not is_wanted:
        return
    from gpucheck.shellenv import shells

    shell = _shell()
    home = shells.home_of(os.environ)
    if shell.value == "fish":
        script = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
        script /= "fish/completions/gpucheck.fish"
    else:
        script = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share")
        script /= f"gpucheck/completion.{shell.value}"
    _put(script, SCRIPTS[shell.value].encode())
    if shell.value != "fish":
        name = shlex.quote(str(script))
        line = f"[ ! -r {name} ] || . {name}  # completion of gpucheck\n"
        _append(shells.startup_file(shell, os.environ), line.encode("utf-8", "surrogateescape"))
    console.log("Open a new shell to complete gpucheck by Tab.")
    raise typer.Exit


def _shell() -> "Shell":
    """Return the shell that calls us; refuse one without completion."""
    from gpucheck.shellenv import shells

    shell = shells.of_user(os.environ)
    if shell.value not in SCRIPTS:
        raise UsageError(f"completion is for {', '.join(SCRIPTS)}, and this is {shell.value}")
    return shell


def _append(file: Path, line: bytes) -> None:
    """Let the start-up *file* end with *line*, where it has no such line yet."""
    from gpucheck.shellenv import atomic_write

    content = atomic_write.read(file).content or b""
    if line not in content:
        newline = b"" if not content or content.endswith(b"\n") else b"\n"
        _put(file, content + newline + line)


def _put(file: Path, content: bytes) -> None:
    from gpucheck.shellenv import atomic_write, records

    original = atomic_write.read(file)
    if original.content != content:
        atomic_write.replace(original, content, backups=records.state_directory() / "backups")
        console.log(f"Wrote {file}")
