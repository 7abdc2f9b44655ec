"""Rules about what keeps programs off a GPU: its mode, MIG, its license, memory that stays used."""

from gpucheck.derived import is_container, mps_is_running
from gpucheck.held_memory import NOBODY, SECOND_LOOK_SECONDS, held_by, other_holder
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
from gpucheck.snapshot import (
    ConfidentialComputing,
    Gpu,
    GpuProcess,
    Memory,
    Snapshot,
    Unknown,
    VgpuLicense,
    value,
)

#: How far two readings of the same memory may be apart.
SAME_BYTES = 16 << 20


@gpu_rule("GPU016", Severity.ERROR, "A GPU's compute mode keeps programs out")
def compute_mode(gpu: Gpu, machine: Snapshot) -> Answers:
    """In this compute mode CUDA programs cannot use the GPU, or only one of them at a time.

    "Prohibited" lets no CUDA program in. "Exclusive process" lets one in: DataParallel within one
    process works, but a second process (another user, a notebook, a launcher with several
    processes a GPU) fails with "all CUDA-capable devices are busy or unavailable". Where MPS (the
    Multi-Process Service) runs, exclusive process is what NVIDIA recommends, and not reported.
    """
    mode = yield from known(gpu.compute_mode)
    if mode is None or mode == 0:
        return
    if mode not in _COMPUTE_MODES:
        yield NotChecked(why=f"compute mode {mode} is not known")
        return
    if mode != 2 and mps_is_running(machine):
        return
    yield Symptom(
        severity=Severity.ERROR if mode == 2 else Severity.WARNING,
        saw=f"compute mode: {_COMPUTE_MODES[mode]}",
        remedy=Remedy(
            "Set the default mode, if the GPU is to be shared",
            steps=(
                command(
                    "nvidia-smi -i {gpu} -c DEFAULT",
                    gpu=remedies.name_on_host(gpu, machine),
                    root=True,
                    lasts="reboot",
                    on=remedies.place_of_driver(machine),
                ),
            ),
            verify=command("nvidia-smi -i {gpu} -q -d COMPUTE", gpu=gpu.index),
        ),
    )


#: nvmlComputeMode_t
_COMPUTE_MODES = {1: "exclusive thread", 2: "prohibited", 3: "exclusive process"}


@gpu_rule("GPU017", Severity.ERROR, "MIG is on and nothing can be used")
def mig_unusable(gpu: Gpu, machine: Snapshot) -> Answers:
    """With MIG on, CUDA sees only compute instances; a GPU without any seems not to be there.

    Create a GPU instance with a compute instance, or turn MIG off. A change of the mode that is
    pending takes effect at the next reset.
    """
    current = yield from known(gpu.mig_is_on)
    if current is None:
        return
    after = gpu.mig_is_on_after_reset
    if isinstance(after, bool) and after != current:
        now, then = ("on", "off") if current else ("off", "on")
        yield Symptom(
            severity=Severity.WARNING,
            saw=f"MIG is {now}, and {then} after the next reset",
            remedy=remedies.reset(gpu, machine, "Reset the GPU when its work has ended"),
        )
    elif current:
        devices = yield from known(gpu.mig_devices)
        if devices == ():
            yield Symptom(
                saw="MIG is on, and there is no compute instance",
                remedy=_make_usable(gpu, machine),
            )


def _make_usable(gpu: Gpu, machine: Snapshot) -> Remedy:
    name = remedies.name_on_host(gpu, machine)
    place = remedies.place_of_driver(machine)
    return Remedy(
        "Create an instance, or turn MIG off",
        alternatives=(
            Remedy(
                "Create one instance of the whole GPU (profile 0); `nvidia-smi mig -lgip` lists the"
                " other profiles",
                steps=(
                    command(
                        "nvidia-smi mig -i {gpu} -cgi 0 -C",
                        gpu=name,
                        root=True,
                        lasts="reboot",
                        on=place,
                    ),
                ),
            ),
            Remedy(
                "Turn MIG off",
                steps=(command("nvidia-smi -i {gpu} -mig 0", gpu=name, root=True, on=place),),
            ),
        ),
        verify=command("nvidia-smi -L"),
    )


@gpu_rule(
    "GPU019",
    Severity.WARNING,
    "GPU memory is in use, but no process owns it",
    caused_by=("GPU001", "GPU002"),
)
def memory_held(gpu: Gpu, machine: Snapshot) -> Answers:
    """Memory of this GPU is in use though no living process is shown for it: nobody else gets it.

    A program that crashed or was killed may leave a child, or a zombie whose parent never collected
    it, that keeps the memory. `fuser` shows who has the device open. A process that has just ended
    is a zombie for a moment, so this is reported only where two looks, a second apart, show it. In
    a container the processes of the host cannot be seen, so there it is not checked.
    """
    memory = yield from known(gpu.memory)
    processes = yield from known(gpu.processes)
    if not isinstance(memory, Memory) or processes is None:
        return
    by_whom = held_by(memory, processes)
    if by_whom is None:
        return
    zombies = [process for process in processes if process.is_zombie]
    if not zombies and (why := other_holder(gpu, memory)) is not None:
        yield NotChecked(why=why)
    elif is_container(machine) or machine.host.is_wsl is True:
        yield NotChecked(why="processes outside are not shown here", kind="by design")
    elif isinstance(machine.host.container, Unknown):
        yield NotChecked.because(machine.host.container)
    elif (lasting := _held_twice(gpu, zombies)) is None:
        yield NotChecked(
            why=f"{memory.used_bytes >> 20:,} MiB are in use {by_whom}, which may be a process that"
            " ends; needs a second look a second later: --watch 1",
            kind="by design",
        )
    elif lasting:
        yield Symptom(
            saw=f"{memory.used_bytes >> 20:,} MiB are in use {by_whom}",
            remedy=_find_owner(gpu, zombies),
        )


def _held_twice(gpu: Gpu, zombies: list[GpuProcess]) -> bool | None:
    """Return whether a second look, at least a second later, showed the same; None: there is none.

    Zombies are the same where one of the first look's is still there. Memory that nobody owns is
    the same where its amount is: programs that start and end all the time leave another one.
    """
    later = gpu.later_sample
    if later is None or later.after_seconds < SECOND_LOOK_SECONDS:
        return None
    memory, processes = value(later.memory), value(later.processes)
    if memory is None or processes is None:
        return None
    if zombies:
        left = {process.pid for process in processes if process.is_zombie}
        return any(process.pid in left for process in zombies)
    before = value(gpu.memory)
    is_same = before is not None and abs(memory.used_bytes - before.used_bytes) <= SAME_BYTES
    return is_same and held_by(memory, processes) == NOBODY


def _find_owner(gpu: Gpu, zombies: list[GpuProcess]) -> Remedy:
    device = f"/dev/nvidia{gpu.minor_number if isinstance(gpu.minor_number, int) else gpu.index}"
    look = command("fuser -v {device}", device=device, root=True)
    if zombies:
        return Remedy(
            "End the parent of the zombie, which never collected it",
            steps=(
                command(
                    "ps -o pid,ppid,stat,comm -p {pids}",
                    pids=",".join(str(process.pid) for process in zombies),
                ),
                look,
            ),
        )
    return Remedy(
        "Find who has the device open and end it; reset the GPU if nobody has",
        steps=(look,),
        verify=command("nvidia-smi -i {gpu}", gpu=gpu.index),
    )


@gpu_rule("GPU025", Severity.ERROR, "A virtual GPU has no license")
def vgpu_unlicensed(gpu: Gpu, machine: Snapshot) -> Answers:
    """NVIDIA's vGPU software restricts a virtual GPU that gets no license from its server.

    For the first minutes everything works; then clocks fall, and memory cannot be allocated any
    more. The service nvidia-gridd fetches the license: it needs the settings in
    /etc/nvidia/gridd.conf, the token in /etc/nvidia/ClientConfigToken, a way to the license server,
    and a clock that is right. A GPU that is passed through whole needs no license.
    Source: NVIDIA's "Virtual GPU Client Licensing User Guide".
    """
    mode = yield from known(gpu.virtualization)
    if mode is None:
        return
    if mode != "vgpu":
        yield NotApplicable(why="no virtual GPU")
        return
    terms = yield from known(gpu.vgpu_license)
    if not isinstance(terms, VgpuLicense) or terms.is_licensed or not terms.is_needed:
        return
    unrestricted = _is_still_unrestricted(machine)
    yield Symptom(
        severity=Severity.WARNING if unrestricted else None,
        saw=f"unlicensed{' (still unrestricted)' if unrestricted else ''}"
        + (f": {terms.product}" if terms.product else ""),
        remedy=Remedy(
            "Put the license server's token into /etc/nvidia/ClientConfigToken, check"
            " /etc/nvidia/gridd.conf and the clock, then restart the licensing service",
            steps=(
                command("systemctl restart nvidia-gridd", root=True),
                command("journalctl -u nvidia-gridd -n 20", root=True),
            ),
            verify=command("nvidia-smi -q"),
        ),
    )


def _is_still_unrestricted(machine: Snapshot) -> bool:
    """Return whether the kernel module says that the time without limits has not run out yet."""
    said = value(machine.kernel_log.module_said) or ()
    states = [line for line in said if "nlicensed" in line]
    return bool(states) and "expired" not in states[-1] and "nrestricted" in states[-1]


@rule("GPU026", Severity.ERROR, "Confidential computing keeps the GPUs from starting")
def confidential_not_ready(machine: Snapshot) -> Answers:
    """With confidential computing on, CUDA does not start (error 802) until the GPUs are set ready.

    The guest first attests the GPUs (that they are genuine and run the firmware that they should),
    and then sets them ready itself; the setting ends with the guest's boot.
    Source: NVIDIA's "Secure AI" deployment guides, nvidia-smi conf-compute.
    """
    gpus = yield from gpus_of(machine)
    if not gpus:
        return
    mode = yield from known(machine.nvml.confidential_computing)
    if not isinstance(mode, ConfidentialComputing):
        return
    if not mode.is_on:
        yield NotApplicable(why="confidential computing is off")
        return
    ready = yield from known(mode.gpus_are_ready)
    if ready is False:
        yield Symptom(
            gpus=tuple(gpu.index for gpu in gpus),
            saw="confidential computing is on, and the GPUs are not set ready",
            remedy=Remedy(
                "Attest the GPUs, then set them ready",
                steps=(command("nvidia-smi conf-compute -srs 1", root=True, lasts="reboot"),),
                verify=command("nvidia-smi conf-compute -grs"),
            ),
        )
