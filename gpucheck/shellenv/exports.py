"""Decides which exports a machine needs: a pure function of its snapshot."""

import enum
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

from gpucheck import derived
from gpucheck.snapshot import Snapshot, Toolkit, Torch, Unknown
from gpucheck.usage_error import NoAnswerError, UsageError
from gpucheck.versions import version_tuple


class LibraryPath(str, enum.Enum):
    """Whether the toolkit's libraries go into LD_LIBRARY_PATH."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """What a shell is to export. All directories are absolute, without a colon."""

    cuda_home: str
    version: str
    bin_directory: str | None  # in front of PATH; None: on every PATH anyway (/usr/bin)
    library_directory: str | None  # in front of LD_LIBRARY_PATH; None: stays out
    library_reason: str  # why it is in or out, in a sentence
    warnings: tuple[str, ...] = ()  # what the user should know about the choice, in sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A toolkit that could be chosen, as `gpucheck env --list` shows it."""

    toolkit: Toolkit
    version: str  # "13.0", or "unknown version"
    nvcc: str | None
    runs_with_driver: bool | None  # None: there is no driver, or nobody can tell
    matches_torch: bool | None  # None: no CUDA torch, or nobody can tell


def choices(machine: Snapshot) -> tuple[Choice, ...]:
    """Return the toolkits of *machine*, the one to take by default first.

    Raises NoAnswerError where nobody could look for toolkits.
    """
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        raise NoAnswerError(
            f"which CUDA toolkits are here could not be determined: {installed.why}"
        )
    return tuple(_choice(toolkit, machine) for toolkit in derived.toolkits_by_preference(machine))


def choose(machine: Snapshot, wanted: str | None = None) -> Choice:
    """Return the toolkit that *wanted* names ("12.4", "12", or a path); None: the default.

    Raises UsageError, naming what is there, where there is none such, and where none fits torch.
    """
    found = choices(machine)
    if not found:
        raise UsageError("no CUDA toolkit was found, so there is nothing to export")
    there = ", ".join(f"{choice.version} ({choice.toolkit.home})" for choice in found)
    if wanted is None:
        if found[0].matches_torch is False:
            major = derived.torch_cuda_major(machine)
            raise UsageError(
                f"PyTorch here is built for CUDA {major}, and no toolkit of CUDA {major} is "
                f"installed; found {there}. To take one all the same, name it: --cuda VERSION"
            )
        return found[0]
    for choice in found:
        if _is_called(choice, wanted):
            return choice
    raise UsageError(f"--cuda {wanted}: no such toolkit here; found {there}")


def exports(
    machine: Snapshot,
    *,
    cuda: str | None = None,
    ld_library_path: LibraryPath = LibraryPath.AUTO,
) -> Exports:
    """Return what a shell on *machine* is to export for the toolkit that *cuda* names.

    /usr/local/cuda is named where it leads to the toolkit that is taken by default: it outlives an
    upgrade. Who asks for a version gets that version's own directory.

    Raises UsageError where there is no such toolkit, or its path cannot be part of a path list.
    """
    choice = choose(machine, cuda)
    toolkit = choice.toolkit
    if cuda is None or toolkit.origin == "distribution":
        home = derived.home_name(toolkit)
    elif "/" in cuda:
        home = posixpath.normpath(cuda)  # the user's own name for it, such as /usr/local/cuda
    else:
        home = toolkit.home
    if ":" in home:
        raise UsageError(f"{home}: a path with a colon cannot be part of PATH")
    if not home.startswith("/") or "\0" in home:
        raise UsageError(f"{home}: not an absolute path")
    directory = toolkit.library_directory
    if not isinstance(directory, str) or ":" in directory:
        directory = posixpath.join(home, "lib64")
    elif directory.startswith(f"{toolkit.home}/"):
        directory = home + directory.removeprefix(toolkit.home)
    goes_in, reason = _library_path(machine, toolkit, directory, ld_library_path)
    return Exports(
        cuda_home=home,
        version=choice.version,
        bin_directory=None if home == "/usr" else posixpath.join(home, "bin"),
        library_directory=directory if goes_in else None,
        library_reason=reason,
        warnings=_warnings(machine, choice),
    )


def _choice(toolkit: Toolkit, machine: Snapshot) -> Choice:
    version = toolkit.version if isinstance(toolkit.version, str) else "unknown version"
    return Choice(
        toolkit=toolkit,
        version=version,
        nvcc=toolkit.nvcc if isinstance(toolkit.nvcc, str) else None,
        runs_with_driver=derived.driver_runs(machine, toolkit),
        matches_torch=derived.fits_torch(machine, toolkit),
    )


def _is_called(choice: Choice, wanted: str) -> bool:
    if "/" in wanted:
        path = posixpath.normpath(wanted)
        return path == choice.toolkit.home or path in choice.toolkit.names
    parts = version_tuple(wanted)
    full = choice.toolkit.version_json
    version = version_tuple(full if isinstance(full, str) else choice.version)
    return bool(parts) and version[: len(parts)] == parts


def _library_path(
    machine: Snapshot, toolkit: Toolkit, directory: str, mode: LibraryPath
) -> tuple[bool, str]:
    """Tell whether the toolkit's libraries go into LD_LIBRARY_PATH, and why."""
    if ";" in directory:  # ld.so(8): a semicolon separates entries too
        if mode is LibraryPath.ALWAYS:
            raise UsageError(f"{directory}: a semicolon cannot be part of LD_LIBRARY_PATH")
        return False, "out: its path holds a semicolon, which the loader takes for a separator"
    if mode is LibraryPath.ALWAYS:
        return True, "in, as --ld-library-path always asks; it goes before the CUDA of any wheel"
    if mode is LibraryPath.NEVER:
        return False, "out, as --ld-library-path never asks"
    match machine.pytorch.torch:
        case Unknown(why=why):
            return (
                False,
                f"out: whether PyTorch brings CUDA libraries could not be determined ({why})",
            )
        case Torch(version=version, build=build) if build not in ("cpu", "rocm", "xpu"):
            release = "" if isinstance(version, Unknown) else f" {version}"
            return False, f"out: PyTorch{release} brings its own; it would hide them"
        case _:
            pass
    if machine.pytorch.elsewhere and not isinstance(machine.pytorch.elsewhere, Unknown):
        return False, f"out: it would hide those of the PyTorch of {machine.pytorch.elsewhere[0]}"
    if toolkit.origin == "distribution":
        return False, "out: the loader finds them where the distribution put them"
    configured = machine.libraries.ld_so_conf
    if isinstance(configured, Unknown):
        return (
            False,
            f"out: what the loader finds anyway could not be determined ({configured.why})",
        )
    known_as = {
        directory,
        toolkit.library_directory,
        *(posixpath.join(name, "lib64") for name in _names(toolkit)),
    }
    if known_as & {entry.directory for entry in configured if entry.has_cudart}:
        return False, "out: the loader finds them anyway, by /etc/ld.so.conf"
    return True, "in: the loader does not find them otherwise"


def _names(toolkit: Toolkit) -> tuple[str, ...]:
    return tuple(dict.fromkeys((toolkit.home, *toolkit.names)))


def _warnings(machine: Snapshot, choice: Choice) -> tuple[str, ...]:
    warnings: list[str] = []
    driver = derived.driver_version(machine)
    if choice.runs_with_driver is False:
        warnings.append(f"driver {driver} does not run programs of CUDA {choice.version}.")
    elif choice.runs_with_driver is None and driver is not None:
        warnings.append(
            f"Whether driver {driver} runs CUDA {choice.version} is not known: no table has both."
        )
    if choice.matches_torch is False:
        warnings.append(f"PyTorch here is built for another CUDA major than {choice.version}.")
    if choice.nvcc is None:
        warnings.append("This toolkit has no nvcc: it runs programs, but builds none.")
    return tuple(warnings)


def listing(found: Sequence[Choice]) -> str:
    """Return the toolkits as the table that `gpucheck env --list` prints."""
    if not found:
        return "no CUDA toolkit was found\n"
    answers = {True: "yes", False: "no", None: "?"}
    rows = [("", "CUDA", "PATH", "NVCC", "DRIVER RUNS IT", "MATCHES TORCH")]
    for place, choice in enumerate(found):
        rows.append(
            (
                "" if place else "*",
                choice.version,
                choice.toolkit.home,
                choice.nvcc or "none",
                answers[choice.runs_with_driver],
                answers[choice.matches_torch],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)
