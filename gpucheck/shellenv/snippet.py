"""Renders exports as a snippet that a shell, or a file format, understands."""

import enum
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from gpucheck.shellenv.exports import Exports
from gpucheck.usage_error import UsageError

SYSTEMD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Shell(str, enum.Enum):
    """What the snippet is for; each has a template of its name in `shell/`."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    TCSH = "tcsh"
    SH = "sh"
    KSH = "ksh"
    DOCKERFILE = "dockerfile"
    MODULEFILE = "modulefile"
    SYSTEMD = "systemd"

    @property
    def has_startup_file(self) -> bool:
        return self not in (Shell.DOCKERFILE, Shell.MODULEFILE, Shell.SYSTEMD)


def render(exports: Exports, shell: Shell) -> str:
    """Return the snippet for *shell*, ending in a newline.

    In a template, @CAPITALS@ stand for a quoted path, and @small_letters@ for words in a comment.
    A line is repeated for each path of a list; in a file format a line without its path is left
    out, and in a shell that path is empty.

    Raises Refusal where *shell* has no way to write a path.
    """
    quote = _QUOTES[shell]
    pattern = _PATTERNS.get(shell, quote)
    words = {"version": exports.version, "library_reason": exports.library_reason}
    paths = {
        "CUDA_HOME": exports.cuda_home,
        "BIN": exports.bin_directory,
        "LIBRARIES": exports.library_directory,
        "PATH": ":".join(filter(None, (exports.bin_directory, SYSTEMD_PATH))),
    }
    in_front = dict.fromkeys(filter(None, (exports.bin_directory, exports.library_directory)))
    lists = {"IN_FRONT": tuple(in_front), "OWN": exports.own, "OTHER": exports.others}
    lines: list[str] = []
    for line in template(shell).splitlines():
        names = set(_PLACEHOLDER.findall(line))
        repeated = names & lists.keys()
        if not shell.has_startup_file and any(paths.get(n, "") is None for n in names):
            continue
        values = {name: _comment(text) for name, text in words.items()}
        values |= {name: _quoted(quote, path, shell) for name, path in paths.items()}
        for path in lists[repeated.pop()] if repeated else ("",):
            each = values | dict.fromkeys(lists, pattern(path))
            lines.append(_fill(line, each))
    return "\n".join(lines) + "\n"


@functools.cache
def template(shell: Shell) -> str:
    """Return the template of *shell*: from the wheel, or from the source tree beside the package.

    Raises Refusal where neither has it: the installation is damaged.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "shell", package.parent / "shell"):
        try:
            return (folder / shell.value).read_text(encoding="utf-8")
        except OSError:
            continue
    raise UsageError(f"this installation of gpucheck lacks shell/{shell.value}: install it anew")


_PLACEHOLDER = re.compile(r"@([A-Z_]+|[a-z_]+)@")


def _fill(line: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], line)


def _comment(text: str) -> str:
    """Return *text* fit for a comment: what is no plain letter could end its line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _quoted(quote: Callable[[str], str], path: str | None, shell: Shell) -> str:
    if path is None:
        return "" if shell in (Shell.FISH, Shell.TCSH) else "''"
    return quote(path)


def _posix(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_pattern(text: str) -> str:
    return _fish(re.escape(text))


def _tcsh(text: str) -> str:
    """Quote for tcsh, whose quotes hold neither `!` nor a bare newline.

    A backslash stands outside of them: inside, its meaning hangs on `set backslash_quote`.
    """
    quoted = re.sub(r"['!\\]", lambda found: f"'\\{found[0]}'", text).replace("\n", "\\\n")
    return f"'{quoted}'"


def _tcsh_pattern(text: str) -> str:
    """Quote for the right side of =~, where even quoted wildcards stay wildcards."""
    return _tcsh(re.sub(r"[\[*?]", lambda found: f"[{found[0]}]", text))


def _double(text: str) -> str:
    """Quote as Dockerfiles and systemd's EnvironmentFile do."""
    return '"' + re.sub(r'["\\$`]', lambda found: f"\\{found[0]}", text) + '"'


def _dockerfile(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"{text!r}: a Dockerfile cannot hold a path with control characters")
    return '"' + re.sub(r'["\\$]', lambda found: f"\\{found[0]}", text) + '"'


def _lua(text: str) -> str:
    """Quote for Lua: what could end the string or the line goes as its code in decimal."""
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda found: f"\\{ord(found[0]):03}", text) + '"'


_QUOTES: Mapping[Shell, Callable[[str], str]] = {
    Shell.BASH: _posix,
    Shell.ZSH: _posix,
    Shell.SH: _posix,
    Shell.KSH: _posix,
    Shell.FISH: _fish,
    Shell.TCSH: _tcsh,
    Shell.DOCKERFILE: _dockerfile,
    Shell.MODULEFILE: _lua,
    Shell.SYSTEMD: _double,
}
_PATTERNS = {Shell.FISH: _fish_pattern, Shell.TCSH: _tcsh_pattern}
