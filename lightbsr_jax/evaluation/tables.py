"""Scores as tables: a method a row, a kernel a column, the paper's figures between.

PSNR is in dB.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.cases import Case


class Row(NamedTuple):
    """One method: one that was measured, or one that the paper prints."""

    method: str
    parameters: float | None  # in millions
    psnr: tuple[float | None, ...]  # by column
    ssim: tuple[float | None, ...] | None  # likewise; None for the paper's

    @property
    def measured(self) -> bool:
        return self.ssim is not None

    @property
    def label(self) -> str:
        return self.method if self.measured else f"{self.method} (paper)"


class Table(NamedTuple):
    """A benchmark at one noise level."""

    benchmark: str
    noise: str  # such as "noise 5"; empty where there is none
    columns: tuple[str, ...]  # names of kernels; "mean" after several
    rows: list[Row]

    @property
    def title(self) -> str:
        return f"{self.benchmark}, {self.noise}" if self.noise else self.benchmark


def make(
    scores: Sequence[Score],
    cases: Sequence[Case],
    *,
    scale: int,
    parameters: Mapping[str, float] | None = None,
    teacher: bool = False,
) -> list[Table]:
    """A table for each benchmark and noise level, in the order of the scores.

    A measured method stands below its namesake of the paper, whose figures are at x4.
    Where the paper prints some of the kernels only, the mean is over those. Beside a
    `teacher` of LightBSR stand the ablations too, which are teachers. `parameters` are
    those of the networks that were measured, in millions, by method.
    """
    groups = defaultdict(list)
    for score in scores:
        key = (score.method, score.benchmark, score.case)
        groups[key].append((score.psnr, score.ssim))
    means = {key: np.mean(group, axis=0).tolist() for key, group in groups.items()}
    methods = list(dict.fromkeys(score.method for score in scores))

    tables = []
    for benchmark in dict.fromkeys(score.benchmark for score in scores):
        for noise in dict.fromkeys(case.noise for case in cases):
            shown = [case for case in cases if case.noise == noise]
            kernels = [case.kernel for case in shown]
            paper = published.rows(benchmark, noise) if scale == published.SCALE else []
            printed = {kernel for row in paper for kernel in row.psnr}
            averaged = [i for i, name in enumerate(kernels) if name in printed]
            rows = _paper_rows(paper, kernels, averaged) if averaged else []
            if teacher and not noise and printed and printed <= set(kernels):
                rows += _ablations(benchmark, kernels)
            averaged = averaged or range(len(kernels))
            for method in methods:
                values = [means[method, benchmark, case.label] for case in shown]
                psnr = _with_mean([psnr for psnr, _ in values], averaged)
                ssim = _with_mean([ssim for _, ssim in values], averaged)
                size = (parameters or {}).get(method)
                names = [row.method.lower() for row in rows]
                namesake = method.split()[0].lower()
                place = names.index(namesake) + 1 if namesake in names else len(rows)
                rows.insert(place, Row(method, size, psnr, ssim))
            columns = (*kernels, "mean") if len(kernels) > 1 else tuple(kernels)
            tables.append(Table(benchmark, noise, columns, rows))
    return tables


def _paper_rows(
    paper: Sequence[published.Row], kernels: Sequence[str], averaged: Sequence[int]
) -> list[Row]:
    rows = []
    for row in paper:
        psnr = _with_mean([row.psnr.get(name) for name in kernels], averaged)
        rows.append(Row(row.method, row.parameters, psnr, None))
    return rows


def _ablations(benchmark: str, kernels: Sequence[str]) -> list[Row]:
    """Tables 1 and 2, of which the paper prints means."""
    rows = []
    for row in published.TABLE_1 + published.TABLE_2:
        psnr = (*[None] * len(kernels), getattr(row, benchmark.lower()))
        rows.append(Row(f"{row.name}, {row.description}", None, psnr, None))
    return rows


def markdown(table: Table) -> str:
    """The table in Markdown under its title; measured rows in bold."""
    sizes = any(row.parameters for row in table.rows)
    header = ["method", *table.columns, *["params (M)"] * sizes]
    lines = [header]
    for row in table.rows:
        cells = [f"**{row.label}**" if row.measured else row.label]
        for column, psnr in enumerate(row.psnr):
            cell = "" if psnr is None else f"{psnr:.2f}"
            cells.append(f"{cell} / {row.ssim[column]:.4f}" if row.ssim else cell)
        if sizes:
            cells.append(f"{row.parameters:.2f}" if row.parameters else "")
        lines.append(cells)
    return f"{table.title}: PSNR (dB) / SSIM\n\n{grid(lines)}"


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Lines as a Markdown table; the first is its header."""
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    rule[0] = "-" * widths[0]
    padded = [
        " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    ]
    return "".join(f"| {line} |\n" for line in padded)


def _with_mean(
    values: Sequence[float | None], averaged: Sequence[int]
) -> tuple[float | None, ...]:
    """The values, and after several the mean of those at the places `averaged`."""
    if len(values) == 1:
        return tuple(values)
    # The paper has figures wherever it is averaged.
    known = [value for i in averaged if (value := values[i]) is not None]
    return (*values, sum(known) / len(averaged))
