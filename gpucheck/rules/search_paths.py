"""Rules about the directories that PATH and LD_LIBRARY_PATH name."""

from collections.abc import Iterator

from gpucheck.conditions import uses_cuda
from gpucheck.remedies import variables
from gpucheck.rule import Answers, NotChecked, Remedy, Severity, Symptom, command, known, rule
from gpucheck.rules.cuda_home import malformation
from gpucheck.snapshot import HomeVariable, PathEntry, Snapshot, Unknown, value
from gpucheck.startup_lines import faults, is_in
from gpucheck.wording import count, listed

_NO_LIST = "LD_LIBRARY_PATH is not set"


def _lists(
    machine: Snapshot,
) -> tuple[tuple[str, tuple[PathEntry, ...] | Unknown | None], ...]:
    environment = machine.environment
    return ("PATH", environment.path), ("LD_LIBRARY_PATH", environment.ld_library_path)


def _missing(entries: tuple[PathEntry, ...]) -> Iterator[str]:
    """Yield each absolute element that leads nowhere, once; what was wrongly joined is ENV032's."""
    missing = (
        entry.text
        for entry in entries
        if entry.resolved is None and entry.text.startswith("/") and not entry.joined
    )
    yield from dict.fromkeys(missing)


def _why_missing(machine: Snapshot, path: str) -> tuple[str, ...]:
    """Return the codes of what explains that *path* is not there."""
    causes: list[str] = []
    home = machine.environment.cuda_home
    if isinstance(home, HomeVariable) and is_in(path, home.value) and path != home.value:
        if malformation(home.value) is not None:
            causes.append("ENV003")
        if home.resolved is None:
            causes.append("ENV002")
    if any(is_in(path, link) for link in value(machine.toolkits.dangling) or ()):
        causes.append("CUD005")
    return tuple(causes)


def _without(entries: tuple[PathEntry, ...], text: str) -> list[str]:
    return [entry.text for entry in entries if entry.text and entry.text != text]


@rule("ENV008", Severity.INFO, "PATH names a CUDA directory that does not exist", when=uses_cuda)
def path_leads_nowhere(machine: Snapshot) -> Answers:
    """An old toolkit's folder on PATH does no harm by itself, but shows that something moved.

    Usually a toolkit was upgraded or removed and a start-up file still names the old version.
    """
    entries = yield from known(machine.environment.path, absent="PATH is not set")
    for text in _missing(entries or ()):
        if "cuda" in text.lower():
            yield Symptom(
                saw=f"PATH names {text}, which does not exist",
                remedy=variables.set_list(machine, "PATH", _without(entries or (), text), text),
                subject=text,
                explained_by=(
                    *_why_missing(machine, text),
                    *faults(machine, "CUDA_HOME", "PATH", path=text),
                ),
            )


@rule(
    "ENV009",
    Severity.INFO,
    "Several CUDA toolkits are on PATH",
    caused_by=("ENV005", "ENV026"),
    when=uses_cuda,
)
def several_compilers(machine: Snapshot) -> Answers:
    """Only the first `nvcc` on PATH is ever run; which one that is depends on the order.

    Nothing is wrong as long as the first is the one you mean.
    """
    entries = yield from known(machine.environment.path, absent="PATH is not set")
    compilers = [entry for entry in entries or () if entry.has_nvcc is True]
    homes: dict[str, PathEntry] = {}
    unknown: Unknown | None = None
    for entry in compilers:
        if isinstance(entry.toolkit, str):
            homes.setdefault(entry.toolkit, entry)
        elif isinstance(entry.toolkit, Unknown):
            unknown = entry.toolkit
    if len(homes) < 2:
        if unknown is not None and len(compilers) > 1:
            yield NotChecked.because(unknown, "PATH")
        return
    reported = [f"{entry.text} ({_version(entry)})" for entry in homes.values()]
    yield Symptom(
        saw=f"PATH has {len(homes)} toolkits; the first is used: {', then '.join(reported)}",
        remedy=Remedy("Keep the one you mean, or put it first"),
        subject="PATH",
    )


def _version(entry: PathEntry) -> str:
    version = value(entry.toolkit_version)
    return "version unknown" if version is None else f"CUDA {version}"


@rule(
    "ENV011",
    Severity.INFO,
    "LD_LIBRARY_PATH names a directory that does not exist",
    when=uses_cuda,
)
def library_path_leads_nowhere(machine: Snapshot) -> Answers:
    """The loader passes over a folder that is not there; what you expect from it stays missing.

    Usually a toolkit was upgraded or removed, or the path was mistyped (lib for lib64).
    """
    entries = yield from known(machine.environment.ld_library_path, absent=_NO_LIST)
    for text in _missing(entries or ()):
        yield Symptom(
            saw=f"LD_LIBRARY_PATH names {text}, which does not exist",
            remedy=variables.set_list(
                machine, "LD_LIBRARY_PATH", _without(entries or (), text), text
            ),
            subject=text,
            explained_by=(
                *_why_missing(machine, text),
                *faults(machine, "LD_LIBRARY_PATH", path=text),
            ),
        )


@rule(
    "ENV013",
    Severity.WARNING,
    "PATH or LD_LIBRARY_PATH has a relative element",
    when=uses_cuda,
)
def relative_element(machine: Snapshot) -> Answers:
    """A relative element means another folder wherever you are: programs come and go with `cd`.

    Whoever can write into a folder where you work can put a program or library there that you then
    run. An empty element of PATH means the current directory too. A `~` in quotes stays a `~`,
    which no program but bash expands.
    """
    for name, entries in _lists(machine):
        if isinstance(entries, Unknown):
            yield NotChecked.because(entries, name)
            continue
        relative = [entry.text for entry in entries or () if _is_relative(name, entry.text)]
        if not relative:
            continue
        kept = [e.text for e in entries or () if e.text and not _is_relative(name, e.text)]
        what = ", ".join(repr(text) for text in dict.fromkeys(relative))
        yield Symptom(
            saw=f"{name} names {what}",
            remedy=variables.set_list(
                machine, name, kept, relative[0], f"Write the full path of {what}, or remove it"
            ),
            subject=name,
        )


def _is_relative(name: str, text: str) -> bool:
    if name == "PATH":
        return not text.startswith("/")
    # The loader expands its own tokens ($ORIGIN, $LIB); an empty element is ENV010's.
    return bool(text) and not text.startswith(("/", "$ORIGIN", "${ORIGIN}"))


@rule(
    "ENV014",
    Severity.WARNING,
    "World-writable directory on PATH or LD_LIBRARY_PATH",
    when=uses_cuda,
)
def element_is_writable(machine: Snapshot) -> Answers:
    """Anybody on this machine can put a program or library there that you then run as yourself.

    The folder itself may be writable by all, or one above it, so that others can put another in
    its place, or it does not exist yet and others may create it. A sticky bit (as /tmp has) keeps
    people from removing each other's files, not from adding new ones. For root it is an error.
    """
    severity = Severity.ERROR if machine.host.is_root is True else None
    seen: set[str] = set()
    for name, entries in _lists(machine):
        if isinstance(entries, Unknown):
            yield NotChecked.because(entries, name)
            continue
        for entry in entries or ():
            if not entry.text.startswith("/") or entry.text in seen or entry.joined:
                continue
            seen.add(entry.text)
            if machine.host.is_wsl is True and entry.text.startswith("/mnt/"):
                continue  # Windows' drives show rights that nobody has
            if isinstance(entry.is_world_writable, Unknown):
                yield NotChecked.because(entry.is_world_writable, entry.text)
            elif entry.is_world_writable:
                is_there = entry.resolved is not None
                remove = variables.set_list(
                    machine, name, _without(entries or (), entry.text), entry.text
                )
                yield Symptom(
                    saw=f"{name} names {entry.text}, "
                    + (
                        "to which anyone may write (or to a directory above it)"
                        if is_there
                        else "which does not exist and which anyone may create"
                    ),
                    remedy=_close(entry.text, remove) if is_there else remove,
                    subject=entry.text,
                    severity=severity,
                )


def _close(path: str, remove: Remedy) -> Remedy:
    return Remedy(
        "Take write access away from others",
        steps=(command("chmod o-w {path}", path=path, lasts="permanent"),),
        alternatives=(remove,),
        verify=command("ls -ld {path}", path=path),
    )


@rule("ENV032", Severity.WARNING, "A path list uses the wrong separator", when=uses_cuda)
def wrong_separator(machine: Snapshot) -> Answers:
    """Elements of PATH and LD_LIBRARY_PATH are separated by `:`; none of these is searched.

    With spaces, commas or nothing between them, several directories become one name that does
    not exist. `/a/lib$LD_LIBRARY_PATH` without a `:` does it; fish lists, copied without their
    quotes, and values from web pages look like that. In fish, write `set -gx LD_LIBRARY_PATH
    /a:/b`.
    """
    for name, entries in _lists(machine):
        if isinstance(entries, Unknown):
            yield NotChecked.because(entries, name)
            continue
        wrong = [entry for entry in entries or () if entry.joined]
        if not wrong:
            continue
        kept = [text for e in entries or () for text in (e.joined or (e.text,)) if text]
        parts = [part for entry in wrong for part in entry.joined]
        yield Symptom(
            saw=f"{name} has {wrong[0].text!r} as one element: "
            f"{count(len(parts), 'directory', 'directories')} ({listed(parts)}), none of them "
            "searched",
            remedy=variables.set_list(
                machine, name, kept, wrong[0].text, f"Separate the elements of {name} by `:`"
            ),
            subject=name,
        )
