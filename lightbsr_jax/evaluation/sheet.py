"""The report of a measurement of pictures without HR images.

It consists of a self-contained report.html, report.md with panels/, results.json and
images.csv. Each file is written completely or not at all.
"""

import csv
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from lightbsr_jax import atomic
from lightbsr_jax.evaluation import html, pictures, tables, unpaired
from lightbsr_jax.evaluation.report import panel_path, remove_pictures
from lightbsr_jax.evaluation.unpaired import Look, Measured
from lightbsr_jax.imaging import files


def write(
    folder: str | Path,
    title: str,
    measured: Sequence[Measured],
    methods: Sequence[str],
    about: dict[str, Any],
) -> None:
    """Writes the report into `folder`, and makes the folder if it is missing."""
    folder = Path(folder)
    remove_pictures(folder)
    (folder / "panels").mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(measured):
        if one.look is not None:
            panel = pictures.panel(one.look.crops, {})
            files.write_png(folder / _panel(number, one), panel)
    results = {**about, "pictures": [_plain(one) for one in measured]}
    note = unpaired.CONVENTION.format(border=about["border"])
    text = _markdown(title, measured, methods, note)
    atomic.write_text(folder / "report.md", text)
    page = _page(title, measured, methods, note)
    atomic.write_text(folder / "report.html", page)
    atomic.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    atomic.write_text(folder / "images.csv", _csv(measured, methods))


def _markdown(
    title: str, measured: Sequence[Measured], methods: Sequence[str], note: str
) -> str:
    parts = [f"# {title}", unpaired.table(measured, methods), note, "## Pictures"]
    for number, one in enumerate(measured):
        if one.look is not None:
            name = tables.escaped(f"{one.benchmark} {one.image}")
            scores = ", ".join(f"{m} {_figure(x)}" for m, x in one.niqe.items())
            parts += [f"{name}: NIQE {scores}", f"![{name}]({_panel(number, one)})"]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _page(
    title: str, measured: Sequence[Measured], methods: Sequence[str], note: str
) -> str:
    rows = [["", "LR (width x height)", *methods]]
    for one in measured:
        size = f"{one.size[1]} x {one.size[0]}"
        scores = (_figure(one.niqe[method]) for method in methods)
        rows.append([f"{one.benchmark} {one.image}", size, *scores])
    looks = "".join(_example(one, one.look) for one in measured if one.look)
    sections = (
        f'<section><h2 id="niqe">NIQE</h2><p class="soft">{escape(note)}</p>'
        f"{_table(rows)}</section>"
        '<section><h2 id="pictures">Pictures</h2><p class="soft">The crops show the '
        f"region with the most detail.</p>{looks}</section>"
    )
    return Template(html.static("report.html")).substitute(
        title=escape(title),
        style=html.static("report.css"),
        links='<a href="#niqe">NIQE</a><a href="#pictures">Pictures</a>',
        headlines="",
        sections=sections,
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join(
        f"<tr><th>{escape(first)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in rows[1:]
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _example(one: Measured, look: Look) -> str:
    figures = {name: f"NIQE {_figure(value)}" for name, value in one.niqe.items()}
    name = f"{one.benchmark} {one.image}"
    return html.views(name, look.whole, look.box, look.crops, figures)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _panel(number: int, one: Measured) -> str:
    return panel_path(number, one.benchmark, one.image)


def _plain(one: Measured) -> dict[str, Any]:
    return {
        "benchmark": one.benchmark,
        "image": one.image,
        "size": list(one.size),
        "niqe": one.niqe,
    }


def _csv(measured: Sequence[Measured], methods: Sequence[str]) -> str:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(["method", "benchmark", "image", "niqe"])
    for method in methods:
        for one in measured:
            value = one.niqe[method]
            figure = "" if value is None else f"{value:.6f}"
            writer.writerow([method, one.benchmark, one.image, figure])
    return rows.getvalue()
