"""Says which machines raise a rule's question: what `@rule(…, when=…)` takes."""

from gpucheck import derived
from gpucheck.rule import Condition, NotApplicable, NotChecked, Obstacle
from gpucheck.snapshot import Snapshot, Unknown


def all_of(*conditions: Condition) -> Condition:
    """Return the condition that all of these hold: the first obstacle counts."""

    def each(machine: Snapshot) -> Obstacle | None:
        found = (condition(machine) for condition in conditions)
        return next((obstacle for obstacle in found if obstacle is not None), None)

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
