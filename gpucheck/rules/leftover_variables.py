"""Rules about variables that were left set: ENV023, ENV024 and ENV035."""

from gpucheck.conditions import uses_cuda
from gpucheck.remedies import variables
from gpucheck.rule import Answers, NotApplicable, NotChecked, Severity, Symptom, known, rule
from gpucheck.snapshot import SelectedFile, Snapshot, Unknown, value

_OFF = ("", "0", "false", "off", "no", "n")
#: Variables that slow down or change every CUDA program, what they do, and the values that do not.
#: Sources: CUDA C++ Programming Guide, "CUDA Environment Variables"; PyTorch's documentation of
#: its CUDA environment variables; CUDA-GDB's manual for the core dumps.
_DEBUGGING: dict[str, tuple[str, tuple[str, ...]]] = {
    "CUDA_LAUNCH_BLOCKING": ("waits for every kernel", _OFF),
    "CUDA_PROFILE": ("turns the old profiler on", _OFF),
    "COMPUTE_PROFILE": ("turns the old profiler on", _OFF),
    "CUDA_INJECTION32_PATH": ("loads a profiler into every CUDA program", ("",)),
    "CUDA_INJECTION64_PATH": ("loads a profiler into every CUDA program", ("",)),
    "NVIDIA_TF32_OVERRIDE": ("forbids TF32, whatever a program asks for", ("", "1")),
    "CUDA_AUTO_BOOST": ("overrides the clocks' own choice", ("",)),
    "CUDA_FORCE_PTX_JIT": ("compiles every kernel again at start", _OFF),
    "CUDA_DISABLE_PTX_JIT": ("refuses kernels that need compiling", _OFF),
    "CUDA_CACHE_DISABLE": ("compiles kernels again at every start", _OFF),
    "CUDA_DEVICE_WAITS_ON_EXCEPTION": ("makes a failing program wait for a debugger", _OFF),
    "CUDA_ENABLE_COREDUMP_ON_EXCEPTION": ("writes GPU core dumps, of many GB", _OFF),
    "TORCH_USE_CUDA_DSA": ("asks for device-side assertions", _OFF),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("turns off torch's memory cache", _OFF),
    "TORCH_DISTRIBUTED_DEBUG": ("checks every collective", ("", "off", "info")),
    "CUDNN_LOGLEVEL_DBG": ("logs every call into cuDNN", _OFF),
    "LD_DEBUG": ("prints what the loader does", ("",)),
}


@rule("ENV023", Severity.WARNING, "A debugging or profiling variable was left on", when=uses_cuda)
def debugging_is_on(machine: Snapshot) -> Answers:
    """Such a variable slows down, or changes, every CUDA program that is started from this shell.

    They are set to hunt one fault and then forgotten, often in a start-up file. With
    CUDA_LAUNCH_BLOCKING=1 training can take several times as long.
    """
    found = yield from known(machine.environment.variables)
    for variable in found or ():
        does, off = _DEBUGGING.get(variable.name, ("", ()))
        if does and variable.value.strip().lower() not in off:
            yield Symptom(
                saw=f"{variable.name} is {variable.value!r}: it {does}",
                remedy=variables.unset(
                    machine,
                    variable.name,
                    text=f"Unset {variable.name}, unless you are debugging right now",
                ),
                subject=variable.name,
            )


@rule("ENV024", Severity.WARNING, "NCCL's fast paths are switched off")
def nccl_is_hobbled(machine: Snapshot) -> Answers:
    """NCCL carries the traffic between GPUs; with a fast path off, training on several is slower.

    NCCL_P2P_DISABLE sends all traffic between GPUs through the host's memory, NCCL_SHM_DISABLE
    through the network stack, NCCL_IB_DISABLE uses TCP where InfiniBand is here. They are often
    set to get past a hang and then kept. NCCL_NVLS_ENABLE=0 only turns off reductions inside an
    NVSwitch, which some virtual machines need: a note.
    """
    found = yield from known(machine.environment.variables)
    if found is None:
        return
    off = {
        variable.name: variable.value
        for variable in found
        if variable.name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE")
        and variable.value.strip().lower() not in _OFF
    }
    if machine.environment.variable("NCCL_NVLS_ENABLE") == "0":
        off["NCCL_NVLS_ENABLE"] = "0"
    count = value(machine.nvml.count)
    if count is not None and count < 2 and "NCCL_IB_DISABLE" not in off:
        yield NotApplicable(why="fewer than two GPUs")
        return
    for name, text in off.items():
        if name == "NCCL_P2P_DISABLE" and _has_no_p2p(machine):
            continue  # nothing is lost
        if name == "NCCL_IB_DISABLE" and not (yield from known(machine.host.rdma_devices, name)):
            continue
        yield Symptom(
            saw=f"{name} is {text}",
            remedy=variables.unset(
                machine,
                name,
                text=f"Unset {name}, and see whether what it was set for still happens",
            ),
            subject=name,
            severity=Severity.INFO if name == "NCCL_NVLS_ENABLE" else None,
        )


def _has_no_p2p(machine: Snapshot) -> bool:
    """Whether NVML says that no two GPUs here can reach each other anyway."""
    pairs = value(machine.nvml.pairs)
    return bool(pairs) and all(value(p.p2p_read) not in (None, "OK") for p in pairs or ())


#: What a variable's missing file makes its reader do, the distributions that read it, and how bad
#: that is. Sources: see probes/selected_files.py.
_SELECTING: dict[str, tuple[str, tuple[str, ...], Severity | None]] = {
    "BNB_CUDA_VERSION": ("bitsandbytes does not load its library", ("bitsandbytes",), None),
    "TRITON_LIBCUDA_PATH": ("Triton finds no libcuda to link with", ("triton",), None),
    "TRITON_PTXAS_PATH": ("Triton compiles no kernel", ("triton",), None),
    "NUMBA_CUDA_DRIVER": ("Numba finds no CUDA driver", ("numba", "numba-cuda"), None),
    "NUMBAPRO_NVVM": ("Numba compiles no kernel", ("numba", "numba-cuda"), None),
    "XLA_FLAGS": (
        "XLA finds neither libdevice nor ptxas there",
        ("jax", "jaxlib", "tensorflow", "torch-xla"),
        None,
    ),
    "CUDNN_PATH": ("builds look for cuDNN there", ("torch",), Severity.WARNING),
    "CUDNN_HOME": ("builds look for cuDNN there", ("torch",), Severity.WARNING),
    "NCCL_HOME": ("builds look for NCCL there", ("torch",), Severity.WARNING),
}


@rule("ENV035", Severity.ERROR, "A variable selects a file that does not exist", when=uses_cuda)
def selected_file_is_missing(machine: Snapshot) -> Answers:
    """The variable makes a package use a library, compiler or toolkit that is not at that path.

    Such variables get past one problem and outlive it: the toolkit that they name is upgraded or
    removed, or the environment is another one. Unset, each of these packages finds its own.
    """
    selected = yield from known(machine.environment.selected_files)
    for each in selected or ():
        if each.variable not in _SELECTING:
            continue  # of a newer gpucheck's snapshot
        does, readers, severity = _SELECTING[each.variable]
        if isinstance(each.exists, Unknown):
            yield NotChecked.because(each.exists, each.variable)
        elif not each.exists and _has_any(machine, readers):
            yield Symptom(
                saw=f"{_selection(machine, each)}, which does not exist: {does}",
                remedy=variables.unset(machine, each.variable),
                subject=each.variable,
                severity=severity,
            )


def _selection(machine: Snapshot, selected: SelectedFile) -> str:
    text = machine.environment.variable(selected.variable)
    if text == selected.value or not isinstance(text, str):
        return f"{selected.variable} is {selected.value}"
    return f"{selected.variable} is {text!r} and selects {selected.value}"


def _has_any(machine: Snapshot, names: tuple[str, ...]) -> bool:
    """Whether one of the distributions *names* is here; where that is not known, one may be."""
    found = machine.pytorch.distributions
    if not isinstance(found, tuple):
        return True
    return any(each.name.lower().replace("_", "-") in names for each in found)
