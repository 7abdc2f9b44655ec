"""The rule about a driver that does not drive a GPU: too old, too new, or of the wrong kind."""

from gpucheck.conditions import own_kernel_module
from gpucheck.derived import (
    cuda_works,
    driver_copies,
    is_container,
    nvml_works,
    own_gpus,
    unseen_gpus,
)
from gpucheck.knowledge.driver_cuda import last_branch_for, minimum_branch_for
from gpucheck.knowledge.kernel_module import family_of
from gpucheck.knowledge.module_messages import meaning
from gpucheck.remedies import system_packages
from gpucheck.rule import (
    Answers,
    Command,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    rule,
)
from gpucheck.snapshot import PciGpu, Snapshot, Unknown, value
from gpucheck.versions import version_tuple


@rule(
    "DRV012",
    Severity.ERROR,
    "This driver cannot drive a GPU that is here",
    when=own_kernel_module,
)
def wrong_driver_for_gpu(machine: Snapshot) -> Answers:
    """Each GPU architecture needs a driver of its time: NVML and CUDA do not show this GPU at all.

    An older driver does not know a newer GPU; a newer one has dropped old architectures (Kepler
    after 470; Maxwell, Pascal and Volta after 580). And the kernel module comes in two kinds:
    Blackwell and Grace Hopper need the open one, GPUs before Turing the closed one. Where such a
    GPU is the only one, the module does not stay loaded: its file, and what it said, are judged.
    """
    module = machine.driver.module_version
    if isinstance(module, Unknown):
        yield NotChecked.because(module)
        return
    if nvml_works(machine) and is_container(machine):
        return  # the others were not given to this container
    if module is None and (nvml_works(machine) or cuda_works(machine)):
        return
    by_line = _said(machine)
    if by_line is not None:
        yield by_line
        return
    version, _ = driver_in_question(machine)
    if version is None:
        yield NotApplicable(why="no module is loaded or built")
        return
    unseen = own_gpus(machine) if module is None else unseen_gpus(machine)
    if unseen is None:
        fact = machine.nvml.count
        yield (
            NotChecked.because(fact)
            if isinstance(fact, Unknown)
            else NotChecked(why="NVML names no bus ids")
        )
        return
    for gpu in unseen:
        yield from _judge_family(machine, gpu)


def driver_in_question(machine: Snapshot) -> tuple[str | None, str | Unknown | None]:
    """Return version and kind of the loaded module, else those of the module that would be loaded.

    A module's file that does not say its version is taken to be of the libraries'.
    """
    driver = machine.driver
    if isinstance(driver.module_version, str):
        return driver.module_version, driver.module_kind
    if not isinstance(driver.module_file, str):
        return None, None
    version = value(driver.module_file_version)
    if version is None:
        libraries = value(driver_copies(machine)) or ()
        version = next((v for lib in libraries if isinstance(v := lib.version, str)), None)
    return version, driver.module_file_kind


def is_unsuited(machine: Snapshot, gpu: PciGpu) -> bool:
    """Whether the driver here cannot drive *gpu*, by what is published or what it says itself."""
    if any(isinstance(answer, Symptom) for answer in _judge_family(machine, gpu)):
        return True
    said = _said(machine)
    return said is not None and said.subject in ("", gpu.bus_id)


def _judge_family(machine: Snapshot, gpu: PciGpu) -> Answers:
    version, kind = driver_in_question(machine)
    if version is None:
        return
    family = family_of(gpu.device_id)
    if family is None:
        yield NotChecked(why=f"no table knows device {gpu.device_id}", subject=gpu.bus_id)
        return
    branch = version_tuple(version)[:1]
    first = minimum_branch_for(family.compute_capability)
    last = last_branch_for(family.compute_capability)
    what = f"the GPU at {gpu.bus_id} ({gpu.device_id}) is {family.architecture}"
    if first is not None and branch < (first,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs driver {first} or newer; this is {version}",
            remedy=_newer(machine, first),
        )
    elif last is not None and branch > (last,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which drivers after {last} no longer drive; this is {version}",
            remedy=_older(machine, last),
        )
    elif isinstance(kind, Unknown):
        yield NotChecked.because(kind, gpu.bus_id)
    elif kind is not None and family.module not in ("either", kind):
        is_loaded = isinstance(machine.driver.module_version, str)
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs the {family.module} kernel module; the {kind} one is "
            + ("loaded" if is_loaded else "installed"),
            remedy=_other_kind(machine, family.module, branch),
        )


def _newer(machine: Snapshot, branch: int) -> Remedy:
    return Remedy(
        f"Install a driver of branch {branch} or newer, then reboot.",
        system_packages.install_driver(machine, branch),
    )


def _older(machine: Snapshot, branch: int) -> Remedy:
    return Remedy(
        f"Install a driver of branch {branch}, then reboot.",
        system_packages.older_driver(machine, branch),
    )


def _other_kind(machine: Snapshot, kind: str, branch: tuple[int, ...]) -> Remedy:
    if not branch:
        steps: tuple[Command, ...] = ()
    elif kind == "open":
        steps = system_packages.open_module(machine, branch[0])
    else:
        steps = system_packages.older_driver(machine, branch[0])
    return Remedy(f"Install the driver with the {kind} kernel module, then reboot.", steps)


def _said(machine: Snapshot) -> Symptom | None:
    """Return what the module itself said of a GPU that it does not drive."""
    version, _ = driver_in_question(machine)
    branch = version_tuple(version)[:1] if version else ()
    unseen = unseen_gpus(machine)
    if unseen == () and isinstance(machine.driver.module_version, str):
        return None  # it drives them all by now
    for line in value(machine.kernel_log.module_said) or ():
        found = meaning(line)
        if found is None:
            continue
        kind, match = found
        if kind == "legacy":
            remedy = _older(machine, int(match["branch"]))
        elif kind == "needs_closed":
            remedy = _other_kind(machine, "closed", branch)
        elif kind == "needs_open":
            remedy = _other_kind(machine, "open", branch)
        elif kind == "wrong_release":
            remedy = _by_age(machine)
        else:
            continue
        named = [gpu.bus_id for gpu in own_gpus(machine) if gpu.bus_id.lower() in line.lower()]
        gpus = own_gpus(machine)
        subject = named[0] if named else gpus[0].bus_id if len(gpus) == 1 else ""
        return Symptom(subject=subject, saw=f'the module says: "{line}"', remedy=remedy)
    return None


def _next_branch(machine: Snapshot) -> int:
    version, _ = driver_in_question(machine)
    return next(iter(version_tuple(version or "")), -1) + 1


def _by_age(machine: Snapshot) -> Remedy:
    """Return which driver to install where the module only says that it is the wrong one."""
    for gpu in own_gpus(machine):
        for answer in _judge_family(machine, gpu):
            if isinstance(answer, Symptom) and answer.remedy is not None:
                return answer.remedy
    return Remedy(
        "Install a newer driver, then reboot; for an old GPU, the last branch that drives it.",
        system_packages.install_driver(machine, _next_branch(machine)),
    )
