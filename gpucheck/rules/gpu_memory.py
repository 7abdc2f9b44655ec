"""Rules about errors of a GPU's memory, and of the record that it keeps of them."""

from collections.abc import Callable

from gpucheck.knowledge import gpus as models
from gpucheck.remedies import gpus as remedies
from gpucheck.rule import (
    Answers,
    Command,
    NotChecked,
    Remedy,
    Severity,
    Symptom,
    command,
    gpu_rule,
    known,
)
from gpucheck.snapshot import (
    Gpu,
    GpuSample,
    RemapHistogram,
    RemappedRows,
    RetiredPages,
    Snapshot,
    value,
)
from gpucheck.wording import count

#: Corrected errors a second, and since the driver loaded, that are more than the odd bit flip.
CORRECTED_ECC_PER_SECOND = 1.0
CORRECTED_ECC_TOTAL = 10_000
#: Pages that NVIDIA lets a GPU before Ampere retire before the board counts as worn out.
RETIRED_PAGES_LIMIT = 60
NEEDS_TWO_READINGS = "needs two readings of the counters: --watch or --deep"


@gpu_rule(
    "GPU004",
    Severity.ERROR,
    "Uncorrected ECC errors since the driver loaded",
    caused_by=("GPU006",),
)
def uncorrected_ecc(gpu: Gpu, machine: Snapshot) -> Answers:
    """The GPU's memory lost data that ECC could not restore; programs crashed or computed with it.

    The count is "volatile": since the driver was loaded or the GPU reset. One such error can be a
    cosmic ray; the driver then remaps the row at the next reset. Errors that come back after the
    reset, or a remap that fails, mean a defective board.
    """
    errors = yield from known(gpu.uncorrected_ecc_volatile)
    if errors:
        yield Symptom(
            saw=count(errors, "uncorrected ECC error"),
            remedy=remedies.reset(
                gpu,
                machine,
                "Drain the GPU and reset it; if errors come again, have the board replaced",
            ),
        )


@gpu_rule(
    "GPU005",
    Severity.WARNING,
    "A memory repair waits for a GPU reset",
    caused_by=("GPU004", "GPU006"),
)
def repair_pending(gpu: Gpu, machine: Snapshot) -> Answers:
    """A failing part of the GPU will be replaced by a spare, but only at the next reset of the GPU.

    That is a row of memory (row remap), or on newer GPUs a memory channel or a TPC (a group of
    cores). Until then the driver keeps the bad address out of use where it can. Nothing is lost;
    choose a convenient moment, let the work on this GPU end, and reset it.
    """
    pending = []
    rows = yield from known(gpu.remapped_rows)
    if isinstance(rows, RemappedRows) and rows.is_pending:
        pending.append(
            "a row remap is pending"
            f" ({count(rows.uncorrectable, 'row')} remapped so far for uncorrectable errors)"
        )
    if (yield from known(gpu.repair_is_pending)):
        pending.append("a repair of a memory channel or TPC is pending")
    if pending:
        yield Symptom(
            saw="; ".join(pending),
            remedy=remedies.reset(gpu, machine, "Reset the GPU when its work has ended"),
        )


@gpu_rule("GPU006", Severity.ERROR, "A row remap failed: the memory is worn out")
def remap_failed(gpu: Gpu, machine: Snapshot) -> Answers:
    """A failing row of memory could not be replaced by a spare; this board has to be replaced.

    Run the vendor's field diagnostic (NVIDIA's is fieldiag) first: its log is what the vendor asks
    for. Give the GPU no work until then.
    """
    rows = yield from known(gpu.remapped_rows)
    if isinstance(rows, RemappedRows) and rows.has_failed:
        yield Symptom(saw="a row remap failed", remedy=remedies.replace_board())


@gpu_rule("GPU007", Severity.WARNING, "Spare memory rows run out", caused_by=("GPU006", "GPU023"))
def spare_rows_low(gpu: Gpu, machine: Snapshot) -> Answers:
    """Some banks of this GPU's memory have few spare rows or none; the next fault may be final.

    The GPU still works. Plan its replacement; run the vendor's field diagnostic when it is free.
    """
    banks = yield from known(gpu.remap_histogram)
    if isinstance(banks, RemapHistogram) and (banks.low or banks.none):
        yield Symptom(
            saw=f"memory banks without spare rows: {banks.none}; with few: {banks.low}",
            remedy=Remedy(
                "Plan the replacement of this GPU; run the vendor's field diagnostic",
                verify=command("nvidia-smi -i {gpu} -q -d ROW_REMAPPER", gpu=gpu.index),
            ),
        )


@gpu_rule("GPU008", Severity.WARNING, "Memory pages are being retired")
def pages_retired(gpu: Gpu, machine: Snapshot) -> Answers:
    """Pages of this GPU's memory were taken out of use for ECC errors (GPUs before Ampere).

    A pending retirement takes effect at the next reset. NVIDIA counts a board with 60 or more
    retired pages as defective.
    """
    pages = yield from known(gpu.retired_pages)
    if not isinstance(pages, RetiredPages):
        return
    total = pages.single_bit + pages.double_bit
    counts = f"{pages.single_bit} for single-bit and {pages.double_bit} for double-bit errors"
    if total >= RETIRED_PAGES_LIMIT:
        yield Symptom(
            severity=Severity.ERROR,
            saw=f"{total} retired pages ({counts})",
            remedy=remedies.replace_board(),
        )
    elif pages.is_pending:
        yield Symptom(
            saw=f"a page retirement is pending ({counts} so far)",
            remedy=remedies.reset(gpu, machine, "Reset the GPU when its work has ended"),
        )


@gpu_rule("GPU009", Severity.WARNING, "ECC is off, or will be after the next reboot")
def ecc_off(gpu: Gpu, machine: Snapshot) -> Answers:
    """Without ECC a flipped bit in the GPU's memory goes into the results, and nobody notices.

    Data-center GPUs ship with ECC on; on those with HBM it costs no memory. A change of the mode
    takes effect at the next reboot or reset: turning ECC on again before that takes a pending
    switch-off back. A GPU that ships with ECC off, or has none, is not reported.
    """
    current = yield from known(gpu.ecc_is_on)
    if current is None:
        return
    after = gpu.ecc_is_on_after_reboot
    if isinstance(after, bool) and after != current:
        if current:
            yield Symptom(
                saw="ECC is on, and off after the next reboot",
                remedy=Remedy(
                    "Turn ECC on again: that takes the pending change back",
                    steps=(_turn_on(gpu, machine),),
                    verify=_look_at_ecc(gpu),
                ),
            )
        else:
            yield Symptom(
                saw="ECC is off, and on after the next reboot",
                remedy=remedies.reset(
                    gpu, machine, "Reset the GPU when its work has ended, or reboot: ECC is then on"
                ),
            )
    elif not current:
        default = _ecc_default(gpu)
        if default is None:
            yield NotChecked(why="its default ECC mode is not known")
        elif default:
            yield Symptom(
                saw="ECC is off; this model ships with it on",
                remedy=Remedy(
                    "Turn ECC on, then reset the GPU",
                    steps=(_turn_on(gpu, machine), remedies.reset_command(gpu, machine)),
                    verify=_look_at_ecc(gpu),
                ),
            )


def _turn_on(gpu: Gpu, machine: Snapshot) -> Command:
    return command(
        "nvidia-smi -i {gpu} -e 1",
        gpu=remedies.name_on_host(gpu, machine),
        root=True,
        lasts="permanent",
        on=remedies.place_of_driver(machine),
    )


def _look_at_ecc(gpu: Gpu) -> Command:
    return command("nvidia-smi -i {gpu} -q -d ECC", gpu=gpu.index)


def _ecc_default(gpu: Gpu) -> bool | None:
    if isinstance(gpu.ecc_default, bool):
        return gpu.ecc_default
    model = models.find(gpu.name) if isinstance(gpu.name, str) else None
    return None if model is None else model.ecc_is_default


@gpu_rule(
    "GPU010", Severity.WARNING, "High rate of corrected ECC errors", caused_by=("GPU004", "GPU006")
)
def corrected_ecc(gpu: Gpu, machine: Snapshot) -> Answers:
    """Bits in this GPU's memory flip often; ECC restores them, until two flip in the same word.

    A steady small count is normal in a large machine. More than one a second, or more than 10,000
    since the driver loaded, points at a failing cell or at heat.
    """
    errors = yield from known(gpu.corrected_ecc_volatile)
    if errors is None:
        return
    rate = _rate(errors, gpu.later_sample, lambda later: later.corrected_ecc_volatile)
    # One error within a second is no rate yet: three are needed in a short reading.
    is_fast = (
        rate is not None
        and gpu.later_sample is not None
        and rate > CORRECTED_ECC_PER_SECOND
        and rate * gpu.later_sample.after_seconds > 2.5
    )
    if errors > CORRECTED_ECC_TOTAL or is_fast:
        growth = "" if rate is None else f", {rate:.1f} a second just now"
        later = None if gpu.later_sample is None else value(gpu.later_sample.corrected_ecc_volatile)
        total = count(max(errors, later or 0), "corrected ECC error")
        yield Symptom(
            saw=f"{total} since the driver loaded{growth}",
            remedy=Remedy(
                "Watch the count; check the GPU's cooling; run the vendor's field diagnostic",
                verify=_look_at_ecc(gpu),
            ),
        )
    elif rate is None:
        yield NotChecked(why=NEEDS_TWO_READINGS, kind="by design")


def _rate(first: int, later: GpuSample | None, read: Callable[[GpuSample], object]) -> float | None:
    """Return the growth a second between two readings; None where there are not two."""
    if later is None or later.after_seconds <= 0:
        return None
    reading = read(later)
    return (reading - first) / later.after_seconds if isinstance(reading, int) else None


@gpu_rule("GPU011", Severity.ERROR, "SRAM errors passed the threshold", caused_by=("GPU004",))
def sram_threshold(gpu: Gpu, machine: Snapshot) -> Answers:
    """So many uncorrectable errors struck the GPU's caches that the board counts as defective.

    The driver keeps this flag across resets. Run the vendor's field diagnostic and have the board
    replaced.
    """
    if (yield from known(gpu.sram_threshold_exceeded)):
        errors = value(gpu.sram_uncorrected_aggregate)
        total = f" ({count(errors, 'uncorrected error')} so far)" if errors else ""
        yield Symptom(
            saw=f"the SRAM error threshold is exceeded{total}", remedy=remedies.replace_board()
        )


@gpu_rule("GPU018", Severity.WARNING, "The InfoROM is corrupt")
def inforom_corrupt(gpu: Gpu, machine: Snapshot) -> Answers:
    """The board's own record of its errors and settings fails its checksum.

    The ECC history and the page retirement list may be lost; the GPU can still work. nvidia-smi
    warns of it at every call. The check takes 70 ms a GPU: --deep makes it; the plain doctor does
    on machines with up to four GPUs where CUDA takes more than a second to start.
    """
    if (yield from known(gpu.inforom_is_valid)) is False:
        yield Symptom(
            saw="the InfoROM fails its validation",
            remedy=Remedy(
                "Update the board's firmware with the vendor's tool; if it stays, have the board"
                " replaced",
                verify=command("nvidia-smi -i {gpu} -q", gpu=gpu.index),
            ),
        )


@gpu_rule("GPU023", Severity.ERROR, "Memory that cannot be repaired", caused_by=("GPU006",))
def unrepairable_memory(gpu: Gpu, machine: Snapshot) -> Answers:
    """The GPU marked its own memory as beyond repair; the board has to be replaced."""
    if (yield from known(gpu.has_unrepairable_memory)):
        yield Symptom(saw="the unrepairable memory flag is set", remedy=remedies.replace_board())
