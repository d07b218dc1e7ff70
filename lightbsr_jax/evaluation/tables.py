"""Tables of scores and the paper's figures: a row per method, a column per kernel.

PSNR is in dB.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.cases import Case
from lightbsr_jax.evaluation.restorers import Contender

_Figure = TypeVar("_Figure", float, float | None)
_MEAN_OF_PAPERS = "mean of the paper's"  # if there are kernels that it does not print


class Row(NamedTuple):
    """One method, measured here or printed in the paper."""

    method: str  # name of the method
    parameters: float | None  # in millions
    psnr: tuple[float | None, ...]  # by column
    ssim: tuple[float, ...] | None  # by column; None for rows of the paper
    # More figures by name ("NIQE", "LPIPS") and column.
    beside: Mapping[str, tuple[float | None, ...]] = {}

    @property
    def measured(self) -> bool:
        return self.ssim is not None

    @property
    def key(self) -> tuple[str, bool]:
        """A unique key of the row: measured and published rows may share a name."""
        return self.method, self.measured

    @property
    def label(self) -> str:
        return self.method if self.measured else f"{self.method} (paper)"


class Table(NamedTuple):
    """A benchmark at one noise level."""

    benchmark: str
    noise: str  # such as "noise 5"; empty without noise
    columns: tuple[str, ...]  # names of kernels, and that of a mean after several
    rows: list[Row]
    images: int = 0  # number of images that the measured rows average

    @property
    def kernels(self) -> tuple[str, ...]:
        """The columns without the mean."""
        return self.columns[:-1] or self.columns

    @property
    def heading(self) -> str:
        """The title and the number of images, such as "Set5 (5 images)"."""
        images = f"{self.images} image{'s' * (self.images != 1)}"
        return f"{self.title} ({images})" if self.images else self.title

    @property
    def figures(self) -> tuple[str, ...]:
        """The names of the figures in a cell, such as "PSNR (dB)" and "SSIM"."""
        beside = (name for row in self.rows for name in row.beside)
        return ("PSNR (dB)", "SSIM", *dict.fromkeys(beside))

    @property
    def title(self) -> str:
        return f"{self.benchmark}, {self.noise}" if self.noise else self.benchmark


def make(
    scores: Sequence[Score],
    cases: Sequence[Case],
    *,
    scale: int,
    contenders: Sequence[Contender],
    paper: bool = True,
) -> list[Table]:
    """A table for each benchmark and noise level, in the order of the scores.

    A measured row stands below the paper's row of the same method; the paper's figures
    are for x4. If the paper prints only some of the kernels, means are over those. If a
    LightBSR teacher is measured, the paper's ablations, which are teachers, are shown.
    """
    means = _means(scores)
    tables = []
    for benchmark in dict.fromkeys(score.benchmark for score in scores):
        images = len({score.image for score in scores if score.benchmark == benchmark})
        for noise in dict.fromkeys(case.noise for case in cases):
            shown = [case for case in cases if case.noise == noise]
            kernels = [case.kernel for case in shown]
            rows, averaged = _paper_part(benchmark, noise, kernels, scale, contenders)
            rows = rows if paper else []
            for contender in contenders:
                figures = [means[contender.name, benchmark, c.label] for c in shown]
                psnr = _with_mean([mean.psnr for mean in figures], averaged)
                ssim = _with_mean([mean.ssim for mean in figures], averaged)
                size = contender.parameters and contender.parameters / 1e6
                row = Row(contender.name, size, psnr, ssim, _beside(figures, averaged))
                rows.insert(_place(rows, contender, contenders), row)
            mean = "mean" if len(averaged) == len(kernels) else _MEAN_OF_PAPERS
            columns = (*kernels, mean) if len(kernels) > 1 else tuple(kernels)
            tables.append(Table(benchmark, noise, columns, rows, images))
    return tables


class _Mean(NamedTuple):
    """Means of figures over images."""

    psnr: float
    ssim: float
    niqe: float | None
    lpips: float | None


_BESIDE = {"NIQE": "niqe", "LPIPS": "lpips"}  # fields of _Mean and of a score


def _means(scores: Sequence[Score]) -> dict[tuple[str, str, str], _Mean]:
    """Means over images, by contender, benchmark and case.

    Images of which some contender lacks a figure do not count in its means, so that
    those of all contenders are over the same images.
    """
    groups: dict[tuple[str, str, str], list[Score]] = defaultdict(list)
    lacking = set()
    for score in scores:
        groups[score.method, score.benchmark, score.case].append(score)
        for name in _Mean._fields:
            if getattr(score, name) is None:
                lacking.add((name, *_measured(score)))

    def mean(name: str, group: Sequence[Score]) -> Any:
        known = [
            getattr(score, name)
            for score in group
            if (name, *_measured(score)) not in lacking
        ]
        return float(np.mean(known)) if known else None

    return {
        key: _Mean(*(mean(name, group) for name in _Mean._fields))
        for key, group in groups.items()
    }


def _measured(score: Score) -> tuple[str, str, str]:
    """Benchmark, image and case: every contender has one score of them."""
    return score.benchmark, score.image, score.case


def _beside(
    figures: Sequence[_Mean], averaged: Sequence[int]
) -> dict[str, tuple[float | None, ...]]:
    """The measured figures of a row other than PSNR and SSIM."""
    rows = {}
    for name, field in _BESIDE.items():
        values = [getattr(mean, field) for mean in figures]
        if any(value is not None for value in values):
            rows[name] = _with_mean(values, averaged)
    return rows


def _paper_part(
    benchmark: str,
    noise: str,
    kernels: Sequence[str],
    scale: int,
    contenders: Sequence[Contender],
) -> tuple[list[Row], Sequence[int]]:
    """The paper's rows, and the columns to average: those that the paper prints."""
    paper = published.rows(benchmark, noise) if scale == published.SCALE else []
    printed = {kernel for row in paper for kernel in row.psnr}
    averaged = [i for i, name in enumerate(kernels) if name in printed]
    if not averaged:
        return [], range(len(kernels))
    rows = _paper_rows(paper, kernels, averaged)
    kinds = [(contender.method, contender.role) for contender in contenders]
    if published.ABLATED in kinds and not noise and printed <= set(kernels):
        rows += _ablations(benchmark, kernels)
    return rows, averaged


def _place(
    rows: Sequence[Row], contender: Contender, contenders: Sequence[Contender]
) -> int:
    """Index of a contender's row: below those of its method, the paper's and measured.

    If the paper has no row of the method, it is the last.
    """
    paper = published.NAMES.get(contender.method), False
    own = {(one.name, True) for one in contenders if one.method == contender.method}
    keys = [row.key for row in rows]
    if paper not in keys:
        return len(keys)
    return max(place for place, key in enumerate(keys, 1) if key in {paper, *own})


def _paper_rows(
    paper: Sequence[published.Row], kernels: Sequence[str], averaged: Sequence[int]
) -> list[Row]:
    rows = []
    for row in paper:
        psnr = _with_mean([row.psnr.get(name) for name in kernels], averaged)
        rows.append(Row(row.method, row.parameters, psnr, None))
    return rows


def _ablations(benchmark: str, kernels: Sequence[str]) -> list[Row]:
    """The rows of Tables 1 and 2, for which the paper prints only means."""
    rows = []
    for row in published.TABLE_1 + published.TABLE_2:
        psnr = (*[None] * len(kernels), getattr(row, benchmark.lower()))
        rows.append(Row(f"{row.name}, {row.description}", None, psnr, None))
    return rows


def markdown(table: Table) -> str:
    """The table in Markdown below its title, with measured rows in bold."""
    sizes = any(row.parameters for row in table.rows)
    lines = [["method", *table.columns]]
    if sizes:
        lines[0].append("params (M)")
    for row in table.rows:
        cells = [f"**{row.label}**" if row.measured else row.label]
        for column, psnr in enumerate(row.psnr):
            cell = "" if psnr is None else f"{psnr:.2f}"
            cells.append(" / ".join([cell, *others(row, column)]))
        if sizes:
            cells.append(f"{row.parameters:.2f}" if row.parameters else "")
        lines.append(cells)
    figures = " / ".join(table.figures)
    return f"{escaped(table.heading)}: {figures}\n\n{grid(lines)}"


def others(row: Row, column: int) -> list[str]:
    """The figures below the PSNR of a cell: SSIM and more, in measured rows."""
    if row.ssim is None:
        return []
    values = [row.ssim[column], *(values[column] for values in row.beside.values())]
    return ["" if value is None else f"{value:.4f}" for value in values]


def escaped(name: str) -> str:
    """Escapes a name with any characters for Markdown."""
    printable = "".join(c if c.isprintable() else "?" for c in name)
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", printable)


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Makes a Markdown table of lines; the first line is the header."""
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    rule[0] = "-" * widths[0]
    padded = [
        " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {line} |\n" for line in padded)


def _with_mean(values: Sequence[_Figure], averaged: Sequence[int]) -> tuple[Any, ...]:
    """Appends the mean of the values at the places `averaged`, unless there is one."""
    if len(values) == 1:
        return tuple(values)
    found = [value for i in averaged if (value := values[i]) is not None]
    return (*values, sum(found) / len(found) if found else None)
