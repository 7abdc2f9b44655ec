"""The burn's part of the HTML page: what was covered, and plots that need no script."""

import html
from collections.abc import Callable, Iterator, Sequence

from gpucheck import burn_evidence as evidence
from gpucheck.render import burn as words
from gpucheck.snapshot import Burn, BurnGpu, BurnPoint, value

STYLE = """
figure{margin:1.2rem 0}figcaption{font-weight:600}
svg.plot{width:100%;height:auto;background:var(--soft);border-radius:4px}
svg.plot text{fill:var(--ink);font:11px system-ui,sans-serif}
svg.plot line{stroke:var(--line)}svg.plot polyline{fill:none;stroke-width:1.6}
"""
_WIDTH, _HEIGHT, _LEFT, _TOP, _BOTTOM = 900, 180, 52, 10, 22
#: Distinct on a light and on a dark page; Okabe and Ito, Color Universal Design.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#e69f00", "#808080")
Reading = Callable[[BurnPoint], float | None]
PLOTS: tuple[tuple[str, Reading], ...] = (
    ("Temperature, °C", lambda point: value(point.temperature_celsius)),
    ("Power, W", lambda point: value(point.power_watts)),
    ("Clock, MHz", lambda point: value(point.clock_sm_mhz)),
    ("bf16 products, TFLOP/s", lambda point: value(point.teraflops)),
    ("Wrong results until then", lambda point: float(point.wrong)),
)


def section(burn: Burn) -> Iterator[str]:
    """Yield the lines of the page that are about *burn*."""
    gpus = value(burn.gpus) or ()
    yield "<h2>Burn-in</h2><ul>"
    yield from (f"<li>{html.escape(text)}</li>" for text in words.details(burn))
    yield "</ul>"
    for title, reading in PLOTS:
        yield from _plot(title, gpus, reading)
    if burn.faults:
        yield from _faults(burn)


def _plot(title: str, gpus: Sequence[BurnGpu], reading: Reading) -> Iterator[str]:
    """Yield one plot with a line for each GPU; nothing where nothing was seen."""
    series = [
        (gpu.index, [(p.seconds, v) for p in gpu.points if (v := reading(p)) is not None])
        for gpu in gpus
    ]
    series = [(index, points) for index, points in series if points]
    if not series:
        return
    values = [v for _, points in series for _, v in points]
    end = max(at for _, points in series for at, _ in points) or 1.0
    low, high = _range(min(values), max(values))
    width, height = _WIDTH - _LEFT - 10, _HEIGHT - _TOP - _BOTTOM

    def place(at: float, number: float) -> str:
        x = _LEFT + width * at / end
        y = _TOP + height * (high - number) / (high - low)
        return f"{x:.1f},{y:.1f}"

    yield f"<figure><figcaption>{html.escape(title)}</figcaption>"
    yield f'<svg class="plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
    yield f'aria-label="{html.escape(title)} over {end / 60:.1f} minutes">'
    for step in range(3):
        number = low + (high - low) * step / 2
        y = _TOP + height * (2 - step) / 2
        yield f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y:.0f}" y2="{y:.0f}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{number:,.4g}</text>'
    for at, anchor in ((0.0, "start"), (end / 2, "middle"), (end, "end")):
        label = f"{at / 60:.3g} min"
        start = f'<text x="{_LEFT + width * at / end:.0f}" y="{_HEIGHT - 6}"'
        yield f'{start} text-anchor="{anchor}">{label}</text>'
    for order, (index, points) in enumerate(series):
        color, dashes = _COLORS[order % 8], _dashes(order)
        drawn = " ".join(place(*point) for point in points)
        if len(points) == 1:
            across, down = drawn.split(",")
            yield f'<circle cx="{across}" cy="{down}" r="2.5" fill="{color}">'
            yield f"<title>GPU {index}</title></circle>"
            continue
        yield f'<polyline points="{drawn}" stroke="{color}"{dashes}><title>GPU {index}</title>'
        yield "</polyline>"
    yield "</svg>"
    keys = [
        f'<span style="color:{_COLORS[order % 8]}">{"┅" if order >= 8 else "━"}</span> GPU {index}'
        for order, (index, _) in enumerate(series)
    ]
    yield f"<small>{' &nbsp; '.join(keys)}</small></figure>"


def _dashes(order: int) -> str:
    return ' stroke-dasharray="6 3"' if order >= 8 else ""


def _range(low: float, high: float) -> tuple[float, float]:
    """Return the ends of an axis: never closer than what a reader takes for a change."""
    room = max(0.05 * abs(high), (high - low) * 0.1, 0.5)
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _faults(burn: Burn) -> Iterator[str]:
    heads = ("Time", "GPU", "What", "Words", "Where", "Expected", "Found")
    yield "<table><thead><tr>" + "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead>"
    for fault in burn.faults:
        word = fault.words[0] if fault.words else None
        cells = (
            f"{fault.seconds:.0f} s",
            " → ".join(map(str, fault.gpus)),
            fault.kind
            if evidence.is_product(fault)
            else evidence.NAMES.get(fault.kind, fault.kind),
            f"{fault.count:,}",
            "" if word is None else word.place,
            "" if word is None else word.expected,
            "" if word is None else word.found,
        )
        yield "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</table>"
