"""Puts the exports into a shell's start-up files: shows, asks, writes, and checks the result.

It is long because what one file of a user goes through is read in one place, from plan to proof.
"""

import difflib
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from gpucheck import console, startup_lines
from gpucheck.probes import startup_files
from gpucheck.probes.apart import ACCESS_SECONDS, within
from gpucheck.probes.files import read_bytes
from gpucheck.render.sanitize import clean
from gpucheck.shellenv import atomic_write, records, shells, startup_file
from gpucheck.shellenv.exports import Exports, LibraryPath, exports
from gpucheck.shellenv.snippet import Shell, render
from gpucheck.snapshot import Snapshot
from gpucheck.usage_error import UsageError
from gpucheck.wording import listed, ranges

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What the user asked `gpucheck env install` or its like for."""

    shell: Shell
    file: Path | None = None  # --file
    cuda: str | None = None
    ld_library_path: LibraryPath = LibraryPath.AUTO
    replaces: bool | None = None  # --replace, --no-replace; None: ask
    is_system: bool = False  # --system
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What is to become of one file."""

    shell: Shell
    original: atomic_write.Original
    content: bytes | None
    installed: startup_file.Installed | None = None  # None: the block is taken out
    old_exports: tuple[startup_file.OldExport, ...] = ()
    #: the same in the files that this one reads in turn
    read_along: tuple[tuple[Path, startup_file.OldExport], ...] = ()

    @property
    def path(self) -> Path:
        return self.original.path

    @property
    def changes(self) -> bool:
        return self.content != self.original.content

    @property
    def replaceable(self) -> tuple[int, ...]:
        """The lines that --replace would comment out."""
        return tuple(old.line for old in self.old_exports if old.keeps is None)


def touched_paths(request: InstallRequest, variables: Mapping[str, str]) -> tuple[Path, ...]:
    """Return all that is looked at or written, without looking at any of it."""
    names = ("HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME")
    paths = [Path(variables[name]) for name in names if variables.get(name)]
    if request.file is not None:
        paths.append(request.file)
    elif home := variables.get("HOME"):
        folder = Path(variables.get("ZDOTDIR") or home)
        paths += [Path(home) / ".local/state/gpucheck"]
        paths += [folder / name for name in request.shell.row.user_files if "*" not in name]
    return tuple(paths)


def is_default(request: InstallRequest, variables: Mapping[str, str]) -> bool:
    """Whether the file that the request is about is the one its shell reads by itself."""
    if request.is_system or request.file is None:
        return not request.is_system
    try:
        usual = shells.startup_file(request.shell, variables)
    except UsageError:  # no home of one's own: --file names some other file
        return False
    return os.path.realpath(request.file) == os.path.realpath(usual)


def _files(request: InstallRequest, variables: Mapping[str, str]) -> Iterator[tuple[Path, Shell]]:
    """Yield the files that the request is about, with the shell that each is written for."""
    if not request.shell.has_startup_file:
        raise UsageError(f"{request.shell.value} has no start-up file: see gpucheck env --shell")
    if request.is_system:
        yield shells.system_file(request.shell), _for_everybody(request.shell)
        return
    yield request.file or shells.startup_file(request.shell, variables), request.shell
    if request.shell is Shell.BASH and is_default(request, variables):
        login = shells.login_file(variables)
        yield login, Shell.SH if login.name == ".profile" else Shell.BASH


def _for_everybody(shell: Shell) -> Shell:
    """Return whose language /etc/profile.d wants: every shell of sh's kind reads the same file."""
    is_like_sh = shell.row.dialect == "sh" and shell is not Shell.ENVIRONMENT_D
    return Shell.SH if is_like_sh else shell


def planned(
    request: InstallRequest, machine: Snapshot, variables: Mapping[str, str]
) -> tuple[Edit, ...]:
    """Return what installing means for each file.

    A login bash that would not read ~/.bashrc gets the block in its own file too.
    """
    needed = exports(machine, cuda=request.cuda, ld_library_path=request.ld_library_path)
    edits: list[Edit] = []
    for number, (path, shell) in enumerate(_files(request, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        if original is None or (number and not _wants_block(original)):
            continue
        edits.append(_edit(original, shell, request, needed, variables.get("HOME")))
    return tuple(edits)


def _read(path: Path) -> atomic_write.Original:
    return atomic_write.read(path.expanduser().absolute())


def _read_if_possible(path: Path) -> atomic_write.Original | None:
    try:
        return _read(path)
    except UsageError:
        return None


def _wants_block(login: atomic_write.Original) -> bool:
    has_block = bool(login.content and startup_file.find(login.content))
    return has_block or not shells.leads_to_bashrc(login.content)


def _edit(
    original: atomic_write.Original,
    shell: Shell,
    request: InstallRequest,
    needed: Exports,
    home: str | None,
) -> Edit:
    content = original.content
    record = startup_file.Record(
        shell=shell.value, cuda=request.cuda, ld_library_path=request.ld_library_path.value
    )
    with _naming(original.path):
        old = startup_file.old_exports(content or b"", shell.value)
        lines = {each.line for each in old if each.keeps is None} if request.replaces else set()
        installed = startup_file.install(
            content,
            render(needed, shell),
            record,
            records=records.load(original.target),
            replaced_lines=lines,
            force=request.force,
        )
    return Edit(
        shell=shell,
        original=original,
        content=installed.text,
        installed=installed,
        old_exports=old,
        read_along=tuple(_read_along(content or b"", shell, home)),
    )


def _read_along(
    content: bytes, shell: Shell, home: str | None
) -> Iterator[tuple[Path, startup_file.OldExport]]:
    for name in startup_file.sources(content, shell.value, home):
        text = within(ACCESS_SECONDS, name, partial(read_bytes, name))
        if isinstance(text, bytes):
            for old in startup_file.old_exports(text, shell.value):
                yield Path(name), old


class _naming:  # noqa: N801 - reads as a word: with _naming(path)
    """Puts the file's name before a refusal that is about its text."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UsageError):
            raise UsageError(f"{self._path}: {error}") from None


# ------------------------------------------------------------------------------------- commands


def install(
    request: InstallRequest,
    machine: Snapshot,
    variables: Mapping[str, str],
    say: Say,
    agreed: Callable[[str], bool],
) -> int:
    """Show what changes, ask, write, and look at new shells; return the exit status."""
    edits = planned(request, machine, variables)
    if request.replaces is None and (lines := _replaceable(edits)):
        answer = console.ask(f"Comment out {lines} too?", default=True)
        if answer is None:
            say(
                f"{lines} set CUDA's variables by hand: --replace comments them out, "
                "--no-replace leaves them. Nothing was written.\n"
            )
            return 1
        request = replace(request, replaces=answer)
        edits = planned(request, machine, variables)
    show(edits, request, say)
    changed = [edit for edit in edits if edit.changes]
    if changed:
        if not agreed(f"Write {_and(changed)}?"):
            say("Nothing was changed.\n")
            return 1
        for edit in changed:
            _write(edit, say)
    needed = exports(machine, cuda=request.cuda, ld_library_path=request.ld_library_path)
    return look_at_new_shells(request, needed, machine, variables, say)


def _replaceable(edits: tuple[Edit, ...]) -> str:
    """Return the hand-written lines that could be commented out: "lines 116-118 of ~/.bashrc"."""
    parts = [
        f"{'line' if len(edit.replaceable) == 1 else 'lines'} {ranges(edit.replaceable)} of "
        f"{_short(edit.path)}"
        for edit in edits
        if edit.replaceable
    ]
    return listed(parts)


def _and(edits: list[Edit]) -> str:
    return listed([_short(edit.path) for edit in edits])


def _write(edit: Edit, say: Say) -> None:
    """Write one file, and first what undoes that."""
    if edit.installed is not None:
        records.keep(edit.original.target, edit.installed.digest, edit.installed.record)
    folder = records.state_directory() / "backups"
    note = atomic_write.replace(edit.original, edit.content, backups=folder)
    done = "Removed" if edit.content is None else "Wrote"
    say(f"{done} {_name(edit.path)}{f'; {note}' if note else ''}\n")


def uninstall(
    request: InstallRequest, variables: Mapping[str, str], say: Say, agreed: Callable[[str], bool]
) -> int:
    """Take the block out of every file that has it; return the exit status."""
    edits: list[Edit] = []
    for number, (path, shell) in enumerate(_files(request, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        if original is None or original.content is None:
            continue
        with _naming(path):
            content = startup_file.uninstall(
                original.content, records.load(original.target), force=request.force
            )
        edits.append(Edit(shell=shell, original=original, content=content))
    changed = [edit for edit in edits if edit.changes]
    if not changed:
        say("There is no block of gpucheck to remove.\n")
        return 0
    for edit in changed:
        say(diff(edit))
    if not agreed(f"Write {_and(changed)}?"):
        say("Nothing was changed.\n")
        return 1
    for edit in changed:
        _write(edit, say)
    return 0


def status(
    request: InstallRequest,
    facts: Callable[[str | None], Snapshot],
    variables: Mapping[str, str],
    say: Say,
) -> int:
    """Say of each file whether the block is there, current and in effect; 1 where one is not.

    *facts* gives the machine as it is seen for a choice of toolkit (--cuda).
    """
    worst = 0
    for number, (path, shell) in enumerate(_files(request, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        content = None if original is None else original.content
        if original is None or (number and (content is None or startup_file.find(content) is None)):
            continue
        with _naming(path):
            state, more = _state(original, shell, facts)
        say(f"{_name(path)}: {state.value}{more}\n")
        worst |= state is not startup_file.State.CURRENT
    return worst


def _state(
    original: atomic_write.Original, shell: Shell, facts: Callable[[str | None], Snapshot]
) -> tuple[startup_file.State, str]:
    """Compare the block with what would be written today with the options that it was made with."""
    known = records.load(original.target)
    block = None if original.content is None else startup_file.find(original.content)
    if original.content is None or block is None:
        return startup_file.State.ABSENT, ""
    if block.is_edited(known):
        return startup_file.State.EDITED, ""
    record = block.record(known)
    machine = facts(record.cuda if record is not None else None)
    outdated, needed = _outdated(original.content, shell, record, machine, known)
    if outdated is not startup_file.State.CURRENT:
        return outdated, needed
    file = startup_files.parse(
        original.content.decode("utf-8", "replace"), str(original.path), shell.row.dialect
    )
    later = startup_lines.overriding(machine, file)
    if later is not None:
        line = clean(f"{original.path}:{later.line}")
        return (
            startup_file.State.OVERRIDDEN,
            f" by {line}; `gpucheck env install --replace` comments that line out",
        )
    return startup_file.State.CURRENT, ""


def _outdated(
    content: bytes,
    shell: Shell,
    record: startup_file.Record | None,
    machine: Snapshot,
    known: Mapping[str, startup_file.Record],
) -> tuple[startup_file.State, str]:
    """Say whether the block is as it would be written now, and else from what to what."""
    _, own = startup_files.without_block(content.decode("utf-8", "surrogateescape"))
    before = own.cuda_home if own is not None and isinstance(own.cuda_home, str) else "unknown"
    try:
        mode = LibraryPath(record.ld_library_path if record is not None else "auto")
        needed = exports(
            machine, cuda=record.cuda if record is not None else None, ld_library_path=mode
        )
        snippet = render(needed, Shell(record.shell) if record is not None else shell)
    except (UsageError, ValueError) as error:  # its toolkit is gone
        return startup_file.State.OUTDATED, clean(f": CUDA_HOME {before}; {error}")
    state = startup_file.state(content, snippet, known)
    if state is startup_file.State.CURRENT:
        return state, ""
    what = "its lines" if before == needed.cuda_home else f"CUDA_HOME {before} → {needed.cuda_home}"
    return state, clean(f": {what}; `gpucheck env install` writes it again")


# -------------------------------------------------------------------------------------- showing


def show(edits: tuple[Edit, ...], request: InstallRequest, say: Say) -> None:
    """Show the difference for each file, and the hand-written exports in it."""
    for edit in edits:
        say(diff(edit) if edit.changes else f"{_name(edit.path)} has the right block already\n")
    for edit in edits:
        for old in edit.old_exports:
            if old.keeps is not None:
                note = f"edit it yourself, {old.keeps}"
            else:
                note = "is commented out" if request.replaces else "--replace comments it out"
            say(_pointed_out(edit.path, old, note))
        for path, old in edit.read_along:
            say(
                _pointed_out(path, old, f"edit it yourself, it is in a file that {edit.path} reads")
            )


def _pointed_out(path: Path, old: startup_file.OldExport, note: str) -> str:
    fault = f" ({old.mangled})" if old.mangled else ""
    line = clean(f"{path}:{old.line}: {old.text}{fault}")
    return f"{line}\n    a hand-written export: {clean(note)}\n"


def diff(edit: Edit) -> str:
    """Return the difference as `diff -u` would show it, in color on a terminal."""
    name = _name(edit.path)
    lines = difflib.unified_diff(
        _lines(edit.original.content),
        _lines(edit.content),
        "/dev/null" if edit.original.content is None else name,
        "/dev/null" if edit.content is None else name,
        lineterm="",
    )
    is_colored = _wants_color()
    return "".join(f"{_colored(_shown(line)) if is_colored else _shown(line)}\n" for line in lines)


def _wants_color() -> bool:
    return console.is_terminal(sys.stdout) and not os.environ.get("NO_COLOR")


def _colored(line: str) -> str:
    color = {"+": "32", "-": "31", "@": "36"}.get(line[:1])
    return line if color is None or line[:3] in ("+++", "---") else f"\033[{color}m{line}\033[0m"


def _lines(content: bytes | None) -> list[str]:
    lines = (content or b"").decode("utf-8", "replace").split("\n")
    if lines[-1]:
        lines[-1] += "  (no newline at the end)"
    else:
        lines.pop()
    return lines


def _shown(line: str) -> str:
    indent = len(line[1:]) - len(line[1:].lstrip(" \t"))
    return line[: 1 + indent] + clean(line[1 + indent :])


def _name(path: Path) -> str:
    return clean(str(path))


def _short(path: Path) -> str:
    """Return the name of *path* as people say it in a question: ~/.bashrc."""
    home = os.environ.get("HOME", "").rstrip("/")
    name = str(path)
    return clean(f"~{name[len(home) :]}" if home and name.startswith(f"{home}/") else name)


# ----------------------------------------------------------------------------------- new shells


def look_at_new_shells(
    request: InstallRequest,
    needed: Exports,
    machine: Snapshot,
    variables: Mapping[str, str],
    say: Say,
) -> int:
    """Start the real shell and say what it exports; 1 where it is not what was meant."""
    path, shell = next(_files(request, variables))
    file = path.expanduser().absolute()
    if os.geteuid() == 0 and file.stat().st_uid != 0:
        say("Not tried in a new shell: root does not run another user's start-up file.\n")
        return 0
    wrong = 0
    shown_already: tuple[str, ...] | None = None
    starts = shells.starts(shell, file, is_default(request, variables))
    if starts:
        say("Seen from now on:\n" if shell is Shell.ENVIRONMENT_D else "A new shell sees:\n")
    for start in starts:
        seen = shells.look(shell, start, variables)
        if seen.variables is None:
            say(f"  ? {start.kind}: {clean(seen.why)}\n")
            continue
        home = seen.variables.get("CUDA_HOME")
        nvcc = shells.which(("nvcc",), seen.variables.get("PATH", ""))
        is_right = home == needed.cuda_home and _is_in(nvcc, needed)
        sign = "✓" if is_right else "✗" if start.reads_file else "-"
        note = "" if start.reads_file else f" ({shell.value} does not read the file then)"
        where = "its nvcc" if nvcc == f"{home}/bin/nvcc" else f"nvcc {nvcc or 'not found'}"
        reported = f"CUDA_HOME {home or 'unset'}, {where}"
        say(f"  {sign} {start.kind}: {clean(reported)}{note}\n")
        wrong |= not is_right and start.reads_file
        if start.reads_file and start.kind != "login":
            findings = tuple(_environment_findings(machine, seen.variables))
            for finding in findings if findings != shown_already else ():
                say(f"    ! {finding}\n")
            if not findings and shown_already is None:
                say("    no ENV findings\n")
            shown_already = findings
    if shell is Shell.ENVIRONMENT_D:
        say("For units that start from now on:\n    systemctl --user daemon-reload\n")
        return int(wrong)
    word = "." if shell in (Shell.SH, Shell.KSH) else "source"
    say(f"To use it in this shell:\n    {word} {shlex.quote(clean(str(file)))}\n")
    return int(wrong)


def _is_in(nvcc: str | None, needed: Exports) -> bool:
    wanted = Path(needed.bin_directory or f"{needed.cuda_home}/bin") / "nvcc"
    if nvcc is None:
        return not wanted.exists()
    return os.path.realpath(nvcc) == os.path.realpath(wanted)


def _environment_findings(machine: Snapshot, variables: Mapping[str, str]) -> Iterator[str]:
    """Yield what the doctor's ENV family would complain about in a shell with *variables*."""
    from gpucheck.report import examine
    from gpucheck.rule import Severity
    from gpucheck.shellenv import facts

    report = examine(facts.with_environment(machine, variables), select=["ENV"])
    for finding in report.findings:
        if finding.severity is not Severity.INFO:
            yield clean(f"{finding.code} {finding.title}: {finding.saw}")


def ask_to_write(question: str) -> bool:
    """Ask whether to write.

    Raises UsageError where there is nobody to ask.
    """
    answer = console.ask(question, default=False)
    if answer is None:
        raise UsageError("there is no terminal to ask on: --yes writes without asking")
    return answer
