"""Rules about the variables that choose GPUs: ENV018 to ENV022."""

import re
from dataclasses import dataclass

from gpucheck import derived
from gpucheck.remedies import variables
from gpucheck.rule import (
    Answers,
    NotApplicable,
    NotChecked,
    Obstacle,
    Remedy,
    Severity,
    Symptom,
    command,
    gpus_of,
    known,
    rule,
)
from gpucheck.snapshot import Gpu, Snapshot, Unknown, value
from gpucheck.wording import count, listed

_NAME = "CUDA_VISIBLE_DEVICES"
#: These hide GPUs on purpose, wherever they are in the list.
_ENDS = ("-1", "NoDevFiles")
_NUMBER = re.compile(r"\s*(-0+|\+?[0-9]+)(?![0-9])")
_SEPARATED = re.compile(r"\s*[0-9]+(?:\s*[;:|/]\s*|\s+)[0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """CUDA_VISIBLE_DEVICES as the driver reads it: up to the first element that names no GPU."""

    text: str
    elements: tuple[str, ...]
    gpus: tuple[Gpu, ...]
    kept: tuple[tuple[str, str], ...]  # an element, and one name for the device that it means
    stopped_by: str | None = None  # the element that names no GPU; None: all do
    why: str = ""  # what is wrong with that element
    unknown: str = ""  # why the rest cannot be read; "": it can

    @property
    def names(self) -> str:
        return listed([element.strip() for element, _ in self.kept])


def read(text: str, gpus: tuple[Gpu, ...]) -> Reading:
    """Read *text* as the driver does.

    Measured on 2 × H100 with driver 580: `0x1`, `1a`, `0;1`, `0 1`, `-0` and `+1` are read by
    their leading digits and leave one GPU each; `1,9,0` leaves GPU 1; `0,,1` GPU 0; `all` and a
    quoted list none. Documented: CUDA C++ Programming Guide, "CUDA Environment Variables".
    """
    elements = tuple(text.split(","))
    kept: list[tuple[str, str]] = []
    for element in elements:
        bare = element.strip()
        device = None if bare in _ENDS or not bare else _device(bare, gpus)
        if isinstance(device, Unknown):
            return Reading(
                text=text, elements=elements, gpus=gpus, kept=tuple(kept), unknown=device.why
            )
        if device is None or isinstance(device, _NoGpu):
            why = device.why if isinstance(device, _NoGpu) else ""
            return Reading(
                text=text,
                elements=elements,
                gpus=gpus,
                kept=tuple(kept),
                stopped_by=bare,
                why=why,
            )
        kept.append((element, device))
    return Reading(text=text, elements=elements, gpus=gpus, kept=tuple(kept))


@dataclass(frozen=True, slots=True)
class _NoGpu:
    """An element that names no GPU."""

    why: str


def _device(element: str, gpus: tuple[Gpu, ...]) -> str | _NoGpu | Unknown:
    """Return one name for the device that *element* means. Indexes go in NVML's order."""
    if element.startswith("MIG-"):
        return _mig_device(element, gpus)
    if element.startswith("GPU-"):
        uuids: list[str] = []
        for gpu in gpus:
            if isinstance(gpu.uuid, Unknown):
                return gpu.uuid
            uuids.append(value(gpu.uuid) or "")
        return _by_prefix(element, uuids, "GPU")
    found = _NUMBER.match(element)
    if found is None:
        quotes = "the quotes are part of the value" if element[:1] in "\"'“”" else ""
        return _NoGpu(quotes or "it is neither an index nor a UUID")
    if any(gpu.mig_is_on is True for gpu in gpus):
        return Unknown("MIG is on, and what an index then means is up to CUDA")
    index = abs(int(found[1][:9]))
    if index < len(gpus):
        uuid = value(gpus[index].uuid)
        return uuid.lower() if uuid is not None else str(index)
    if len(gpus) < 3:
        return _NoGpu("only GPU 0 is here" if len(gpus) == 1 else "GPUs 0 and 1 are here")
    return _NoGpu(f"GPUs 0 to {len(gpus) - 1} are here")


def _mig_device(element: str, gpus: tuple[Gpu, ...]) -> str | _NoGpu | Unknown:
    devices: list[str] = []
    for gpu in gpus:
        if isinstance(gpu.mig_devices, tuple):
            devices += gpu.mig_devices
        elif isinstance(gpu.mig_devices, Unknown):
            return gpu.mig_devices
    if element.startswith("MIG-GPU-"):
        return Unknown("the old form of MIG names is not looked up")
    return _by_prefix(element, devices, "MIG device")


def _by_prefix(element: str, names: list[str], kind: str) -> str | _NoGpu:
    fitting = [name.lower() for name in names if name.lower().startswith(element.lower())]
    if len(fitting) == 1:
        return fitting[0]
    return _NoGpu(f"{len(fitting)} {kind}s begin so" if fitting else f"no {kind} here has it")


def _reading(machine: Snapshot) -> Reading | Obstacle:
    """Return CUDA_VISIBLE_DEVICES as it is read here; else why there is no question."""
    text = machine.environment.variable(_NAME)
    if isinstance(text, Unknown):
        return NotChecked.because(text, _NAME)
    if text is None:
        return NotApplicable(why=f"{_NAME} is not set")
    gpus = machine.nvml.gpus
    if isinstance(gpus, Unknown):
        # With no NVML there is nothing to count; with no GPU at all there is nothing to hide.
        if derived.has_gpu(machine) is False:
            return NotApplicable(why="no NVIDIA GPU here")
        return NotChecked.because(gpus, _NAME)
    if not gpus:
        return NotApplicable(why="no NVIDIA GPU here")
    return read(text, gpus)


def _lost_gpu(machine: Snapshot, element: str) -> tuple[str, ...]:
    """Return what hides a GPU, where the bus has so many GPUs that the index would be right."""
    gpus, found = value(machine.host.pci_gpus) or (), _NUMBER.match(element)
    if found is not None and abs(int(found[1][:9])) < len(gpus):
        return "DRV015", "HST009"
    return ()


@rule("ENV018", Severity.ERROR, "CUDA_VISIBLE_DEVICES hides every GPU")
def every_gpu_is_hidden(machine: Snapshot) -> Answers:
    """CUDA shows a program only the GPUs that this variable names, and it names none that exists.

    `torch.cuda.is_available()` is then False and nvidia-smi still shows all GPUs, because it does
    not read the variable. Empty, `-1` and `NoDevFiles` hide everything on purpose; a list is read
    up to its first element that fits no GPU, so a wrong first element hides everything too.
    """
    reading = _reading(machine)
    if not isinstance(reading, Reading):
        yield reading
        return
    if reading.kept or derived.cuda_gpus(machine):
        return
    if reading.unknown:
        yield NotChecked(why=reading.unknown, subject=_NAME)
        return
    first = reading.stopped_by or ""
    if reading.why:
        why = f"{first!r} is no GPU ({reading.why})"
    else:
        why = f"it hides {count(len(reading.gpus), 'GPU')}"
    yield Symptom(
        saw=f"{_NAME} is {reading.text!r}: {why}",
        remedy=_shown_again(machine),
        subject=_NAME,
        explained_by=_lost_gpu(machine, first),
    )


def _shown_again(machine: Snapshot) -> Remedy:
    who = [setter.name for setter in variables.setters(machine, _NAME)]
    if any(name.startswith("Ray") for name in who):
        return Remedy("Ask Ray for a GPU: give this task or actor num_gpus=1 (or more)")
    if any(name.startswith("Slurm") for name in who):
        return Remedy(
            "Ask Slurm for a GPU",
            steps=(command("srun --gres=gpu:1 --pty bash -l", lasts="shell"),),
        )
    return variables.unset(machine, _NAME, text="Unset it, or name the GPUs that you want")


@rule(
    "ENV019",
    Severity.ERROR,
    "CUDA_VISIBLE_DEVICES names a GPU that is not there",
    caused_by=("ENV018",),
)
def hidden_from_here_on(machine: Snapshot) -> Answers:
    """CUDA reads this list up to the first element that fits no GPU, and ignores all behind it.

    A program then sees fewer GPUs than the list names, without a word. Elements are separated by
    commas: of `0;1` or `0 1` CUDA reads the first number alone. Numbers begin at 0; a UUID may be
    shortened as long as only one GPU's begins so. (`-1` ends the list on purpose.)
    """
    reading = _reading(machine)
    if not isinstance(reading, Reading):
        yield reading
        return
    seen = derived.cuda_gpus(machine)
    wanted = [number for element in reading.elements for number in re.findall(r"[0-9]+", element)]
    joined = next((e for e, _ in reading.kept if _SEPARATED.match(e)), None)
    if joined is not None:
        if seen is None or seen < len(set(wanted)):
            yield _wrong_separator(machine, reading, wanted)
        return
    if reading.unknown:
        yield NotChecked(why=reading.unknown, subject=_NAME)
        return
    odd = next((e.strip() for e, _ in reading.kept if _is_odd(e)), None)
    if odd is not None:
        yield Symptom(
            saw=f"{_NAME} is {reading.text!r}: of {odd!r} CUDA reads the leading digits alone",
            remedy=Remedy("Write plain numbers, separated by commas"),
            subject=_NAME,
            severity=Severity.INFO,
        )
    if reading.stopped_by is None:
        return
    if not reading.kept:
        yield NotApplicable(why="the first element hides every GPU (ENV018)")
        return
    is_last = len(reading.kept) == len(reading.elements) - 1
    if reading.stopped_by in _ENDS or (not reading.stopped_by and is_last):
        return
    if seen is not None and seen > len(reading.kept):
        return  # CUDA itself sees more than this reading
    why = f" ({reading.why})" if reading.why else ""
    yield Symptom(
        saw=f"{_NAME} is {reading.text!r}: {reading.stopped_by!r} is no GPU{why}; "
        f"CUDA sees {reading.names} alone",
        remedy=variables.set_variable(
            machine,
            _NAME,
            ",".join(element.strip() for element, _ in reading.kept),
            "Name only GPUs that `nvidia-smi -L` lists",
        ),
        subject=_NAME,
        explained_by=_lost_gpu(machine, reading.stopped_by),
    )


def _wrong_separator(machine: Snapshot, reading: Reading, wanted: list[str]) -> Symptom:
    seen = derived.cuda_gpus(machine) or len(reading.kept)
    return Symptom(
        saw=f"{_NAME} is {reading.text!r}: CUDA reads the first number alone and sees "
        f"{count(seen, 'GPU')}",
        remedy=variables.set_variable(
            machine, _NAME, ",".join(wanted), "Separate the GPUs by commas"
        ),
        subject=_NAME,
    )


def _is_odd(element: str) -> bool:
    """Whether more follows the digits of an index."""
    bare = element.strip()
    found = _NUMBER.match(bare)
    return found is not None and found.end() < len(bare) and not bare.startswith(("GPU-", "MIG-"))


@rule("ENV020", Severity.ERROR, "CUDA_VISIBLE_DEVICES names one GPU twice")
def named_twice(machine: Snapshot) -> Answers:
    """A GPU that is in the list twice makes CUDA refuse it: no device is visible at all.

    An index and a UUID that mean the same GPU count as twice too.
    """
    reading = _reading(machine)
    if not isinstance(reading, Reading):
        yield reading
        return
    kinds = {element.strip()[:1].isalpha() for element, _ in reading.kept}
    if len(kinds) > 1 and len({gpu.name for gpu in reading.gpus}) > 1:
        why = "which GPU an index means is up to CUDA where models differ"
        yield NotChecked(why=why, subject=_NAME)
        return
    if derived.cuda_gpus(machine):
        return
    found: dict[str, str] = {}
    for element, device in reading.kept:
        if device in found:
            yield Symptom(
                saw=f"{_NAME} is {reading.text!r}: {found[device]} and {element.strip()} are "
                "one GPU",
                remedy=variables.set_variable(
                    machine, _NAME, ",".join(found.values()), "Name each GPU once"
                ),
                subject=_NAME,
            )
            return
        found[device] = element.strip()


@rule("ENV021", Severity.WARNING, "CUDA and nvidia-smi number the GPUs differently")
def numbers_differ(machine: Snapshot) -> Answers:
    """With GPUs of different models, CUDA puts the fastest first; nvidia-smi goes by the bus.

    GPU 0 of a program is then another card than GPU 0 of nvidia-smi, and CUDA_VISIBLE_DEVICES=0
    takes the wrong one. With CUDA_DEVICE_ORDER=PCI_BUS_ID both count the same way.
    """
    gpus = yield from gpus_of(machine)
    if len(gpus) == 1:
        yield NotApplicable(why="fewer than two GPUs")
    if len(gpus) < 2:
        return
    names: list[str] = []
    for gpu in gpus:
        name = yield from known(gpu.name, gpu.subject)
        if name is None:
            return
        names.append(name)
    if len(set(names)) < 2:
        return
    order = machine.environment.variable("CUDA_DEVICE_ORDER")
    if isinstance(order, Unknown):
        yield NotChecked.because(order)
    elif order != "PCI_BUS_ID":
        how = "not set" if order is None else repr(order)
        yield Symptom(
            saw=f"the GPUs are {listed(sorted(set(names)))}, and CUDA_DEVICE_ORDER is {how}",
            remedy=variables.set_variable(
                machine,
                "CUDA_DEVICE_ORDER",
                "PCI_BUS_ID",
                "Let CUDA number the GPUs by the bus, as nvidia-smi does",
            ),
            subject="CUDA_DEVICE_ORDER",
        )


# ------------------------------------------------------------------------- what a container asks


@rule("ENV022", Severity.ERROR, "The container did not ask for GPUs, or for all of the driver")
def container_asked_for_nothing(machine: Snapshot) -> Answers:
    """The NVIDIA Container Toolkit gives a container what these two variables ask for, no more.

    NVIDIA_VISIBLE_DEVICES chooses the GPUs: `void` and the empty value ask for nothing at all,
    `none` for the driver with no GPU. NVIDIA_DRIVER_CAPABILITIES chooses the driver's parts:
    without `compute` there is no libcuda, without `utility` no nvidia-smi and no NVML. They are
    read when the container is started; changing them inside does nothing.

    Where GPUs came in by another way (CDI sets `void` itself), all is well and nothing is said.
    """
    container = yield from known(machine.host.container, absent="not in a container")
    if container is None:
        return
    driver, nvml = machine.driver, machine.nvml
    is_wsl = machine.host.is_wsl is True
    if machine.host.pci_gpus == () and driver.module_version is None and not is_wsl:
        yield NotApplicable(why="the host has no NVIDIA GPU")
        return
    devices = machine.environment.variable("NVIDIA_VISIBLE_DEVICES")
    if isinstance(devices, Unknown):
        yield NotChecked.because(devices)
        return
    if devices in ("", "none", "void") and not _has_nodes(machine):
        if isinstance(nvml.count, Unknown) and isinstance(driver.device_nodes, Unknown):
            yield NotChecked.because(driver.device_nodes, "NVIDIA_VISIBLE_DEVICES")
        elif not value(nvml.count):
            yield Symptom(
                saw=f"NVIDIA_VISIBLE_DEVICES is {devices!r}, and no GPU is here",
                remedy=_start_again(container, "NVIDIA_VISIBLE_DEVICES=all"),
                subject="NVIDIA_VISIBLE_DEVICES",
            )
    yield from _capabilities(machine, container)


def _has_nodes(machine: Snapshot) -> bool:
    return any(
        node.exists and derived.is_gpu_path(node.path)
        for node in value(machine.driver.device_nodes) or ()
    )


def _capabilities(machine: Snapshot, container: str) -> Answers:
    capabilities = machine.environment.variable("NVIDIA_DRIVER_CAPABILITIES")
    if not isinstance(capabilities, str) or not capabilities.strip():
        return  # the toolkit's own default has both
    asked = [name.strip() for name in capabilities.split(",")]
    if "all" in asked:
        return
    for part, soname, library, severity in (
        ("compute", "libcuda.so.1", "libcuda", None),
        ("utility", "libnvidia-ml.so.1", "NVML", Severity.WARNING),
    ):
        if part not in asked and not _has_library(machine, soname):
            yield Symptom(
                saw=f"NVIDIA_DRIVER_CAPABILITIES is {capabilities!r}, which leaves out {library}",
                remedy=_start_again(container, "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
                subject="NVIDIA_DRIVER_CAPABILITIES",
                severity=severity,
            )
            return


def _start_again(container: str, setting: str) -> Remedy:
    if container == "kubernetes":
        return Remedy(
            f"Request `nvidia.com/gpu: 1` (or more) in the pod's limits, and set {setting} in "
            "its env where its image sets something else"
        )
    text = f"Start the container again with its GPUs and {setting}"
    if container == "podman":
        return Remedy(
            text,
            steps=(
                command(
                    "podman run --device nvidia.com/gpu=all -e {setting} …",
                    setting=setting,
                    on="host",
                ),
            ),
        )
    return Remedy(
        text, steps=(command("docker run --gpus all -e {setting} …", setting=setting, on="host"),)
    )


def _has_library(machine: Snapshot, soname: str) -> bool:
    return any(
        library.soname == soname and library.is_stub is not True and not library.is_compat
        for library in value(machine.driver.libraries) or ()
    )
