"""The figures of the report as SVG, with text and axes in the page's text colour.

Each is drawn for a column of 400 pixels, so that it is legible on a phone.
"""

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.findings import Findings, mean_psnr
from lightbsr_jax.evaluation.idr import Separation
from lightbsr_jax.evaluation.restorers import BICUBIC
from lightbsr_jax.evaluation.tables import Table

# SVG by name: the title of each table, TSNE (", NAME" appended for further networks),
# and "complexity".
Plots = dict[str, str]
TSNE = "t-SNE"

# Medium lightness stands out from white and from black.
_COLOURS = ("#3b82d6", "#e08a1e", "#2fa36b", "#d9534f", "#8b6fd0", "#b5892f", "#cf6aa8")
_COLOURS += ("#5aa7b0", "#7f9a2e", "#9a7b6d")
_INK = "#010203"  # stands for the page's text colour
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "lightbsr",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "axes.axisbelow": True,
}


def draw(found: Findings) -> Plots:
    """Draws a plot for each table, and the t-SNE and complexity plots if measured."""
    drawn = {table.title: images(found, table) for table in found.tables}
    for name, (_, separate) in found.networks.items():
        if separate is not None:
            title = TSNE if name == found.method else f"{TSNE}, {name}"
            drawn[title] = separation(separate)
    if found.cost is not None and (svg := complexity(found)) is not None:
        drawn["complexity"] = svg
    return drawn


def images(found: Findings, table: Table) -> str:
    """Gain over bicubic against bicubic's PSNR, for each image of a benchmark.

    For bicubic itself: PSNR, from the easiest image to the hardest.
    """
    psnr = {
        (score.method, score.case, score.image): score.psnr
        for score in found.scores
        if score.benchmark == table.benchmark
    }
    names = list(dict.fromkeys(image for *_, image in psnr))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(entries=len(table.kernels))
        for index, kernel in enumerate(table.kernels):
            case = f"{kernel} {table.noise}".strip()
            x = np.array([psnr[BICUBIC, case, name] for name in names])
            if found.method == BICUBIC:
                x, y = np.arange(1, len(names) + 1), np.sort(x)[::-1]
            else:
                y = np.array([psnr[found.method, case, name] for name in names])
                with np.errstate(invalid="ignore"):  # both may be infinite
                    y -= x
            colour = _COLOURS[index % len(_COLOURS)]
            axes.scatter(x, y, 14, color=colour, alpha=0.75, linewidths=0, label=kernel)
        if found.method == BICUBIC:
            axes.set(xlabel="image, from the easiest", ylabel="PSNR (dB)")
        else:
            axes.axhline(0, color=_INK, linewidth=0.8)
            axes.set(xlabel="PSNR of bicubic (dB)", ylabel="gain over bicubic (dB)")
        return _svg(figure)


def complexity(found: Findings) -> str | None:
    """Figure 1: mean PSNR against operations; the area is the number of parameters.

    None if the paper has no figures to compare with.
    """
    psnr = mean_psnr(found.tables)
    points = [
        (row.method, row.gflops, psnr[row.method, False], row.parameters)
        for row in published.TABLE_3
        if row.gflops and row.parameters and (row.method, False) in psnr
    ]
    if not points:
        return None
    rivals = len(points)
    for name, (cost, _) in found.networks.items():
        operations, size = cost.multiply_accumulates / 1e9, cost.parameters / 1e6
        points.append((f"{name}, ours", operations, psnr[name, True], size))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for index, (name, x, y, size) in enumerate(points):
            colour = _COLOURS[index >= rivals]
            axes.scatter(x, y, 14 * size, color=colour, alpha=0.7, linewidths=0)
            axes.annotate(
                name,
                (x, y),
                (2, 5),
                textcoords="offset points",
                rotation=50,
                rotation_mode="anchor",
                fontsize=8,
            )
        axes.set(xscale="log", xlabel="operations (G)", ylabel="mean PSNR (dB)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.15, 0.25)
        return _svg(figure)


def separation(found: Separation) -> str:
    """Figure 5: t-SNE of the IDRs."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(entries=len(found.cases))
        for index, case in enumerate(found.cases):
            x, y = found.points[found.case == index].T
            colour = _COLOURS[index % len(_COLOURS)]
            axes.scatter(x, y, 14, color=colour, alpha=0.8, linewidths=0, label=case)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return _svg(figure)


def _figure(*, entries: int = 1) -> tuple[Figure, Axes]:
    """A figure with room for a legend of that many entries, which `_svg` draws."""
    rows = -(-entries // 3) if entries > 1 else 0
    figure = Figure((4.2, 3.2 + 0.2 * rows), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    entries, labels = figure.axes[0].get_legend_handles_labels()
    if len(entries) > 1:
        figure.legend(
            entries,
            labels,
            loc="outside lower center",
            ncols=3,
            fontsize=9,
            markerscale=1.5,
            handletextpad=0.1,
            columnspacing=1,
        )
    buffer = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=none)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the XML and document type lines
    return text.replace(_INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
