"""Answers what is asked of start-up files: which ones a shell reads, what they set, what is wrong.

Rules and remedies ask here; nothing is read but the snapshot.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gpucheck import derived
from gpucheck.knowledge import shells
from gpucheck.snapshot import (
    HomeVariable,
    OwnBlock,
    PathEntry,
    Snapshot,
    StartupFile,
    StartupSetting,
    Unknown,
    value,
)

VARIABLES = ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH")
Line = tuple[StartupFile, StartupSetting]


def is_in(path: str, folder: str) -> bool:
    """Whether *path* is *folder*, or below it."""
    folder = folder.rstrip("/")
    return bool(folder) and (path.rstrip("/") == folder or path.startswith(f"{folder}/"))


def place(file: StartupFile, setting: StartupSetting) -> str:
    """Return where a setting is, as editors and people write it: "~/.bashrc:9"."""
    return f"{file.path}:{setting.line}"


def lines(files: Iterable[StartupFile]) -> Iterator[Line]:
    """Yield each setting of *files* with its file."""
    for file in files:
        if isinstance(file.settings, tuple):
            for setting in file.settings:
                yield file, setting


def files_of_shell(machine: Snapshot) -> tuple[StartupFile, ...]:
    """Return the files that the user's shell reads, with those that they source."""
    return read_by(machine, value(machine.startup_files.files) or ())


def read_by(machine: Snapshot, files: tuple[StartupFile, ...]) -> tuple[StartupFile, ...]:
    """Return those of *files* that the user's shell reads, with those that they source."""
    row = derived.user_shell(machine)
    chosen = {file.path for file in files if shells.reads(row, file.path)}
    # Of its login files a shell reads the first that is there.
    firsts = [f.path for name in row.first_of for f in files if f.path.endswith(f"/{name}")]
    chosen -= {path for path in firsts[1:] if not path.startswith("/etc/")}
    by_path = {file.path: file for file in files}
    waiting = list(chosen)
    while waiting:
        for source in by_path[waiting.pop()].sources:
            if source in by_path and source not in chosen:
                chosen.add(source)
                waiting.append(source)
    return tuple(file for file in files if file.path in chosen)


def set_by(machine: Snapshot, variable: str, text: str = "") -> tuple[Line, ...]:
    """Return the lines that set *variable*; where some of them name *text*, those alone."""
    mine = [
        (file, setting)
        for file, setting in lines(files_of_shell(machine))
        if setting.variable == variable
    ]
    naming = [line for line in mine if text and _names(line[1], text)]
    return tuple(naming or mine)


def _names(setting: StartupSetting, text: str) -> bool:
    if text in setting.text:
        return True
    return isinstance(setting.value, str) and text in setting.value


def cuda_elements(text: str) -> list[str]:
    """Return the elements of a path list that are CUDA's, by their names."""
    return [e for e in text.split(":") if "cuda" in e.lower() and "$" not in e]


# ------------------------------------------------------------------------ what is wrong with them


def faults(machine: Snapshot, *variables: str, path: str = "") -> tuple[str, ...]:
    """Return the codes of what start-up files do wrong with one of *variables*.

    *path*, where it is given, is the path that is missing: gpucheck's own block explains it where
    the block names it.
    """
    found: list[str] = []
    if any(path and overridden_or_gone(block, path) for block in blocks(machine)):
        found.append("ENV034")
    for _, setting in lines(value(machine.startup_files.files) or ()):
        if setting.variable in variables:
            if setting.appends_to_itself:
                found.append("ENV029")
            if setting.mangled is not None:
                found.append("ENV028")
    if any(isinstance(stale(machine, variable), Stale) for variable in variables):
        found.append("ENV027")
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFault:
    """gpucheck's own block in *file*, where it does not do what it was written for."""

    file: StartupFile
    block: OwnBlock
    override: StartupSetting | None = None  # the later line; None: the block's toolkit is gone


def blocks(machine: Snapshot) -> tuple[BlockFault, ...]:
    """Return gpucheck's own blocks whose toolkit is gone, or which a later line overrides."""
    found: list[BlockFault] = []
    for file in value(machine.startup_files.files) or ():
        block = file.block
        if block is None:
            continue
        if block.exists is False:
            found.append(BlockFault(file=file, block=block))
            continue
        override = overriding(machine, file)
        if override is not None:
            found.append(BlockFault(file=file, block=block, override=override))
    return tuple(found)


def overriding(machine: Snapshot, file: StartupFile) -> StartupSetting | None:
    """Return the last line behind gpucheck's block in *file* that names another toolkit instead."""
    block = file.block
    if block is None or not isinstance(block.cuda_home, str):
        return None
    mine = toolkit_named(machine, block.cuda_home)
    for _, setting in reversed(list(lines([file]))):
        if setting.line < block.last_line:
            return None
        if setting.is_conditional or not isinstance(setting.value, str):
            continue
        named = _in_front(setting)
        if named is not None and toolkit_named(machine, named) != mine:
            return setting
        if setting.variable == "CUDA_HOME":
            return None
    return None


def _in_front(setting: StartupSetting) -> str | None:
    """Return the toolkit's path that a line puts into CUDA_HOME, or in front of PATH."""
    text = value(setting.value) or ""
    if setting.variable == "CUDA_HOME":
        return text if text and "$" not in text else None
    if setting.variable != "PATH":
        return None
    first = text.partition("$PATH")[0]
    return next((e for e in cuda_elements(first) if e.rstrip("/").endswith("/bin")), None)


def overridden_or_gone(fault: BlockFault, path: str) -> bool:
    """Whether *path* comes from the block's missing toolkit, or from the line that overrides it."""
    if fault.override is not None:
        home = _in_front(fault.override)
        home = home.removesuffix("/bin") if home is not None else None
    else:
        home = value(fault.block.cuda_home)
    return home is not None and is_in(path, home)


def toolkit_named(machine: Snapshot, path: str) -> str:
    """Return the home of the installed toolkit that *path* is in, else its CUDA folder."""
    path = path.rstrip("/")
    for toolkit in value(machine.toolkits.installed) or ():
        if any(is_in(path, name) for name in (*toolkit.names, toolkit.home)):
            return toolkit.home
    # /usr/local/cuda-12.4/extras/CUPTI/lib64 → /usr/local/cuda-12.4
    parts = path.split("/")
    at = next((n for n, part in enumerate(parts) if "cuda" in part.lower()), len(parts))
    return "/".join(parts[: at + 1])


# --------------------------------------------------------------------------- what this shell lacks


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """A line whose effect this shell does not have."""

    file: StartupFile
    setting: StartupSetting
    wanted: str  # the value, or the element of the list


def stale(machine: Snapshot, variable: str) -> Stale | Unknown | None:
    """Return the line that sets *variable* as this shell does not have it; None: there is none."""
    files = files_of_shell(machine)
    if derived.is_container(machine):
        # Nobody logs into a container: what only a login reads, no shell here has ever read.
        files = tuple(file for file in files if not shells.is_for_logins(file.path))
    mine = [
        (file, setting)
        for file, setting in lines(files)
        if setting.variable == variable and setting.mangled is None
    ]
    if not mine:
        return None
    if variable == "CUDA_HOME":
        return _stale_home(machine, mine)
    environment = machine.environment
    entries = environment.path if variable == "PATH" else environment.ld_library_path
    return missing_elements(entries, mine)


def _stale_home(machine: Snapshot, mine: list[Line]) -> Stale | Unknown | None:
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        return home
    current = home.value.rstrip("/") if isinstance(home, HomeVariable) else None
    unknown: str | None = None
    wanted: dict[str, Line] = {}
    for file, setting in mine:
        if not isinstance(setting.value, str) or "$" in setting.value:
            fact = setting.value
            unknown = fact.why if isinstance(fact, Unknown) else "it depends on what was set before"
        elif setting.value.rstrip("/") == current:
            return None
        elif setting.is_conditional:
            unknown = "it depends on a condition"
        elif setting.value:
            wanted[setting.value.rstrip("/")] = file, setting
    if unknown is not None:
        return Unknown(f"{place(*mine[-1])}: {unknown}")
    if (current is not None and _is_set_otherwise(machine, current)) or len(wanted) != 1:
        return None
    [(text, (file, setting))] = wanted.items()
    return Stale(file=file, setting=setting, wanted=text)


def _is_set_otherwise(machine: Snapshot, home: str) -> bool:
    """Whether an environment manager set CUDA_HOME after the start-up files, on purpose."""
    sources = value(machine.environment.sources) or ()
    if any(source.variable == "CUDA_HOME" and source.kind != "container" for source in sources):
        return True
    prefix = machine.environment.variable("CONDA_PREFIX")
    if isinstance(prefix, str) and is_in(home, prefix):
        return True
    modules = machine.environment.variable("LOADEDMODULES")
    return isinstance(modules, str) and any(
        word in modules.lower() for word in ("cuda", "nvhpc", "nvidia")
    )


def missing_elements(
    entries: tuple[PathEntry, ...] | Unknown | None, mine: Iterable[Line]
) -> Stale | Unknown | None:
    """Return the first line of *mine* that puts an element of CUDA's on a list which lacks it."""
    if isinstance(entries, Unknown):
        return entries
    texts = {entry.text.rstrip("/") for entry in entries or ()}
    texts |= {entry.resolved for entry in entries or () if isinstance(entry.resolved, str)}
    # What a wrong separator joined is there, and useless: ENV032 speaks of it.
    texts |= {part.rstrip("/") for entry in entries or () for part in entry.joined}
    unknown: Unknown | None = None
    for file, setting in mine:
        if isinstance(setting.value, Unknown):
            if "cuda" in setting.text.lower():
                unknown = setting.value
            continue
        if setting.is_conditional or not isinstance(setting.value, str):
            continue
        for element in cuda_elements(setting.value):
            if element.rstrip("/") not in texts:
                return Stale(file=file, setting=setting, wanted=element)
    return unknown
