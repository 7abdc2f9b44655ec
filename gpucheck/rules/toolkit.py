"""Rules about the CUDA toolkits that are installed: CUD001, CUD002, CUD005 to CUD007."""

from gpucheck import derived
from gpucheck.conditions import may_have_gpu
from gpucheck.knowledge import driver_cuda
from gpucheck.remedies import system_packages, variables
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
from gpucheck.snapshot import Snapshot, Toolkit, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed


@rule(
    "CUD001", Severity.INFO, "No CUDA toolkit with a compiler is installed", caused_by=("DRV001",)
)
def no_toolkit(machine: Snapshot) -> Answers:
    """PyTorch's wheels bring their own CUDA libraries; only building CUDA code needs a toolkit.

    A toolkit is the compiler nvcc with its headers and libraries. You need one to build C++ or
    CUDA extensions (flash-attention, apex, your own kernels) or CUDA programs; training with
    ready-made wheels needs none, and then its absence is not worth a word. NVIDIA's packages
    install it under /usr/local/cuda-X.Y.

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
    if not installed and not isinstance(machine.environment.variable("CUDA_HOME"), str):
        yield NotChecked(
            why="no toolkit is installed, and ready-made wheels need none", kind="by design"
        )
        return
    libraries = listed([toolkit.home for toolkit in installed])
    cuda = derived.torch_cuda_major(machine)
    yield Symptom(
        saw=f"only runtime libraries, in {libraries}; no nvcc"
        if installed
        else "CUDA_HOME is set, and no toolkit is in /usr/local, /opt, the conda prefix or on PATH",
        remedy=Remedy(
            "If you build CUDA code, install a toolkit of "
            + (f"CUDA {cuda}, as torch has." if cuda else "your torch's CUDA major version.")
        ),
    )


@rule(
    "CUD002",
    Severity.WARNING,
    "A CUDA toolkit is newer than the driver can run",
    when=may_have_gpu,
)
def toolkit_outruns_driver(machine: Snapshot) -> Answers:
    """A driver runs programs of its own CUDA major version and of older ones, not of newer majors.

    Programs built with such a toolkit start, and fail at their first CUDA call with error 35: the
    driver is insufficient. Within one major version any driver at or above that major's first one
    will do (NVIDIA's minor-version compatibility), so a newer minor is only worth knowing: what
    needs the newer driver's features fails with error 36, and PTX code with error 222.

    Install a newer driver, or build with a toolkit of the driver's major version. On data-center
    GPUs the package cuda-compat carries a newer user-mode driver over an older kernel module.
    """
    installed = yield from known(machine.toolkits.installed)
    if installed is None:
        return
    if not installed:
        yield NotApplicable(why="no toolkit")
        return
    newest = derived.newest_cuda(machine)
    if newest is None:
        no_driver = machine.driver.module_version is None
        yield (
            NotApplicable(why="no driver is loaded")
            if no_driver
            else NotChecked(why="the driver's CUDA version is not known")
        )
        return
    for toolkit in installed:
        version = yield from known(toolkit.version, toolkit.home)
        if version is None:
            continue
        if derived.runs_cuda(machine, version) is False:
            yield _newer_major(machine, toolkit, version, newest)
        elif version_tuple(version)[:2] > version_tuple(newest)[:2] and toolkit is value(
            derived.toolkit_for_builds(machine)
        ):
            yield Symptom(
                subject=toolkit.home,
                severity=Severity.INFO,
                saw=f"{toolkit.home} is CUDA {version}; {_reach(machine, newest)}; minor-version "
                "compatibility holds",
                remedy=Remedy(
                    "Nothing, unless a program asks for PTX compilation or for features of the "
                    f"newer driver: then update the driver to {_paired(version)}."
                ),
                why="Programs built with it run, with the features that the driver has.",
            )


def _newer_major(machine: Snapshot, toolkit: Toolkit, version: str, newest: str) -> Symptom:
    home = value(machine.environment.cuda_home)
    is_home = home is not None and home.resolved == toolkit.home
    needed = driver_cuda.oldest_driver_for(version_tuple(version)[0])
    driver = f"Install driver {needed} or newer" if needed else "Install a newer driver"
    return Symptom(
        subject=toolkit.home,
        severity=Severity.ERROR if is_home else None,
        saw=f"{toolkit.home} is CUDA {version}; {_reach(machine, newest)}"
        + (", and CUDA_HOME points to it" if is_home else ""),
        remedy=Remedy(f"{driver}, or build with a CUDA {newest.partition('.')[0]} toolkit."),
        explained_by=("TOR004",),  # a driver too old for both is one cause
    )


def _reach(machine: Snapshot, newest: str) -> str:
    driver = derived.driver_version(machine)
    return f"driver {driver} runs up to CUDA {newest}" if driver else f"it runs up to {newest}"


def _paired(cuda: str) -> str:
    driver = driver_cuda.driver_paired_with(cuda)
    return f"{driver} or newer" if driver else "the one that NVIDIA pairs with it"


@rule("CUD005", Severity.ERROR, "A CUDA toolkit is broken")
def toolkit_broken(machine: Snapshot) -> Answers:
    """Whatever builds with this toolkit fails, or builds with another version than it believes.

    Three things are looked at: a link such as /usr/local/cuda that leads to nothing (its toolkit
    was removed), an nvcc that does not run, and a version.json that names another version than
    the nvcc of the same toolkit (files of two releases were mixed). A toolkit without a
    version.json is sound: some installations leave it out.
    """
    installed = yield from known(machine.toolkits.installed)
    dangling = yield from known(machine.toolkits.dangling)
    if installed == () and dangling == ():
        yield NotApplicable(why="no toolkit")
    if dangling:
        yield _dangling(machine, dangling)
    for toolkit in installed or ():
        if isinstance(toolkit.nvcc_error, str):
            yield Symptom(
                subject=toolkit.home,
                saw=f"{toolkit.nvcc} does not run: {toolkit.nvcc_error}",
                remedy=Remedy("Install this toolkit again, from the package that it came from."),
            )
            continue
        if toolkit.nvcc is None:
            continue
        nvcc = yield from known(toolkit.nvcc_version, toolkit.home)
        if nvcc is None or not isinstance(toolkit.version_json, str):
            continue
        if version_tuple(toolkit.version_json)[:2] != version_tuple(nvcc)[:2]:
            yield Symptom(
                subject=toolkit.home,
                saw=f"{toolkit.home}/version.json says {toolkit.version_json}, and its nvcc {nvcc}",
                remedy=Remedy(
                    "Files of two releases are mixed here: remove the folder, and install one."
                ),
            )


def _dangling(machine: Snapshot, links: tuple[str, ...]) -> Symptom:
    """One toolkit that was removed leaves several links: cuda, cuda-13, the alternatives' own."""
    link = links[0]
    there = derived.toolkits_by_preference(machine)
    remove = command("rm {link}", link=link, root=True, lasts="permanent")
    remedy = Remedy("Install the toolkit that it led to, or remove the link.", (remove,))
    if there:
        lead = "ln -sfn {home} {link}"
        remedy = Remedy(
            f"Let it lead to a toolkit that is there: {listed([kit.home for kit in there])}.",
            (command(lead, home=there[0].home, link=link, root=True, lasts="permanent"),),
            alternatives=(Remedy("Remove the link.", (remove,)),),
        )
    return Symptom(
        subject=link,
        saw=f"{link} is a link to nothing"
        if len(links) == 1
        else f"{', '.join(links)} are links to nothing",
        remedy=remedy,
    )


@rule("CUD006", Severity.INFO, "/usr/local/cuda and CUDA_HOME lead to different toolkits")
def two_defaults(machine: Snapshot) -> Answers:
    """Builds that ask CUDA_HOME and builds that use /usr/local/cuda get different CUDA versions.

    Neither is wrong: CUDA_HOME is yours, /usr/local/cuda is the machine's default. But a build
    that finds its headers by one and its libraries by the other mixes two releases.
    """
    variable = yield from known(machine.environment.cuda_home, absent="CUDA_HOME is unset")
    default = yield from known(machine.toolkits.default, absent="there is no /usr/local/cuda")
    if variable is None or default is None:
        return
    home = yield from known(variable.resolved, absent="CUDA_HOME leads nowhere")
    if home is not None and home != default:
        yield Symptom(
            subject="CUDA_HOME",
            saw=f"CUDA_HOME leads to {home}, /usr/local/cuda to {default}",
            remedy=Remedy("Nothing, if you mean it so; else let both lead to one toolkit."),
        )


@rule("CUD007", Severity.WARNING, "The distribution's nvcc hides a toolkit in /usr/local")
def distribution_nvcc_first(machine: Snapshot) -> Answers:
    """Typing nvcc runs the distribution's package, which is older than the toolkit you installed.

    Ubuntu's and Debian's nvidia-cuda-toolkit puts nvcc into /usr/bin. Where that folder comes
    before /usr/local/cuda/bin on PATH, it wins, and builds fail on newer GPUs or mix two
    releases. Put the toolkit's bin folder first, or remove the distribution's package.
    """
    installed = yield from known(machine.toolkits.installed)
    first = yield from known(machine.toolkits.first_nvcc, absent="no nvcc on PATH")
    if first is None or installed is None:
        return
    home = yield from known(machine.toolkits.first_nvcc_home)
    winner = next((toolkit for toolkit in installed if toolkit.home == home), None)
    if winner is None or winner.origin != "distribution":
        return
    hidden = [
        toolkit
        for toolkit in derived.toolkits_by_preference(machine)
        if toolkit.origin == "local" and toolkit.nvcc is not None
    ]
    if not hidden:
        return
    best = hidden[0]
    text = f"Put {best.home}/bin before the distribution's folder on PATH"
    put_first = variables.prepend(machine, "PATH", f"{best.home}/bin", text)
    alternatives = put_first.alternatives
    if system_packages.family(machine) in ("ubuntu", "debian"):
        package = command("apt remove nvidia-cuda-toolkit", root=True, lasts="permanent")
        alternatives += (Remedy("Remove the distribution's package.", (package,)),)
    yield Symptom(
        subject=first,
        saw=f"{first} is the distribution's{_version(winner)} and comes before {best.home}"
        f"{_version(best)}",
        remedy=Remedy(put_first.text, put_first.steps, alternatives, put_first.verify),
    )


def _version(toolkit: Toolkit) -> str:
    return f" (CUDA {toolkit.version})" if isinstance(toolkit.version, str) else ""
