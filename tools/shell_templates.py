"""Checks the shell templates, and snippets made from them: `python -m tools.shell_templates`.

ShellCheck reads bash, sh and ksh; zsh, fish and tcsh read their own syntax, where they are
installed; so does Lua.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gpucheck.shellenv import snippet
from gpucheck.shellenv.exports import Exports
from gpucheck.shellenv.snippet import Shell

PLAIN = Exports(
    cuda_home="/usr/local/cuda-13.0",
    version="13.0",
    bin_directory="/usr/local/cuda-13.0/bin",
    library_directory="/usr/local/cuda-13.0/lib64",
    library_reason="in: the loader does not find them otherwise",
)
HOSTILE = Exports(
    cuda_home='/opt/it\'s a "cuda" $HOME `x` \\ !',
    version="13.0",
    bin_directory='/opt/it\'s a "cuda" $HOME `x` \\ !/bin',
    library_directory=None,
    library_reason="out: nobody asked",
)
# SC2016: that nothing expands in single quotes is what they are for.
LEFT_OUT = "SC2016"


def check(shell: Shell, file: Path) -> str:
    """Return what is wrong with the snippet in *file*; "" where nothing is, or nobody can tell."""
    if shell in (Shell.BASH, Shell.SH, Shell.KSH):
        beside_us = Path(sys.executable).parent / "shellcheck"
        program = str(beside_us) if beside_us.exists() else "shellcheck"
        command = [program, f"--shell={shell.value}", f"--exclude={LEFT_OUT}", str(file)]
    elif shell in (Shell.ZSH, Shell.FISH, Shell.TCSH):
        command = [shell.value, "-n", str(file)]
    elif shell is Shell.MODULEFILE:
        command = ["luac", "-p", str(file)]
    else:
        return ""
    if shutil.which(command[0]) is None:
        return ""
    at_home_here = os.environ | {"HOME": str(file.parent)}  # fish makes folders there
    ended = subprocess.run(command, capture_output=True, text=True, env=at_home_here)
    return (ended.stdout + ended.stderr) if ended.returncode or ended.stderr else ""


def main() -> int:
    """Check everything, and return the exit status."""
    complaints = ""
    with tempfile.TemporaryDirectory() as folder:
        for shell in Shell:
            texts = {"the template": snippet.template(shell)}
            texts |= {"a snippet": snippet.render(PLAIN, shell)}
            texts |= {"a hostile snippet": snippet.render(HOSTILE, shell)}
            for name, text in texts.items():
                if name == "the template" and shell is Shell.MODULEFILE:
                    continue  # Lua knows no @
                file = Path(folder) / f"{name} for {shell.value}"
                file.write_text(text, encoding="utf-8")
                complaints += check(shell, file)
    print(complaints, end="", file=sys.stderr)
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
