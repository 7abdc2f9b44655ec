"""Rules about the torch build that the examined Python has: TOR001 to TOR005."""

from gpucheck import derived
from gpucheck.conditions import all_of, has_cuda_torch, has_gpu, has_torch, may_have_gpu
from gpucheck.knowledge import driver_cuda, torch_cuda
from gpucheck.remedies import python_packages, variables
from gpucheck.remedies.torch_builds import fitting
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import Gpu, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count, listed


@rule("TOR001", Severity.INFO, "This Python has no torch", caused_by=("DRV001",))
def no_torch(machine: Snapshot) -> Answers:
    """Nothing about PyTorch could be examined, for it is not installed in the Python looked at.

    gpucheck examines one Python: the one that --python names, else that of the active virtual or
    conda environment, else gpucheck's own where it has torch, else python3 on PATH. The wrong one
    is looked at where an environment is not activated: activate it, or name its Python.

    It is a warning where a Python was named by --python, or an environment is active, and has no
    other GPU framework either; on a host that runs no training itself it is worth a line only.
    """
    python = machine.pytorch.python
    if python is None:
        yield Symptom(saw="there is no Python here", remedy=_name_a_python(machine, ""))
        return
    torch = yield from known(machine.pytorch.torch)
    if torch is not None or isinstance(machine.pytorch.torch, Unknown):
        return
    if isinstance(python, Unknown):
        yield NotChecked.because(python)
        return
    version = f" (Python {python.version})" if isinstance(python.version, str) else ""
    saw = f"{python.path}{version}, chosen by {python.chosen_by}, has no torch"
    others = derived.other_frameworks(machine)
    if others:
        yield Symptom(
            subject=python.path,
            saw=f"{saw}; {listed(others)} is here",
            remedy=Remedy("Nothing, unless you want torch in this Python as well."),
        )
        return
    is_wanted = derived.is_torch_wanted(machine)
    elsewhere = _elsewhere(machine, python.path)
    yield Symptom(
        subject=python.path,
        severity=Severity.WARNING if is_wanted else None,
        saw=saw + (f"; there is one in {listed(elsewhere[:4])}" if elsewhere else ""),
        remedy=_name_a_python(machine, python.path)
        if elsewhere or not is_wanted
        else python_packages.replace_torch(machine),
    )


def _elsewhere(machine: Snapshot, path: str) -> tuple[str, ...]:
    return tuple(each for each in value(machine.pytorch.elsewhere) or () if each != path)


def _name_a_python(machine: Snapshot, path: str) -> Remedy:
    others = _elsewhere(machine, path)
    if not others:
        return Remedy("Nothing, unless torch is meant to be here: then name its Python.")
    pythons = [each for each in others if not each.endswith("-packages")]  # ~/.local has none
    return Remedy(
        "Activate the environment that has torch, or name its Python.",
        (command("gpucheck doctor --python {python}", python=pythons[0]),) if pythons else (),
    )


@rule("TOR002", Severity.ERROR, "torch is a CPU-only build", caused_by=("DRV001", "TOR010"))
def cpu_build(machine: Snapshot) -> Answers:
    """This torch was built without CUDA: no driver and no setting makes it see a GPU.

    It is what pip takes from the index of CPU wheels ("+cpu" in the version), what older releases
    gave on ARM servers, and what conda chose on a machine that showed it no GPU. Nothing is wrong
    with the driver on account of this: install a build for CUDA.

    On a machine without an NVIDIA GPU a CPU-only build is the right one, and is only mentioned.
    """
    torch = yield from known(machine.pytorch.torch, absent="no torch")
    if torch is None or (yield from known(torch.build)) != "cpu":
        return
    here = yield from known(derived.has_gpu(machine))
    if here is None:
        return
    if not here:
        yield Symptom(
            subject=torch.location,
            severity=Severity.INFO,
            saw=f"torch {torch.version} is built without CUDA",
            remedy=Remedy("Nothing, as long as this machine has no NVIDIA GPU."),
            why="On a machine without an NVIDIA GPU that is the right build.",
        )
        return
    yield Symptom(
        subject=torch.location,
        saw=f"torch {torch.version} is built without CUDA, and an NVIDIA GPU is here",
        remedy=python_packages.replace_torch(machine),
    )


@rule(
    "TOR003",
    Severity.ERROR,
    "torch is built for another vendor's GPUs",
    caused_by=("TOR010",),
    when=all_of(has_torch, has_gpu),
)
def foreign_build(machine: Snapshot) -> Answers:
    """This torch is built for ROCm (AMD) or XPU (Intel), and cannot use an NVIDIA GPU.

    The kind of a build is chosen by the index that pip asked: /whl/rocm… and /whl/xpu give these.
    Install a build for CUDA from /whl/cu… or from the default index.
    """
    torch = yield from known(machine.pytorch.torch)
    if torch is None:
        return
    build = yield from known(torch.build)
    if build in ("rocm", "xpu"):
        name = "ROCm (AMD)" if build == "rocm" else "XPU (Intel)"
        yield Symptom(
            subject=torch.location,
            saw=f"torch {torch.version} is built for {name}, and the GPU here is NVIDIA's",
            remedy=python_packages.replace_torch(machine),
        )


@rule(
    "TOR004",
    Severity.ERROR,
    "The driver is too old for torch's CUDA",
    caused_by=("DRV012", "TOR010"),
    when=all_of(has_cuda_torch, has_gpu),
)
def driver_too_old(machine: Snapshot) -> Answers:
    """torch finds the GPU's driver too old, says so in a warning, and runs on the CPU alone.

    A driver runs programs of its own CUDA major version and of all older ones. Within a major any
    driver at or above that major's first one will do: a torch for CUDA 12.8 runs on a driver of
    CUDA 12.2 (NVIDIA's minor-version compatibility). What does not go is a newer major.

    There are two ways out, and one is enough: a newer driver, or a torch that is built for this
    driver. On data-center GPUs the package cuda-compat is a third: a newer user-mode driver over
    the old kernel module. Where such a library is in use, or torch was seen to work (--deep), the
    version numbers do not count.
    """
    torch = yield from known(machine.pytorch.torch)
    if torch is None or (machine.deep is not None and machine.deep.is_available is True):
        return
    cuda = yield from known(torch.cuda)
    if cuda is None:
        return
    driver = derived.driver_version(machine)
    if driver is None and machine.driver.module_version is None:
        yield NotApplicable(why="no driver is loaded")
        return
    runs = derived.runs_cuda(machine, cuda)
    if runs is None:
        yield NotChecked(why=f"whether driver {driver} runs CUDA {cuda} is not known")
    if runs is not False:
        return
    newest = derived.newest_cuda(machine)
    if driver and derived.compat_library(machine):  # refused, or its word would count: ENV016
        newest = driver_cuda.newest_cuda_of(driver) or newest
    reason = f"driver {driver}" if driver else "the driver"
    yield Symptom(
        subject=torch.location,
        saw=f"torch {torch.version} is built for CUDA {cuda}; {reason} "
        + (f"runs up to CUDA {newest}" if newest else "is too old for it"),
        remedy=_older_torch_or_newer_driver(machine, cuda),
    )


def _older_torch_or_newer_driver(machine: Snapshot, cuda: str) -> Remedy:
    needed = driver_cuda.oldest_driver_for(version_tuple(cuda)[0])
    ways = [Remedy(f"Install driver {needed} or newer." if needed else "Install a newer driver.")]
    if _compat_is_possible(machine):
        ways.append(_compat(machine, cuda))
    build = fitting(machine)
    if build is not None and build.needs_driver(machine) is None:
        ways.insert(0, python_packages.replace_torch(machine))
    first, *rest = ways
    return Remedy(first.text, first.steps, (*first.alternatives, *rest), first.verify)


def _compat(machine: Snapshot, cuda: str) -> Remedy:
    """Return how to get a libcuda for *cuda* over this driver: a toolkit here may have it."""
    for toolkit in value(machine.toolkits.installed) or ():
        folder, version = value(toolkit.compat_directory), value(toolkit.compat_version)
        newest = driver_cuda.newest_cuda_of(version) if version is not None else None
        if folder and newest and version_tuple(newest)[:2] >= version_tuple(cuda)[:2]:
            text = f"Put {folder}, whose libcuda {version} these GPUs may use, first in"
            return variables.prepend(machine, "LD_LIBRARY_PATH", folder, f"{text} LD_LIBRARY_PATH.")
    package = f"cuda-compat-{cuda.replace('.', '-')}"
    return Remedy(f"Install {package}, which these GPUs may use.")


def _compat_is_possible(machine: Snapshot) -> bool:
    return any(
        isinstance(gpu.name, str) and driver_cuda.allows_forward_compatibility(gpu.name) is True
        for gpu in value(machine.nvml.gpus) or ()
    )


@rule(
    "TOR005",
    Severity.ERROR,
    "torch has no code for a GPU that is here",
    caused_by=("DRV012", "TOR010"),
    when=all_of(has_cuda_torch, may_have_gpu),
)
def no_kernels(machine: Snapshot) -> Answers:
    """The first operation on this GPU ends in "no kernel image is available for execution".

    Each torch build carries compiled code for a list of architectures (torch.cuda.get_arch_list()
    prints it). A GPU runs code for its own compute capability, or for a lower minor of the same
    major: sm_80 code runs on an 8.6 GPU, and nothing of 9.0 runs on 10.0. PTX (compute_…) of any
    older capability is compiled by the driver at first use; release builds hold none.

    New GPUs need a build of a newer CUDA (Blackwell: CUDA 12.8), old GPUs one of an older (Volta
    and before: the cu126 builds, up to torch 2.14).
    """
    torch = yield from known(machine.pytorch.torch)
    if torch is None:
        return
    gpus = yield from gpus_of(machine)
    if not gpus:
        return
    architectures = yield from known(torch.architectures)
    if architectures is None:
        return
    if not architectures:
        yield NotChecked(why="the build lists no architecture")
        return
    missing: dict[str, list[Gpu]] = {}
    working = derived.bus_ids_of_working_gpus(machine)
    for gpu in gpus:
        capability = yield from known(gpu.compute_capability, gpu.subject)
        if capability is None or gpu.bus_id in working:
            continue
        if not torch_cuda.has_kernels(architectures, capability):
            missing.setdefault(capability, []).append(gpu)
    for capability, found in missing.items():
        name = found[0].name if isinstance(found[0].name, str) else "this GPU"
        many = f"{count(len(found), 'GPU')}: " if len(found) > 1 else ""
        yield Symptom(
            subject=", ".join(gpu.subject for gpu in found),
            gpus=tuple(gpu.index for gpu in found),
            saw=f"{many}{name} is sm_{capability.replace('.', '')}; torch {torch.version} has code "
            f"for {' '.join(architectures)}",
            remedy=python_packages.replace_torch(machine),
        )
