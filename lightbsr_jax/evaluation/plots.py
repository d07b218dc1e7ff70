"""The report's figures as SVG: text and axes in the colour of the page's text.

Each is drawn for a column of 400 pixels, so that it can be read on a telephone too.
"""

import io
from collections import defaultdict
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.findings import Findings, mean_psnr
from lightbsr_jax.evaluation.idr import Separation

Plots = dict[str, str]  # SVG by name: those of SINGLE, and one a benchmark
SINGLE = ("t-SNE", "complexity")

# Of middling lightness: they stand out from white and from black.
_COLOURS = ("#3b82d6", "#e08a1e", "#2fa36b", "#d9534f", "#8b6fd0", "#b5892f", "#cf6aa8")
_COLOURS += ("#5aa7b0", "#7f9a2e", "#9a7b6d")
_INK = "#010203"  # stands for the page's text colour
_STYLE = {
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
    """All that the findings have figures for."""
    drawn = {
        benchmark: images(found.scores, found.method, benchmark)
        for benchmark in dict.fromkeys(table.benchmark for table in found.tables)
    }
    if found.separation is not None:
        drawn["t-SNE"] = separation(found.separation)
    if found.cost is not None and (svg := complexity(found)) is not None:
        drawn["complexity"] = svg
    return drawn


def images(scores: Sequence[Score], method: str, benchmark: str) -> str:
    """Every image of a benchmark in every case: gain over bicubic against its PSNR.

    Of bicubic itself: its PSNR, from the easiest image to the hardest.
    """
    chosen = [score for score in scores if score.benchmark == benchmark]
    bicubic = {
        (score.image, score.case): score.psnr
        for score in chosen
        if score.method == "bicubic"
    }
    by_case = defaultdict(list)
    for score in chosen:
        if score.method == method:
            by_case[score.case].append(score)
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for index, (case, found) in enumerate(by_case.items()):
            psnr = np.array([score.psnr for score in found])
            if method == "bicubic":
                x, y = np.arange(1, len(found) + 1), np.sort(psnr)[::-1]
            else:
                x = np.array([bicubic[score.image, case] for score in found])
                y = psnr - x
            colour = _COLOURS[index % len(_COLOURS)]
            axes.scatter(x, y, 14, color=colour, alpha=0.75, linewidths=0, label=case)
        if method == "bicubic":
            axes.set(xlabel="image, from the easiest", ylabel="PSNR (dB)")
        else:
            axes.axhline(0, color=_INK, linewidth=0.8)
            axes.set(xlabel="PSNR of bicubic (dB)", ylabel="gain over bicubic (dB)")
        _legend(figure, len(by_case))
        return _svg(figure)


def complexity(found: Findings) -> str | None:
    """Figure 1: mean PSNR against operations; the area is the number of parameters.

    None where the paper has no figures beside.
    """
    psnr = mean_psnr(found.tables)
    rivals = [
        row
        for row in published.TABLE_3
        if row.gflops and f"{row.method} (paper)" in psnr
    ]
    if not rivals:
        return None
    points = [
        (row.method, row.gflops, psnr[f"{row.method} (paper)"], row.parameters)
        for row in rivals
    ]
    operations = found.cost.multiply_accumulates / 1e9
    size = found.cost.parameters / 1e6
    points.append((f"{found.method}, ours", operations, psnr[found.method], size))
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for index, (name, x, y, size) in enumerate(points):
            colour = _COLOURS[index == len(rivals)]
            axes.scatter(x, y, 14 * size, color=colour, alpha=0.7, linewidths=0)
            axes.annotate(
                name,
                (x, y),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        axes.set(xscale="log", xlabel="operations (G)", ylabel="mean PSNR (dB)")
        axes.margins(0.18)
        return _svg(figure)


def separation(found: Separation) -> str:
    """Figure 5: t-SNE of the IDRs."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure()
        for index, case in enumerate(found.cases):
            x, y = found.points[found.case == index].T
            colour = _COLOURS[index % len(_COLOURS)]
            axes.scatter(x, y, 14, color=colour, alpha=0.8, linewidths=0, label=case)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _legend(figure, len(found.cases))
        return _svg(figure)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure((4.2, 3.4), layout="constrained")
    return figure, figure.add_subplot()


def _legend(figure: Figure, entries: int) -> None:
    if entries > 1:
        figure.legend(
            loc="outside lower center",
            ncols=3 if entries == 3 else 2,
            fontsize=9,
            markerscale=1.5,
            handletextpad=0.1,
        )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    none = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=none)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]  # without the XML and document type lines
    return text.replace(_INK, "currentColor").replace("'DejaVu Sans'", "system-ui")
