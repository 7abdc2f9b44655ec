"""Decides which exports a machine needs: a pure function of its snapshot."""

import enum
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gpucheck.knowledge.driver_cuda import driver_runs
from gpucheck.snapshot import NOT_EXAMINED, Driver, Snapshot, Toolkit, Torch, Unknown
from gpucheck.usage_error import UsageError
from gpucheck.versions import version_tuple


class LibraryPath(str, enum.Enum):
    """Whether the toolkit's libraries go into LD_LIBRARY_PATH."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exports:
    """What a shell is to export, and which entries of its path lists are CUDA's own.

    All directories are absolute, without a colon. `own` are the names of the chosen toolkit whose
    `bin` and `lib` entries make way; `others` are the homes of further toolkits, every entry of
    which makes way. Neither ever names a prefix that holds more than CUDA, such as /usr.
    """

    cuda_home: str
    version: str
    bin_directory: str | None  # in front of PATH; None: on every PATH anyway (/usr/bin)
    library_directory: str | None  # in front of LD_LIBRARY_PATH; None: stays out
    library_reason: str  # why it is in or out, in a sentence
    own: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
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

    That is the newest that the driver runs. A toolkit with a compiler goes before one without;
    one for everybody before one of a conda environment or a wheel, which end with it.

    Raises Refusal where nobody could look for toolkits.
    """
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        raise UsageError(f"which CUDA toolkits are here could not be told: {installed.why}")
    default = machine.toolkits.default

    def rank(choice: Choice) -> tuple[bool, bool, bool, tuple[int, ...], bool]:
        return (
            choice.runs_with_driver is not False,
            choice.nvcc is not None,
            choice.toolkit.origin not in ("conda", "pip"),
            version_tuple(choice.version),
            choice.toolkit.home == default,
        )

    usable = [toolkit for toolkit in installed if not isinstance(toolkit.nvcc, Unknown)]
    rest = [toolkit for toolkit in installed if isinstance(toolkit.nvcc, Unknown)]
    found = [_choice(toolkit, machine) for toolkit in (*usable, *rest)]
    return tuple(sorted(found, key=rank, reverse=True))


def choose(machine: Snapshot, wanted: str | None = None) -> Choice:
    """Return the toolkit that *wanted* names ("12.4", "12", or a path); None: the default.

    Raises Refusal, naming what is there, where there is none such.
    """
    found = choices(machine)
    if not found:
        raise UsageError("no CUDA toolkit was found, so there is nothing to export")
    if wanted is None:
        return found[0]
    for choice in found:
        if _is_called(choice, wanted):
            return choice
    there = ", ".join(f"{choice.version} ({choice.toolkit.home})" for choice in found)
    raise UsageError(f"--cuda {wanted}: no such toolkit here; found {there}")


def exports(
    machine: Snapshot,
    *,
    cuda: str | None = None,
    ld_library_path: LibraryPath = LibraryPath.AUTO,
) -> Exports:
    """Return what a shell on *machine* is to export for the toolkit that *cuda* names.

    Raises Refusal where there is no such toolkit, or its path cannot stand in a path list.
    """
    choice = choose(machine, cuda)
    toolkit = choice.toolkit
    home = toolkit.home
    if cuda is not None and "/" in cuda:
        home = posixpath.normpath(cuda)  # the user's own name for it, such as /usr/local/cuda
    if ":" in home:
        raise UsageError(f"{home}: a path with a colon cannot stand in PATH")
    if not home.startswith("/") or "\0" in home:
        raise UsageError(f"{home}: not an absolute path")
    directory = toolkit.library_directory
    if not isinstance(directory, str) or ":" in directory:
        directory = posixpath.join(home, "lib64")
    goes_in, reason = _library_path(machine, toolkit, directory, ld_library_path)
    return Exports(
        cuda_home=home,
        version=choice.version,
        bin_directory=None if home == "/usr" else posixpath.join(home, "bin"),
        library_directory=directory if goes_in else None,
        library_reason=reason,
        own=_own_names(toolkit, home),
        others=_other_homes(machine, toolkit, home),
        warnings=_warnings(machine, choice),
    )


def _choice(toolkit: Toolkit, machine: Snapshot) -> Choice:
    version = toolkit.version if isinstance(toolkit.version, str) else "unknown version"
    return Choice(
        toolkit=toolkit,
        version=version,
        nvcc=toolkit.nvcc if isinstance(toolkit.nvcc, str) else None,
        runs_with_driver=_runs(machine, toolkit),
        matches_torch=_matches_torch(machine, toolkit),
    )


def _is_called(choice: Choice, wanted: str) -> bool:
    if "/" in wanted:
        path = posixpath.normpath(wanted)
        return path == choice.toolkit.home or path in choice.toolkit.names
    parts = version_tuple(wanted)
    full = choice.toolkit.version_json
    version = version_tuple(full if isinstance(full, str) else choice.version)
    return bool(parts) and version[: len(parts)] == parts


def driver_version(driver: Driver) -> str | Unknown | None:
    """Return the driver's version by its loaded module, else by its libraries; None: no driver."""
    if isinstance(driver.module_version, str):
        return driver.module_version
    if isinstance(driver.libraries, Unknown):
        return driver.libraries
    for library in driver.libraries:
        if library.is_selected and isinstance(library.version, str):
            return library.version
    return driver.module_version


def _runs(machine: Snapshot, toolkit: Toolkit) -> bool | None:
    version = driver_version(machine.driver)
    if not isinstance(version, str) or not isinstance(toolkit.version, str):
        return None
    return driver_runs(version, toolkit.version)


def _matches_torch(machine: Snapshot, toolkit: Toolkit) -> bool | None:
    """Tell whether extensions built with *toolkit* load into torch: the CUDA major decides."""
    match machine.pytorch.torch:
        case Torch(cuda=str() as cuda) if isinstance(toolkit.version, str):
            return version_tuple(cuda)[:1] == version_tuple(toolkit.version)[:1]
        case _:
            return None


def _library_path(
    machine: Snapshot, toolkit: Toolkit, directory: str, mode: LibraryPath
) -> tuple[bool, str]:
    """Tell whether the toolkit's libraries go into LD_LIBRARY_PATH, and why."""
    if ";" in directory:  # ld.so(8): a semicolon separates entries too
        if mode is LibraryPath.ALWAYS:
            raise UsageError(f"{directory}: a semicolon cannot stand in LD_LIBRARY_PATH")
        return False, "out: its path holds a semicolon, which the loader takes for a separator"
    if mode is LibraryPath.ALWAYS:
        return True, "in, as --ld-library-path always asks; it goes before the CUDA of any wheel"
    if mode is LibraryPath.NEVER:
        return False, "out, as --ld-library-path never asks"
    match machine.pytorch.torch:
        case Unknown(why=why):
            return False, f"out: whether PyTorch brings CUDA libraries could not be told ({why})"
        case Torch(version=version, build=build) if build not in ("cpu", "rocm", "xpu"):
            release = "" if isinstance(version, Unknown) else f" {version}"
            return False, f"out: PyTorch{release} brings its own CUDA libraries; it would hide them"
        case _:
            pass
    if machine.pytorch.elsewhere and not isinstance(machine.pytorch.elsewhere, Unknown):
        return False, f"out: it would hide those of the PyTorch of {machine.pytorch.elsewhere[0]}"
    if toolkit.origin == "distribution":
        return False, "out: the loader looks where the distribution put these libraries anyway"
    configured = machine.libraries.ld_so_conf
    if isinstance(configured, Unknown):
        return False, f"out: what the loader finds anyway could not be told ({configured.why})"
    known_as = {directory, *(posixpath.join(name, "lib64") for name in _names(toolkit))}
    if known_as & {entry.directory for entry in configured if entry.has_cudart}:
        return False, "out: the loader finds these libraries anyway, by /etc/ld.so.conf"
    return True, "in: the loader does not find these libraries otherwise"


def _names(toolkit: Toolkit) -> tuple[str, ...]:
    return tuple(dict.fromkeys((toolkit.home, *toolkit.names)))


_CUDA_FOLDER = re.compile(r"cuda|toolkit|\d+\.\d+", re.IGNORECASE)


def _holds_cuda_alone(home: str, origin: str) -> bool:
    """Tell whether all below *home* is CUDA's, so that entries below it may make way."""
    if origin in ("distribution", "conda") or home.count("/") < 2:
        return False
    return bool(_CUDA_FOLDER.search(posixpath.basename(home)))


def _own_names(toolkit: Toolkit, home: str) -> tuple[str, ...]:
    names = dict.fromkeys((home, *_names(toolkit)))
    return tuple(n for n in names if _holds_cuda_alone(n, toolkit.origin) and ":" not in n)


# The templates know NVIDIA's own names by themselves, so that the block that stands in a start-up
# file stays right when a toolkit there comes or goes.
_KNOWN_TO_TEMPLATES = re.compile(r"/usr/local/cuda(-[0-9]{1,2}(\.[0-9]{1,2})?)?\Z")


def _other_homes(machine: Snapshot, chosen: Toolkit, home: str) -> tuple[str, ...]:
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        return ()
    ours = {home, *_names(chosen)}
    found: dict[str, None] = {}
    for toolkit in installed:
        for name in () if toolkit.home == chosen.home else _names(toolkit):
            if name in ours or ":" in name or _KNOWN_TO_TEMPLATES.match(name):
                continue
            if any(mine.startswith(f"{name}/") for mine in ours):
                continue  # it surrounds the chosen one
            if _holds_cuda_alone(name, toolkit.origin):
                found[name] = None
    return tuple(sorted(found))


def _warnings(machine: Snapshot, choice: Choice) -> tuple[str, ...]:
    warnings: list[str] = []
    version = driver_version(machine.driver)
    if choice.runs_with_driver is False:
        warnings.append(f"driver {version} does not run programs of CUDA {choice.version}.")
    elif choice.runs_with_driver is None and version is not None:
        why = version.why if isinstance(version, Unknown) else "no table knows the two together"
        if why != NOT_EXAMINED.why:
            warnings.append(
                f"Whether the driver runs CUDA {choice.version} could not be told: {why}"
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
