"""Rules about what torch did when it was imported and put to work: TOR007 to TOR009, TOR012."""

from gpucheck.conditions import (
    all_of,
    has_cuda_torch,
    has_gpu,
    has_torch,
    may_have_gpu,
    was_put_to_work,
)
from gpucheck.remedies import python_packages
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
from gpucheck.snapshot import Gpu, GpuWork, Snapshot, Unknown, value
from gpucheck.wording import count

#: What keeps every CUDA program from its GPUs; the nearest to cuInit first.
_NO_CUDA = (
    *("DRV009", "DRV013", "DRV006", "DRV007", "DRV008", "DRV002", "DRV003"),
    *("HST004", "HST005"),
)


@rule(
    "TOR007",
    Severity.ERROR,
    "torch cannot be imported",
    caused_by=("LIB002", "LIB003", "DNN001", "DNN003", "TOR010", "LIB001", "LIB006"),
    when=all_of(has_torch, was_put_to_work),
)
def import_fails(machine: Snapshot) -> Answers:
    """`import torch` ends in an error: nothing that uses it runs, on the CPU neither.

    The last line of the error tells the cause. An undefined symbol: a library of another version
    than torch's own was loaded (LIB001, LIB002). "cannot open shared object file": a library is
    missing, mostly because a wheel's files were deleted (LIB003). "GLIBCXX_3.4.NN not found": the
    C++ library that is loaded is too old (LIB006). "GLIBC_2.NN not found": the wheel is built for a
    newer Linux than this one. "No module named 'numpy'" is only a warning.

    It is asked with --deep alone, since it loads some gigabytes.
    """
    if machine.deep is None:
        return
    error = yield from known(machine.deep.import_error)
    if error is None:
        return
    remedy, explained_by = _import_cause(machine, error)
    yield Symptom(subject=_location(machine), saw=error, remedy=remedy, explained_by=explained_by)


@rule(
    "TOR008",
    Severity.ERROR,
    "torch sees no GPU, and nothing else explains it",
    caused_by=(
        *("TOR002", "TOR003", "TOR004", "ENV018", "ENV022", "ENV016", "TOR010"),
        *(*_NO_CUDA, "DRV012", "DRV010", "GPU016", "DRV001"),
    ),
    when=all_of(has_torch, may_have_gpu, was_put_to_work, has_gpu),
)
def not_available(machine: Snapshot) -> Answers:
    """torch.cuda.is_available() is False, so all work runs on the CPU, slowly and without a word.

    Where the driver, the build or a variable is the cause, that finding explains this one. Else
    torch's own warning is the best clue: it is shown in full.
    """
    deep = machine.deep
    if deep is None:
        return
    if deep.import_error is not None:
        yield from known(deep.import_error)
        yield NotApplicable(why="torch cannot be imported")
        return
    if (yield from known(deep.is_available)) is not False:
        return
    warning = deep.warning if isinstance(deep.warning, str) else "torch gives no reason"
    yield Symptom(
        subject=_location(machine),
        saw=f"torch.cuda.is_available() is False; {warning}",
        remedy=Remedy(
            "Follow torch's own warning. If cuInit works here (DRV009 passed), look for a "
            "library of the wrong version (LIB) and for variables that hide GPUs (ENV)."
        ),
    )


@rule(
    "TOR009",
    Severity.ERROR,
    "Work on a GPU fails, or gives wrong results",
    caused_by=("GPU001",),
    when=all_of(has_torch, may_have_gpu, was_put_to_work),
)
def work_fails(machine: Snapshot) -> Answers:
    """A GPU that cannot do a small sum right cannot be trusted with a training run.

    With --deep every GPU runs a small kernel, a matrix product whose result is known exactly, and
    a cuDNN convolution that is held against the CPU's. An error names what is broken: "no kernel
    image" the build (TOR005), "CUDNN_STATUS…" cuDNN (the family DNN), "out of memory" another
    process. A wrong result with no error is the worst: suspect the GPU's memory, and compare the
    findings of the family GPU.
    """
    if machine.deep is None:
        return
    gpus = yield from known(machine.deep.gpus)
    if gpus is None:
        return
    if not gpus:
        yield NotApplicable(why="torch sees no GPU")
        return
    for work in gpus:
        gpu = _by_nvml(machine, work)
        subject = gpu.subject if gpu is not None else f"gpu {work.index}"
        for what, answer in (
            ("a small kernel", work.kernel),
            ("a matrix product", work.matrix_product),
            ("a cuDNN convolution", work.convolution),
        ):
            if isinstance(answer, Unknown):
                yield NotChecked(why=f"{what}: {answer.why}", subject=subject, kind=answer.kind)
            elif answer is not None:
                remedy, explained_by = _work_cause(machine, answer)
                yield Symptom(
                    subject=subject,
                    gpus=(gpu.index if gpu is not None else work.index,),
                    saw=f"{what}: {answer}",
                    remedy=remedy,
                    explained_by=explained_by,
                )
                break  # what comes after a failed step fails for the same reason


@rule(
    "TOR012",
    Severity.ERROR,
    "torch counts other GPUs than the driver does",
    caused_by=(
        *("TOR008", "TOR002", "TOR003", "TOR004", "ENV019", "ENV020", "ENV018", "GPU001", "GPU002"),
        *("GPU016", "GPU017", *_NO_CUDA, "DRV012", "DRV015"),
    ),
    when=all_of(has_cuda_torch, may_have_gpu, was_put_to_work),
)
def other_count(machine: Snapshot) -> Answers:
    """A job that asks for all GPUs gets another number than the machine has.

    torch counts what cuInit shows it; NVML counts what the driver manages. They differ where
    CUDA_VISIBLE_DEVICES or MIG says so, which is as it should be and is not reported, and else
    where a GPU does not come up for CUDA.
    """
    if machine.deep is None:
        return
    hidden = yield from known(machine.environment.variable("CUDA_VISIBLE_DEVICES"))
    if hidden is not None:
        yield NotApplicable(why="CUDA_VISIBLE_DEVICES chooses")
        return
    listed = yield from known(machine.nvml.count)
    seen = yield from known(machine.deep.device_count)
    if listed is None or seen is None:
        return
    if listed == 0 and seen == 0:
        yield NotApplicable(why="no GPU")
        return
    if any(gpu.mig_is_on is True for gpu in value(machine.nvml.gpus) or ()):
        yield NotApplicable(why="MIG divides the GPUs")
        return
    if listed != seen:
        yield Symptom(
            subject=_location(machine),
            saw=f"torch sees {count(seen, 'GPU')}, NVML {listed}",
            remedy=Remedy(
                "See what cuInit says (DRV009), and whether one of the GPUs is lost (GPU)."
            ),
        )


def _location(machine: Snapshot) -> str:
    torch = value(machine.pytorch.torch)
    return torch.location if torch is not None else ""


def _by_nvml(machine: Snapshot, work: GpuWork) -> Gpu | None:
    """Return the GPU that torch worked on, found by its bus id: torch's numbers are its own."""
    if isinstance(work.bus_id, str):
        for gpu in value(machine.nvml.gpus) or ():
            if gpu.bus_id == work.bus_id:
                return gpu
    return None


# ------------------------------------------------------------------------------ causes of errors


def _import_cause(machine: Snapshot, error: str) -> tuple[Remedy, tuple[str, ...]]:
    """Return the fix for an error of `import torch`, and the findings that may explain it."""
    text = error.lower()
    if "libcudnn" in text:
        remedy = python_packages.wanted_wheels(machine, "nvidia-cudnn", again=True)
        return remedy, ("DNN001", "DNN003", "LIB003", "LIB001", "LIB002")
    if "glibcxx" in text or "cxxabi" in text:
        return (
            Remedy(
                "The C++ library that is loaded is too old for this torch: take the folder that "
                "it comes from off LD_LIBRARY_PATH, or update the environment's libstdc++."
            ),
            ("LIB006",),
        )
    if "undefined symbol" in text or "version `lib" in text:
        return (
            Remedy(
                "A library of another version than torch's own is loaded: see whether it imports "
                "without LD_LIBRARY_PATH; if so, take the CUDA directories out of it.",
                _without_paths(machine),
            ),
            ("LIB001", "LIB002", "LIB004", "TOR006", "TOR011"),
        )
    if "glibc_2." in text:
        return (
            Remedy(
                "This torch is built for a newer Linux: install an older release of torch, or use "
                "a container."
            ),
            (),
        )
    again = python_packages.reinstall_torch(machine)
    if "cannot open shared object file" in text:
        return again, ("LIB003", "DNN001", "LIB001")
    if "no module named" in text or "cannot import name" in text or "circular import" in text:
        elsewhere = (
            "Part of torch is missing, or another folder of that name is in the way: start from "
            "another folder, else install torch again."
        )
        return Remedy(elsewhere, again.steps, verify=again.verify), ("TOR010", "TOR011")
    if "crashed with" in text:
        return (
            Remedy(
                "The import crashes: see whether it does without LD_LIBRARY_PATH and LD_PRELOAD; "
                "if it still crashes, install torch again.",
                _without_paths(machine),
                alternatives=(again,),
            ),
            ("LIB001", "LIB002", "LIB003", "ENV025"),
        )
    return again, ()


def _without_paths(machine: Snapshot) -> tuple[Command, ...]:
    python = value(machine.pytorch.python)
    if python is None:
        return ()
    bare = "env -u LD_LIBRARY_PATH -u LD_PRELOAD {python} -c 'import torch'"
    return (command(bare, python=python.path),)


def _work_cause(machine: Snapshot, error: str) -> tuple[Remedy, tuple[str, ...]]:
    """Return the fix for an error at work, and the findings that may explain it."""
    text = error.lower()
    if "no kernel image" in text:
        return python_packages.replace_torch(machine), ("TOR005",)
    if "cudnn" in text:
        return (
            Remedy(
                "cuDNN does not work here: see the findings about cuDNN (DNN) and libraries (LIB)."
            ),
            ("DNN008", "DNN003", "DNN002", "DNN005", "DNN006", "LIB001", "LIB002", "LIB003"),
        )
    if "out of memory" in text:
        return Remedy("Find out who holds the memory.", (command("nvidia-smi"),)), ("GPU019",)
    if "cublas" in text:
        return (
            Remedy("See whether libraries of another version are loaded (LIB)."),
            ("LIB001", "LIB002"),
        )
    memory = ("GPU004", "GPU006", "GPU020")
    if "ecc" in text or "uncorrectable" in text:
        return Remedy("The GPU's memory fails: see the family GPU."), memory
    return (
        Remedy(
            "Run it again. If it fails on this GPU alone, take that GPU out of use and see the "
            "kernel log."
        ),
        memory,
    )
