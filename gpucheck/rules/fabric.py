"""Judges whether the GPUs joined their NVSwitch fabric, and whose business it is if not."""

import msgspec

from gpucheck.derived import cuda_code, is_container, is_virtual, nvlinks_up
from gpucheck.knowledge import gpus as models
from gpucheck.remedies import gpus as remedies
from gpucheck.remedies import system_packages
from gpucheck.rule import (
    Answers,
    Command,
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
from gpucheck.snapshot import Fabric, FabricManager, Gpu, Snapshot, value
from gpucheck.versions import version_tuple
from gpucheck.wording import listed

#: nvmlGpuFabricState_t
_STATES = {1: "not started", 2: "in progress", 3: "completed"}
#: nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_*: fields of two bits, where 1 means "true"
_HEALTH = {
    0: "degraded bandwidth",
    2: "a route in recovery",
    4: "an unhealthy route",
    6: "recovery from an access timeout",
}
#: nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_INCORRECT_CONFIGURATION_*, a field of four bits at bit 8
_CONFIGURATION = {
    2: "an incorrect system GUID",
    3: "an incorrect chassis serial number",
    4: "no partition",
    5: "too few NVLinks",
    6: "incompatible GPU firmware",
    7: "an invalid location",
    8: "an invalid state of the GPU",
}
#: nvml.h, NVML_GPU_FABRIC_HEALTH_SUMMARY_*
_SUMMARIES = {2: "an unhealthy fabric", 3: "limited capacity"}


class _Unready(msgspec.Struct, frozen=True):
    """GPUs that did not join the fabric, with the same result."""

    gpus: tuple[Gpu, ...]
    state: str


@rule(
    "LNK006",
    Severity.ERROR,
    "The NVSwitch fabric is not ready",
    caused_by=("DRV010", "GPU001", "GPU002", "GPU026"),
)
def fabric_not_ready(machine: Snapshot) -> Answers:
    """On an NVSwitch system CUDA does not start (error 802) until every GPU has joined the fabric.

    Who has to see to it depends on the machine. With NVSwitches on the PCI bus (A100, H100, H200
    boards) the fabric manager here registers each GPU; it has to run, in the driver's own version.
    Boards with NVLink 5 (B200, B300) have no NVSwitch on the bus: their fabric manager reaches the
    switches over InfiniBand devices, and needs the kernel modules mlx5_ib and ib_umad, and NVIDIA's
    subnet manager nvlsm. In a rack of GB200 or GB300 nodes the switches are in trays of their own,
    with a fabric manager there. A virtual machine or a container that got some GPUs of such a board
    has neither: there the host, or the cloud provider, has to set the fabric up.

    Where the fabric manager runs and a GPU still does not join, its log says why
    (/var/log/fabricmanager.log). A GPU that is alone in its virtual machine, has no link up and
    starts CUDA belongs to no fabric.
    """
    gpus = yield from gpus_of(machine)
    unready: dict[str, list[Gpu]] = {}
    faulty: dict[str, list[Gpu]] = {}
    for gpu in gpus:
        fabric = yield from known(gpu.fabric, gpu.subject)
        if not isinstance(fabric, Fabric):
            continue
        if fabric.state == 0:
            yield NotApplicable(why="no NVSwitch fabric", subject=gpu.subject)
        elif fabric.state not in _STATES:
            yield NotChecked(why=f"fabric state {fabric.state} is not known", subject=gpu.subject)
        elif fabric.state < 3 and _is_alone(machine, gpus, gpu):
            yield NotApplicable(why="alone in its virtual machine", subject=gpu.subject)
        elif fabric.state != 3 or fabric.status != 0:
            result = f", NVML error {fabric.status}" if fabric.state == 3 else ""
            unready.setdefault(f"{_STATES[fabric.state]}{result}", []).append(gpu)
        elif faults := _faults(fabric):
            faulty.setdefault(listed(faults), []).append(gpu)
    for state, members in unready.items():
        yield _unready(_Unready(tuple(members), state), machine)
    for what, members in faulty.items():
        yield Symptom(
            subject=_subject(members),
            gpus=tuple(gpu.index for gpu in members),
            severity=Severity.WARNING,
            saw=f"the fabric reports {what}",
            remedy=_look_at_log(
                machine, "Look into the fabric manager's log; reset all GPUs together if it goes on"
            ),
        )


def _subject(gpus: list[Gpu]) -> str:
    return gpus[0].subject if len(gpus) == 1 else ""


def _is_alone(machine: Snapshot, gpus: tuple[Gpu, ...], gpu: Gpu) -> bool:
    """Whether one GPU of somebody's board is here and works without the fabric."""
    return (
        len(gpus) == 1
        and is_virtual(machine)
        and isinstance(gpu.nvlinks, tuple)
        and not nvlinks_up(gpu)
        and cuda_code(machine) != 802
    )


def _faults(fabric: Fabric) -> list[str]:
    mask = value(fabric.health) or 0
    faults = [fault for shift, fault in _HEALTH.items() if mask >> shift & 3 == 1]
    if wrong := _CONFIGURATION.get(mask >> 8 & 15):
        faults.append(wrong)
    if not faults and (summary := _SUMMARIES.get(value(fabric.health_summary) or 0)):
        faults.append(summary)
    return faults


# ------------------------------------------------------------------------------- who sees to it


def _unready(found: _Unready, machine: Snapshot) -> Symptom:
    """Return the one finding about all GPUs that wait for the same."""
    saw = f"fabric registration: {found.state}"
    if machine.host.nvswitches:
        remedy = _start_fabric_manager(machine)
    elif is_container(machine) or is_virtual(machine):
        saw += "; no NVSwitch is visible here"
        remedy = Remedy(
            "Ask whoever runs the host, or the cloud provider, to set up the NVSwitch fabric for"
            " these GPUs: their fabric manager activates the partition",
        )
    elif _has_nvlink_5(found.gpus) and machine.host.machine == "aarch64":
        saw += "; its switches are in trays of their own"
        remedy = Remedy(
            "Have the rack's NVLink switch trays and their fabric manager looked at; on the nodes,"
            " see that nvidia-imex runs and reaches the others",
            steps=(
                command("systemctl status nvidia-imex", needs="systemctl"),
                command("nvidia-imex-ctl -N", root=True),
            ),
            verify=command("nvidia-smi -q"),
        )
    elif _has_nvlink_5(found.gpus):
        missing = _missing_for_nvlink_5(machine)
        if missing:
            saw += f"; missing: {listed(missing)}"
        remedy = _set_up_nvlink_5(machine, missing)
    else:
        remedy = _start_fabric_manager(machine)
    return Symptom(
        subject=_subject(list(found.gpus)),
        gpus=tuple(gpu.index for gpu in found.gpus),
        saw=saw,
        remedy=remedy,
    )


def _has_nvlink_5(gpus: tuple[Gpu, ...]) -> bool:
    """Whether these are data-center GPUs of the Blackwell generation: compute capability 10."""
    for gpu in gpus:
        model = models.find(gpu.name) if isinstance(gpu.name, str) else None
        capability = value(gpu.compute_capability) or (model.compute_capability if model else "0")
        if version_tuple(capability)[:1] == (10,):
            return True
    return False


#: What the fabric manager of NVLink 5 needs: kernel modules, in the order in which to load them.
_MODULES = ("mlx5_ib", "ib_umad")


def _missing_for_nvlink_5(machine: Snapshot) -> list[str]:
    loaded = machine.driver.loaded_modules
    missing = [f"module {name}" for name in _MODULES if name not in (value(loaded) or _MODULES)]
    if machine.driver.has_nvlsm is False:
        missing.append("nvlsm")
    manager = machine.driver.fabric_manager
    if manager is None:
        missing.append("nvidia-fabricmanager")
    elif isinstance(manager, FabricManager) and manager.is_running is False:
        missing.append("a running nvidia-fabricmanager")
    return missing


def _set_up_nvlink_5(machine: Snapshot, missing: list[str]) -> Remedy:
    if not missing:
        return _look_at_log(
            machine, "Look into the logs of nvlsm and the fabric manager for what they wait for"
        )
    modules = [name for name in _MODULES if f"module {name}" in missing]
    steps: list[Command] = []
    if "nvlsm" in missing:
        steps += system_packages.subnet_manager(machine)
    if "nvidia-fabricmanager" in missing:
        steps += system_packages.fabric_manager(machine, machine.driver.module_version)
    steps += [command("modprobe {name}", name=name, root=True, lasts="reboot") for name in modules]
    if "nvlsm" in missing or "nvidia-fabricmanager" in missing:
        text = "Install nvlsm and the fabric manager in the driver's version, load the modules"
    else:
        text = "Load the modules (name them in /etc/modules-load.d to keep them)"
    steps.append(command("systemctl restart nvidia-fabricmanager", root=True))
    return Remedy(
        f"{text}, then restart the fabric manager",
        steps=tuple(steps),
        verify=command("nvidia-smi -q"),
    )


def _start_fabric_manager(machine: Snapshot) -> Remedy:
    place = remedies.place_of_driver(machine)
    return Remedy(
        "Start the fabric manager in the driver's version, then look again",
        steps=(
            command("systemctl restart nvidia-fabricmanager", root=True, on=place),
            command("tail /var/log/fabricmanager.log", root=True, on=place),
        ),
        verify=command("nvidia-smi -q"),
    )


def _look_at_log(machine: Snapshot, text: str) -> Remedy:
    place = remedies.place_of_driver(machine)
    return Remedy(text, steps=(command("tail /var/log/fabricmanager.log", root=True, on=place),))
