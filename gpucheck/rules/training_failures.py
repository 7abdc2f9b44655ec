"""Rules about what stopped a smoke training, or went wrong next to it: TRN005, 006, 010 to 012."""

from collections.abc import Generator, Iterator

from gpucheck.conditions import was_trained, was_trained_on_gpus
from gpucheck.knowledge import clocks_event_reasons as clocks
from gpucheck.rule import (
    Answers,
    NotChecked,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import Snapshot, Training, TrainingFailure, WatchedGpu, value
from gpucheck.training_evidence import holders, suspects, where
from gpucheck.wording import count, listed

_THROTTLES = {
    clocks.HW_SLOWDOWN: "hardware slowdown",
    clocks.SW_THERMAL_SLOWDOWN: "software thermal slowdown",
    clocks.HW_THERMAL_SLOWDOWN: "hardware thermal slowdown",
    clocks.HW_POWER_BRAKE_SLOWDOWN: "hardware power brake",
}
_BROKEN_GPU = ("GPU001", "GPU003", "GPU004", "GPU011", "GPU023")
_NO_DRIVER = ("DRV001", "DRV002", "DRV003", "DRV006", "DRV007", "DRV008", "DRV009")
_RECIPES_GPUS = 4


def _failure(machine: Snapshot, *kinds: str) -> Generator[Obstacle, None, TrainingFailure | None]:
    """Return what stopped the training, where it is one of *kinds*."""
    failure = yield from known((machine.training or Training()).failure)
    if failure is None:
        return None
    if failure.kind == "blocked":
        yield NotChecked(why=value(failure.message) or "the training was not begun")
        return None
    return failure if failure.kind in kinds else None


@rule(
    "TRN005",
    Severity.ERROR,
    "The training hung",
    caused_by=("LNK014", "GPU002", *_BROKEN_GPU, "DRV010", "LNK006", "LNK004", "LNK010"),
    when=was_trained,
)
def hung(machine: Snapshot) -> Answers:
    """No batch was finished within the deadline: the training would have waited for ever.

    The child was asked where it was and was ended; nothing of it is left. A hang in the copies or
    in the first batches is mostly a broken path between two GPUs (peer-to-peer through an IOMMU
    or access control services that redirect, an NVSwitch fabric that is not up); a hang later is
    mostly a GPU that fell off the bus. Under DDP a rank that is not heard any more has crashed, or
    its host has lost the network.
    """
    failure = yield from _failure(machine, "hang", "lost")
    if failure is None:
        return
    who, at = suspects(failure), where(failure)
    after = value(failure.after_seconds)
    seconds = "" if after is None else f" for {after:g} s"
    if failure.kind == "lost":
        saw = f"{who} gave no sign of life{seconds}; it was last heard of {at}"
        remedy = Remedy(
            "Look at that process and its host: its own output says why it ended",
            steps=(command("gpucheck doctor"),),
        )
    else:
        saw = f"no progress{seconds} {at}"
        saw += f", waiting for {who}" if who else ""
        saw += f"; it was in {failure.stack[-1]}" if failure.stack else ""
        saw += f"; {failure.message}" if isinstance(failure.message, str) else ""
        remedy = Remedy(
            "Rule out the paths between the GPUs, then look at the GPU itself",
            steps=(
                command("NCCL_P2P_DISABLE=1 gpucheck smoke", needs="gpucheck"),
                command("gpucheck doctor --deep"),
            ),
        )
    yield Symptom(saw=saw, remedy=remedy, subject=who, gpus=failure.gpus)


@rule(
    "TRN006",
    Severity.ERROR,
    "There are fewer GPUs than the training was asked to use",
    caused_by=(
        *_NO_DRIVER,
        "HST004",
        "TOR001",
        "TOR002",
        "TOR003",
        "TOR004",
        "TOR007",
        "TOR008",
        "ENV018",
        "ENV019",
        "ENV020",
        "DRV015",
        "GPU001",
        "GPU017",
        "GPU016",
    ),
    when=was_trained_on_gpus,
)
def too_few_gpus(machine: Snapshot) -> Answers:
    """The training never makes do with fewer GPUs than it was asked to use.

    A proof on other GPUs than the ones meant would prove something else. `--gpus all` takes what
    is there, `--gpus 0,1,0,1` puts four replicas on two GPUs. Where GPUs should be there and are
    not, `gpucheck doctor` says why; CUDA_VISIBLE_DEVICES and MIG both hide GPUs.
    """
    training = machine.training or Training()
    visible = yield from known(training.gpus_visible)
    missing = yield from known(training.gpus_missing)
    if visible is None or missing is None or (visible and not missing):
        return
    saw = f"--gpus {training.gpus_wanted} was asked for; torch sees {count(visible, 'GPU')}"
    if isinstance(training.cuda_unavailable, str):
        saw += f": {training.cuda_unavailable}"
    chosen = machine.environment.variable("CUDA_VISIBLE_DEVICES")
    if isinstance(chosen, str):
        saw += f" (CUDA_VISIBLE_DEVICES={chosen})"
    yield Symptom(saw=saw, remedy=_use_what_is_there(visible))


def _use_what_is_there(visible: int) -> Remedy:
    if not visible:
        return Remedy(
            "Find out why torch sees no GPU; `gpucheck smoke --device cpu` rehearses without one",
            steps=(command("gpucheck doctor"),),
        )
    all_of_them = Remedy("Ask for what is there", steps=(command("gpucheck smoke --gpus all"),))
    if visible >= _RECIPES_GPUS:
        return all_of_them
    numbers = ",".join(str(number % visible) for number in range(_RECIPES_GPUS))
    shared = Remedy(
        f"Put four replicas on {count(visible, 'GPU')}",
        steps=(command("gpucheck smoke --gpus {numbers}", numbers=numbers),),
    )
    return Remedy("Use the GPUs that are there", alternatives=(all_of_them, shared))


@rule(
    "TRN010",
    Severity.ERROR,
    "There was not enough memory to train",
    caused_by=("GPU019",),
    when=was_trained,
)
def out_of_memory(machine: Snapshot) -> Answers:
    """This training needs less than a gigabyte on the first GPU: other processes hold the rest.

    The processes that hold memory on the GPU are named where the driver says; end them, or choose
    other GPUs. Memory that is in use with no process shown for it belongs to a process of another
    container, or to one that died badly (GPU019).
    """
    failure = yield from _failure(machine, "out of memory")
    training = machine.training
    if failure is None or training is None:
        return
    held_by = tuple(holders(machine, training, failure.gpus))
    held = f"; memory is held by {listed(held_by)}" if held_by else ""
    yield Symptom(
        saw=f"{value(failure.message) or 'out of memory'}{held}",
        remedy=Remedy(
            "End what holds the memory, or train on other GPUs",
            steps=(command("nvidia-smi"),) if training.device == "cuda" else (),
        ),
        subject=suspects(failure),
        gpus=failure.gpus,
    )


@rule(
    "TRN011",
    Severity.ERROR,
    "The training crashed",
    caused_by=(
        "TOR001",
        "TOR007",
        "TOR003",
        "TOR004",
        "TOR005",
        "TOR006",
        "TOR009",
        "LIB001",
        "LIB002",
        "LIB003",
        "DNN001",
        "DNN003",
        *_BROKEN_GPU,
        "GPU016",
        "DRV009",
    ),
    when=was_trained,
)
def crashed(machine: Snapshot) -> Answers:
    """The child that trains ended before its work was done.

    SIGSEGV and SIGBUS come from a broken library, or from libraries that do not fit together;
    SIGKILL from the system's out-of-memory killer, or from a person; SIGABRT from a library that
    gave up, and its last lines say why. A CUDA error is named with its GPU: `gpucheck explain`
    followed by its text says more. The kernel log may show an Xid at the same moment (GPU020).
    """
    failure = yield from _failure(machine, "crash", "exit", "error")
    if failure is None:
        return
    at = where(failure)
    what = value(failure.signal if failure.kind == "crash" else failure.message) or ""
    saw = f"{at}: {what}" if failure.kind == "error" else f"{what} {at}"
    if failure.stack:
        saw += f"; it was in {failure.stack[-1]}"
    last = [line for line in failure.last_lines if line.strip() not in saw]
    if last:
        saw += f"; its last line: {last[-1].strip()}"
    if failure.signal == "SIGKILL":
        remedy = Remedy(
            "Look for the out-of-memory killer in the kernel log; else somebody killed it",
            steps=(command("dmesg -T", root=True),),
        )
    else:
        remedy = Remedy(
            "Read its last lines, and let the doctor look at torch and its libraries",
            steps=(command("gpucheck doctor --deep"),),
        )
    yield Symptom(saw=saw, remedy=remedy, subject=suspects(failure), gpus=failure.gpus)


@rule(
    "TRN012",
    Severity.WARNING,
    "A GPU throttled, logged an Xid or counted memory errors during the training",
    caused_by=("GPU001", "GPU004", "GPU010", "GPU012", "GPU013", "GPU020"),
    when=was_trained_on_gpus,
)
def errors_under_load(machine: Snapshot) -> Answers:
    """A GPU that is well at rest may not be under load, and this training is a light load.

    Thermal slowdown and power brake point to cooling and power supply, an Xid to what its number
    says, memory errors to the memory. What shows up in a minute of light work gets worse in a week
    of hard work.
    """
    training = machine.training or Training()
    for gpu in (yield from known(training.gpus)) or ():
        subject = f"gpu {gpu.index}"
        watched = yield from known(gpu.watched, subject)
        errors = () if watched is None else tuple(_errors(watched))
        if errors:
            yield Symptom(
                saw=f"during the training: {listed(errors)}",
                remedy=Remedy(
                    "Examine this GPU's cooling, power and memory",
                    steps=(
                        command("gpucheck doctor --deep"),
                        command("nvidia-smi -q -d PERFORMANCE,ECC"),
                    ),
                ),
                subject=subject,
                gpus=(gpu.index,),
            )
    by_bus_id = {value(gpu.bus_id): gpu.index for gpu in value(machine.nvml.gpus) or ()}
    for xid in (yield from known(training.new_xids)) or ():
        yield Symptom(
            saw=f"the kernel logged Xid {xid.number} for {xid.bus_id} during the training"
            + (f": {xid.text}" if xid.text else ""),
            remedy=Remedy(
                "Look up what this Xid asks for", steps=(command("gpucheck explain GPU020"),)
            ),
            subject=xid.bus_id,
            gpus=(by_bus_id[xid.bus_id],) if xid.bus_id in by_bus_id else (),
        )


def _errors(watched: WatchedGpu) -> Iterator[str]:
    reasons = value(watched.clocks_event_reasons) or 0
    yield from (name for bit, name in _THROTTLES.items() if reasons & bit)
    for number, name in (
        (value(watched.corrected_ecc_added), "corrected"),
        (value(watched.uncorrected_ecc_added), "uncorrected"),
    ):
        if number:
            yield count(number, f"{name} memory error")
