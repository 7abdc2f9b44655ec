"""The snippets in real shells: hundreds of paths and starting values, one process per shell."""

import os
import random
import re
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
}
PIECES = (
    *("a", "b-c", "lib", "bin", "stubs", " ", "  ", "'", '"', "$", "$HOME", "\\", "\\\\", "!"),
    *("!!", "!a", "\n", "é", "😀", "`", "`touch x`", "$(touch x)", "${x-y}", ";", ";touch x;"),
    *("&", "|", "*", "?", "[a]", "[", "]", "{b,c}", "~", "#", " # ", "(", ")", "<", ">", "\t"),
    *("=", "@", "@OWN@", "@CUDA_HOME@", "^", "%", ",", "-", "--", "-e", "\\n", "\\!", "'\\''"),
)
KNOWN = re.compile(r"/usr/local/cuda(-[0-9]{1,2}|-[0-9]{1,2}\.[0-9])?(/|\Z)")
END = "\n@@ end of value @@\n"


@dataclass(frozen=True)
class Case:
    exports: Exports
    path: str | None
    libraries: str | None


def path_under(generator: random.Random, start: str = "/") -> str:
    pieces = [generator.choice(PIECES) for _ in range(generator.randint(1, 5))]
    return start + "".join(pieces)


def some_list(generator: random.Random, cuda: Exports) -> str | None:
    """A starting value: unset, empty, with empty entries, CUDA's own, and foreign ones."""
    if generator.random() < 0.1:
        return generator.choice((None, "", ":", "::", ":::"))
    home, others = cuda.cuda_home, cuda.others
    entries = []
    for _ in range(generator.randint(1, 12)):
        kind = generator.randint(0, 7)
        if kind == 0:
            entries.append(generator.choice(("", "", ".", "relative", "-n", "-e", "(", "!")))
        elif kind == 1:
            below = ("/bin", "/bin/", "/lib64", "/lib64/stubs", "/lib/x", "/targets/a-b/lib", "/x")
            entries.append(home + generator.choice(below))
        elif kind == 2 and others:
            entries.append(
                generator.choice(others) + generator.choice(("", "/", "/bin", "/extras/lib", "x"))
            )
        elif kind == 3:
            name = generator.choice(
                ("", "-9", "-12", "-9.1", "-12.4", "-samples", "-12-my", "-123", "x")
            )
            entries.append(f"/usr/local/cuda{name}" + generator.choice(("", "/", "/bin", "/lib64")))
        elif kind == 4:
            entries.append(generator.choice(("/usr/bin", "/bin", "/usr/local/bin", "/opt/stubs")))
        else:
            entries.append(path_under(generator))
    return ":".join(entries)


def some_case(generator: random.Random) -> Case:
    home = generator.choice(
        ("/usr/local/cuda-13.0", path_under(generator), path_under(generator, "/opt/cuda"))
    )
    names = (home, "/usr/local/cuda") if generator.random() < 0.5 else (home,)
    exports = Exports(
        cuda_home=home,
        version="13.0",
        bin_directory=None if generator.random() < 0.1 else f"{home}/bin",
        library_directory=f"{home}/targets/x/lib" if generator.random() < 0.5 else None,
        library_reason="because $(touch x) `touch x`",
        own=() if generator.random() < 0.1 else names,
        others=tuple(path_under(generator, "/srv/cuda") for _ in range(generator.randint(0, 2))),
    )
    return Case(exports, some_list(generator, exports), some_list(generator, exports))


def expected(value: str | None, in_front: str | None, cuda: Exports) -> str:
    """What must come of a list, said once more and differently."""
    kept = [in_front] if in_front else []
    for entry in (value or "").split(":"):
        if not entry or entry.removesuffix("/") in (cuda.bin_directory, cuda.library_directory):
            continue
        if is_replaced(entry, cuda.own) or (
            not any(is_below(entry, own) for own in cuda.own)
            and (any(is_below(entry, other) for other in cuda.others) or KNOWN.match(entry))
        ):
            continue
        kept.append(entry)
    return ":".join(kept)


def is_below(entry: str, home: str) -> bool:
    return entry == home or entry.startswith(f"{home}/")


def is_replaced(entry: str, own: tuple[str, ...]) -> bool:
    for home in own:
        rest = entry.removeprefix(f"{home}/")
        if rest == entry:
            continue
        if rest in ("bin", "bin/", "lib", "lib64") or rest.startswith(("lib/", "lib64/")):
            return True
        if rest.startswith("targets/") and ("/lib/" in rest[7:] or rest[7:].endswith("/lib")):
            return True
    return False


def with_dots(value: str | None) -> str | None:
    return None if value is None else ":".join(entry or "." for entry in value.split(":"))


def script(shell: Shell, cases: list[Case], folder: Path, times: int) -> str:
    """A program that sources the snippet of every case *times* over, and shows what came of it."""
    lines = []
    for number, case in enumerate(cases):
        file = folder / f"snippet-{number}"
        file.write_text(snippet.render(case.exports, shell), encoding="utf-8", newline="")
        lines += [setting(shell, "PATH", case.path)]
        lines += [setting(shell, "LD_LIBRARY_PATH", case.libraries)]
        lines += [f"{'.' if shell in (Shell.SH, Shell.KSH) else 'source'} {file}"] * times
        lines += [shown(shell, name) for name in ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH")]
    start = "set echo_style = none\n" if shell is Shell.TCSH else ""
    return start + "\n".join(lines) + "\n"


def setting(shell: Shell, name: str, value: str | None) -> str:
    if shell is Shell.FISH:
        return f"set -e {name}" if value is None else f"set -gx {name} {snippet._fish(value)}"
    if shell is Shell.TCSH:
        return f"unsetenv {name}" if value is None else f"setenv {name} {snippet._tcsh(value)}"
    return f"unset {name}" if value is None else f"export {name}={snippet._posix(value)}"


def shown(shell: Shell, name: str) -> str:
    token = END.strip()
    if shell is Shell.FISH:
        return f'printf "%s\\n%s\\n" "${name}" "{token}"'
    if shell is Shell.TCSH:
        return f'if ( ! $?{name} ) setenv {name} ""\necho ${name}:q\necho "{token}"'
    if name == "LD_LIBRARY_PATH":
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
    cases = [some_case(generator) for _ in range(CASES if times == 1 else CASES // 5)]
    if shell is Shell.FISH:  # it turns an empty entry of PATH into a dot by itself
        cases = [Case(c.exports, with_dots(c.path), c.libraries) for c in cases]
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
    for case, home, path, libraries in zip(
        cases, values[::3], values[1::3], values[2::3], strict=True
    ):
        assert home == case.exports.cuda_home
        assert path == expected(case.path, case.exports.bin_directory, case.exports), case
        assert libraries == expected(
            case.libraries, case.exports.library_directory, case.exports
        ), case
    assert not list(elsewhere.iterdir())
