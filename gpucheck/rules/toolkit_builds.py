"""Rules about what comes of building with the toolkit that builds use: CUD003, CUD004, CUD008."""

from collections.abc import Generator

from gpucheck import derived
from gpucheck.conditions import has_cuda_torch, may_have_gpu
from gpucheck.knowledge import driver_cuda, torch_cuda
from gpucheck.remedies import system_packages, variables
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    command,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import HostCompiler, Snapshot, Toolkit, value
from gpucheck.versions import version_tuple


def _used(machine: Snapshot) -> Generator[Obstacle, None, Toolkit | None]:
    """Return the toolkit that builds would use; where there is none, say why."""
    name, home = derived.home_for_builds(machine)
    why = f"{name} leads to no toolkit" if home is not None else "no toolkit"
    return (yield from known(derived.toolkit_for_builds(machine), absent=why))


def _hidden(toolkit: Toolkit) -> tuple[str, ...]:
    """Name the rule that explains why builds take this toolkit, where one may."""
    return ("CUD007",) if toolkit.origin == "distribution" else ()


@rule(
    "CUD003",
    Severity.WARNING,
    "The toolkit that builds would use is of another CUDA than torch",
    when=has_cuda_torch,
)
def toolkit_differs_from_torch(machine: Snapshot) -> Answers:
    """Extensions are compiled by the toolkit and run inside torch: both must be one CUDA major.

    torch's own build tools (torch.utils.cpp_extension) take CUDA_HOME, else the first nvcc on
    PATH, else /usr/local/cuda, and refuse to build where its major version is not that of
    torch.version.cuda. Ready-made wheels are not touched by this. Another minor version is
    accepted with a note.

    Point CUDA_HOME at a toolkit of torch's major version, or install one in addition: several
    toolkits live side by side.
    """
    torch = value(machine.pytorch.torch)
    if torch is None:
        return
    cuda = yield from known(torch.cuda, absent="torch is not built for CUDA")
    if cuda is None:
        return
    toolkit = yield from _used(machine)
    if toolkit is None:
        return
    version = yield from known(toolkit.version, toolkit.home)
    if version is None or version_tuple(version)[:2] == version_tuple(cuda)[:2]:
        return
    is_same_major = version_tuple(version)[:1] == version_tuple(cuda)[:1]
    reached, _ = derived.home_for_builds(machine)
    yield Symptom(
        subject=toolkit.home,
        severity=Severity.INFO if is_same_major else None,
        saw=f"{reached} leads to {toolkit.home}, CUDA {version}; torch {torch.version} is built "
        f"for CUDA {cuda}",
        remedy=Remedy("Nothing: extensions build and run across minor versions.")
        if is_same_major
        else _toolkit_of_torch(machine, cuda),
        why="The major version is the same, and that is what counts." if is_same_major else "",
        explained_by=(*_hidden(toolkit), *_outruns(machine, version)),
    )


def _toolkit_of_torch(machine: Snapshot, cuda: str) -> Remedy:
    home = derived.recommended_home(machine)
    if home is None or derived.torch_cuda_major(machine) is None:
        return Remedy(
            f"Install a CUDA {cuda} toolkit, and point CUDA_HOME at it before you build extensions."
        )
    text = f"Point CUDA_HOME at {home} before you build extensions"
    return variables.set_variable(machine, "CUDA_HOME", home, text)


def _outruns(machine: Snapshot, version: str) -> tuple[str, ...]:
    return ("CUD002",) if derived.runs_cuda(machine, version) is False else ()


@rule("CUD004", Severity.WARNING, "The host compiler is newer than nvcc accepts")
def host_compiler_too_new(machine: Snapshot) -> Answers:
    """nvcc compiles the host side of CUDA code with your C++ compiler, and refuses one too new.

    The build stops with "unsupported GNU version! gcc versions later than N are not supported".
    The limit is in the toolkit's own crt/host_config.h. An older compiler can be installed in
    addition (g++-13 next to g++-15) and named to nvcc with NVCC_CCBIN, or to CMake with
    CUDAHOSTCXX. The flag -allow-unsupported-compiler silences the check, and what comes out may be
    wrong.
    """
    compiler = yield from known(machine.toolkits.host_compiler, absent="no C++ compiler")
    if compiler is None:
        return
    toolkit = yield from _used(machine)
    if toolkit is None:
        return
    if toolkit.nvcc is None:
        yield NotApplicable(why=f"{toolkit.home} has no nvcc")
        return
    if compiler.kind == "other":
        yield NotChecked(why=f"{compiler.path} is neither gcc nor clang", subject=compiler.path)
        return
    limit = toolkit.max_gcc if compiler.kind == "gcc" else toolkit.max_clang
    allowed = yield from known(limit, toolkit.home)
    version = yield from known(compiler.version, compiler.path)
    if allowed is None or version is None or version_tuple(version)[:1] <= (allowed,):
        return
    yield Symptom(
        subject=compiler.path,
        saw=f"{compiler.path} is {compiler.kind} {version} (chosen by {compiler.chosen_by}); the "
        f"nvcc of {toolkit.home} accepts {compiler.kind} up to {allowed}",
        remedy=_older_compiler(machine, compiler, allowed),
        explained_by=_hidden(toolkit),
    )


def _older_compiler(machine: Snapshot, compiler: HostCompiler, allowed: int) -> Remedy:
    """Name a compiler that nvcc accepts: one that is here, else one to install."""
    stem = "g++" if compiler.kind == "gcc" else "clang++"
    here = [path for path in compiler.others if _major_in(path) <= allowed]
    name = max(here, key=_major_in) if here else f"{stem}-{allowed}"
    chooser = compiler.chosen_by if compiler.chosen_by in ("CUDAHOSTCXX", "CXX") else "NVCC_CCBIN"
    text = f"Name {name} to nvcc with {chooser}"
    named = variables.set_variable(machine, chooser, name, text)
    if here:
        return named
    return Remedy(
        f"Install {name} in addition. {named.text}",
        (*_install_compiler(machine, stem, allowed), *named.steps),
        named.alternatives,
    )


def _major_in(path: str) -> int:
    digits = path.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 4 else 999


def _install_compiler(machine: Snapshot, stem: str, major: int) -> tuple[Command, ...]:
    is_gcc = stem == "g++"
    match system_packages.family(machine):
        case "ubuntu" | "debian" if is_gcc:
            install = "apt install g++-{major}"
        case "ubuntu" | "debian":
            install = "apt install clang-{major}"
        case "fedora" | "rhel" if is_gcc:
            install = "dnf install gcc-toolset-{major}-gcc-c++"
        case "suse" if is_gcc:
            install = "zypper install gcc{major}-c++"
        case _:
            return ()
    return (command(install, major=major, root=True, lasts="permanent"),)


@rule(
    "CUD008",
    Severity.WARNING,
    "The toolkit cannot compile for a GPU that is here",
    when=may_have_gpu,
)
def toolkit_misses_gpu(machine: Snapshot) -> Answers:
    """Code built with this toolkit holds nothing that this GPU can run directly.

    Each toolkit compiles for a window of architectures: new GPUs need a toolkit at least as new
    (Blackwell: CUDA 12.8), and old GPUs are dropped at a major version (CUDA 13 has nothing for
    Maxwell, Pascal and Volta). Code for a lower minor of the same major architecture runs: a
    toolkit that knows sm_86 serves an Ada GPU.

    Build with a toolkit whose window holds the GPU. Ready-made wheels are not touched by this.
    """
    gpus = yield from gpus_of(machine)
    if not gpus:
        return
    toolkit = yield from _used(machine)
    if toolkit is None:
        return
    if toolkit.nvcc is None:
        yield NotApplicable(why=f"{toolkit.home} has no nvcc")
        return
    architectures = yield from known(toolkit.nvcc_architectures, toolkit.home)
    if architectures is None:
        return
    reported: set[str] = set()
    for gpu in gpus:
        capability = yield from known(gpu.compute_capability, gpu.subject)
        if capability is None or capability in reported:
            continue
        if torch_cuda.has_kernels(architectures, capability):
            continue
        reported.add(capability)
        window = driver_cuda.cuda_window_for(capability)
        yield Symptom(
            subject=toolkit.home,
            saw=f"{toolkit.home} (CUDA {toolkit.version}) compiles for {architectures[0]} to "
            f"{architectures[-1]}; {gpu.name} is sm_{capability.replace('.', '')}"
            if architectures
            else f"{toolkit.home} compiles for no known architecture",
            remedy=Remedy(f"Build with {_window_text(window)}"),
            explained_by=_hidden(toolkit),
        )


def _window_text(window: tuple[str, str | None] | None) -> str:
    if window is None:
        return "a newer toolkit."
    first, last = window
    return f"CUDA {first} or newer." if last is None else f"CUDA {first} to {last}."
