"""Rules about what else the kernel reports of GPUs and of the programs that use them."""

import re

from gpucheck.conditions import gpu_to_drive
from gpucheck.derived import is_container, own_gpus
from gpucheck.remedies import system_packages
from gpucheck.rule import Answers, Remedy, Severity, Symptom, command, known, rule
from gpucheck.snapshot import KernelLine, Snapshot, value
from gpucheck.wording import count, listed

#: what programs that work on GPUs are called: Python and what serves models
_GPU_PROGRAM = re.compile(
    r"python|pt_(?:main|data|elastic)|ray::|vllm|torch|ollama|llama|trt|triton|jupyter|sglang|jax",
    re.IGNORECASE,
)


@rule("DRV024", Severity.INFO, "The kernel log has other errors around the GPUs", when=gpu_to_drive)
def kernel_notes(machine: Snapshot) -> Answers:
    """Three kinds of line explain a job that died or hangs without a word of NVIDIA's own.

    "Out of memory: Killed process" of a program that computes on GPUs: the host's memory, or the
    control group's, was full, not the GPU's. An IOMMU fault of a GPU (DMAR, AMD-Vi): it was denied
    an address, which a translating IOMMU does to peer-to-peer copies. "blocked for more than 120
    seconds" inside nvidia.ko: a task waits for the driver, mostly for a GPU that does not answer.
    """
    log = machine.kernel_log
    kills = yield from known(log.oom_kills)
    if kills is None:
        return
    killed = [line for line in kills if _GPU_PROGRAM.search(line.process)]
    if killed:
        yield _killed(machine, killed)
    gpus = {gpu.bus_id for gpu in own_gpus(machine)}
    denied = [line for line in value(log.iommu_faults) or () if line.bus_id in gpus]
    if denied:
        yield _denied(machine, denied)
    hung = value(log.hung_tasks) or ()
    if hung:
        yield Symptom(
            subject="hung tasks",
            saw=f'{_times(hung)} in this boot: "{hung[-1].text}"',
            remedy=Remedy(
                "Look for Xid errors of the same time; a task that does not come back ends with a "
                "reboot only.",
                (
                    command(
                        "dmesg | grep -i -e xid -e 'blocked for more'", root=True, needs="dmesg"
                    ),
                ),
            ),
        )


def _times(lines: "list[KernelLine] | tuple[KernelLine, ...]") -> str:
    names = listed([line.process or line.bus_id for line in lines])
    return f"{names}, {count(sum(line.count for line in lines), 'time')}"


def _killed(machine: Snapshot, killed: list[KernelLine]) -> Symptom:
    where = "this container's limit" if is_container(machine) else "the machine's memory"
    return Symptom(
        subject="memory",
        saw=f'the kernel killed {_times(killed)}, for lack of host memory: "{killed[-1].text}"',
        remedy=Remedy(
            f"Give the program more host memory ({where}), or have it use less: fewer DataLoader "
            "workers, smaller prefetching, no second copy of the data."
        ),
    )


def _denied(machine: Snapshot, denied: list[KernelLine]) -> Symptom:
    saw = f'the IOMMU denied an access of {_times(denied)}: "{denied[-1].text}"'
    if is_container(machine) or isinstance(machine.host.hypervisor, str):
        remedy = Remedy("Report it to whoever runs the host: its IOMMU settings are at fault.")
    else:
        remedy = Remedy(
            "Let the IOMMU pass addresses through (iommu=pt), and reboot.",
            system_packages.kernel_parameter(machine, "iommu=pt"),
        )
    return Symptom(subject="IOMMU", saw=saw, remedy=remedy)
