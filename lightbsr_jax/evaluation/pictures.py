"""Restorations side by side, as in Figures 6 and 7 of the paper.

Images are uint8 [H, W, 3].
"""

import contextlib
import pickle
import tempfile
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import uniform_filter

from lightbsr_jax.evaluation.benchmark import Restored, Score
from lightbsr_jax.evaluation.restorers import BICUBIC

_GAP = 4  # pixels between columns
_COLUMN_WIDTH = 160  # smallest width at which a caption is legible
_WHOLE = 480  # largest longer side of a whole image
_IN_MEMORY = 1 << 26  # bytes of examples: 64 MiB

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Example(NamedTuple):
    """A region of one image in one case, in all versions."""

    benchmark: str
    image: str
    case: str
    whole: np.ndarray  # HR, reduced
    box: tuple[float, float, float, float]  # top, left, height, width, 0..1
    crops: dict[str, np.ndarray]  # of the box: "LR", each method, "HR"
    scores: dict[str, Score]


class _Kept(NamedTuple):
    """An example on the disk."""

    benchmark: str
    scores: dict[str, Score]
    place: int  # in the file


_E = TypeVar("_E", Example, _Kept)


def example(restored: Restored, *, crop: int) -> Example:
    """The crop x crop HR pixels with bicubic's largest error, in all versions.

    The error of bicubic chooses the region, not that of the method under test.
    """
    scale = restored.hr.shape[0] // restored.lr.shape[0]
    height, width = restored.hr.shape[:2]
    side = min(crop // scale, *restored.lr.shape[:2])  # in LR pixels
    top, left = _worst(restored.sr[BICUBIC], restored.hr, side * scale)
    top, left = top // scale, left // scale

    def cut(image: np.ndarray, factor: int) -> np.ndarray:
        y, x, size = top * factor, left * factor, side * factor
        # Copy: a view would keep the whole image in memory.
        return image[y : y + size, x : x + size].copy()

    whole = Image.fromarray(restored.hr)
    whole.thumbnail((_WHOLE, _WHOLE))
    y, x, size = top * scale, left * scale, side * scale
    return Example(
        restored.benchmark,
        restored.image,
        restored.case,
        np.asarray(whole),
        (y / height, x / width, size / height, size / width),
        {
            name: cut(image, 1 if name == "LR" else scale)
            for name, image in restored.images.items()
        },
        restored.scores,
    )


class Shelf:
    """Examples that are kept until some are chosen; most of them lie on the disk."""

    def __init__(self, folder: str | None) -> None:
        """Uses a temporary file in `folder` if the examples need much memory."""
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=folder)
        self._folder = folder or tempfile.gettempdir()
        self._kept: list[_Kept] = []

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # it writes once more, to a full disk
            self._file.close()

    def add(self, example: Example) -> None:
        place = self._file.tell()
        self._kept.append(_Kept(example.benchmark, example.scores, place))
        try:
            pickle.dump(example, self._file)
        except OSError as error:  # a full disk
            error.filename = self._folder
            raise

    def spread(self, method: str, count: int) -> list[Example]:
        """Chooses as the function `spread` does; nothing can be added afterwards."""
        chosen = []
        for kept in spread(self._kept, method, count):
            self._file.seek(kept.place)
            chosen.append(pickle.load(self._file))
        return chosen


def spread(examples: Sequence[_E], method: str, count: int) -> list[_E]:
    """Chooses at most `count` examples of each benchmark, by gain over bicubic.

    The first has the largest gain, the last the smallest, and the others are evenly
    spaced between. For bicubic itself the PSNR is used instead of the gain.
    """

    def gain(example: _E) -> float:
        psnr, other = (example.scores[name].psnr for name in (method, BICUBIC))
        if method == BICUBIC:
            return psnr
        return 0.0 if psnr == other else psnr - other  # both may be infinite

    chosen = []
    for benchmark in dict.fromkeys(example.benchmark for example in examples):
        own = [example for example in examples if example.benchmark == benchmark]
        own.sort(key=gain, reverse=True)
        places = np.linspace(0, len(own) - 1, min(count, len(own))).round().astype(int)
        chosen += [own[place] for place in places]
    return chosen


def panel(images: dict[str, np.ndarray], scores: dict[str, Score]) -> np.ndarray:
    """Images of one scene side by side, each with its name and PSNR above it.

    Smaller images are enlarged by whole factors to the size of the largest.
    """
    labels = [
        f"{name} {scores[name].psnr:.2f} dB" if name in scores else name
        for name in images
    ]
    width = max(image.shape[1] for image in images.values())
    width *= -(-_COLUMN_WIDTH // width)
    columns = [_enlarge(image, width // image.shape[1]) for image in images.values()]
    height = columns[0].shape[0]
    font = _font(labels, width)
    caption = 2 * int(font.getbbox("Ag")[3])
    total = len(columns) * (width + _GAP) - _GAP
    panel = Image.new("RGB", (total, caption + height), "white")
    draw = ImageDraw.Draw(panel)
    for index, (label, image) in enumerate(zip(labels, columns, strict=True)):
        left = index * (width + _GAP)
        panel.paste(Image.fromarray(image), (left, caption))
        draw.text((left + width // 2, caption // 2), label, "black", font, anchor="mm")
    return np.asarray(panel)


def busiest(image: np.ndarray, size: int) -> tuple[int, int]:
    """Top and left of the size x size window with the most detail."""
    blurred = uniform_filter(image.astype(np.float64), 3, axes=(0, 1))
    return _worst(image, blurred, size)


def _worst(image: np.ndarray, hr: np.ndarray, size: int) -> tuple[int, int]:
    """Top and left of the size x size window with the largest squared error."""
    error = np.square(image.astype(np.float64) - hr).mean(-1)
    mean = uniform_filter(error, size, mode="constant")
    # Keep the centres of the windows that lie inside.
    first = size // 2
    inside = mean[first : first + hr.shape[0] - size + 1]
    inside = inside[:, first : first + hr.shape[1] - size + 1]
    top, left = np.unravel_index(inside.argmax(), inside.shape)
    return int(top), int(left)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _font(labels: list[str], width: int) -> _Font:
    """Pillow's own font, at the largest size that fits the labels, 8 to 24 pixels."""
    for size in range(24, 8, -1):
        font = ImageFont.load_default(size)
        if max(font.getlength(label) for label in labels) <= width - 4:
            return font
    return ImageFont.load_default(8)
