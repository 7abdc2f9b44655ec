"""Rules about environment variables and the start-up files that set them."""

import os.path
import shlex
from collections.abc import Iterator
from itertools import pairwise

from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    CudaInit,
    Gpu,
    HomeVariable,
    PathEntry,
    Snapshot,
    StartupFile,
    StartupSetting,
    Unknown,
)
from gpucheck.versions import version_tuple

_ELSEWHERE = NotApplicable(why="no NVIDIA GPU, no CUDA toolkit and no CUDA variable here")
_NO_HOME = NotApplicable(why="CUDA_HOME is not set")
_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_")


def is_concerned(machine: Snapshot) -> bool:
    """Whether this machine has anything to do with CUDA; where that is not known, it may have."""
    host, environment = machine.host, machine.environment
    if host.pci_gpus or host.is_wsl is True or host.tegra or machine.toolkits.installed:
        return True  # an Unknown counts: it is no empty tuple
    if isinstance(machine.nvml.count, int) and machine.nvml.count > 0:
        return True
    variables = environment.variables
    return isinstance(variables, Unknown) or any(
        variable.name.startswith(_PREFIXES) for variable in variables
    )


def _good_home(machine: Snapshot) -> HomeVariable | None:
    """Return CUDA_HOME where it is a toolkit; None where another rule complains of it, or unset."""
    home = machine.environment.cuda_home
    if not isinstance(home, HomeVariable) or not isinstance(home.resolved, str):
        return None
    return home if home.has_nvcc is True or home.has_cudart is True else None


def _home_doubt(machine: Snapshot) -> NotChecked | NotApplicable:
    """Say why there is no good CUDA_HOME to compare with."""
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        return NotChecked(why=home.why)
    if home is None:
        return _NO_HOME
    for fact in (home.resolved, home.has_nvcc, home.has_cudart):
        if isinstance(fact, Unknown):
            return NotChecked(why=fact.why)
    return NotApplicable(why="CUDA_HOME is no toolkit")


def _best_toolkit(machine: Snapshot) -> str | None:
    """Return the name of the toolkit to point CUDA_HOME at: the default one, else the newest."""
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        return None
    usable = [toolkit for toolkit in installed if isinstance(toolkit.nvcc, str)]
    if not usable:
        return None
    default = machine.toolkits.default

    def order(home: str, version: object) -> tuple[bool, tuple[int, ...]]:
        return home == default, version_tuple(version) if isinstance(version, str) else ()

    best = max(usable, key=lambda toolkit: order(toolkit.home, toolkit.version))
    return min(best.names, key=len) if best.names else best.home


def _export_home(machine: Snapshot) -> tuple[str, ...]:
    best = _best_toolkit(machine)
    return (f"export CUDA_HOME={shlex.quote(best)}",) if best is not None else ()


def _dangling_cause(machine: Snapshot, path: str) -> tuple[str, ...]:
    """Return the codes of what explains that *path* is not there."""
    causes: list[str] = []
    home = machine.environment.cuda_home
    if isinstance(home, HomeVariable) and _is_in(path, home.value) and path != home.value:
        if malformation(home.value) is not None:
            causes.append("ENV003")
        if home.resolved is None:
            causes.append("ENV002")
    dangling = machine.toolkits.dangling
    if isinstance(dangling, tuple) and any(_is_in(path, link) for link in dangling):
        causes.append("CUD005")
    return tuple(causes)


def _startup_causes(machine: Snapshot, *variables: str) -> tuple[str, ...]:
    """Return the codes of what a start-up file does wrong with one of *variables*."""
    causes: list[str] = []
    files = machine.startup_files.files
    for _, setting in _settings(files if isinstance(files, tuple) else ()):
        if setting.variable in variables:
            if setting.appends_to_itself:
                causes.append("ENV029")
            if setting.mangled is not None:
                causes.append("ENV028")
    for answer in shell_is_stale(machine):
        if isinstance(answer, Symptom) and answer.subject in variables:
            causes.append("ENV027")
    return tuple(dict.fromkeys(causes))


def _set_by(machine: Snapshot, variable: str, value: str) -> str:
    """Return the file and line that set *variable* to this value; "" where none is known to."""
    files = machine.startup_files.files
    for file, setting in _settings(files if isinstance(files, tuple) else ()):
        if setting.variable == variable and setting.value == value:
            return f"{file.path}:{setting.line}"
    return ""


def _is_in(path: str, folder: str) -> bool:
    folder = folder.rstrip("/")
    return bool(folder) and (path.rstrip("/") == folder or path.startswith(f"{folder}/"))


# -------------------------------------------------------------------------------------- CUDA_HOME


@rule("ENV001", Severity.INFO, "CUDA_HOME is not set")
def home_is_unset(machine: Snapshot) -> Answers:
    """Building CUDA extensions finds the toolkit by CUDA_HOME; running PyTorch does not need it.

    Without it, torch's extension builder takes CUDA_PATH, then the parent of the first `nvcc` on
    PATH, then /usr/local/cuda, which may be another toolkit than you mean. Wheels of PyTorch bring
    their own CUDA libraries and work without any toolkit.
    """
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        yield NotChecked(why=home.why)
        return
    if home is not None:
        return
    installed = yield from known(machine.toolkits.installed)
    if installed is None:
        return
    best = _best_toolkit(machine)
    if best is None:
        yield NotApplicable(why="no toolkit with a compiler is installed")
        return
    yield Symptom(
        saw=f"CUDA_HOME is not set; {best} holds a toolkit.",
        fix="Set it if you build CUDA extensions; `gpucheck env` prints the exports.",
        explained_by=_startup_causes(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
        commands=_export_home(machine),
    )


@rule("ENV002", Severity.ERROR, "CUDA_HOME points to nothing", caused_by=("ENV003",))
def home_is_missing(machine: Snapshot) -> Answers:
    """Whatever builds against CUDA_HOME fails, because there is nothing at that path.

    Usually the toolkit was upgraded or removed and the variable kept the old folder, or a link
    such as /usr/local/cuda leads to a folder that is gone. Extension builds say "No such file or
    directory: '…/bin/nvcc'" or cannot find cuda_runtime.h.
    """
    home = yield from known(machine.environment.cuda_home)
    if home is None:
        if machine.environment.cuda_home is None:
            yield _NO_HOME
        return
    if isinstance(home.resolved, Unknown):
        yield NotChecked(why=home.resolved.why, subject="CUDA_HOME")
    elif home.resolved is None:
        dangling = machine.toolkits.dangling
        is_link = isinstance(dangling, tuple) and any(_is_in(home.value, d) for d in dangling)
        commands = _export_home(machine)
        line = _set_by(machine, "CUDA_HOME", home.value)
        too = f", here and in {line}" if line else ""
        yield Symptom(
            saw=f"CUDA_HOME is {home.value}, and nothing is there.",
            fix=f"Point it at a toolkit that exists{too}."
            if commands
            else f"Unset it{too}: no toolkit is here.",
            subject="CUDA_HOME",
            commands=commands or ("unset CUDA_HOME",),
            explained_by=("CUD005",) if is_link else _startup_causes(machine, "CUDA_HOME"),
        )


def malformation(value: str) -> str | None:
    """Say what is wrong with the form of a CUDA_HOME, None where it is an absolute path."""
    if value != value.strip():
        return "has blanks around it"
    if value[0] in "\"'`“”‘’" or value[-1] in "\"'`“”‘’":
        return "has quotes around it"
    if ":" in value:
        return "holds a `:`, and only one folder may stand in it"
    if value.startswith("~"):
        return "holds a `~` that no shell expanded"
    if "$" in value:
        return "holds a `$` that no shell expanded"
    if not value.startswith("/"):
        return "is not an absolute path"
    bare = value.rstrip("/")
    for ending in ("/bin/nvcc", "/bin", "/lib64"):
        if bare.endswith(ending):
            return f"ends in {ending}; it must name the toolkit's own folder"
    return None


def _corrected(value: str, home: str | None) -> str:
    """Return the CUDA_HOME that was probably meant."""
    value = value.strip().strip("\"'`“”‘’").strip()
    parts = [part for part in value.split(":") if part.startswith("/")]
    value = parts[0] if parts else value
    bare = value.rstrip("/")
    for ending in ("/bin/nvcc", "/bin", "/lib64"):
        if bare.endswith(ending):
            bare = bare.removesuffix(ending)
            break
    return bare if bare.startswith("/") and "$" not in bare else home or ""


@rule("ENV003", Severity.ERROR, "CUDA_HOME is malformed")
def home_is_malformed(machine: Snapshot) -> Answers:
    """CUDA_HOME must be one absolute path, the toolkit's own folder; programs add /bin and /lib64.

    It is not a list like PATH, and it does not name `bin` or `nvcc`. A `~` or `$` in it was quoted
    so that no shell expanded it; quotes around it have become part of the value. A `/` at the end
    does no harm.
    """
    home = yield from known(machine.environment.cuda_home)
    if home is None:
        if machine.environment.cuda_home is None:
            yield _NO_HOME
        return
    wrong = malformation(home.value)
    if wrong is None:
        return
    meant = _corrected(home.value, _best_toolkit(machine))
    yield Symptom(
        saw=f"CUDA_HOME is {home.value!r}: it {wrong}.",
        fix="Set it to the toolkit's own folder.",
        explained_by=_startup_causes(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
        commands=(f"export CUDA_HOME={shlex.quote(meant)}",) if meant else (),
    )


@rule("ENV004", Severity.ERROR, "CUDA_HOME is not a CUDA toolkit", caused_by=("ENV003",))
def home_is_no_toolkit(machine: Snapshot) -> Answers:
    """CUDA_HOME names a folder that holds neither a compiler nor CUDA's runtime library.

    A toolkit has bin/nvcc, or at least libcudart in lib64, lib or targets/*/lib. What is there may
    be a driver's folder, the parent of several toolkits, or what an uninstaller left behind.
    """
    home = yield from known(machine.environment.cuda_home)
    if home is None:
        if machine.environment.cuda_home is None:
            yield _NO_HOME
        return
    if home.resolved is None:
        yield NotApplicable(why="nothing is there", subject="CUDA_HOME")
        return
    if home.has_nvcc is True or home.has_cudart is True:
        return
    for fact in (home.resolved, home.has_nvcc, home.has_cudart):
        if isinstance(fact, Unknown):
            yield NotChecked(why=fact.why, subject="CUDA_HOME")
            return
    yield Symptom(
        saw=f"CUDA_HOME is {_reach(home)}: no bin/nvcc and no libcudart in it.",
        fix="Point it at a toolkit.",
        explained_by=_startup_causes(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
        commands=_export_home(machine) or ("unset CUDA_HOME",),
    )


def _reach(home: HomeVariable) -> str:
    """Return the value, and where its links lead if that is elsewhere."""
    if isinstance(home.resolved, str) and home.resolved != home.value.rstrip("/"):
        return f"{home.value} (which is {home.resolved})"
    return home.value


def _version(version: object) -> str:
    return f"CUDA {version}" if isinstance(version, str) else "of unknown version"


@rule(
    "ENV005",
    Severity.WARNING,
    "CUDA_HOME and nvcc belong to different toolkits",
    caused_by=("ENV026",),
)
def home_is_not_the_compilers(machine: Snapshot) -> Answers:
    """A build may compile with one toolkit's nvcc and take headers and libraries of the other.

    CMake finds the first `nvcc` on PATH; torch's extension builder goes by CUDA_HOME. When the two
    differ in their major version, what is built usually does not link or does not load; that makes
    it an error. Put `$CUDA_HOME/bin` first on PATH.
    """
    home = _good_home(machine)
    if home is None:
        yield _home_doubt(machine)
        return
    entries = yield from known(machine.environment.path)
    first = next((e for e in entries or () if e.has_nvcc is True), None)
    if first is None:
        if isinstance(machine.environment.path, Unknown):
            return
        yield NotApplicable(why="no nvcc is on PATH")
        return
    if isinstance(first.toolkit, Unknown):
        yield NotChecked(why=first.toolkit.why, subject=first.text)
        return
    if home.resolved in (first.toolkit, os.path.dirname(_text(first.resolved))):  # noqa: PTH120
        return
    mine, its = home.toolkit_version, first.toolkit_version
    majors_differ = (
        isinstance(mine, str)
        and isinstance(its, str)
        and version_tuple(mine)[:1] != version_tuple(its)[:1]
    )
    yield Symptom(
        saw=f"CUDA_HOME is {_reach(home)}, {_version(mine)}; the first nvcc on PATH is "
        f"{_joined(first.text, 'nvcc')} of {first.toolkit}, {_version(its)}.",
        fix="Put CUDA_HOME's own compiler first on PATH, or set CUDA_HOME to the other toolkit.",
        explained_by=_startup_causes(machine, "CUDA_HOME", "PATH"),
        subject="CUDA_HOME",
        commands=(f'export PATH={shlex.quote(_joined(home.value, "bin"))}:"$PATH"',),
        severity=Severity.ERROR if majors_differ else None,
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _joined(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"


@rule(
    "ENV006",
    Severity.WARNING,
    "CUDA_HOME, CUDA_PATH and CUDA_ROOT disagree",
    caused_by=("ENV003", "ENV002", "ENV026"),
)
def homes_disagree(machine: Snapshot) -> Answers:
    """Different build tools read different ones of these variables, and get different toolkits.

    torch reads CUDA_HOME first, CMake's FindCUDA and many Makefiles CUDA_PATH, others CUDA_ROOT.
    Set all to one toolkit, or leave CUDA_PATH and CUDA_ROOT unset.
    """
    environment = machine.environment
    named = {
        "CUDA_HOME": environment.cuda_home,
        "CUDA_PATH": environment.cuda_path,
        "CUDA_ROOT": environment.cuda_root,
    }
    homes: dict[str, HomeVariable] = {}
    for name, home in named.items():
        fact = home.resolved if isinstance(home, HomeVariable) else home
        if isinstance(fact, Unknown):
            yield NotChecked(why=fact.why, subject=name)
            return
        if isinstance(home, HomeVariable):
            homes[name] = home
    if len(homes) < 2:
        yield NotApplicable(why="fewer than two of them are set")
        return
    if len({_text(home.resolved) or home.value.rstrip("/") for home in homes.values()}) < 2:
        return
    first = next(iter(homes))
    reported = [
        f"{name} is {_reach(home)}{'' if home.resolved else ' (nothing is there)'}"
        for name, home in homes.items()
    ]
    yield Symptom(
        saw="; ".join(reported) + ".",
        fix=f"Let {first} stand, and unset the others (or set them to the same).",
        explained_by=_startup_causes(machine, "CUDA_HOME"),
        subject=first,
        commands=(f"unset {' '.join(name for name in homes if name != first)}",),
    )


@rule("ENV007", Severity.WARNING, "CUDA_HOME's compiler is not on PATH", caused_by=("ENV008",))
def compiler_is_not_on_path(machine: Snapshot) -> Answers:
    """CUDA_HOME names a good toolkit, but `nvcc` by its bare name is not found.

    CMake, Makefiles and many set-up scripts call plain `nvcc` and then say that CUDA was not
    found. PATH needs the `bin` folder of the toolkit.
    """
    home = _good_home(machine)
    if home is None or home.has_nvcc is not True:
        yield _home_doubt(machine) if home is None else NotApplicable(why="it has no compiler")
        return
    entries = machine.environment.path
    if isinstance(entries, Unknown):
        yield NotChecked(why=entries.why, subject="PATH")
        return
    doubt = next((e.has_nvcc for e in entries or () if isinstance(e.has_nvcc, Unknown)), None)
    if any(entry.has_nvcc is True for entry in entries or ()):
        return
    if doubt is not None:
        yield NotChecked(why=doubt.why, subject="PATH")
        return
    bin_folder = _joined(home.value, "bin")
    yield Symptom(
        saw=f"No folder of PATH holds nvcc; {bin_folder} does.",
        fix=f"Add {bin_folder} to PATH.",
        explained_by=_startup_causes(machine, "PATH"),
        subject="PATH",
        commands=(f'export PATH={shlex.quote(bin_folder)}:"$PATH"',),
    )


# ------------------------------------------------------------------------- PATH and LD_LIBRARY_PATH


@rule("ENV008", Severity.INFO, "PATH names a CUDA folder that does not exist")
def path_leads_nowhere(machine: Snapshot) -> Answers:
    """An old toolkit's folder on PATH does no harm by itself, but shows that something moved.

    Usually a toolkit was upgraded or removed and a start-up file still names the old version.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.path)
    for text in _missing(entries or ()):
        if "cuda" in text.lower():
            yield Symptom(
                saw=f"PATH names {text}, which does not exist.",
                fix="Take it out of PATH, where your start-up file sets it.",
                subject=text,
                explained_by=(
                    *_dangling_cause(machine, text),
                    *_startup_causes(machine, "CUDA_HOME", "PATH"),
                ),
            )


def _missing(entries: tuple[PathEntry, ...] | tuple[()]) -> Iterator[str]:
    """Return each absolute element that leads nowhere, once."""
    missing = (e.text for e in entries if e.resolved is None and e.text.startswith("/"))
    return iter(dict.fromkeys(missing))


@rule("ENV009", Severity.INFO, "Several CUDA toolkits are on PATH", caused_by=("ENV005", "ENV026"))
def several_compilers(machine: Snapshot) -> Answers:
    """Only the first `nvcc` on PATH is ever run; which one that is depends on the order.

    Nothing is wrong as long as the first is the one you mean.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.path)
    compilers = [entry for entry in entries or () if entry.has_nvcc is True]
    homes: dict[str, PathEntry] = {}
    doubt: Unknown | None = None
    for entry in compilers:
        if isinstance(entry.toolkit, str):
            homes.setdefault(entry.toolkit, entry)
        elif isinstance(entry.toolkit, Unknown):
            doubt = entry.toolkit
    if len(homes) < 2:
        if doubt is not None and len(compilers) > 1:
            yield NotChecked(why=doubt.why, subject="PATH")
        return
    reported = [f"{e.text} ({_version(e.toolkit_version)})" for e in homes.values()]
    yield Symptom(
        saw=f"PATH reaches {len(homes)} toolkits; the first wins: {', then '.join(reported)}.",
        fix="Keep the one you mean, or see that it comes first.",
        subject="PATH",
    )


@rule("ENV010", Severity.WARNING, "LD_LIBRARY_PATH has an empty element", caused_by=("ENV031",))
def empty_element(machine: Snapshot) -> Answers:
    """An empty element means the current directory: any library lying there is loaded by its name.

    A `:` at the beginning, at the end, or two in a row leave one. Whoever can write into a folder
    from which you start a program (a shared scratch space, an unpacked archive) can then run code
    as you, and a stray libcudnn there is taken for the real one.

    It usually comes from `export LD_LIBRARY_PATH=/x/lib:$LD_LIBRARY_PATH` while the variable was
    unset. Write `/x/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}` instead.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.ld_library_path)
    if entries is None:
        if machine.environment.ld_library_path is None:
            yield NotApplicable(why="LD_LIBRARY_PATH is not set")
        return
    if all(entry.text for entry in entries):
        return
    kept = ":".join(entry.text for entry in entries if entry.text)
    yield Symptom(
        saw=f"LD_LIBRARY_PATH is {_value(machine, 'LD_LIBRARY_PATH')!r}.",
        fix="Take the empty element out.",
        subject="LD_LIBRARY_PATH",
        commands=(
            (f"export LD_LIBRARY_PATH={shlex.quote(kept)}",) if kept else ("unset LD_LIBRARY_PATH",)
        ),
    )


def _value(machine: Snapshot, name: str) -> str:
    value = machine.environment.variable(name)
    if isinstance(value, str):
        return value
    entries = machine.environment.ld_library_path
    return ":".join(entry.text for entry in entries) if isinstance(entries, tuple) else ""


@rule("ENV011", Severity.INFO, "LD_LIBRARY_PATH names a folder that does not exist")
def library_path_leads_nowhere(machine: Snapshot) -> Answers:
    """The loader passes over a folder that is not there; what you expect from it stays missing.

    Usually a toolkit was upgraded or removed, or the path was mistyped (lib for lib64).
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.ld_library_path)
    if entries is None:
        if machine.environment.ld_library_path is None:
            yield NotApplicable(why="LD_LIBRARY_PATH is not set")
        return
    for text in _missing(entries):
        yield Symptom(
            saw=f"LD_LIBRARY_PATH names {text}, which does not exist.",
            fix="Take it out of LD_LIBRARY_PATH, where your start-up file sets it.",
            subject=text,
            explained_by=(
                *_dangling_cause(machine, text),
                *_startup_causes(machine, "LD_LIBRARY_PATH"),
            ),
        )


@rule("ENV012", Severity.ERROR, "LD_LIBRARY_PATH names CUDA's stubs")
def stubs_are_loaded(machine: Snapshot) -> Answers:
    """The stubs folder holds an empty libcuda for linking; a program that loads it finds no GPU.

    It exists so that programs can be linked on machines with no driver. At run time every call
    into it fails: CUDA error 34, "CUDA driver is a stub library". Keep it for LIBRARY_PATH, or for
    the linker's -L, and out of LD_LIBRARY_PATH.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.ld_library_path)
    if entries is None:
        if machine.environment.ld_library_path is None:
            yield NotApplicable(why="LD_LIBRARY_PATH is not set")
        return
    kept = ":".join(entry.text for entry in entries if entry.text and not entry.stubs)
    for entry in entries:
        if entry.stubs:
            yield Symptom(
                saw=f"LD_LIBRARY_PATH names {entry.text}, which holds the stubs "
                f"{', '.join(entry.stubs)}.",
                fix="Take it out of LD_LIBRARY_PATH.",
                subject=entry.text,
                commands=(
                    f"export LD_LIBRARY_PATH={shlex.quote(kept)}"
                    if kept
                    else "unset LD_LIBRARY_PATH",
                ),
            )


@rule("ENV013", Severity.WARNING, "PATH or LD_LIBRARY_PATH has a relative element")
def relative_element(machine: Snapshot) -> Answers:
    """A relative element means another folder wherever you stand: programs come and go with `cd`.

    Whoever can write into a folder where you work can put a program or library there that you then
    run. An empty element of PATH means the current directory too. A `~` in quotes stays a `~`,
    which no program but bash expands.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    paths = (
        ("PATH", machine.environment.path),
        ("LD_LIBRARY_PATH", machine.environment.ld_library_path),
    )
    for name, entries in paths:
        if isinstance(entries, Unknown):
            yield NotChecked(why=entries.why, subject=name)
            continue
        relative = [entry.text for entry in entries or () if _is_relative(name, entry.text)]
        if not relative or entries is None:
            continue
        kept = ":".join(e.text for e in entries if e.text and not _is_relative(name, e.text))
        yield Symptom(
            saw=f"{name} names {', '.join(repr(text) for text in dict.fromkeys(relative))}.",
            fix="Write the full path of each, or take it out.",
            subject=name,
            commands=(f"export {name}={shlex.quote(kept)}" if kept else f"unset {name}",),
        )


def _is_relative(name: str, text: str) -> bool:
    if name == "PATH":
        return not text.startswith("/")
    # The loader expands its own tokens ($ORIGIN, $LIB); an empty element is ENV010's.
    return bool(text) and not text.startswith(("/", "$ORIGIN", "${ORIGIN}"))


@rule("ENV014", Severity.WARNING, "Everybody may write to a folder of PATH or LD_LIBRARY_PATH")
def element_is_writable(machine: Snapshot) -> Answers:
    """Anybody on this machine can put a program or library there that you then run as yourself.

    The folder itself may be writable by all, or one above it, so that others can put another in
    its place, or it does not exist yet and others may create it. A sticky bit (as /tmp has) keeps
    people from removing each other's files, not from adding new ones. For root it is an error.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    paths = (
        ("PATH", machine.environment.path),
        ("LD_LIBRARY_PATH", machine.environment.ld_library_path),
    )
    severity = Severity.ERROR if machine.host.is_root is True else None
    seen: set[str] = set()
    for name, entries in paths:
        if isinstance(entries, Unknown):
            yield NotChecked(why=entries.why, subject=name)
            continue
        for entry in entries or ():
            if not entry.text.startswith("/") or entry.text in seen:
                continue
            seen.add(entry.text)
            if machine.host.is_wsl is True and entry.text.startswith("/mnt/"):
                continue  # Windows' drives show rights that nobody has
            if isinstance(entry.is_world_writable, Unknown):
                yield NotChecked(why=entry.is_world_writable.why, subject=entry.text)
            elif entry.is_world_writable:
                is_there = entry.resolved is not None
                yield Symptom(
                    saw=f"{name} names {entry.text}, "
                    + (
                        "to which everybody may write (or to a folder above it)."
                        if is_there
                        else "which does not exist and which everybody may create."
                    ),
                    fix="Take the right to write away from others, or the folder out of the list.",
                    subject=entry.text,
                    commands=(f"chmod o-w {shlex.quote(entry.text)}",) if is_there else (),
                    severity=severity,
                )


@rule(
    "ENV015",
    Severity.WARNING,
    "LD_LIBRARY_PATH leads to another toolkit than CUDA_HOME",
    caused_by=("ENV026", "LIB001"),
)
def library_path_is_another_toolkits(machine: Snapshot) -> Answers:
    """What is built with CUDA_HOME's toolkit runs with the other one's libraries.

    Programs then miss symbols or SONAMEs ("libcudart.so.13: cannot open shared object file"), or
    behave as the other version does. Let both name one toolkit; most programs need no
    LD_LIBRARY_PATH at all.
    """
    home = _good_home(machine)
    if home is None:
        yield _home_doubt(machine)
        return
    entries = yield from known(machine.environment.ld_library_path)
    if entries is None:
        if machine.environment.ld_library_path is None:
            yield NotApplicable(why="LD_LIBRARY_PATH is not set")
        return
    path = machine.environment.path
    first = next((e for e in path if e.has_nvcc is True), None) if isinstance(path, tuple) else None
    seen: set[str] = set()
    for entry in entries:
        if entry.stubs or entry.compat_libcuda is not None:
            continue
        other, version = entry.toolkit, entry.toolkit_version
        if not isinstance(other, str) or other == home.resolved or other in seen:
            continue
        seen.add(other)
        if not isinstance(version, str) or not isinstance(home.toolkit_version, str):
            unknown = version if isinstance(version, Unknown) else home.toolkit_version
            why = unknown.why if isinstance(unknown, Unknown) else "a toolkit has no version"
            yield NotChecked(why=why, subject=entry.text)
        elif version_tuple(version)[:2] != version_tuple(home.toolkit_version)[:2]:
            yield Symptom(
                saw=f"LD_LIBRARY_PATH names {entry.text}, CUDA {version}; "
                f"CUDA_HOME is {_reach(home)}, CUDA {home.toolkit_version}.",
                fix="Take the folder out of LD_LIBRARY_PATH, or set CUDA_HOME to its toolkit.",
                subject=entry.text,
                commands=(_without(entries, other),),
                explained_by=(
                    ("ENV005",)
                    if first is not None and first.toolkit == other
                    else _startup_causes(machine, "CUDA_HOME", "LD_LIBRARY_PATH")
                ),
            )


@rule("ENV016", Severity.WARNING, "A CUDA compat library is used where it does not work")
def compat_does_not_fit(machine: Snapshot) -> Answers:
    """A compat folder replaces the driver's libcuda; where that is refused, CUDA does not start.

    The forward-compatibility package (cuda-compat-X-Y) lets an old driver run a newer CUDA, on
    data-centre GPUs alone, and only if it is newer than the driver itself. Elsewhere cuInit fails:
    error 803 (system has unsupported display driver / cuda driver combination) where it is older
    than the driver, error 804 (forward compatibility was attempted on non supported HW) on other
    GPUs. Take it out of LD_LIBRARY_PATH, or install a newer driver and do without it.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.ld_library_path)
    if entries is None:
        if machine.environment.ld_library_path is None:
            yield NotApplicable(why="LD_LIBRARY_PATH is not set")
        return
    compats = [entry for entry in entries if entry.compat_libcuda is not None]
    if not compats:
        yield NotApplicable(why="no compat folder is on LD_LIBRARY_PATH")
        return
    if isinstance(machine.driver.cuda_init, CudaInit) and machine.driver.cuda_init.code == 0:
        return  # seen to work
    driver = machine.driver.module_version
    if not isinstance(driver, str):
        driver = machine.nvml.driver_version
    for entry in compats:
        kept = ":".join(e.text for e in entries if e.text and e is not entry)
        reason = None
        compat = entry.compat_libcuda
        if (
            isinstance(compat, str)
            and isinstance(driver, str)
            and version_tuple(compat) < version_tuple(driver)
        ):
            reason = f"is libcuda {compat}, older than the driver {driver}"
        refusing = _refusing_gpu(machine)
        if reason is None and isinstance(refusing, str):
            reason = f"needs a data-centre GPU, and {refusing} is none"
        if reason is not None:
            yield Symptom(
                saw=f"LD_LIBRARY_PATH names {entry.text}, which {reason}.",
                fix="Take it out of LD_LIBRARY_PATH.",
                subject=entry.text,
                commands=(
                    f"export LD_LIBRARY_PATH={shlex.quote(kept)}"
                    if kept
                    else "unset LD_LIBRARY_PATH",
                ),
            )
            continue
        for fact in (entry.compat_libcuda, driver, refusing):
            if isinstance(fact, Unknown):
                yield NotChecked(why=fact.why, subject=entry.text)
                break


def _without(entries: tuple[PathEntry, ...], toolkit: str) -> str:
    """Return the command that takes the folders of *toolkit* out of LD_LIBRARY_PATH."""
    kept = ":".join(entry.text for entry in entries if entry.text and entry.toolkit != toolkit)
    return f"export LD_LIBRARY_PATH={shlex.quote(kept)}" if kept else "unset LD_LIBRARY_PATH"


def _refusing_gpu(machine: Snapshot) -> str | Unknown | None:
    """Return a GPU here that takes no forward compatibility; None where all take it."""
    from gpucheck.knowledge.driver_cuda import allows_forward_compatibility

    if isinstance(machine.nvml.gpus, Unknown):
        return machine.nvml.gpus
    doubt: Unknown | None = None
    for gpu in machine.nvml.gpus:
        allowed = allows_forward_compatibility(gpu.name) if isinstance(gpu.name, str) else None
        if allowed is False:
            return _text(gpu.name)
        if allowed is None:
            doubt = Unknown(f"whether {gpu.subject} takes forward compatibility is not known")
    return doubt


# -------------------------------------------------------------------------- which GPUs are visible


def _invalid_element(element: str, gpus: tuple[Gpu, ...]) -> str | Unknown | None:
    """Say why CUDA finds no device for *element*; None where it does.

    By the CUDA C++ Programming Guide, "CUDA Environment Variables": indices from 0, or the
    beginnings of UUIDs that fit exactly one device.
    """
    if element.isascii() and element.isdigit():
        if any(gpu.mig_is_on is True for gpu in gpus):
            return Unknown("MIG is on, and what an index then means is up to CUDA")
        count = len(gpus)
        if int(element[:9]) < count:
            return None
        if count < 3:
            return "only GPU 0 is here" if count == 1 else "GPUs 0 and 1 are here"
        return f"GPUs 0 to {count - 1} are here"
    if element.startswith("MIG-"):
        known_migs: list[str] = []
        for gpu in gpus:
            if isinstance(gpu.mig_devices, tuple):
                known_migs += gpu.mig_devices
            elif isinstance(gpu.mig_devices, Unknown):
                return gpu.mig_devices
        if element.startswith("MIG-GPU-"):
            return Unknown("the old form of MIG names is not looked up")
        return _prefix_problem(element, known_migs, "MIG device")
    if element.startswith("GPU-"):
        uuids = []
        for gpu in gpus:
            if isinstance(gpu.uuid, Unknown):
                return gpu.uuid
            uuids.append(_text(gpu.uuid))
        return _prefix_problem(element, uuids, "GPU")
    return "it is neither an index nor a UUID"


def _prefix_problem(element: str, uuids: list[str], kind: str) -> str | None:
    fitting = sum(uuid.lower().startswith(element.lower()) for uuid in uuids)
    if fitting == 1:
        return None
    return f"no {kind} here has it" if fitting == 0 else f"{fitting} {kind}s begin so"


def _visible(
    machine: Snapshot,
) -> tuple[str, list[str], tuple[Gpu, ...]] | NotChecked | NotApplicable:
    """Return CUDA_VISIBLE_DEVICES, its elements, and the GPUs; else why there is no question."""
    value = machine.environment.variable("CUDA_VISIBLE_DEVICES")
    if isinstance(value, Unknown):
        return NotChecked(why=value.why, subject="CUDA_VISIBLE_DEVICES")
    if value is None:
        return NotApplicable(why="CUDA_VISIBLE_DEVICES is not set")
    gpus = machine.nvml.gpus
    if isinstance(gpus, Unknown):
        # With no NVML there is nothing to count; with no GPU at all there is nothing to hide.
        if machine.host.pci_gpus == () and machine.host.is_wsl is not True:
            return NotApplicable(why="no NVIDIA GPU here")
        return NotChecked(why=gpus.why, subject="CUDA_VISIBLE_DEVICES")
    if not gpus:
        return NotApplicable(why="no NVIDIA GPU here")
    return value, [element.strip() for element in value.split(",")], gpus


def _lost_gpu(machine: Snapshot, element: str) -> tuple[str, ...]:
    """Return DRV015 where the bus has so many GPUs that the index would be right."""
    gpus = machine.host.pci_gpus
    if isinstance(gpus, tuple) and element.isdigit() and int(element[:9]) < len(gpus):
        return ("DRV015",)
    return ()


@rule("ENV018", Severity.ERROR, "CUDA_VISIBLE_DEVICES hides every GPU")
def every_gpu_is_hidden(machine: Snapshot) -> Answers:
    """CUDA shows a program only the GPUs that this variable names, and it names none that exists.

    `torch.cuda.is_available()` is then False and nvidia-smi still shows all GPUs, because it does
    not read the variable. Empty, `-1` and `NoDevFiles` hide everything on purpose; a list is read
    up to its first element that fits no GPU, so a wrong first element hides everything too.
    """
    seen = _visible(machine)
    if not isinstance(seen, tuple):
        yield seen
        return
    value, elements, gpus = seen
    first = elements[0]
    if first in ("", "-1", "NoDevFiles"):
        hidden = "the GPU that is" if len(gpus) == 1 else f"the {len(gpus)} GPUs that are"
        why: str | Unknown | None = f"it hides {hidden} here"
    else:
        why = _invalid_element(first, gpus)
        why = f"{first!r} is no GPU ({why})" if isinstance(why, str) else why
    if isinstance(why, Unknown):
        yield NotChecked(why=why.why, subject="CUDA_VISIBLE_DEVICES")
    elif why is not None:
        yield Symptom(
            saw=f"CUDA_VISIBLE_DEVICES is {value!r}: {why}.",
            fix="Unset it, or name the GPUs you want.",
            subject="CUDA_VISIBLE_DEVICES",
            commands=("unset CUDA_VISIBLE_DEVICES",),
            explained_by=_lost_gpu(machine, first),
        )


@rule(
    "ENV019",
    Severity.ERROR,
    "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    caused_by=("ENV018",),
)
def hidden_from_here_on(machine: Snapshot) -> Answers:
    """CUDA reads this list up to the first element that fits no GPU, and ignores all behind it.

    A program then sees fewer GPUs than the list names, without a word. Numbers begin at 0; a UUID
    may be shortened as long as only one GPU's begins so. (`-1` ends the list on purpose.)
    """
    seen = _visible(machine)
    if not isinstance(seen, tuple):
        yield seen
        return
    value, elements, gpus = seen
    for place, element in enumerate(elements):
        if element in ("-1", "NoDevFiles") or (element == "" and place in (0, len(elements) - 1)):
            return
        why = _invalid_element(element, gpus)
        if isinstance(why, Unknown):
            yield NotChecked(why=why.why, subject="CUDA_VISIBLE_DEVICES")
            return
        if why is not None and place == 0:
            yield NotApplicable(why="the first element hides every GPU (ENV018)")
            return
        if why is not None:
            kept = ",".join(elements[:place])
            yield Symptom(
                saw=f"CUDA_VISIBLE_DEVICES is {value!r}: {element!r} is no GPU ({why}); "
                f"CUDA sees {kept} alone.",
                fix="Name only GPUs that nvidia-smi -L lists.",
                subject="CUDA_VISIBLE_DEVICES",
                commands=(f"export CUDA_VISIBLE_DEVICES={shlex.quote(kept)}",),
                explained_by=_lost_gpu(machine, element),
            )
            return


@rule("ENV020", Severity.ERROR, "CUDA_VISIBLE_DEVICES names one GPU twice")
def named_twice(machine: Snapshot) -> Answers:
    """A GPU that stands twice in the list makes CUDA refuse it: no device is visible at all.

    An index and a UUID that mean the same GPU count as twice too.
    """
    seen = _visible(machine)
    if not isinstance(seen, tuple):
        yield seen
        return
    value, elements, gpus = seen
    kinds = {element[:1].isdigit() for element in elements}
    if len(kinds) > 1 and len({gpu.name for gpu in gpus}) > 1:
        why = "which GPU an index means is up to CUDA where models differ"
        yield NotChecked(why=why, subject="CUDA_VISIBLE_DEVICES")
        return
    found: dict[str, str] = {}
    for element in elements:
        if element in ("", "-1", "NoDevFiles") or _invalid_element(element, gpus) is not None:
            return
        name = _device(element, gpus)
        if name in found:
            kept = ",".join(found.values())
            yield Symptom(
                saw=f"CUDA_VISIBLE_DEVICES is {value!r}: {found[name]} and {element} are one GPU.",
                fix="Name each GPU once.",
                subject="CUDA_VISIBLE_DEVICES",
                commands=(f"export CUDA_VISIBLE_DEVICES={shlex.quote(kept)}",),
            )
            return
        found[name] = element


def _device(element: str, gpus: tuple[Gpu, ...]) -> str:
    """Return one name for a valid element. Indices are taken in NVML's order, as UUIDs are."""
    if element.isdigit():
        uuid = gpus[int(element)].uuid if int(element) < len(gpus) else None
        return uuid.lower() if isinstance(uuid, str) else element.lstrip("0") or "0"
    for gpu in gpus:
        names = [gpu.uuid, *(gpu.mig_devices if isinstance(gpu.mig_devices, tuple) else ())]
        for name in names:
            if isinstance(name, str) and name.lower().startswith(element.lower()):
                return name.lower()
    return element.lower()


@rule("ENV021", Severity.WARNING, "CUDA numbers the GPUs otherwise than nvidia-smi")
def numbers_differ(machine: Snapshot) -> Answers:
    """With GPUs of different models, CUDA puts the fastest first; nvidia-smi goes by the bus.

    GPU 0 of a program is then another card than GPU 0 of nvidia-smi, and CUDA_VISIBLE_DEVICES=0
    takes the wrong one. With CUDA_DEVICE_ORDER=PCI_BUS_ID both count alike.
    """
    if machine.host.pci_gpus == () and not isinstance(machine.nvml.gpus, tuple):
        yield NotApplicable(why="no NVIDIA GPU here")
        return
    gpus = yield from known(machine.nvml.gpus)
    if gpus is None:
        return
    if len(gpus) < 2:
        yield NotApplicable(why="fewer than two GPUs")
        return
    names = []
    for gpu in gpus:
        name = yield from known(gpu.name, gpu.subject)
        if name is None:
            return
        names.append(name)
    order = machine.environment.variable("CUDA_DEVICE_ORDER")
    if len(set(names)) < 2:
        return
    if isinstance(order, Unknown):
        yield NotChecked(why=order.why)
    elif order != "PCI_BUS_ID":
        yield Symptom(
            saw=f"The GPUs here are {' and '.join(sorted(set(names)))}, and CUDA_DEVICE_ORDER is "
            + (f"{order!r}." if order is not None else "not set."),
            fix="Let CUDA count by the bus, as nvidia-smi does.",
            subject="CUDA_DEVICE_ORDER",
            commands=("export CUDA_DEVICE_ORDER=PCI_BUS_ID",),
        )


@rule("ENV022", Severity.ERROR, "The container asked for no GPU, or for half a driver")
def container_asked_for_nothing(machine: Snapshot) -> Answers:
    """The NVIDIA Container Toolkit gives a container what these two variables ask for, no more.

    NVIDIA_VISIBLE_DEVICES chooses the GPUs: `void` and the empty value ask for nothing at all,
    `none` for the driver with no GPU. NVIDIA_DRIVER_CAPABILITIES chooses the driver's parts:
    without `compute` there is no libcuda, without `utility` no nvidia-smi and no NVML. They are
    read when the container is started; changing them inside does nothing.

    Where GPUs came in by another way (CDI sets `void` itself), all is well and nothing is said.
    """
    container = yield from known(machine.host.container)
    if container is None:
        if machine.host.container is None:
            yield NotApplicable(why="not in a container")
        return
    gpus, driver, nvml = machine.host.pci_gpus, machine.driver, machine.nvml
    if gpus == () and driver.module_version is None and machine.host.is_wsl is not True:
        yield NotApplicable(why="the host has no NVIDIA GPU")
        return
    devices = machine.environment.variable("NVIDIA_VISIBLE_DEVICES")
    if isinstance(devices, Unknown):
        yield NotChecked(why=devices.why)
        return
    nodes = driver.device_nodes
    are_here = isinstance(nodes, tuple) and any(
        node.exists and node.path.removeprefix("/dev/nvidia").isdigit() for node in nodes
    )
    if devices in ("", "none", "void") and not are_here:
        if isinstance(nvml.count, Unknown) and isinstance(nodes, Unknown):
            yield NotChecked(why=nodes.why, subject="NVIDIA_VISIBLE_DEVICES")
        elif not (isinstance(nvml.count, int) and nvml.count > 0):
            yield Symptom(
                saw=f"NVIDIA_VISIBLE_DEVICES is {devices!r}, and no GPU is here.",
                fix="Start the container again with GPUs: `--gpus all` sets the variable to all.",
                subject="NVIDIA_VISIBLE_DEVICES",
                commands=("docker run --gpus all -e NVIDIA_VISIBLE_DEVICES=all …",),
            )
    capabilities = machine.environment.variable("NVIDIA_DRIVER_CAPABILITIES")
    if not isinstance(capabilities, str) or not capabilities.strip():
        return  # the toolkit's own default holds both
    asked = [name.strip() for name in capabilities.split(",")]
    wanted = ("docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility …",)
    if "all" in asked:
        return
    if "compute" not in asked and not _has_library(machine, "libcuda.so.1"):
        yield Symptom(
            saw=f"NVIDIA_DRIVER_CAPABILITIES is {capabilities!r}: libcuda was not asked for.",
            fix="Start the container again with compute and utility.",
            subject="NVIDIA_DRIVER_CAPABILITIES",
            commands=wanted,
        )
    elif "utility" not in asked and not _has_library(machine, "libnvidia-ml.so.1"):
        yield Symptom(
            saw=f"NVIDIA_DRIVER_CAPABILITIES is {capabilities!r}: NVML was not asked for.",
            fix="Start the container again with compute and utility.",
            subject="NVIDIA_DRIVER_CAPABILITIES",
            commands=wanted,
            severity=Severity.WARNING,
        )


def _has_library(machine: Snapshot, soname: str) -> bool:
    libraries = machine.driver.libraries
    return isinstance(libraries, tuple) and any(
        library.soname == soname and library.is_stub is not True and not library.is_compat
        for library in libraries
    )


# ----------------------------------------------------------------------------------- left-overs

_OFF = ("", "0", "false", "off", "no", "n")
#: Variables that slow down or change every CUDA program, what they do, and the values that do not.
#: Sources: CUDA C++ Programming Guide, "CUDA Environment Variables"; PyTorch's documentation of
#: its CUDA environment variables; CUDA-GDB's manual for the core dumps.
_DEBUGGING: dict[str, tuple[str, tuple[str, ...]]] = {
    "CUDA_LAUNCH_BLOCKING": ("waits for every kernel", _OFF),
    "CUDA_PROFILE": ("turns the old profiler on", _OFF),
    "COMPUTE_PROFILE": ("turns the old profiler on", _OFF),
    "CUDA_INJECTION32_PATH": ("loads a profiler into every CUDA program", ("",)),
    "CUDA_INJECTION64_PATH": ("loads a profiler into every CUDA program", ("",)),
    "NVIDIA_TF32_OVERRIDE": ("forbids TF32, whatever a program asks for", ("", "1")),
    "CUDA_AUTO_BOOST": ("overrides the clocks' own choice", ("",)),
    "CUDA_FORCE_PTX_JIT": ("compiles every kernel anew at start", _OFF),
    "CUDA_DISABLE_PTX_JIT": ("refuses kernels that need compiling", _OFF),
    "CUDA_CACHE_DISABLE": ("compiles kernels anew at every start", _OFF),
    "CUDA_DEVICE_WAITS_ON_EXCEPTION": ("makes a failing program wait for a debugger", _OFF),
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": ("writes GPU core dumps, of many GB", _OFF),
    "TORCH_USE_CUDA_DSA": ("asks for device-side assertions", _OFF),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("turns off torch's memory cache", _OFF),
    "TORCH_DISTRIBUTED_DEBUG": ("checks every collective", ("", "off", "info")),
    "CUDNN_LOGLEVEL_DBG": ("logs every call into cuDNN", _OFF),
    "LD_DEBUG": ("prints what the loader does", ("",)),
}


@rule("ENV023", Severity.WARNING, "A debugging or profiling variable was left on")
def debugging_is_on(machine: Snapshot) -> Answers:
    """Such a variable slows down, or changes, every CUDA program that is started from this shell.

    They are set to hunt one fault and then forgotten, often in a start-up file. With
    CUDA_LAUNCH_BLOCKING=1 training can take several times as long.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    variables = yield from known(machine.environment.variables)
    for variable in variables or ():
        entry = _DEBUGGING.get(variable.name)
        if entry is not None and variable.value.strip().lower() not in entry[1]:
            yield Symptom(
                saw=f"{variable.name} is {variable.value!r}: it {entry[0]}.",
                fix="Unset it, unless you are looking for a fault right now.",
                subject=variable.name,
                commands=(f"unset {variable.name}",),
            )


@rule("ENV024", Severity.WARNING, "NCCL's fast paths are switched off")
def nccl_is_hobbled(machine: Snapshot) -> Answers:
    """NCCL carries the traffic between GPUs; with a fast path off, training on several is slower.

    NCCL_P2P_DISABLE sends all traffic between GPUs through the host's memory, NCCL_SHM_DISABLE
    through the network stack, NCCL_IB_DISABLE uses TCP where InfiniBand is here. They are often
    set to get past a hang and then kept. NCCL_NVLS_ENABLE=0 only turns off reductions inside an
    NVSwitch, which some virtual machines need: a remark.
    """
    variables = yield from known(machine.environment.variables)
    if variables is None:
        return
    off = {
        variable.name: variable.value
        for variable in variables
        if variable.name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE")
        and variable.value.strip().lower() not in _OFF
    }
    nvls = machine.environment.variable("NCCL_NVLS_ENABLE")
    if nvls == "0":
        off["NCCL_NVLS_ENABLE"] = "0"
    count = machine.nvml.count
    if isinstance(count, int) and count < 2 and "NCCL_IB_DISABLE" not in off:
        yield NotApplicable(why="fewer than two GPUs")
        return
    for name, value in off.items():
        if name == "NCCL_P2P_DISABLE" and _has_no_p2p(machine):
            continue  # nothing is lost
        if name == "NCCL_IB_DISABLE":
            devices = machine.host.rdma_devices
            if isinstance(devices, Unknown):
                yield NotChecked(why=devices.why, subject=name)
                continue
            if not devices:
                continue
        yield Symptom(
            saw=f"{name} is {value}.",
            fix="Unset it, and see whether what it was set for still happens.",
            subject=name,
            commands=(f"unset {name}",),
            severity=Severity.INFO if name == "NCCL_NVLS_ENABLE" else None,
        )


def _has_no_p2p(machine: Snapshot) -> bool:
    """Whether NVML says that no two GPUs here can reach each other anyway."""
    pairs = machine.nvml.pairs
    return (
        isinstance(pairs, tuple)
        and bool(pairs)
        and all(isinstance(p.p2p_read, str) and p.p2p_read != "OK" for p in pairs)
    )


_CUDA_LIBRARIES = (
    "libcuda.so",
    "libcudart.so",
    "libcudnn",
    "libnccl.so",
    "libcublas",
    "libcufft",
    "libcurand",
    "libcusolver",
    "libcusparse",
    "libnvrtc",
    "libnvJitLink",
)


@rule("ENV025", Severity.WARNING, "LD_PRELOAD names a missing file or a CUDA library")
def preload_interferes(machine: Snapshot) -> Answers:
    """What LD_PRELOAD names is loaded into every program, before anything the program asks for.

    A CUDA, cuDNN or NCCL library there takes the place of the one that torch brings, whatever its
    version. A file that is missing makes the loader complain at the start of every program.
    """
    if not is_concerned(machine):
        yield _ELSEWHERE
        return
    entries = yield from known(machine.environment.ld_preload)
    if entries is None:
        if machine.environment.ld_preload is None:
            yield NotApplicable(why="LD_PRELOAD is not set")
        return
    for entry in entries:
        name = entry.text.rpartition("/")[2]
        if entry.resolved is None:
            saw = f"LD_PRELOAD names {entry.text}, which does not exist."
        elif name.startswith(_CUDA_LIBRARIES):
            saw = f"LD_PRELOAD names {entry.text}."
        else:
            if isinstance(entry.resolved, Unknown):
                yield NotChecked(why=entry.resolved.why, subject=entry.text)
            continue
        kept = " ".join(other.text for other in entries if other is not entry)
        yield Symptom(
            saw=saw,
            fix="Take it out of LD_PRELOAD.",
            subject=entry.text,
            commands=(f"export LD_PRELOAD={shlex.quote(kept)}" if kept else "unset LD_PRELOAD",),
        )


# -------------------------------------------------------------------------------- start-up files

_BOURNE: tuple[str, ...] = ("/etc/environment", "/etc/profile", "/etc/profile.d/")
_BASH: tuple[str, ...] = (*_BOURNE, "/etc/bash.bashrc", "/etc/bashrc")
_ZSH = ("/etc/environment", "/etc/zsh", "/etc/zprofile")
_C_SHELL_FILES = (".csh", ".tcshrc", ".cshrc", ".login")
_LOGIN_ONLY = (".bash_profile", ".bash_login", ".profile", ".zprofile", ".zlogin", ".login")


def _is_read_by(shell: str | None, path: str) -> bool:
    """Whether *shell* reads the file at *path* when it starts, at the latest as a login shell."""
    name = path.rpartition("/")[2]
    is_system = path.startswith("/etc/")
    if path == "/etc/environment":
        return True
    if shell in ("bash", None):
        mine: tuple[str, ...] = (".bashrc", ".bash_profile", ".bash_login", ".profile")
        folders = _BASH
    elif shell == "zsh":
        mine, folders = (".zshenv", ".zprofile", ".zshrc", ".zlogin"), _ZSH
    elif shell == "fish":
        return ".config/fish/" in path or path.startswith("/etc/fish/")
    elif shell in ("tcsh", "csh"):
        mine, folders = (".tcshrc", ".cshrc", ".login"), ("/etc/csh.", "/etc/profile.d/")
    else:
        mine, folders = (".profile", ".kshrc", ".mkshrc"), _BOURNE
    if is_system:
        return path.startswith(folders) and path.endswith(".csh") == (shell in ("tcsh", "csh"))
    return name in mine


def _files_of_shell(machine: Snapshot, files: tuple[StartupFile, ...]) -> list[StartupFile]:
    """Return the files that this user's shell reads, with those that they source."""
    shell = machine.environment.shell
    name = shell if isinstance(shell, str) else None
    chosen = {file.path for file in files if _is_read_by(name, file.path)}
    if name in ("bash", None):
        # Of these three, bash reads the first that is there.
        logins = (".bash_profile", ".bash_login", ".profile")
        there = [f.path for name in logins for f in files if f.path.endswith(f"/{name}")]
        chosen -= {path for path in there[1:] if not path.startswith("/etc/")}
    by_path = {file.path: file for file in files}
    waiting = list(chosen)
    while waiting:
        for source in by_path[waiting.pop()].sources:
            if source in by_path and source not in chosen:
                chosen.add(source)
                waiting.append(source)
    return [file for file in files if file.path in chosen]


def _startup_files(machine: Snapshot) -> tuple[StartupFile, ...] | NotChecked | NotApplicable:
    if not is_concerned(machine):
        return _ELSEWHERE
    files = machine.startup_files.files
    return NotChecked(why=files.why) if isinstance(files, Unknown) else files


def _settings(
    files: list[StartupFile] | tuple[StartupFile, ...],
) -> Iterator[tuple[StartupFile, StartupSetting]]:
    for file in files:
        if isinstance(file.settings, tuple):
            for setting in file.settings:
                yield file, setting


def _unreadable(files: list[StartupFile] | tuple[StartupFile, ...]) -> Iterator[NotChecked]:
    for file in files:
        if isinstance(file.settings, Unknown):
            yield NotChecked(why=file.settings.why, subject=file.path)


def _place(file: StartupFile, setting: StartupSetting) -> str:
    return f"{file.path}:{setting.line}"


def _as_owner(machine: Snapshot, file: StartupFile, command: str) -> str:
    """Return *command* so that this user may change *file* by it."""
    is_root = machine.host.is_root is True
    return f"sudo {command}" if file.path.startswith("/etc/") and not is_root else command


def _edit(machine: Snapshot, file: StartupFile, setting: StartupSetting) -> str:
    return _as_owner(machine, file, f"nano +{setting.line} {shlex.quote(file.path)}")


def _substitute(machine: Snapshot, file: StartupFile, setting: StartupSetting, *how: str) -> str:
    """Return the command that changes one line by sed's `s` commands."""
    script = ";".join(f"{setting.line}{each}" for each in how)
    command = f"sed -i {shlex.quote(script)} {shlex.quote(file.path)}"
    return _as_owner(machine, file, command)


def _toolkit_named(machine: Snapshot, path: str) -> str:
    """Return the home of the installed toolkit that *path* is in, else *path* as it stands."""
    path = path.rstrip("/")
    installed = machine.toolkits.installed
    if isinstance(installed, tuple):
        for toolkit in installed:
            for name in (*toolkit.names, toolkit.home):
                if _is_in(path, name):
                    return toolkit.home
    # /usr/local/cuda-12.4/extras/CUPTI/lib64 → /usr/local/cuda-12.4
    parts = path.split("/")
    place = next((n for n, part in enumerate(parts) if "cuda" in part.lower()), len(parts))
    return "/".join(parts[: place + 1])


def _is_toolkit(machine: Snapshot, home: str) -> bool:
    """Whether *home* is a toolkit by its name, or one that is installed."""
    name = home.rpartition("/")[2].lower()
    if name == "cuda" or (name.startswith("cuda-") and name[5:6].isdigit()):
        return True
    installed = machine.toolkits.installed
    return isinstance(installed, tuple) and any(toolkit.home == home for toolkit in installed)


def _cuda_elements(value: str) -> list[str]:
    return [e for e in value.split(":") if "cuda" in e.lower() and "$" not in e]


@rule("ENV026", Severity.WARNING, "Start-up files disagree on where CUDA is")
def startup_files_disagree(machine: Snapshot) -> Answers:
    """Which value you get depends on which files your shell reads, and in which order.

    A login shell, a new terminal, an ssh command and a batch job read different ones, so the same
    command uses different toolkits in different places. Keep the lines in one file and let the
    others read it (`. ~/.bashrc`).
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    mine = _files_of_shell(machine, files)
    yield from _unreadable(mine)
    reaches = {file.path: set(file.sources) for file in mine}
    for variable in ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH"):
        last: dict[str, tuple[StartupFile, StartupSetting, frozenset[str]]] = {}
        for file, setting in _settings(mine):
            if setting.variable != variable or setting.is_conditional:
                continue
            if not isinstance(setting.value, str) or not setting.value:
                continue
            if variable == "CUDA_HOME":
                named = [] if "$" in setting.value else [setting.value]
            else:
                named = _cuda_elements(setting.value)
            homes = frozenset(_toolkit_named(machine, element) for element in named)
            if variable != "CUDA_HOME":  # lists may well name other things of CUDA besides
                homes = frozenset(home for home in homes if _is_toolkit(machine, home))
            if homes:
                last[file.path] = file, setting, homes
        values = list(last.values())
        for one, other in pairwise(values):
            if one[2] & other[2] or _is_joined(one[0].path, other[0].path, reaches):
                continue
            yield Symptom(
                saw="; ".join(
                    f"{_place(file, setting)} has `{setting.text}`" for file, setting, _ in values
                )
                + ".",
                fix="Keep one of the lines and take the others out.",
                subject=variable,
                commands=tuple(_edit(machine, file, setting) for file, setting, _ in values),
            )
            break


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


@rule("ENV027", Severity.WARNING, "A start-up file sets what this shell does not have")
def shell_is_stale(machine: Snapshot) -> Answers:
    """The file was changed after this shell started, or this kind of shell does not read it.

    Start-up files are read once, when a shell starts. Open a new terminal, or read the file in
    this one with `. ~/.bashrc`; a file such as ~/.profile is read at login alone. A shell that
    is not interactive, as in an ssh command, a service or a batch job, may not read the file, or
    not to its end (ENV030).

    Values that only running the file would tell are not checked, nor are lines that stand under a
    condition.
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    mine = _files_of_shell(machine, files)
    if isinstance(machine.host.container, str):
        # Nobody logs into a container: what only a login reads, no shell here has ever read.
        mine = [f for f in mine if not _is_for_logins(f.path)]
    yield from _unreadable(mine)
    for variable in ("CUDA_HOME", "PATH", "LD_LIBRARY_PATH"):
        settings = [
            (file, setting)
            for file, setting in _settings(mine)
            if setting.variable == variable and setting.mangled is None
        ]
        if not settings:
            continue
        if variable == "CUDA_HOME":
            yield from _stale_home(machine, settings)
        else:
            yield from _stale_list(machine, variable, settings)


def _is_for_logins(path: str) -> bool:
    name = path.rpartition("/")[2]
    login_files = ("/etc/environment", "/etc/profile", "/etc/zprofile", "/etc/zsh/zprofile")
    return name in _LOGIN_ONLY or path.startswith(login_files)


def _stale_home(machine: Snapshot, settings: list[tuple[StartupFile, StartupSetting]]) -> Answers:
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        yield NotChecked(why=home.why, subject="CUDA_HOME")
        return
    value = home.value.rstrip("/") if home is not None else None
    doubt: str | None = None
    wanted: dict[str, tuple[StartupFile, StartupSetting]] = {}
    for file, setting in settings:
        if not isinstance(setting.value, str) or "$" in setting.value:
            unknown = setting.value
            doubt = unknown.why if isinstance(unknown, Unknown) else "it depends on what was set"
        elif setting.value.rstrip("/") == value:
            return
        elif setting.is_conditional:
            doubt = "it stands under a condition"
        elif setting.value:
            wanted[setting.value.rstrip("/")] = file, setting
    if doubt is None and value is not None and _is_set_otherwise(machine, value):
        return
    if doubt is not None or len(wanted) != 1:
        if doubt is not None:
            file, setting = settings[-1]
            yield NotChecked(why=f"{_place(file, setting)}: {doubt}", subject="CUDA_HOME")
        return
    [(text, (file, setting))] = wanted.items()
    yield Symptom(
        saw=f"{_place(file, setting)} sets CUDA_HOME to {text}; in this shell it is "
        + (f"{value}." if value is not None else "not set."),
        fix=_renewal(file.path),
        subject="CUDA_HOME",
        commands=(f". {shlex.quote(file.path)}",),
    )


def _is_set_otherwise(machine: Snapshot, value: str) -> bool:
    """Whether an environment manager set CUDA_HOME after the start-up files, on purpose."""
    prefix = machine.environment.variable("CONDA_PREFIX")
    if isinstance(prefix, str) and _is_in(value, prefix):
        return True
    modules = machine.environment.variable("LOADEDMODULES")
    return isinstance(modules, str) and any(
        word in modules.lower() for word in ("cuda", "nvhpc", "nvidia")
    )


def _stale_list(
    machine: Snapshot, variable: str, settings: list[tuple[StartupFile, StartupSetting]]
) -> Answers:
    entries = machine.environment.path
    if variable == "LD_LIBRARY_PATH":
        entries = machine.environment.ld_library_path
    if isinstance(entries, Unknown):
        yield NotChecked(why=entries.why, subject=variable)
        return
    texts = {entry.text.rstrip("/") for entry in entries or ()}
    texts |= {entry.resolved for entry in entries or () if isinstance(entry.resolved, str)}
    doubtful: Unknown | None = None
    for file, setting in settings:
        if isinstance(setting.value, Unknown):
            if "cuda" in setting.text.lower():
                doubtful = setting.value
            continue
        if setting.is_conditional or not isinstance(setting.value, str):
            continue
        missing = [e for e in _cuda_elements(setting.value) if e.rstrip("/") not in texts]
        if not missing:
            continue
        yield Symptom(
            saw=f"{_place(file, setting)} puts {missing[0]} on {variable}; this shell's lacks it.",
            fix=_renewal(file.path),
            subject=variable,
            commands=(f". {shlex.quote(file.path)}",),
        )
        return
    if doubtful is not None:
        yield NotChecked(why=doubtful.why, subject=variable)


def _renewal(path: str) -> str:
    if _is_for_logins(path):
        return "Log out and in again, or read the file in this shell."
    return "Open a new shell, or read the file in this one."


@rule("ENV028", Severity.ERROR, "A start-up file has a mangled export")
def export_is_mangled(machine: Snapshot) -> Answers:
    """The line does not set the variable that it means to set, so every new shell lacks it.

    The shell wants exactly `export NAME=value`: one blank after export, none around the `=`, and
    straight quotes. Lines copied from web pages and word processors lose the blank or bring curly
    quotes, which become part of the value.
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    yield from _unreadable(files)
    for file, setting in _settings(files):
        if setting.mangled is None:
            continue
        yield Symptom(
            saw=f"{_place(file, setting)} has `{setting.text}`: {setting.mangled}.",
            fix=f"Write it as `{_well_formed(machine, file.path, setting.variable)}`.",
            subject=_place(file, setting),
            commands=(_mending(machine, file, setting),),
        )


def _well_formed(machine: Snapshot, path: str, variable: str) -> str:
    """Return what such a line looks like in the language of the file at *path*."""
    best = shlex.quote(_best_toolkit(machine) or "/usr/local/cuda")
    if path.endswith(".fish"):
        values = {"PATH": f"{best}/bin $PATH", "LD_LIBRARY_PATH": f"{best}/lib64 $LD_LIBRARY_PATH"}
        return f"set -gx {variable} {values.get(variable, best)}"
    if path == "/etc/environment":
        return f"{variable}={best if variable == 'CUDA_HOME' else '/first:/second'}"
    if path.endswith(_C_SHELL_FILES):
        values = {"PATH": f"{best}/bin:$PATH", "LD_LIBRARY_PATH": f"{best}/lib64"}
        return f"setenv {variable} {values.get(variable, best)}"
    values = {
        "PATH": f"{best}/bin:$PATH",
        "LD_LIBRARY_PATH": f"{best}/lib64${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}",
    }
    return f"export {variable}={values.get(variable, best)}"


def _mending(machine: Snapshot, file: StartupFile, setting: StartupSetting) -> str:
    """Return the command that mends a mangled line of a common kind, else one that opens it."""
    name, what = setting.variable, _text(setting.mangled)
    if f"export{name}=" in setting.text:
        return _substitute(machine, file, setting, f"s/export{name}=/export {name}=/")
    is_bourne = not file.path.endswith((".fish", *_C_SHELL_FILES))
    if is_bourne and what in ("a blank before the =", "a blank after the ="):
        return _substitute(machine, file, setting, f"s/{name} *= */{name}=/")
    curly = sorted(set("“”„‟″‘’‚‛′") & set(setting.text))
    if curly and what.startswith("a curly quote"):
        return _substitute(machine, file, setting, *(f's/{quote}/"/g' for quote in curly))
    return _edit(machine, file, setting)


@rule("ENV029", Severity.ERROR, "A start-up file appends CUDA_HOME to itself")
def home_is_appended(machine: Snapshot) -> Answers:
    """CUDA_HOME is one folder and no list: with a `:` in it, no toolkit is found by it.

    The line was written after the pattern of PATH. Each new shell inside a shell makes it longer.
    Set CUDA_HOME to one path, and extend PATH by `$CUDA_HOME/bin`.
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    yield from _unreadable(files)
    for file, setting in _settings(files):
        if setting.appends_to_itself:
            best = _best_toolkit(machine) or "/usr/local/cuda"
            yield Symptom(
                saw=f"{_place(file, setting)} has `{setting.text}`.",
                fix=f"Write it as `export CUDA_HOME={shlex.quote(best)}`.",
                subject=_place(file, setting),
                commands=(_edit(machine, file, setting),),
            )


@rule("ENV030", Severity.INFO, "The CUDA exports do not reach non-interactive shells")
def exports_come_too_late(machine: Snapshot) -> Answers:
    """Ssh commands, cron and batch jobs leave .bashrc before the lines that set CUDA's variables.

    Most distributions' .bashrc ends near its top for shells that are not interactive (`case $- in
    *i*) ;; *) return;; esac`). What stands below is for terminals alone. Move the exports above
    that line; `gpucheck env install` puts them there.
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    for file in files:
        if not file.path.endswith("/.bashrc"):
            continue
        yield from _unreadable([file])
        mine = [setting for _, setting in _settings([file]) if _is_about_cuda(setting)]
        late = [setting for setting in mine if setting.after_early_exit]
        early = {setting.variable for setting in mine if not setting.after_early_exit}
        if late and any(setting.variable not in early for setting in late):
            lines = ", ".join(str(setting.line) for setting in late)
            yield Symptom(
                saw=f"{file.path} ends at line {file.early_exit_line} for such shells; "
                f"CUDA's exports stand at line {lines}.",
                fix="Move them above that line.",
                subject=file.path,
                commands=(_edit(machine, file, late[0]),),
            )


def _is_about_cuda(setting: StartupSetting) -> bool:
    return setting.mangled is None and (
        setting.variable == "CUDA_HOME" or "cuda" in setting.text.lower()
    )


@rule("ENV031", Severity.WARNING, "A start-up file extends LD_LIBRARY_PATH without a guard")
def append_is_unguarded(machine: Snapshot) -> Answers:
    """Where LD_LIBRARY_PATH was unset, the line leaves an empty element: the current directory.

    `/x/lib:$LD_LIBRARY_PATH` becomes `/x/lib:` in a fresh shell, and the loader then takes
    libraries from whatever folder you stand in. Write the `:` so that it comes only with something
    behind it: `/x/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}`.
    """
    files = _startup_files(machine)
    if not isinstance(files, tuple):
        yield files
        return
    yield from _unreadable(files)
    for file, setting in _settings(files):
        if setting.unguarded:
            yield Symptom(
                saw=f"{_place(file, setting)} has `{setting.text}`.",
                fix="Write `${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}` for `:$LD_LIBRARY_PATH`.",
                subject=_place(file, setting),
                commands=(_guarding(machine, file, setting),),
            )


def _guarding(machine: Snapshot, file: StartupFile, setting: StartupSetting) -> str:
    """Return the command that puts a guard into a line of the common form."""
    is_common = setting.text.count("LD_LIBRARY_PATH") == 2 and (
        ":$LD_LIBRARY_PATH" in setting.text or ":${LD_LIBRARY_PATH}" in setting.text
    )
    if not is_common or file.path.endswith(_C_SHELL_FILES):
        return _edit(machine, file, setting)
    guard = r"s/:\$\({LD_LIBRARY_PATH}\|LD_LIBRARY_PATH\)/${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}/"
    return _substitute(machine, file, setting, guard)
