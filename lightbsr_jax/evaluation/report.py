"""What a measurement leaves on disk: table.md, results.json, images.csv."""

import csv
import io
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import lightbsr_jax
from lightbsr_jax.evaluation import published
from lightbsr_jax.evaluation.benchmark import CONVENTION, Score

Means = dict[tuple[str, str], tuple[float, float]]


def means(scores: Sequence[Score]) -> Means:
    """Mean PSNR and SSIM of each (benchmark, case), in the order of the scores."""
    grouped: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for score in scores:
        group = grouped.setdefault((score.benchmark, score.case), [])
        group.append((score.psnr, score.ssim))
    return {
        key: (
            float(np.mean([p for p, _ in group])),
            float(np.mean([s for _, s in group])),
        )
        for key, group in grouped.items()
    }


def markdown_table(methods: Mapping[str, Sequence[Score]], *, scale: int) -> str:
    """Benchmark and case rows, method columns (PSNR / SSIM), the paper's PSNR beside.

    The paper's columns are there when it prints a figure for one of the rows (x4 only).
    A benchmark with several cases ends with their mean, where all have a figure.
    """
    measured = {method: means(scores) for method, scores in methods.items()}
    keys = list(next(iter(measured.values())))
    paper: dict[str, dict[tuple[str, str], float]] = {}
    for method in ("Bicubic", "LightBSR") if scale == published.SCALE else ():
        figures = {key: published.psnr(method, *key) for key in keys}
        known = {key: value for key, value in figures.items() if value is not None}
        if known:
            paper[method] = known

    header = ["benchmark", "degradation", *measured]
    header += [f"{method} (paper)" for method in paper]
    rows = [header, ["---", "---"] + ["---:"] * (len(header) - 2)]
    for benchmark in dict.fromkeys(name for name, _ in keys):
        own = [key for key in keys if key[0] == benchmark]
        groups = [(case, [(benchmark, case)]) for _, case in own]
        if len(own) > 1:
            groups.append(("mean", own))
        for label, group in groups:
            row = [benchmark, label]
            for values in measured.values():
                psnr, ssim = np.mean([values[key] for key in group], axis=0)
                row.append(f"{psnr:.2f} / {ssim:.4f}")
            for figures in paper.values():
                complete = all(key in figures for key in group)
                row.append(
                    f"{np.mean([figures[key] for key in group]):.2f}"
                    if complete
                    else ""
                )
            rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "".join(f"| {line} |\n" for line in lines)


def write(
    folder: str | Path,
    methods: Mapping[str, Sequence[Score]],
    *,
    scale: int,
    about: Mapping[str, Any],
) -> str:
    """Writes the three files, each atomically, and returns the Markdown table.

    about goes into results.json: the config, and what was measured (JSON-able).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown_table(methods, scale=scale)
    _write(folder / "table.md", f"{table}\n{CONVENTION}\n")

    results = {
        "scale": scale,
        **about,
        "means": [
            {
                "method": method,
                "benchmark": benchmark,
                "case": case,
                "psnr": _finite(psnr),
                "ssim": _finite(ssim),
            }
            for method, scores in methods.items()
            for (benchmark, case), (psnr, ssim) in means(scores).items()
        ],
        "convention": CONVENTION,
        "versions": {
            "lightbsr_jax": lightbsr_jax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "device": jax.devices()[0].device_kind,
        },
    }
    _write(folder / "results.json", json.dumps(results, indent=2) + "\n")

    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(("method", *Score._fields))
    for method, scores in methods.items():
        for score in scores:
            values = score._replace(psnr=f"{score.psnr:.4f}", ssim=f"{score.ssim:.6f}")
            writer.writerow((method, *values))
    _write(folder / "images.csv", rows.getvalue())
    return table


def _finite(value: float) -> float | str:
    """JSON has no infinity, the PSNR of equal images."""
    return value if math.isfinite(value) else str(value)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
