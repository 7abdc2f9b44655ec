"""Rules about cuDNN, which torch's convolutions and attention run on: the family DNN."""

from collections.abc import Generator

from gpucheck import derived
from gpucheck.knowledge import cudnn as table
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.rules.libraries import installer, is_same_version, required_version
from gpucheck.snapshot import (
    CudnnInstall,
    CudnnOpened,
    Deep,
    Library,
    Maybe,
    Snapshot,
    Torch,
    Unknown,
)
from gpucheck.versions import version_tuple

Asking = Generator[NotChecked | NotApplicable, None, "Library | None"]


def _main_library(machine: Snapshot) -> Asking:
    """Return the cuDNN that torch would get; where it needs none or gets none, say so and why."""
    needs = yield from known(machine.cudnn.torch_needs)
    if needs is None:
        if not isinstance(machine.cudnn.torch_needs, Unknown):
            yield NotApplicable(why=_why_none(machine))
        return None
    resolved = yield from known(machine.libraries.resolved)
    for library in resolved or ():
        if library.soname == needs:
            if library.path is None:
                yield NotApplicable(why=f"no {needs} would load")
                return None
            if isinstance(library.path, Unknown):
                yield NotChecked(why=library.path.why)
                return None
            return library
    if resolved is not None:
        yield NotChecked(why=f"{needs} was not resolved")
    return None


def _why_none(machine: Snapshot) -> str:
    torch = machine.pytorch.torch
    if isinstance(torch, Torch):
        return "torch has cuDNN linked in" if torch.build == "cuda" else "this torch uses no cuDNN"
    return "no torch is here"


def _install_at(machine: Snapshot, library: Library) -> CudnnInstall | None:
    """Return the install that *library* belongs to, by its directory with links followed."""
    path = library.real_path if isinstance(library.real_path, str) else library.path
    if isinstance(path, str) and isinstance(machine.cudnn.installs, tuple):
        for install in machine.cudnn.installs:
            if install.directory == path.rpartition("/")[0] and install.soname == library.soname:
                return install
    return None


def _version(machine: Snapshot, library: Library) -> Maybe[str]:
    """Return the version of the cuDNN that torch gets, by the best witness."""
    if isinstance(library.version, str):
        return library.version
    install = _install_at(machine, library)
    if install is not None and isinstance(install.version, str):
        return install.version
    opened = machine.cudnn.opened
    by_itself = isinstance(opened, CudnnOpened) and opened.path == library.path
    return opened.version if by_itself else library.version  # type: ignore[union-attr]


def _reinstall(machine: Snapshot) -> tuple[str, ...]:
    """Return the command that brings back the cuDNN wheel that torch asks for."""
    distributions = machine.pytorch.distributions
    if isinstance(distributions, tuple):
        for distribution in distributions:
            for requirement in distribution.requires:
                name = requirement.partition("==")[0]
                if name.startswith("nvidia-cudnn"):
                    version = required_version(machine, name)
                    exact = f"{name}=={version}" if version else name
                    return (f"{installer(machine)} --force-reinstall --no-deps {exact}",)
    return ()


@rule(
    "DNN001",
    Severity.ERROR,
    "No cuDNN would load",
    caused_by=("LIB003", "LIB002", "TOR001", "DRV001"),
)
def no_cudnn(machine: Snapshot) -> Answers:
    """torch is linked against cuDNN: without it, `import torch` ends in an error.

    "libcudnn.so.9: cannot open shared object file" means that the loader found no file of that
    name in torch's own paths (DT_RPATH), in LD_LIBRARY_PATH, in its cache and in the default
    directories. torch's wheels ask for a wheel that brings it (nvidia-cudnn-cu12, -cu13); it goes
    missing when somebody removes that wheel, or a failed upgrade leaves its folder empty. The
    number matters: libcudnn.so.8 does not stand in for libcudnn.so.9.

    Without any torch here this is a warning: C++ programs that use cuDNN would not start; what
    another framework gets is a question of its own (PKG003). A torch that has cuDNN linked into
    itself needs none.
    """
    needs = machine.cudnn.torch_needs
    if isinstance(needs, Unknown):
        yield NotChecked(why=needs.why)
        return
    if needs is None:
        if machine.pytorch.torch is not None:
            torch = yield from known(machine.pytorch.torch)
            if torch is not None:
                yield NotApplicable(why=_why_none(machine))
            return
        here = yield from known(derived.has_gpu(machine))
        if here is None:
            return
        if not here:
            yield NotApplicable(why="no NVIDIA GPU is here")
            return
        if frameworks := derived.other_frameworks(machine):
            yield NotApplicable(why=f"no torch; what {frameworks[0]} gets is asked under PKG003")
            return
        found = yield from known(machine.cudnn.selected_for_builds)
        if found is None and not isinstance(machine.cudnn.selected_for_builds, Unknown):
            yield Symptom(
                severity=Severity.WARNING,
                saw="no libcudnn.so in LD_LIBRARY_PATH, the loader's cache or the default "
                "directories, and no torch that brings its own",
                fix="Nothing for a torch from wheels, which bring cuDNN; for C++ programs install "
                "NVIDIA's cudnn package.",
            )
        return
    path = yield from known(machine.cudnn.for_torch)
    if path is not None or isinstance(machine.cudnn.for_torch, Unknown):
        return
    resolved = machine.libraries.resolved
    asker = next(
        (lib.needed_by for lib in resolved if lib.soname == needs and lib.needed_by)
        if isinstance(resolved, tuple)
        else iter(()),
        "torch",
    )
    installs = machine.cudnn.installs
    others = (
        [f"{each.directory}/{each.soname}" for each in installs]
        if isinstance(installs, tuple)
        else []
    )
    yield Symptom(
        saw=f"{asker} needs {needs}, which is in none of the places where the loader looks"
        + (f"; there is {', '.join(others)}" if others else ""),
        fix="Install the cuDNN wheel that torch asks for.",
        commands=_reinstall(machine),
    )


@rule(
    "DNN002",
    Severity.ERROR,
    "torch would get an older cuDNN than it was built with",
    caused_by=("LIB001", "LIB002", "LIB003", "LIB004"),
)
def older_cudnn(machine: Snapshot) -> Answers:
    """torch refuses a cuDNN that is older than the one it was compiled against.

    "cuDNN version incompatibility: PyTorch was compiled against (9, 19, 0) but found runtime
    version (9, 1, 0)": newer functions are missing from the older library. Within one major
    version a newer cuDNN serves older programs; another major never does.

    Mostly an older copy stands in front of torch's own: on LD_LIBRARY_PATH, or as another version
    of the wheel. Take it away, or install the wheel that torch asks for.
    """
    library = yield from _main_library(machine)
    if library is None:
        return
    torch = machine.pytorch.torch
    wanted = yield from known(
        torch.cudnn if isinstance(torch, Torch) else Unknown("torch is not known")
    )
    if wanted is None:
        if isinstance(torch, Torch) and torch.cudnn is None:
            yield NotChecked(why="torch does not say which cuDNN it was built with")
        return
    version = yield from known(_version(machine, library))
    if version is None:
        return
    have, want = version_tuple(version)[:3], version_tuple(wanted)[:3]
    length = min(len(have), len(want))
    if length == 0 or (have[:1] == want[:1] and have[:length] >= want[:length]):
        return
    yield Symptom(
        saw=f"torch {torch.version} was built with cuDNN {wanted}; "  # type: ignore[union-attr]
        f"{library.path} is {version} (found by {library.found_via})",
        fix="Install the cuDNN wheel that torch asks for, and take other cuDNNs off its path.",
        commands=_reinstall(machine),
    )


@rule(
    "DNN003",
    Severity.ERROR,
    "The parts of cuDNN are missing or do not belong together",
    caused_by=("LIB001", "LIB002", "LIB003", "DNN001", "LIB004"),
)
def torn_cudnn(machine: Snapshot) -> Answers:
    """The first convolution fails: cuDNN's parts must all be there, and be of one version.

    libcudnn.so.9 is a thin front. It opens libcudnn_graph, _ops, _cnn and _adv when they are first
    needed, and libcudnn_graph opens the engines and the heuristic; cuDNN 8 has pairs of _infer and
    _train libraries. Each is searched for by name: LD_LIBRARY_PATH comes before the folder of the
    one that asks. So a second cuDNN on that list mixes in: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH
    or CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED. `import torch` still works, which makes it hard to
    see.

    Parts of the same version from two directories work, and are not reported.
    """
    if machine.pytorch.torch is None and isinstance(machine.cudnn.selected_for_builds, str):
        yield from _torn_install(machine, machine.cudnn.selected_for_builds)
        return
    library = yield from _main_library(machine)
    if library is None:
        return
    parts = yield from known(machine.cudnn.sublibraries_for_torch)
    if parts is None:
        return
    version = _version(machine, library)
    homes = {
        path.rpartition("/")[0]
        for path in (library.path, library.real_path)
        if isinstance(path, str)
    }
    missing: list[str] = []
    strangers: list[str] = []
    for part in parts:
        if part.path is None:
            missing.append(f"{part.soname} is missing")
        elif isinstance(part.path, Unknown):
            missing.append(f"{part.soname} will not load ({part.path.why})")
        elif part.path.rpartition("/")[0] not in homes:
            if isinstance(part.version, str) and isinstance(version, str):
                if not is_same_version(part.version, version):
                    strangers.append(f"{part.path} is {part.version}, by {part.found_via}")
            else:
                yield NotChecked(
                    why=f"{part.path} comes from another directory than {library.path}, and not "
                    "both tell their version"
                )
    if missing or strangers:
        yield Symptom(
            saw=f"{library.path} is {version if isinstance(version, str) else 'of unknown version'}"
            f"; {'; '.join([*missing, *strangers])}",
            fix="Take the other cuDNN off the loader's path."
            if strangers
            else "Install the whole cuDNN wheel again.",
            commands=() if strangers else _reinstall(machine),
        )


def _torn_install(machine: Snapshot, path: str) -> Answers:
    """Judge the cuDNN that plain programs get, where there is no torch: is all of it there?"""
    installs = yield from known(machine.cudnn.installs)
    for install in installs or ():
        if f"{install.directory}/{install.soname}" != path:
            continue
        version = yield from known(install.version)
        if version is None:
            return
        missing = [
            part.soname
            for part in table.parts_of(version)
            if table.is_sure(part, version) and part.soname not in install.sublibraries
        ]
        if missing:
            yield Symptom(
                severity=Severity.WARNING,
                saw=f"{path} is {version}; beside it {', '.join(missing)} is missing",
                fix="Install the whole cuDNN package again.",
            )
        return
    if installs is not None:
        yield NotChecked(why=f"what lies beside {path} is not known")


@rule("DNN004", Severity.INFO, "Several cuDNNs are installed")
def several_cudnns(machine: Snapshot) -> Answers:
    """Two programs on this machine may run on two cuDNNs; it helps to know which gets which.

    torch's wheels bring their own cuDNN, and do not use one that NVIDIA's package installed for
    the system. A C++ build, and a program without paths of its own, gets the system's. Both may
    stay: nothing is wrong with that.
    """
    installs = yield from known(machine.cudnn.installs)
    if installs is None or len(installs) < 2:
        return
    copies = ", ".join(
        f"{each.version if isinstance(each.version, str) else 'unknown version'} in "
        f"{each.directory}"
        for each in installs
    )
    users = []
    if isinstance(machine.cudnn.for_torch, str):
        users.append(f"torch gets {machine.cudnn.for_torch}")
    if isinstance(machine.cudnn.selected_for_builds, str):
        users.append(f"a plain program gets {machine.cudnn.selected_for_builds}")
    yield Symptom(
        saw="; ".join([copies, *users]),
        fix="Nothing, as long as each program gets the one that it was built for.",
    )


@rule(
    "DNN005",
    Severity.ERROR,
    "torch would get a cuDNN built for another CUDA",
    caused_by=("LIB001", "LIB002", "LIB003"),
)
def foreign_cuda(machine: Snapshot) -> Answers:
    """A cuDNN for CUDA 12 asks for CUDA 12's cuBLAS and NVRTC, which a torch for CUDA 13 lacks.

    cuDNN is published once for each CUDA major: nvidia-cudnn-cu11, -cu12, -cu13, and packages such
    as libcudnn9-cuda-13. The files have the same names, so one is easily taken for the other. The
    program then starts, and fails at the first operation that needs cuBLAS, or loads a second
    cuBLAS beside torch's own.

    Install the cuDNN for the CUDA that torch was built with (torch.version.cuda).
    """
    library = yield from _main_library(machine)
    if library is None:
        return
    torch = machine.pytorch.torch
    cuda = yield from known(
        torch.cuda if isinstance(torch, Torch) else Unknown("torch is not known")
    )
    if cuda is None:
        return
    built_for = yield from known(_cuda_major(machine, library))
    if built_for is None:
        return
    wanted = version_tuple(cuda)[:1]
    if wanted and built_for != wanted[0]:
        yield Symptom(
            saw=f"{library.path} is built for CUDA {built_for}; torch is built for CUDA {cuda}",
            fix=f"Install the cuDNN for CUDA {wanted[0]}.",
            commands=_reinstall(machine),
        )


def _cuda_major(machine: Snapshot, library: Library) -> int | Unknown:
    """Return the CUDA major of the cuDNN that torch gets: by its package, else by its own word."""
    install = _install_at(machine, library)
    if install is not None and isinstance(install.cuda_major, int):
        return install.cuda_major
    opened = machine.cudnn.opened
    if isinstance(opened, CudnnOpened) and opened.path == library.path:
        parts = version_tuple(opened.cuda) if isinstance(opened.cuda, str) else ()
        if parts:
            return parts[0]
    if install is not None and isinstance(install.cuda_major, Unknown):
        return install.cuda_major
    return Unknown(f"{library.path} does not tell which CUDA it was built for")


@rule(
    "DNN006",
    Severity.ERROR,
    "cuDNN will not load, or is not what it says",
    caused_by=("LIB003", "LIB001", "DNN003", "LIB002"),
)
def unloadable_cudnn(machine: Snapshot) -> Answers:
    """The file is there and the loader refuses it, or it answers with another version.

    gpucheck opens the cuDNN that torch would get in a child process, by its full path, and asks
    cudnnGetVersion. The loader's own message says what is wrong: "file too short" is a broken
    download, "cannot open shared object file" names a library that this one needs (often
    libz.so.1, or libcudnn_graph.so.9), "version `GLIBC_2.28' not found" a system that is too old.
    A version other than the file's name says means that its parts come from another cuDNN.
    """
    opened = yield from known(machine.cudnn.opened)
    if opened is None:
        if not isinstance(machine.cudnn.opened, Unknown):
            yield NotApplicable(why="there is no cuDNN to open")
        return
    error = yield from known(opened.error)
    is_torchs = opened.path == machine.cudnn.for_torch
    fixes = _reinstall(machine) if is_torchs else ()
    if error is not None:
        yield Symptom(
            subject=opened.path,
            saw=f"{opened.path} does not open: {error}",
            fix="Install that cuDNN again, and what the message names.",
            commands=fixes,
        )
        return
    version = yield from known(opened.version)
    if version is None:
        return
    said = yield from known(_said_version(machine, opened.path))
    if said is not None and not is_same_version(version, said):
        yield Symptom(
            subject=opened.path,
            saw=f"{opened.path} is {said} by its name, and answers cudnnGetVersion with {version}",
            fix="Take the other cuDNN off the loader's path, or install this one again.",
            commands=fixes,
        )


def _said_version(machine: Snapshot, path: str) -> str | Unknown:
    """Return the version that the name, the wheel or the header of a cuDNN gives."""
    resolved = machine.libraries.resolved
    for library in resolved if isinstance(resolved, tuple) else ():
        if library.path == path and isinstance(library.version, str):
            return library.version
    real = path
    for library in resolved if isinstance(resolved, tuple) else ():
        if library.system_path == path and library.system_version is not None:
            return library.system_version
    installs = machine.cudnn.installs
    for install in installs if isinstance(installs, tuple) else ():
        if f"{install.directory}/{install.soname}" == real and isinstance(install.version, str):
            return install.version
    return Unknown(f"{path} does not tell its version")


@rule("DNN007", Severity.WARNING, "cuDNN's header and library differ")
def stale_header(machine: Snapshot) -> Answers:
    """What is compiled here with cuDNN is compiled for another version than it will run on.

    cudnn_version.h and libcudnn.so come from two releases: a copy by hand replaced one of them, or
    the runtime package was upgraded without the -dev package. Programs built here then check the
    wrong version, or use functions that the library lacks.

    torch's own wheels were compiled elsewhere, and do not care.
    """
    installs = yield from known(machine.cudnn.installs)
    if installs is None:
        return
    if not any(isinstance(install.header, str) for install in installs):
        yield NotApplicable(why="no cuDNN here has a header")
        return
    fitting = {
        install.header
        for install in installs
        if isinstance(install.version, str)
        and isinstance(install.header_version, str)
        and is_same_version(install.version, install.header_version)
    }
    for install in installs:
        if not isinstance(install.header, str) or install.header in fitting:
            continue
        header = yield from known(install.header_version, install.directory)
        version = yield from known(install.version, install.directory)
        if header is not None and version is not None:
            yield Symptom(
                subject=install.directory,
                saw=f"{install.header} is {header}; {install.directory}/{install.soname} is "
                f"{version}",
                fix="Install header and library from one package, of one version.",
            )


@rule(
    "DNN008",
    Severity.ERROR,
    "This cuDNN does not support a GPU that is here",
    caused_by=("LIB001", "DNN002", "TOR005", "LIB004"),
)
def unsupported_gpu(machine: Snapshot) -> Answers:
    """A cuDNN without kernels for a GPU fails on it with CUDNN_STATUS_EXECUTION_FAILED or worse.

    cuDNN drops old GPUs and learns new ones: from 9.11 on it needs compute capability 7.5 (Turing)
    or newer, so Maxwell, Pascal and Volta need 9.10.2 or older; Blackwell needs a 9.7 or newer
    that was built with CUDA 12.8 or newer.

    Choose a torch build whose cuDNN fits the GPU. What --deep saw working is not reported.
    """
    library = yield from _main_library(machine)
    if library is None:
        return
    if derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU is here")
        return
    gpus = yield from known(machine.nvml.gpus)
    if gpus is None:
        return
    version = yield from known(_version(machine, library))
    if version is None:
        return
    major = _cuda_major(machine, library)
    served = table.capabilities_of(version, major if isinstance(major, int) else None)
    if served is None:
        yield NotChecked(why=f"gpucheck's table does not know which GPUs cuDNN {version} supports")
        return
    oldest, newest = served
    working = _convolved(machine.deep)
    for gpu in gpus:
        capability = yield from known(gpu.compute_capability, gpu.subject)
        if capability is None or gpu.bus_id in working:
            continue
        if version_tuple(capability) < version_tuple(oldest):
            limit = f"needs compute capability {oldest} or newer"
        elif newest is not None and version_tuple(capability)[:1] > version_tuple(newest)[:1]:
            limit = f"knows GPUs up to compute capability {newest}"
        else:
            continue
        yield Symptom(
            subject=gpu.subject,
            gpus=(gpu.index,),
            saw=f"cuDNN {version} ({library.path}) {limit}; "
            f"{gpu.name if isinstance(gpu.name, str) else 'this GPU'} has {capability}",
            fix="Install a torch build whose cuDNN supports this GPU.",
        )


def _convolved(deep: Deep | None) -> frozenset[object]:
    """Return the bus ids of the GPUs on which --deep saw a cuDNN convolution succeed."""
    if deep is None or isinstance(deep.gpus, Unknown):
        return frozenset()
    return frozenset(workload.bus_id for workload in deep.gpus if workload.convolution is None)
