"""Knows the shells: which one called us, which file each reads, and how to start a new one."""

import os
import pwd
import secrets
import shlex
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpucheck.shellenv.snippet import Shell
from gpucheck.usage_error import UsageError

_PROGRAMS = {
    Shell.BASH: ("bash", "rbash"),
    Shell.ZSH: ("zsh",),
    Shell.FISH: ("fish",),
    Shell.TCSH: ("tcsh", "csh", "bsd-csh"),
    Shell.SH: ("sh", "dash", "ash"),
    Shell.KSH: ("ksh", "ksh93", "mksh", "lksh", "oksh"),
}
_NAMES = {name: shell for shell, names in _PROGRAMS.items() for name in names}
_ANCESTORS_AT_MOST = 32


def calling(variables: Mapping[str, str], proc: Path = Path("/proc")) -> Shell:
    """Return the shell that we were called from: the nearest parent that is one, else $SHELL's."""
    for name in _ancestors(proc, os.getppid()):
        if name in _NAMES:
            return _NAMES[name]
    named = Path(variables.get("SHELL") or _login_shell()).name
    return _NAMES.get(named, Shell.BASH)


def _ancestors(proc: Path, pid: int) -> Iterator[str]:
    """Yield the names of the programs that called us, the nearest first."""
    for _ in range(_ANCESTORS_AT_MOST):
        try:
            text = (proc / str(pid) / "stat").read_text(errors="replace")
        except OSError:
            return
        name, _, rest = text.partition("(")[2].rpartition(")")
        try:  # a script's process is named after the script
            program = (proc / str(pid) / "exe").readlink().name
        except OSError:
            program = name
        yield name if name == "sh" or program == "busybox" else program
        fields = rest.split()
        if len(fields) < 2 or not fields[1].isdigit() or fields[1] == "0":
            return
        pid = int(fields[1])


def _login_shell() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return ""


def home_of(variables: Mapping[str, str]) -> Path:
    """Return the user's home: $HOME, else the password file's.

    Raises Refusal where neither knows one.
    """
    try:
        return Path(variables.get("HOME") or Path("~").expanduser())
    except RuntimeError:
        raise UsageError("HOME is not set, and this user has no home: give --file") from None


def startup_file(shell: Shell, variables: Mapping[str, str]) -> Path:
    """Return the file into which the exports for *shell* go by default."""
    home = home_of(variables)
    if shell is Shell.BASH:
        return home / ".bashrc"
    if shell is Shell.ZSH:
        return Path(variables.get("ZDOTDIR") or home) / ".zshrc"
    if shell is Shell.FISH:
        folder = Path(variables.get("XDG_CONFIG_HOME") or home / ".config")
        return folder / "fish" / "conf.d" / "gpucheck.fish"
    if shell is Shell.TCSH:
        # tcsh reads ~/.cshrc only as long as there is no ~/.tcshrc: a new one would hide it
        has_only_cshrc = (home / ".cshrc").exists() and not (home / ".tcshrc").exists()
        return home / (".cshrc" if has_only_cshrc else ".tcshrc")
    return home / ".profile"


def login_file(variables: Mapping[str, str]) -> Path:
    """Return the file that a login bash reads: the first that is there, else ~/.profile."""
    home = home_of(variables)
    files = [home / name for name in (".bash_profile", ".bash_login", ".profile")]
    return next((file for file in files if file.exists()), files[-1])


def leads_to_bashrc(content: bytes | None) -> bool:
    """Tell whether a login file reads ~/.bashrc in turn, by a plain look."""
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
    if not is_default or shell in (Shell.DOCKERFILE, Shell.MODULEFILE, Shell.SYSTEMD):
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


def look(
    shell: Shell, start: Start, variables: Mapping[str, str], deadline_seconds: float = 10.0
) -> Seen:
    """Start a new *shell* as a fresh session would, and return what it exports."""
    from gpucheck.probes import child

    path = f"{_PLAIN_PATH}:{variables.get('PATH', '')}"
    found_programs = (shutil.which(name, path=path) for name in _PROGRAMS[shell])
    program = next(filter(None, found_programs), None)
    show = shutil.which("env", path=_PLAIN_PATH)
    if program is None or show is None:
        return Seen(start=start, variables=None, why=f"{shell.value} is not installed")
    fresh = {name: variables[name] for name in _CARRIED if name in variables}
    fresh |= {"PATH": _PLAIN_PATH, "SHELL": program, "TERM": "dumb"}
    token = f"gpucheck-{secrets.token_hex(8)}"
    command = f"echo {token}; {show} -0"
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
