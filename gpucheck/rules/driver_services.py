"""Rules about the driver's daemons: the fabric manager and the persistence daemon."""

from gpucheck.conditions import own_kernel_module
from gpucheck.derived import cuda_works, is_container
from gpucheck.knowledge.kernel_module import has_nvlink5_fabric
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
    known,
    rule,
)
from gpucheck.snapshot import Fabric, FabricManager, Snapshot, Unknown, value
from gpucheck.versions import version_tuple
from gpucheck.wording import count, listed

#: NVIDIA's Fabric Manager user guide: what the switches of NVLink 5 boards are managed through.
FABRIC_MODULES = ("ib_umad", "mlx5_ib")
FABRIC_IN_PROGRESS = 2  # NVML_GPU_FABRIC_STATE_IN_PROGRESS
ENABLE = command("systemctl enable --now nvidia-fabricmanager", root=True, lasts="permanent")
RESTART = command("systemctl restart nvidia-fabricmanager", root=True)
IS_RUNNING = Command("systemctl status nvidia-fabricmanager")


@rule(
    "DRV010",
    Severity.ERROR,
    "The fabric manager is missing, stopped, or the wrong version",
    caused_by=("DRV002", "DRV003"),
    when=own_kernel_module,
)
def fabric_manager(machine: Snapshot) -> Answers:
    """On NVSwitch systems CUDA waits for the fabric manager: without it cuInit says error 802.

    nvidia-smi works all the same, so the fault is easily overlooked. The fabric manager's version
    must be exactly the driver's: update both together, and hold both back together. On NVLink 5
    boards (B200, B300) the switches are not on the PCI bus: the fabric manager reaches them through
    ConnectX-7 bridges, and needs the subnet manager nvlsm and the kernel modules ib_umad and
    mlx5_ib for that.
    """
    switches = yield from known(machine.host.nvswitches)
    if switches is None:
        return
    module = machine.driver.module_version
    if module is None:
        yield NotApplicable(why="no driver is loaded")
        return
    if switches == 0:
        if (symptom := _nvlink5(machine)) is not None:
            yield symptom
        elif not _waits_for_fabric(machine):
            yield NotApplicable(why="no NVSwitch")
        return
    if is_container(machine) or isinstance(machine.driver.fabric_manager, Unknown):
        manager = machine.driver.fabric_manager
        why = manager.why if isinstance(manager, Unknown) else "the fabric manager is the host's"
        yield NotChecked(why=why)
        return
    manager = machine.driver.fabric_manager
    if manager is None:
        yield Symptom(
            saw=f"{count(switches, 'NVSwitch device')} on the PCI bus and no fabric manager "
            "is installed",
            remedy=Remedy(
                "Install the fabric manager of the driver's version and start it.",
                (*system_packages.fabric_manager(machine, module), ENABLE),
                verify=IS_RUNNING,
            ),
            severity=_if_working(machine),
        )
        return
    yield from _judge_manager(machine, manager)


def _if_working(machine: Snapshot) -> Severity | None:
    """A fabric that was set up goes on working until its next reset: a warning then."""
    return Severity.WARNING if cuda_works(machine) else None


def _judge_manager(machine: Snapshot, manager: FabricManager) -> Answers:
    module, version = machine.driver.module_version, manager.version
    is_other = (
        isinstance(module, str)
        and isinstance(version, str)
        and version_tuple(module) != version_tuple(version)
    )
    if is_other:
        yield Symptom(
            saw=f"the fabric manager is {version}, the driver {module}",
            remedy=Remedy(
                "Install both in one version, then restart the fabric manager.",
                (*system_packages.fabric_manager(machine, module), RESTART),
                verify=IS_RUNNING,
            ),
            severity=_if_working(machine),
        )
    elif manager.is_running is False:
        yield Symptom(
            saw="the fabric manager is installed and does not run",
            remedy=Remedy("Start it, now and at every boot.", (ENABLE,), verify=IS_RUNNING),
            severity=_if_working(machine),
        )
    else:
        for fact in (manager.is_running, version, module):
            if isinstance(fact, Unknown):
                yield NotChecked.because(fact)
                return


def _waits_for_fabric(machine: Snapshot) -> bool:
    """Whether GPUs of an NVLink 5 board wait for a fabric that this system has to set up."""
    gpus = value(machine.host.pci_gpus) or ()
    boards = [gpu for gpu in gpus if has_nvlink5_fabric(gpu.device_id)]
    waiting = [
        gpu
        for gpu in value(machine.nvml.gpus) or ()
        if isinstance(gpu.fabric, Fabric) and gpu.fabric.state == FABRIC_IN_PROGRESS
    ]
    # GB200 and GB300 (aarch64): their switches are in trays of their own.
    is_board = machine.host.machine != "aarch64"
    return bool(boards and waiting) and is_board and not is_container(machine)


def _nvlink5(machine: Snapshot) -> Symptom | None:
    """Judge a board whose switches are reached through RDMA devices instead of the PCI bus."""
    if not _waits_for_fabric(machine):
        return None
    modules = value(machine.driver.loaded_modules)
    missing = [] if modules is None else [name for name in FABRIC_MODULES if name not in modules]
    manager = machine.driver.fabric_manager
    number = sum(
        isinstance(gpu.fabric, Fabric) and gpu.fabric.state == FABRIC_IN_PROGRESS
        for gpu in value(machine.nvml.gpus) or ()
    )
    waits = f"{count(number, 'GPU waits', 'GPUs wait')} for the NVLink fabric"
    if missing:
        is_one = len(missing) == 1
        load = command("modprobe -a {modules}", root=True, lasts="reboot", modules=missing)
        keep = command(
            "printf '%s\\n' {modules} | tee /etc/modules-load.d/nvlink-fabric.conf",
            root=True,
            lasts="permanent",
            needs="tee",
            modules=missing,
        )
        return Symptom(
            saw=f"{waits}, and the kernel module{'' if is_one else 's'} {listed(missing)} "
            f"{'is' if is_one else 'are'} not loaded",
            remedy=Remedy(
                f"Load {'it' if is_one else 'them'}, now and at every boot, then restart the "
                "fabric manager, which reaches the switches through them.",
                (load, keep, RESTART),
                verify=IS_RUNNING,
            ),
        )
    if machine.driver.has_nvlsm is False:
        return Symptom(
            saw=f"{waits}, and the subnet manager nvlsm is not installed",
            remedy=Remedy(
                "Install nvlsm from NVIDIA's repository, then restart the fabric manager.",
                (*system_packages.subnet_manager(machine), RESTART),
                verify=IS_RUNNING,
            ),
        )
    if manager is None:
        return Symptom(
            saw=f"{waits}, and no fabric manager is installed",
            remedy=Remedy(
                "Install the fabric manager of the driver's version and start it.",
                (
                    *system_packages.fabric_manager(machine, machine.driver.module_version),
                    ENABLE,
                ),
                verify=IS_RUNNING,
            ),
        )
    if isinstance(manager, FabricManager) and manager.is_running is False:
        return Symptom(
            saw=f"{waits}, and the fabric manager does not run",
            remedy=Remedy("Start it, now and at every boot.", (ENABLE,), verify=IS_RUNNING),
        )
    return None


@rule("DRV014", Severity.INFO, "Persistence is off", when=own_kernel_module)
def persistence_off(machine: Snapshot) -> Answers:
    """While no program uses a GPU its driver shuts it down, and the next one waits seconds for it.

    On a server without a display nothing else keeps the GPU awake. nvidia-persistenced does, and
    costs a few watts. On a laptop that is meant to save power, leave it as it is.
    """
    gpus = yield from known(machine.nvml.gpus)
    if gpus is None:
        return
    asleep = [gpu for gpu in gpus if gpu.persistence is False]
    if not asleep:
        if not any(gpu.persistence is True for gpu in gpus):
            for gpu in gpus:
                yield from known(gpu.persistence, gpu.subject)
        return
    if any(gpu.display_active is True for gpu in gpus):
        yield NotApplicable(why="a display keeps the GPU awake")
        return
    if machine.driver.persistenced_running is True:
        return
    if isinstance(machine.driver.persistenced_running, Unknown):
        yield NotChecked.because(machine.driver.persistenced_running)
        return
    enable = command(
        "systemctl enable --now nvidia-persistenced",
        root=True,
        lasts="permanent",
        **({"on": "host"} if is_container(machine) else {}),  # type: ignore[arg-type]
    )
    yield Symptom(
        gpus=tuple(gpu.index for gpu in asleep),
        saw=f"persistence is off on {listed([gpu.subject for gpu in asleep])}, and "
        "nvidia-persistenced does not run",
        remedy=Remedy("Start the persistence daemon.", (enable,)),
    )
