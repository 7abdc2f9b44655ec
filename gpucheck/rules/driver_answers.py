"""Rules about what the driver answers: CUDA's first call, and NVML's."""

from gpucheck.conditions import gpu_to_drive
from gpucheck.derived import FULL_NAME_ONLY, driver_copies, is_container
from gpucheck.knowledge.cuda_errors import ErrorCode, cuda_error, nvml_error
from gpucheck.knowledge.error_causes import causes_of_cuda, causes_of_nvml
from gpucheck.remedies import containers, start_errors, system_packages
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    known,
    rule,
)
from gpucheck.snapshot import CudaInit, Maybe, NvmlError, Snapshot, Unknown, value

CUDA_STUB_LIBRARY = 34  # CUDA_ERROR_STUB_LIBRARY
#: what concerns CUDA's own library alone, so that NVML's failure does not explain it
CUDA_ONLY = (CUDA_STUB_LIBRARY, 803, 804)
NO_DEVICE = 100
MAKE_LINKS = command("ldconfig", root=True, lasts="permanent")
ADD_FOLDER = "export LD_LIBRARY_PATH={folder}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"


@rule(
    "DRV009",
    Severity.ERROR,
    "CUDA does not start",
    caused_by=("DRV001", "DRV002", "DRV003", "HST004", "HST005", "DRV006", "DRV013"),
    when=gpu_to_drive,
)
def cuinit_fails(machine: Snapshot) -> Answers:
    """cuInit is the first call of every CUDA program: where it fails, none of them can start.

    gpucheck makes this one call in a child process with the libraries that a program would get.
    The number says where to look: 34 a stub library; 100 no usable GPU (often a variable hides
    them); 802 a system that is not ready: an NVSwitch or NVLink 5 fabric without its manager, on
    this machine or on its host, or confidential computing that is not set ready; 803 module and
    library of different versions; 804 a compatibility library on a GPU that may not use it; 999
    mostly /dev/nvidia-uvm. A call that does not return is an error too: every program hangs in it.
    """
    init = machine.driver.cuda_init
    if init is None:
        yield NotChecked(why="--quick leaves cuInit out", kind="by design")
        return
    if isinstance(init, Unknown):
        yield NotChecked.because(init)
        return
    if isinstance(init.error, str):
        yield _interrupted(machine, init.error, init.library)
    elif init.library is None or (init.code is None and init.load_error):
        yield _not_loadable(machine, "libcuda.so.1", init.load_error, ("DRV013", "ENV022"))
    elif isinstance(init.code, int) and init.code != 0:
        yield _failed(machine, init.code, init.library)
    elif init.code == 0 and init.device_count == 0:
        yield _failed(machine, NO_DEVICE, init.library)
    elif not isinstance(init.code, int):
        yield NotChecked(why="cuInit gave no code")


def _interrupted(machine: Snapshot, fault: str, library: Maybe[str]) -> Symptom:
    where = f" ({library})" if isinstance(library, str) else ""
    gpus = value(machine.nvml.gpus) or ()
    saw = f"{fault}{where}"
    if fault.startswith("no answer") and any(gpu.persistence is False for gpu in gpus):
        saw += "; persistence is off, which delays the first use by some seconds for each GPU"
    return Symptom(
        saw=saw,
        remedy=start_errors.no_answer(machine),
        explained_by=("GPU001", "GPU002", "GPU003", "DRV017", "DRV006", "DRV016"),
    )


def _not_loadable(
    machine: Snapshot, soname: str, error: Maybe[str], causes: tuple[str, ...]
) -> Symptom:
    """Return what was seen of a driver library that does not load."""
    reason = error if isinstance(error, str) else "no reason given"
    saw = f"{soname} does not load: {reason.removeprefix(f'{soname}: ')}"
    all_copies = [lib for lib in value(driver_copies(machine)) or () if lib.soname == soname]
    copies = [lib for lib in all_copies if lib.found_via != FULL_NAME_ONLY]
    if all_copies and not copies:
        saw += f"; {all_copies[0].path} is here, and no link of that name leads to it"
        remedy = Remedy("Have the links made that programs look for.", (MAKE_LINKS,))
    elif copies and not any(library.is_selected for library in copies):
        folder = copies[0].path.rpartition("/")[0]
        saw += f"; {copies[0].path} is here, where the loader does not look"
        here = command(ADD_FOLDER, lasts="shell", folder=folder)
        remedy = Remedy(f"Let the loader look in {folder}.", (here,))
    elif is_container(machine):
        remedy = Remedy(
            f"Start the container again with {containers.CAPABILITIES}, so that it gets these "
            "libraries."
        )
    elif machine.host.is_wsl is True:
        remedy = start_errors.windows_driver("Update the NVIDIA driver in Windows")
    else:
        remedy = Remedy(
            "Install the driver's libraries, in the version of its kernel module.",
            system_packages.install_driver(machine),
        )
    return Symptom(saw=saw, remedy=remedy, explained_by=causes)


def _same_fault(machine: Snapshot, code: int) -> tuple[str, ...]:
    """NVML asks less of the driver than CUDA: where it cannot start either, that is the cause."""
    error = machine.nvml.error
    is_start = isinstance(error, NvmlError) and isinstance(error.code, int)
    return ("DRV016",) if is_start and code not in CUDA_ONLY else ()


def _failed(machine: Snapshot, code: int, library: Maybe[str]) -> Symptom:
    row = cuda_error(code)
    where = f", from {library}" if isinstance(library, str) else ""
    if row is None:
        return Symptom(
            saw=f"cuInit fails with error {code}{where}",
            remedy=Remedy(
                "Look the number up in NVIDIA's documentation of CUresult: it is newer than "
                "gpucheck's table."
            ),
        )
    return Symptom(
        saw=f"cuInit fails with error {code} ({row.name}: {row.meaning}){where}",
        remedy=start_errors.of_cuda(machine, code) or _published(row),
        explained_by=(*causes_of_cuda(code), *_same_fault(machine, code)),
    )


def _published(row: ErrorCode) -> Remedy:
    text = "; ".join(row.fix)
    return Remedy(f"{text[:1].upper()}{text[1:]}.")


@rule(
    "DRV016",
    Severity.ERROR,
    "NVML does not work",
    caused_by=(
        *("DRV001", "DRV002", "DRV003", "DRV004", "HST004", "HST005", "DRV006", "DRV013"),
        *("DRV012", "HST008"),
    ),
    when=gpu_to_drive,
)
def nvml_fails(machine: Snapshot) -> Answers:
    """NVML is how nvidia-smi, PyTorch and every monitor ask about GPUs: none of them sees any now.

    The library libnvidia-ml.so.1 comes with the driver. It must be of the loaded kernel module's
    version, and must be able to open /dev/nvidiactl. In a container it is there only with the
    "utility" capability; and a container that ran through `systemctl daemon-reload` on its host may
    have lost its devices ("Unknown Error"): create it again. Under WSL the answers are those of
    Windows' driver.
    """
    error = yield from known(machine.nvml.error)
    if error is None:
        return
    if isinstance(machine.host.tegra, str):
        yield NotApplicable(why="Jetson boards have no NVML before JetPack 7")
        return
    code = value(error.code)
    message = value(error.message) or "no answer"
    if code is None and error.call != "open":
        yield Symptom(
            saw=message if error.call in message else f"{error.call}: {message}",
            remedy=start_errors.no_answer(machine),
            explained_by=("GPU001", "DRV017"),
        )
    elif code is None:
        init = machine.driver.cuda_init
        neither = isinstance(init, CudaInit) and init.library is None and init.error is None
        causes = (*causes_of_nvml(12), *(("DRV009",) if neither else ()))
        yield _not_loadable(machine, "libnvidia-ml.so.1", error.message, causes)
    else:
        row = nvml_error(code)
        yield Symptom(
            saw=f"{error.call} fails with {row.name if row else 'NVML error'} ({code}): "
            f"{row.meaning if row else error.message}",
            remedy=start_errors.of_nvml(machine, code)
            or (
                _published(row) if row else Remedy("Reboot; update the driver if it happens again.")
            ),
            explained_by=causes_of_nvml(code),
        )
