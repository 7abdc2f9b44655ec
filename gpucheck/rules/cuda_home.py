"""Rules about CUDA_HOME, and about the compiler that goes with it: ENV001 to ENV007."""

import os.path

from gpucheck import derived
from gpucheck.remedies import variables
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    known,
    rule,
)
from gpucheck.snapshot import HomeVariable, Snapshot, Toolkit, Unknown, value
from gpucheck.startup_lines import faults, is_in
from gpucheck.versions import version_tuple

_UNSET = "CUDA_HOME is not set"


def good_home(machine: Snapshot) -> HomeVariable | None:
    """Return CUDA_HOME where it is a toolkit; None where it is none, or not known, or unset."""
    home = machine.environment.cuda_home
    if not isinstance(home, HomeVariable) or not isinstance(home.resolved, str):
        return None
    return home if home.has_nvcc is True or home.has_cudart is True else None


def why_no_home(machine: Snapshot) -> NotChecked | NotApplicable:
    """Say why there is no good CUDA_HOME to compare with."""
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        return NotChecked.because(home)
    if home is None:
        return NotApplicable(why=_UNSET)
    for fact in (home.resolved, home.has_nvcc, home.has_cudart):
        if isinstance(fact, Unknown):
            return NotChecked.because(fact)
    return NotApplicable(why="CUDA_HOME is no toolkit")


def named(home: HomeVariable) -> str:
    """Return the value, and where its links lead if that is elsewhere."""
    if isinstance(home.resolved, str) and home.resolved != home.value.rstrip("/"):
        return f"{home.value} (which is {home.resolved})"
    return home.value


def _set_right(machine: Snapshot) -> Remedy:
    """Return how to point CUDA_HOME at the right toolkit, or to do without it."""
    best = derived.recommended_home(machine)
    if best is None:
        return variables.unset(
            machine, "CUDA_HOME", text="Unset CUDA_HOME: no toolkit that would do is installed"
        )
    return variables.set_variable(
        machine, "CUDA_HOME", best, f"Point CUDA_HOME at a toolkit that is there: {best}"
    )


@rule("ENV001", Severity.INFO, "CUDA_HOME is not set", caused_by=("CUD003", "ENV033"))
def home_is_unset(machine: Snapshot) -> Answers:
    """Building CUDA extensions finds the toolkit by CUDA_HOME; running PyTorch does not need it.

    Without it, torch's extension builder takes CUDA_PATH, then the parent of the first `nvcc` on
    PATH, then /usr/local/cuda, which may be another toolkit than you mean. Wheels of PyTorch bring
    their own CUDA libraries and work without any toolkit.
    """
    home = machine.environment.cuda_home
    if isinstance(home, Unknown):
        yield NotChecked.because(home)
        return
    if home is not None or (yield from known(machine.toolkits.installed)) is None:
        return
    toolkits = [t for t in derived.toolkits_by_preference(machine) if isinstance(t.nvcc, str)]
    if not toolkits:
        yield NotApplicable(why="no toolkit with a compiler is installed")
        return
    yield Symptom(
        saw=f"{toolkits[0].home} is a toolkit, and CUDA_HOME does not name it",
        remedy=_offer(machine, toolkits[0]),
        explained_by=faults(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
    )


def _offer(machine: Snapshot, toolkit: Toolkit) -> Remedy:
    best = derived.recommended_home(machine)
    if best is None:
        return Remedy(
            f"Leave it unset: {toolkit.home} is CUDA {toolkit.version}, and extensions for this "
            f"torch need a toolkit of CUDA {derived.torch_cuda_major(machine)}"
        )
    return Remedy(
        "Set it if you build CUDA extensions; `gpucheck env install` makes that last",
        steps=(variables.export(machine, "CUDA_HOME", best),),
    )


@rule("ENV002", Severity.ERROR, "CUDA_HOME points to nothing", caused_by=("ENV003",))
def home_is_missing(machine: Snapshot) -> Answers:
    """Whatever builds against CUDA_HOME fails, because there is nothing at that path.

    Usually the toolkit was upgraded or removed and the variable kept the old folder, or a link
    such as /usr/local/cuda leads to a folder that is gone. Extension builds say "No such file or
    directory: '…/bin/nvcc'" or cannot find cuda_runtime.h.
    """
    home = yield from known(machine.environment.cuda_home, absent=_UNSET)
    if home is None:
        return
    if (yield from known(home.resolved, "CUDA_HOME")) is not None or home.resolved is not None:
        return
    dangling = value(machine.toolkits.dangling) or ()
    is_link = any(is_in(home.value, link) for link in dangling)
    yield Symptom(
        saw=f"CUDA_HOME is {home.value}, and nothing is there",
        remedy=_set_right(machine),
        subject="CUDA_HOME",
        explained_by=("CUD005",) if is_link else faults(machine, "CUDA_HOME", path=home.value),
    )


_QUOTES = "\"'`“”‘’"


def malformation(text: str) -> str | None:
    """Say what is wrong with the form of a CUDA_HOME, None where it is an absolute path."""
    if text.endswith("\r"):
        return "ends in a carriage return, as a file with Windows line ends sets it"
    if text != text.strip():
        return "has spaces around it"
    if text[0] in _QUOTES or text[-1] in _QUOTES:
        return "has quotes around it"
    if ":" in text:
        return "contains a `:`, but it must be one directory"
    if text.startswith("~"):
        return "contains a `~` that no shell expanded"
    if "$" in text:
        return "contains a `$` that no shell expanded"
    if not text.startswith("/"):
        return "is not an absolute path"
    bare = text.rstrip("/")
    for ending in ("/bin/nvcc", "/bin", "/lib64"):
        if bare.endswith(ending):
            return f"ends in {ending}; it must name the toolkit's own directory"
    return None


def _corrected(text: str, home: str | None) -> str:
    """Return the CUDA_HOME that was probably meant."""
    text = text.strip().strip(_QUOTES).strip()
    text = next((part for part in text.split(":") if part.startswith("/")), text)
    bare = text.rstrip("/")
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
    home = yield from known(machine.environment.cuda_home, absent=_UNSET)
    if home is None:
        return
    wrong = malformation(home.value)
    if wrong is None:
        return
    meant = _corrected(home.value, derived.recommended_home(machine))
    yield Symptom(
        saw=f"CUDA_HOME is {home.value!r}: it {wrong}",
        remedy=(
            variables.set_variable(
                machine, "CUDA_HOME", meant, f"Set it to the toolkit's own directory, {meant}"
            )
            if meant
            else variables.unset(machine, "CUDA_HOME")
        ),
        explained_by=faults(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
    )


@rule("ENV004", Severity.ERROR, "CUDA_HOME is not a CUDA toolkit", caused_by=("ENV003",))
def home_is_no_toolkit(machine: Snapshot) -> Answers:
    """CUDA_HOME names a folder that holds neither a compiler nor CUDA's runtime library.

    A toolkit has bin/nvcc, or at least libcudart in lib64, lib or targets/*/lib. What is there may
    be a driver's folder, the parent of several toolkits, or what an uninstaller left behind.
    """
    home = yield from known(machine.environment.cuda_home, absent=_UNSET)
    if home is None:
        return
    if home.resolved is None:
        yield NotApplicable(why="nothing is there", subject="CUDA_HOME")
        return
    if home.has_nvcc is True or home.has_cudart is True:
        return
    for fact in (home.resolved, home.has_nvcc, home.has_cudart):
        if isinstance(fact, Unknown):
            yield NotChecked.because(fact, "CUDA_HOME")
            return
    yield Symptom(
        saw=f"CUDA_HOME is {named(home)}, which has neither bin/nvcc nor libcudart",
        remedy=_set_right(machine),
        explained_by=faults(machine, "CUDA_HOME"),
        subject="CUDA_HOME",
    )


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
    home = good_home(machine)
    if home is None:
        yield why_no_home(machine)
        return
    entries = yield from known(machine.environment.path, absent="PATH is not set")
    if entries is None:
        return
    first = next((entry for entry in entries if entry.has_nvcc is True), None)
    if first is None:
        yield NotApplicable(why="no nvcc is on PATH")
        return
    if isinstance(first.toolkit, Unknown):
        yield NotChecked.because(first.toolkit, first.text)
        return
    folder = value(first.resolved) or ""
    if home.resolved in (first.toolkit, os.path.dirname(folder)):  # noqa: PTH120
        return
    mine, its = value(home.toolkit_version), value(first.toolkit_version)
    majors_differ = bool(mine and its and version_tuple(mine)[:1] != version_tuple(its)[:1])
    yield Symptom(
        saw=f"CUDA_HOME is {named(home)}, {_version(mine)}; the first nvcc on PATH is "
        f"{first.text.rstrip('/')}/nvcc of {first.toolkit}, {_version(its)}",
        remedy=variables.prepend(
            machine,
            "PATH",
            f"{home.value.rstrip('/')}/bin",
            "Put CUDA_HOME's own compiler first on PATH, or set CUDA_HOME to the other toolkit",
        ),
        explained_by=faults(machine, "CUDA_HOME", "PATH", path=home.value),
        subject="CUDA_HOME",
        severity=Severity.ERROR if majors_differ else None,
    )


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
    homes: dict[str, HomeVariable] = {}
    for name, home in (
        ("CUDA_HOME", environment.cuda_home),
        ("CUDA_PATH", environment.cuda_path),
        ("CUDA_ROOT", environment.cuda_root),
    ):
        fact = home.resolved if isinstance(home, HomeVariable) else home
        if isinstance(fact, Unknown):
            yield NotChecked.because(fact, name)
            return
        if isinstance(home, HomeVariable):
            homes[name] = home
    if len(homes) < 2:
        yield NotApplicable(why="fewer than two of them are set")
        return
    if len({value(home.resolved) or home.value.rstrip("/") for home in homes.values()}) < 2:
        return
    first, *others = homes
    reported = [
        f"{name} is {named(home)}{'' if home.resolved else ' (nothing is there)'}"
        for name, home in homes.items()
    ]
    yield Symptom(
        saw="; ".join(reported),
        remedy=variables.unset(
            machine,
            *others,
            text=f"Keep {first}, and unset {' and '.join(others)} or set them to the same",
        ),
        explained_by=faults(machine, "CUDA_HOME"),
        subject=first,
    )


@rule(
    "ENV007",
    Severity.WARNING,
    "CUDA_HOME's compiler is not on PATH",
    caused_by=("ENV033", "ENV032", "ENV008"),
)
def compiler_is_not_on_path(machine: Snapshot) -> Answers:
    """CUDA_HOME names a good toolkit, but `nvcc` by its bare name is not found.

    CMake, Makefiles and many set-up scripts call plain `nvcc` and then say that CUDA was not
    found. PATH needs the `bin` folder of the toolkit.
    """
    home = good_home(machine)
    if home is None or home.has_nvcc is not True:
        yield why_no_home(machine) if home is None else NotApplicable(why="it has no compiler")
        return
    entries = machine.environment.path
    if isinstance(entries, Unknown):
        yield NotChecked.because(entries, "PATH")
        return
    if any(entry.has_nvcc is True for entry in entries or ()):
        return
    for entry in entries or ():
        if isinstance(entry.has_nvcc, Unknown):
            yield NotChecked.because(entry.has_nvcc, "PATH")
            return
    folder = f"{home.value.rstrip('/')}/bin"
    yield Symptom(
        saw=f"no directory of PATH has nvcc; {folder} has it",
        remedy=variables.prepend(machine, "PATH", folder, f"Add {folder} to PATH"),
        explained_by=faults(machine, "PATH"),
        subject="PATH",
    )
