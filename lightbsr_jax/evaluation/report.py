"""Writing the report of a measurement to disk.

A report is report.html, report.md (with panels/ and plots/), results.json and
images.csv. Each file is written atomically.
"""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from lightbsr_jax import atomic
from lightbsr_jax.evaluation import findings, html, pictures, plots, tables
from lightbsr_jax.evaluation.benchmark import Score
from lightbsr_jax.evaluation.findings import Findings
from lightbsr_jax.evaluation.idr import Separation
from lightbsr_jax.evaluation.images import slug, slugs
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.plots import Plots
from lightbsr_jax.imaging import files


def write(folder: str | Path, found: Findings) -> None:
    """Writes the report into `folder`, which is created if it is missing."""
    folder = Path(folder)
    remove_pictures(folder)
    for name in ("panels", "plots"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    drawn = plots.draw(found)
    for name, path in _plots(drawn).items():
        svg = drawn[name].replace("currentColor", "#555")
        atomic.write_text(folder / path, svg)
    for number, example in enumerate(found.examples):
        panel = pictures.panel(example.crops, example.scores)
        files.write_png(folder / _panel(number, example), panel)
    atomic.write_text(folder / "report.md", markdown(found, drawn))
    atomic.write_text(folder / "report.html", html.render(found, drawn))
    atomic.write_text(
        folder / "results.json", json.dumps(_results(found), indent=2) + "\n"
    )
    atomic.write_text(folder / "images.csv", _csv(found.scores))


def remove_pictures(folder: Path) -> None:
    """Removes the pictures that an earlier report in `folder` shows, and no others."""
    earlier = folder / "report.md"
    if earlier.is_file():
        text = earlier.read_text("utf-8", errors="replace")
        for name in re.findall(r"\]\(((?:panels|plots)/[^/()]+)\)", text):
            (folder / name).unlink(missing_ok=True)


def panel_path(number: int, benchmark: str, image: str, case: str = "") -> str:
    """The path in the report's folder; its name fits into 255 bytes."""
    name = slug(f"{benchmark} {Path(image).with_suffix('')} {case}")
    return f"panels/{number + 1}-{name}.png"


def markdown(found: Findings, drawn: Plots) -> str:
    """The text of report.md, which shows the plots and panels next to it."""
    paths = _plots(drawn)
    parts = [f"# {found.title}"]
    parts += [tables.markdown(table) for table in found.tables]
    parts += ["## Every image"]
    parts += [
        _figure(tables.escaped(table.title), paths[table.title])
        for table in found.tables
    ]
    parts += ["## Pictures"]
    for number, example in enumerate(found.examples):
        name = f"{example.benchmark} {example.image}, {example.case}"
        name = tables.escaped(name)
        parts += [name, _figure(name, _panel(number, example))]
    if found.separation is not None:
        lines = tables.grid(findings.separation_lines(found))
        parts += ["## Degradations in the IDR", lines, findings.separation_note(found)]
        tsne = [name for name in drawn if name.startswith(plots.TSNE)]
        parts += [_figure(name, paths[name]) for name in tsne]
    if found.cost is not None:
        lines = tables.grid(findings.cost_lines(found))
        parts += ["## Complexity", lines, findings.cost_note(found)]
        if "complexity" in drawn:
            parts.append(_figure("complexity", paths["complexity"]))
    parts += ["## How it was measured"]
    parts += [f"{term}: {text}" for term, text in findings.notes(found)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _figure(name: str, path: str) -> str:
    return f"![{name}]({path})"


def _plots(drawn: Plots) -> dict[str, str]:
    """The paths of plots in the report's folder, by the plots' names."""
    files = slugs(list(drawn))
    return {name: f"plots/{file}.svg" for name, file in zip(drawn, files, strict=True)}


def _panel(number: int, example: Example) -> str:
    return panel_path(number, example.benchmark, example.image, example.case)


def _results(found: Findings) -> dict[str, Any]:
    return {
        **found.about,
        "tables": [
            {
                "benchmark": table.benchmark,
                "images": table.images,
                "noise": table.noise,
                "kernels": table.columns,
                "rows": [
                    {
                        "method": row.label,
                        "psnr": list(map(_finite, row.psnr)),
                        "ssim": row.ssim and list(row.ssim),
                        **{name.lower(): list(of) for name, of in row.beside.items()},
                    }
                    for row in table.rows
                ],
            }
            for table in found.tables
        ],
        "cost": found.cost and found.cost._asdict(),
        "networks": {
            name: {**cost._asdict(), "idr": _separated(separation)}
            for name, (cost, separation) in found.networks.items()
        },
        "idr": _separated(found.separation),
    }


def _separated(separation: Separation | None) -> dict[str, Any] | None:
    """The figures of a separation, without its points."""
    return separation and {
        "cases": separation.cases,
        "trained": separation.trained._asdict(),
        "untrained": separation.untrained._asdict(),
    }


def _finite(value: float | None) -> float | str | None:
    """Turns infinity, the PSNR of equal images, into text: JSON has no infinity."""
    return value if value is None or math.isfinite(value) else str(value)


def _csv(scores: list[Score]) -> str:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(Score._fields)
    for score in scores:
        psnr, *rest = (score.psnr, score.ssim, score.niqe, score.lpips)
        figures = ["" if value is None else f"{value:.6f}" for value in rest]
        writer.writerow([*score[:4], f"{psnr:.4f}", *figures])
    return rows.getvalue()
