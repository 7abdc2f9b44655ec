"""Rules about PyTorch, in the Python that was asked for: the family TOR."""

import functools
import shlex
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
    Deep,
    Distribution,
    GpuWork,
    Python,
    Snapshot,
    Torch,
    Unknown,
)
from gpucheck.versions import version_tuple

NEEDS_DEEP = "needs --deep"

#: What keeps every CUDA program from its GPUs; the nearest to cuInit first.
_NO_CUDA = (
    "DRV009",
    "DRV013",
    "DRV006",
    "DRV007",
    "DRV008",
    "DRV002",
    "DRV003",
    "HST004",
    "HST005",
)


@rule("TOR001", Severity.WARNING, "This Python has no torch", caused_by=("DRV001",))
def no_torch(machine: Snapshot) -> Answers:
    """Nothing about PyTorch could be examined, for it is not installed in the Python looked at.

    gpucheck examines one Python: the one that --python names, else that of the active virtual or
    conda environment, else gpucheck's own where it has torch, else python3 on PATH. The wrong one
    is looked at where an environment is not activated: activate it, or name its Python.

    On a machine without an NVIDIA GPU this is information only, under the finding that there is no
    GPU: nobody misses a GPU's torch there, and one cause gets one complaint.
    """
    python = machine.pytorch.python
    if python is None:
        yield _no_torch(machine, "there is no Python here", "")
        return
    torch = yield from known(machine.pytorch.torch)
    if torch is not None or isinstance(machine.pytorch.torch, Unknown):
        return
    if isinstance(python, Unknown):
        yield NotChecked(why=python.why)
        return
    version = f" (Python {python.version})" if isinstance(python.version, str) else ""
    yield _no_torch(
        machine,
        f"{python.path}{version}, chosen by {python.chosen_by}, has no torch",
        python.path,
    )


def _no_torch(machine: Snapshot, saw: str, subject: str) -> Symptom:
    elsewhere = machine.pytorch.elsewhere
    others = (
        tuple(path for path in elsewhere if path != subject) if isinstance(elsewhere, tuple) else ()
    )
    build = _build_for(machine)
    return Symptom(
        subject=subject,
        severity=Severity.INFO if derived.has_gpu(machine) is False else None,
        saw=saw + (f"; there is one in {', '.join(others[:4])}" if others else ""),
        fix="Activate the environment that has torch, or name its Python with --python."
        if others
        else "Install torch into it, or name another Python with --python.",
        commands=(f"gpucheck doctor --python {shlex.quote(others[0])}",)
        if others
        else (_pip(machine, "torch", build, again=False),)
        if subject and not isinstance(machine.host.tegra, str)
        else (),
    )


@rule("TOR002", Severity.ERROR, "torch is a CPU-only build", caused_by=("DRV001",))
def cpu_build(machine: Snapshot) -> Answers:
    """This torch was built without CUDA: no driver and no setting makes it see a GPU.

    It is what pip takes from the index of CPU wheels ("+cpu" in the version), what older releases
    gave on ARM servers, and what conda chose on a machine that showed it no GPU. Nothing is wrong
    with the driver on account of this: install a build for CUDA.

    On a machine without an NVIDIA GPU a CPU-only build is the right one, and is only mentioned.
    """
    torch = yield from _torch(machine)
    if torch is None:
        return
    build = yield from known(torch.build)
    if build is None or build != "cpu":
        return
    here = yield from known(derived.has_gpu(machine))
    if here is None:
        return
    if not here:
        yield Symptom(
            subject=torch.location,
            severity=Severity.INFO,
            saw=f"torch {torch.version} is built without CUDA",
            fix="Nothing, as long as this machine has no NVIDIA GPU.",
            why="On a machine without an NVIDIA GPU that is the right build.",
        )
        return
    fitting = _build_for(machine)
    yield Symptom(
        subject=torch.location,
        saw=f"torch {torch.version} is built without CUDA, and an NVIDIA GPU is here",
        fix=_other_build(machine, fitting),
        commands=_other_command(machine, fitting),
    )


@rule("TOR003", Severity.ERROR, "torch is built for another vendor's GPUs")
def foreign_build(machine: Snapshot) -> Answers:
    """This torch speaks ROCm (AMD) or XPU (Intel), and cannot use an NVIDIA GPU.

    The kind of a build is chosen by the index that pip asked: /whl/rocm… and /whl/xpu give these.
    Install a build for CUDA from /whl/cu… or from the default index.
    """
    torch = yield from _torch(machine)
    if torch is None:
        return
    build = yield from known(torch.build)
    if build not in {"rocm", "xpu"}:
        return
    here = yield from known(derived.has_gpu(machine))
    if here is None:
        return
    if not here:
        yield NotApplicable(why="no NVIDIA GPU")
        return
    fitting = _build_for(machine)
    name = "ROCm (AMD)" if build == "rocm" else "XPU (Intel)"
    yield Symptom(
        subject=torch.location,
        saw=f"torch {torch.version} is built for {name}, and the GPU here is NVIDIA's",
        fix=_other_build(machine, fitting),
        commands=_other_command(machine, fitting),
    )


@rule("TOR004", Severity.ERROR, "The driver is too old for torch's CUDA", caused_by=("DRV012",))
def driver_too_old(machine: Snapshot) -> Answers:
    """torch finds the GPU's driver too old, says so in a warning, and runs on the CPU alone.

    A driver runs programs of its own CUDA major version and of all older ones. Within a major any
    driver at or above that major's first one will do: a torch for CUDA 12.8 runs on a driver of
    CUDA 12.2 (NVIDIA's minor-version compatibility). What does not go is a newer major.

    There are two ways out, and one is enough: a newer driver, or a torch that is built for this
    driver. On data-centre GPUs the package cuda-compat is a third: a newer user-mode driver over
    the old kernel module. Where such a library is in use, or torch was seen to work (--deep), the
    version numbers do not count.
    """
    torch = yield from _cuda_torch(machine)
    if torch is None:
        return
    here = yield from known(derived.has_gpu(machine))
    if here is None:
        return
    if not here:
        yield NotApplicable(why="no NVIDIA GPU")
        return
    if machine.deep is not None and machine.deep.is_available is True:
        return
    cuda = yield from known(torch.cuda)
    if cuda is None:
        return
    driver = derived.driver_version(machine)
    newest = derived.newest_cuda(machine)
    compat = derived.compat_library(machine)
    if compat:
        # One older than the driver takes nothing from what the driver runs: ENV016 has it removed.
        best = driver if driver and version_tuple(compat) < version_tuple(driver) else compat
        newest = driver_cuda.newest_cuda_of(best) or newest
    runs = _runs(driver, newest, cuda)
    if runs is None:
        if driver is None and machine.driver.module_version is None:
            yield NotApplicable(why="no driver is loaded")
        else:
            yield NotChecked(why=f"whether driver {driver} runs CUDA {cuda} is not known")
        return
    if runs:
        return
    needed = driver_cuda.oldest_driver_for(version_tuple(cuda)[0])
    fitting = _build_for(machine)
    ways = [f"install driver {needed} or newer" if needed else "install a newer driver"]
    if fitting is not None:
        ways.append(f"install the torch that is built for CUDA {fitting.cuda}, which it runs")
    if _compat_is_possible(machine):
        ways.append(f"install cuda-compat-{cuda.replace('.', '-')}, which these GPUs may use")
    reason = f"driver {driver}" if driver else "the driver"
    yield Symptom(
        subject=torch.location,
        saw=f"torch {torch.version} is built for CUDA {cuda}; {reason} runs up to CUDA {newest}"
        if newest
        else f"torch {torch.version} is built for CUDA {cuda}; {reason} is too old for it",
        fix="One of these: " + "; or ".join(ways) + ".",
        commands=(_pip(machine, "torch", fitting, again=True),) if fitting else (),
    )


@rule("TOR005", Severity.ERROR, "torch has no code for a GPU that is here", caused_by=("DRV012",))
def no_kernels(machine: Snapshot) -> Answers:
    """The first operation on this GPU ends in "no kernel image is available for execution".

    Each torch build carries compiled code for a list of architectures (torch.cuda.get_arch_list()
    prints it). A GPU runs code for its own compute capability, or for a lower minor of the same
    major: sm_80 code runs on an 8.6 GPU, and nothing of 9.0 runs on 10.0. PTX (compute_…) of any
    older capability is compiled by the driver at first use; release builds hold none.

    New GPUs need a build of a newer CUDA (Blackwell: CUDA 12.8), old GPUs one of an older (Volta
    and before: the cu126 builds, up to torch 2.14).
    """
    torch = yield from _cuda_torch(machine)
    if torch is None:
        return
    if derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU")
        return
    gpus = yield from known(machine.nvml.gpus)
    if gpus is None:
        return
    if not gpus:
        yield NotApplicable(why="no GPU")
        return
    architectures = yield from known(torch.architectures)
    if architectures is None:
        return
    if not architectures:
        yield NotChecked(why="the build lists no architecture")
        return
    missing: dict[str, list[int]] = {}
    names: dict[str, str] = {}
    works = _working_bus_ids(machine.deep)
    for gpu in gpus:
        capability = yield from known(gpu.compute_capability, gpu.subject)
        if capability is None or gpu.bus_id in works:
            continue
        if not torch_cuda.has_kernels(architectures, capability):
            missing.setdefault(capability, []).append(gpu.index)
            names[capability] = gpu.name if isinstance(gpu.name, str) else "this GPU"
    for capability, indexes in missing.items():
        fitting = _build_for(machine)
        driver = None
        if fitting is None:
            fitting = torch_cuda.newest_build_with(derived.compute_capabilities(machine))
            driver = (
                driver_cuda.oldest_driver_for(version_tuple(fitting.cuda)[0]) if fitting else None
            )
        yield Symptom(
            subject=", ".join(f"gpu {index}" for index in indexes),
            saw=f"{names[capability]} is sm_{capability.replace('.', '')}; torch {torch.version} "
            f"has code for {' '.join(architectures)}",
            fix=_other_build(machine, fitting)
            + (f" It needs driver {driver} or newer." if driver else ""),
            commands=(_pip(machine, "torch", fitting, again=True),) if fitting else (),
        )


@rule("TOR006", Severity.ERROR, "torch and its companions do not belong together")
def mismatched_companions(machine: Snapshot) -> Answers:
    """torchvision and torchaudio call into one torch's machine code: with another, they break.

    It shows as "operator torchvision::nms does not exist", as an undefined symbol, or as
    "torchvision has different CUDA versions". Each release is made for one release of torch, and a
    build for CUDA does not fit a CPU-only torch, nor one CUDA major another. triton is torch's own
    compiler, and torch.compile needs the version that torch asks for.

    It comes from installing one of them later, from another index. Install them together, with
    one command and one index.
    """
    torch = yield from _torch(machine)
    if torch is None:
        return
    distributions = yield from known(machine.pytorch.distributions)
    version = yield from known(torch.version)
    if distributions is None or version is None:
        return
    first: dict[str, Distribution] = {}
    for distribution in distributions:
        first.setdefault(distribution.name, distribution)
    companions = [first[name] for name in ("torchvision", "torchaudio") if name in first]
    needed = _needed_triton(first.get("torch"))
    if not companions and (needed is None or "triton" not in first):
        yield NotApplicable(why="torch stands alone")
        return
    for companion in companions:
        fault = _does_not_fit(companion, torch, version, machine)
        if isinstance(fault, Unknown):
            yield NotChecked(why=fault.why, subject=companion.name)
        elif fault is not None:
            yield Symptom(
                subject=companion.name,
                saw=fault,
                fix=f"Install torch and {companion.name} together, from one index.",
                commands=_together(machine, torch, version, companion),
            )
    triton = first.get("triton")
    if needed is not None and triton is not None and not _satisfies(triton.version, needed):
        yield Symptom(
            subject="triton",
            saw=f"triton {triton.version} is installed; torch {version} requires triton{needed}",
            fix="Install the triton that torch asks for.",
            commands=(f'{_install(machine)} "triton{needed}"',),
        )


@rule(
    "TOR007",
    Severity.ERROR,
    "torch cannot be imported",
    caused_by=("LIB002", "LIB003", "DNN001", "DNN003", "TOR010", "LIB001"),
)
def import_fails(machine: Snapshot) -> Answers:
    """`import torch` ends in an error: nothing that uses it runs, on the CPU neither.

    The last line of the error tells the cause. An undefined symbol: a library of another version
    than torch's own was loaded (LIB001, LIB002). "cannot open shared object file": a library is
    missing, mostly because a wheel's files were deleted (LIB003). "GLIBC_2.NN not found": the
    wheel is built for a newer Linux than this one. "No module named 'numpy'" is only a warning.

    It is asked with --deep alone, since it loads some gigabytes.
    """
    deep = yield from _deep(machine, needs_gpu=False)
    if deep is None:
        return
    error = yield from known(deep.import_error)
    if error is None:
        return
    cause, explained_by = _import_cause(error)
    yield Symptom(
        subject=_location(machine),
        saw=error,
        fix=cause,
        explained_by=explained_by,
    )


@rule(
    "TOR008",
    Severity.ERROR,
    "torch sees no GPU, and nothing else explains it",
    caused_by=(
        *("TOR002", "TOR003", "TOR004", "ENV018", "ENV022", "ENV016", "TOR010"),
        *(*_NO_CUDA, "DRV012", "DRV010", "GPU016", "DRV001"),
    ),
)
def not_available(machine: Snapshot) -> Answers:
    """torch.cuda.is_available() is False, so all work runs on the CPU, slowly and without a word.

    Where the driver, the build or a variable is the cause, that finding explains this one. Else
    torch's own warning is the best clue: it is shown in full.
    """
    deep = yield from _deep(machine)
    if deep is None:
        return
    if deep.import_error is not None:
        yield from known(deep.import_error)
        yield NotApplicable(why="torch cannot be imported")
        return
    if (yield from known(derived.has_gpu(machine))) is None:
        return
    available = yield from known(deep.is_available)
    if available is None or available:
        return
    warning = deep.warning if isinstance(deep.warning, str) else "torch gives no reason"
    yield Symptom(
        subject=_location(machine),
        saw=f"torch.cuda.is_available() is False; {warning}",
        fix="Follow torch's own warning. If cuInit works here (DRV009 passed), look for a "
        "library of the wrong version (LIB) and for variables that hide GPUs (ENV).",
    )


@rule(
    "TOR009", Severity.ERROR, "Work on a GPU fails, or gives wrong results", caused_by=("GPU001",)
)
def work_fails(machine: Snapshot) -> Answers:
    """A GPU that cannot do a small sum right cannot be trusted with a training run.

    With --deep every GPU runs a small kernel, a matrix product whose result is known exactly, and
    a cuDNN convolution that is held against the CPU's. An error names what is broken: "no kernel
    image" the build (TOR005), "CUDNN_STATUS…" cuDNN (the family DNN), "out of memory" another
    process. A wrong result with no error is the worst: suspect the GPU's memory, and compare the
    findings of the family GPU.
    """
    deep = yield from _deep(machine)
    if deep is None:
        return
    gpus = yield from known(deep.gpus)
    if gpus is None:
        return
    if not gpus:
        yield NotApplicable(why="torch sees no GPU")
        return
    for gpu in gpus:
        subject = _subject_of(machine, gpu)
        for what, answer in (
            ("a small kernel", gpu.kernel),
            ("a matrix product", gpu.matrix_product),
            ("a cuDNN convolution", gpu.convolution),
        ):
            if isinstance(answer, Unknown):
                yield NotChecked(why=f"{what}: {answer.why}", subject=subject)
            elif answer is not None:
                fix, explained_by = _work_cause(answer)
                yield Symptom(
                    subject=subject,
                    saw=f"{what}: {answer}",
                    fix=fix,
                    explained_by=explained_by,
                )
                break  # what comes after a failed step fails for the same reason


@rule("TOR010", Severity.WARNING, "The torch that is imported is not this environment's")
def outside_environment(machine: Snapshot) -> Answers:
    """Another torch than the environment's own is imported, whatever you install there.

    Python takes the first torch on its path: the current directory comes first in an interactive
    session and with -m, then PYTHONPATH, then the user's site folder (~/.local), and only then the
    environment. Upgrading torch in the environment then changes nothing.

    Leave the folder, unset PYTHONPATH, or uninstall the copy in the user's site folder.
    """
    torch = yield from _torch(machine)
    if torch is None:
        return
    why = yield from known(torch.is_outside_environment)
    if why is None:
        return
    python = machine.pytorch.python
    path = shlex.quote(python.path) if isinstance(python, Python) else "python"
    commands: tuple[str, ...] = ()
    if "current directory" in why:
        fix = "Start Python from another folder, or rename that one."
    elif "PYTHONPATH" in why:
        fix, commands = "Take that folder out of PYTHONPATH.", ("unset PYTHONPATH",)
    else:
        fix = "Uninstall the copy in the user's site folder, or set PYTHONNOUSERSITE."
        commands = (f"{path} -m pip uninstall torch", "export PYTHONNOUSERSITE=1")
    yield Symptom(subject=torch.location, saw=why, fix=fix, commands=commands)


@rule("TOR011", Severity.WARNING, "conda and pip both installed torch here")
def conda_and_pip(machine: Snapshot) -> Answers:
    """The two packages' files overwrite one another, and each tool believes its own is there.

    An update of either leaves a mixture that may not import, or that uses the other's libraries.
    Remove both, then install one of them.
    """
    torch = yield from _torch(machine)
    if torch is None:
        return
    distributions = yield from known(machine.pytorch.distributions)
    if distributions is None:
        return
    copies = [d for d in distributions if d.name == "torch"]
    conda = next((d for d in copies if d.installer == "conda"), None)
    if conda is None:
        return
    prefix = machine.pytorch.python.prefix if isinstance(machine.pytorch.python, Python) else ""
    for other in copies:
        if other.installer != "conda" and prefix and other.location.startswith(prefix):
            yield Symptom(
                subject=prefix,
                saw=f"conda installed torch {conda.version}, and {other.installer or 'pip'} "
                f"{other.version}, both in {prefix}",
                fix="Uninstall both, then install one.",
                commands=("pip uninstall torch", "conda remove pytorch"),
            )
            return


@rule(
    "TOR012",
    Severity.ERROR,
    "torch counts other GPUs than the driver does",
    caused_by=(
        *("TOR008", "TOR002", "TOR003", "TOR004", "ENV019", "ENV020", "ENV018", "GPU001", "GPU002"),
        *("GPU016", "GPU017", *_NO_CUDA, "DRV012", "DRV015"),
    ),
)
def other_count(machine: Snapshot) -> Answers:
    """A job that asks for all GPUs gets another number than the machine has.

    torch counts what cuInit shows it; NVML counts what the driver manages. They differ where
    CUDA_VISIBLE_DEVICES or MIG says so, which is as it should be and is not reported, and else
    where a GPU does not come up for CUDA.
    """
    torch = yield from _cuda_torch(machine)
    if torch is None:
        return
    deep = yield from _deep(machine)
    if deep is None:
        return
    hidden = yield from known(machine.environment.variable("CUDA_VISIBLE_DEVICES"))
    if hidden is not None:
        yield NotApplicable(why="CUDA_VISIBLE_DEVICES chooses")
        return
    count = yield from known(machine.nvml.count)
    seen = yield from known(deep.device_count)
    gpus = machine.nvml.gpus
    if count is None or seen is None:
        return
    if count == 0 and seen == 0:
        yield NotApplicable(why="no GPU")
        return
    if isinstance(gpus, tuple) and any(gpu.mig_is_on is True for gpu in gpus):
        yield NotApplicable(why="MIG divides the GPUs")
        return
    if count != seen:
        yield Symptom(
            subject=torch.location,
            saw=f"torch sees {seen} GPU{'s' * (seen != 1)}, NVML {count}",
            fix="See what cuInit says (DRV009), and whether one of the GPUs is lost (GPU).",
        )


# ----------------------------------------------------------------------------- asked by several

Asking = Generator[NotChecked | NotApplicable, None, "Torch | None"]


def _torch(machine: Snapshot) -> Asking:
    """Return the torch; where there is none, say that the question does not arise."""
    torch = machine.pytorch.torch
    if isinstance(torch, Unknown):
        yield NotChecked(why=torch.why)
        return None
    if torch is None:
        yield NotApplicable(why="no torch")
    return torch


def _cuda_torch(machine: Snapshot) -> Asking:
    torch = yield from _torch(machine)
    if torch is None:
        return None
    if isinstance(torch.build, Unknown):
        yield NotChecked(why=torch.build.why)
        return None
    if torch.build != "cuda":
        yield NotApplicable(why="torch is not built for CUDA")
        return None
    return torch


def _deep(
    machine: Snapshot, *, needs_gpu: bool = True
) -> Generator[NotChecked | NotApplicable, None, Deep | None]:
    if machine.pytorch.torch is None:
        yield NotApplicable(why="no torch")
        return None
    if needs_gpu and derived.has_gpu(machine) is False:
        yield NotApplicable(why="no NVIDIA GPU")
        return None
    if machine.deep is None:
        yield NotChecked(why=NEEDS_DEEP)
    return machine.deep


def _location(machine: Snapshot) -> str:
    torch = machine.pytorch.torch
    return torch.location if isinstance(torch, Torch) else ""


def _runs(driver: str | None, newest: str | None, cuda: str) -> bool | None:
    """Tell whether the driver runs torch's CUDA; what libcuda or NVML said outranks the table."""
    if newest is not None:
        have, wanted = version_tuple(newest)[:2], version_tuple(cuda)[:2]
        if have >= wanted:
            return True
        if have[:1] < wanted[:1]:
            return False
    if driver is not None:
        return driver_cuda.driver_runs(driver, cuda)
    return True if newest is not None else None


def _build_for(machine: Snapshot) -> torch_cuda.Variant | None:
    """Return the newest torch build that the driver here runs and that has code for its GPUs."""
    driver = derived.driver_version(machine)
    if driver is None:
        return None
    return torch_cuda.newest_build_for(driver, derived.compute_capabilities(machine))


def _compat_is_possible(machine: Snapshot) -> bool:
    gpus = machine.nvml.gpus
    return isinstance(gpus, tuple) and any(
        isinstance(gpu.name, str) and driver_cuda.allows_forward_compatibility(gpu.name) is True
        for gpu in gpus
    )


def _other_build(machine: Snapshot, fitting: torch_cuda.Variant | None) -> str:
    if isinstance(machine.host.tegra, str):
        return "Install the torch that NVIDIA builds for this Jetson's JetPack release."
    if fitting is None:
        return "Install a torch that is built for CUDA, by the selector on pytorch.org."
    driver = derived.driver_version(machine)
    return (
        f"Install the build for CUDA {fitting.cuda}"
        + (f", which driver {driver} runs" if driver else "")
        + "."
    )


def _other_command(machine: Snapshot, fitting: torch_cuda.Variant | None) -> tuple[str, ...]:
    if isinstance(machine.host.tegra, str):
        return ()  # the wheels of PyTorch's index know no Jetson's GPU
    return (_pip(machine, "torch", fitting, again=True),)


def _install(machine: Snapshot) -> str:
    """Return the command that installs into the Python examined: by its own pip, or by uv."""
    python = machine.pytorch.python
    path = shlex.quote(python.path) if isinstance(python, Python) else "python3"
    distributions = machine.pytorch.distributions
    if isinstance(distributions, tuple) and any(
        d.name == "torch" and d.installer == "uv" for d in distributions
    ):
        return f"uv pip install --python {path}"
    return f"{path} -m pip install"


def _conda_prefix(machine: Snapshot) -> str | None:
    """Return the prefix whose torch is conda's; None where it is pip's, or there is none."""
    python, distributions = machine.pytorch.python, machine.pytorch.distributions
    if not isinstance(python, Python) or not isinstance(distributions, tuple):
        return None
    installers = {d.installer for d in distributions if d.name == "torch"}
    return python.prefix if installers == {"conda"} else None


def _pip(machine: Snapshot, package: str, build: torch_cuda.Variant | None, *, again: bool) -> str:
    """Return the command that installs this build of torch, and of the companions that are here.

    Where conda installed torch, it is conda that must replace it: two in one prefix are TOR011.
    """
    if (prefix := _conda_prefix(machine)) is not None:
        limit = f" 'cuda-version<={build.cuda}'" if build is not None else ""
        return f"conda install -p {shlex.quote(prefix)} -c conda-forge pytorch-gpu{limit}"
    packages = [package]
    distributions = machine.pytorch.distributions
    if isinstance(distributions, tuple):
        here = {distribution.name for distribution in distributions}
        packages += [name for name in ("torchvision", "torchaudio") if name in here]
    # pip holds another build of the same version for the one asked for, and keeps what is there.
    force = "--force-reinstall " if again else ""
    index = f" --index-url {build.index_url}" if build is not None else ""
    return f"{_install(machine)} {force}{' '.join(packages)}{index}"


def _working_bus_ids(deep: Deep | None) -> frozenset[str]:
    """Return the GPUs on which --deep saw a kernel run: that outranks any list."""
    if deep is None or isinstance(deep.gpus, Unknown):
        return frozenset()
    return frozenset(
        gpu.bus_id for gpu in deep.gpus if gpu.kernel is None and isinstance(gpu.bus_id, str)
    )


def _subject_of(machine: Snapshot, workload: GpuWork) -> str:
    """Return the subject of the GPU by NVML's number, found by its bus id."""
    if isinstance(machine.nvml.gpus, tuple) and isinstance(workload.bus_id, str):
        for gpu in machine.nvml.gpus:
            if gpu.bus_id == workload.bus_id:
                return gpu.subject
    return f"gpu {workload.index}"


# -------------------------------------------------------------------------------- companions


def _needed_triton(torch: Distribution | None) -> str | None:
    for need in torch.requires if torch is not None else ():
        if need.startswith("triton") and not need[6:7].isalpha() and need[6:7] != "-":
            return need.removeprefix("triton")
    return None


def _does_not_fit(
    companion: Distribution, torch: Torch, version: str, machine: Snapshot
) -> str | Unknown | None:
    """Say why a torchvision or torchaudio does not fit this torch; None where it does."""
    name = f"{companion.name} {companion.version}"
    needs = [need.removeprefix("torch") for need in companion.requires if _is_torch(need)]
    if needs:
        # The wheel's own word; a release that allows later torches (torchvision 0.29.1) says so.
        for need in needs:
            if not _satisfies(version, need):
                return f"{name} requires torch{need}; torch is {version}"
    else:
        find = (
            torch_cuda.release_with_torchvision
            if companion.name == "torchvision"
            else torch_cuda.release_with_torchaudio
        )
        release = find(companion.version)
        if release is None:
            if companion.name == "torchaudio":
                return None  # from 2.9 on its wheels ask for no release of torch
            return Unknown(f"the table does not know which torch {name} belongs to")
        if torch_cuda.release_of(version) is None:
            return Unknown(f"the table does not know torch {version}")
        if release.torch != version.partition("+")[0]:
            return f"{name} is made for torch {release.torch}; torch is {version}"
    if companion.name == "torchaudio":
        return None
    return _other_kind(companion, torch, version, machine)


def _other_kind(
    companion: Distribution, torch: Torch, version: str, machine: Snapshot
) -> str | None:
    """Say how the CUDA of a torchvision differs from torch's; None where both fit."""
    local = companion.version.partition("+")[2]
    release = torch_cuda.release_of(version)
    if local.startswith("cpu"):
        cuda = None
    elif torch_cuda.cuda_of_variant(local) is not None:
        cuda = torch_cuda.cuda_of_variant(local)
    elif (
        not local
        and companion.installer in {"pip", "uv"}
        and machine.host.machine == "x86_64"
        and release is not None
        and release.torchvision == companion.version
    ):
        cuda = torch_cuda.cuda_of_variant(release.default_variant)
    else:
        return None  # built by somebody else: nothing tells what for
    name = f"{companion.name} {companion.version}"
    if torch.build == "cpu" and cuda is not None:
        return f"{name} is built for CUDA {cuda}; torch {version} is a CPU-only build"
    if torch.build == "cuda" and isinstance(torch.cuda, str):
        if cuda is None:
            return f"{name} is a CPU-only build; torch {version} is built for CUDA {torch.cuda}"
        if version_tuple(cuda)[:1] != version_tuple(torch.cuda)[:1]:
            return f"{name} is built for CUDA {cuda}, torch {version} for CUDA {torch.cuda}"
    return None


def _together(
    machine: Snapshot, torch: Torch, version: str, companion: Distribution
) -> tuple[str, ...]:
    public = version.partition("+")[0]
    release = torch_cuda.release_of(version)
    index = ""
    if torch.build == "cpu":
        index = f" --index-url {torch_cuda.INDEX}/cpu"
    elif isinstance(torch.cuda, str) and torch_cuda.variant_of(version, torch.cuda) is not None:
        index = f" --index-url {torch_cuda.INDEX}/cu{torch.cuda.replace('.', '')}"
    wanted = companion.name
    if release is not None:
        partner = release.torchvision if wanted == "torchvision" else release.torchaudio
        wanted += f"=={partner}" if partner else ""
    return (f"{_install(machine)} --force-reinstall torch=={public} {wanted}{index}",)


def _is_torch(need: str) -> bool:
    return need.startswith("torch") and need[5:6] in {"", "=", "<", ">", "~", "!"}


@functools.lru_cache(maxsize=1024)
def _satisfies(version: str, specifier: str) -> bool:
    """Tell whether a version meets a requirement; one that cannot be read is met."""
    if not specifier or specifier == f"=={version.partition('+')[0]}":
        return True  # nearly always: `packaging` costs its import only where they differ
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import InvalidVersion

    try:
        return SpecifierSet(specifier).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


# ------------------------------------------------------------------------------ causes of errors


def _import_cause(error: str) -> tuple[str, tuple[str, ...]]:
    """Return the fix for an error of `import torch`, and the findings that may explain it."""
    text = error.lower()
    if "libcudnn" in text:
        return (
            "Install the cuDNN that this torch asks for: reinstall torch with its dependencies.",
            ("DNN001", "DNN003", "LIB003", "LIB001", "LIB002"),
        )
    if "undefined symbol" in text or "version `lib" in text:
        return (
            (
                "A library of another version than torch's own is loaded: clear LD_LIBRARY_PATH "
                "and try again; if that helps, take the CUDA directories out of it."
            ),
            ("LIB001", "LIB002", "LIB004", "TOR006", "TOR011"),
        )
    if "glibc" in text:
        return (
            (
                "This torch is built for a newer Linux: install an older release of torch, or use "
                "a container."
            ),
            (),
        )
    if "cannot open shared object file" in text:
        return (
            "A library is missing: install torch again, with its nvidia packages.",
            ("LIB003", "DNN001", "LIB001"),
        )
    if "no module named" in text or "cannot import name" in text or "circular import" in text:
        return (
            (
                "Part of torch is missing, or another folder of that name is in the way: start "
                "from another folder, else install torch again."
            ),
            ("TOR010", "TOR011"),
        )
    if "crashed with" in text:
        return (
            (
                "The import crashes: clear LD_LIBRARY_PATH and LD_PRELOAD and try again; if it "
                "still crashes, install torch again."
            ),
            ("LIB001", "LIB002", "ENV025"),
        )
    return "Install torch again into this environment, and see whether the error stays.", ()


def _work_cause(error: str) -> tuple[str, tuple[str, ...]]:
    """Return the fix for an error at work, and the findings that may explain it."""
    text = error.lower()
    if "no kernel image" in text:
        return "Install a torch that has code for this GPU.", ("TOR005",)
    if "cudnn" in text:
        return (
            "cuDNN does not work here: see the findings about cuDNN (DNN) and libraries (LIB).",
            ("DNN008", "DNN003", "DNN002", "DNN005", "DNN006", "LIB001", "LIB002", "LIB003"),
        )
    if "out of memory" in text:
        return "Find out with nvidia-smi who holds the memory.", ("GPU019",)
    if "cublas" in text:
        return "See whether libraries of another version are loaded (LIB).", ("LIB001", "LIB002")
    if "ecc" in text or "uncorrectable" in text:
        return "The GPU's memory fails: see the family GPU.", ("GPU004", "GPU006", "GPU020")
    return (
        (
            "Run it again. If it fails on this GPU alone, take that GPU out of use and see the "
            "kernel log."
        ),
        ("GPU004", "GPU006", "GPU020"),
    )
