"""Tells how far this machine's driver reaches: which CUDA it runs, and on which GPUs."""

from gpucheck.knowledge import driver_cuda
from gpucheck.snapshot import (
    CudaInit,
    Distribution,
    Framework,
    Gpu,
    Known,
    PciGpu,
    Snapshot,
    Unknown,
    value,
)
from gpucheck.versions import version_tuple


def has_gpu(machine: Snapshot) -> Known[bool]:
    """Tell whether an NVIDIA GPU is here, by whoever sees one: NVML, CUDA, the bus, the board."""
    nvml, host, init = machine.nvml.count, machine.host, machine.driver.cuda_init
    if isinstance(nvml, int) and nvml > 0:
        return True
    if isinstance(init, CudaInit) and isinstance(init.device_count, int) and init.device_count > 0:
        return True
    if isinstance(host.pci_gpus, Unknown):
        return host.pci_gpus
    if host.pci_gpus or isinstance(host.tegra, str):
        return True
    if host.is_wsl is True and not isinstance(nvml, int):
        return Unknown("WSL shows its GPUs through the driver alone, which does not answer")
    return False


def driver_version(machine: Snapshot) -> str | None:
    """Return the driver's version by its kernel module, else by NVML; None: none is known."""
    for version in (machine.driver.module_version, machine.nvml.driver_version):
        if isinstance(version, str):
            return version
    return None


def newest_cuda(machine: Snapshot) -> str | None:
    """Return the newest CUDA whose every feature the driver here has; None: not known.

    What libcuda answered comes first: with a compatibility package it is that package's word.
    """
    init = machine.driver.cuda_init
    if isinstance(init, CudaInit) and isinstance(init.driver_version, str):
        return init.driver_version
    if isinstance(machine.nvml.cuda_version, str):
        return machine.nvml.cuda_version
    driver = driver_version(machine)
    return None if driver is None else driver_cuda.newest_cuda_of(driver)


def compat_library(machine: Snapshot) -> str | None:
    """Return the driver version of the compatibility libcuda that the loader takes, if it does."""
    if isinstance(machine.driver.libraries, Unknown):
        return None
    for library in machine.driver.libraries:
        if library.is_selected and library.is_compat and library.soname == "libcuda.so.1":
            return library.version if isinstance(library.version, str) else ""
    return None


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

    That is the one beside torch, else the first on the path.
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

    What libcuda or NVML said outranks the table; with a compatibility library in use it is that
    library's release that counts, unless it is older than the driver.
    """
    driver, newest = driver_version(machine), newest_cuda(machine)
    compat = compat_library(machine)
    if compat:
        # One older than the driver takes nothing from what the driver runs: ENV016 has it removed.
        best = driver if driver and version_tuple(compat) < version_tuple(driver) else compat
        newest = driver_cuda.newest_cuda_of(best) or newest
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
    return sum(link.is_up is True for link in value(gpu.nvlinks) or ())


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
