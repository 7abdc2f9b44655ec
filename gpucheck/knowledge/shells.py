"""The one table of shells: their programs, the start-up files that each reads, and their language.

Sources: the INVOCATION section of bash(1), STARTUP/SHUTDOWN FILES of zsh(1), the manuals dash(1),
ksh(1), mksh(1), tcsh(1) and fish(1), and pam_env(8) for /etc/environment.
"""

from dataclasses import dataclass
from typing import Literal

#: How a start-up file is to be read; "environment" is /etc/environment, which is no shell's.
Dialect = Literal["sh", "csh", "fish", "environment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShellRow:
    """One kind of shell. File names are in the order in which the shell reads them."""

    name: str  # what reports and --shell call it
    programs: tuple[str, ...]
    dialect: Dialect
    system_files: tuple[str, ...]  # a last part with a * stands for all such files
    user_files: tuple[str, ...]  # below the home
    login_files: tuple[str, ...] = ()  # those of them that only a login shell reads
    first_of: tuple[str, ...] = ()  # of these login files, only the first that exists is read


_ENVIRONMENT = "/etc/environment"  # read by PAM at every login, before any shell starts
_PROFILE = ("/etc/profile", "/etc/profile.d/*.sh")
_BASH_LOGIN = (".bash_profile", ".bash_login", ".profile")

SHELLS: tuple[ShellRow, ...] = (
    ShellRow(
        name="bash",
        programs=("bash", "rbash"),
        dialect="sh",
        system_files=(_ENVIRONMENT, *_PROFILE, "/etc/bash.bashrc", "/etc/bashrc"),
        user_files=(*_BASH_LOGIN, ".bashrc"),
        login_files=(_ENVIRONMENT, *_PROFILE, *_BASH_LOGIN),
        first_of=_BASH_LOGIN,
    ),
    ShellRow(
        name="zsh",
        programs=("zsh",),
        dialect="sh",
        system_files=(
            _ENVIRONMENT,
            *("/etc/zshenv", "/etc/zsh/zshenv", "/etc/zprofile", "/etc/zsh/zprofile"),
            *("/etc/zshrc", "/etc/zsh/zshrc"),
        ),
        user_files=(".zshenv", ".zprofile", ".zshrc", ".zlogin"),
        login_files=(
            *(_ENVIRONMENT, "/etc/zprofile", "/etc/zsh/zprofile", ".zprofile", ".zlogin"),
        ),
    ),
    ShellRow(
        name="ksh",
        programs=("ksh", "ksh93", "mksh", "lksh", "oksh"),
        dialect="sh",
        system_files=(_ENVIRONMENT, *_PROFILE),
        user_files=(".profile", ".kshrc", ".mkshrc"),
        login_files=(_ENVIRONMENT, *_PROFILE, ".profile"),
    ),
    ShellRow(
        name="sh",
        programs=("sh", "dash", "ash"),
        dialect="sh",
        system_files=(_ENVIRONMENT, *_PROFILE),
        user_files=(".profile",),
        login_files=(_ENVIRONMENT, *_PROFILE, ".profile"),
    ),
    ShellRow(
        name="tcsh",
        programs=("tcsh", "csh", "bsd-csh"),
        dialect="csh",
        system_files=(_ENVIRONMENT, "/etc/csh.cshrc", "/etc/csh.login", "/etc/profile.d/*.csh"),
        user_files=(".tcshrc", ".cshrc", ".login"),
        login_files=(_ENVIRONMENT, "/etc/csh.login", ".login"),
        first_of=(".tcshrc", ".cshrc"),
    ),
    ShellRow(
        name="fish",
        programs=("fish",),
        dialect="fish",
        system_files=(_ENVIRONMENT, "/etc/fish/config.fish", "/etc/fish/conf.d/*.fish"),
        user_files=(".config/fish/conf.d/*.fish", ".config/fish/config.fish"),
        login_files=(_ENVIRONMENT,),
    ),
)
_BY_PROGRAM = {program: row for row in SHELLS for program in row.programs}
_BASH = SHELLS[0]


def shell_of(program: str | None) -> ShellRow | None:
    """Return the shell that *program* ("mksh", "-bash") is; None for what is no shell here."""
    return _BY_PROGRAM.get((program or "").rpartition("/")[2].removeprefix("-"))


def row_named(name: str | None) -> ShellRow:
    """Return the row of the shell or program called *name*; bash's where it is not known."""
    return shell_of(name) or _BASH


def system_files() -> tuple[tuple[str, Dialect], ...]:
    """Return each system-wide start-up file of any shell once, in reading order."""
    found = {
        file: "environment" if file == _ENVIRONMENT else row.dialect
        for row in SHELLS
        for file in row.system_files
    }
    return tuple(found.items())


def user_files() -> tuple[tuple[str, Dialect], ...]:
    """Return each start-up file of any shell below a home once, in reading order."""
    found: dict[str, Dialect] = {file: row.dialect for row in SHELLS for file in row.user_files}
    return tuple(found.items())


def dialect_of_file(path: str) -> Dialect:
    """Return the language of the start-up file at *path*, by its name."""
    if path == _ENVIRONMENT:
        return "environment"
    name = path.rpartition("/")[2]
    if name.endswith(".fish"):
        return "fish"
    row = next((row for row in SHELLS for file in row.user_files if file.endswith(name)), None)
    if name.endswith(".csh") or name.startswith("csh.") or (row and row.dialect == "csh"):
        return "csh"
    return "sh"


def reads(row: ShellRow, path: str) -> bool:
    """Whether a shell of this kind reads *path* when it starts, at the latest at a login."""
    if path.startswith("/etc/"):
        return any(_is(path, file) for file in row.system_files)
    return any(_is(path, f"/{file}") for file in row.user_files)


def is_for_logins(path: str) -> bool:
    """Whether only a login reads *path*, in every shell that reads it at all."""
    mine = [row for row in SHELLS if reads(row, path)]
    return bool(mine) and all(
        any(_is(path, file if file[0] == "/" else f"/{file}") for file in row.login_files)
        for row in mine
    )


def _is(path: str, pattern: str) -> bool:
    """Whether *path* is, or ends in, *pattern*."""
    folder, _, last = pattern.rpartition("/")
    if last.startswith("*"):
        above, _, name = path.rpartition("/")
        return above.endswith(folder) and name.endswith(last[1:])
    return path == pattern if pattern.startswith("/etc/") else path.endswith(pattern)
