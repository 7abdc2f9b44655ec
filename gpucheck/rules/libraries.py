"""Rules about the libraries that would be loaded for torch: the family LIB."""

import re
import shlex
from collections.abc import Generator

from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    DamagedFile,
    Distribution,
    HomeVariable,
    Library,
    Python,
    Snapshot,
    Toolkit,
    Unknown,
)
from gpucheck.versions import version_tuple

Asking = Generator[NotChecked | NotApplicable, None, "tuple[Library, ...] | None"]


_BY_VARIABLE = ("LD_LIBRARY_PATH", "LD_PRELOAD")


def installer(machine: Snapshot) -> str:
    """Return the command that installs into the Python examined: its own pip, or uv."""
    python = machine.pytorch.python
    path = shlex.quote(python.path) if isinstance(python, Python) else "python3"
    distributions = machine.pytorch.distributions
    if isinstance(distributions, tuple):
        for distribution in distributions:
            if distribution.name == "torch" and distribution.installer == "uv":
                return f"uv pip install --python {path}"
    return f"{path} -m pip install"


def required_version(machine: Snapshot, wheel: str) -> str | None:
    """Return the version of *wheel* that torch asks for, where it asks for one alone."""
    distributions = machine.pytorch.distributions
    if isinstance(distributions, tuple):
        for distribution in distributions:
            for requirement in distribution.requires:
                name, _, version = requirement.partition("==")
                if name == wheel and version and "," not in version:
                    return version
    return None


def is_same_version(one: str, other: str) -> bool:
    """Compare two versions as far as both go: a wheel's fourth number counts builds."""
    left, right = version_tuple(one), version_tuple(other)
    length = min(len(left), len(right), 4)
    return length > 0 and left[:length] == right[:length]


def cuda_libraries(machine: Snapshot) -> Asking:
    """Return the CUDA libraries that torch would get; where it needs none, say that and why."""
    resolved = machine.libraries.resolved
    if resolved is None:
        yield NotApplicable(why="no torch is here")
        return None
    if isinstance(resolved, Unknown):
        yield NotChecked(why=resolved.why)
        return None
    if not resolved:
        yield NotApplicable(why="this torch needs no CUDA library")
        return None
    return resolved


# ------------------------------------------------------------------------------------------ LIB001


@rule("LIB001", Severity.ERROR, "LD_LIBRARY_PATH gives torch other libraries than its own wheels")
def shadowed_wheels(machine: Snapshot) -> Answers:
    """A torch that runs on CUDA libraries it was not built and tested with fails in strange ways.

    torch's wheels come with their own cuBLAS, cuDNN, NCCL and so on. The loader asks the
    directories of LD_LIBRARY_PATH before a library's own DT_RUNPATH (but after a DT_RPATH), and
    LD_PRELOAD before everything. So a toolkit's lib64, a conda environment's lib or another
    environment's wheels on that list quietly take the place of torch's own copies: of all of them,
    or only of those that one library asks another for, which mixes two releases in one process.
    The usual signs are "undefined symbol: __nvJitLink…", CUBLAS_STATUS_NOT_INITIALIZED and
    CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH.

    torch's wheels need nothing on LD_LIBRARY_PATH. Take the directory out; where another program
    needs it, set the variable for that program alone. gpucheck follows the loader's order without
    loading anything, and does not complain where torch's own DT_RPATH wins all the same, or where
    both copies are of one version.
    """
    libraries = yield from cuda_libraries(machine)
    shadows: dict[tuple[str, str], list[Library]] = {}
    for library in libraries or ():
        if library.found_via not in _BY_VARIABLE or library.wheel_path is None:
            continue
        if library.wheel_path in (library.path, library.real_path):
            continue
        where = (library.found_via, library.directory)
        version, own = library.version, library.wheel_version
        if isinstance(version, str) and isinstance(own, str):
            if not is_same_version(version, own):
                shadows.setdefault(where, []).append(library)
            continue
        unknown = version if isinstance(version, Unknown) else own
        why = unknown.why if isinstance(unknown, Unknown) else "the wheel's version is not known"
        yield NotChecked(
            why=f"{library.path} wins over {library.wheel_path}: {why}",
            subject=library.directory,
        )
    for (variable, directory), found in shadows.items():
        pairs = [
            f"{library.soname}: {library.path} ({library.version}) instead of "
            f"{library.wheel_path} ({library.wheel_version})"
            for library in found
        ]
        command = _without(machine, variable, directory, found)
        yield Symptom(
            subject=directory,
            saw=f"{variable} gives " + "; ".join(pairs),
            fix=f"Take {directory or 'the empty element'} out of {variable}: torch's wheels bring "
            "these libraries themselves.",
            commands=(command,) if command else (),
            explained_by=("ENV025",) if variable == "LD_PRELOAD" else (),
        )


def _without(machine: Snapshot, variable: str, directory: str, found: list[Library]) -> str:
    """Return the command that sets *variable* without *directory*, or unsets it."""
    value = machine.environment.variable(variable)
    if not isinstance(value, str):
        return ""
    if variable == "LD_PRELOAD":
        paths = {library.path for library in found}
        elements = [e for e in re.split("[ :]", value) if e and e not in paths]
    else:
        elements = [e for e in re.split("[:;]", value) if e and e != directory]
    if not elements:
        return f"unset {variable}"
    return f"export {variable}={shlex.quote(':'.join(elements))}"


# ------------------------------------------------------------------------------------------ LIB002


def _nvidia_wheels(
    machine: Snapshot,
) -> "Generator[NotChecked | NotApplicable, None, tuple[Distribution, ...] | None]":
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


@rule("LIB002", Severity.ERROR, "Wheels for different CUDA versions overwrite each other")
def mixed_wheels(machine: Snapshot) -> Answers:
    """Two wheels wrote their files into one directory: what lies there is from the last one.

    nvidia-cudnn-cu12 and nvidia-cudnn-cu13 (likewise NCCL, NVSHMEM, cuSPARSELt, and all libraries
    of cu11 and cu12) unpack into the same folder below site-packages/nvidia. pip takes them for
    two packages and installs both. torch then finds a library for another CUDA, and removing
    either wheel takes files away from the other.

    Uninstall both, then install the one that torch asks for. CUDA 13's own folder nvidia/cu13
    beside the folders of cu12 wheels is no such clash.
    """
    wheels = yield from _nvidia_wheels(machine)
    if wheels is None:
        return
    mixed = yield from known(machine.pytorch.mixed_wheels)
    for directory in mixed or ():
        rivals = [wheel for wheel in wheels if _writes_into(wheel.name, directory)]
        names = [wheel.name for wheel in rivals]
        wanted = [name for name in names if required_version(machine, name)]
        pip = installer(machine)
        remove = pip.replace(" install", " uninstall", 1)
        again = [f"{name}=={required_version(machine, name)}" for name in wanted]
        yield Symptom(
            subject=directory,
            saw=" and ".join(f"{wheel.name} {wheel.version}" for wheel in rivals)
            + f" both write into {directory}"
            if rivals
            else f"wheels for different CUDA versions write into {directory}",
            fix="Uninstall them all, then install the one that torch asks for.",
            commands=(
                f"{remove}{'' if pip.startswith('uv ') else ' -y'} {' '.join(names)}",
                f"{pip} {' '.join(shlex.quote(each) for each in again) or 'torch'}",
            )
            if names
            else (),
        )


def _writes_into(wheel: str, directory: str) -> bool:
    """Say whether *wheel* is one of several whose library lies in *directory*."""
    name, _, major = wheel.removeprefix("nvidia-").rpartition("-cu")
    return major.isdigit() and f"/nvidia/{name.replace('-', '_')}/" in f"{directory}/"


# ------------------------------------------------------------------------------------------ LIB003


@rule("LIB003", Severity.ERROR, "Files of an NVIDIA wheel are missing or changed")
def damaged_wheels(machine: Snapshot) -> Answers:
    """A library of torch's is not as its wheel brought it: imports fail, or crash.

    Every wheel lists its files with their sizes (RECORD). A file that is gone or has another size
    was deleted by hand, cut short by a full disk or a broken download, or overwritten by another
    package. The loader refuses an empty file ("file too short"), and a program that is given half
    a library dies with SIGBUS.

    Install the wheel again: --force-reinstall makes pip write all its files anew.
    """
    if not machine.pytorch.damaged:
        wheels = yield from _nvidia_wheels(machine)
        if wheels is None:
            return
    damaged = yield from known(machine.pytorch.damaged)
    by_wheel: dict[str, list[DamagedFile]] = {}
    for file in damaged or ():
        by_wheel.setdefault(file.distribution, []).append(file)
    distributions = machine.pytorch.distributions
    versions = (
        {each.name: each.version for each in distributions}
        if isinstance(distributions, tuple)
        else {}
    )
    mixed = machine.pytorch.mixed_wheels
    shared = (
        tuple(f"{directory.removesuffix('/lib')}/" for directory in mixed)
        if isinstance(mixed, tuple)
        else ()
    )
    for name, files in by_wheel.items():
        shown = "; ".join(f"{file.path}: {file.problem}" for file in files[:3])
        more = f"; and {len(files) - 3} more" if len(files) > 3 else ""
        version = versions.get(name)
        exact = f"{name}=={version}" if version else name
        overwritten = bool(shared) and all(file.path.startswith(shared) for file in files)
        yield Symptom(
            subject=name,
            saw=f"{name}{f' {version}' if version else ''}: {shown}{more}",
            fix="Install the wheel again.",
            commands=(f"{installer(machine)} --force-reinstall --no-deps {shlex.quote(exact)}",),
            explained_by=("LIB002",) if overwritten else (),
        )


# ------------------------------------------------------------------------------------------ LIB004


@rule("LIB004", Severity.WARNING, "NVIDIA wheels are of other versions than torch requires")
def unwanted_versions(machine: Snapshot) -> Answers:
    """torch was tested with exactly the versions that it asks for; others may lack symbols it uses.

    torch's wheels pin NVIDIA's wheels to one version each. Another package, or an upgrade by hand,
    can replace one of them; pip prints a warning about the conflict and goes on. An older cuDNN
    stops torch with a message about versions, an older nvJitLink or cuBLAS with an undefined
    symbol; a newer one mostly works.

    Where you changed a version on purpose and it works, you may leave it.
    """
    wheels = yield from _nvidia_wheels(machine)
    if wheels is None:
        return
    here = {wheel.name: wheel.version for wheel in wheels}
    wrong: list[tuple[str, str, str]] = []
    for distribution in machine.pytorch.distributions:  # type: ignore[union-attr]
        if distribution.name != "torch":
            continue
        for requirement in distribution.requires:
            name, equals, wanted = requirement.partition("==")
            if not equals or "," in wanted or name not in here:
                continue
            if not _satisfies(here[name], wanted):
                wrong.append((name, here[name], wanted))
    if not wrong:
        return
    mixed = machine.pytorch.mixed_wheels
    clash = isinstance(mixed, tuple) and all(
        any(_writes_into(name, directory) for directory in mixed) for name, _, _ in wrong
    )
    torch = machine.pytorch.torch
    location = "" if torch is None or isinstance(torch, Unknown) else torch.location
    pins = " ".join(shlex.quote(f"{name}=={wanted}") for name, _, wanted in wrong)
    yield Symptom(
        subject=location,
        saw="; ".join(
            f"{name} {version} is installed, torch requires {wanted}"
            for name, version, wanted in wrong
        ),
        fix="Install the versions that torch requires.",
        commands=(f"{installer(machine)} {pins}",),
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


# ------------------------------------------------------------------------------------------ LIB005


@rule("LIB005", Severity.INFO, "The loader's cache holds another toolkit than CUDA_HOME")
def cached_toolkit(machine: Snapshot) -> Answers:
    """Programs find one toolkit's libraries at run time, and builds take another toolkit's headers.

    NVIDIA's packages write a file into /etc/ld.so.conf.d that puts a toolkit's libraries into the
    loader's cache: every program without a better path gets them. CUDA_HOME is what builds use.
    Where the two are of different versions, a program that was built with one runs on the other's
    libraries. Within one CUDA major that mostly works; across majors the library is not found.

    torch's own wheels are not affected.
    """
    home = yield from known(machine.environment.cuda_home)
    if home is None:
        if not isinstance(machine.environment.cuda_home, Unknown):
            yield NotApplicable(why="CUDA_HOME is unset")
        return
    directories = yield from known(machine.libraries.ld_so_conf)
    if directories is None:
        return
    if not directories:
        yield NotApplicable(why="no toolkit feeds the loader's cache")
        return
    wanted = yield from known(_version_of_home(home))
    if wanted is None:
        return
    installed = yield from known(machine.toolkits.installed)
    if installed is None:
        return
    for directory in directories:
        version = _version_at(directory, installed)
        if isinstance(version, Unknown):
            yield NotChecked(why=version.why, subject=directory)
        elif not is_same_version(version, wanted):
            yield Symptom(
                subject=directory,
                saw=f"/etc/ld.so.conf.d puts {directory} (CUDA {version}) into the loader's cache; "
                f"CUDA_HOME={home.value} is CUDA {wanted}",
                fix="Point CUDA_HOME at the toolkit that programs run on, or correct the file in "
                "/etc/ld.so.conf.d and run ldconfig.",
                commands=("grep -rl cuda /etc/ld.so.conf.d # then: sudo ldconfig",),
            )


def _version_of_home(home: HomeVariable) -> str | Unknown:
    version = home.toolkit_version
    if isinstance(version, Unknown):
        return version
    return version if version is not None else Unknown(f"{home.value} is no toolkit")


def _version_at(directory: str, installed: tuple[Toolkit, ...]) -> str | Unknown:
    for toolkit in installed:
        if directory == toolkit.library_directory or directory.startswith(f"{toolkit.home}/"):
            version = toolkit.version
            if isinstance(version, Unknown):
                return version
            if version is not None:
                return version
    return Unknown(f"the version of the toolkit at {directory} is not known")
