"""Starts the children that take longest, with nearly nothing imported yet."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gpucheck.probes import cuda_init, nvml_child
from gpucheck.probes.child import Child

if TYPE_CHECKING:
    from gpucheck.scope import Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Children:
    """The child that asks cuInit (None with --quick), and the one that asks NVML."""

    cuda: Child | None
    nvml: Child

    @classmethod
    def start(cls, scope: "Scope") -> "Children":
        """Start them: nobody gets an answer sooner than they give it."""
        cuda = None if scope.quick else cuda_init.start(scope.seconds)
        return cls(cuda=cuda, nvml=nvml_child.start(scope))

    @property
    def started_at(self) -> float:
        """The monotonic time from which the examination's deadline counts."""
        return (self.cuda or self.nvml).started_at
