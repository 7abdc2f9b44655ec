"""Renders exports as the lines that a shell, or a file format, understands."""

import enum
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from gpucheck.knowledge.shells import ShellRow, row_named
from gpucheck.shellenv.exports import Exports
from gpucheck.usage_error import UsageError

SYSTEMD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Shell(str, enum.Enum):
    """What the lines are for: a shell of the one table, or a file format."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    TCSH = "tcsh"
    SH = "sh"
    KSH = "ksh"
    NUSHELL = "nushell"
    DOCKERFILE = "dockerfile"
    MODULEFILE = "modulefile"  # Lua, for Lmod
    TCL = "tcl"  # a modulefile for Environment Modules
    SYSTEMD = "systemd"
    ENVIRONMENT_D = "environment.d"

    @property
    def has_startup_file(self) -> bool:
        return self in _SHELLS

    @property
    def row(self) -> ShellRow:
        """The shell's row of the table; bash's for a file format."""
        return row_named(self.value)

    @property
    def template(self) -> str:
        """The name of its template in `shell/`: ksh reads that of sh."""
        return "sh" if self is Shell.KSH else self.value


#: What has a start-up file; the user's systemd units have one too, though no shell reads it.
_SHELLS = (Shell.BASH, Shell.ZSH, Shell.FISH, Shell.TCSH, Shell.SH, Shell.KSH, Shell.ENVIRONMENT_D)
_WHOLE_PATHS = (Shell.TCSH, Shell.ENVIRONMENT_D)  # no $CUDA_HOME/bin in their lines


def render(exports: Exports, shell: Shell) -> str:
    """Return the lines for *shell*, ending in a newline.

    In a template, @CAPITALS@ are replaced by a quoted path, and @small_letters@ by words in a
    comment. A line without its path is left out, and so is a shell's comment on LD_LIBRARY_PATH
    where the lines set it.

    Raises UsageError where *shell* has no way to write a path.
    """
    quote = _QUOTES[shell]
    paths = {
        "CUDA_HOME": exports.cuda_home,
        "BIN": exports.bin_directory,
        "LIBRARIES": exports.library_directory,
        "LIBRARIES_PATTERN": exports.library_directory,
        "PATH": ":".join(filter(None, (exports.bin_directory, SYSTEMD_PATH))),
    }
    words = {"version": exports.version, "library_reason": exports.library_reason}
    values = {name: _comment(text) for name, text in words.items()}
    values |= {name: quote(path) for name, path in paths.items() if path is not None}
    if shell.has_startup_file and shell not in _WHOLE_PATHS:
        for name in ("BIN", "LIBRARIES"):
            if paths[name] is not None:
                values[name] = _below_home(paths[name] or "", exports.cuda_home, shell)
    if exports.library_directory is not None:
        values["LIBRARIES_PATTERN"] = _tcsh_pattern(exports.library_directory)
        if shell.has_startup_file:
            del values["library_reason"]
    lines = [
        _fill(line, values)
        for line in template(shell).splitlines()
        if all(name in values for name in _PLACEHOLDER.findall(line))
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def template(shell: Shell) -> str:
    """Return the template of *shell*: from the wheel, or from the source tree next to the package.

    Raises UsageError where neither has it: the installation is damaged.
    """
    package = Path(__file__).parent.parent
    for folder in (package / "shell", package.parent / "shell"):
        try:
            return (folder / shell.template).read_text(encoding="utf-8")
        except OSError:
            continue
    raise UsageError(f"this installation of gpucheck lacks shell/{shell.template}: reinstall it")


_PLACEHOLDER = re.compile(r"@([A-Z_]+|[a-z_]+)@")
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./+-]+")


def _fill(line: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], line)


def _comment(text: str) -> str:
    """Return *text* fit for a comment: what is no plain letter could end its line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _below_home(path: str, home: str, shell: Shell) -> str:
    """Return *path* by $CUDA_HOME where it is below, as a person would write it."""
    rest = path.removeprefix(f"{home}/")
    if rest != path and _PLAIN_PATH.fullmatch(rest):
        return f"$CUDA_HOME/{rest}" if shell is Shell.FISH else f'"$CUDA_HOME/{rest}"'
    return _QUOTES[shell](path)


def _posix(text: str) -> str:
    return text if _PLAIN_PATH.fullmatch(text) else "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    if _PLAIN_PATH.fullmatch(text):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _tcsh(text: str) -> str:
    """Quote for tcsh, whose quotes hold neither `!` nor a bare newline.

    A backslash is outside of them: inside, its meaning depends on `set backslash_quote`.
    """
    if _PLAIN_PATH.fullmatch(text):
        return text
    quoted = re.sub(r"['!\\]", lambda found: f"'\\{found[0]}'", text).replace("\n", "\\\n")
    return f"'{quoted}'"


def _tcsh_pattern(text: str) -> str:
    """Quote for the right side of !~, where even quoted wildcards stay wildcards."""
    return _tcsh(re.sub(r"[\[*?]", lambda found: f"[{found[0]}]", text))


def _nushell(text: str) -> str:
    """Quote for Nushell, whose double quotes expand nothing but what follows a backslash."""
    return '"' + re.sub(r'["\\]', lambda found: f"\\{found[0]}", text) + '"'


def _double(text: str) -> str:
    """Quote as systemd's EnvironmentFile does."""
    return '"' + re.sub(r'["\\$`]', lambda found: f"\\{found[0]}", text) + '"'


def _environment_d(text: str) -> str:
    r"""Quote for environment.d(5): quotes and `\` are read as a shell does, then $ is expanded.

    So `\$` would be expanded all the same; `$$` is a plain dollar (replace_env_full() of systemd).
    """
    if "\n" in text:
        raise UsageError(f"{text!r}: environment.d cannot hold a path with a newline")
    if _PLAIN_PATH.fullmatch(text):
        return text
    quoted = re.sub(r'["\\]', lambda found: f"\\{found[0]}", text)
    return '"' + quoted.replace("$", "$$") + '"'


def _dockerfile(text: str) -> str:
    if not text.isprintable():
        raise UsageError(f"{text!r}: a Dockerfile cannot hold a path with control characters")
    return '"' + re.sub(r'["\\$]', lambda found: f"\\{found[0]}", text) + '"'


def _lua(text: str) -> str:
    """Quote for Lua: what could end the string or the line goes as its code in decimal."""
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda found: f"\\{ord(found[0]):03}", text) + '"'


def _tcl(text: str) -> str:
    """Quote for Tcl, in double quotes: what it would expand goes behind a backslash."""
    return '"' + re.sub(r'["\\$\[\]{}]', lambda found: f"\\{found[0]}", text) + '"'


_QUOTES: Mapping[Shell, Callable[[str], str]] = {
    Shell.BASH: _posix,
    Shell.ZSH: _posix,
    Shell.SH: _posix,
    Shell.KSH: _posix,
    Shell.FISH: _fish,
    Shell.TCSH: _tcsh,
    Shell.NUSHELL: _nushell,
    Shell.DOCKERFILE: _dockerfile,
    Shell.MODULEFILE: _lua,
    Shell.TCL: _tcl,
    Shell.SYSTEMD: _double,
    Shell.ENVIRONMENT_D: _environment_d,
}
