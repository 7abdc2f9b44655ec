"""Says which file each shell reads, and starts new shells to see what they export."""

import os
import pwd
import secrets
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gpucheck.probes import calling_shell
from gpucheck.probes.apart import ACCESS_SECONDS, within
from gpucheck.probes.files import read_text
from gpucheck.shellenv import user_units
from gpucheck.shellenv.snippet import Shell
from gpucheck.usage_error import UsageError

ZSH_SECONDS = 5.0


def of_user(variables: Mapping[str, str]) -> Shell:
    """Return the shell that the user works in: whose start-up file is to be written."""
    return Shell(calling_shell.of_user(calling_shell.callers(), variables) or "bash")


def reading_us(variables: Mapping[str, str]) -> Shell:
    """Return the shell that reads what we print: the nearest above us."""
    return Shell(calling_shell.nearest(calling_shell.callers(), variables) or "bash")


def home_of(variables: Mapping[str, str]) -> Path:
    """Return the user's home: $HOME, else the password file's.

    Raises UsageError where neither knows one, and where root has the home of another user.
    """
    try:
        home = Path(variables.get("HOME") or Path("~").expanduser())
    except RuntimeError:
        raise UsageError("HOME is not set, and this user has no home: give --file") from None
    if not home.is_absolute():
        raise UsageError(f"HOME is {str(home)!r}, which is no absolute path: give --file")
    _refuse_another_users(home)
    return home


def _refuse_another_users(home: Path) -> None:
    if os.geteuid() != 0:
        return
    try:
        owner = home.stat().st_uid
    except OSError:
        return
    if owner != 0 and pwd.getpwuid(0).pw_dir != str(home):
        raise UsageError(
            f"HOME is {home}, which belongs to another user (uid {owner}): run this without sudo, "
            "or name the file by --file"
        )


def startup_file(shell: Shell, variables: Mapping[str, str]) -> Path:
    """Return the file into which the exports for *shell* go by default."""
    home = home_of(variables)
    if shell is Shell.BASH:
        return home / ".bashrc"
    if shell is Shell.ZSH:
        return (_zdotdir(variables, home) or home) / ".zshrc"
    if shell is Shell.FISH:
        folder = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
        return folder / "fish" / "conf.d" / "gpucheck.fish"
    if shell is Shell.TCSH:
        # tcsh reads ~/.cshrc only as long as there is no ~/.tcshrc: a new one would hide it
        has_only_cshrc = (home / ".cshrc").exists() and not (home / ".tcshrc").exists()
        return home / (".cshrc" if has_only_cshrc else ".tcshrc")
    if shell is Shell.ENVIRONMENT_D:
        folder = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
        return folder / "environment.d" / "60-cuda.conf"
    return home / ".profile"


def system_file(shell: Shell) -> Path:
    """Return the file by which the exports reach every user's *shell*."""
    if shell is Shell.FISH:
        return Path("/etc/fish/conf.d/gpucheck.fish")
    if shell is Shell.ENVIRONMENT_D:
        return Path("/etc/environment.d/60-cuda.conf")
    return Path(f"/etc/profile.d/gpucheck.{'csh' if shell is Shell.TCSH else 'sh'}")


def _zdotdir(variables: Mapping[str, str], home: Path) -> Path | None:
    """Return where zsh has its files: $ZDOTDIR, which a .zshenv may set, so that zsh is asked."""
    if variables.get("ZDOTDIR"):
        return Path(variables["ZDOTDIR"])
    files = (home / ".zshenv", Path("/etc/zsh/zshenv"), Path("/etc/zshenv"))
    texts = [read_text(file) for file in files]
    if not any(isinstance(text, str) and "ZDOTDIR" in text for text in texts):
        return None
    seen = look(
        Shell.ZSH, Start(kind="not interactive", arguments=()), variables, ZSH_SECONDS, "ZDOTDIR"
    )
    found = (seen.variables or {}).get("ZDOTDIR", "")
    return Path(found) if found.startswith("/") else None


def login_file(variables: Mapping[str, str]) -> Path:
    """Return the file that a login bash reads: the first that is there, else ~/.profile."""
    home = home_of(variables)
    files = [home / name for name in (".bash_profile", ".bash_login", ".profile")]
    return next((file for file in files if file.exists()), files[-1])


def leads_to_bashrc(content: bytes | None) -> bool:
    """Say whether a login file reads ~/.bashrc in turn, by a plain look."""
    lines = (content or b"").split(b"\n")
    return any(b"bashrc" in line.partition(b"#")[0] for line in lines)


# ------------------------------------------------------------------------------------ new shells


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A way to start a shell, and whether such a shell reads the start-up file."""

    kind: str  # "interactive"
    arguments: tuple[str, ...]
    prefix: str = ""  # a command to run first
    reads_file: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a new shell exports; `variables` is None where it did not start, and `why` says why."""

    start: Start
    variables: Mapping[str, str] | None
    why: str = ""


def starts(shell: Shell, file: Path, is_default: bool) -> tuple[Start, ...]:
    """Return the ways to start *shell* that `env install` tries."""
    name = shlex.quote(str(file))
    if shell is Shell.ENVIRONMENT_D:
        return (Start(kind="a systemd user unit", arguments=()),) if is_default else ()
    if not is_default or not shell.has_startup_file:
        word = "." if shell in (Shell.SH, Shell.KSH) else "source"
        return (Start(kind="a shell that reads it", arguments=(), prefix=f"{word} {name}"),)
    interactive = Start(kind="interactive", arguments=("-i",))
    if shell is Shell.BASH:
        # sshd's and rshd's bash reads ~/.bashrc by itself, interactive or not
        remote = Start(kind="over ssh, not interactive", arguments=(), prefix=f". {name}")
        return (interactive, Start(kind="login", arguments=("-l",)), remote)
    if shell is Shell.ZSH:
        return (interactive, Start(kind="not interactive", arguments=(), reads_file=False))
    if shell in (Shell.FISH, Shell.TCSH):
        return (interactive, Start(kind="not interactive", arguments=()))
    return (
        Start(kind="login", arguments=("-l",)),
        Start(kind="not login", arguments=(), reads_file=False),
    )


_CARRIED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "XDG_CONFIG_HOME", "ZDOTDIR")
_PLAIN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def which(programs: Sequence[str], path: str) -> str | None:
    """Return the first of *programs* that *path* leads to; it forks.

    NoAnswerError: an element of *path* is on a file system that does not answer.
    """

    def found() -> str | None:
        names = (shutil.which(name, path=path) for name in programs)
        return next(filter(None, names), None)

    return within(ACCESS_SECONDS, "PATH", found)


def look(
    shell: Shell,
    start: Start,
    variables: Mapping[str, str],
    deadline_seconds: float = 10.0,
    exported: str = "",
) -> Seen:
    """Start a new *shell* as a fresh session would, and return what it exports.

    *exported* is a variable to export first, so that it is seen even where the shell does not.
    """
    from gpucheck.probes import child

    if shell is Shell.ENVIRONMENT_D:
        units_get, why = user_units.variables(variables, deadline_seconds)
        return Seen(start=start, variables=units_get, why=why)
    path = f"{_PLAIN_PATH}:{variables.get('PATH', '')}"
    program = which(shell.row.programs, path)
    show = shutil.which("env", path=_PLAIN_PATH)
    if program is None or show is None:
        return Seen(start=start, variables=None, why=f"{shell.value} is not installed")
    fresh = {name: variables[name] for name in _CARRIED if name in variables}
    fresh |= {"PATH": _PLAIN_PATH, "SHELL": program, "TERM": "dumb"}
    token = f"gpucheck-{secrets.token_hex(8)}"
    command = f"echo {token}; {show} -0"
    if exported:
        command = f"export {exported}; {command}"
    if start.prefix:
        command = f"{start.prefix}; {command}"
    ended = child.run(
        [program, *start.arguments, "-c", command],
        deadline_seconds=deadline_seconds,
        environment=fresh,
    )
    _, found, after = ended.stdout.partition(f"{token}\n".encode())
    if not found:
        words = ended.stderr.decode("utf-8", "replace").strip().splitlines()
        why = ended.why or "it said nothing"
        return Seen(start=start, variables=None, why=f"{why}: {words[-1]}" if words else why)
    pairs = (entry.partition(b"=") for entry in after.split(b"\0") if b"=" in entry)
    return Seen(
        start=start, variables={os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}
    )
