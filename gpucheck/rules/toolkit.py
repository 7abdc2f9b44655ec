"""Rules about the CUDA toolkits on this machine: the family CUD."""

from collections.abc import Generator

from gpucheck import derived
from gpucheck.knowledge import driver_cuda, torch_cuda
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Severity,
    Symptom,
    known,
    rule,
)
from gpucheck.snapshot import (
    HomeVariable,
    HostCompiler,
    Maybe,
    Snapshot,
    Toolkit,
    Unknown,
)
from gpucheck.versions import version_tuple

Asking = Generator[NotChecked | NotApplicable, None, "tuple[Toolkit, str] | None"]


@rule(
    "CUD001", Severity.INFO, "No CUDA toolkit with a compiler is installed", caused_by=("DRV001",)
)
def no_toolkit(machine: Snapshot) -> Answers:
    """PyTorch's wheels bring their own CUDA libraries; only building CUDA code needs a toolkit.

    A toolkit is the compiler nvcc with its headers and libraries. You need one to build C++ or
    CUDA extensions (flash-attention, apex, your own kernels) or CUDA programs; training with
    ready-made wheels needs none. NVIDIA's packages install it under /usr/local/cuda-X.Y.

    Where you do need one, choose a release of the same major version as your torch's CUDA.
    """
    installed = yield from known(machine.toolkits.installed)
    if installed is None:
        return
    if derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU is here to build for")
        return
    if any(isinstance(toolkit.nvcc, str | Unknown) for toolkit in installed):
        return
    libraries = ", ".join(toolkit.home for toolkit in installed)
    yield Symptom(
        saw=f"only runtime libraries, in {libraries}; no nvcc"
        if installed
        else "no toolkit in /usr/local, /opt, the conda prefix or on PATH",
        fix="Nothing, unless you build CUDA code: then install the toolkit of your torch's CUDA "
        "major version.",
    )


@rule("CUD002", Severity.WARNING, "A CUDA toolkit is newer than the driver can run")
def toolkit_outruns_driver(machine: Snapshot) -> Answers:
    """A driver runs programs of its own CUDA major version and of older ones, not of newer majors.

    Programs built with such a toolkit start, and fail at their first CUDA call with error 35: the
    driver is insufficient. Within one major version any driver at or above that major's first one
    will do (NVIDIA's minor-version compatibility), so a newer minor is only worth knowing: what
    needs the newer driver's features fails with error 36, and PTX code with error 222.

    Install a newer driver, or build with a toolkit of the driver's major version. On data-centre
    GPUs the package cuda-compat carries a newer user-mode driver over an older kernel module.
    """
    installed = yield from known(machine.toolkits.installed)
    if installed is None:
        return
    if derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU")
        return
    if not installed:
        yield NotApplicable(why="no toolkit")
        return
    newest = derived.newest_cuda(machine)
    if newest is None:
        yield _driver_unknown(machine)
        return
    if derived.compat_library(machine) is not None:
        return  # the compatibility package's libcuda is what programs get
    driver = derived.driver_version(machine)
    have = version_tuple(newest)
    chosen = _chosen_home(machine)
    for toolkit in installed:
        if not isinstance(toolkit.version, str):
            yield from known(toolkit.version, toolkit.home)
            continue
        version = version_tuple(toolkit.version)
        runs = f"driver {driver} runs up to CUDA {newest}" if driver else f"it runs up to {newest}"
        if version[:1] > have[:1]:
            is_home = _home_of(machine.environment.cuda_home) == toolkit.home
            needed = driver_cuda.oldest_driver_for(version[0])
            yield Symptom(
                subject=toolkit.home,
                severity=Severity.ERROR if is_home else None,
                saw=f"{toolkit.home} is CUDA {toolkit.version}; {runs}"
                + (", and CUDA_HOME points to it" if is_home else ""),
                fix=(f"Install driver {needed} or newer" if needed else "Install a newer driver")
                + f", or build with a CUDA {newest.partition('.')[0]} toolkit.",
                explained_by=("TOR004",),  # a driver too old for both is one trouble
            )
        elif version[:2] > have[:2] and toolkit.home == chosen:
            yield Symptom(
                subject=toolkit.home,
                severity=Severity.INFO,
                saw=f"{toolkit.home} is CUDA {toolkit.version}; {runs}; minor-version "
                "compatibility holds",
                fix="Nothing, unless a program asks for PTX compilation or for features of the "
                f"newer driver: then update the driver to {_paired(toolkit.version)}.",
                why="Programs built with it run, with the features that the driver has.",
            )


@rule("CUD003", Severity.WARNING, "The toolkit that builds would use is of another CUDA than torch")
def toolkit_differs_from_torch(machine: Snapshot) -> Answers:
    """Extensions are compiled by the toolkit and run inside torch: both must be one CUDA major.

    torch's own build tools (torch.utils.cpp_extension) take CUDA_HOME, else the first nvcc on
    PATH, else /usr/local/cuda, and refuse to build where its major version is not that of
    torch.version.cuda. Ready-made wheels are not touched by this. Another minor version is
    accepted with a note.

    Point CUDA_HOME at a toolkit of torch's major version, or install one beside the others:
    several toolkits live side by side.
    """
    torch = yield from known(machine.pytorch.torch)
    if torch is None:
        if not isinstance(machine.pytorch.torch, Unknown):
            yield NotApplicable(why="no torch")
        return
    if torch.build != "cuda" or not isinstance(torch.cuda, str):
        yield from known(torch.build)
        yield from known(torch.cuda)
        yield NotApplicable(why="torch is not built for CUDA")
        return
    answer = yield from _build_toolkit(machine)
    if answer is None:
        return
    toolkit, reached = answer
    version = yield from known(toolkit.version, toolkit.home)
    if version is None or version_tuple(version)[:2] == version_tuple(torch.cuda)[:2]:
        return
    major = version_tuple(torch.cuda)[:1]
    same_major = version_tuple(version)[:1] == major
    fitting = _installed_with_major(machine, major)
    yield Symptom(
        subject=toolkit.home,
        severity=Severity.INFO if same_major else None,
        saw=f"{reached} leads to {toolkit.home}, CUDA {version}; torch {torch.version} is built "
        f"for CUDA {torch.cuda}",
        fix="Nothing: extensions build and run across minor versions."
        if same_major
        else f"Point CUDA_HOME at {fitting.home} before you build extensions."
        if fitting
        else f"Install a CUDA {torch.cuda} toolkit, and point CUDA_HOME at it before you build "
        "extensions.",
        commands=() if same_major or not fitting else (f"export CUDA_HOME={fitting.home}",),
        why="The major version is the same, and that is what counts." if same_major else "",
        explained_by=(*_hidden(toolkit), *_outruns(machine, version)),
    )


@rule("CUD004", Severity.WARNING, "The host compiler is newer than nvcc accepts")
def host_compiler_too_new(machine: Snapshot) -> Answers:
    """nvcc compiles the host side of CUDA code with your C++ compiler, and refuses one too new.

    The build stops with "unsupported GNU version! gcc versions later than N are not supported".
    The limit stands in the toolkit's own crt/host_config.h. An older compiler can be installed
    beside the newer one (g++-13 beside g++-15) and named to nvcc with NVCC_CCBIN, or to CMake
    with CUDAHOSTCXX. The flag -allow-unsupported-compiler silences the check, and what comes out
    may be wrong.
    """
    compiler = yield from known(machine.toolkits.host_compiler)
    if compiler is None:
        if not isinstance(machine.toolkits.host_compiler, Unknown):
            yield NotApplicable(why="no C++ compiler")
        return
    answer = yield from _build_toolkit(machine)
    if answer is None:
        return
    toolkit, _ = answer
    if toolkit.nvcc is None:
        yield NotApplicable(why=f"{toolkit.home} has no nvcc")
        return
    if compiler.kind == "other":
        yield NotChecked(why=f"{compiler.path} is neither gcc nor clang", subject=compiler.path)
        return
    limit = toolkit.max_gcc if compiler.kind == "gcc" else toolkit.max_clang
    if limit is None:
        return
    allowed = yield from known(limit, toolkit.home)
    version = yield from known(compiler.version, compiler.path)
    if allowed is None or version is None:
        return
    if version_tuple(version)[:1] <= (allowed,):
        return
    yield Symptom(
        subject=compiler.path,
        saw=f"{compiler.path} is {compiler.kind} {version} (chosen by {compiler.chosen_by}); the "
        f"nvcc of {toolkit.home} accepts {compiler.kind} up to {allowed}",
        fix=_compiler_fix(compiler, allowed),
        commands=(f"export NVCC_CCBIN=g++-{allowed}",)
        if compiler.kind == "gcc"
        else (f"export NVCC_CCBIN=clang++-{allowed}",),
        explained_by=_hidden(toolkit),
    )


@rule("CUD005", Severity.ERROR, "A CUDA toolkit is broken")
def toolkit_broken(machine: Snapshot) -> Answers:
    """Whatever builds with this toolkit fails, or builds with another version than it believes.

    Three things are looked at: a link such as /usr/local/cuda that leads to nothing (its toolkit
    was removed), an nvcc that does not run, and a version.json that names another version than
    the nvcc beside it (files of two releases were mixed). A toolkit without a version.json is
    sound: some installations leave it out.
    """
    installed = yield from known(machine.toolkits.installed)
    dangling = yield from known(machine.toolkits.dangling)
    if installed == () and dangling == ():
        yield NotApplicable(why="no toolkit")
    if dangling:
        # One toolkit that was removed leaves several: cuda, cuda-13 and the alternatives' own.
        link, rest = dangling[0], [toolkit.home for toolkit in installed or ()]
        yield Symptom(
            subject=link,
            saw=f"{link} is a link to nothing"
            if len(dangling) == 1
            else f"{', '.join(dangling)} are links to nothing",
            fix=f"Let it lead to a toolkit that is there ({', '.join(rest)}), or remove it."
            if rest
            else "Install the toolkit that it led to, or remove the link.",
            commands=(f"sudo ln -sfn {rest[-1]} {link}",) if rest else (f"sudo rm {link}",),
        )
    for toolkit in installed or ():
        if isinstance(toolkit.nvcc_error, str):
            yield Symptom(
                subject=toolkit.home,
                saw=f"{toolkit.nvcc} does not run: {toolkit.nvcc_error}",
                fix="Install this toolkit again, from the package that it came from.",
            )
            continue
        if toolkit.nvcc is None:
            continue
        if isinstance(toolkit.nvcc_version, Unknown):
            yield NotChecked(why=toolkit.nvcc_version.why, subject=toolkit.home)
            continue
        if not isinstance(toolkit.nvcc_version, str) or not isinstance(toolkit.version_json, str):
            continue
        if version_tuple(toolkit.version_json)[:2] != version_tuple(toolkit.nvcc_version)[:2]:
            yield Symptom(
                subject=toolkit.home,
                saw=f"{toolkit.home}/version.json says {toolkit.version_json}, and its nvcc "
                f"{toolkit.nvcc_version}",
                fix="Files of two releases are mixed here: remove the folder, and install one.",
            )


@rule("CUD006", Severity.INFO, "/usr/local/cuda and CUDA_HOME lead to different toolkits")
def two_defaults(machine: Snapshot) -> Answers:
    """Builds that ask CUDA_HOME and builds that use /usr/local/cuda get different CUDA versions.

    Neither is wrong: CUDA_HOME is yours, /usr/local/cuda is the machine's default. But a build
    that finds its headers by one and its libraries by the other mixes two releases.
    """
    variable = yield from known(machine.environment.cuda_home)
    default = yield from known(machine.toolkits.default)
    if isinstance(machine.environment.cuda_home, Unknown) or isinstance(
        machine.toolkits.default, Unknown
    ):
        return
    if variable is None or default is None:
        yield NotApplicable(why="CUDA_HOME is unset, or there is no /usr/local/cuda")
        return
    home = yield from known(variable.resolved)
    if home is None:
        if variable.resolved is None:
            yield NotApplicable(why="CUDA_HOME leads nowhere")
        return
    if home != default:
        yield Symptom(
            subject="CUDA_HOME",
            saw=f"CUDA_HOME leads to {home}, /usr/local/cuda to {default}",
            fix="Nothing, if you mean it so; else let both lead to one toolkit.",
        )


@rule("CUD007", Severity.WARNING, "The distribution's nvcc hides a toolkit in /usr/local")
def distribution_nvcc_first(machine: Snapshot) -> Answers:
    """Typing nvcc runs the distribution's package, which is older than the toolkit you installed.

    Ubuntu's and Debian's nvidia-cuda-toolkit puts nvcc into /usr/bin. Where that folder comes
    before /usr/local/cuda/bin on PATH, it wins, and builds fail on newer GPUs or mix two
    releases. Put the toolkit's bin folder first, or remove the distribution's package.
    """
    installed = yield from known(machine.toolkits.installed)
    first = yield from known(machine.toolkits.first_nvcc)
    if isinstance(machine.toolkits.first_nvcc, Unknown) or installed is None:
        return
    if first is None:
        yield NotApplicable(why="no nvcc on PATH")
        return
    home = yield from known(machine.toolkits.first_nvcc_home)
    if home is None:
        return
    origins = {toolkit.home: toolkit for toolkit in installed}
    winner = origins.get(home)
    if winner is None or winner.origin != "distribution":
        return
    others = [t for t in installed if t.origin == "local" and t.nvcc is not None]
    if not others:
        return
    best = max(others, key=lambda t: version_tuple(t.version) if isinstance(t.version, str) else ())
    yield Symptom(
        subject=first,
        saw=f"{first} is the distribution's{_version_text(winner)} and comes before "
        f"{best.home}{_version_text(best)}",
        fix=f"Put {best.home}/bin before the distribution's folder on PATH, or remove the "
        "package nvidia-cuda-toolkit.",
        commands=(f'export PATH="{best.home}/bin:$PATH"',),
    )


@rule("CUD008", Severity.WARNING, "The toolkit cannot compile for a GPU that is here")
def toolkit_misses_gpu(machine: Snapshot) -> Answers:
    """Code built with this toolkit holds nothing that this GPU can run directly.

    Each toolkit compiles for a window of architectures: new GPUs need a toolkit at least as new
    (Blackwell: CUDA 12.8), and old GPUs are dropped at a major version (CUDA 13 has nothing for
    Maxwell, Pascal and Volta). Code for a lower minor of the same major architecture runs: a
    toolkit that knows sm_86 serves an Ada GPU.

    Build with a toolkit whose window holds the GPU. Ready-made wheels are not touched by this.
    """
    if derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU")
        return
    gpus = yield from known(machine.nvml.gpus)
    if gpus is None:
        return
    if not gpus:
        yield NotApplicable(why="no GPU")
        return
    answer = yield from _build_toolkit(machine)
    if answer is None:
        return
    toolkit, _ = answer
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
            fix="Build with " + _window_text(window),
            explained_by=_hidden(toolkit),
        )


# ------------------------------------------------------------------------------ asked by several


def _build_toolkit(machine: Snapshot) -> Asking:
    """Return the toolkit that builds would use, and what leads to it, in torch's own order."""
    toolkits = machine.toolkits
    if isinstance(toolkits.installed, Unknown):
        yield NotChecked(why=toolkits.installed.why)
        return None
    for name, variable in (
        ("CUDA_HOME", machine.environment.cuda_home),
        ("CUDA_PATH", machine.environment.cuda_path),
    ):
        if isinstance(variable, Unknown):
            yield NotChecked(why=variable.why)
            return None
        if variable is not None:
            return (yield from _find(toolkits.installed, variable.resolved, name))
    if isinstance(toolkits.first_nvcc, Unknown):
        yield NotChecked(why=toolkits.first_nvcc.why)
        return None
    if toolkits.first_nvcc is not None:
        home = toolkits.first_nvcc_home
        return (yield from _find(toolkits.installed, home, toolkits.first_nvcc))
    if toolkits.default is None:
        yield NotApplicable(why="no toolkit")
        return None
    return (yield from _find(toolkits.installed, toolkits.default, "/usr/local/cuda"))


def _find(installed: tuple[Toolkit, ...], home: Maybe[str], name: str) -> Asking:
    if isinstance(home, Unknown):
        yield NotChecked(why=home.why)
        return None
    for toolkit in installed:
        if toolkit.home == home:
            return toolkit, name
    yield NotApplicable(why=f"{name} leads to no toolkit")
    return None


def _home_of(variable: Maybe[HomeVariable]) -> str | None:
    if isinstance(variable, HomeVariable) and isinstance(variable.resolved, str):
        return variable.resolved
    return None


def _chosen_home(machine: Snapshot) -> str | None:
    """Return the home that builds would use, as far as it is known."""
    home = _home_of(machine.environment.cuda_home)
    for each in (machine.toolkits.first_nvcc_home, machine.toolkits.default):
        if home is None and isinstance(each, str):
            home = each
    return home


def _driver_unknown(machine: Snapshot) -> NotChecked | NotApplicable:
    if machine.driver.module_version is None:
        return NotApplicable(why="no driver is loaded")
    return NotChecked(why="the driver's CUDA version is not known")


def _hidden(toolkit: Toolkit) -> tuple[str, ...]:
    """Name the rule that explains why builds take this toolkit, where one may."""
    return ("CUD007",) if toolkit.origin == "distribution" else ()


def _outruns(machine: Snapshot, version: str) -> tuple[str, ...]:
    newest = derived.newest_cuda(machine)
    outruns = newest is not None and version_tuple(version)[:1] > version_tuple(newest)[:1]
    return ("CUD002",) if outruns else ()


def _installed_with_major(machine: Snapshot, major: tuple[int, ...]) -> Toolkit | None:
    if isinstance(machine.toolkits.installed, Unknown):
        return None
    for toolkit in machine.toolkits.installed:
        fits = isinstance(toolkit.version, str) and version_tuple(toolkit.version)[:1] == major
        if fits and isinstance(toolkit.nvcc, str):
            return toolkit
    return None


def _paired(cuda: str) -> str:
    driver = driver_cuda.driver_paired_with(cuda)
    return f"{driver} or newer" if driver else "the one that NVIDIA pairs with it"


def _compiler_fix(compiler: HostCompiler, allowed: int) -> str:
    name = f"g++-{allowed}" if compiler.kind == "gcc" else f"clang++-{allowed}"
    if compiler.chosen_by == "PATH":
        return f"Install {name} beside it, and name it to nvcc with NVCC_CCBIN."
    return f"Let {compiler.chosen_by} name {name}, or another that is old enough."


def _version_text(toolkit: Toolkit) -> str:
    return f" (CUDA {toolkit.version})" if isinstance(toolkit.version, str) else ""


def _window_text(window: tuple[str, str | None] | None) -> str:
    if window is None:
        return "a newer toolkit."
    first, last = window
    return f"CUDA {first} or newer." if last is None else f"CUDA {first} to {last}."
