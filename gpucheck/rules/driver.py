"""Rules about the driver: its kernel module, its libraries, its device files, and what it says."""

from collections.abc import Generator, Iterable

from gpucheck.remedies import system_packages
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import (
    CudaInit,
    DeviceNode,
    DriverLibrary,
    FabricManager,
    NvmlError,
    PciGpu,
    Snapshot,
    Unknown,
)
from gpucheck.versions import version_tuple

NO_GPU = NotApplicable(why="no NVIDIA GPU")
WSL_LIBRARIES = "/usr/lib/wsl/"
CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
NVML_UNKNOWN = 999
NVML_VERSION_MISMATCH = 18  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
CUDA_STUB_LIBRARY = 34  # CUDA_ERROR_STUB_LIBRARY
#: What may stand behind a code of cuInit, nearest first; it counts where it was found too.
CAUSES_OF_CUDA_ERRORS: dict[int, tuple[str, ...]] = {
    3: ("DRV007", "DRV008", "DRV006", "GPU001"),
    34: ("DRV013", "ENV012"),
    36: ("ENV016", "DRV006"),
    46: ("GPU016", "GPU017", "GPU001", "GPU003"),
    100: (
        *("ENV018", "ENV019", "ENV020", "ENV022", "DRV012", "DRV007", "DRV008", "GPU017", "DRV015"),
        *("DRV017", "GPU001"),
    ),
    101: ("ENV019", "ENV020", "DRV007", "DRV008", "GPU001"),
    304: ("DRV008", "DRV007"),
    802: ("DRV010", "LNK006"),
    803: ("DRV006", "ENV016", "DRV011"),
    804: ("ENV016",),
    919: ("DRV010", "LNK006"),
    999: ("DRV007", "DRV008", "GPU001", "GPU003"),
}
CAUSES_OF_NVML_ERRORS: dict[int, tuple[str, ...]] = {
    4: ("DRV008",),
    9: ("DRV007", "DRV008"),
    12: ("ENV022",),
    15: ("GPU001",),
    17: ("DRV007", "DRV008"),
    NVML_VERSION_MISMATCH: ("DRV011",),
    28: ("DRV012", "DRV017"),
    999: ("DRV008", "DRV007", "GPU001"),
}
HANGING_FIX = (
    "Look for Xid errors in the kernel log, and restart the machine: a driver that hangs or "
    "crashes does not mend itself."
)
HANGING_COMMANDS = ("sudo dmesg | grep -i -e xid -e nvrm", "sudo reboot")
Doubts = Generator[NotChecked | NotApplicable, None, bool]


def _bus_gpus(machine: Snapshot) -> tuple[PciGpu, ...]:
    """Return the GPUs on the bus that are this system's own: not those lent to virtual machines."""
    gpus = machine.host.pci_gpus
    if isinstance(gpus, Unknown):
        return ()
    return tuple(gpu for gpu in gpus if gpu.driver != "vfio-pci")


def _nvml_works(machine: Snapshot) -> bool:
    count = machine.nvml.count
    return isinstance(count, int) and count > 0


def _cuda_works(machine: Snapshot) -> bool:
    init = machine.driver.cuda_init
    return (
        isinstance(init, CudaInit)
        and init.code == 0
        and isinstance(init.device_count, int)
        and init.device_count > 0
    )


def _has_proc_gpus(machine: Snapshot) -> bool:
    """Whether the driver itself lists GPUs: a sandbox may hide the bus and not the driver."""
    gpus = machine.driver.proc_gpus
    return not isinstance(gpus, Unknown) and bool(gpus)


def _has_wsl_driver(machine: Snapshot) -> bool:
    libraries = machine.driver.libraries
    return not isinstance(libraries, Unknown) and any(
        library.path.startswith(WSL_LIBRARIES) for library in libraries
    )


def _is_here(machine: Snapshot) -> Doubts:
    """Whether there is a GPU for this system to drive; where not, or not known, say so."""
    host = machine.host
    if (
        _bus_gpus(machine)
        or _nvml_works(machine)
        or _cuda_works(machine)
        or isinstance(host.tegra, str)
        or _has_proc_gpus(machine)
        or (host.is_wsl is True and _has_wsl_driver(machine))
    ):
        return True
    if isinstance(host.pci_gpus, Unknown) and host.is_wsl is not True:
        yield NotChecked(why=host.pci_gpus.why)
    elif host.pci_gpus:
        yield NotApplicable(why="every GPU is lent to virtual machines (vfio-pci)")
    else:
        yield NO_GPU
    return False


def _has_own_module(machine: Snapshot) -> Doubts:
    """Whether a GPU is here whose kernel module is this system's own matter."""
    if not (yield from _is_here(machine)):
        return False
    if machine.host.is_wsl is True:
        yield NotApplicable(why="WSL: Windows has the driver")
        return False
    if isinstance(machine.host.tegra, str):
        yield NotApplicable(why="Tegra: the driver is part of the system")
        return False
    return True


def _is_container(machine: Snapshot) -> bool:
    return isinstance(machine.host.container, str)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _real_libraries(machine: Snapshot) -> tuple[DriverLibrary, ...] | Unknown:
    """Return the copies that a driver brought: neither stubs nor compatibility libraries."""
    libraries = machine.driver.libraries
    if isinstance(libraries, Unknown):
        return libraries
    return tuple(
        library for library in libraries if library.is_stub is not True and not library.is_compat
    )


def _winners(libraries: Iterable[DriverLibrary]) -> tuple[DriverLibrary, ...]:
    return tuple(library for library in libraries if library.is_selected)


# ---------------------------------------------------------------------- is there a GPU, a driver?


@rule("DRV001", Severity.ERROR, "No NVIDIA GPU is in this machine")
def no_gpu(machine: Snapshot) -> Answers:
    """Without a GPU on the PCI bus there is nothing that a driver, CUDA or PyTorch could use.

    gpucheck looked at every device on the PCI bus, and none is an NVIDIA display or 3D controller.
    On a laptop or server that should have one: is it seated, powered, and switched on in the
    firmware set-up? `lspci -nn | grep -i nvidia` must show it. In a virtual machine the host has to
    pass the GPU through; in the cloud, choose an instance type with a GPU. On a machine that is
    not meant to have one, all is well: run gpucheck where the GPUs are.
    """
    host = machine.host
    if _nvml_works(machine) or _cuda_works(machine) or _has_proc_gpus(machine):
        return
    if host.is_wsl is True or isinstance(host.tegra, str):
        yield NotApplicable(why="the GPU of WSL and Tegra is not on the PCI bus")
        return
    gpus = yield from known(host.pci_gpus)
    if gpus is None or gpus:
        return
    if isinstance(machine.nvml.count, Unknown) and not isinstance(machine.nvml.error, NvmlError):
        yield NotChecked(why=f"the bus shows no GPU, and NVML: {machine.nvml.count.why}")
        return
    saw = "no device on the PCI bus is an NVIDIA GPU"
    if _is_container(machine):
        fix = "Start this container on a host that has an NVIDIA GPU."
    elif isinstance(host.hypervisor, str):
        saw += ": this virtual machine was given none by its host"
        fix = (
            "In the cloud, choose an instance type with a GPU; else have the host pass one through."
        )
    else:
        fix = (
            "Use a machine that has an NVIDIA GPU; where one is built in, check that it is seated, "
            "powered and switched on in the firmware set-up."
        )
    yield Symptom(saw=saw, fix=fix, commands=("lspci -nn | grep -i nvidia",))


@rule("DRV002", Severity.ERROR, "No NVIDIA driver is installed")
def no_driver(machine: Snapshot) -> Answers:
    """A GPU without its driver is invisible to every program.

    The GPU stands on the PCI bus, but no nvidia kernel module is loaded, none is built, and no
    libcuda.so.1 is anywhere. A CUDA toolkit and the CUDA wheels of PyTorch do not bring the driver:
    it has to be installed into the system, from the distribution or from NVIDIA, and after that the
    machine restarted.
    """
    if not (yield from _has_own_module(machine)):
        return
    if _is_container(machine):
        yield NotApplicable(why="in a container the driver is the host's")
        return
    if _nvml_works(machine) or _cuda_works(machine):
        return
    if isinstance(machine.driver.module_version, str):
        return
    if machine.driver.module_version is not None:
        yield NotChecked(why=machine.driver.module_version.why)
        return
    libraries = _real_libraries(machine)
    if isinstance(libraries, Unknown):
        yield NotChecked(why=libraries.why)
        return
    if libraries or _is_built(machine):
        return
    gpus = _bus_gpus(machine)
    yield Symptom(
        saw=f"{_count(len(gpus), 'NVIDIA GPU')} on the PCI bus "
        f"({_listed(gpu.bus_id for gpu in gpus)}), no nvidia kernel module and no libcuda.so.1",
        fix="Install the NVIDIA driver (not only the CUDA toolkit), then restart the machine."
        + system_packages.where_drivers_are(machine),
        commands=system_packages.install_driver(machine),
    )


def _is_built(machine: Snapshot) -> bool:
    return isinstance(machine.driver.dkms_version, str) or isinstance(
        machine.driver.module_file, str
    )


@rule(
    "DRV003",
    Severity.ERROR,
    "The driver is installed, but its kernel module is not loaded",
    caused_by=("DRV005", "DRV004"),
)
def module_not_loaded(machine: Snapshot) -> Answers:
    """Libraries alone do not reach the GPU: without the kernel module nothing can use it.

    Most often the kernel was updated and the module was not built for it: DKMS builds it, if the
    kernel's headers are installed. Other reasons: nouveau holds the GPU (DRV004), Secure Boot
    refused the module (DRV005), or the module is blacklisted in /etc/modprobe.d. After loading it
    by hand, `sudo dmesg | tail` says why if it still fails.
    """
    if not (yield from _has_own_module(machine)):
        return
    if _is_container(machine):
        yield NotApplicable(why="in a container the kernel module is the host's")
        return
    driver = machine.driver
    if isinstance(driver.module_version, str) or _nvml_works(machine) or _cuda_works(machine):
        return
    if driver.module_version is not None:
        yield NotChecked(why=driver.module_version.why)
        return
    libraries = _real_libraries(machine)
    if isinstance(libraries, Unknown) and not _is_built(machine):
        yield NotChecked(why=libraries.why)
        return
    if not libraries and not _is_built(machine):
        yield NotApplicable(why="no driver is installed")
        return
    yield _not_loaded(machine)


def _not_loaded(machine: Snapshot) -> Symptom:
    driver = machine.driver
    kernel = system_packages.kernel(machine)
    is_dkms = isinstance(driver.dkms_version, str)
    load = "sudo modprobe nvidia"
    if isinstance(driver.module_file, str):
        return Symptom(
            saw=f"{driver.module_file} is built for the running kernel {kernel} and not loaded",
            fix="Load it; if that fails, the kernel log says why.",
            commands=(load, "sudo dmesg | tail -n 20"),
        )
    saw = f"no nvidia module is built for the running kernel {kernel}"
    if is_dkms:
        saw += f"; DKMS has driver {driver.dkms_version}"
        if not isinstance(driver.dkms_kernels, Unknown):
            saw += (
                f", built for {_listed(driver.dkms_kernels)}"
                if driver.dkms_kernels
                else ", built for no kernel"
            )
    if is_dkms and not isinstance(driver.dkms_kernels, Unknown) and kernel in driver.dkms_kernels:
        return Symptom(
            saw=f"DKMS has built driver {driver.dkms_version} for the running kernel {kernel}, and "
            "no nvidia module is installed for it",
            fix="Install what DKMS has built, and load it.",
            commands=(f"sudo dkms autoinstall -k {kernel}", load),
        )
    build = (
        (f"sudo dkms autoinstall -k {kernel}", load)
        if is_dkms
        else system_packages.build_module(machine)
    )
    if driver.has_kernel_headers is False:
        return Symptom(
            saw=f"{saw}; the kernel's headers are missing",
            fix="Install the headers of the running kernel, build the module, load it."
            if is_dkms
            else "Install the headers of the running kernel, then the driver once more.",
            commands=(*system_packages.install_headers(machine), *build),
        )
    return Symptom(
        saw=saw,
        fix="Build the module for the running kernel and load it."
        if is_dkms
        else "Install the driver's kernel module for the running kernel, or start the kernel that "
        "it was installed for.",
        commands=build,
    )


@rule("DRV004", Severity.ERROR, "nouveau holds the GPU", caused_by=("DRV002",))
def nouveau(machine: Snapshot) -> Answers:
    """nouveau, the kernel's own driver for NVIDIA cards, cannot run CUDA and keeps nvidia.ko out.

    A GPU has one kernel driver at a time. Blacklist nouveau, renew the initial ram disk, and
    restart. NVIDIA's packages do this by themselves; the .run installer and hand-made set-ups may
    not.
    """
    if not (yield from _is_here(machine)):
        return
    gpus = yield from known(machine.host.pci_gpus)
    if gpus is None:
        return
    held = [gpu for gpu in gpus if gpu.driver == "nouveau" and not _is_left_to(machine, gpu)]
    if not held:
        for gpu in gpus:
            if isinstance(gpu.driver, Unknown):
                yield NotChecked(why=gpu.driver.why, subject=gpu.bus_id)
        return
    yield Symptom(
        saw=f"nouveau is bound to {_listed(gpu.bus_id for gpu in held)}",
        fix="Keep nouveau from loading, renew the initial ram disk, restart.",
        commands=(
            "echo blacklist nouveau | sudo tee /etc/modprobe.d/blacklist-nouveau.conf",
            *system_packages.renew_ram_disk(machine),
            "sudo reboot",
        ),
    )


@rule("DRV005", Severity.ERROR, "Secure Boot refused the kernel module")
def module_refused(machine: Snapshot) -> Answers:
    """With Secure Boot on, the kernel loads only modules signed with a key that it trusts.

    A module that DKMS built here is signed with this machine's own key, or not at all. Enrol that
    key once (mokutil asks for a password, and the firmware asks for it again at the next start), or
    use the distribution's signed modules, or switch Secure Boot off in the firmware set-up.
    """
    if not (yield from _has_own_module(machine)):
        return
    if _is_container(machine):
        yield NotApplicable(why="in a container the kernel module is the host's")
        return
    driver, log = machine.driver, machine.kernel_log
    if isinstance(driver.module_version, str):
        return
    if driver.module_version is not None:
        yield NotChecked(why=driver.module_version.why)
        return
    if not machine.host.secure_boot:  # off, or no EFI
        return
    is_refused = isinstance(log.module_refused, str)
    if isinstance(machine.host.secure_boot, Unknown) and not is_refused:
        yield NotChecked(why=machine.host.secure_boot.why)
        return
    if driver.module_file is None:
        yield NotApplicable(why="no module is built for this kernel")
        return
    if is_refused:
        saw = f'Secure Boot is on, and the kernel says: "{log.module_refused}"'
    elif driver.module_is_signed is False:
        saw = f"Secure Boot is on, and {driver.module_file} carries no signature"
    elif isinstance(log.module_refused, Unknown):
        yield NotChecked(why=log.module_refused.why)
        return
    else:
        return
    yield Symptom(
        saw=saw,
        fix="Enrol the key that signs this machine's modules and confirm it at the next start, or "
        "install signed modules, or switch Secure Boot off.",
        commands=(f"sudo mokutil --import {system_packages.signing_key(machine)}", "sudo reboot"),
    )


# ------------------------------------------------------------------------- versions that disagree


@rule("DRV006", Severity.ERROR, "The kernel module and the driver's libraries differ in version")
def version_mismatch(machine: Snapshot) -> Answers:
    """Module and libraries work only together with their own version: CUDA and NVML both fail.

    nvidia-smi says "Driver/library version mismatch", CUDA says error 803. Mostly the driver was
    updated while the old module stayed loaded: restart the machine, or stop everything that uses
    the GPUs and load the new module. In a container that outlived a driver update of its host:
    restart the container. A stray copy of libcuda.so.1, in LD_LIBRARY_PATH or baked into an image,
    does the same.
    """
    if not (yield from _has_own_module(machine)):
        return
    driver = machine.driver
    module = driver.module_version
    if module is None:
        yield NotApplicable(why="the kernel module is not loaded")
        return
    if isinstance(module, Unknown):
        yield NotChecked(why=module.why)
        return
    if _nvml_works(machine) and _cuda_works(machine):
        return
    libraries = _real_libraries(machine)
    if isinstance(libraries, Unknown):
        yield NotChecked(why=libraries.why)
        return
    winners = _winners(libraries)
    others = [
        library
        for library in winners
        if isinstance(library.version, str)
        and version_tuple(library.version) != version_tuple(module)
    ]
    error = machine.nvml.error
    says_so = isinstance(error, NvmlError) and error.code == NVML_VERSION_MISMATCH
    if not others and not says_so:
        for library in winners:
            if isinstance(library.version, Unknown):
                yield NotChecked(why=library.version.why, subject=library.path)
        return
    if others:
        seen = [f"{library.path} is {library.version}" for library in others]
    else:
        seen = ["NVML says that its library is of another"]
    yield Symptom(
        saw=f"the loaded kernel module is {module}; {_listed(seen)}",
        **_mismatch_fix(machine, module, others, libraries),  # type: ignore[arg-type]
    )


def _mismatch_fix(
    machine: Snapshot,
    module: str,
    others: list[DriverLibrary],
    libraries: tuple[DriverLibrary, ...],
) -> dict[str, str | tuple[str, ...]]:
    strays = [library for library in others if library.found_via == "LD_LIBRARY_PATH"]
    fitting = [
        library
        for library in libraries
        if isinstance(library.version, str)
        and version_tuple(library.version) == version_tuple(module)
    ]
    if strays and fitting:
        folder = strays[0].path.rpartition("/")[0]
        return {
            "fix": f"Take {folder} out of LD_LIBRARY_PATH: {fitting[0].path} fits the module.",
        }
    if _is_container(machine):
        if others and fitting:
            return {
                "fix": f"Remove {_listed(library.real_path for library in others)} from the image: "
                "no driver belongs into it, and the host's own is here too.",
            }
        return {"fix": "Restart the container: its libraries are those of its host's old driver."}
    on_disk = machine.driver.module_file_version
    is_on_disk = isinstance(on_disk, str) and version_tuple(on_disk) == version_tuple(module)
    if others and fitting and (is_on_disk or not isinstance(on_disk, str)):
        return {
            "fix": f"Two drivers are installed: keep {module}, which the kernel runs, and remove "
            f"{others[0].version}: its package, or (where no package owns the file) by "
            "`sudo nvidia-uninstall`, the .run installer's own. Then restart.",
            "commands": system_packages.owner_of_file(machine, others[0].real_path),
        }
    if is_on_disk and others:
        return {
            "fix": f"The module on disk is {module} too: install driver module and libraries of "
            "one version, then restart.",
            "commands": system_packages.install_driver(machine),
        }
    return {
        "fix": "Restart the machine, so that it loads the module of the libraries' version.",
        "commands": ("sudo reboot",),
    }


@rule(
    "DRV011",
    Severity.WARNING,
    "Libraries of two driver versions are installed",
    caused_by=("DRV006", "HST005"),
)
def two_drivers(machine: Snapshot) -> Answers:
    """Which driver a program gets then depends on its search path, and only one fits the module.

    Two ways of installing were mixed: a package and NVIDIA's .run installer, a copy in an image
    and the one that the container toolkit brings in. Remove the one whose version is not that of
    the loaded kernel module.
    """
    if not (yield from _is_here(machine)):
        return
    libraries = _real_libraries(machine)
    if isinstance(libraries, Unknown):
        yield NotChecked(why=libraries.why)
        return
    versions = {lib.version for lib in libraries if isinstance(lib.version, str)}
    if len(versions) < 2:
        has_copies = len({library.soname for library in libraries}) < len(libraries)
        for library in libraries if has_copies else ():
            if isinstance(library.version, Unknown):
                yield NotChecked(why=library.version.why, subject=library.path)
        return
    module = machine.driver.module_version
    reported: list[str] = []
    for version in dict.fromkeys(lib.version for lib in libraries if isinstance(lib.version, str)):
        paths = [
            library.path + (f" (wins, by {library.found_via})" if library.is_selected else "")
            for library in libraries
            if library.version == version
        ]
        reported.append(f"{version}: {', '.join(paths)}")
    kept = module if isinstance(module, str) and module in versions else None
    others = [lib for lib in libraries if isinstance(lib.version, str) and lib.version != kept]
    if _is_container(machine):
        how = ": they belong into no image, the host's own are brought in at the start."
        commands: tuple[str, ...] = ()
    else:
        how = (
            ": by their package; where no package owns them, by `sudo nvidia-uninstall`, the .run "
            "installer's own."
        )
        commands = system_packages.owner_of_file(machine, others[0].real_path) if kept else ()
    keep = f"Keep {kept}, the loaded module's version" if kept else "Keep one"
    yield Symptom(
        saw="; ".join(reported),
        fix=f"{keep}, and remove the other version's libraries{how}",
        commands=commands,
    )


@rule("DRV012", Severity.ERROR, "This driver cannot drive a GPU that is here")
def wrong_driver_for_gpu(machine: Snapshot) -> Answers:
    """Each GPU architecture needs a driver of its time: NVML and CUDA do not show this GPU at all.

    An older driver does not know a newer GPU; a newer one has dropped old architectures (Kepler
    after 470; Maxwell, Pascal and Volta after 580). And the kernel module comes in two kinds:
    Blackwell and Grace Hopper need the open one, GPUs before Turing the closed one.
    """
    if not (yield from _has_own_module(machine)):
        return
    driver = machine.driver
    if driver.module_version is None:
        yield NotApplicable(why="the kernel module is not loaded")
        return
    if isinstance(driver.module_version, Unknown):
        yield NotChecked(why=driver.module_version.why)
        return
    if _is_container(machine) and _nvml_works(machine):
        return  # the others were not given to this container
    unseen = _unseen_gpus(machine)
    if unseen is None:
        count = machine.nvml.count
        yield NotChecked(why=count.why if isinstance(count, Unknown) else "NVML names no bus ids")
        return
    for gpu in unseen:
        yield from _judge_family(machine, gpu, driver.module_version)


def _judge_family(machine: Snapshot, gpu: PciGpu, version: str) -> Answers:
    from gpucheck.knowledge.driver_cuda import last_branch_for, minimum_branch_for
    from gpucheck.knowledge.kernel_module import family_of

    family = family_of(gpu.device_id)
    if family is None:
        yield NotChecked(why=f"no table knows device {gpu.device_id}", subject=gpu.bus_id)
        return
    branch = version_tuple(version)[:1]
    first = minimum_branch_for(family.compute_capability)
    last = last_branch_for(family.compute_capability)
    what = f"the GPU at {gpu.bus_id} ({gpu.device_id}) is {family.architecture}"
    kind = machine.driver.module_kind
    if first is not None and branch < (first,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs driver {first} or newer; this is {version}",
            fix=f"Install a driver of branch {first} or newer, then restart.",
            commands=system_packages.install_driver(machine),
        )
    elif last is not None and branch > (last,):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which drivers after {last} no longer drive; this is {version}",
            fix=f"Install a driver of branch {last}, then restart.",
            commands=system_packages.older_driver(machine, last),
        )
    elif isinstance(kind, Unknown):
        yield NotChecked(why=kind.why, subject=gpu.bus_id)
    elif kind is not None and family.module not in ("either", kind):
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{what}, which needs the {family.module} kernel module; the {kind} one is loaded",
            fix=f"Install the driver with the {family.module} kernel module, then restart.",
            commands=system_packages.open_module(machine, branch[0])
            if family.module == "open" and branch
            else (),
        )


def _is_left_to(machine: Snapshot, gpu: PciGpu) -> bool:
    """Whether an old card was left to nouveau, which the driver of the other GPUs cannot drive.

    It shows the screen, as it is meant to; the GPUs that compute have the nvidia driver.
    """
    version = machine.driver.module_version
    if gpu.driver != "nouveau" or not _nvml_works(machine) or not isinstance(version, str):
        return False
    from gpucheck.knowledge.driver_cuda import last_branch_for
    from gpucheck.knowledge.kernel_module import family_of

    family = family_of(gpu.device_id)
    last = None if family is None else last_branch_for(family.compute_capability)
    return last is not None and version_tuple(version)[:1] > (last,)


def _unseen_gpus(machine: Snapshot) -> tuple[PciGpu, ...] | None:
    """Return the GPUs on the bus that NVML does not list; None where NVML does not tell.

    Left out are those that nobody expects there: lent to virtual machines or excluded by a module
    parameter.
    """
    nvml = machine.nvml
    excluded = machine.driver.excluded_gpus
    hidden = () if isinstance(excluded, Unknown) else excluded
    gpus = [
        gpu
        for gpu in _bus_gpus(machine)
        if gpu.bus_id not in hidden and not _is_left_to(machine, gpu)
    ]
    if isinstance(nvml.count, Unknown):
        return None
    excluded_by_uuid = sum(name.startswith("GPU-") for name in hidden)
    if nvml.count + excluded_by_uuid >= len(gpus):
        return ()  # whatever it calls them: a hypervisor may show other bus ids
    if nvml.count == 0:
        return tuple(gpus)
    if isinstance(nvml.gpus, Unknown):
        return None
    seen = {gpu.bus_id.lower() for gpu in nvml.gpus if isinstance(gpu.bus_id, str)}
    return tuple(gpu for gpu in gpus if gpu.bus_id.lower() not in seen)


@rule(
    "DRV013",
    Severity.ERROR,
    "The driver library that programs load is a stub",
    caused_by=("ENV012", "HST004"),
)
def stub_wins(machine: Snapshot) -> Answers:
    """A stub is there to link programs on machines without a GPU; loaded, it fails every call.

    The toolkit's lib64/stubs folder must never stand in LD_LIBRARY_PATH or in the loader's
    configuration (LIBRARY_PATH, which only the linker reads, is the right place), and nobody should
    make a libcuda.so.1 out of it. CUDA then says error 34, "stub library".
    """
    if not (yield from _is_here(machine)):
        return
    driver = machine.driver
    libraries = yield from known(driver.libraries)
    stubs = [lib for lib in _winners(libraries or ()) if lib.is_stub is True]
    is_all = not any(
        lib.soname == "libcuda.so.1" and lib.is_stub is not True for lib in libraries or ()
    )
    then = ""
    commands: tuple[str, ...] = ()
    if is_all and _is_container(machine):
        commands = system_packages.start_with_gpus(machine)[1]
        then = " No other is here: the container has to be started with its GPUs, too."
    elif is_all:
        then = " No other is here: install the driver, too."
        commands = system_packages.install_driver(machine)
    for stub in stubs:
        folder = stub.path.rpartition("/")[0]
        yield Symptom(
            subject=stub.soname,
            saw=f"{stub.path} is a link-time stub, and the loader takes it (by {stub.found_via})",
            fix=f"Take {folder} out of "
            + ("LD_LIBRARY_PATH." if stub.found_via == "LD_LIBRARY_PATH" else "the loader's way.")
            + then,
            commands=commands,
        )
    init = driver.cuda_init
    is_told = isinstance(init, CudaInit) and init.code == CUDA_STUB_LIBRARY
    if is_told and not any(stub.soname == "libcuda.so.1" for stub in stubs):
        path = init.library if isinstance(init, CudaInit) else None
        yield Symptom(
            subject="libcuda.so.1",
            saw=f"cuInit says that {path or 'libcuda.so.1'} is a stub (error 34)",
            fix="Remove that copy, so that the driver's own libcuda.so.1 is found.",
        )


# ---------------------------------------------------------------------------------- device files


@rule(
    "DRV007",
    Severity.ERROR,
    "A device file of the driver is missing",
    caused_by=("HST004", "DRV002", "DRV003"),
)
def device_missing(machine: Snapshot) -> Answers:
    """Programs reach the GPU through /dev/nvidia*: without its file a GPU, or all of CUDA, is gone.

    nvidia-modprobe makes the files when the driver is first used; it must be installed and set-uid
    root. /dev/nvidia-uvm is CUDA's alone: nvidia-smi works without it, while cuInit says error 999
    or 3. In a container the runtime brings the files in: start it with its GPUs.
    """
    if not (yield from _has_own_module(machine)):
        return
    if machine.driver.module_version is None:
        yield NotApplicable(why="the kernel module is not loaded")
        return
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    missing = [node.path for node in nodes if not node.exists]
    if missing and _is_container(machine):
        has_gpu = any(node.exists and _is_gpu(node) for node in nodes)
        missing = [path for path in missing if not (has_gpu and _is_gpu_path(path))]
    if _cuda_works(machine):
        # Whoever asked first had nvidia-modprobe make the files, or found another way.
        missing = [path for path in missing if _is_gpu_path(path)]
    if _nvml_works(machine) and machine.nvml.count == len(_bus_gpus(machine)):
        missing = [path for path in missing if path == "/dev/nvidia-uvm"]
    if not missing:
        return
    if missing == ["/dev/nvidia-uvm"] and not isinstance(machine.driver.cuda_init, CudaInit):
        yield NotChecked(why="/dev/nvidia-uvm is made when CUDA is first used; cuInit was not seen")
        return
    if _is_container(machine):
        fix, commands = system_packages.start_with_gpus(machine)
        yield Symptom(
            saw=f"{_listed(missing)} {'is' if len(missing) == 1 else 'are'} not in this container",
            fix=fix,
            commands=commands,
        )
        return
    modules = machine.driver.loaded_modules
    lacks_uvm = not isinstance(modules, Unknown) and "nvidia_uvm" not in modules
    yield Symptom(
        saw=f"{_listed(missing)} {'does' if len(missing) == 1 else 'do'} not exist"
        + ("; the module nvidia_uvm is not loaded" if lacks_uvm else ""),
        fix="Make the device files: nvidia-modprobe does it"
        + (", and loads nvidia_uvm." if "/dev/nvidia-uvm" in missing else "."),
        commands=(_make_nodes(missing),),
    )


def _make_nodes(missing: list[str]) -> str:
    """Return the command that makes the device files: each GPU's is asked for by its number."""
    minors = [path.removeprefix("/dev/nvidia") for path in missing if _is_gpu_path(path)]
    wanted = "".join(f" -c {minor}" for minor in minors or ("0",))
    return f"sudo nvidia-modprobe{wanted}{' -u' if '/dev/nvidia-uvm' in missing else ''}"


def _is_gpu_path(path: str) -> bool:
    return path.removeprefix("/dev/nvidia").isdigit()


def _is_gpu(node: DeviceNode) -> bool:
    return _is_gpu_path(node.path)


@rule(
    "DRV008",
    Severity.ERROR,
    "This user may not open the driver's device files",
    caused_by=("HST004",),
)
def device_forbidden(machine: Snapshot) -> Answers:
    """A program that may not open /dev/nvidia* has no GPU, whatever root sees.

    Normally everybody may read and write these files. Where a distribution or an administrator
    gives them to a group, join that group and log in again. In a container the files' owner and the
    runtime's device rules both count.
    """
    if not (yield from _is_here(machine)):
        return
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    forbidden = [node for node in nodes if node.exists and node.can_open is False]
    for node in nodes:
        if node.exists and isinstance(node.can_open, Unknown):
            yield NotChecked(why=node.can_open.why, subject=node.path)
    gpu_nodes = sum(node.exists and _is_gpu(node) for node in nodes)
    init = machine.driver.cuda_init
    if _cuda_works(machine) and isinstance(init, CudaInit) and init.device_count == gpu_nodes:
        return  # it was seen to work
    if not forbidden:
        return
    first = forbidden[0]
    group = first.group if isinstance(first.group, str) else None
    groups = machine.host.groups
    is_member = not isinstance(groups, Unknown) and group in groups
    may_group = isinstance(first.mode, str) and first.mode[4:6] == "rw"
    saw = f"{_listed(node.path for node in forbidden)}: {first.error or 'permission denied'}"
    if isinstance(first.mode, str) and group:
        saw += f" ({first.mode}, group {group})"
    if _is_container(machine):
        yield Symptom(
            saw=saw,
            fix="Start the container as a user, or with a group (`--group-add`), that may open "
            "them.",
        )
    elif group and group != "root" and may_group and not is_member:
        yield Symptom(
            saw=saw,
            fix=f"Join the group {group}, then log out and in again.",
            commands=(f"sudo usermod -aG {group} $USER",),
        )
    else:
        yield Symptom(
            saw=saw,
            fix="Let users open the driver's device files (NVreg_DeviceFileMode is the module "
            "parameter; 0666 is its default), then restart.",
            commands=(
                "echo options nvidia NVreg_DeviceFileMode=0666 | sudo tee /etc/modprobe.d/gpu.conf",
            ),
        )


# ------------------------------------------------------------------------- what the driver answers


@rule(
    "DRV009",
    Severity.ERROR,
    "CUDA does not start",
    caused_by=("DRV001", "DRV002", "DRV003", "HST004", "HST005", "DRV006", "DRV013"),
)
def cuinit_fails(machine: Snapshot) -> Answers:
    """cuInit is the first call of every CUDA program: where it fails, none of them can start.

    gpucheck makes this one call in a child process with the libraries that a program would get.
    The number says where to look: 34 a stub library, 100 no usable GPU (often a variable hides
    them), 802 the fabric manager of an NVSwitch machine, 803 module and library of different
    versions, 804 a compatibility library on a GPU that may not use it, 999 mostly /dev/nvidia-uvm.
    """
    if not (yield from _is_here(machine)):
        return
    init = machine.driver.cuda_init
    if init is None:
        yield NotChecked(why="--quick leaves cuInit out")
        return
    if isinstance(init, Unknown):
        yield NotChecked(why=init.why)
        return
    if isinstance(init.error, str):
        yield _interrupted(machine, init.error, init.library)
    elif init.library is None or (init.code is None and init.load_error):
        saw, fix, commands = _not_loadable(machine, "libcuda.so.1", init.load_error)
        yield Symptom(
            saw=saw,
            fix=fix,
            commands=commands,
            explained_by=("DRV013", "ENV022"),
        )
    elif isinstance(init.code, int) and init.code != 0:
        yield _failed(machine, init.code, init.library)
    elif init.code == 0 and init.device_count == 0:
        yield _failed(machine, 100, init.library)
    elif not isinstance(init.code, int):
        yield NotChecked(why="cuInit gave no code")


def _interrupted(
    machine: Snapshot, fault: str, library: "str | Unknown | None"
) -> Symptom | NotChecked:
    where = f" ({library})" if isinstance(library, str) else ""
    gpus = () if isinstance(machine.nvml.gpus, Unknown) else machine.nvml.gpus
    if fault.startswith("no answer") and any(gpu.persistence is False for gpu in gpus):
        return NotChecked(
            why=f"{fault}; persistence is off, so the first use takes seconds for each GPU: "
            "try --timeout 60"
        )
    return Symptom(
        saw=f"{fault}{where}",
        fix=HANGING_FIX,
        commands=HANGING_COMMANDS,
        explained_by=("GPU001", "GPU002", "GPU003", "DRV017", "DRV006", "DRV016"),
    )


def _not_loadable(
    machine: Snapshot, soname: str, error: "str | Unknown | None"
) -> tuple[str, str, tuple[str, ...]]:
    """Return what was seen of a driver library that does not load, the fix, and its commands."""
    reason = error if isinstance(error, str) else "no reason given"
    saw = f"{soname} does not load: {reason.removeprefix(f'{soname}: ')}"
    libraries = machine.driver.libraries
    copies = [
        library
        for library in (libraries if isinstance(libraries, tuple) else ())
        if library.soname == soname and not library.is_stub and not library.is_compat
    ]
    if copies and not any(library.is_selected for library in copies):
        folder = copies[0].path.rpartition("/")[0]
        return (
            f"{saw}; {copies[0].path} is here, where the loader does not look",
            f"Let the loader look in {folder}.",
            (f'export LD_LIBRARY_PATH="{folder}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"',),
        )
    if _is_container(machine):
        return (
            saw,
            f"Start the container again with {CAPABILITIES}, so that it gets these libraries.",
            (),
        )
    return (
        saw,
        "Install the driver's libraries, in the version of its kernel module.",
        system_packages.install_driver(machine),
    )


def _same_trouble(machine: Snapshot, code: int) -> tuple[str, ...]:
    """NVML asks less of the driver than CUDA: where it cannot start either, that is the cause."""
    error = machine.nvml.error
    is_start = isinstance(error, NvmlError) and isinstance(error.code, int)
    return ("DRV016",) if is_start and code not in (CUDA_STUB_LIBRARY, 803, 804) else ()


def _failed(machine: Snapshot, code: int, library: "str | Unknown | None") -> Symptom:
    from gpucheck.knowledge.cuda_errors import cuda_error

    row = cuda_error(code)
    where = f", from {library}" if isinstance(library, str) else ""
    if row is None:
        return Symptom(
            saw=f"cuInit fails with error {code}{where}",
            fix="The number is newer than gpucheck's table: look for it in NVIDIA's documentation "
            "of CUresult.",
        )
    return Symptom(
        saw=f"cuInit fails with error {code} ({row.name}: {row.meaning}){where}",
        fix=f"{_sentence(row.fix)} Usual causes: {'; '.join(row.causes)}.",
        explained_by=(*CAUSES_OF_CUDA_ERRORS.get(code, ()), *_same_trouble(machine, code)),
    )


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


@rule(
    "DRV010",
    Severity.ERROR,
    "The NVSwitch fabric manager is not in order",
    caused_by=("DRV002", "DRV003"),
)
def fabric_manager(machine: Snapshot) -> Answers:
    """On NVSwitch systems CUDA waits for the fabric manager: without it cuInit says error 802.

    nvidia-smi works all the same, so the fault is easily overlooked. The fabric manager's version
    must be exactly the driver's: update both together, and hold both back together.
    """
    if not (yield from _has_own_module(machine)):
        return
    switches = yield from known(machine.host.nvswitches)
    if switches is None:
        return
    module = machine.driver.module_version
    if switches == 0 or module is None:
        yield NotApplicable(why="no NVSwitch" if switches == 0 else "no driver is loaded")
        return
    manager = machine.driver.fabric_manager
    if isinstance(manager, Unknown):
        yield NotChecked(why=manager.why)
        return
    if manager is None:
        yield Symptom(
            saw=f"{_count(switches, 'NVSwitch device')} on the PCI bus and no fabric manager "
            "is installed",
            fix="Install the fabric manager of the driver's version and start it.",
            commands=(
                *system_packages.fabric_manager(machine, module),
                "sudo systemctl enable --now nvidia-fabricmanager",
            ),
            severity=_if_working(machine),
        )
        return
    yield from _judge_manager(machine, manager)


def _if_working(machine: Snapshot) -> Severity | None:
    """A fabric that was set up goes on working until its next reset: a warning then."""
    return Severity.WARNING if _cuda_works(machine) else None


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
            fix="Install both in one version, then restart the fabric manager.",
            commands=(
                *system_packages.fabric_manager(machine, module),
                "sudo systemctl restart nvidia-fabricmanager",
            ),
            severity=_if_working(machine),
        )
    elif manager.is_running is False:
        yield Symptom(
            saw="the fabric manager is installed and does not run",
            fix="Start it, now and at every start.",
            commands=("sudo systemctl enable --now nvidia-fabricmanager",),
            severity=_if_working(machine),
        )
    elif isinstance(manager.is_running, Unknown):
        yield NotChecked(why=manager.is_running.why)
    elif isinstance(version, Unknown):
        yield NotChecked(why=version.why)
    elif isinstance(module, Unknown):
        yield NotChecked(why=module.why)


@rule("DRV014", Severity.INFO, "Persistence is off")
def persistence_off(machine: Snapshot) -> Answers:
    """While no program uses a GPU its driver shuts it down, and the next one waits seconds for it.

    On a server without a display nothing else keeps the GPU awake. nvidia-persistenced does, and
    costs a few watts. On a laptop that is meant to save power, leave it as it is.
    """
    if not (yield from _has_own_module(machine)):
        return
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
        yield NotChecked(why=machine.driver.persistenced_running.why)
        return
    yield Symptom(
        saw=f"persistence is off on {_listed(gpu.subject for gpu in asleep)}, and "
        "nvidia-persistenced does not run",
        fix="On the host, start the persistence daemon."
        if _is_container(machine)
        else "Start the persistence daemon.",
        commands=("sudo systemctl enable --now nvidia-persistenced",),
    )


@rule(
    "DRV015",
    Severity.ERROR,
    "A GPU is on the PCI bus and the driver does not show it",
)
def gpus_missing(machine: Snapshot) -> Answers:
    """A GPU that NVML does not list cannot be used: the driver failed to start it.

    The kernel log (`sudo dmesg | grep NVRM`) mostly says why: the adapter failed to initialise, a
    power cable is missing, the firmware gave it too little address space, the driver is too old
    or of the wrong kind. GPUs that are lent to virtual machines, excluded by a module parameter, or
    not given to this container are not counted.
    """
    if not (yield from _has_own_module(machine)):
        return
    if isinstance(machine.nvml.error, NvmlError):
        yield NotChecked(why=f"NVML: {machine.nvml.error.message or 'does not work'}")
        return
    count = yield from known(machine.nvml.count)
    if count is None:
        return
    if _is_container(machine):
        yield from _missing_in_container(machine, count)
        return
    gpus = yield from known(machine.host.pci_gpus)
    if gpus is None:
        return
    unseen = _unseen_gpus(machine)
    if unseen is None:
        yield NotChecked(why="NVML names no bus ids")
        return
    nvml_gpus = () if isinstance(machine.nvml.gpus, Unknown) else machine.nvml.gpus
    lost = any(gpu.state != "ok" and not isinstance(gpu.bus_id, str) for gpu in nvml_gpus)
    for gpu in unseen:
        yield Symptom(
            subject=gpu.bus_id,
            saw=f"{gpu.bus_id} ({gpu.device_id}) is not among the {_count(count, 'GPU')} that NVML "
            "lists"
            if count
            else f"{gpu.bus_id} ({gpu.device_id}) is on the bus, and NVML lists no GPU",
            fix="Look in the kernel log for this bus id; then restart the machine, and check the "
            "board's power cables and seat if it stays away.",
            commands=(f"sudo dmesg | grep -i -e nvrm -e {gpu.bus_id}",),
            explained_by=(*_causes_of_absence(machine, gpu), *(("GPU001",) if lost else ())),
        )


def _causes_of_absence(machine: Snapshot, gpu: PciGpu) -> tuple[str, ...]:
    """Return what explains that this very GPU is missing: another GPU's trouble does not."""
    causes: list[str] = []
    if _is_unsuited(machine, gpu):
        causes.append("DRV012")
    if gpu.driver == "nouveau":
        causes.append("DRV004")
    if _fell_off(machine, gpu.bus_id):
        causes.append("GPU001")
    failures = machine.kernel_log.adapter_failures
    if not isinstance(failures, Unknown) and gpu.bus_id in failures:
        causes.append("DRV017")
    nodes = machine.driver.device_nodes
    for node in () if isinstance(nodes, Unknown) else nodes:
        if _is_gpu(node) and not node.exists:
            causes.append("DRV007")
        elif _is_gpu(node) and node.can_open is False:
            causes.append("DRV008")
    return tuple(causes)


def _is_unsuited(machine: Snapshot, gpu: PciGpu) -> bool:
    version = machine.driver.module_version
    return isinstance(version, str) and any(
        isinstance(answer, Symptom) for answer in _judge_family(machine, gpu, version)
    )


def _fell_off(machine: Snapshot, bus_id: str) -> bool:
    """Whether the kernel logged Xid 79 for this GPU: "fallen off the bus"."""
    xids = machine.kernel_log.xids
    return not isinstance(xids, Unknown) and any(
        xid.number == 79 and xid.bus_id == bus_id for xid in xids
    )


def _missing_in_container(machine: Snapshot, count: int) -> Answers:
    """In a container only those GPUs count whose device files were brought in."""
    nodes = yield from known(machine.driver.device_nodes)
    if nodes is None:
        return
    given = [node.path for node in nodes if node.exists and _is_gpu(node)]
    if not given:
        yield NotApplicable(why="this container was given no GPU")
    elif len(given) > count:
        yield Symptom(
            saw=f"this container was given {_listed(given)}, and NVML lists {_count(count, 'GPU')}",
            fix="Look in the host's kernel log for the GPU that failed; restart the container.",
            commands=("sudo dmesg | grep -i nvrm",),
        )


@rule(
    "DRV016",
    Severity.ERROR,
    "NVML does not work",
    caused_by=("DRV001", "DRV002", "DRV003", "DRV004", "HST004", "HST005", "DRV006", "DRV013"),
)
def nvml_fails(machine: Snapshot) -> Answers:
    """NVML is how nvidia-smi, PyTorch and every monitor ask about GPUs: they are all blind now.

    The library libnvidia-ml.so.1 comes with the driver. It must be of the loaded kernel module's
    version, and must be able to open /dev/nvidiactl. In a container it is there only with the
    "utility" capability; and a container that ran through `systemctl daemon-reload` on its host may
    have lost its devices ("Unknown Error"): restart it.
    """
    if not (yield from _is_here(machine)):
        return
    error = machine.nvml.error
    if isinstance(error, Unknown):
        yield NotChecked(why=error.why)
        return
    if error is None:
        return
    if isinstance(machine.host.tegra, str):
        yield NotApplicable(why="Jetson boards have no NVML before JetPack 7")
        return
    code = error.code if isinstance(error.code, int) else None
    if code is None and error.call != "open":
        yield Symptom(
            saw=f"{error.call}: {error.message}",
            fix=HANGING_FIX,
            commands=HANGING_COMMANDS,
            explained_by=("GPU001", "DRV017"),
        )
        return
    if code is None:
        saw, fix, commands = _not_loadable(machine, "libnvidia-ml.so.1", error.message)
        init = machine.driver.cuda_init
        neither = isinstance(init, CudaInit) and init.library is None and init.error is None
        yield Symptom(
            saw=saw,
            fix=fix,
            commands=commands,
            explained_by=(*CAUSES_OF_NVML_ERRORS[12], *(("DRV009",) if neither else ())),
        )
        return
    if code == NVML_UNKNOWN and _is_container(machine):
        yield Symptom(
            saw=f"{error.call} fails with NVML_ERROR_UNKNOWN (999) in this container",
            fix="Restart the container. If it worked before, it has lost its right to open "
            "/dev/nvidia*, mostly by a `systemctl daemon-reload` on the host: give it the devices "
            "by CDI (`--device nvidia.com/gpu=all`), or let Docker use the cgroupfs driver.",
            explained_by=CAUSES_OF_NVML_ERRORS[code],
        )
        return
    from gpucheck.knowledge.cuda_errors import nvml_error

    row = nvml_error(code)
    yield Symptom(
        saw=f"{error.call} fails with {row.name if row else 'NVML error'} ({code}): "
        f"{row.meaning if row else error.message}",
        fix=f"{_sentence(row.fix)} Usual causes: {'; '.join(row.causes)}."
        if row
        else "Restart the machine; update the driver if it happens again.",
        explained_by=CAUSES_OF_NVML_ERRORS.get(code, ()),
    )


@rule(
    "DRV017",
    Severity.WARNING,
    "The kernel log says that a GPU failed to initialise",
    caused_by=("DRV006",),
)
def adapter_failed(machine: Snapshot) -> Answers:
    """A GPU that fails to start may come and go: work that lands on it dies.

    "RmInitAdapter failed" is the driver's way of saying that it could not bring a GPU up since
    this start of the machine. With a driver that suits the GPU the reasons are power, heat, the
    slot, or a defective board; after a driver update without a restart it may be the firmware file.
    """
    if not (yield from _is_here(machine)):
        return
    failures = yield from known(machine.kernel_log.adapter_failures)
    gpus = () if isinstance(machine.nvml.gpus, Unknown) else machine.nvml.gpus
    if not failures:
        return
    unseen = {gpu.bus_id: gpu for gpu in _unseen_gpus(machine) or ()}
    for name in failures:
        causes = ["GPU001"] if _fell_off(machine, name) else []
        if name in unseen and _is_unsuited(machine, unseen[name]):
            causes.append("DRV012")
        is_well = any(gpu.bus_id == name and gpu.state == "ok" for gpu in gpus)
        yield Symptom(
            subject=name,
            saw=f"RmInitAdapter failed for {name} since this start of the machine"
            + ("; NVML sees that GPU now" if is_well else ""),
            fix="Read what the driver wrote before that line; restart the machine, and check the "
            "board's power and seat if it happens again.",
            commands=("sudo dmesg | grep -i nvrm",),
            explained_by=tuple(causes),
        )
