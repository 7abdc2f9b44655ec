"""Rules about the lines of shell start-up files: ENV026 to ENV031 and ENV034."""

import shlex
from collections.abc import Iterable, Iterator
from itertools import pairwise

from gpucheck import derived
from gpucheck.conditions import uses_cuda
from gpucheck.knowledge import shells
from gpucheck.remedies import variables
from gpucheck.rule import Answers, NotChecked, Remedy, Severity, Symptom, command, known, rule
from gpucheck.snapshot import (
    CARRIAGE_RETURN,
    Snapshot,
    StartupFile,
    StartupSetting,
    Unknown,
    value,
)
from gpucheck.startup_lines import (
    VARIABLES,
    BlockFault,
    Stale,
    blocks,
    cuda_elements,
    lines,
    place,
    read_by,
    stale,
    toolkit_named,
)


def _unreadable(files: Iterable[StartupFile]) -> Iterator[NotChecked]:
    for file in files:
        if isinstance(file.settings, Unknown):
            yield NotChecked.because(file.settings, file.path)


def _rewritten(machine: Snapshot, text: str, file: StartupFile, setting: StartupSetting) -> Remedy:
    """Return how to correct one line: by gpucheck's own edit where it fits, else by hand."""
    by_hand = Remedy(
        f"{text}, in {place(file, setting)}",
        steps=(variables.edit(machine, file.path, setting.line),),
    )
    install = variables.install_replacing(machine, (setting.variable,))
    if install is None:
        return by_hand
    return Remedy(by_hand.text, by_hand.steps, (install,))


# ------------------------------------------------------------------------------- between the files


def _is_toolkit(machine: Snapshot, home: str) -> bool:
    """Whether *home* is a toolkit by its name, or one that is installed."""
    name = home.rpartition("/")[2].lower()
    if name == "cuda" or (name.startswith("cuda-") and name[5:6].isdigit()):
        return True
    return any(toolkit.home == home for toolkit in value(machine.toolkits.installed) or ())


@rule("ENV026", Severity.WARNING, "Start-up files disagree on where CUDA is", when=uses_cuda)
def startup_files_disagree(machine: Snapshot) -> Answers:
    """Which value you get depends on which files your shell reads, and in which order.

    A login shell, a new terminal, an ssh command and a batch job read different ones, so the same
    command uses different toolkits in different places. Keep the lines in one file and let the
    others read it (`. ~/.bashrc`).
    """
    files = yield from known(machine.startup_files.files)
    mine = read_by(machine, files or ())
    yield from _unreadable(mine)
    reaches = {file.path: set(file.sources) for file in mine}
    for variable in VARIABLES:
        last: dict[str, tuple[StartupFile, StartupSetting, frozenset[str]]] = {}
        for file, setting in lines(mine):
            if setting.variable == variable and not setting.is_conditional:
                homes = _toolkits_of(machine, setting)
                if homes:
                    last[file.path] = file, setting, homes
        values = list(last.values())
        for one, other in pairwise(values):
            if one[2] & other[2] or _is_joined(one[0].path, other[0].path, reaches):
                continue
            yield Symptom(
                saw="; ".join(
                    f"{place(file, setting)} has `{setting.text}`" for file, setting, _ in values
                ),
                remedy=Remedy(
                    "Keep one of the lines and remove the others",
                    alternatives=tuple(
                        Remedy(
                            f"Remove {place(file, setting)}",
                            steps=(variables.edit(machine, file.path, setting.line),),
                        )
                        for file, setting, _ in values
                    ),
                ),
                subject=variable,
            )
            break


def _toolkits_of(machine: Snapshot, setting: StartupSetting) -> frozenset[str]:
    """Return the homes of the toolkits that a line names."""
    if not isinstance(setting.value, str) or not setting.value:
        return frozenset()
    if setting.variable == "CUDA_HOME":
        if "$" in setting.value:
            return frozenset()
        return frozenset({toolkit_named(machine, setting.value)})
    homes = {toolkit_named(machine, element) for element in cuda_elements(setting.value)}
    return frozenset(home for home in homes if _is_toolkit(machine, home))


def _is_joined(one: str, other: str, reaches: dict[str, set[str]]) -> bool:
    """Whether one file reads the other, at once or through further ones."""
    for start, goal in ((one, other), (other, one)):
        seen, waiting = {start}, [start]
        while waiting:
            for path in reaches.get(waiting.pop(), ()):
                if path == goal:
                    return True
                if path not in seen:
                    seen.add(path)
                    waiting.append(path)
    return False


@rule(
    "ENV027",
    Severity.WARNING,
    "A start-up file sets what this shell does not have",
    caused_by=("ENV033",),
    when=uses_cuda,
)
def shell_is_stale(machine: Snapshot) -> Answers:
    """The file was changed after this shell started, or this kind of shell does not read it.

    Start-up files are read once, when a shell starts. Open a new terminal, or read the file in
    this one with `. ~/.bashrc`; a file such as ~/.profile is read at login alone. A shell that
    is not interactive, as in an ssh command, a service or a batch job, may not read the file, or
    not to its end (ENV030).

    Values that only running the file would show are not checked, nor are lines that depend on a
    condition.
    """
    files = yield from known(machine.startup_files.files)
    yield from _unreadable(read_by(machine, files or ()))
    for variable in VARIABLES if files is not None else ():
        found = stale(machine, variable)
        if isinstance(found, Unknown):
            yield NotChecked.because(found, variable)
        elif found is not None:
            yield Symptom(
                saw=_what_is_stale(machine, variable, found),
                remedy=Remedy(
                    "Log out and in again, or read the file in this shell"
                    if shells.is_for_logins(found.file.path)
                    else "Open a new shell, or read the file in this one",
                    steps=(variables.read_again(machine, found.file.path),),
                ),
                subject=variable,
            )


def _what_is_stale(machine: Snapshot, variable: str, found: Stale) -> str:
    where = place(found.file, found.setting)
    if variable != "CUDA_HOME":
        return f"{where} puts {found.wanted} on {variable}; this shell's lacks it"
    home = value(machine.environment.cuda_home)
    now = "not set" if home is None else home.value.rstrip("/")
    return f"{where} sets CUDA_HOME to {found.wanted}; in this shell it is {now}"


# ------------------------------------------------------------------------------------- single lines


@rule("ENV028", Severity.ERROR, "A start-up file has a mangled export", when=uses_cuda)
def export_is_mangled(machine: Snapshot) -> Answers:
    """The line does not set the variable that it means to set, so every new shell lacks it.

    The shell wants exactly `export NAME=value`: one space after export, none around the `=`, and
    straight quotes. Lines copied from web pages and word processors lose the space or bring curly
    quotes, which become part of the value.
    """
    files = yield from known(machine.startup_files.files)
    yield from _unreadable(files or ())
    for file, setting in lines(files or ()):
        if setting.mangled is not None:
            yield Symptom(
                saw=f"{place(file, setting)} has `{setting.text}`: {value(setting.mangled)}",
                remedy=_written_right(machine, file, setting),
                subject=place(file, setting),
            )


def _written_right(machine: Snapshot, file: StartupFile, setting: StartupSetting) -> Remedy:
    if setting.mangled == CARRIAGE_RETURN:
        return Remedy(
            f"Give {file.path} the line ends of Linux, and open a new shell",
            (
                command(
                    r"sed -i --follow-symlinks 's/\r$//' {path}", path=file.path, lasts="permanent"
                ),
            ),
        )
    right = corrected(machine, file.path, setting)
    return _rewritten(machine, f"Write `{right}`", file, setting)


def corrected(machine: Snapshot, path: str, setting: StartupSetting) -> str:
    """Return the line that was meant, in the language of the file at *path*."""
    name, meant = setting.variable, _meant(setting)
    best = derived.recommended_home(machine) or derived.DEFAULT_LINK
    if not meant:
        ending = {"PATH": "/bin", "LD_LIBRARY_PATH": "/lib64"}.get(name, "")
        meant = f"{shlex.quote(f'{best}{ending}')}"
        if name == "PATH":
            meant += ":$PATH"
    match shells.dialect_of_file(path):
        case "fish":
            return f"set -gx {name} {meant.replace(':', ' ') if name != 'CUDA_HOME' else meant}"
        case "csh":
            return f"setenv {name} {meant}"
        case "environment":
            return f"{name}={meant}"
        case _:
            if name == "LD_LIBRARY_PATH":
                for old in (":$LD_LIBRARY_PATH", ":${LD_LIBRARY_PATH}"):
                    meant = meant.replace(old, "${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}")
            return f"export {name}={meant}"


_CURLY = str.maketrans("“”„‟″‘’‚‛′", "\"\"\"\"\"'''''")


def _meant(setting: StartupSetting) -> str:
    """Return the value that a mangled line shows; "" where it cannot be determined."""
    text = setting.text.translate(_CURLY)
    _, found, rest = text.partition(setting.variable)
    rest = rest.strip()
    if not found or (rest.startswith("=") and not rest[1:].strip()):
        return ""
    rest = rest[1:].strip() if rest.startswith("=") else rest
    try:
        words = shlex.split(rest, comments=True)
    except ValueError:
        return ""
    if not words:
        return ""
    if setting.variable == "CUDA_HOME":
        meant = words[0] if len(words) == 1 else " ".join(words)
        return meant if "$" not in meant and " " not in meant else ""
    joined = "".join(words)  # a space slipped in between `:` and what follows
    return joined if joined and " " not in joined else ""


@rule("ENV029", Severity.ERROR, "A start-up file appends CUDA_HOME to itself", when=uses_cuda)
def home_is_appended(machine: Snapshot) -> Answers:
    """CUDA_HOME is one folder and no list: with a `:` in it, no toolkit is found by it.

    The line was written after the pattern of PATH. Each new shell inside a shell makes it longer.
    Set CUDA_HOME to one path, and extend PATH by `$CUDA_HOME/bin`.
    """
    files = yield from known(machine.startup_files.files)
    yield from _unreadable(files or ())
    for file, setting in lines(files or ()):
        if setting.appends_to_itself:
            best = derived.recommended_home(machine) or derived.DEFAULT_LINK
            yield Symptom(
                saw=f"{place(file, setting)} has `{setting.text}`",
                remedy=_rewritten(
                    machine, f"Write `export CUDA_HOME={shlex.quote(best)}`", file, setting
                ),
                subject=place(file, setting),
            )


@rule(
    "ENV030", Severity.INFO, "The CUDA exports do not reach non-interactive shells", when=uses_cuda
)
def exports_come_too_late(machine: Snapshot) -> Answers:
    """Ssh commands, cron and batch jobs leave .bashrc before the lines that set CUDA's variables.

    Most distributions' .bashrc ends near its top for shells that are not interactive (`case $- in
    *i*) ;; *) return;; esac`). What is below that line is for terminals alone. Move the exports
    above it; `gpucheck env install` puts them there.
    """
    files = yield from known(machine.startup_files.files)
    for file in files or ():
        if not file.path.endswith("/.bashrc"):
            continue
        yield from _unreadable([file])
        mine = [setting for _, setting in lines([file]) if _is_about_cuda(setting)]
        late = [setting for setting in mine if setting.after_early_exit]
        early = {setting.variable for setting in mine if not setting.after_early_exit}
        if file.block is None and any(setting.variable not in early for setting in late):
            numbers = ", ".join(str(setting.line) for setting in late)
            yield Symptom(
                saw=f"{file.path} ends at line {file.early_exit_line} for such shells; "
                f"the CUDA exports are at line {numbers}",
                remedy=_rewritten(
                    machine, f"Move the exports above line {file.early_exit_line}", file, late[0]
                ),
                subject=file.path,
            )


def _is_about_cuda(setting: StartupSetting) -> bool:
    return setting.mangled is None and (
        setting.variable == "CUDA_HOME" or "cuda" in setting.text.lower()
    )


@rule(
    "ENV031",
    Severity.WARNING,
    "A start-up file extends LD_LIBRARY_PATH without a guard",
    when=uses_cuda,
)
def append_is_unguarded(machine: Snapshot) -> Answers:
    """Where LD_LIBRARY_PATH was unset, the line leaves an empty element: the current directory.

    `/x/lib:$LD_LIBRARY_PATH` becomes `/x/lib:` in a fresh shell, and the loader then takes
    libraries from whatever folder you are in. Write the `:` so that it comes only with something
    behind it: `/x/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}`.
    """
    files = yield from known(machine.startup_files.files)
    yield from _unreadable(files or ())
    for file, setting in lines(files or ()):
        if setting.unguarded:
            yield Symptom(
                saw=f"{place(file, setting)} has `{setting.text}`",
                remedy=_rewritten(
                    machine,
                    "Write `${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}` for `:$LD_LIBRARY_PATH`",
                    file,
                    setting,
                ),
                subject=place(file, setting),
            )


# ----------------------------------------------------------------------------- gpucheck's own block


@rule(
    "ENV034",
    Severity.WARNING,
    "gpucheck's own block in a start-up file has no effect",
    when=uses_cuda,
)
def own_block_has_no_effect(machine: Snapshot) -> Answers:
    """The exports that `gpucheck env install` wrote name a toolkit that is gone, or are overridden.

    The block is quiet where its toolkit does not exist, so that new shells have no CUDA_HOME. A
    later line of the file that sets CUDA_HOME by hand takes the block's value away again.
    `gpucheck env status` says the same of each file.
    """
    files = yield from known(machine.startup_files.files)
    yield from _unreadable(files or ())
    for fault in blocks(machine):
        yield Symptom(
            saw=_what_is_wrong(fault),
            remedy=_installed_again(machine, fault),
            subject=fault.file.path,
        )


def _what_is_wrong(fault: BlockFault) -> str:
    block = f"{fault.file.path}:{fault.block.line} sets CUDA_HOME to {value(fault.block.cuda_home)}"
    if fault.override is None:
        return f"{block}, which does not exist"
    return f"{block}, and line {fault.override.line} overrides it: `{fault.override.text}`"


def _installed_again(machine: Snapshot, fault: BlockFault) -> Remedy:
    if derived.recommended_home(machine) is None and fault.override is None:
        return Remedy(
            "Remove the block: no toolkit that would do is installed",
            steps=(command("gpucheck env uninstall", lasts="permanent"),),
        )
    if fault.override is None:
        return Remedy(
            "Write the block again",
            steps=(command("gpucheck env install", lasts="permanent"),),
            verify=command("gpucheck env status"),
        )
    return Remedy(
        f"Comment out line {fault.override.line}; `gpucheck env uninstall` undoes it",
        steps=(command("gpucheck env install --replace", lasts="permanent"),),
        verify=command("gpucheck env status"),
    )
