"""What each GPU model has: links, PCIe, ECC. Sources are in gpus.json, by key."""

from functools import cache, lru_cache

import msgspec

from gpucheck.knowledge import published


class GpuModel(msgspec.Struct, frozen=True):
    """A model by its NVML names, without the vendor's word.

    `nvlinks` is the number of NVLinks of the chip's board; `nvlinks_are_wired` says that every one
    of them is connected in any machine that has this model (NVSwitch or on-board wiring), while a
    bridge may be left out.
    """

    names: tuple[str, ...]
    compute_capability: str
    nvlinks: int
    nvlinks_are_wired: bool
    ecc_is_default: bool
    source: tuple[str, ...]
    confidence: str
    pcie_generation: int | None = None
    pcie_width: int | None = None


class Table(msgspec.Struct, frozen=True):
    """The file as it is."""

    sources: dict[str, str]
    gpus: tuple[GpuModel, ...]


@cache
def table() -> Table:
    """Return all models."""
    return published("gpus.json", Table)


@lru_cache(maxsize=256)
def find(name: str) -> GpuModel | None:
    """Return the model that NVML calls *name*; None for one that the table does not know.

    Whole names only ("NVIDIA A10" is not "NVIDIA A10G"), the vendor's word may be missing (older
    drivers left it out), and a MIG device counts as its GPU.
    """
    return _by_name().get(name.strip().split(" MIG ")[0].removeprefix("NVIDIA ").strip())


@cache
def _by_name() -> dict[str, GpuModel]:
    return {name: model for model in table().gpus for name in model.names}
