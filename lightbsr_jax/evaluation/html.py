"""The report as one self-contained HTML page: no scripts, fonts or other files."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

import numpy as np
from PIL import Image

from lightbsr_jax.evaluation import findings, tables
from lightbsr_jax.evaluation.findings import Findings, Lines
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.plots import TSNE, Plots
from lightbsr_jax.evaluation.tables import Table

_WHOLE_HEIGHT = 230  # pixels on the screen


def render(found: Findings, drawn: Plots) -> str:
    """The page."""
    sections = [
        ("psnr", "PSNR and SSIM", _tables(found)),
        ("images", "Every image", _plots(found, drawn)),
        ("pictures", "Pictures", _pictures(found)),
        ("idr", "Degradations in the IDR", _separation(found, drawn)),
        ("cost", "Complexity", _cost(found, drawn)),
        ("how", "How it was measured", _notes(found)),
    ]
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section><h2 id="{key}">{name}</h2>{text}</section>'
        for key, name, text in sections
    )
    return Template(static("report.html")).substitute(
        title=escape(found.title),
        style=static("report.css"),
        links=links,
        headlines=_headlines(found),
        sections=body,
    )


def static(name: str) -> str:
    """A file of the folder `static`."""
    return (
        resources.files("lightbsr_jax.evaluation")
        .joinpath("static", name)
        .read_text("utf-8")
    )


def _headlines(found: Findings) -> str:
    cards = "".join(
        f'<div class="card"><span class="soft">{escape(label)}</span><b>{value}</b>'
        f'<span class="soft">{"<br>".join(map(escape, details))}</span></div>'
        for label, value, details in findings.headlines(found)
    )
    return f'<div class="grid cards">{cards}</div>'


def _tables(found: Findings) -> str:
    figures = (figure for table in found.tables for figure in table.figures)
    first, *below = dict.fromkeys(figures)
    text = (
        f"{first}, and below it {', '.join(below)}, measured here; other rows are from "
        "the paper."
    )
    parts = "".join(_table(table, found.method) for table in found.tables)
    return f'<p class="soft">{text}</p>{parts}'


def _table(table: Table, ours: str) -> str:
    sizes = any(row.parameters for row in table.rows)
    header = ["", *table.columns, *["params (M)"] * sizes]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = []
    for row in table.rows:
        cells = []
        for column, psnr in enumerate(row.psnr):
            cell = "" if psnr is None else f"{psnr:.2f}"
            for figure in tables.others(row, column):
                cell += f'<span class="ssim">{figure}</span>'
            cells.append(cell)
        if sizes:
            cells.append(f"{row.parameters:.2f}" if row.parameters else "")
        style = here = ""
        if row.measured:
            here = '<span class="ssim">measured here</span>'
            style = f' class="{"ours" if row.method == ours else "measured"}"'
        rows.append(
            f"<tr{style}><th>{escape(row.method)}{here}</th>"
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
        )
    return (
        f"<h3>{escape(table.heading)}</h3>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _plots(found: Findings, drawn: Plots) -> str:
    figures = [_plot(table.title, drawn[table.title]) for table in found.tables]
    text = "Each dot is an image under one degradation."
    return f'<p class="soft">{text}</p><div class="grid">{"".join(figures)}</div>'


def _plot(name: str, svg: str) -> str:
    return f'<figure class="card"><figcaption>{escape(name)}</figcaption>{svg}</figure>'


def _pictures(found: Findings) -> str:
    rank = "PSNR" if found.method == "bicubic" else "gain over bicubic"
    text = (
        f"For each benchmark, from the image with the largest {rank} to the one with "
        "the smallest. The region shown is the one with bicubic's largest error; PSNR "
        "and SSIM are those of the whole image."
    )
    if (processes := found.about["processes"]) > 1:
        text += (
            " They were chosen among the images that the first of "
            f"{processes} processes measured."
        )
    examples = "".join(map(_example, found.examples))
    return f'<p class="soft">{text}</p>{examples}' if examples else ""


def _example(example: Example) -> str:
    figures = {}
    for version, score in example.scores.items():
        figures[version] = f"{score.psnr:.2f} dB / {score.ssim:.4f}"
        if score.niqe is not None:
            figures[version] += f" / NIQE {score.niqe:.2f}"
    name = f"{example.benchmark} {example.image}, {example.case}"
    return views(name, example.whole, example.box, example.crops, figures)


def views(
    name: str,
    whole: np.ndarray,
    box: Sequence[float],
    crops: Mapping[str, np.ndarray],
    figures: Mapping[str, str],
) -> str:
    """A card of an image with a box, and the crops there with their figures.

    `box` is top, left, height and width, as parts of the image.
    """
    top, left, height, width = (f"{100 * value:.2f}%" for value in box)
    place = f"top:{top};left:{left};height:{height};width:{width}"
    name = escape(name)
    rows, columns = whole.shape[:2]
    wide = f"max-width:{_WHOLE_HEIGHT * columns // rows}px"
    shown = [
        f'<figure class="whole"><div style="{wide}">{image(whole, name)}'
        f'<i style="{place}"></i></div><figcaption>{name}</figcaption></figure>'
    ]
    for version, pixels in crops.items():
        figure = f" {figures[version]}" if version in figures else ""
        shown.append(
            f'<figure class="crop">{image(pixels, f"{escape(version)} of {name}")}'
            f"<figcaption><strong>{escape(version)}</strong>{figure}</figcaption>"
            "</figure>"
        )
    style = f"--crops:{len(crops)}"
    return f'<div class="example card views" style="{style}">{"".join(shown)}</div>'


def _separation(found: Findings, drawn: Plots) -> str:
    if found.separation is None:
        return ""
    lines = _lines(findings.separation_lines(found), found)
    note = f'<p class="soft">{escape(findings.separation_note(found))}</p>'
    others = [
        _plot(name, svg) for name, svg in drawn.items() if name.startswith(f"{TSNE},")
    ]
    if not others:
        return f'{lines}<div class="beside">{_plot(TSNE, drawn[TSNE])}{note}</div>'
    first = _plot(f"{TSNE}, {found.method}", drawn[TSNE])
    return f'{lines}{note}<div class="grid">{first}{"".join(others)}</div>'


def _cost(found: Findings, drawn: Plots) -> str:
    if found.cost is None:
        return ""
    figure = ""
    if "complexity" in drawn:
        figure = _plot("PSNR against operations", drawn["complexity"])
    return (
        f"{_lines(findings.cost_lines(found), found)}"
        f'<div class="beside">{figure}'
        f'<p class="soft">{escape(findings.cost_note(found))}</p></div>'
    )


def _notes(found: Findings) -> str:
    terms = "".join(
        f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>"
        for term, text in findings.notes(found)
    )
    config = escape(json.dumps(found.about, indent=1))
    return (
        f"<dl>{terms}</dl><details><summary>Everything about the run</summary>"
        f"<pre>{config}</pre></details>"
    )


def _lines(lines: Lines, found: Findings) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    styles = dict.fromkeys(found.networks, " class=measured")
    styles[found.method] = " class=ours"
    rows = "".join(
        f"<tr{styles.get(name, '')}><th>{escape(name)}</th>"
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in lines[1:]
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def image(pixels: np.ndarray, text: str) -> str:
    """An image [H, W, 3], uint8, inside the page, with an alternative text."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'
