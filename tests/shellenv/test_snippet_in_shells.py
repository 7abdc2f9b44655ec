"""The snippets in real shells: hundreds of paths and starting values, one process per shell."""

import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpucheck.shellenv import snippet
from gpucheck.shellenv.exports import Exports
from gpucheck.shellenv.snippet import Shell

CASES = 300
#: the shell to run, the template for it, and how it is kept from reading start-up files
REAL_SHELLS = {
    "bash": (Shell.BASH, ["--noprofile", "--norc"]),
    "bash --posix": (Shell.SH, ["--noprofile", "--norc"]),
    "dash": (Shell.SH, []),
    "zsh": (Shell.ZSH, ["-f"]),
    "fish": (Shell.FISH, ["--no-config"]),
    "tcsh": (Shell.TCSH, ["-f"]),
    "ksh": (Shell.KSH, []),
    "mksh": (Shell.KSH, []),
    "nu": (Shell.NUSHELL, ["--no-config-file"]),
}
PIECES = (
    *("a", "b-c", "lib", "bin", "stubs", " ", "  ", "'", '"', "$", "$HOME", "\\", "\\\\", "!"),
    *("!!", "!a", "\n", "é", "😀", "`", "`touch x`", "$(touch x)", "${x-y}", ";", ";touch x;"),
    *("&", "|", "*", "?", "[a]", "[", "]", "{b,c}", "~", "#", " # ", "(", ")", "<", ">", "\t"),
    *("=", "@", "@OWN@", "@CUDA_HOME@", "^", "%", ",", "-", "--", "-e", "\\n", "\\!", "'\\''"),
)
END = "\n@@ end of value @@\n"


@dataclass(frozen=True)
class Case:
    exports: Exports
    path: str | None
    libraries: str | None


def path_under(generator: random.Random, start: str) -> str:
    pieces = [generator.choice(PIECES) for _ in range(generator.randint(1, 5))]
    return start + "".join(pieces).replace("/", "")


def some_list(generator: random.Random, cuda: Exports) -> str | None:
    """A starting value: unset, CUDA's own entries once and among others, and foreign ones."""
    if generator.random() < 0.1:
        return None
    own = [cuda.bin_directory, cuda.library_directory]
    entries = [path_under(generator, "/opt/") for _ in range(generator.randint(1, 8))]
    entries += ["/usr/bin", "/usr/local/cuda-12/bin"]
    entries += [entry for entry in own if entry and generator.random() < 0.4]
    generator.shuffle(entries)
    return ":".join(dict.fromkeys(entries))


def some_case(generator: random.Random, folder: Path, number: int) -> Case:
    name = generator.choice(("cuda-13.0", path_under(generator, "cuda")))
    home = f"{folder}/{number}/{name}"
    if generator.random() < 0.9:
        Path(home).mkdir(parents=True)
    return Case(
        exports := Exports(
            cuda_home=home,
            version="13.0",
            bin_directory=None if generator.random() < 0.1 else f"{home}/bin",
            library_directory=f"{home}/targets/x/lib" if generator.random() < 0.5 else None,
            library_reason="because $(touch x) `touch x`",
        ),
        some_list(generator, exports),
        some_list(generator, exports),
    )


def expected(case: Case) -> tuple[str, str, str]:
    """What must come of CUDA_HOME, PATH and LD_LIBRARY_PATH, said once more and differently."""
    cuda = case.exports
    path, libraries = case.path or "", case.libraries or ""
    if not Path(cuda.cuda_home).is_dir():
        return "", path, libraries
    if cuda.bin_directory is not None:
        rest = [entry for entry in path.split(":") if entry and entry != cuda.bin_directory]
        path = ":".join([cuda.bin_directory, *rest])
    if cuda.library_directory is not None and cuda.library_directory not in libraries.split(":"):
        libraries = ":".join(filter(None, (cuda.library_directory, libraries)))
    return cuda.cuda_home, path, libraries


def script(shell: Shell, cases: list[Case], folder: Path, times: int) -> str:
    """A program that sources the snippet of every case *times* over, and shows what came of it."""
    lines = []
    for number, case in enumerate(cases):
        file = folder / f"snippet-{number}"
        file.write_text(snippet.render(case.exports, shell), encoding="utf-8", newline="")
        lines += [setting(shell, "CUDA_HOME", None), setting(shell, "PATH", case.path)]
        lines += [setting(shell, "LD_LIBRARY_PATH", case.libraries)]
        lines += [f"{'.' if shell in (Shell.SH, Shell.KSH) else 'source'} {file}"] * times
        lines += [shown(shell, name) for name in ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH")]
    start = "set echo_style = none\n" if shell is Shell.TCSH else ""
    if shell in (Shell.BASH, Shell.SH, Shell.KSH, Shell.ZSH):
        start = "set -eu\n"
    return start + "\n".join(lines) + "\n"


def setting(shell: Shell, name: str, value: str | None) -> str:
    if shell is Shell.NUSHELL:
        gone = f"hide-env -i {name}"
        return gone if value is None else f"$env.{name} = {snippet._nushell(value)}"
    if shell is Shell.FISH:
        return f"set -e {name}" if value is None else f"set -gx {name} {snippet._fish(value)}"
    if shell is Shell.TCSH:
        return f"unsetenv {name}" if value is None else f"setenv {name} {snippet._tcsh(value)}"
    return f"unset {name}" if value is None else f"export {name}={snippet._posix(value)}"


def shown(shell: Shell, name: str) -> str:
    token = END.strip()
    if shell is Shell.NUSHELL:
        return f'print ($env.{name}? | default "" | split row ":" | str join ":"); print "{token}"'
    if shell is Shell.FISH:
        return f'printf "%s\\n%s\\n" "${name}" "{token}"'
    if shell is Shell.TCSH:
        return f'if ( ! $?{name} ) setenv {name} ""\necho ${name}:q\necho "{token}"'
    name += "-"
    if shell is Shell.KSH:  # mksh has no printf of its own
        return f'print -r -- "${{{name}}}"; print -r -- "{token}"'
    return f'printf "%s\\n%s\\n" "${{{name}}}" "{token}"'


def command(name: str) -> list[str]:
    program, *options = name.split()
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (make shells)")
    return [found, *options, *REAL_SHELLS[name][1]]


@pytest.mark.shells
@pytest.mark.parametrize("times", [1, 10], ids=["once", "ten times"])
@pytest.mark.parametrize("name", REAL_SHELLS)
def test_a_real_shell_gets_what_was_meant_and_runs_nothing(name: str, times: int, tmp_path: Path):
    shell = REAL_SHELLS[name][0]
    generator = random.Random(f"{name} {times}")
    count = CASES if times == 1 else CASES // 5
    cases = [some_case(generator, tmp_path / "cuda", number) for number in range(count)]
    if shell is Shell.TCSH:  # its $path outlives an unset PATH
        cases = [Case(c.exports, c.path or "/usr/bin", c.libraries) for c in cases]
    program = tmp_path / "program"
    program.write_text(script(shell, cases, tmp_path, times), encoding="utf-8", newline="")
    elsewhere = tmp_path / "working folder"
    elsewhere.mkdir()

    ended = subprocess.run(
        [*command(name), str(program)],
        capture_output=True,
        cwd=elsewhere,
        env={"HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "PATH": os.defpath},
        timeout=100,
    )

    assert ended.stderr == b""
    values = ended.stdout.decode().split(END)[:-1]
    assert len(values) == 3 * len(cases)
    for case, *seen in zip(cases, values[::3], values[1::3], values[2::3], strict=True):
        assert tuple(seen) == expected(case), case
    assert not list(elsewhere.iterdir())
