"""Rules about GPUs of one machine that differ from each other."""

from collections import Counter
from collections.abc import Callable

from gpucheck.rule import (
    Answers,
    NotApplicable,
    Remedy,
    Severity,
    Symptom,
    command,
    gpus_of,
    rule,
)
from gpucheck.snapshot import Gpu, Memory, Snapshot, value
from gpucheck.wording import listed, ranges


@rule("GPU021", Severity.INFO, "The GPUs of this machine differ")
def gpus_differ(machine: Snapshot) -> Answers:
    """Work that is spread evenly over unequal GPUs runs at the pace of the slowest.

    DataParallel and DistributedDataParallel give each GPU the same share, so a program that uses
    several GPUs is best given equal ones. Different models are how a machine was built, which is
    only noted, and not at all for a small display card next to compute GPUs; a power limit that
    differs on one model is a setting, and a warning.
    """
    gpus = yield from gpus_of(machine)
    sound = [gpu for gpu in gpus if gpu.state == "ok"]
    if len(sound) < 2:
        if gpus:
            yield NotApplicable(why="fewer than two GPUs to compare")
        return
    names = Counter([gpu.name for gpu in sound if isinstance(gpu.name, str)])
    if len(names) > 1 and not _others_are_for_display(sound, names):
        yield Symptom(
            saw=", ".join(
                f"{name}: GPU {ranges([gpu.index for gpu in sound if gpu.name == name])}"
                for name, _ in names.most_common()
            ),
            gpus=tuple(gpu.index for gpu in sound),
            remedy=Remedy("Give work that uses several GPUs to GPUs of one model"),
        )
    for name in names:
        family = [gpu for gpu in sound if gpu.name == name]
        for difference in _DIFFERENCES:
            yield from difference(name, family)


#: A card with less memory than this, and a quarter of the others', is there for the screen.
SMALL_CARD_BYTES = 12 << 30


def _others_are_for_display(gpus: list[Gpu], names: Counter[str]) -> bool:
    usual = _usual(gpus, names)
    most = max(_total_bytes(gpu) for gpu in gpus)
    return all(
        gpu.display_active is True or 0 < _total_bytes(gpu) <= min(most / 4, SMALL_CARD_BYTES)
        for gpu in gpus
        if gpu.name != usual
    )


def _usual(gpus: list[Gpu], names: Counter[str]) -> str:
    """Return the model that the machine computes with: the most frequent, then the largest."""
    return max(
        names,
        key=lambda name: (
            any(gpu.name == name and gpu.display_active is not True for gpu in gpus),
            names[name],
            max(_total_bytes(gpu) for gpu in gpus if gpu.name == name),
        ),
    )


def _total_bytes(gpu: Gpu) -> int:
    return gpu.memory.total_bytes if isinstance(gpu.memory, Memory) else 0


def _memory(name: str, family: list[Gpu]) -> Answers:
    """Compare memory; drivers keep slightly different shares of it for themselves."""
    sizes = {gpu.index: size / 2**30 for gpu in family if (size := _total_bytes(gpu))}
    if sizes and max(sizes.values()) - min(sizes.values()) > 0.03 * max(sizes.values()):
        yield Symptom(
            subject="memory",
            gpus=tuple(sizes),
            saw=f"{name}: " + ", ".join(f"GPU {n} {size:.0f} GiB" for n, size in sizes.items()),
            remedy=Remedy(
                "Fit batch sizes to the smallest memory, or give such work to equal GPUs"
            ),
        )


def _power_limits(name: str, family: list[Gpu]) -> Answers:
    """Compare the enforced power limits, which are settings."""
    limits = {
        gpu.index: watts
        for gpu in family
        if (watts := value(gpu.power_limit_enforced_watts)) is not None
    }
    if limits and max(limits.values()) - min(limits.values()) > 1.0:
        yield Symptom(
            subject="power limit",
            severity=Severity.WARNING,
            gpus=tuple(limits),
            saw=f"{name}: " + ", ".join(f"GPU {n} {watts:g} W" for n, watts in limits.items()),
            remedy=Remedy(
                "Set the same power limit on all of them",
                verify=command("nvidia-smi -q -d POWER"),
            ),
            explained_by=("GPU014",),
        )


_DIFFERENCES: tuple[Callable[[str, list[Gpu]], Answers], ...] = (_memory, _power_limits)


@rule("GPU024", Severity.WARNING, "GPUs of one model have different firmware")
def firmware_differs(machine: Snapshot) -> Answers:
    """Equal GPUs with different firmware can differ in speed, limits and in the faults they have.

    It usually means that one board was replaced or missed an update. Bring all to the newest
    version that the vendor of the machine offers.
    """
    gpus = yield from gpus_of(machine)
    sound = [gpu for gpu in gpus if gpu.state == "ok" and isinstance(gpu.name, str)]
    if gpus and len(sound) < 2:
        yield NotApplicable(why="fewer than two GPUs to compare")
    for name in dict.fromkeys(gpu.name for gpu in sound):
        family = [gpu for gpu in sound if gpu.name == name]
        for what, read in _FIRMWARE:
            indexes: dict[str, list[int]] = {}
            for gpu in family:
                if isinstance(version := read(gpu), str):
                    indexes.setdefault(version, []).append(gpu.index)
            if len(indexes) > 1:
                versions = [f"GPU {ranges(found)} {each}" for each, found in indexes.items()]
                yield Symptom(
                    subject=what,
                    gpus=tuple(sorted(n for found in indexes.values() for n in found)),
                    saw=f"{what} of {name}: {listed(versions)}",
                    remedy=Remedy("Update the firmware of all boards to the same version"),
                )


_FIRMWARE: tuple[tuple[str, Callable[[Gpu], object]], ...] = (
    ("VBIOS", lambda gpu: gpu.vbios_version),
    ("InfoROM", lambda gpu: gpu.inforom_version),
    ("GSP firmware", lambda gpu: gpu.gsp_firmware_version),
)
