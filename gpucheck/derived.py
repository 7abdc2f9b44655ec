"""The one answer to each question that is asked of a snapshot in more than one place.

It is long because each question asked of a snapshot has its one answer here.
"""

from collections.abc import Iterable
from posixpath import dirname

from gpucheck.knowledge import driver_cuda, kernel_module
from gpucheck.knowledge.shells import ShellRow, row_named
from gpucheck.snapshot import (
    DeviceNode,
    Distribution,
    DriverLibrary,
    Framework,
    Gpu,
    Known,
    Maybe,
    PciGpu,
    Snapshot,
    Toolkit,
    Torch,
    Unknown,
    value,
)
from gpucheck.versions import version_tuple


def has_gpu(machine: Snapshot) -> Known[bool]:
    """Tell whether an NVIDIA GPU is here, by whoever sees one: NVML, CUDA, the bus, the board."""
    host = machine.host
    if nvml_works(machine) or cuda_works(machine):
        return True
    if isinstance(host.pci_gpus, Unknown):
        return host.pci_gpus
    if host.pci_gpus or isinstance(host.tegra, str):
        return True
    if host.is_wsl is True and isinstance(machine.nvml.count, Unknown):
        return Unknown("WSL shows its GPUs through the driver alone, which does not answer")
    return False


#: Kernel drivers that hold a GPU for virtual machines.
LENDERS = ("vfio-pci", "pci-stub", "pciback", "xen-pciback")
WSL_LIBRARIES = "/usr/lib/wsl/"
#: `found_via` of a library that is here without the link by which programs ask for it.
FULL_NAME_ONLY = "its full name only"


def own_gpus(machine: Snapshot) -> tuple[PciGpu, ...]:
    """Return the GPUs on the bus that are this system's own: not those lent to virtual machines."""
    gpus = value(machine.host.pci_gpus) or ()
    return tuple(gpu for gpu in gpus if gpu.driver not in LENDERS)


def lent_gpus(machine: Snapshot) -> tuple[PciGpu, ...]:
    """Return the GPUs on the bus that are held for virtual machines."""
    gpus = value(machine.host.pci_gpus) or ()
    return tuple(gpu for gpu in gpus if gpu.driver in LENDERS)


def gpu_count(machine: Snapshot) -> int | Unknown:
    """Return how many GPUs NVML shows, else how many the PCI bus shows."""
    seen = machine.nvml.count
    if isinstance(seen, int) and seen > 0:
        return seen
    gpus = machine.host.pci_gpus
    if isinstance(gpus, tuple) and gpus:
        return len(gpus)
    host = machine.host
    if host.is_wsl is True or isinstance(host.tegra, str):
        return seen if isinstance(seen, Unknown) else Unknown("the GPUs could not be counted")
    return gpus if isinstance(gpus, Unknown) else 0


def nvml_works(machine: Snapshot) -> bool:
    """Whether NVML lists a GPU."""
    return (value(machine.nvml.count) or 0) > 0


def all_are_seen(machine: Snapshot) -> bool:
    """Whether NVML lists as many GPUs as the bus: a hypervisor may show other bus ids."""
    return (value(machine.nvml.count) or 0) >= len(own_gpus(machine)) > 0


def cuda_code(machine: Snapshot) -> int | None:
    """Return what cuInit answered; None where it was not asked, or did not answer."""
    init = value(machine.driver.cuda_init)
    return None if init is None else value(init.code)


def cuda_gpus(machine: Snapshot) -> int | None:
    """Return how many GPUs CUDA shows; None where cuInit was not asked, or failed."""
    init = value(machine.driver.cuda_init)
    return value(init.device_count) if init is not None and init.code == 0 else None


def cuda_works(machine: Snapshot) -> bool:
    """Whether cuInit succeeded and shows a device."""
    return (cuda_gpus(machine) or 0) > 0


def is_virtual(machine: Snapshot) -> bool:
    """Return whether the board sits in a machine that this system does not see."""
    return isinstance(machine.host.hypervisor, str) or machine.host.is_wsl is True


def is_container(machine: Snapshot) -> bool:
    """Whether gpucheck runs inside a container."""
    return isinstance(machine.host.container, str)


def is_driven(machine: Snapshot) -> bool:
    """Whether there is a GPU for this system to drive, by whoever sees one."""
    host = machine.host
    return (
        bool(own_gpus(machine))
        or nvml_works(machine)
        or cuda_works(machine)
        or isinstance(host.tegra, str)
        # The driver itself lists GPUs: a sandbox may hide the bus and not the driver.
        or has_proc_gpus(machine)
        or (host.is_wsl is True and _has_wsl_driver(machine))
    )


def has_proc_gpus(machine: Snapshot) -> bool:
    """Whether the driver lists GPUs in /proc/driver/nvidia/gpus."""
    gpus = machine.driver.proc_gpus
    return not isinstance(gpus, Unknown) and bool(gpus)


def _has_wsl_driver(machine: Snapshot) -> bool:
    libraries = value(machine.driver.libraries) or ()
    return any(library.path.startswith(WSL_LIBRARIES) for library in libraries)


def driver_copies(machine: Snapshot) -> Known[tuple[DriverLibrary, ...]]:
    """Return the libraries that a driver brought: neither stubs nor compatibility libraries."""
    libraries = machine.driver.libraries
    if isinstance(libraries, Unknown):
        return libraries
    return tuple(
        library for library in libraries if library.is_stub is not True and not library.is_compat
    )


def selected_libraries(libraries: Iterable[DriverLibrary]) -> tuple[DriverLibrary, ...]:
    """Return those that the loader takes."""
    return tuple(library for library in libraries if library.is_selected)


def selected_libcuda(machine: Snapshot) -> DriverLibrary | None:
    """Return the libcuda that the loader takes, whoever brought it; None: none is known."""
    selected = selected_libraries(value(machine.driver.libraries) or ())
    return next((library for library in selected if library.soname == "libcuda.so.1"), None)


def driver_version(machine: Snapshot) -> str | None:
    """Return the driver's version: the loaded module's, else NVML's, else its library's.

    None: none is known.
    """
    for version in (machine.driver.module_version, machine.nvml.driver_version):
        if isinstance(version, str):
            return version
    for library in selected_libraries(value(driver_copies(machine)) or ()):
        if isinstance(library.version, str):
            return library.version
    return None


def hidden_gpu_nodes(machine: Snapshot) -> tuple[DeviceNode, ...]:
    """Return the device files of GPUs that the device cgroup keeps from this process."""
    nodes = value(machine.driver.device_nodes) or ()
    return tuple(node for node in nodes if is_gpu_path(node.path) and node.is_denied_by_cgroup)


def is_gpu_path(path: str) -> bool:
    """Whether *path* is a GPU's own device file: /dev/nvidia0, but not /dev/nvidiactl."""
    return path.removeprefix("/dev/nvidia").isdigit()


def slurm_job(machine: Snapshot) -> str | None:
    """Return the Slurm job that gpucheck runs in."""
    return value(machine.environment.variable("SLURM_JOB_ID"))


def job_gpus(machine: Snapshot) -> int | None:
    """Return how many GPUs Slurm gave this job; None: this is no job, or it does not say."""
    if slurm_job(machine) is None:
        return None
    for name in ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES"):
        given = machine.environment.variable(name)
        if isinstance(given, str) and given.strip():
            return len(given.split(","))
    return None


def unseen_gpus(machine: Snapshot) -> tuple[PciGpu, ...] | None:
    """Return the GPUs on the bus that NVML does not list; None where NVML does not say.

    Left out are those that nobody expects there: lent to virtual machines, excluded by a module
    parameter, or kept from this process by the device cgroup.
    """
    nvml = machine.nvml
    hidden = value(machine.driver.excluded_gpus) or ()
    gpus = [
        gpu
        for gpu in own_gpus(machine)
        if gpu.bus_id not in hidden and not is_left_to_nouveau(machine, gpu)
    ]
    if isinstance(nvml.count, Unknown):
        return None
    excluded_by_uuid = sum(name.startswith("GPU-") for name in hidden)
    denied = hidden_gpu_nodes(machine)
    unnamed = sum(not node.bus_id for node in denied)
    named = {node.bus_id for node in denied}
    if nvml.count and nvml.count == job_gpus(machine):
        return ()  # Slurm's own device cgroup, or what is as good
    if nvml.count + excluded_by_uuid + unnamed >= len(gpus):
        return ()  # whatever it calls them: a hypervisor may show other bus ids
    gpus = [gpu for gpu in gpus if gpu.bus_id not in named]
    if nvml.count == 0:
        return tuple(gpus)
    if isinstance(nvml.gpus, Unknown):
        return None
    seen = {gpu.bus_id.lower() for gpu in nvml.gpus if isinstance(gpu.bus_id, str)}
    return tuple(gpu for gpu in gpus if gpu.bus_id.lower() not in seen)


def is_left_to_nouveau(machine: Snapshot, gpu: PciGpu) -> bool:
    """Whether an old card was left to nouveau, which the driver of the other GPUs cannot drive.

    It shows the screen, as it is meant to; the GPUs that compute have the nvidia driver.
    """
    version = value(machine.driver.module_version)
    if gpu.driver != "nouveau" or not nvml_works(machine) or version is None:
        return False
    family = kernel_module.family_of(gpu.device_id)
    last = None if family is None else driver_cuda.last_branch_for(family.compute_capability)
    return last is not None and version_tuple(version)[:1] > (last,)


def newest_cuda(machine: Snapshot) -> str | None:
    """Return the newest CUDA whose every feature the driver here has; None: not known.

    What libcuda answered comes first, then the release of a compatibility library in use. One that
    is older than the driver, which NVML asks too, takes nothing from it: ENV016 has it removed.
    """
    driver, compat = driver_version(machine), compat_library(machine)
    if driver and compat and version_tuple(compat) < version_tuple(driver):
        return driver_cuda.newest_cuda_of(driver)
    init = value(machine.driver.cuda_init)
    if init is not None and isinstance(init.driver_version, str):
        return init.driver_version
    if compat and (newest := driver_cuda.newest_cuda_of(compat)):
        return newest
    if isinstance(machine.nvml.cuda_version, str):
        return machine.nvml.cuda_version
    return None if driver is None else driver_cuda.newest_cuda_of(driver)


def compat_library(machine: Snapshot) -> str | None:
    """Return the driver version of the compatibility libcuda that the loader takes, if it does."""
    libcuda = selected_libcuda(machine)
    if libcuda is None or not libcuda.is_compat:
        return None
    return value(libcuda.version) or ""


def frameworks(machine: Snapshot) -> tuple[Framework, ...]:
    """Return the frameworks other than torch in the examined Python; () where none is known."""
    return value(machine.packages.frameworks) or ()


def other_frameworks(machine: Snapshot) -> tuple[str, ...]:
    """Return what else than torch in this Python is meant for GPUs: "jax 0.6.1", "ctranslate2 4.4".

    An ONNX Runtime or Paddle without CUDA is the CPU's; a jax or TensorFlow without it is a fault.
    """
    found = frameworks(machine)
    known = {each.distribution.replace("-pjrt", "-plugin") for each in found}
    named = [
        f"{each.name} {each.version}"
        for each in found
        if each.is_gpu_build is not False or each.name in ("jax", "TensorFlow")
    ]
    packages = [
        f"{each.name} {each.version}"
        for each in value(machine.packages.gpu_packages) or ()
        if not each.uses_torch and each.name.replace("-pjrt", "-plugin") not in known
    ]
    return tuple(dict.fromkeys([*named, *packages]))


def home_for_builds(machine: Snapshot) -> tuple[str, Maybe[str]]:
    """Return what leads builds to their toolkit, and the home it leads to, in torch's own order.

    That is CUDA_HOME, CUDA_PATH, the first nvcc on PATH, /usr/local/cuda (torch's
    torch/utils/cpp_extension.py, _find_cuda_home). None: it leads to nothing.
    """
    for name, variable in (
        ("CUDA_HOME", machine.environment.cuda_home),
        ("CUDA_PATH", machine.environment.cuda_path),
    ):
        if variable is not None:
            return name, variable if isinstance(variable, Unknown) else variable.resolved
    nvcc = machine.toolkits.first_nvcc
    if nvcc is not None:
        name = "nvcc" if isinstance(nvcc, Unknown) else nvcc
        return name, nvcc if isinstance(nvcc, Unknown) else machine.toolkits.first_nvcc_home
    return "/usr/local/cuda", machine.toolkits.default


def toolkit_for_builds(machine: Snapshot) -> Maybe[Toolkit]:
    """Return the toolkit that builds would use; None where nothing leads to one."""
    installed = machine.toolkits.installed
    _, home = home_for_builds(machine)
    if isinstance(installed, Unknown):
        return installed
    if isinstance(home, Unknown):
        return home
    if home == "/usr":  # a distribution's toolkit: its headers and libraries lie there
        home = DISTRIBUTION_HOME
    return next((toolkit for toolkit in installed if toolkit.home == home), None)


def is_torch_wanted(machine: Snapshot) -> bool:
    """Tell whether somebody means the examined Python for GPU work with torch.

    One that was named or activated is meant, unless another framework is in it; the Python that is
    merely first on PATH is not.
    """
    python = value(machine.pytorch.python)
    return (
        python is not None
        and python.chosen_by in ("--python", "VIRTUAL_ENV", "CONDA_PREFIX")
        and not other_frameworks(machine)
        and has_gpu(machine) is not False
    )


def works_on_gpus(machine: Snapshot) -> bool:
    """Tell whether --deep saw torch imported, and every step of its work pass on every GPU."""
    deep = machine.deep
    if deep is None or deep.import_error is not None:
        return False
    works = value(deep.gpus)
    return bool(works) and all(
        work.kernel is None and work.matrix_product is None and work.convolution is None
        for work in works or ()
    )


def cudnn_is_of_one_version(machine: Snapshot) -> bool:
    """Tell whether all parts of the cuDNN that torch gets are there and of the same version.

    The front is not asked: it is a shim that any of them serves.
    """
    parts = value(machine.cudnn.sublibraries_for_torch) or ()
    versions = {value(part.version) if isinstance(part.path, str) else None for part in parts}
    return len(versions) == 1 and None not in versions


def cudnn_version(machine: Snapshot, path: str) -> str | Unknown:
    """Return the version that the name, the wheel or the header of the cuDNN at *path* gives."""
    for library in value(machine.libraries.resolved) or ():
        if library.path == path and isinstance(library.version, str):
            return library.version
        if library.system_path == path and isinstance(library.system_version, str):
            return library.system_version
    for install in value(machine.cudnn.installs) or ():
        if install.directory == dirname(path) and isinstance(install.version, str):
            return install.version
    return Unknown(f"{path} does not tell its version")


def torch_distribution(machine: Snapshot) -> Distribution | None:
    """Return the distribution of the torch that is imported, else of the first on the path."""
    torch = value(machine.pytorch.torch)
    copies = [each for each in value(machine.pytorch.distributions) or () if each.name == "torch"]
    site = "" if torch is None else torch.location.removesuffix("/torch")
    return next((each for each in copies if each.location == site), next(iter(copies), None))


def torch_requirements(machine: Snapshot) -> tuple[str, ...]:
    """Return what the torch that is imported asks for: "nvidia-cudnn-cu13==9.19.0.56"."""
    torch = torch_distribution(machine)
    return torch.requires if torch is not None else ()


def wheels_here(machine: Snapshot) -> dict[str, Distribution]:
    """Return NVIDIA's library wheels by name: of two copies, the one that torch finds.

    That is the one next to torch, else the first on the path.
    """
    torch = torch_distribution(machine)
    found: dict[str, Distribution] = {}
    for each in value(machine.pytorch.distributions) or ():
        if not each.name.startswith("nvidia-") or each.name == "nvidia-ml-py":
            continue
        if each.name not in found or (torch is not None and each.location == torch.location):
            found[each.name] = each
    return found


def bus_ids_of_working_gpus(machine: Snapshot) -> frozenset[str]:
    """Return the GPUs on which --deep saw a kernel run: that outranks any list."""
    if machine.deep is None:
        return frozenset()
    return frozenset(
        gpu.bus_id
        for gpu in value(machine.deep.gpus) or ()
        if gpu.kernel is None and isinstance(gpu.bus_id, str)
    )


def runs_cuda(machine: Snapshot, cuda: str) -> bool | None:
    """Tell whether the driver here runs programs built for *cuda*; None: it is not known.

    What libcuda or NVML said outranks the table.
    """
    driver, newest = driver_version(machine), newest_cuda(machine)
    if newest is not None:
        have, wanted = version_tuple(newest)[:2], version_tuple(cuda)[:2]
        if have >= wanted:
            return True
        if have[:1] < wanted[:1]:
            return False
    if driver is not None:
        return driver_cuda.driver_runs(driver, cuda)
    return True if newest is not None else None


def compute_capabilities(machine: Snapshot) -> tuple[str, ...]:
    """Return the compute capabilities of the GPUs here, each once, as far as they are known."""
    if isinstance(machine.nvml.gpus, Unknown):
        return ()
    found = [gpu.compute_capability for gpu in machine.nvml.gpus]
    return tuple(dict.fromkeys(each for each in found if isinstance(each, str)))


def slot_of(machine: Snapshot, gpu: Gpu) -> PciGpu | None:
    """Return what the PCI bus shows of *gpu*; None where it does not show it."""
    return next(
        (slot for slot in value(machine.host.pci_gpus) or () if slot.bus_id == gpu.bus_id), None
    )


def nvlinks_up(gpu: Gpu) -> int:
    """Return how many NVLinks of *gpu* are known to be up."""
    return [link.is_up for link in value(gpu.nvlinks) or ()].count(True)


#: How the programs of NVIDIA's Multi-Process Service are called; the kernel keeps 15 letters.
_MPS_PROGRAM = "nvidia-cuda-mps"


def mps_is_running(machine: Snapshot) -> bool:
    """Tell whether the Multi-Process Service shares the GPUs, by whoever shows it."""
    if machine.driver.mps_is_running is True:
        return True
    if isinstance(machine.environment.variable("CUDA_MPS_PIPE_DIRECTORY"), str):
        return True
    return any(
        process.kind == "mps" or (value(process.name) or "").startswith(_MPS_PROGRAM)
        for gpu in value(machine.nvml.gpus) or ()
        for process in value(gpu.processes) or ()
    )


# ------------------------------------------------------------------ the environment and its shell

_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_")
DISTRIBUTION_HOME = "/usr/lib/nvidia-cuda-toolkit"
DEFAULT_LINK = "/usr/local/cuda"


def uses_cuda(machine: Snapshot) -> bool:
    """Whether this machine has anything to do with CUDA; where that is not known, it may have."""
    host, variables = machine.host, machine.environment.variables
    if host.pci_gpus or host.is_wsl is True or host.tegra or machine.toolkits.installed:
        return True  # an Unknown counts: it is no empty tuple
    if isinstance(machine.nvml.count, int) and machine.nvml.count > 0:
        return True
    return isinstance(variables, Unknown) or any(
        variable.name.startswith(_PREFIXES) for variable in variables
    )


def user_shell(machine: Snapshot) -> ShellRow:
    """Return the shell that the user works in; bash where it is not known."""
    return row_named(value(machine.environment.shell))


# --------------------------------------------------------------------------------- the toolkits


def torch_cuda_major(machine: Snapshot) -> int | None:
    """Return the major version of the CUDA that torch is built for; None: not known."""
    torch = machine.pytorch.torch
    if not isinstance(torch, Torch) or torch.build != "cuda" or not isinstance(torch.cuda, str):
        return None
    return next(iter(version_tuple(torch.cuda)), None)


def fits_torch(machine: Snapshot, toolkit: Toolkit) -> bool | None:
    """Whether extensions built with *toolkit* load into torch: the major decides; None: unknown."""
    major = torch_cuda_major(machine)
    if major is None or not isinstance(toolkit.version, str):
        return None
    return version_tuple(toolkit.version)[:1] == (major,)


def driver_runs(machine: Snapshot, toolkit: Toolkit) -> bool | None:
    """Whether the driver here runs what *toolkit* builds; None: no table knows the two."""
    return runs_cuda(machine, toolkit.version) if isinstance(toolkit.version, str) else None


def toolkits_by_preference(machine: Snapshot) -> tuple[Toolkit, ...]:
    """Return the toolkits here, the one to build with first.

    That is one of torch's CUDA major that the driver runs, the newest first. One with a compiler
    goes before one without; one for all users before one of a conda environment or a wheel.
    """
    installed = machine.toolkits.installed
    if isinstance(installed, Unknown):
        return ()

    def rank(toolkit: Toolkit) -> tuple[bool, bool, bool, bool, tuple[int, ...], bool]:
        return (
            isinstance(toolkit.nvcc, str),
            fits_torch(machine, toolkit) is not False,
            driver_runs(machine, toolkit) is not False,
            toolkit.origin not in ("conda", "pip"),
            version_tuple(toolkit.version) if isinstance(toolkit.version, str) else (),
            toolkit.home == machine.toolkits.default,
        )

    return tuple(sorted(installed, key=rank, reverse=True))


def home_name(toolkit: Toolkit) -> str:
    """Return the path by which CUDA_HOME should name *toolkit*.

    /usr/local/cuda outlives an upgrade. A distribution's toolkit has its headers and libraries in
    /usr, where torch's extension builder looks for them too (torch.utils.cpp_extension).
    """
    if toolkit.origin == "distribution" and toolkit.home in (DISTRIBUTION_HOME, "/usr"):
        return "/usr"
    return DEFAULT_LINK if DEFAULT_LINK in toolkit.names else toolkit.home


def recommended_home(machine: Snapshot) -> str | None:
    """Return the CUDA_HOME to recommend; None where no toolkit here would do.

    A toolkit of another CUDA major than torch's is never recommended: CUD003 speaks of it.
    """
    for toolkit in toolkits_by_preference(machine)[:1]:
        if isinstance(toolkit.nvcc, str) and fits_torch(machine, toolkit) is not False:
            return home_name(toolkit)
    return None
