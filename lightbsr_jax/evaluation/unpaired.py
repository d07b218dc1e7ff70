"""NIQE of pictures without HR images, after networks and interpolations.

Networks restore them as `lightbsr upscale` does: in exact tiles, with mirrored borders.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from PIL import Image

from lightbsr_jax.evaluation import pictures, tables
from lightbsr_jax.evaluation.cases import GIVEN
from lightbsr_jax.evaluation.images import (
    TestImage,
    check_once,
    check_outside,
    name_folder,
    sr_path,
)
from lightbsr_jax.evaluation.niqe import niqe
from lightbsr_jax.evaluation.restorers import BICUBIC, LANCZOS
from lightbsr_jax.imaging import conversion, files
from lightbsr_jax.inference.blending import Blend
from lightbsr_jax.inference.upscaler import Upscaler
from lightbsr_jax.models.model import Model

CONVENTION = (
    "NIQE: on luma rounded to whole numbers, border of {border} pixels cut, blocks of "
    "96 pixels; lower is better. It does not measure whether details are true."
)
_WHOLE = 480  # the longer side of a whole picture, at most

Restore = Callable[[np.ndarray], np.ndarray]  # LR to SR, both uint8 [h, w, 3]


class Look(NamedTuple):
    """A picture to look at, uint8 [H, W, 3]."""

    whole: np.ndarray  # LR, reduced
    box: tuple[float, float, float, float]  # top, left, height, width, 0..1
    crops: dict[str, np.ndarray]  # of the box: "LR", and each method


class Measured(NamedTuple):
    """A picture and its figures."""

    benchmark: str
    image: str
    size: tuple[int, int]  # height and width
    niqe: dict[str, float | None]  # by method; None where it is too small
    look: Look | None


def measure(
    networks: Mapping[str, Model],
    found: Sequence[TestImage],
    *,
    scale: int,
    border: int,
    crop: int,
    pictures: int,
    dump_sr: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Restores all pictures by every method; NIQE is without `border`.

    The first `pictures` of each folder are kept for the report, with a region of
    crop x crop SR pixels. SR images are written below `dump_sr`. Raises UserError for a
    teacher, and if SR images would lie beside pictures; ImageError for damaged ones.
    """
    methods = _methods(networks, scale)
    if dump_sr is not None:
        for image in found:
            check_outside(Path(dump_sr, image.benchmark), image)
    for image in found:
        image.read()  # a damaged one ends the measurement now, not after hours
    measured = []
    for done, image in enumerate(found):
        lr = image.read()
        sr = {method: restore(lr) for method, restore in methods.items()}
        if dump_sr is not None:
            for method, pixels in sr.items():
                out = sr_path(dump_sr, image.benchmark, image.name, GIVEN, method)
                files.write_png(out, pixels)
        scores = {method: niqe(pixels, border=border) for method, pixels in sr.items()}
        measured.append(
            Measured(
                image.benchmark,
                image.name,
                lr.shape[:2],
                {m: None if math.isnan(x) else x for m, x in scores.items()},
                _look(lr, sr, crop // scale) if image.position < pictures else None,
            )
        )
        if on_progress is not None:
            on_progress(done + 1, len(found))
    return measured


def table(measured: Sequence[Measured], methods: Sequence[str]) -> str:
    """A table with a row for each method: NIQE, averaged over large enough pictures."""
    lines = [["method"]]
    rows = [[f"**{method}**"] for method in methods]
    for benchmark in dict.fromkeys(one.benchmark for one in measured):
        own = [one for one in measured if one.benchmark == benchmark]
        scored = [one.niqe for one in own if None not in one.niqe.values()]
        lines[0] += [f"{tables.escaped(benchmark)} ({len(scored)})", "below bicubic"]
        for row, method in zip(rows, methods, strict=True):
            values = [scores[method] or math.nan for scores in scored]
            lower = sum((s[method] or 0) < (s[BICUBIC] or 0) for s in scored)
            row.append(f"{np.mean(values):.2f}" if values else "")
            row.append("" if method == BICUBIC else f"{lower}")
    return f"NIQE (number of pictures)\n\n{tables.grid(lines + rows)}"


def _methods(networks: Mapping[str, Model], scale: int) -> dict[str, Restore]:
    def bicubic(lr: np.ndarray) -> np.ndarray:
        pixels = lr.astype(np.float32) / 255
        enlarged = Blend(pixels, scale=scale, strength=0.0, border=0)
        size = (scale * lr.shape[0], scale * lr.shape[1], 3)
        nothing = np.broadcast_to(np.float32(0), size)  # takes no memory
        return enlarged(nothing, 0, np.dtype(np.uint8))

    def lanczos(lr: np.ndarray) -> np.ndarray:
        return conversion.resized(lr, (scale * lr.shape[0], scale * lr.shape[1]))

    devices = jax.local_devices()
    upscalers = {
        name: Upscaler(model, devices=devices) for name, model in networks.items()
    }
    return {BICUBIC: bicubic, LANCZOS: lanczos, **upscalers}


def find(folders: Sequence[str]) -> list[TestImage]:
    """The pictures of folders.

    Raises FileNotFoundError or UserError for a folder without pictures, for two folders
    of one name, and for a list that names a picture twice.
    """
    found = []
    named: dict[str, Path] = {}
    for folder in folders:
        benchmark = name_folder(Path(folder), named)
        own = files.find_images(folder)
        check_once(Path(folder), own)
        for position, (name, path) in enumerate(own):
            found.append(TestImage(benchmark, name, position, path))
    return found


def _look(lr: np.ndarray, sr: dict[str, np.ndarray], side: int) -> Look:
    """The region of side x side LR pixels with the most detail, in all versions."""
    height, width = lr.shape[:2]
    side = min(side, height, width)
    top, left = pictures.busiest(lr, side)

    def cut(image: np.ndarray) -> np.ndarray:
        factor = len(image) // height
        y, x, size = top * factor, left * factor, side * factor
        # Copy: a view would keep the whole image in memory.
        return image[y : y + size, x : x + size].copy()

    whole = Image.fromarray(lr)
    whole.thumbnail((_WHOLE, _WHOLE))
    box = (top / height, left / width, side / height, side / width)
    crops = {name: cut(image) for name, image in {"LR": lr, **sr}.items()}
    return Look(np.asarray(whole), box, crops)
