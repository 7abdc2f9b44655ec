"""Lays out the table of GPUs, and the matrix of their pairs, within the width there is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gpucheck.render.rows import GpuRow, PairRow
from gpucheck.render.style import Sign, Style, cells, fit

GIB = 1 << 30
WIDE = 110  # columns from which there is room for units, bus ids and clocks
NARROW = 72  # columns below which one blank has to part the columns of the table

_VERDICT_SIGNS: dict[str, Sign] = {"ok": "good", "degraded": "warning", "drain": "error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Column:
    """A heading, what is under it, and how it gives way when there is little room."""

    heading: str
    cell: Callable[[GpuRow], str]
    is_number: bool = True
    narrowest: int = 0  # it may be cut to this; 0: never cut
    leaves: int = 0  # the greater, the sooner it is left out; 0: never


def gpu_table(rows: Sequence[GpuRow], style: Style, indent: str = "  ") -> Iterator[str]:
    """Yield the lines of the table: a heading, and one line per GPU."""
    columns = list(_WIDE if style.width >= WIDE else _COMPACT)
    room = style.width - len(indent)
    gap = " " if style.width < NARROW else "  "
    while True:
        grid = [[column.cell(row) for row in rows] for column in columns]
        widths = [
            max(cells(text) for text in (column.heading, *texts))
            for column, texts in zip(columns, grid, strict=True)
        ]
        excess = sum(widths) + len(gap) * (len(columns) - 1) - room
        excess = _cut(columns, widths, excess)
        leaving = [column for column in columns if column.leaves]
        if excess <= 0 or not (leaving or len(gap) > 1):
            break
        if len(gap) > 1:  # the blanks go before a column does
            gap = " "
            continue
        columns.remove(max(leaving, key=lambda column: column.leaves))
    headings = [column.heading for column in columns]
    yield indent + style.dim(_line(columns, headings, widths, gap))
    for at, row in enumerate(rows):
        texts = [texts[at] for texts in grid]
        line = _line(columns, texts, widths, gap)
        # The state is the last column, and what is left of the line after all others.
        start = len(line) - len(fit(texts[-1], widths[-1]).rstrip())
        mark = style.sign(_VERDICT_SIGNS[row.verdict])
        yield indent + line[:start] + mark + line[start + 1 :]


def _cut(columns: Sequence[_Column], widths: list[int], excess: int) -> int:
    """Take *excess* columns from the widths that may be cut; return what is left of it."""
    for at, column in enumerate(columns):
        if excess > 0 and column.narrowest:
            taken = min(excess, max(0, widths[at] - max(column.narrowest, cells(column.heading))))
            widths[at] -= taken
            excess -= taken
    return excess


def _line(columns: Sequence[_Column], texts: Sequence[str], widths: Sequence[int], gap: str) -> str:
    parts = []
    for column, text, width in zip(columns, texts, widths, strict=True):
        room = width - cells(text)
        parts.append(" " * room + text if column.is_number and room >= 0 else fit(text, width))
    return gap.join(parts).rstrip()


def _value(row: GpuRow, field: str, form: str = "{}") -> str:
    """The field in its form; "?" where it is not known, "-" where there is no such thing."""
    value = getattr(row, field)
    if value is None:
        return "?" if field in row.unknown else "-"
    return form.format(value)


def _against(now: str, limit: str, unit: str) -> str:
    """ "37/89°C"; "37°C" where there is no limit."""
    if now in "?-":
        return now
    return f"{now}{unit}" if limit in "?-" else f"{now}/{limit}{unit}"


def _name(row: GpuRow) -> str:
    return _value(row, "name")


def _short_name(row: GpuRow) -> str:
    return _name(row).removeprefix("NVIDIA ").removeprefix("GeForce ")


def _temperature(row: GpuRow) -> str:
    return _against(
        _value(row, "temperature_celsius"), _value(row, "temperature_limit_celsius"), "°C"
    )


def _memory_temperature(row: GpuRow) -> str:
    return _against(
        _value(row, "memory_temperature_celsius"),
        _value(row, "memory_temperature_limit_celsius"),
        "°C",
    )


def _power(row: GpuRow) -> str:
    return _against(
        _value(row, "power_watts", "{:.0f}"), _value(row, "power_limit_watts", "{:.0f}"), "W"
    )


def _memory(row: GpuRow) -> str:
    if row.memory_used_bytes is None or row.memory_total_bytes is None:
        return _value(row, "memory_used_bytes")
    used = row.memory_used_bytes / GIB
    return f"{used:.{0 if used == 0 or used >= 10 else 1}f}/{row.memory_total_bytes / GIB:.0f}G"


def _memory_wide(row: GpuRow) -> str:
    if row.memory_used_bytes is None or row.memory_total_bytes is None:
        return _value(row, "memory_used_bytes")
    return f"{row.memory_used_bytes / GIB:.1f} of {row.memory_total_bytes / GIB:.1f} GiB"


def _ecc(row: GpuRow) -> str:
    """The worst that is known of the memory: its errors, its remapped rows, else on or off."""
    if row.remap_has_failed:
        return "failed"
    if row.remap_is_pending:
        return "pending"
    if row.uncorrected_ecc_volatile:
        return f"{row.uncorrected_ecc_volatile} bad"
    if row.remapped_rows:
        return f"{row.remapped_rows} rows"
    if row.retired_pages:
        return f"{row.retired_pages} pages"
    if row.ecc_is_on is None:
        return _value(row, "ecc_is_on")
    return "ok" if row.ecc_is_on else "off"


def _ecc_wide(row: GpuRow) -> str:
    if row.ecc_is_on is None:
        return _value(row, "ecc_is_on")
    if not row.ecc_is_on:
        return "off"
    errors = (
        f"{_value(row, 'uncorrected_ecc_volatile')}+{_value(row, 'corrected_ecc_volatile')} errors"
    )
    if row.retired_pages is not None:
        return f"{errors}, {row.retired_pages} pages retired"
    remaps = f"{_value(row, 'remapped_rows')} rows remapped"
    if row.remap_has_failed:
        remaps += " (failed)"
    elif row.remap_is_pending:
        remaps += " (pending)"
    return f"{errors}, {remaps}"


def _pcie(row: GpuRow) -> str:
    width = _value(row, "pcie_width")
    if row.pcie_width and row.pcie_width_max and row.pcie_width < row.pcie_width_max:
        width = f"{width}/{row.pcie_width_max}"
    if width in "?-":
        return width
    return f"gen {_value(row, 'pcie_generation')} x{width}"


def _pcie_wide(row: GpuRow) -> str:
    generation, most = _value(row, "pcie_generation"), _value(row, "pcie_generation_max")
    width, widest = _value(row, "pcie_width"), _value(row, "pcie_width_max")
    if generation in "?-":
        return generation
    return f"gen {generation}/{most}, x{width}/{widest}"


def _nvlink(row: GpuRow) -> str:
    if row.nvlinks is None:
        return _value(row, "nvlinks")
    return f"{_value(row, 'nvlinks_up')}/{row.nvlinks}"


def _processes(row: GpuRow) -> str:
    if row.processes is None:
        return _value(row, "processes")
    return str(len(row.processes))


def _state(row: GpuRow) -> str:
    # The blank in front is where the coloured sign goes.
    if row.state != "ok":
        return f"  {row.state} {' '.join(row.findings)}".rstrip()
    if row.verdict == "ok":
        return "  ok"
    return f"  {row.verdict} {' '.join(row.findings)}".rstrip()


_INDEX = _Column(heading="GPU", cell=lambda row: str(row.index))
_STATE = _Column(heading="  State", cell=_state, is_number=False, narrowest=16)

_COMPACT = (
    _INDEX,
    _Column(heading="Name", cell=_short_name, is_number=False, narrowest=8),
    _Column(heading="Temp", cell=_temperature),
    _Column(heading="Power", cell=_power),
    _Column(heading="Memory", cell=_memory),
    _Column(heading="ECC", cell=_ecc, leaves=1),
    _Column(heading="PCIe", cell=_pcie, leaves=2),
    _Column(heading="NVLink", cell=_nvlink, leaves=3),
    _Column(heading="Procs", cell=_processes, leaves=4),
    _STATE,
)

_WIDE = (
    _INDEX,
    _Column(heading="Name", cell=_name, is_number=False, narrowest=12),
    _Column(heading="Bus id", cell=lambda row: _value(row, "bus_id"), is_number=False, leaves=9),
    _Column(heading="Temp", cell=_temperature),
    _Column(heading="Memory temp", cell=_memory_temperature, leaves=7),
    _Column(heading="Power", cell=_power),
    _Column(heading="SM clock", cell=lambda row: _value(row, "clock_sm_mhz", "{} MHz"), leaves=8),
    _Column(heading="Use", cell=lambda row: _value(row, "utilization_percent", "{}%"), leaves=6),
    _Column(heading="Memory", cell=_memory_wide),
    _Column(heading="ECC, remaps", cell=_ecc_wide, is_number=False, leaves=1),
    _Column(heading="PCIe", cell=_pcie_wide, is_number=False, leaves=2),
    _Column(heading="NVLink", cell=_nvlink, leaves=3),
    _Column(heading="Processes", cell=_processes, leaves=5),
    _STATE,
)


def pair_matrix(pairs: Sequence[PairRow], style: Style, indent: str = "  ") -> Iterator[str]:
    """Yield the way between each two GPUs: as a matrix where it fits, else as lists."""
    ways = {(pair.a, pair.b): _way(pair) for pair in pairs}
    numbers = sorted({number for pair in ways for number in pair})
    width = max([3, *(cells(way) for way in ways.values())])
    if len(indent) + 6 + (width + 1) * len(numbers) <= style.width:
        heading = " ".join(fit(str(number), width) for number in numbers)
        yield indent + style.dim(f"GPU   {heading}".rstrip())
        for a in numbers:
            line = " ".join(
                fit("·" if a == b else ways.get((min(a, b), max(a, b)), "?"), width)
                for b in numbers
            )
            yield f"{indent}{a:>3}   {line}".rstrip()
        return
    by_way: dict[str, list[str]] = {}
    for (a, b), way in ways.items():
        by_way.setdefault(way, []).append(f"{a}-{b}")
    for way, members in by_way.items():
        line = f"{way}:"
        for member in members:
            if len(indent) + cells(line) + 1 + len(member) > style.width:
                yield indent + line
                line = " " * (cells(way) + 1)
            line += f" {member}"
        yield indent + line


def _way(pair: PairRow) -> str:
    """The topology; with a "!" where copies do not go directly."""
    way = pair.topology or ("?" if "topology" in pair.unknown else "-")
    goes_round = any(known not in (None, "OK") for known in (pair.p2p_read, pair.p2p_write))
    return f"{way}!" if goes_round else way
