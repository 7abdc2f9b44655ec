"""Rules about the host: the system, its limits, and what surrounds it."""

import re

from gpucheck.derived import (
    WSL_LIBRARIES,
    driver_copies,
    gpu_count,
    is_container,
    selected_libraries,
    slurm_job,
)
from gpucheck.knowledge.kernel_module import has_nvlink5_fabric
from gpucheck.remedies import containers, system_packages
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
from gpucheck.snapshot import DriverLibrary, Snapshot, Unknown, value
from gpucheck.wording import count, listed

SHM = "/dev/shm"  # noqa: S108 - what is meant is the mount point
SHM_LEAST_BYTES = 512 << 20
LOCKED_MEMORY_LEAST_BYTES = 16 << 30
CPUS_PER_GPU = 2
WSL_LIBRARY = "/usr/lib/wsl/lib/libcuda.so.1"
UPDATE_WSL = command("wsl.exe --update", on="windows", lasts="permanent")
SHUT_WSL_DOWN = command("wsl.exe --shutdown", on="windows")
CHANGE_TO_WSL_2 = command("wsl.exe --set-version DISTRIBUTION 2", on="windows", lasts="permanent")


@rule("HST001", Severity.ERROR, "This system is not Linux")
def not_linux(machine: Snapshot) -> Answers:
    """gpucheck, and the CUDA that PyTorch is built for, are for Linux; here they see nothing.

    NVIDIA dropped CUDA for macOS after version 10.2, and no Mac of today holds an NVIDIA GPU. On
    Windows, CUDA works natively, but gpucheck does not look there: run it inside WSL 2, which is
    Linux and shares the Windows driver.
    """
    system = yield from known(machine.host.system)
    if system is None or system == "Linux":
        return
    if system == "Windows":
        remedy = Remedy(
            "Run gpucheck inside WSL 2, where the Windows driver serves Linux programs.",
            (command("wsl --install", on="windows", lasts="permanent"),),
        )
    else:
        remedy = Remedy("Run gpucheck on the Linux machine that holds the GPU.")
    yield Symptom(saw=f"the system is {system}", remedy=remedy)


@rule("HST002", Severity.WARNING, f"{SHM} is small", caused_by=("HST001",))
def shared_memory_is_small(machine: Snapshot) -> Answers:
    """DataLoader workers and NCCL pass data through /dev/shm, and die of SIGBUS when it is full.

    Docker gives a container 64 MiB unless told otherwise, which a few batches of images fill. The
    error then reads "DataLoader worker is killed by signal: Bus error", "unable to write to file
    </torch_…>" or, from NCCL, "unable to open shared memory file".

    It can only be changed from outside the container, when it is started: with Docker by
    `--shm-size=8g` or `--ipc=host`, in Kubernetes by an emptyDir volume of medium Memory mounted
    at /dev/shm. On a machine of your own, remount it larger.
    """
    gpus = gpu_count(machine)
    if gpus == 0:
        yield NotApplicable(why="no NVIDIA GPU here")
        return
    size = machine.host.shm_bytes
    if isinstance(size, Unknown):
        yield NotChecked.because(size, SHM)
        return
    if size is not None and size >= SHM_LEAST_BYTES:
        return
    yield Symptom(
        saw=f"there is no {SHM}" if size is None else f"{SHM} holds {_size(size)}",
        remedy=_more_shared_memory(machine, size),
        subject=SHM,
    )


def _more_shared_memory(machine: Snapshot, size: int | None) -> Remedy:
    container = machine.host.container
    if container == "kubernetes":
        return Remedy("Mount an emptyDir volume with `medium: Memory` at /dev/shm in the pod.")
    if container == "apptainer":
        return Remedy("Have it remounted larger on the host, whose /dev/shm this is.")
    if container in containers.WHOLE_SYSTEMS:
        return Remedy("Mount a larger tmpfs at /dev/shm in the container's configuration.")
    if isinstance(container, str):
        return Remedy(
            "Create the container again with more.",
            (containers.run(machine, "--shm-size=8g"),),
            alternatives=(Remedy("Use the host's.", (containers.run(machine, "--ipc=host"),)),),
        )
    keep = " A line in /etc/fstab makes it last: `tmpfs /dev/shm tmpfs size=50% 0 0`."
    if size is None:
        mount = "mount -t tmpfs -o rw,nosuid,nodev,size=50% tmpfs /dev/shm"
        return Remedy(f"Mount a tmpfs there.{keep}", (command(mount, root=True, lasts="reboot"),))
    return Remedy(
        f"Remount it with half of the memory, which is Linux's own default.{keep}",
        (command("mount -o remount,size=50% /dev/shm", root=True, lasts="reboot"),),
    )


def _size(number: int) -> str:
    if number >= 10 << 30:
        return f"{number >> 30} GiB"
    return f"{number >> 20} MiB" if number >= 1 << 20 else f"{number >> 10} KiB"


@rule("HST003", Severity.WARNING, "The limit of locked memory is low for RDMA")
def locked_memory_is_limited(machine: Snapshot) -> Answers:
    """InfiniBand and RoCE pin the memory that they move, and fail at the locked-memory limit.

    NCCL then says "ibv_reg_mr failed" or "Cannot allocate memory", often only with many GPUs or
    large messages. `ulimit -l` shows the limit, in KiB. Give the users of RDMA no limit: by a file
    in /etc/security/limits.d and a new login; for a service, by `LimitMEMLOCK=infinity` in its
    unit (Slurm's slurmd hands its own limit on to jobs); for a container, by `--ulimit memlock=-1`.
    The mlx5 functions by which NVLink 5 boards manage their switches carry no network, and do not
    count.
    """
    devices = yield from known(machine.host.rdma_devices)
    if devices is None:
        return
    managers = machine.host.switch_managers
    networks = [name for name in devices if name not in (value(managers) or ())]
    if not networks:
        yield NotApplicable(
            why="the RDMA devices here manage NVSwitches" if devices else "no RDMA device here"
        )
        return
    limit = yield from known(machine.host.locked_memory_limit_bytes)
    if limit is None or limit >= LOCKED_MEMORY_LEAST_BYTES:
        return
    gpus = value(machine.host.pci_gpus) or ()
    if isinstance(managers, Unknown) and any(has_nvlink5_fabric(g.device_id) for g in gpus):
        yield NotChecked.because(managers)
        return
    yield Symptom(
        saw=f"this process may lock {_size(limit)}; RDMA devices are here: {listed(networks)}",
        remedy=_lift_locked_memory(machine),
    )


def _lift_locked_memory(machine: Snapshot) -> Remedy:
    if machine.host.container == "kubernetes":
        return Remedy(
            "Raise the limit in the node's container runtime (containerd's LimitMEMLOCK), or give "
            "the pod the capability IPC_LOCK."
        )
    if is_container(machine):
        return Remedy(
            "Create the container again without the limit.",
            (containers.run(machine, "--ulimit=memlock=-1"),),
        )
    if slurm_job(machine) is not None:
        return Remedy(
            "Set LimitMEMLOCK=infinity in slurmd's unit on the nodes and restart it: jobs get "
            "slurmd's limit, and /etc/security/limits.d does not reach them.",
            (_for_service("slurmd"), command("systemctl restart slurmd", root=True)),
        )
    lift = command(
        r"printf '* soft memlock unlimited\n* hard memlock unlimited\n'"
        " | tee /etc/security/limits.d/90-memlock.conf",
        root=True,
        lasts="permanent",
        needs="tee",
    )
    return Remedy(
        "Lift the limit for all users, then log in again.",
        (lift,),
        alternatives=(
            Remedy(
                "For a service, which limits.d does not reach: set LimitMEMLOCK=infinity in its "
                "unit (`systemctl edit`), and restart it."
            ),
        ),
    )


def _for_service(unit: str) -> Command:
    return command(
        r"mkdir -p {folder} && printf '[Service]\nLimitMEMLOCK=infinity\n' | tee {file}"
        " && systemctl daemon-reload",
        root=True,
        lasts="permanent",
        needs="systemctl",
        folder=f"/etc/systemd/system/{unit}.service.d",
        file=f"/etc/systemd/system/{unit}.service.d/memlock.conf",
    )


@rule(
    "HST004", Severity.ERROR, "This container was started without its GPUs", caused_by=("ENV022",)
)
def container_without_gpus(machine: Snapshot) -> Answers:
    """The host has NVIDIA GPUs, but this container was given neither their devices nor the driver.

    A container shares the host's kernel, so the host's GPUs show on the bus. Their device files
    and the driver's libraries have to be put into it when it is started; nothing that is installed
    inside can replace that, and no driver belongs in an image. NVIDIA_VISIBLE_DEVICES tells who
    asked: a GPU's UUID comes from Kubernetes' device plugin, `all` comes with most CUDA images by
    itself; where it is set and nothing came, the container's runtime is not NVIDIA's.

    Docker: install the NVIDIA Container Toolkit on the host, then `docker run --gpus all`. Podman:
    `--device nvidia.com/gpu=all`. Kubernetes: request `nvidia.com/gpu` in the pod's limits.
    Apptainer: `--nv`.
    """
    container = yield from known(machine.host.container)
    if container is None:
        if machine.host.container is None:
            yield NotApplicable(why="not in a container")
        return
    gpus, driver = machine.host.pci_gpus, machine.driver
    on_host = isinstance(driver.module_version, str) or (isinstance(gpus, tuple) and bool(gpus))
    is_wsl = machine.host.is_wsl is True
    if not on_host and not is_wsl:
        if isinstance(gpus, Unknown):
            yield NotChecked.because(gpus)
        elif isinstance(driver.module_version, Unknown):
            yield NotChecked.because(driver.module_version)
        else:
            yield NotApplicable(why="the host has no NVIDIA GPU")
        return
    nodes = yield from known(driver.device_nodes)
    libraries = yield from known(driver.libraries)
    if nodes is None or libraries is None:
        return
    if any(node.exists for node in nodes) or any(_is_driver(library) for library in libraries):
        return
    if isinstance(driver.module_version, str):
        saw = f"the host runs driver {driver.module_version}"
    elif is_wsl:
        saw = "the host is WSL, whose GPUs come from Windows"
    else:
        saw = f"the bus shows {count(len(value(gpus) or ()), 'NVIDIA GPU')}"
    devices = "/dev/dxg" if is_wsl else "/dev/nvidia*"
    saw += f"; this {container} container has no {devices} and no driver library"
    asked = value(machine.environment.variable("NVIDIA_VISIBLE_DEVICES"))
    is_asked = asked not in (None, "", "void", "none") and (
        container not in containers.WHOLE_SYSTEMS
    )
    if asked and is_asked:
        yield Symptom(
            saw=f"{saw}, though NVIDIA_VISIBLE_DEVICES={asked} asks for GPUs: the runtime did not "
            "act on it",
            remedy=containers.runtime_did_not_act(machine, asked),
        )
        return
    yield Symptom(saw=saw, remedy=containers.start_with_gpus(machine))


def _is_driver(library: DriverLibrary) -> bool:
    return library.is_stub is not True and not library.is_compat


@rule("HST005", Severity.ERROR, "WSL's driver library is missing or shadowed")
def wsl_library_is_shadowed(machine: Snapshot) -> Answers:
    """Under WSL 2 the only right libcuda is the one that Windows puts into /usr/lib/wsl/lib.

    It talks to the Windows driver through /dev/dxg. A libcuda of a Linux driver package looks for
    a kernel module that WSL does not have, and CUDA then finds no device. Such a package often
    comes along with `cuda` or `nvidia-driver-…` metapackages: install `cuda-toolkit-X-Y` instead.

    Where the library is missing, the Windows side has no driver for WSL, or an old WSL: install
    the current NVIDIA driver on Windows, run `wsl --update` and then `wsl --shutdown`.
    """
    is_wsl = yield from known(machine.host.is_wsl)
    if is_wsl is None:
        return
    if not is_wsl or is_container(machine):
        yield NotApplicable(why="not WSL" if not is_wsl else "in a container")
        return
    libraries = yield from known(machine.driver.libraries)
    if libraries is None:
        return
    copies = [library for library in libraries if library.soname == "libcuda.so.1"]
    if _is_wsl_1(machine):
        yield Symptom(
            saw=f"this is WSL 1 (kernel {machine.host.kernel_release}), which has no GPUs",
            remedy=Remedy(
                "Change this distribution to WSL 2: `wsl.exe -l -v` shows its name.",
                (CHANGE_TO_WSL_2,),
                verify=Command("wsl.exe -l -v", on="windows"),
            ),
        )
        return
    if not any(_is_windows(library) for library in copies):
        yield Symptom(
            saw=f"{WSL_LIBRARY} is not there",
            remedy=Remedy(
                "Install the current NVIDIA driver in Windows, then update WSL and shut it down.",
                (UPDATE_WSL, SHUT_WSL_DOWN),
            ),
            subject=WSL_LIBRARY,
        )
        return
    for library in selected_libraries(value(driver_copies(machine)) or ()):
        if library.soname == "libcuda.so.1" and not _is_windows(library):
            yield Symptom(
                saw=f"{library.path} is loaded in place of {WSL_LIBRARY}",
                remedy=Remedy(
                    "Remove the Linux driver's packages; the toolkit's packages may stay.",
                    system_packages.remove_driver(machine, library.real_path),
                ),
                subject=library.path,
            )


def _is_wsl_1(machine: Snapshot) -> bool:
    """WSL 1 has no Linux kernel: it answers "4.4.0-19041-Microsoft"; WSL 2's begin with 4.19."""
    release = value(machine.host.kernel_release) or ""
    return re.fullmatch(r"(?:3|4\.4)\.[0-9.]*-[0-9]+-Microsoft", release) is not None


def _is_windows(library: DriverLibrary) -> bool:
    return library.path.startswith(WSL_LIBRARIES) or library.real_path.startswith(WSL_LIBRARIES)


@rule("HST006", Severity.WARNING, "The IOMMU translates between GPUs on bare metal")
def iommu_translates(machine: Snapshot) -> Answers:
    """With the IOMMU translating, peer copies over PCIe can hang, crawl, or give wrong data.

    Each access of one GPU to another's memory is then sent up to the IOMMU and looked up there.
    NCCL's own guide asks for it to be off or in pass-through on bare metal. Add `iommu=pt` to the
    kernel's command line and reboot: devices then use real addresses, and virtual machines can
    still be given devices. (In the firmware's setup it is called VT-d or AMD-Vi.)

    Copies between GPUs over NVLink do not pass the IOMMU; where every pair has it, only copies to
    network cards are concerned, and this is a remark. Inside a virtual machine the guest cannot
    change it, and gpucheck says nothing.
    """
    if isinstance(machine.host.hypervisor, str):
        yield NotApplicable(why="a virtual machine")
        return
    gpus = gpu_count(machine)
    if isinstance(gpus, int) and gpus < 2:
        yield NotApplicable(why="fewer than two GPUs")
        return
    for fact in (machine.host.hypervisor, gpus, machine.host.iommu):
        if isinstance(fact, Unknown):
            yield NotChecked.because(fact)
            return
    if machine.host.iommu != "translating":
        return
    copies = machine.deep.copies if machine.deep is not None else ()
    if isinstance(copies, tuple) and copies and all(copy.error is None for copy in copies):
        return  # seen to work
    pairs = machine.nvml.pairs
    by_nvlink = isinstance(pairs, tuple) and bool(pairs)
    if by_nvlink and isinstance(pairs, tuple):
        by_nvlink = all(pair.p2p_nvlink == "OK" for pair in pairs)
    yield Symptom(
        saw=f"{gpus} GPUs on bare metal, and the kernel's IOMMU translates their addresses"
        + ("; they are joined by NVLink, which does not pass it" if by_nvlink else ""),
        remedy=_pass_through(machine),
        severity=Severity.INFO if by_nvlink else None,
    )


def _pass_through(machine: Snapshot) -> Remedy:
    if is_container(machine):
        return Remedy("On the host, add iommu=pt to the kernel's command line, and reboot.")
    return Remedy(
        "Add iommu=pt to the kernel's command line, then reboot. ACS on the bridges above the GPUs "
        "has the same effect, and is switched off separately (LNK010).",
        system_packages.kernel_parameter(machine, "iommu=pt"),
    )


@rule("HST007", Severity.INFO, "The container has few CPUs for its GPUs")
def few_cpus(machine: Snapshot) -> Answers:
    """A GPU wants at least two CPUs: one drives it, the others load and prepare its data.

    With fewer, GPUs wait for data and training is slow for no visible reason. The limit is the
    container's: its CPU set, or its quota of CPU time, which Python's `os.cpu_count()` does not
    show (so that a DataLoader may start far too many workers). Ask for more when you start it:
    `--cpus` or `--cpuset-cpus` with Docker, `resources.limits.cpu` in Kubernetes.
    """
    container = yield from known(machine.host.container)
    if container is None:
        if machine.host.container is None:
            yield NotApplicable(why="not in a container")
        return
    # Not the bus: it shows the host's GPUs, of which this container may have one.
    gpus = yield from known(machine.nvml.count)
    if gpus == 0:
        yield NotApplicable(why="no NVIDIA GPU here")
    if not gpus:
        return
    cpus = yield from known(machine.host.cpus_usable)
    if cpus is None or cpus >= CPUS_PER_GPU * gpus:
        return
    yield Symptom(
        saw=f"{count(gpus, 'GPU')}, and {count(cpus, 'CPU')} to feed "
        f"{'it' if gpus == 1 else 'them'}",
        remedy=Remedy(f"Start the container with at least {CPUS_PER_GPU * gpus} CPUs."),
    )
