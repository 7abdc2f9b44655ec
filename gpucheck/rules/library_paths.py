"""Rules about which libraries the loader gives torch, and why: LIB001, LIB005 to LIB007."""

from gpucheck import derived
from gpucheck.remedies import python_packages, stray_libraries
from gpucheck.requirements import is_same_version, satisfies
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import (
    CxxLibrary,
    DriverLibrary,
    Library,
    Snapshot,
    Toolkit,
    Unknown,
    value,
)
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

_BY_VARIABLE = ("LD_LIBRARY_PATH", "LD_PRELOAD")
_SHOWN = 3  # libraries of one folder; the others are counted


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
    CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH. It is a warning where the other copies are known to
    serve: another patch release, or a whole cuDNN of the same major version.

    torch's wheels need nothing on LD_LIBRARY_PATH. Take the directory out; where another program
    needs it, set the variable for that program alone. gpucheck follows the loader's order without
    loading anything, and does not complain where torch's own DT_RPATH wins all the same, or where
    both copies are of the same version.
    """
    libraries = yield from known(machine.libraries.resolved, absent="no torch is here")
    if libraries == ():
        yield NotApplicable(why="this torch needs no CUDA library")
    shadows: dict[tuple[str, str], list[Library]] = {}
    for library in libraries or ():
        if library.found_via not in _BY_VARIABLE or library.wheel_path is None:
            continue
        if library.wheel_path in (library.path, library.real_path):
            continue
        version, own = library.version, library.wheel_version
        if isinstance(version, str) and isinstance(own, str):
            if not is_same_version(version, own):
                shadows.setdefault((library.found_via, library.directory), []).append(library)
            continue
        unknown = version if isinstance(version, Unknown) else own
        why = unknown.why if isinstance(unknown, Unknown) else "the wheel's version is not known"
        yield NotChecked(
            why=f"{library.path} wins over {library.wheel_path}: {why}", subject=library.directory
        )
    for (variable, directory), found in shadows.items():
        serves = derived.works_on_gpus(machine) or all(_serves(machine, each) for each in found)
        pairs = [f"{each.soname} {each.version} instead of {each.wheel_version}" for each in found]
        more = len(pairs) - _SHOWN
        if more > 0:
            pairs = [*pairs[:_SHOWN], f"{more} more"]
        place = directory if variable == "LD_LIBRARY_PATH" else found[0].path
        yield Symptom(
            subject=directory,
            severity=Severity.WARNING if serves else None,
            saw=f"{variable} puts {place or 'the current directory'} before torch's own "
            f"{str(found[0].wheel_path).rpartition('/')[0]}: {listed(pairs)}",
            remedy=stray_libraries.without_elements(machine, variable, found),
            explained_by=("ENV025",) if variable == "LD_PRELOAD" else (),
        )


def _serves(machine: Snapshot, library: Library) -> bool:
    """Tell whether a copy of another version is known to do torch's work all the same.

    Measured on 2 H100s with torch 2.11.0: a whole cuDNN 9.14 in place of 9.19, NCCL 2.28.3 for
    2.28.9.
    """
    have, own = version_tuple(str(library.version)), version_tuple(str(library.wheel_version))
    if library.soname.startswith("libcudnn"):
        return have[:1] == own[:1] and derived.cudnn_is_of_one_version(machine)
    return have[:2] == own[:2]


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
    home = yield from known(machine.environment.cuda_home, absent="CUDA_HOME is unset")
    if home is None:
        return
    folders = yield from known(machine.libraries.ld_so_conf)
    if folders is None:
        return
    toolkits = [folder for folder in folders if folder.has_cudart]
    if not toolkits:
        yield NotApplicable(why="no toolkit feeds the loader's cache")
        return
    wanted = yield from known(home.toolkit_version, absent=f"{home.value} is no toolkit")
    installed = yield from known(machine.toolkits.installed)
    if wanted is None or installed is None:
        return
    for folder in toolkits:
        version = yield from known(_version_at(folder.directory, installed), folder.directory)
        if version is not None and not is_same_version(version, wanted):
            yield Symptom(
                subject=folder.directory,
                saw=f"{folder.file} puts {folder.directory} (CUDA {version}) into the loader's "
                f"cache; CUDA_HOME={home.value} is CUDA {wanted}",
                remedy=Remedy(
                    "Point CUDA_HOME at the toolkit that programs run on, or correct "
                    f"{folder.file} and rebuild the cache.",
                    (command("ldconfig", root=True, lasts="permanent"),),
                ),
            )


def _version_at(directory: str, installed: tuple[Toolkit, ...]) -> str | Unknown:
    for toolkit in installed:
        if directory == toolkit.library_directory or directory.startswith(f"{toolkit.home}/"):
            version = toolkit.version
            if version is not None:
                return version
    return Unknown(f"the version of the toolkit at {directory} is not known")


# ------------------------------------------------------------------------------------------ LIB006


@rule("LIB006", Severity.ERROR, "The C++ library that torch gets is too old for it")
def old_cxx_library(machine: Snapshot) -> Answers:
    """`import torch` ends in "libstdc++.so.6: version `GLIBCXX_3.4.NN' not found".

    libstdc++ is the C++ library of gcc, and grows with it; a program needs one that is as new as
    the compiler that made it. torch needs a newer one than the system's own on old systems only;
    mostly another program's old copy is found first: from MATLAB, Vivado, ROS, spack or Anaconda
    on LD_LIBRARY_PATH, or a conda environment with an old libstdcxx-ng, whose python loads it
    first. It has nothing to do with GLIBC_2.NN, which is the age of the Linux itself.
    """
    cxx = yield from known(machine.libraries.cxx, absent="nothing here asks for libstdc++")
    if cxx is None or not cxx.missing:
        return
    versions = listed(cxx.missing[-_SHOWN:])
    newer = f"; {listed(cxx.newer[:_SHOWN])} would do" if cxx.newer else ""
    yield Symptom(
        subject=cxx.path,
        saw=f"{cxx.needed_by} needs {versions}; {cxx.path} has up to {cxx.newest}, found by "
        f"{cxx.found_via}{newer}",
        remedy=_newer_cxx(machine, cxx),
    )


def _newer_cxx(machine: Snapshot, cxx: CxxLibrary) -> Remedy:
    if cxx.found_via in _BY_VARIABLE:
        stray = Library(
            soname="libstdc++.so.6",
            path=cxx.path,
            found_via=cxx.found_via,
            directory=cxx.directory,
        )
        remedy = stray_libraries.without_elements(machine, cxx.found_via, [stray])
        _, _, lasting = remedy.text.partition(";")
        text = f"Take {cxx.directory or cxx.path} out of {cxx.found_via} for torch's programs"
        return Remedy(f"{text};{lasting}" if lasting else text, remedy.steps, remedy.alternatives)
    python = value(machine.pytorch.python)
    if python is not None and isinstance(python.conda_tool, str):
        is_here = any(each.startswith(f"{python.prefix}/") for each in cxx.newer)
        package = "libstdcxx-ng" if is_here else "libstdcxx-ng>=13"
        return Remedy(
            "Give the conda environment a libstdc++ that is new enough.",
            python_packages.conda_install(python, [package], again=is_here),
        )
    return Remedy(
        "This system's libstdc++ is older than the compiler that built torch: use an older "
        "release of torch, a conda environment (which has its own), or a container."
    )


# ------------------------------------------------------------------------------------------ LIB007


@rule("LIB007", Severity.INFO, "libcuda.so.1 is not in the loader's cache")
def uncached_driver(machine: Snapshot) -> Answers:
    """Programs that ask `ldconfig -p` for libcuda do not find it, though torch itself does.

    On Colab, in Singularity with --nv, on NixOS and on some Kubernetes nodes the driver's libraries
    lie in a folder that LD_LIBRARY_PATH alone names. Whatever loads libcuda works; but Triton and
    TransformerEngine look into the loader's cache, and say "libcuda.so cannot found!", and a link
    with -lcuda fails. It is a warning where a Triton is here that looks nowhere else.

    Put the folder into the cache, or name it to Triton with TRITON_LIBCUDA_PATH.
    """
    libraries = yield from known(machine.driver.libraries)
    copies = [each for each in libraries or () if each.soname == "libcuda.so.1"]
    winner = next((each for each in copies if each.is_selected), None)
    if winner is None or winner.found_via != "LD_LIBRARY_PATH" or winner.is_stub is True:
        return
    if any(each.found_via == "ld.so.cache" for each in copies):
        return
    yield _uncached(machine, winner)


#: Triton looked into the cache alone up to here; later ones take TRITON_LIBCUDA_PATH, and folders
#: of LD_LIBRARY_PATH. Source: triton-lang/triton, common/build.py and backends/nvidia/driver.py.
_CACHE_ALONE = "<2.2"


def _uncached(machine: Snapshot, winner: DriverLibrary) -> Symptom:
    folder = winner.path.rpartition("/")[0]
    tritons = [each for each in value(machine.pytorch.distributions) or () if each.name == "triton"]
    triton = tritons[0] if tritons else None
    is_blind = triton is not None and satisfies(triton.version, _CACHE_ALONE)
    named = f"; triton {triton.version} looks there alone" if triton and is_blind else ""
    cache = Remedy(
        "Put its folder into the loader's cache.",
        (command("ldconfig {folder}", folder=folder, root=True, lasts="reboot"),),
    )
    variable = command("export TRITON_LIBCUDA_PATH={folder}", folder=folder, lasts="shell")
    return Symptom(
        subject=winner.path,
        severity=Severity.WARNING if is_blind else None,
        saw=f"{winner.path} is found by LD_LIBRARY_PATH alone: `ldconfig -p` does not list it"
        + named,
        remedy=cache
        if is_blind
        else Remedy(
            "Nothing, unless a program says that it cannot find libcuda.so.",
            alternatives=(cache, Remedy("Name the folder to Triton.", (variable,))),
        ),
    )
