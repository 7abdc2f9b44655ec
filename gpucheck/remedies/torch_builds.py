"""Chooses the one torch build that this driver and these GPUs can use, near to the one here."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpucheck import derived
from gpucheck.knowledge import cudnn, driver_cuda, torch_cuda
from gpucheck.requirements import satisfies
from gpucheck.snapshot import Distribution, Snapshot, Torch, value
from gpucheck.versions import version_tuple

#: Packages that are compiled against one torch and one CUDA, by their distributions' names.
_COMPILED = frozenset(
    {
        *("xformers", "flash-attn", "flash-attn-3", "vllm", "sgl-kernel", "flashinfer-python"),
        *("torchcodec", "torch-scatter", "torch-sparse", "torch-cluster", "torch-spline-conv"),
        *("pyg-lib", "detectron2", "mmcv", "pytorch3d", "apex", "transformer-engine"),
        *("transformer-engine-torch", "mamba-ssm", "causal-conv1d", "natten", "torchrec"),
        *("fbgemm-gpu", "auto-gptq", "gptqmodel", "deepspeed-kernels", "spconv", "kaolin"),
    }
)
_VENDORS = re.compile(r"\+.*\bnv\d|\d+a0\+|\.nv\d")
#: PyTorch's index has CUDA builds for ARM servers from here on (table `rule`, aarch64-cpu-only).
_ARM_SINCE = (2, 11)


@dataclass(frozen=True, slots=True)
class Build:
    """A torch to install: its release, and the wheel index that has it."""

    release: str  # "2.8.0"
    variant: torch_cuda.Variant
    is_vendors: bool = False  # the torch here is a vendor's build: it is not replaced by wheels

    @property
    def cuda(self) -> str:
        return self.variant.cuda

    @property
    def index_url(self) -> str:
        return self.variant.index_url

    def requirements(self, machine: Snapshot) -> tuple[str, ...]:
        """Return torch and those of its companions that are here, pinned."""
        names = ("torch", *companions(machine))
        return tuple(pinned(name, self.release, self.variant.variant) for name in names)

    def needs_driver(self, machine: Snapshot) -> str | None:
        """Return the driver that this build needs where the one here does not run it."""
        if derived.runs_cuda(machine, self.cuda) is not False:
            return None
        return driver_cuda.oldest_driver_for(version_tuple(self.cuda)[0])

    def text(self, machine: Snapshot) -> str:
        """Return what it is, and why it fits: "torch 2.8.0 for CUDA 12.6, which driver … runs"."""
        driver = derived.driver_version(machine)
        text = f"torch {self.release} for CUDA {self.cuda}"
        if driver and derived.runs_cuda(machine, self.cuda):
            text += f", which driver {driver} runs"
        return text


def companions(machine: Snapshot) -> tuple[str, ...]:
    """Return which of torchvision and torchaudio are here."""
    here = {each.name for each in value(machine.pytorch.distributions) or ()}
    return tuple(name for name in ("torchvision", "torchaudio") if name in here)


def pinned(name: str, release: str, variant: str) -> str:
    """Return the requirement of torch, or of a companion, that goes with a torch *release*."""
    version = release
    if name == "torchvision":
        row = torch_cuda.release_of(release)
        version = row.torchvision if row is not None else ""
    elif name == "torchaudio":
        version = torch_cuda.torchaudio_for(release) or _newest_torchaudio(release, variant)
    # The local version makes pip take another build of the release that is here already.
    return f"{name}=={version}+{variant}" if version else name


def _newest_torchaudio(release: str, variant: str) -> str:
    """Return the last torchaudio, which serves later torches too, where it has *variant*."""
    newest = torch_cuda.table().newest_torchaudio
    cuda = torch_cuda.cuda_of_variant(variant)
    is_later = version_tuple(release) > version_tuple(newest)
    return newest if is_later and cuda and torch_cuda.variant_of(newest, cuda) else ""


def fitting(machine: Snapshot) -> Build | None:
    """Return the build to install; None: no table row fits.

    It is of the release that is here where one of its builds fits, for the CUDA that it has where
    that fits, else the newest; else of the nearest release. Without torch it is the newest of all.
    The driver counts while one fits; a GPU that no such build has code for asks for a newer one.
    """
    here = value(machine.pytorch.torch)
    version = value(here.version) if here is not None else None
    rows = list(_rows(machine))
    runnable = [row for row in rows if derived.runs_cuda(machine, row.cuda)]
    chosen = _nearest(runnable or rows, here, version, machine)
    if chosen is None:
        return None
    row, release = chosen
    is_vendors = version is not None and _VENDORS.search(version) is not None
    return Build(release=release, variant=row, is_vendors=is_vendors)


def _rows(machine: Snapshot) -> Iterator[torch_cuda.Variant]:
    """Yield the builds that have code for all GPUs here, and that this processor can run."""
    capabilities = derived.compute_capabilities(machine)
    is_arm = machine.host.machine == "aarch64"
    for row in torch_cuda.table().variant:
        if is_arm and (version_tuple(row.torch) < _ARM_SINCE or version_tuple(row.cuda) < (13,)):
            continue
        if all(
            torch_cuda.has_kernels(row.architectures, each) and _cudnn_serves(row, each)
            for each in capabilities
        ):
            yield row


def _cudnn_serves(row: torch_cuda.Variant, capability: str) -> bool:
    served = cudnn.capabilities_of(row.cudnn, version_tuple(row.cuda)[0])
    return served is None or version_tuple(served[0]) <= version_tuple(capability)


def _nearest(
    rows: list[torch_cuda.Variant], here: Torch | None, version: str | None, machine: Snapshot
) -> tuple[torch_cuda.Variant, str] | None:
    minors = sorted({version_tuple(row.torch)[:2] for row in torch_cuda.table().variant})
    wanted = version_tuple(version)[:2] if version else ()
    cuda = value(here.cuda) if here is not None else None
    here_too = companions(machine)
    found: list[tuple[tuple[int, ...], torch_cuda.Variant, str]] = []
    for row in rows:
        minor = version_tuple(row.torch)[:2]
        release = _release(row, version, machine)
        if release is None:
            continue
        distance = abs(minors.index(minor) - minors.index(wanted)) if wanted in minors else 0
        is_same_cuda = row.cuda == cuda and minor == wanted
        is_whole = "torchaudio" not in here_too or "==" in pinned(
            "torchaudio", release, row.variant
        )
        rank = (-distance, *minor, int(is_whole), int(is_same_cuda), *version_tuple(row.cuda))
        found.append((rank, row, release))
    if not found:
        return None
    _, row, release = max(found, key=lambda each: each[0])
    return row, release


def _release(row: torch_cuda.Variant, version: str | None, machine: Snapshot) -> str | None:
    """Return the release of a build's minor: the one that is here, else its newest patch."""
    python = value(machine.pytorch.python)
    spoken = value(python.version) if python is not None else None
    have = version_tuple(spoken)[:2] if spoken else ()
    releases = [
        each.torch
        for each in torch_cuda.table().release
        if version_tuple(each.torch)[:2] == version_tuple(row.torch)[:2]
        and (not have or version_tuple(each.python[0]) <= have <= version_tuple(each.python[1]))
    ]
    public = version.partition("+")[0] if version else ""
    if public in releases:
        return public
    return max(releases, key=version_tuple, default=None)


def followers(
    machine: Snapshot, build: Build
) -> tuple[list[tuple[Distribution, str]], list[Distribution]]:
    """Return who pins another torch than *build*, and who else is compiled against torch."""
    pinned: list[tuple[Distribution, str]] = []
    compiled: list[Distribution] = []
    for each in value(machine.pytorch.distributions) or ():
        if each.name in ("torch", "torchvision", "torchaudio"):
            continue
        needs = [need.removeprefix("torch") for need in each.requires if is_torch(need)]
        wrong = next((need for need in needs if not satisfies(build.release, need)), None)
        if wrong is not None:
            pinned.append((each, wrong))
        elif each.name in _COMPILED:
            compiled.append(each)
    return pinned, compiled


def is_torch(need: str) -> bool:
    """Tell whether a requirement is of torch itself: "torch==2.6.0", not "torchvision"."""
    return need.startswith("torch") and need[5:6] in {"", "=", "<", ">", "~", "!"}
