"""Printing a comparison with a published program, and writing it as JSON."""

import json
import math
from collections.abc import Iterable, Sequence

import jax
import numpy as np

from lightbsr_jax import target
from lightbsr_jax.parity.case import Arrays, Case
from lightbsr_jax.parity.compare import Arithmetic, Row


def table(rows: Sequence[Row]) -> str:
    """The table for a terminal."""
    lines = [("quantity", "arrays", "absolute", "relative", "tolerance", "verdict")]
    raised = False
    for row in rows:
        verdict = row.verdict
        if verdict != "ok":
            verdict += f" {row.culprit}"
        if not row.parts:
            lines.append((row.kind.quantity, "0", "", "", "", verdict))
            continue
        parts = row.parts.values()
        raised |= any(part.allowed > row.kind.tolerance for part in parts)
        lines.append(
            (
                row.kind.quantity,
                str(len(parts)),
                f"{_largest(part.absolute for part in parts):.1e}",
                f"{_largest(part.relative for part in parts):.1e}",
                _format_tolerance(row),
                verdict,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [first.ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(cells, widths[1:-1], strict=True)]
            + [last]
        )
        for first, *cells, last in lines
    ]
    failed = sum(row.verdict != "ok" for row in rows)
    text.append("")
    if raised:
        text.append(
            "* raised to three times the reference's own float32 error for some arrays"
        )
    whole = f"{failed} of {len(rows)} differ" if failed else f"all {len(rows)} agree"
    text.append(f"{whole}.")
    return "\n".join(text)


def _largest(values: Iterable[float]) -> float:
    """The largest of some numbers; NaN if one of them is."""
    return float(np.max(list(values)))


def _finite(value: float) -> float | str:
    """Turns NaN and infinity into text: JSON has neither."""
    return value if math.isfinite(value) else str(value)


def _format_tolerance(row: Row) -> str:
    tolerance = row.kind.tolerance
    if row.kind.measure == "level":
        return f"1 level in {tolerance:.1%}"
    if row.kind.measure == "cancelled":
        return f"{tolerance:.0e} of kernel's"
    if row.kind.measure == "absolute":
        unit = " dB" if row.kind.quantity.endswith("PSNR") else ""
        return f"{tolerance:g}{unit} absolute"
    largest = max(part.allowed for part in row.parts.values())
    return f"{largest:.0e}*" if largest > tolerance else f"{tolerance:.0e}"


def images(case: Case, ours: Arrays, theirs: Arrays) -> str:
    """PSNR of each photograph through both programs, in dB."""
    lines = [f"{'photograph':20} {'reference':>10} {'ours':>10} {'difference':>10}"]
    for index, name in enumerate(case.meta["images"]):
        a, b = (float(side[f"images/{index}/psnr"]) for side in (ours, theirs))
        lines.append(f"{name:20} {b:10.4f} {a:10.4f} {a - b:10.1e}")
    return "\n".join(lines)


def as_json(case: Case, rows: Sequence[Row], ours: Arrays, theirs: Arrays) -> str:
    """The whole table and every array in it, as JSON."""
    images = {
        name: {
            what: {
                "ours": _finite(float(ours[key])),
                "reference": _finite(float(theirs[key])),
            }
            for what in ("psnr", "ssim")
            if (key := f"images/{index}/{what}") in theirs
        }
        for index, name in enumerate(case.meta["images"])
    }
    content = {
        "case": case.meta,
        "jax": jax.__version__,
        "backend": target.platform(),
        "agrees": all(row.verdict == "ok" for row in rows),
        "rows": [
            {
                **row.kind._asdict(),
                "verdict": row.verdict,
                "worst": row.worst if row.parts else None,
                "missing": row.missing,
                "arrays": {
                    name: {field: _finite(x) for field, x in part._asdict().items()}
                    for name, part in row.parts.items()
                },
            }
            for row in rows
        ],
        "images": images,
    }
    return json.dumps(content, indent=1)


def precision(costs: Sequence[Arithmetic]) -> str:
    """The table of errors that `compare.precision` measured."""
    with_images = any(cost.psnr is not None for cost in costs)
    lines = [f"{'arithmetic':20} {'relative error':>14}"]
    if with_images:
        lines[0] += f" {'mean PSNR':>10} {'cost':>8}"
    best = costs[0].psnr
    for cost in costs:
        lines.append(f"{cost.name:20} {cost.relative_error:14.1e}")
        if best is not None and cost.psnr is not None:
            lines[-1] += f" {cost.psnr:7.3f} dB {best - cost.psnr:5.3f} dB"
    if not with_images:
        lines.append("--images=FOLDER adds the cost in dB.")
    if target.platform() == "cpu":
        lines.append("On a CPU, JAX's default is float32, the same as highest.")
    return "\n".join(lines)
