"""The bench's part of the HTML page: a bar for each figure of each GPU, next to its equals."""

import html
from collections.abc import Iterator, Sequence
from statistics import median

from gpucheck import bench_evidence as evidence
from gpucheck.render import performance
from gpucheck.snapshot import Bench, Figure, value

STYLE = """
table.bench td,table.bench th{white-space:nowrap;padding:.35rem .45rem}
svg.rate{display:block}rect.low{fill:var(--error)}
"""
_WIDTH, _HEIGHT = 76, 6
_HEADS = {"memory": "memory", "h2d": "to GPU", "d2h": "from GPU"}


def section(bench: Bench) -> Iterator[str]:
    """Yield the lines of the page that are about *bench*."""
    measured = [each for each in value(bench.figures) or () if each.best is not None]
    columns = [
        (measure, {each.gpus[0]: each for each in measured if each.measure == measure})
        for measure in (*evidence.PRODUCTS, *_HEADS)
        if any(each.measure == measure for each in measured)
    ]
    if not columns:
        return
    yield "<h2>Performance</h2>"
    heads = "".join(f"<th>{_HEADS.get(measure, measure)}</th>" for measure, _ in columns)
    yield f'<table class="bench"><thead><tr><th class="n">GPU</th>{heads}</tr></thead>'
    for gpu in sorted({index for _, figures in columns for index in figures}):
        cells = "".join(_cell(figures.get(gpu), list(figures.values())) for _, figures in columns)
        yield f'<tr><td class="n">{gpu}</td>{cells}</tr>'
    yield "</table><ul>"
    yield "<li>Products in TFLOP/s (int8: TOP/s), copies in GB/s; a full bar is the column's best."
    yield from (f"<li>{html.escape(text)}" for text in performance.between_gpus(bench))
    yield "</ul>"


def _cell(figure: Figure | None, column: Sequence[Figure]) -> str:
    """Return a figure and its bar; red where it is below its siblings."""
    if figure is None or figure.best is None:
        return "<td>–</td>"
    rates = [each.best or 0.0 for each in column]
    share = figure.best / (max(rates) or 1.0)
    limits = evidence.SIBLINGS.get(figure.measure)
    is_low = limits is not None and figure.best < limits.warning * median(rates)
    return (
        f"<td>{performance.rate(figure)}"
        f'<svg class="rate" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{share:.0%} of the best">'
        f'<rect class="rest" width="{_WIDTH}" height="{_HEIGHT}"/>'
        f'<rect class="{"low" if is_low else "bar"}" width="{share * _WIDTH:.0f}" '
        f'height="{_HEIGHT}"/></svg></td>'
    )
