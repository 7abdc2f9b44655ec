"""Puts torch and every GPU to work, and reports what happens as it happens: `doctor --deep`."""

# What fails must be reported whatever it is, and torch is imported only when that is reported too.
# ruff: noqa: BLE001, PLW0603

from __future__ import annotations

import re
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Callable

from .channel import emit, reserve_stdout
from .cuda_device import bus_id

if TYPE_CHECKING:
    import torch

DEVICE = "cuda"


def main(load_seconds: str = "0") -> None:
    """Import torch, ask it for GPUs, put each to work, copy between them, keep them under load."""
    reserve_stdout()
    if not import_torch():
        return
    sound = [index for index in range(ask_for_gpus()) if put_to_work(index)]
    copy_between(sound)
    emit("worked")
    report_mapped_libraries()
    sustain_load(sound, float(load_seconds))
    emit("done")


def import_torch() -> bool:
    """Import torch for all functions here, and report what it is."""
    global torch
    emit("step", text="importing torch")
    try:
        import torch
        import torch.nn.functional
    except BaseException as error:
        emit("torch", import_error=text_of(error), cuda=None)
        return False
    emit("torch", import_error=None, cuda=getattr(torch.version, "cuda", None))
    return True


def ask_for_gpus() -> int:
    """Report what torch says of itself and of CUDA; return how many GPUs it sees."""
    emit("step", text="asking torch for GPUs")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
        # device_count() asks NVML where it can; what counts here is what CUDA itself shows.
        counted = getattr(torch._C, "_cuda_getDeviceCount", torch.cuda.device_count)
        count = counted() if available else 0
    warning = next((str(each.message) for each in caught), None)
    if not available and warning is None:
        try:
            torch.cuda.init()
        except Exception as error:
            warning = text_of(error)
    emit("cuda", is_available=available, device_count=count, warning=warning)
    try:
        emit("architectures", names=list(torch.cuda.get_arch_list()), error=None)
    except Exception as error:
        emit("architectures", names=None, error=text_of(error))
    try:
        emit("torch cudnn", number=torch.backends.cudnn.version(), error=None)
    except Exception as error:
        emit("torch cudnn", number=None, error=text_of(error))
    return count


def put_to_work(index: int) -> bool:
    """Do every piece of work on one GPU; return whether all of it came out right."""
    emit("step", text=f"waking gpu {index}", gpu=index)
    try:
        emit("gpu", gpu=index, bus_id=bus_id(index) if DEVICE == "cuda" else None)
    except Exception:
        emit("gpu", gpu=index, bus_id=None)
    is_sound = True
    for name, words, work in (
        ("kernel", "a small kernel", small_kernel),
        ("matrix_product", "a matrix product", matrix_product),
        ("convolution", "a cuDNN convolution", convolution),
    ):
        emit("step", text=f"{words} on gpu {index}", gpu=index, work=name)
        wrong = attempt(work, index)
        is_sound = is_sound and wrong is None
        emit("work", gpu=index, work=name, error=wrong)
    return is_sound


def copy_between(sound: list[int]) -> None:
    """Send 16 MiB from every GPU to every other, and hold what arrives against what was sent."""
    bits = integers(4 << 20, reach=(1 << 31) - 1, seed=5).int()

    def copy(source: int, target: int) -> str | None:
        arrived = bits.to(f"{DEVICE}:{source}").to(f"{DEVICE}:{target}").cpu()
        differ = int((arrived != bits).sum())
        return f"{differ} of {bits.numel()} words came back different" if differ else None

    for source in sound:
        for target in sound:
            if source != target:
                step = f"a copy from gpu {source} to gpu {target}"
                emit("step", text=step, source=source, target=target)
                wrong = attempt(copy, source, target)
                emit("copied", source=source, target=target, error=wrong)


def report_mapped_libraries() -> None:
    """Report which of CUDA's libraries this process holds."""
    mapped = set()
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(None, 5)
                path = fields[5].replace(" (deleted)", "") if len(fields) == 6 else ""
                file = path.rpartition("/")[2]
                if re.match(r"lib(cu|nv|nccl)[\w.+-]*\.so", file) and path.startswith("/"):
                    mapped.add(path)
        emit("mapped", paths=sorted(mapped), error=None)
    except OSError as error:
        emit("mapped", paths=None, error=text_of(error))


def sustain_load(sound: list[int], seconds: float) -> None:
    """Keep the GPUs under load: another process reads now what is worth reading under load."""
    if seconds <= 0 or not sound:
        return
    loads = [torch.ones(4096, 4096, device=f"{DEVICE}:{index}").half() for index in sound]
    emit("loaded")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for load in loads:
            for _ in range(8):
                torch.mm(load, load)
        for index in sound:
            torch.cuda.synchronize(index)


def text_of(error: BaseException) -> str:
    """Return what an error says, in one line."""
    lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
    # CUDA errors go on for lines of advice; import errors have their cause in the last.
    line = lines[0] if type(error).__name__ in {"RuntimeError", "AcceleratorError"} else lines[-1]
    return line.strip()[:1000]


def attempt(work: Callable[..., str | None], *numbers: int) -> str | None:
    """Do one piece of work to its end; return what went wrong in it, None where nothing did."""
    try:
        wrong = work(*numbers)
        for index in numbers:
            torch.cuda.synchronize(index)  # so that its errors are its own
        return wrong
    except Exception as error:
        return text_of(error)


def integers(*shape: int, reach: int, seed: int) -> torch.Tensor:
    """Return whole numbers from -reach to reach: their sums and products are exact."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-reach, reach + 1, shape, generator=generator)


def compare(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 0.0) -> str | None:
    """Return how many numbers differ; None where none does."""
    difference = (found.cpu().double() - expected.double()).abs()
    wrong = int((~(difference <= tolerance)).sum())
    if not wrong:
        return None
    return (
        f"wrong result: {wrong} of {expected.numel()} numbers differ, by up to {difference.max():g}"
    )


def small_kernel(index: int) -> str | None:
    """Multiply and add whole numbers."""
    numbers = torch.arange(1 << 20)
    return compare(numbers.to(f"{DEVICE}:{index}") * 3 + 1, numbers * 3 + 1)


def matrix_product(index: int) -> str | None:
    """Multiply matrices of small whole numbers: exact in float32, and in TF32 and half too."""
    left = integers(1024, 1024, reach=8, seed=1).double()
    right = integers(1024, 1024, reach=8, seed=2).double()
    wrong = compare(
        left.float().to(f"{DEVICE}:{index}") @ right.float().to(f"{DEVICE}:{index}"), left @ right
    )
    if wrong is not None:
        return "in float32: " + wrong
    left, right = left.clamp(-1, 1)[:512, :512], right.clamp(-1, 1)[:512, :512]
    wrong = compare(
        left.half().to(f"{DEVICE}:{index}") @ right.half().to(f"{DEVICE}:{index}"), left @ right
    )
    return None if wrong is None else "in float16: " + wrong


def convolution(index: int) -> str | None:
    """Convolve whole numbers by cuDNN: whatever algorithm it takes is right to a small fraction."""
    if DEVICE == "cuda" and not torch.backends.cudnn.is_available():
        return "cuDNN is not available to torch"
    torch.backends.cudnn.enabled = True
    torch.backends.cudnn.benchmark = False
    image = integers(8, 16, 32, 32, reach=4, seed=3).float()
    weight = integers(32, 16, 3, 3, reach=4, seed=4).float()
    with torch.no_grad():
        found = torch.nn.functional.conv2d(
            image.to(f"{DEVICE}:{index}"), weight.to(f"{DEVICE}:{index}"), padding=1
        )
        expected = torch.nn.functional.conv2d(image.double(), weight.double(), padding=1)
    return compare(found, expected, tolerance=0.05)
