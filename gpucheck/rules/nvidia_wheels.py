"""Rules about NVIDIA's library wheels in the examined Python: LIB002 to LIB004."""

from collections.abc import Generator, Sequence

from gpucheck import derived
from gpucheck.remedies import python_packages
from gpucheck.requirements import is_same_version
from gpucheck.rule import (
    Answers,
    NotApplicable,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    known,
    rule,
)
from gpucheck.snapshot import DamagedFile, Distribution, Library, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count, listed

_SHOWN = 3  # files of one wheel; the others are counted
#: cuDNN 9's older interface for convolutions, which torch does not call (see DNN003).
_UNUSED = "libcudnn_cnn.so.9"


def _wheels(machine: Snapshot) -> Generator[Obstacle, None, tuple[Distribution, ...] | None]:
    """Return NVIDIA's library wheels in this Python; where there are none, say that and why."""
    distributions = yield from known(machine.pytorch.distributions)
    if distributions is None:
        return None
    wheels = tuple(
        d for d in distributions if d.name.startswith("nvidia-") and d.name != "nvidia-ml-py"
    )
    if not wheels:
        yield NotApplicable(why="no NVIDIA wheel is installed in this Python")
        return None
    return wheels


@rule(
    "LIB002",
    Severity.ERROR,
    "Wheels for different CUDA versions overwrite each other",
    caused_by=("TOR010",),
)
def mixed_wheels(machine: Snapshot) -> Answers:
    """Two wheels wrote their files into one directory: what lies there is from the last one.

    nvidia-cudnn-cu12 and nvidia-cudnn-cu13 (likewise NCCL, NVSHMEM, cuSPARSELt, and all libraries
    of cu11 and cu12) unpack into the same folder below site-packages/nvidia. pip takes them for
    two packages and installs both. torch then finds a library for another CUDA, and removing
    either wheel takes files away from the other.

    Uninstall both sets, then install the one that torch asks for; what requires the other set has
    to go or to change too, or it comes back. CUDA 13's own folder nvidia/cu13 next to the folders
    of cu12 wheels is no such clash.
    """
    wheels = yield from _wheels(machine)
    mixed = yield from known(machine.pytorch.mixed_wheels)
    if wheels is None or not mixed:
        return
    sites = dict.fromkeys(directory.partition("/nvidia/")[0] for directory in mixed)
    for site in sites:
        folders = [directory for directory in mixed if directory.startswith(f"{site}/nvidia/")]
        rivals = [
            wheel
            for wheel in wheels
            if wheel.location in ("", site) and any(_writes_into(wheel.name, f) for f in folders)
        ]
        yield _clash(machine, site, folders, rivals)


def _clash(
    machine: Snapshot, site: str, folders: Sequence[str], rivals: Sequence[Distribution]
) -> Symptom:
    wanted = [
        need
        for need in derived.torch_requirements(machine)
        if need.partition("==")[0] in {wheel.name for wheel in rivals} and "==" in need
    ]
    names = {need.partition("==")[0] for need in wanted}
    strays = [wheel for wheel in rivals if wheel.name not in names] if wanted else []
    shown = [f"{wheel.name} {wheel.version}" for wheel in rivals]
    where = folders[0] if len(folders) == 1 else f"{count(len(folders), 'folder')} of {site}/nvidia"
    text = "Uninstall them all, then install those that torch asks for."
    requirers = _requirers(machine, strays)
    if requirers:
        text += f" {listed(requirers)}: without a change there, they come back."
    install = python_packages.wheels(machine, wanted, text=text)
    steps = (
        (*python_packages.uninstall(machine, [wheel.name for wheel in rivals]), *install.steps)
        if wanted
        else ()
    )
    return Symptom(
        subject=folders[0] if len(folders) == 1 else site,
        saw=f"{listed(shown)} write into {where}" if rivals else f"several wheels write to {where}",
        remedy=Remedy(text, steps, verify=install.verify),
    )


def _writes_into(wheel: str, directory: str) -> bool:
    """Say whether *wheel* is one of several whose library lies in *directory*."""
    name, _, major = wheel.removeprefix("nvidia-").rpartition("-cu")
    return major.isdigit() and f"/nvidia/{name.replace('-', '_')}/" in f"{directory}/"


def _requirers(machine: Snapshot, strays: Sequence[Distribution]) -> list[str]:
    """Say which distributions ask for the wheels that torch does not want."""
    names = {wheel.name for wheel in strays}
    found: list[str] = []
    for each in value(machine.pytorch.distributions) or ():
        asked = [n for n in (_name(need) for need in each.requires) if n in names]
        if asked:
            found.append(f"{each.name} {each.version} requires {listed(asked)}")
    return found


def _name(requirement: str) -> str:
    for at, letter in enumerate(requirement):
        if letter in "=<>~!":
            return requirement[:at]
    return requirement


# ------------------------------------------------------------------------------------------ LIB003


@rule(
    "LIB003",
    Severity.ERROR,
    "NVIDIA libraries that torch needs are missing or changed",
    caused_by=("TOR010",),
)
def damaged_wheels(machine: Snapshot) -> Answers:
    """A library of torch's is not as its wheel brought it: imports fail, or crash.

    Every wheel lists its files with their sizes (RECORD). A file that is gone or has another size
    was deleted by hand, cut short by a full disk or a broken download, or overwritten by another
    package. The loader refuses an empty file ("file too short"), and a program that is given half
    a library dies with SIGBUS. Where the loader finds an equal library elsewhere in its place, this
    is a warning: torch runs, on a copy that nobody chose.

    Install the wheel again: --force-reinstall makes pip write all its files again.
    """
    if not machine.pytorch.damaged:
        wheels = yield from _wheels(machine)
        if wheels is None:
            return
    damaged = yield from known(machine.pytorch.damaged)
    by_wheel: dict[str, list[DamagedFile]] = {}
    for file in damaged or ():
        by_wheel.setdefault(file.distribution, []).append(file)
    mixed = value(machine.pytorch.mixed_wheels) or ()
    shared = tuple(f"{directory.removesuffix('/lib')}/" for directory in mixed)
    for name, files in by_wheel.items():
        yield _damaged_wheel(machine, name, files, shared)
    if machine.deep is None or machine.deep.import_error is not None:  # an import outranks us
        yield from _absent_libraries(machine, damaged or ())


def _damaged_wheel(
    machine: Snapshot, name: str, files: Sequence[DamagedFile], shared: tuple[str, ...]
) -> Symptom:
    version = next(
        (each.version for each in value(machine.pytorch.distributions) or () if each.name == name),
        "",
    )
    is_replaced = _is_replaced_as_a_whole(machine, name, files)
    instead = {} if is_replaced else {file.path: _instead(machine, file) for file in files}
    serve = is_replaced or all(served for served, _ in instead.values())
    shown = [f"{file.path}: {file.problem}" for file in files[:_SHOWN]]
    if len(files) > _SHOWN:
        shown.append(f"and {len(files) - _SHOWN} more")
    texts = dict.fromkeys(text for _, text in instead.values() if text)
    if is_replaced:
        texts = {"all of its libraries were replaced by those of another cuDNN": None}
    gets = f"; {'; '.join([*texts][:_SHOWN])}" if texts else ""
    overwritten = bool(shared) and all(file.path.startswith(shared) for file in files)
    return Symptom(
        subject=name,
        severity=Severity.WARNING if serve or derived.works_on_gpus(machine) else None,
        saw=f"{name}{f' {version}' if version else ''}: {'; '.join(shown)}{gets}",
        remedy=python_packages.wheels(
            machine,
            [f"{name}=={version}" if version else name],
            text="Install the wheel again.",
            again=True,
        ),
        explained_by=("LIB002",) if overwritten else (),
    )


def _is_replaced_as_a_whole(machine: Snapshot, wheel: str, files: Sequence[DamagedFile]) -> bool:
    """Tell whether every part of cuDNN in its wheel was replaced, and the whole opens and answers.

    Measured with a whole 9.14 in the place of 9.19: all of torch's work passes.
    """
    opened = value(machine.cudnn.opened)
    torchs = value(machine.cudnn.for_torch)
    if not wheel.startswith("nvidia-cudnn") or opened is None or opened.error is not None:
        return False
    if torchs is None or opened.path != torchs.path or not isinstance(opened.version, str):
        return False
    changed = {file.path for file in files if file.problem != "missing"}
    parts = [part.path for part in value(machine.cudnn.sublibraries_for_torch) or ()]
    return bool(parts) and {torchs.path, *parts} <= changed


def _instead(machine: Snapshot, file: DamagedFile) -> tuple[bool, str]:
    """Return whether torch can do without *file*, and what it gets in its place."""
    soname = file.path.rpartition("/")[2]
    if ".so" not in soname:
        return True, ""  # a header or a text: programs run without
    if file.problem != "missing":
        return False, ""  # it is there, and the loader takes it
    library = next(
        (each for each in value(machine.libraries.resolved) or () if each.soname == soname), None
    )
    if library is None:  # torch does not ask for this one, as far as that is known
        return not isinstance(machine.libraries.resolved, Unknown), ""
    if not isinstance(library.path, str):
        return False, f"nothing else gives {soname}"
    text = f"torch gets {library.path} ({value(library.version) or 'unknown version'}) instead"
    return _is_equal(machine, library, file), text


def _is_equal(machine: Snapshot, library: Library, file: DamagedFile) -> bool:
    """Tell whether *library* serves as well as what the wheel brought.

    An unknown version is no fault: CUPTI's files do not tell theirs.
    """
    here = value(library.version)
    own = next(
        (
            each.version
            for each in value(machine.pytorch.distributions) or ()
            if each.name == file.distribution
        ),
        None,
    )
    if here is None or own is None or is_same_version(here, own):
        return True
    if library.soname.startswith("libcudnn"):
        is_same_major = version_tuple(here)[:1] == version_tuple(own)[:1]
        whole = derived.cudnn_is_of_one_version(machine)
        return is_same_major and (whole or library.soname == _UNUSED)
    return version_tuple(here)[:2] >= version_tuple(own)[:2]


def _absent_libraries(machine: Snapshot, damaged: Sequence[DamagedFile]) -> Answers:
    """Report what torch needs and nothing gives, where no wheel's own list says so."""
    told = {file.path.rpartition("/")[2] for file in damaged}
    absent = [
        each
        for each in value(machine.libraries.resolved) or ()
        if each.path is None and each.soname not in told and "cudnn" not in each.soname
    ]
    others = [
        name
        for name in value(machine.libraries.not_found) or ()
        if not name.startswith(("libcuda.so", "libnvidia-ml.so", "libcudnn"))
        and name not in {each.soname for each in value(machine.libraries.resolved) or ()}
    ]
    if not absent and not others:
        return
    asker = absent[0].needed_by if absent else "torch"
    names = [*(each.soname for each in absent), *others]
    yield Symptom(
        subject=asker,
        saw=f"{asker} needs {listed(names)}, which nothing here gives",
        remedy=python_packages.reinstall_torch(machine, with_dependencies=True)
        if absent
        else Remedy(f"Install the system's package that has {listed(others)}."),
    )


# ------------------------------------------------------------------------------------------ LIB004


@rule(
    "LIB004",
    Severity.WARNING,
    "NVIDIA wheels are of other versions than torch requires",
    caused_by=("TOR010",),
)
def unwanted_versions(machine: Snapshot) -> Answers:
    """torch was tested with exactly the versions that it asks for; others may lack symbols it uses.

    torch's wheels pin NVIDIA's wheels to one version each. Another package, or an upgrade by hand,
    can replace one of them; pip prints a warning about the conflict and goes on. An older cuDNN
    stops torch with a message about versions, an older nvJitLink or cuBLAS with an undefined
    symbol; a newer one mostly works.

    Where you changed a version on purpose and it works, you may leave it.
    """
    if (yield from _wheels(machine)) is None:
        return
    here = derived.wheels_here(machine)
    wrong: list[tuple[str, str, str]] = []
    for requirement in derived.torch_requirements(machine):
        name, equals, wanted = requirement.partition("==")
        if not equals or "," in wanted or name not in here:
            continue
        if not _satisfies(here[name].version, wanted):
            wrong.append((name, here[name].version, wanted))
    if not wrong:
        return
    mixed = value(machine.pytorch.mixed_wheels) or ()
    clash = bool(mixed) and all(
        any(_writes_into(name, directory) for directory in mixed) for name, _, _ in wrong
    )
    torch = value(machine.pytorch.torch)
    yield Symptom(
        subject=torch.location if torch is not None else "",
        saw="; ".join(
            f"{name} {version} is installed, torch requires {wanted}"
            for name, version, wanted in wrong
        ),
        remedy=python_packages.wheels(
            machine,
            [f"{name}=={wanted}" for name, _, wanted in wrong],
            text="Install the versions that torch requires.",
        ),
        explained_by=("LIB002",) if clash else (),
    )


def _satisfies(version: str, wanted: str) -> bool:
    """Compare as packaging does for `==`: "12.1.*" is a beginning, zeros at the end are nothing."""
    have = version_tuple(version)
    if wanted.endswith(".*"):
        start = version_tuple(wanted.removesuffix(".*"))
        return have[: len(start)] == start
    want = version_tuple(wanted)
    length = max(len(have), len(want))
    return have + (0,) * (length - len(have)) == want + (0,) * (length - len(want))
