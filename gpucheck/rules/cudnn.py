"""Rules about the cuDNN that torch gets: DNN001 to DNN003, DNN005, DNN006, DNN008."""

from collections.abc import Generator, Sequence

from gpucheck import derived
from gpucheck.conditions import may_have_gpu
from gpucheck.knowledge import cudnn as table
from gpucheck.remedies import python_packages, stray_libraries
from gpucheck.requirements import is_same_version
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import Gpu, Library, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count

#: cuDNN 9's library of its older interface for convolutions, which torch does not call. Measured
#: on 2 H100s with torch 2.11.0: with this part from 9.14 among 9.19's others all work passes; with
#: engines_precompiled or graph from there, LSTMs fail.
_UNUSED = "libcudnn_cnn.so.9"


def _torchs(machine: Snapshot) -> Generator[Obstacle, None, Library | None]:
    """Return the cuDNN that torch would get; where it needs none or gets none, say so and why."""
    needs = yield from known(machine.cudnn.torch_needs, absent=_why_none(machine))
    if needs is None:
        return None
    return (yield from known(machine.cudnn.for_torch, absent=f"no {needs} would load"))


def _why_none(machine: Snapshot) -> str:
    torch = value(machine.pytorch.torch)
    if torch is None:
        return "no torch is here"
    return "torch has cuDNN linked in" if torch.build == "cuda" else "this torch uses no cuDNN"


def _reinstall(machine: Snapshot) -> Remedy:
    return python_packages.wanted_wheels(
        machine, "nvidia-cudnn", again=True, text="Install the cuDNN wheel that torch asks for."
    )


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
    number matters: libcudnn.so.8 cannot replace libcudnn.so.9.

    Without any torch in the environment that was asked for this is a warning: C++ programs that
    use cuDNN would not start; what another framework gets is a question of its own (PKG003). A
    torch that has cuDNN linked into itself needs none.
    """
    needs = machine.cudnn.torch_needs
    if isinstance(needs, Unknown):
        yield NotChecked.because(needs)
        return
    if needs is None:
        yield from _no_cudnn_at_all(machine)
        return
    found = yield from known(machine.cudnn.for_torch)
    if found is not None or isinstance(machine.cudnn.for_torch, Unknown):
        return
    askers = (
        library.needed_by
        for library in value(machine.libraries.resolved) or ()
        if library.soname == needs and library.needed_by
    )
    others = [f"{each.directory}/{each.soname}" for each in value(machine.cudnn.installs) or ()]
    yield Symptom(
        saw=f"{next(askers, 'torch')} needs {needs}, which is in none of the places where the "
        "loader looks" + (f"; there is {', '.join(others)}" if others else ""),
        remedy=_reinstall(machine),
    )


def _no_cudnn_at_all(machine: Snapshot) -> Answers:
    """Judge a machine whose torch asks for no cuDNN, or that has no torch."""
    torch = yield from known(machine.pytorch.torch)
    if torch is not None or isinstance(machine.pytorch.torch, Unknown):
        if torch is not None:
            yield NotApplicable(why=_why_none(machine))
        return
    here = yield from known(derived.has_gpu(machine))
    if here is None:
        return
    if not here or not derived.is_torch_wanted(machine):
        yield NotApplicable(why="nothing here asks for cuDNN")
        return
    found = yield from known(machine.cudnn.selected_for_builds)
    if found is None and not isinstance(machine.cudnn.selected_for_builds, Unknown):
        yield Symptom(
            severity=Severity.WARNING,
            saw="no libcudnn.so in LD_LIBRARY_PATH, the loader's cache or the default directories, "
            "and no torch that brings its own",
            remedy=Remedy(
                "Nothing for a torch from wheels, which bring cuDNN; for C++ programs install "
                "NVIDIA's cudnn package."
            ),
        )


_WHAT_RAISES = ": torch.backends.cudnn.version() and the first nn.LSTM on a GPU raise"


@rule(
    "DNN002",
    Severity.ERROR,
    "torch would get an older cuDNN than it was built with",
    caused_by=("LIB001", "LIB002", "LIB003", "LIB004"),
)
def older_cudnn(machine: Snapshot) -> Answers:
    """torch asks for the cuDNN that it was compiled against, or a newer one of the same major.

    "cuDNN version incompatibility: PyTorch was compiled against (9, 19, 0) but found runtime
    version (9, 14, 0)": torch.backends.cudnn.version() raises this, and so does the first nn.LSTM,
    nn.GRU or nn.RNN that is moved to a GPU, which asks for the version (seen with torch 2.11 on
    H100). Within one major version convolutions still pass; another major never serves.

    Mostly an older copy is found before torch's own: on LD_LIBRARY_PATH, or as another version
    of the wheel. Take it away, or install the wheel that torch asks for.
    """
    library = yield from _torchs(machine)
    torch = value(machine.pytorch.torch)
    if library is None or torch is None:
        return
    if torch.cudnn is None:
        yield NotChecked(why="torch does not say which cuDNN it was built with")
    wanted = yield from known(torch.cudnn)
    version = yield from known(library.version)
    if wanted is None or version is None:
        return
    have, want = version_tuple(version)[:3], version_tuple(wanted)[:3]
    length = min(len(have), len(want))
    is_same_major = have[:1] == want[:1]
    if length == 0 or (is_same_major and have[:length] >= want[:length]):
        return
    yield Symptom(
        saw=f"torch {torch.version} was built with cuDNN {wanted}; {library.path} is {version} "
        f"(found by {library.found_via})"
        + (
            ": torch.backends.cudnn.version() and the first nn.LSTM on a GPU raise"
            if is_same_major
            else ""
        ),
        remedy=stray_libraries.remove(machine, [library])
        if library.origin != "wheel"
        else _reinstall(machine),
    )


@rule(
    "DNN003",
    Severity.ERROR,
    "cuDNN sub-libraries are missing or mismatched",
    caused_by=("LIB001", "LIB002", "LIB003", "DNN001", "LIB004"),
)
def torn_cudnn(machine: Snapshot) -> Answers:
    """cuDNN's parts must all be there, and of the same version, or convolutions and LSTMs fail.

    libcudnn.so.9 is a thin front. It opens libcudnn_graph, _ops, _cnn and _adv when they are first
    needed, and libcudnn_graph opens the engines and the heuristic; cuDNN 8 has pairs of _infer and
    _train libraries. Each is searched for by name: LD_LIBRARY_PATH comes before the folder of the
    one that asks. So a second cuDNN on that list, or a part that only the system's cuDNN has, mixes
    in: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH or CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED. `import
    torch` still works, which makes it hard to see.

    Parts that all come from one version work, and are not reported here, whatever the front is.
    """
    if machine.pytorch.torch is None and isinstance(machine.cudnn.selected_for_builds, str):
        yield from _torn_install(machine, machine.cudnn.selected_for_builds)
        return
    library = yield from _torchs(machine)
    parts = value(machine.cudnn.sublibraries_for_torch)
    if library is None or parts is None:
        if library is not None:
            yield from known(machine.cudnn.sublibraries_for_torch)
        return
    missing = [part for part in parts if not isinstance(part.path, str)]
    there = [part for part in parts if isinstance(part.path, str)]
    version = _version_of_parts(library, there)
    strangers: list[Library] = []
    for part in there:
        if not isinstance(part.version, str) or version is None:
            if not _folders(part) & _folders(library):
                yield NotChecked(
                    why=f"{part.path} comes from another directory than {library.path}, and not "
                    "both tell their version"
                )
        elif not is_same_version(part.version, version):
            strangers.append(part)
    if not missing and not strangers:
        return
    is_unused = all(each.soname == _UNUSED for each in (*missing, *strangers))
    yield Symptom(
        severity=Severity.WARNING if is_unused else None,
        saw=f"{library.path} is {version or 'of unknown version'}; "
        + "; ".join([*map(_absence, missing), *map(_presence, strangers)]),
        remedy=stray_libraries.remove(machine, strangers) if strangers else _reinstall(machine),
    )


def _folders(library: Library) -> frozenset[str]:
    """Return where a library lies, as found and with links followed."""
    paths = (library.path, library.real_path)
    return frozenset(path.rpartition("/")[0] for path in paths if isinstance(path, str))


def _version_of_parts(front: Library, parts: Sequence[Library]) -> str | None:
    """Return the version of the most parts: the front alone is a shim that any of them serves.

    Of two as many, the front's own counts.
    """
    versions = [part.version for part in parts if isinstance(part.version, str)]
    own = value(front.version)
    best: str | None = own
    most = sum(own is not None and is_same_version(each, own) for each in versions)
    for version in dict.fromkeys(versions):
        number = sum(is_same_version(each, version) for each in versions)
        if number > most:
            best, most = version, number
    return best


def _absence(part: Library) -> str:
    if isinstance(part.path, Unknown):
        return f"{part.soname} will not load ({part.path.why})"
    return f"{part.soname} is missing"


def _presence(part: Library) -> str:
    owner = f", of the package {part.package}" if isinstance(part.package, str) else ""
    return f"{part.path} is {part.version}, by {part.found_via}{owner}"


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
                saw=f"{path} is {version}; next to it {', '.join(missing)} is missing",
                remedy=Remedy("Install the whole cuDNN package again."),
            )
        return
    if installs is not None:
        yield NotChecked(why=f"what lies in the folder of {path} is not known")


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
    cuBLAS in addition to torch's own.

    Install the cuDNN for the CUDA that torch was built with (torch.version.cuda).
    """
    library = yield from _torchs(machine)
    torch = value(machine.pytorch.torch)
    if library is None or torch is None:
        return
    cuda = yield from known(torch.cuda)
    if cuda is None:
        return
    built_for = yield from known(machine.cudnn.cuda_major_for_torch)
    wanted = version_tuple(cuda)[:1]
    if built_for is not None and wanted and built_for != wanted[0]:
        yield Symptom(
            saw=f"{library.path} is built for CUDA {built_for}; torch is built for CUDA {cuda}",
            remedy=_reinstall(machine),
        )


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
    A version other than the file's name says means that its parts come from another cuDNN: a
    warning, for parts of the same version serve.
    """
    opened = yield from known(machine.cudnn.opened, absent="there is no cuDNN to open")
    if opened is None:
        return
    error = yield from known(opened.error)
    if error is not None:
        yield Symptom(
            subject=opened.path,
            saw=f"{opened.path} does not open: {error}",
            remedy=_install_again(machine, opened.path),
        )
        return
    version = yield from known(opened.version)
    if version is None:
        return
    said = yield from known(derived.cudnn_version(machine, opened.path))
    if said is not None and not is_same_version(version, said):
        yield Symptom(
            subject=opened.path,
            severity=Severity.WARNING
            if version_tuple(version)[:1] == version_tuple(said)[:1]
            else None,
            saw=f"{opened.path} is {said} by its name, and answers cudnnGetVersion with {version}",
            remedy=_install_again(machine, opened.path),
        )


def _install_again(machine: Snapshot, path: str) -> Remedy:
    torchs = value(machine.cudnn.for_torch)
    if torchs is not None and path == torchs.path:
        return _reinstall(machine)
    return Remedy("Install that cuDNN again, and what the message names.")


@rule(
    "DNN008",
    Severity.ERROR,
    "This cuDNN does not support a GPU that is here",
    caused_by=("LIB001", "DNN002", "TOR005", "LIB004"),
    when=may_have_gpu,
)
def unsupported_gpu(machine: Snapshot) -> Answers:
    """A cuDNN without kernels for a GPU fails on it with CUDNN_STATUS_EXECUTION_FAILED or worse.

    cuDNN drops old GPUs and learns new ones: from 9.11 on it needs compute capability 7.5 (Turing)
    or newer, so Maxwell, Pascal and Volta need 9.10.2 or older; Blackwell needs a 9.7 or newer
    that was built with CUDA 12.8 or newer.

    Choose a torch build whose cuDNN fits the GPU. What --deep saw working is not reported.
    """
    library = yield from _torchs(machine)
    if library is None:
        return
    gpus = yield from gpus_of(machine)
    version = yield from known(library.version)
    if not gpus or version is None:
        return
    served = table.capabilities_of(version, value(machine.cudnn.cuda_major_for_torch))
    if served is None:
        yield NotChecked(why=f"gpucheck's table does not know which GPUs cuDNN {version} supports")
        return
    working = _convolved(machine)
    found: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        capability = yield from known(gpu.compute_capability, gpu.subject)
        if capability is not None and gpu.bus_id not in working:
            limit = _limit(capability, *served)
            if limit:
                name = gpu.name if isinstance(gpu.name, str) else "this GPU"
                found.setdefault(f"{limit}; {name} has {capability}", []).append(gpu)
    for what, those in found.items():
        many = f" ({count(len(those), 'GPU')})" if len(those) > 1 else ""
        yield Symptom(
            subject=", ".join(gpu.subject for gpu in those),
            gpus=tuple(gpu.index for gpu in those),
            saw=f"cuDNN {version} ({library.path}) {what}{many}",
            remedy=python_packages.replace_torch(machine),
        )


def _limit(capability: str, oldest: str, newest: str | None) -> str:
    if version_tuple(capability) < version_tuple(oldest):
        return f"needs compute capability {oldest} or newer"
    if newest is not None and version_tuple(capability)[:1] > version_tuple(newest)[:1]:
        return f"knows GPUs up to compute capability {newest}"
    return ""


def _convolved(machine: Snapshot) -> frozenset[object]:
    """Return the bus ids of the GPUs on which --deep saw a cuDNN convolution succeed."""
    works = (value(machine.deep.gpus) or ()) if machine.deep is not None else ()
    return frozenset(work.bus_id for work in works if work.convolution is None)
