"""Answers what rules and reports ask of a burn: its coverage, its faults, who is slow."""

from collections.abc import Iterator, Sequence
from statistics import median

from gpucheck.knowledge import clocks_event_reasons as clocks
from gpucheck.snapshot import Burn, BurnFault, BurnGpu, BurnWork, Gpu, Snapshot, value
from gpucheck.wording import count, listed

PRODUCTS = ("bf16", "fp16", "tf32", "fp32", "fp64", "int8")
NAMES = {
    "memory": "device memory",
    "h2d": "copies from host to device",
    "d2h": "copies from device to host",
    "peer": "copies between GPUs",
    "all-reduce": "all-reduce",
}
#: Phases in which nothing else wants the GPU: their rates are compared.
ALONE = ("tensor", "core")
#: Each GPU of one model reaches at least this share of what the others do.
SIBLINGS_SHARE = 0.92
SAG_SHARE = 0.95
_CLOCK_SHARE = 0.98
_HOTTER_CELSIUS = 15.0
_HEAT = clocks.SW_THERMAL_SLOWDOWN | clocks.HW_THERMAL_SLOWDOWN


def burn_of(machine: Snapshot) -> Burn:
    """Return the burn that `was_burned` has seen."""
    return machine.burn or Burn()


def gpus(machine: Snapshot) -> tuple[BurnGpu, ...]:
    """Return the GPUs that were burned in."""
    return value(burn_of(machine).gpus) or ()


def gpu_at(machine: Snapshot, bus_id: str) -> Gpu | None:
    """Return NVML's GPU at *bus_id*."""
    return next((gpu for gpu in value(machine.nvml.gpus) or () if gpu.bus_id == bus_id), None)


def is_product(fault: BurnFault) -> bool:
    """Return whether a fault is a matrix product; the others are bytes that changed."""
    return fault.kind in PRODUCTS


# ------------------------------------------------------------------------------------ coverage


def done(work: Sequence[BurnWork], kind: str, size: str | None = None) -> BurnWork:
    """Return all work of one kind, whatever the phase."""
    mine = [w for w in work if w.kind == kind and size in (None, w.size)]
    return BurnWork(
        phase="",
        kind=kind,
        size=mine[0].size if mine else "",
        count=sum(each.count for each in mine),
        amount=sum(each.amount for each in mine),
        seconds=sum(each.seconds for each in mine),
    )


def coverage(burn: Burn) -> Iterator[str]:
    """Yield what was computed, written and copied, and compared, in words; least over the GPUs."""
    mine = [gpu.work for gpu in value(burn.gpus) or () if gpu.work]
    if not mine:
        return
    each = "each GPU" if len(mine) > 1 else "the GPU"
    kinds = dict.fromkeys((w.kind, w.size) for work in mine for w in work if w.kind in PRODUCTS)
    products = []
    for kind, size in kinds:
        fewest = min(done(work, kind, size).count for work in mine)
        products.append(f"{amount(fewest)} {kind} of {size.replace('x', '×')}")
    if products:
        yield f"products on {each}, every bit compared: {listed(products)}"
    memory = min(done(work, "memory").amount for work in mine)
    under_test = [held for gpu in value(burn.gpus) or () if (held := value(gpu.memory_bytes))]
    if memory and under_test:
        text = f"{data(min(under_test))} of memory on {each}: {data(memory / 2)} written, "
        yield f"{text}read back and compared"
    copied = [
        f"{data(least)} {NAMES[kind].removeprefix('copies ')}"
        for kind in ("h2d", "d2h")
        if (least := min(done(work, kind).amount for work in mine)) > 0
    ]
    copied += [
        f"{data(done(burn.work, kind).amount)} {words}"
        for kind, words in (("peer", "between GPUs"), ("all-reduce", "added up over all GPUs"))
        if done(burn.work, kind).amount
    ]
    if copied:
        yield f"copied and compared under load: {listed(copied)}"


def amount(number: float) -> str:
    """Return a count as people say it: "1.03 million"."""
    for scale, name in ((1e9, "billion"), (1e6, "million")):
        if number >= scale:
            return f"{number / scale:.3g} {name}"
    return f"{number:,.0f}"


def data(size: float) -> str:
    """Return bytes as people write them: "0.41 PB"."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size / 1e3:.3g} kB"


# -------------------------------------------------------------------------------------- faults


def described(faults: Sequence[BurnFault], machine: Snapshot) -> str:
    """Say what came out wrong, how often, and what is known of its cause."""
    first = faults[0]
    text = _how_often(faults, machine)
    if first.count:
        places = [each.place for each in first.words[:3]]
        text += f"; {count(first.count, 'word')} in the first"
        text += f" ({', '.join(places)})" if places else ""
    else:
        text += "; right again at a second look"
    if bits := sorted({bit for fault in faults for bit in fault.bits}):
        shown = ", ".join(map(str, bits[:8])) + (" …" if len(bits) > 8 else "")
        text += f", {'bit' if len(bits) == 1 else 'bits'} {shown}"
    text += "".join(f"; {each}" for each in _causes(faults, machine))
    mine = next((gpu for gpu in gpus(machine) if (gpu.index,) == first.gpus), None)
    if mine is not None and mine.faults_left_out:
        text += f"; {count(mine.faults_left_out, 'more wrong result')} of this GPU"
    return text


def _how_often(faults: Sequence[BurnFault], machine: Snapshot) -> str:
    first = faults[0]
    mine = next((gpu.work for gpu in gpus(machine) if gpu.index in first.gpus), ())
    if not is_product(first):
        return f"{NAMES.get(first.kind, first.kind)}: {count(len(faults), 'comparison')} failed"
    whole = done(mine, first.kind, first.size).count
    name = f"{first.kind} products of {first.size.replace('x', '×')}"
    return f"{len(faults)} of {amount(max(whole, len(faults)))} {name} wrong"


def _causes(faults: Sequence[BurnFault], machine: Snapshot) -> Iterator[str]:
    first = faults[0]
    repeated, repeats = value(first.repeated), value(first.repeats)
    if repeated is not None and repeats:
        again = f"repeated {repeated} of {repeats} times"
        yield again if repeated else f"not repeatable (0 of {repeats})"
    if not is_product(first):
        return
    changed = [text for fault in faults for text in (value(fault.inputs), value(fault.reference))]
    said = [text for text in changed if text]
    yield said[0] if said else "its inputs were intact"
    others = [gpu for gpu in gpus(machine) if gpu.index not in first.gpus]
    wrong = {index for fault in burn_of(machine).faults if fault.kind == first.kind
             for index in fault.gpus}  # fmt: skip
    right = [
        gpu.index
        for gpu in others
        if done(gpu.work, first.kind, first.size).count and gpu.index not in wrong
    ]
    if right:
        yield f"the same products were right on {count(len(right), 'other GPU')}"


# --------------------------------------------------------------------------------------- rates


def slower_than_siblings(machine: Snapshot) -> Iterator[tuple[BurnGpu, str]]:
    """Yield each GPU that computes slower than the others of its model at the same time."""
    everyone = [gpu for gpu in gpus(machine) if value(gpu.stopped) is None]
    for model in dict.fromkeys(gpu.name for gpu in everyone):
        group = [gpu for gpu in everyone if gpu.name == model]
        for gpu in group if len(group) > 1 else ():
            slow = []
            for kind in PRODUCTS:
                rate = _rate(gpu, kind)
                others = [r for one in group if one is not gpu and (r := _rate(one, kind))]
                if rate and others and rate < SIBLINGS_SHARE * median(others):
                    slow.append(f"{kind} {1 - rate / median(others):.0%} below the others")
            if slow:
                yield gpu, listed(slow)


def _rate(gpu: BurnGpu, kind: str) -> float | None:
    found = done([work for work in gpu.work if work.phase in ALONE], kind)
    return found.amount / found.seconds if found.seconds else None


def sagging(gpu: BurnGpu) -> Iterator[str]:
    """Yield what a GPU computed slower at the end than at first, though its clock did not fall."""
    known = [clock for point in gpu.points if (clock := value(point.clock_sm_mhz))]
    if len(known) < 6 or median(known[-3:]) < _CLOCK_SHARE * median(known[:3]):
        return
    for work in (each for each in gpu.work if each.phase in ALONE):
        first, last = value(work.first_rate), value(work.last_rate)
        if first and last and work.kind in PRODUCTS and last < SAG_SHARE * first:
            yield f"{work.kind} {first:.3g} TFLOP/s at first, {last:.3g} at the end"


def slowdowns(gpu: BurnGpu, elapsed: float) -> Iterator[tuple[str, float]]:
    """Yield each slowdown by the hardware, and for which share of the time it was in force."""
    counters = value(gpu.counters)
    for name, bit, words in (
        ("thermal_slowdown_seconds", clocks.HW_THERMAL_SLOWDOWN, "hardware thermal slowdown"),
        ("power_brake_seconds", clocks.HW_POWER_BRAKE_SLOWDOWN, "hardware power brake"),
    ):
        seconds = None if counters is None else value(getattr(counters, name))
        masks = [mask for p in gpu.points if (mask := value(p.clocks_event_reasons)) is not None]
        if seconds is not None and elapsed > 0:
            yield words, seconds / elapsed
        elif masks:
            yield words, sum(bool(mask & bit) for mask in masks) / len(masks)


def hotter(machine: Snapshot, gpu: BurnGpu) -> str | None:
    """Say by how much a GPU is hotter than its siblings at equal watts and slowed for it."""
    others = [one for one in gpus(machine) if one is not gpu and one.name == gpu.name]
    mine, theirs = _heat(gpu), [heat for one in others if (heat := _heat(one)) is not None]
    if mine is None or not theirs:
        return None
    celsius, watts = mine
    usual, usual_watts = median(t for t, _ in theirs), median(w for _, w in theirs)
    masks = [value(point.clocks_event_reasons) or 0 for point in gpu.points]
    if celsius - usual <= _HOTTER_CELSIUS or watts > 1.1 * usual_watts:
        return None
    if not any(mask & _HEAT for mask in masks):
        return None
    return f"{celsius:.0f} °C at {watts:.0f} W; the others {usual:.0f} °C at {usual_watts:.0f} W"


def _heat(gpu: BurnGpu) -> tuple[float, float] | None:
    heat = [t for point in gpu.points if (t := value(point.temperature_celsius)) is not None]
    watts = [w for point in gpu.points if (w := value(point.power_watts)) is not None]
    return (max(heat), median(watts)) if heat and watts else None


def load_share(gpu: BurnGpu, burn: Burn) -> float | None:
    """Return for which share of the time a GPU had work."""
    return gpu.loaded_seconds / burn.elapsed_seconds if burn.elapsed_seconds else None
