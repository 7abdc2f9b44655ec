"""Says which machines raise a rule's question: what `@rule(…, when=…)` takes."""

from gpucheck import derived
from gpucheck.rule import Condition, NotApplicable, NotChecked, Obstacle
from gpucheck.snapshot import Snapshot, Unknown


def all_of(*conditions: Condition) -> Condition:
    """Return the condition that all of these hold: the first obstacle counts."""

    def each(machine: Snapshot) -> Obstacle | None:
        for condition in conditions:
            obstacle = condition(machine)
            if obstacle is not None:
                return obstacle
        return None

    return each


def has_gpu(machine: Snapshot) -> Obstacle | None:
    """An NVIDIA GPU is here."""
    here = derived.has_gpu(machine)
    if isinstance(here, Unknown):
        return NotChecked.because(here)
    return None if here else NotApplicable(why="no NVIDIA GPU")


def may_have_gpu(machine: Snapshot) -> Obstacle | None:
    """Nobody says that no NVIDIA GPU is here."""
    return NotApplicable(why="no NVIDIA GPU") if derived.has_gpu(machine) is False else None


def has_torch(machine: Snapshot) -> Obstacle | None:
    """The examined Python has a torch."""
    torch = machine.pytorch.torch
    if isinstance(torch, Unknown):
        return NotChecked.because(torch)
    return None if torch is not None else NotApplicable(why="no torch")


def has_cuda_torch(machine: Snapshot) -> Obstacle | None:
    """The examined Python has a torch that is built for CUDA."""
    torch = machine.pytorch.torch
    if torch is None or isinstance(torch, Unknown):
        return has_torch(machine)
    if isinstance(torch.build, Unknown):
        return NotChecked.because(torch.build)
    return None if torch.build == "cuda" else NotApplicable(why="torch is not built for CUDA")


def was_put_to_work(machine: Snapshot) -> Obstacle | None:
    """torch was imported and used (--deep)."""
    if machine.deep is None:
        return NotChecked(why="needs --deep", kind="by design")
    return None


def uses_cuda(machine: Snapshot) -> Obstacle | None:
    """The machine has a GPU, a toolkit or a variable of CUDA's."""
    if derived.uses_cuda(machine):
        return None
    return NotApplicable(why="no NVIDIA GPU, no CUDA toolkit and no CUDA variable here")


def was_trained(machine: Snapshot) -> Obstacle | None:
    """A smoke training was run."""
    return NotApplicable(why="no smoke training was run") if machine.training is None else None


def was_trained_on_gpus(machine: Snapshot) -> Obstacle | None:
    """A smoke training was run, and not on the CPU."""
    if machine.training is not None and machine.training.device == "cpu":
        return NotApplicable(why="a rehearsal on the CPU")
    return was_trained(machine)


def gpu_to_drive(machine: Snapshot) -> Obstacle | None:
    """There is a GPU for this system to drive."""
    if derived.is_driven(machine):
        return None
    host = machine.host
    if isinstance(host.pci_gpus, Unknown) and host.is_wsl is not True:
        return NotChecked.because(host.pci_gpus)
    if lent := derived.lent_gpus(machine):
        holders = sorted({str(gpu.driver) for gpu in lent})
        return NotApplicable(why=f"every GPU is lent to virtual machines ({', '.join(holders)})")
    return NotApplicable(why="no NVIDIA GPU")


def own_kernel_module(machine: Snapshot) -> Obstacle | None:
    """The kernel module of the GPUs here is this system's own matter."""
    obstacle = gpu_to_drive(machine)
    if obstacle is not None:
        return obstacle
    if machine.host.is_wsl is True:
        return NotApplicable(why="WSL: Windows has the driver")
    if isinstance(machine.host.tegra, str):
        return NotApplicable(why="Tegra: the driver is part of the system")
    return None


def no_container(machine: Snapshot) -> Obstacle | None:
    """This is no container, where the kernel module is the host's."""
    if derived.is_container(machine):
        return NotApplicable(why="in a container the kernel module is the host's")
    return None


def module_loaded(machine: Snapshot) -> Obstacle | None:
    """nvidia.ko is known to be loaded."""
    version = machine.driver.module_version
    if isinstance(version, Unknown):
        return NotChecked.because(version)
    return NotApplicable(why="the kernel module is not loaded") if version is None else None


def was_burned(machine: Snapshot) -> Obstacle | None:
    """`gpucheck burn` was run, if only to try it on the CPU."""
    return (
        NotApplicable(why="no burn was run: gpucheck burn does") if machine.burn is None else None
    )


def was_burned_on_gpus(machine: Snapshot) -> Obstacle | None:
    """`gpucheck burn` was run, and not on the CPU."""
    if machine.burn is not None and machine.burn.device == "cpu":
        return NotApplicable(why="a rehearsal on the CPU")
    return was_burned(machine)


def was_measured(machine: Snapshot) -> Obstacle | None:
    """`gpucheck bench` measured the GPUs; what it measured on the CPU is no performance."""
    if machine.bench is None:
        return NotApplicable(why="nothing was measured: gpucheck bench does")
    if machine.bench.device == "cpu":
        return NotApplicable(why="measured on the CPU: a rehearsal")
    return None
