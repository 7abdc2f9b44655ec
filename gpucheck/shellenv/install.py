"""Puts the exports into a shell's start-up files: shows, asks, writes, and looks at the result."""

import difflib
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gpucheck.probes.files import read_bytes
from gpucheck.render.sanitize import clean
from gpucheck.shellenv import atomic_write, shells, startup_file
from gpucheck.shellenv.exports import Exports, LibraryPath, exports
from gpucheck.shellenv.snippet import Shell, render
from gpucheck.snapshot import Snapshot
from gpucheck.usage_error import UsageError

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallRequest:
    """What the user asked `gpucheck env install` or its like for."""

    shell: Shell
    file: Path | None = None  # --file
    cuda: str | None = None
    ld_library_path: LibraryPath = LibraryPath.AUTO
    replaces: bool = False  # --replace
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What is to become of one file."""

    shell: Shell
    original: atomic_write.Original
    content: bytes | None
    old_exports: tuple[startup_file.OldExport, ...] = ()
    #: the same in the files that this one reads in turn
    read_along: tuple[tuple[Path, startup_file.OldExport], ...] = ()

    @property
    def path(self) -> Path:
        return self.original.path

    @property
    def changes(self) -> bool:
        return self.content != self.original.content


def backups() -> Path:
    """Return the folder of the backups, in the state directory of the platform's convention."""
    import platformdirs

    return Path(platformdirs.user_state_dir("gpucheck", appauthor=False)) / "backups"


def is_default(wish: InstallRequest, variables: Mapping[str, str]) -> bool:
    """Tell whether the file that *wish* is about is the one its shell reads by itself."""
    usual = shells.startup_file(wish.shell, variables)
    return wish.file is None or os.path.realpath(wish.file) == os.path.realpath(usual)


def _files(wish: InstallRequest, variables: Mapping[str, str]) -> Iterator[tuple[Path, Shell]]:
    """Yield the files that *wish* is about, with the shell that each is written for."""
    if not wish.shell.has_startup_file:
        raise UsageError(f"{wish.shell.value} has no start-up file: see gpucheck env --shell")
    yield wish.file or shells.startup_file(wish.shell, variables), wish.shell
    if wish.shell is Shell.BASH and is_default(wish, variables):
        login = shells.login_file(variables)
        yield login, Shell.SH if login.name == ".profile" else Shell.BASH


def planned(
    wish: InstallRequest, machine: Snapshot, variables: Mapping[str, str]
) -> tuple[Edit, ...]:
    """Return what installing means for each file.

    A login bash that would not read ~/.bashrc gets the block in its own file too.
    """
    needed = exports(machine, cuda=wish.cuda, ld_library_path=wish.ld_library_path)
    edits: list[Edit] = []
    for number, (path, shell) in enumerate(_files(wish, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        if original is None or (number and not _wants_block(original)):
            continue
        edits.append(_edit(original, shell, wish, needed, variables.get("HOME")))
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
    wish: InstallRequest,
    needed: Exports,
    home: str | None,
) -> Edit:
    content = original.content
    record = startup_file.Record(
        shell=shell.value, cuda=wish.cuda, ld_library_path=wish.ld_library_path.value
    )
    with _naming(original.path):
        old = startup_file.old_exports(content or b"", shell.value)
        lines = {each.line for each in old if each.keeps is None} if wish.replaces else set()
        text = startup_file.install(
            content, render(needed, shell), record, replaced_lines=lines, force=wish.force
        )
    return Edit(
        shell=shell,
        original=original,
        content=text,
        old_exports=old,
        read_along=tuple(_read_along(content or b"", shell, home)),
    )


def _read_along(
    content: bytes, shell: Shell, home: str | None
) -> Iterator[tuple[Path, startup_file.OldExport]]:
    for name in startup_file.sources(content, shell.value, home):
        text = read_bytes(name)
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
    wish: InstallRequest,
    machine: Snapshot,
    variables: Mapping[str, str],
    say: Say,
    agreed: Callable[[], bool],
) -> int:
    """Show what changes, ask, write, and look at new shells; return the exit status."""
    edits = planned(wish, machine, variables)
    show(edits, wish, say)
    changed = [edit for edit in edits if edit.changes]
    if changed:
        if not agreed():
            say("Nothing was changed.\n")
            return 1
        for edit in changed:
            atomic_write.replace(edit.original, edit.content, backups=backups())
            say(f"Wrote {_name(edit.path)}\n")
    needed = exports(machine, cuda=wish.cuda, ld_library_path=wish.ld_library_path)
    return look_at_new_shells(wish, needed, machine, variables, say)


def uninstall(
    wish: InstallRequest, variables: Mapping[str, str], say: Say, agreed: Callable[[], bool]
) -> int:
    """Take the block out of every file that has it; return the exit status."""
    edits: list[Edit] = []
    for number, (path, shell) in enumerate(_files(wish, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        if original is None or original.content is None:
            continue
        with _naming(path):
            content = startup_file.uninstall(original.content, force=wish.force)
        edits.append(Edit(shell=shell, original=original, content=content))
    changed = [edit for edit in edits if edit.changes]
    if not changed:
        say("There is no block of gpucheck to take out.\n")
        return 0
    for edit in changed:
        say(diff(edit))
    if not agreed():
        say("Nothing was changed.\n")
        return 1
    for edit in changed:
        atomic_write.replace(edit.original, edit.content, backups=backups())
        say(f"{'Removed' if edit.content is None else 'Wrote'} {_name(edit.path)}\n")
    return 0


def status(
    wish: InstallRequest,
    facts: Callable[[str | None], Snapshot],
    variables: Mapping[str, str],
    say: Say,
) -> int:
    """Say of each file whether the block is there and current; 1 where one is not.

    *facts* gives the machine as it is seen for a choice of toolkit (--cuda).
    """
    worst = 0
    for number, (path, _) in enumerate(_files(wish, variables)):
        original = _read(path) if number == 0 else _read_if_possible(path)
        content = None if original is None else original.content
        with _naming(path):
            block = None if content is None else startup_file.find(content)
        if number and block is None:
            continue
        record = None if block is None else block.record
        state = startup_file.State.ABSENT
        if block is not None:
            state = startup_file.State.EDITED
        if block is not None and record is not None and not block.is_edited:
            state = _state(content, record, facts(record.cuda))
        say(f"{_name(path)}: {state.value}\n")
        worst |= state is not startup_file.State.CURRENT
    return worst


def _state(
    content: bytes | None, record: startup_file.Record, machine: Snapshot
) -> startup_file.State:
    """Hold the block against what would be written today with the options that it was made with."""
    try:
        mode = LibraryPath(record.ld_library_path)
        needed = exports(machine, cuda=record.cuda, ld_library_path=mode)
        snippet = render(needed, Shell(record.shell))
    except (UsageError, ValueError):  # the toolkit is gone, or an older gpucheck wrote it
        return startup_file.State.OUTDATED
    return startup_file.state(content, snippet)


# -------------------------------------------------------------------------------------- showing


def show(edits: tuple[Edit, ...], wish: InstallRequest, say: Say) -> None:
    """Show the difference for each file, and the hand-written exports in it."""
    for edit in edits:
        say(diff(edit) if edit.changes else f"{_name(edit.path)} has the right block already\n")
    for edit in edits:
        for old in edit.old_exports:
            if old.keeps is not None:
                note = f"edit it yourself, {old.keeps}"
            else:
                note = "goes out of use" if wish.replaces else "--replace puts it out of use"
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
    """Return the difference as `diff -u` would show it."""
    name = _name(edit.path)
    lines = difflib.unified_diff(
        _lines(edit.original.content),
        _lines(edit.content),
        "/dev/null" if edit.original.content is None else name,
        "/dev/null" if edit.content is None else name,
        lineterm="",
    )
    return "".join(f"{_shown(line)}\n" for line in lines)


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


# ----------------------------------------------------------------------------------- new shells


def look_at_new_shells(
    wish: InstallRequest, needed: Exports, machine: Snapshot, variables: Mapping[str, str], say: Say
) -> int:
    """Start the real shell and say what it exports; 1 where it is not what was meant."""
    file = (wish.file or shells.startup_file(wish.shell, variables)).expanduser().absolute()
    wrong = 0
    told_already: tuple[str, ...] | None = None
    say("A new shell sees:\n")
    for start in shells.starts(wish.shell, file, is_default(wish, variables)):
        seen = shells.look(wish.shell, start, variables)
        if seen.variables is None:
            say(f"  ? {start.kind}: {clean(seen.why)}\n")
            continue
        home = seen.variables.get("CUDA_HOME")
        nvcc = shutil.which("nvcc", path=seen.variables.get("PATH", ""))
        is_right = home == needed.cuda_home and _is_in(nvcc, needed)
        sign = "✓" if is_right else "✗" if start.reads_file else "-"
        note = "" if start.reads_file else f" ({wish.shell.value} reads no such file then)"
        reported = f"CUDA_HOME {home or 'unset'}, nvcc {nvcc or 'not found'}"
        say(f"  {sign} {start.kind}: {clean(reported)}{note}\n")
        wrong |= not is_right and start.reads_file
        if start.reads_file and start.kind != "login":
            findings = tuple(_environment_findings(machine, seen.variables))
            for finding in findings if findings != told_already else ():
                say(f"    ! {finding}\n")
            if not findings and told_already is None:
                say("    the doctor's rules about the environment (ENV) are content\n")
            told_already = findings
    say("Open a new shell, or source the file, to have it in this one.\n")
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


def ask() -> bool:
    """Ask on the terminal whether to write.

    Raises Refusal where there is nobody to ask.
    """
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("there is no terminal to ask on: --yes writes without asking")
    sys.stdout.flush()
    print("Write this? [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201 - a question
    return sys.stdin.readline().strip().lower() in ("y", "yes")
