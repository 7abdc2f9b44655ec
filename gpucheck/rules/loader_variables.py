"""Rules about what LD_LIBRARY_PATH and LD_PRELOAD make the loader take."""

import posixpath

from gpucheck import derived
from gpucheck.conditions import uses_cuda
from gpucheck.knowledge.driver_cuda import allows_forward_compatibility
from gpucheck.remedies import system_packages, variables
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Place,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.rules.cuda_home import good_home, named, why_no_home
from gpucheck.snapshot import DriverLibrary, PathEntry, Snapshot, Unknown, value
from gpucheck.startup_lines import faults
from gpucheck.versions import version_tuple

_NO_LIST = "LD_LIBRARY_PATH is not set"


def _texts(entries: tuple[PathEntry, ...], *, without: set[str]) -> list[str]:
    return [entry.text for entry in entries if entry.text and entry.text not in without]


@rule(
    "ENV010",
    Severity.WARNING,
    "LD_LIBRARY_PATH has an empty element",
    caused_by=("ENV031",),
    when=uses_cuda,
)
def empty_element(machine: Snapshot) -> Answers:
    """An empty element means the current directory: any library lying there is loaded by its name.

    A `:` at the beginning, at the end, or two in a row leave one. Whoever can write into a folder
    from which you start a program (a shared scratch space, an unpacked archive) can then run code
    as you, and a stray libcudnn there is taken for the real one.

    It usually comes from `export LD_LIBRARY_PATH=/x/lib:$LD_LIBRARY_PATH` while the variable was
    unset. Write `/x/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}` instead.
    """
    entries = yield from known(machine.environment.ld_library_path, absent=_NO_LIST)
    if entries is None or all(entry.text for entry in entries):
        return
    text = machine.environment.variable("LD_LIBRARY_PATH")
    if not isinstance(text, str):
        text = ":".join(entry.text for entry in entries)
    yield Symptom(
        saw=f"LD_LIBRARY_PATH is {text!r}",
        remedy=variables.set_list(
            machine,
            "LD_LIBRARY_PATH",
            _texts(entries, without=set()),
            text="Remove the empty element",
        ),
        subject="LD_LIBRARY_PATH",
    )


@rule("ENV012", Severity.WARNING, "LD_LIBRARY_PATH names CUDA's stubs", when=uses_cuda)
def stubs_are_on_the_path(machine: Snapshot) -> Answers:
    """The stubs folder holds an empty libcuda for linking; a program that loads it finds no GPU.

    It exists so that programs can be linked on machines with no driver. Every call into it fails
    at run time: CUDA error 34, "CUDA driver is a stub library". A toolkit's own stubs folder has
    `libcuda.so` and no `libcuda.so.1`, so torch and other programs that open `libcuda.so.1` work;
    what opens `libcuda.so` by that name gets the stub. Keep the folder for LIBRARY_PATH, or for
    the linker's -L, and out of LD_LIBRARY_PATH.
    """
    entries = yield from known(machine.environment.ld_library_path, absent=_NO_LIST)
    stubs = [entry for entry in entries or () if entry.stubs]
    for entry in stubs:
        what = ", ".join(entry.stubs)
        yield Symptom(
            saw=f"LD_LIBRARY_PATH names {entry.text}, which has the stub {what}",
            remedy=variables.set_list(
                machine,
                "LD_LIBRARY_PATH",
                _texts(entries or (), without={each.text for each in stubs}),
                entry.text,
            ),
            subject=entry.text,
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
    home = good_home(machine)
    if home is None:
        yield why_no_home(machine)
        return
    entries = yield from known(machine.environment.ld_library_path, absent=_NO_LIST)
    first = next((e for e in value(machine.environment.path) or () if e.has_nvcc is True), None)
    seen: set[str] = set()
    for entry in entries or ():
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
            its = {each.text for each in entries or () if each.toolkit == other}
            yield Symptom(
                saw=f"LD_LIBRARY_PATH names {entry.text}, CUDA {version}; "
                f"CUDA_HOME is {named(home)}, CUDA {home.toolkit_version}",
                remedy=variables.set_list(
                    machine,
                    "LD_LIBRARY_PATH",
                    _texts(entries or (), without=its),
                    entry.text,
                    f"Remove {entry.text} from LD_LIBRARY_PATH, or set CUDA_HOME to its toolkit",
                ),
                subject=entry.text,
                explained_by=(
                    ("ENV005",)
                    if first is not None and first.toolkit == other
                    else faults(machine, "CUDA_HOME", "LD_LIBRARY_PATH", path=entry.text)
                ),
            )


# ------------------------------------------------------------------------------ compat libraries

_REFUSED = 803, 804  # CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, …_COMPAT_NOT_SUPPORTED_ON_DEVICE


@rule(
    "ENV016",
    Severity.WARNING,
    "A CUDA compat library is used where it does not work",
    when=uses_cuda,
)
def compat_does_not_fit(machine: Snapshot) -> Answers:
    """A compat library replaces the driver's libcuda; where that is refused, CUDA does not start.

    The forward-compatibility package (cuda-compat-X-Y) lets an old driver run a newer CUDA, on
    data-center GPUs alone, and only if it is newer than the driver itself. Elsewhere cuInit fails:
    error 803 (system has unsupported display driver / cuda driver combination) where it is older
    than the driver, error 804 (forward compatibility was attempted on non supported HW) on other
    GPUs. Images bring it too, by LD_LIBRARY_PATH or by a file in /etc/ld.so.conf.d. Take it out,
    or install a newer driver and do without it.

    Source: "CUDA Compatibility", NVIDIA.
    """
    libraries = yield from known(machine.driver.libraries)
    compat = derived.selected_libcuda(machine)
    if compat is None or not compat.is_compat:
        if libraries is not None:
            yield NotApplicable(why="the libcuda that is loaded is no compat library")
        return
    code = derived.cuda_code(machine)
    if code == 0:
        return  # seen to work
    reason = _why_refused(machine, compat, code)
    if isinstance(reason, Unknown):
        yield NotChecked.because(reason, compat.path)
    elif reason is not None:
        yield Symptom(
            saw=f"the libcuda that is loaded is {compat.path}, which {reason}",
            remedy=_without_compat(machine, compat),
            subject=compat.path,
        )


def _why_refused(
    machine: Snapshot, compat: DriverLibrary, code: int | None
) -> str | Unknown | None:
    """Say why the driver refuses *compat*; None where it does not, as far as is known."""
    driver, refusing = derived.driver_version(machine), _refusing_gpu(machine)
    version = value(compat.version)
    of = f"is libcuda {version}" if version is not None else "is a compat library"
    if code == 804:
        gpu = refusing if isinstance(refusing, str) else "this GPU"
        return f"{of}: {gpu} takes no forward compatibility (error 804)"
    if (
        version is not None
        and driver is not None
        and version_tuple(version) < version_tuple(driver)
    ):
        return f"{of}, older than the driver {driver}"
    if code == 803:
        return f"{of}, and the driver refuses it (error 803)"
    if isinstance(refusing, str):
        return f"needs a data-center GPU, and {refusing} is none"
    for fact in (compat.version, machine.driver.module_version, refusing):
        if isinstance(fact, Unknown):
            return fact
    return None


def _refusing_gpu(machine: Snapshot) -> str | Unknown | None:
    """Return a GPU here that takes no forward compatibility; None where all take it."""
    if isinstance(machine.nvml.gpus, Unknown):
        return machine.nvml.gpus
    unknown: Unknown | None = None
    for gpu in machine.nvml.gpus:
        name = value(gpu.name)
        allowed = None if name is None else allows_forward_compatibility(name)
        if allowed is False:
            return name
        if allowed is None:
            unknown = Unknown(f"whether {gpu.subject} takes forward compatibility is not known")
    return unknown


def _without_compat(machine: Snapshot, compat: DriverLibrary) -> Remedy:
    folder = posixpath.dirname(compat.path)
    if compat.found_via.startswith("LD_LIBRARY_PATH"):
        entries = value(machine.environment.ld_library_path) or ()
        its = {e.text for e in entries if e.compat_libcuda is not None or e.text == folder}
        return variables.set_list(machine, "LD_LIBRARY_PATH", _texts(entries, without=its), folder)
    is_inside = derived.is_container(machine)
    if "compat" not in posixpath.dirname(compat.real_path or compat.path).split("/"):
        return Remedy(
            f"Take the package cuda-compat out of the {'image' if is_inside else 'system'}: "
            f"{compat.real_path or compat.path} is its libcuda, in the place of the driver's own",
            steps=(_remove_package(machine, is_inside),),
            verify=command("ls -l {path}", path=compat.path),
        )
    conf = _conf_file(machine, compat) or "/etc/ld.so.conf.d"
    remove = Remedy(
        f"Take the package cuda-compat out of the {'image' if is_inside else 'system'}: "
        f"its directory {folder} reaches the loader through {conf}",
        steps=(_remove_package(machine, is_inside),),
        verify=command("ldconfig -p | grep libcuda.so.1", needs="ldconfig"),
    )
    own = next(
        (each for each in value(machine.driver.libraries) or () if _is_drivers_own(each)), None
    )
    if own is None:
        return remove
    ahead = variables.prepend(
        machine,
        "LD_LIBRARY_PATH",
        posixpath.dirname(own.path),
        "Put the driver's own libcuda before it",
    )
    return Remedy(remove.text, remove.steps, (ahead,), remove.verify)


def _conf_file(machine: Snapshot, compat: DriverLibrary) -> str | None:
    """Return the file of /etc/ld.so.conf.d that names the folder of *compat*."""
    folders = {posixpath.dirname(path) for path in (compat.path, compat.real_path) if path}
    lines = value(machine.libraries.ld_so_conf) or ()
    return next((line.file for line in lines if line.directory in folders), None)


def _is_drivers_own(library: DriverLibrary) -> bool:
    return (
        library.soname == "libcuda.so.1" and not library.is_compat and library.is_stub is not True
    )


def _remove_package(machine: Snapshot, is_inside: bool) -> Command:
    place: Place = "image" if is_inside else "here"
    if system_packages.family(machine) in ("rhel", "fedora", "suse"):
        return command(
            "dnf remove 'cuda-compat-*'", root=True, lasts="permanent", on=place, needs="dnf"
        )
    return command(
        "apt-get purge 'cuda-compat-*'", root=True, lasts="permanent", on=place, needs="apt-get"
    )


# ------------------------------------------------------------------------------------ LD_PRELOAD

_CUDA_LIBRARIES = (
    *("libcuda.so", "libcudart.so", "libcudnn", "libnccl.so", "libcublas", "libcufft"),
    *("libcurand", "libcusolver", "libcusparse", "libnvrtc", "libnvJitLink"),
)


@rule(
    "ENV025",
    Severity.WARNING,
    "LD_PRELOAD names a missing file or a CUDA library",
    when=uses_cuda,
)
def preload_interferes(machine: Snapshot) -> Answers:
    """What LD_PRELOAD names is loaded into every program, before anything the program asks for.

    A CUDA, cuDNN or NCCL library there takes the place of the one that torch brings, whatever its
    version. A file that is missing makes the loader complain at the start of every program.
    """
    entries = yield from known(machine.environment.ld_preload, absent="LD_PRELOAD is not set")
    for entry in entries or ():
        if entry.resolved is None:
            saw = f"LD_PRELOAD names {entry.text}, which does not exist"
        elif entry.text.rpartition("/")[2].startswith(_CUDA_LIBRARIES):
            saw = f"LD_PRELOAD names {entry.text}"
        else:
            yield from known(entry.resolved, entry.text)
            continue
        kept = [other.text for other in entries or () if other is not entry]
        yield Symptom(
            saw=saw,
            remedy=variables.set_list(machine, "LD_PRELOAD", kept, entry.text),
            subject=entry.text,
        )
