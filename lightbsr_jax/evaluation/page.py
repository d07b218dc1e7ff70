"""The report as one HTML page that needs nothing beside itself: no script, no font."""

import base64
import io
import json
from html import escape

import numpy as np
from PIL import Image

from lightbsr_jax.evaluation import findings
from lightbsr_jax.evaluation.findings import Findings, Lines
from lightbsr_jax.evaluation.pictures import Example
from lightbsr_jax.evaluation.plots import TSNE, Plots
from lightbsr_jax.evaluation.tables import Table

_WHOLE_HEIGHT = 230  # pixels on the screen

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --ink: #1c1d20; --soft: #63666d;
  --line: #e3e3e0; --accent: #2467b8; --tint: #e3effc; --faint: #f5f6f4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16171a; --card: #1e2024; --ink: #e6e6e3; --soft: #a0a3aa;
    --line: #34363c; --accent: #7db4f2; --tint: #1e3350; --faint: #25272c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1180px; padding: 2rem 1.25rem 4rem;
  background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .35rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, figcaption, .ssim { color: var(--soft); }
nav { margin-top: .75rem; display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
.grid {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr));
}
.beside { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin-top: 1rem; }
.beside > figure { flex: 0 1 420px; }
.beside > p { flex: 1 1 18rem; margin: 0; }
dt { font-weight: 600; margin-top: .6rem; }
dd { margin: 0; max-width: 46rem; }
summary { cursor: pointer; margin-top: 1rem; color: var(--accent); }
.cards {
  margin-top: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr));
}
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1rem; margin: 0;
}
.card b { display: block; font-size: 1.6rem; line-height: 1.25; }
.card svg { width: 100%; height: auto; display: block; }
.scroll {
  overflow-x: auto; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px;
}
table {
  border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums;
}
th, td {
  padding: .38rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); vertical-align: top;
}
tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; color: var(--soft); font-size: .875rem; }
th:first-child {
  text-align: left; position: sticky; left: 0; background: var(--card);
  font-weight: 400;
}
tr.measured > *, tr.ours > * { font-weight: 600; }
tr.measured > *, tr.measured th:first-child { background: var(--faint); }
tr.ours > *, tr.ours th:first-child { background: var(--tint); }
.ssim { display: block; font-size: .75rem; font-weight: 400; line-height: 1.2; }
.example { margin: 0 0 1rem; }
.views {
  display: grid; gap: .6rem; grid-template-columns: 1.35fr repeat(var(--crops), 1fr);
}
.views img { width: 100%; display: block; border-radius: 4px; }
.crop img { image-rendering: pixelated; aspect-ratio: 1; }
.views figure { margin: 0; }
.whole > div { position: relative; margin: auto; }
.whole i {
  position: absolute; border: 2px solid #ff4d3d; box-shadow: 0 0 0 1px #0008;
}
figcaption { font-size: .8125rem; line-height: 1.35; padding-top: .25rem; }
figcaption strong { color: var(--ink); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8125rem; }
@media (max-width: 700px) {
  body { padding: 1.25rem .8rem 3rem; }
  .views { grid-template-columns: 1fr 1fr; }
  .whole { grid-column: 1 / -1; }
  th, td { padding: .35rem .55rem; }
  th:first-child { white-space: normal; max-width: 9rem; }
}
"""


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
    title = escape(found.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{title}</h1><nav>{links}</nav></header>"
        f"<main>{_headlines(found)}{body}</main></body></html>\n"
    )


def _headlines(found: Findings) -> str:
    cards = "".join(
        f'<div class="card"><span class="soft">{escape(label)}</span><b>{value}</b>'
        f'<span class="soft">{"<br>".join(map(escape, details))}</span></div>'
        for label, value, details in findings.headlines(found)
    )
    return f'<div class="grid cards">{cards}</div>'


def _tables(found: Findings) -> str:
    text = (
        "PSNR (dB), and below it SSIM, of what was measured here; the other rows are "
        "as the paper prints them."
    )
    tables = "".join(_table(table, found.method) for table in found.tables)
    return f'<p class="soft">{text}</p>{tables}'


def _table(table: Table, ours: str) -> str:
    sizes = any(row.parameters for row in table.rows)
    header = ["", *table.columns, *["params (M)"] * sizes]
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    rows = []
    for row in table.rows:
        cells = []
        for column, psnr in enumerate(row.psnr):
            cell = "" if psnr is None else f"{psnr:.2f}"
            if row.measured:
                cell += f'<span class="ssim">{row.ssim[column]:.4f}</span>'
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
        f"<h3>{escape(table.title)}</h3>"
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
        f"Of each benchmark, from the image with the largest {rank} to the one with "
        "the least. The region is where bicubic errs most; PSNR and SSIM are of the "
        "whole image."
    )
    examples = "".join(map(_example, found.examples))
    return f'<p class="soft">{text}</p>{examples}' if examples else ""


def _example(example: Example) -> str:
    top, left, height, width = (f"{100 * value:.2f}%" for value in example.box)
    box = f"top:{top};left:{left};height:{height};width:{width}"
    name = escape(f"{example.benchmark} {example.image}, {example.case}")
    rows, columns = example.whole.shape[:2]
    width = f"max-width:{_WHOLE_HEIGHT * columns // rows}px"
    views = [
        f'<figure class="whole"><div style="{width}">{_image(example.whole, name)}'
        f'<i style="{box}"></i></div><figcaption>{name}</figcaption></figure>'
    ]
    for version, pixels in example.crops.items():
        caption = f"<strong>{escape(version)}</strong>"
        if version in example.scores:
            score = example.scores[version]
            caption += f" {score.psnr:.2f} dB / {score.ssim:.4f}"
        views.append(
            f'<figure class="crop">{_image(pixels, f"{version} of {name}")}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    columns = f"--crops:{len(example.crops)}"
    return f'<div class="example card views" style="{columns}">{"".join(views)}</div>'


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


def _image(pixels: np.ndarray, text: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text}" src="data:image/png;base64,{data}">'
