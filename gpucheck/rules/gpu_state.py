"""Rules about whether each GPU answers, and what the driver itself asks for."""

from gpucheck import derived
from gpucheck.knowledge import xid as xids
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpu_rule,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import Gpu, NvmlError, Snapshot, Unknown, value
from gpucheck.wording import count


@rule("GPU001", Severity.ERROR, "A GPU fell off the bus")
def gpu_lost(machine: Snapshot) -> Answers:
    """The GPU no longer answers on PCIe, and nothing can use it until the machine is power-cycled.

    NVML says GPU_IS_LOST, or the kernel logged Xid 79 ("GPU has fallen off the bus") and the GPU
    does not answer any more. Usual causes, in this order: power (a loose cable, a supply that
    cannot follow load steps), heat, the seat in the slot or its riser, a defective board. Programs
    that run on the other GPUs may hang too. Power-cycle the machine: a warm reboot often leaves
    such a board as it is. If the same GPU is lost again, check power, heat and seat, and if that
    does not help have it replaced.

    A GPU that fell off the bus earlier and answers now was reset since: that is no fault of today.
    A container sees the kernel log of the whole machine, but not all of its GPUs: there a GPU that
    only the log names does not belong to the container.
    """
    gpus = yield from gpus_of(machine)
    fallen = _fallen_off_the_bus(machine)
    for gpu in gpus:
        if gpu.state == "lost" or (gpu.state != "ok" and gpu.bus_id in fallen):
            logged = ", and the kernel logged Xid 79" if gpu.bus_id in fallen else ""
            yield Symptom(
                subject=gpu.subject,
                gpus=(gpu.index,),
                saw=f"{value(gpu.error) or 'NVML says GPU_IS_LOST'}{logged}",
                remedy=remedies.power_cycle(machine, gpu),
            )
    in_container = derived.is_container(machine)
    if fallen and isinstance(machine.nvml.gpus, tuple) and not in_container:
        listed = {gpu.bus_id for gpu in gpus}
        # One that NVML lists and that cannot say its bus id is one of them, and reported above.
        nameless = sum(gpu.state != "ok" and isinstance(gpu.bus_id, Unknown) for gpu in gpus)
        for bus_id in sorted(fallen - listed)[nameless:]:
            yield Symptom(
                subject=f"GPU at {bus_id}",
                saw="the kernel logged Xid 79, and NVML no longer lists this GPU",
                remedy=remedies.power_cycle(machine),
            )


def _fallen_off_the_bus(machine: Snapshot) -> set[str]:
    logged = machine.kernel_log.xids
    if isinstance(logged, Unknown):
        return set()
    return {entry.bus_id for entry in logged if entry.number == 79}


@gpu_rule("GPU002", Severity.ERROR, "A GPU does not answer", caused_by=("GPU001", "DRV017"))
def gpu_hung(gpu: Gpu, machine: Snapshot) -> Answers:
    """A query to this GPU did not come back, or crashed NVML; work on it would hang too.

    gpucheck asks NVML in a child process with a deadline for every query, so the other GPUs were
    still examined. A GPU like this usually has stuck firmware (look for Xid 119 or 120 in the
    kernel log) or is about to fall off the bus. End what runs on it, reset it, and power-cycle the
    machine if the reset hangs as well. Under WSL, NVML is Windows' driver, and a crash is one of
    its known faults: update it.
    """
    if gpu.state not in ("hung", "crashed", "failed"):
        return
    if machine.host.is_wsl is True:
        remedy = Remedy(
            "Update the NVIDIA driver in Windows, then restart WSL",
            steps=(
                command("wsl --update", on="windows"),
                command("wsl --shutdown", on="windows"),
            ),
        )
    else:
        remedy = remedies.reset(
            gpu,
            machine,
            "End what runs on this GPU and reset it; power-cycle the machine if the reset hangs",
        )
    yield Symptom(saw=value(gpu.error) or gpu.state, remedy=remedy)


@gpu_rule(
    "GPU003",
    Severity.ERROR,
    "The driver asks for a recovery of a GPU",
    caused_by=("GPU001", "GPU006", "GPU004", "GPU011"),
)
def recovery_wanted(gpu: Gpu, machine: Snapshot) -> Answers:
    """The driver itself says that only a reset of this GPU or a reboot restores it.

    It keeps this verdict ("GPU Recovery Action" in nvidia-smi -q, Xid 154 in the kernel log) after
    an error that it could not clear. Programs may fail or give wrong results until it is done.
    """
    wanted = yield from known(gpu.recovery_action)
    if not wanted:
        return
    action = xids.recovery_action(wanted)
    if action is None:
        yield NotChecked(why=f"recovery action {wanted} is not known")
        return
    yield Symptom(
        severity=Severity.WARNING if action.action in ("drain_p2p", "recover_imex") else None,
        saw=f"recovery action {wanted}: {action.meaning}",
        remedy=_recovery(action.action, gpu, machine),
    )


def _recovery(action: str, gpu: Gpu, machine: Snapshot) -> Remedy:
    """Return what NVML's recovery action asks for."""
    match action:
        case "reset_gpu":
            return remedies.reset(gpu, machine, "End what runs on this GPU and reset it")
        case "drain_and_reset":
            text = "Let the running work end, start nothing new, then reset the GPU"
            return remedies.reset(gpu, machine, text)
        case "drain_p2p":
            return Remedy(
                "End programs that copy between GPUs; the driver then takes the request back",
                verify=command("nvidia-smi -i {gpu} -q -d PERFORMANCE", gpu=gpu.index),
            )
        case "recover_imex":
            return Remedy(
                "Restart the IMEX service on every node of the domain (multi-node NVLink)",
                steps=(
                    command(
                        "systemctl restart nvidia-imex",
                        root=True,
                        on=remedies.place_of_driver(machine),
                    ),
                ),
            )
        case "bus_reset":
            text = "End what runs on this GPU and reboot: its PCI bus has to be reset"
            return remedies.reboot(machine, text)
        case _:
            return remedies.reboot(machine, "Drain the machine and reboot it")


@rule(
    "GPU022",
    Severity.ERROR,
    "Not the number of GPUs that was expected",
    caused_by=("HST004", "DRV001", "DRV002", "DRV003", "DRV015", "DRV016", "GPU001", "GPU002"),
)
def count_unexpected(machine: Snapshot) -> Answers:
    """This machine has another number of working GPUs than --expect-gpus says.

    A GPU that is lost or does not answer does not count.
    """
    expected = machine.expected_gpus
    if expected is None:
        yield NotApplicable(why="no --expect-gpus was given")
        return
    found = machine.nvml.gpus
    if isinstance(machine.nvml.error, NvmlError) or machine.host.pci_gpus == ():
        found = () if isinstance(found, Unknown) else found
    gpus = yield from known(found)
    if gpus is None:
        return
    working = sum(gpu.state == "ok" for gpu in gpus)
    if working != expected:
        yield Symptom(
            saw=f"{count(working, 'working GPU')}; expected: {expected}",
            remedy=Remedy(
                "Find the missing GPU on the bus and in the kernel log, or correct --expect-gpus",
                steps=(command("lspci -d 10de:"), command("nvidia-smi -L")),
            ),
        )
