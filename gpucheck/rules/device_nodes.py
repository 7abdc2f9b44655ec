"""Rules about the driver's device files: missing, or closed to this user."""

from gpucheck.conditions import all_of, gpu_to_drive, module_loaded, own_kernel_module
from gpucheck.derived import (
    all_are_seen,
    cuda_gpus,
    cuda_works,
    hidden_gpu_nodes,
    is_container,
    is_gpu_path,
    job_gpus,
    own_gpus,
    slurm_job,
)
from gpucheck.remedies import containers
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
from gpucheck.snapshot import CudaInit, DeviceNode, Snapshot, Unknown, value
from gpucheck.wording import count, listed

UVM = "/dev/nvidia-uvm"


@rule(
    "DRV007",
    Severity.ERROR,
    "A device file of the driver is missing",
    caused_by=("HST004", "DRV002", "DRV003"),
    when=all_of(own_kernel_module, module_loaded),
)
def device_missing(machine: Snapshot) -> Answers:
    """Programs reach the GPU through /dev/nvidia*: without its file a GPU, or all of CUDA, is gone.

    nvidia-modprobe makes the files when the driver is first used; it must be installed and set-uid
    root. /dev/nvidia-uvm is CUDA's alone: nvidia-smi works without it, while cuInit says error 999
    or 3. In a container the runtime brings the files in: those that exist when its CDI
    specification is written. A specification that was written before nvidia_uvm was loaded lacks
    /dev/nvidia-uvm.
    """
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    missing = [node.path for node in nodes if not node.exists]
    has_gpu = any(node.exists and is_gpu_path(node.path) for node in nodes)
    if missing and is_container(machine):
        missing = [path for path in missing if not (has_gpu and is_gpu_path(path))]
    if cuda_works(machine):
        # Whoever asked first had nvidia-modprobe make the files, or found another way.
        missing = [path for path in missing if is_gpu_path(path)]
    if all_are_seen(machine):
        missing = [path for path in missing if path == UVM]
    if not missing:
        return
    if missing == [UVM] and not isinstance(machine.driver.cuda_init, CudaInit):
        yield NotChecked(
            why=f"{UVM} is made when CUDA is first used, and cuInit was not called",
            kind="by design" if machine.driver.cuda_init is None else "no answer",
        )
        return
    if is_container(machine):
        is_uvm_alone = has_gpu and missing == [UVM]
        yield Symptom(
            saw=f"{listed(missing)} {'is' if len(missing) == 1 else 'are'} not in this container"
            + (", while its GPUs are" if is_uvm_alone else ""),
            remedy=containers.without_uvm(machine)
            if is_uvm_alone
            else containers.start_with_gpus(machine),
        )
        return
    modules = machine.driver.loaded_modules
    lacks_uvm = not isinstance(modules, Unknown) and "nvidia_uvm" not in modules
    yield Symptom(
        saw=f"{listed(missing)} {'does' if len(missing) == 1 else 'do'} not exist"
        + ("; the module nvidia_uvm is not loaded" if lacks_uvm else ""),
        remedy=Remedy(
            "Create the device files: nvidia-modprobe does it"
            + (", and loads nvidia_uvm." if UVM in missing else "."),
            (_make_nodes(missing),),
        ),
    )


def _make_nodes(missing: list[str]) -> Command:
    """Return the command that makes the device files: each GPU's is asked for by its number."""
    minors = [path.removeprefix("/dev/nvidia") for path in missing if is_gpu_path(path)]
    options = [word for minor in minors or ["0"] for word in ("-c", minor)]
    if UVM in missing:
        options.append("-u")
    return command("nvidia-modprobe {options}", root=True, lasts="reboot", options=options)


@rule(
    "DRV008",
    Severity.ERROR,
    "This user may not open the driver's device files",
    caused_by=("HST004", "HST009"),
    when=gpu_to_drive,
)
def device_forbidden(machine: Snapshot) -> Answers:
    """A program that may not open /dev/nvidia* has no GPU, whatever root sees.

    Normally anyone may read and write these files. Where a distribution or an administrator
    gives them to a group, join that group and log in again. In a container the files' owner and the
    runtime's device rules both count: "Operation not permitted" in spite of the file's mode is the
    device cgroup's word.
    """
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    hidden = {node.path for node in hidden_gpu_nodes(machine)}
    forbidden = [
        node for node in nodes if node.exists and node.can_open is False and node.path not in hidden
    ]
    for node in nodes:
        if node.exists and isinstance(node.can_open, Unknown):
            yield NotChecked.because(node.can_open, node.path)
    gpu_nodes = sum(node.exists and is_gpu_path(node.path) for node in nodes) - len(hidden)
    if cuda_gpus(machine) == gpu_nodes > 0:
        return  # it was seen to work
    if forbidden:
        yield _forbidden(machine, forbidden)


def _forbidden(machine: Snapshot, forbidden: list[DeviceNode]) -> Symptom:
    first = forbidden[0]
    group = value(first.group)
    may_group = isinstance(first.mode, str) and first.mode[4:6] == "rw"
    saw = f"{listed([n.path for n in forbidden])}: {value(first.error) or 'permission denied'}"
    if isinstance(first.mode, str) and group:
        saw += f" ({first.mode}, group {group})"
    if first.is_denied_by_cgroup:
        remedy = _let_through(machine)
    elif is_container(machine):
        remedy = Remedy(
            "Start the container as a user, or with a group (`--group-add`), that may open them."
        )
    elif (
        group and group != "root" and may_group and group not in (value(machine.host.groups) or ())
    ):
        join = command('usermod -aG {group} "$USER"', root=True, lasts="permanent", group=group)
        remedy = Remedy(f"Join the group {group}, then log out and in again.", (join,))
    else:
        options = command(
            "echo options nvidia NVreg_DeviceFileMode=0666 | tee /etc/modprobe.d/gpu.conf",
            root=True,
            lasts="permanent",
        )
        remedy = Remedy(
            "Let users open the driver's device files (NVreg_DeviceFileMode is the module "
            "parameter; 0666 is its default), then reboot.",
            (options, Command("reboot", root=True)),
        )
    return Symptom(saw=saw, remedy=remedy)


def _let_through(machine: Snapshot) -> Remedy:
    """Return how the device cgroup of this kind of place is made to let the driver through."""
    if machine.host.container in containers.WHOLE_SYSTEMS:
        return Remedy(
            "On the host, allow NVIDIA's devices in this container's configuration "
            "(`lxc.cgroup2.devices.allow: c 195:* rwm`, and the same for nvidia-uvm's number), and "
            "restart it."
        )
    if is_container(machine):
        return Remedy(
            "Create the container again with its GPUs: it lost, or never had, the right to open "
            "them (`systemctl daemon-reload` on the host takes it from containers that were not "
            "started by CDI)."
        )
    if slurm_job(machine) is not None:
        return Remedy(
            "Request a GPU for this job (`--gpus=1`); where it has one, have the administrator "
            "allow /dev/nvidiactl and /dev/nvidia-uvm in Slurm's cgroup.conf."
        )
    return Remedy(
        "Allow the devices in the unit that started this process (`DeviceAllow=char-nvidia* rw`)."
    )


@rule("HST009", Severity.INFO, "The device cgroup hides some GPUs", when=gpu_to_drive)
def hidden_by_cgroup(machine: Snapshot) -> Answers:
    """Slurm, LXC, systemd and container runtimes decide by a device cgroup who may open which GPU.

    The bus, /proc and /dev show all GPUs of the machine; NVML and CUDA show those that this process
    may open: opening the others fails with "Operation not permitted", whatever the file's mode
    says. That is how a job is kept to its share, and no fault. Request more GPUs from the scheduler
    if these are too few.
    """
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    if is_container(machine) and machine.host.container not in containers.WHOLE_SYSTEMS:
        yield NotApplicable(why="in a container the runtime chooses the GPUs")
        return
    hidden = hidden_gpu_nodes(machine)
    all_nodes = [node for node in nodes if node.exists and is_gpu_path(node.path)]
    job = slurm_job(machine)
    where = f" (Slurm job {job})" if job is not None else ""
    more = Remedy("Request more GPUs from the scheduler, if these are too few.")
    if hidden:
        total = len(all_nodes)
        yield Symptom(
            saw=f"this process may open {total - len(hidden)} of {count(total, 'GPU')}{where}; "
            f"the device cgroup refuses {listed([node.path for node in hidden])}",
            remedy=more
            if len(hidden) < total
            else Remedy(
                "Request a GPU for this job (`--gpus=1` for Slurm), or run outside of this cgroup."
            ),
        )
        return
    given = job_gpus(machine)
    on_bus = len(own_gpus(machine))
    if given and given == machine.nvml.count and given < on_bus:
        yield Symptom(
            saw=f"this job was given {given} of the machine's {count(on_bus, 'GPU')}{where}",
            remedy=more,
        )
