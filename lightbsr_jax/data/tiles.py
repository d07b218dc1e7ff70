"""Cutting images into tiles, and assembling parts of images from tiles.

Images and tiles are uint8 [H, W, 3]; positions and lengths are in pixels. The tiles of
an image are numbered row by row.
"""

import io
from bisect import bisect_right
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image


def starts(length: int, *, tile: int, stride: int) -> list[int]:
    """Start positions of the tiles along a side of `length`, one every `stride`.

    The last tile is moved back to end with the image, so that all are `tile` long; a
    side shorter than `tile` has one shorter tile. `stride` must not exceed `tile`.
    """
    last = max(length - tile, 0)
    return [*range(0, last, stride), last]


def cut(
    image: np.ndarray, *, tile: int, stride: int
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields the top, left and pixels of each tile of an image, in order."""
    height, width, _ = image.shape
    for top in starts(height, tile=tile, stride=stride):
        for left in starts(width, tile=tile, stride=stride):
            yield top, left, image[top : top + tile, left : left + tile]


class Grid:
    """The tiles of an image of a known size."""

    def __init__(self, height: int, width: int, *, tile: int, stride: int) -> None:
        self._tile = tile
        self._tops = starts(height, tile=tile, stride=stride)
        self._lefts = starts(width, tile=tile, stride=stride)

    def __len__(self) -> int:
        return len(self._tops) * len(self._lefts)

    def window(
        self,
        read: Callable[[int], np.ndarray],
        top: int,
        left: int,
        height: int,
        width: int,
    ) -> np.ndarray:
        """A part of the image, [height, width, 3], assembled from tiles.

        `read` returns a tile by its number; only the tiles needed are read.
        """
        window = np.empty((height, width, 3), np.uint8)
        for row in self._covering(self._tops, top, height):
            for column in self._covering(self._lefts, left, width):
                tile = read(row * len(self._lefts) + column)
                down, right = self._tops[row] - top, self._lefts[column] - left
                part = tile[max(-down, 0) :, max(-right, 0) :]
                target = window[max(down, 0) :, max(right, 0) :]
                rows, columns = np.minimum(part.shape[:2], target.shape[:2])
                target[:rows, :columns] = part[:rows, :columns]
        return window

    def _covering(self, starts: list[int], start: int, length: int) -> list[int]:
        """The fewest tiles along an axis that cover `length` pixels from `start`."""
        chosen = [bisect_right(starts, start) - 1]
        while (end := starts[chosen[-1]] + self._tile) < start + length:
            chosen.append(bisect_right(starts, end) - 1)
        return chosen


def encode(tile: np.ndarray) -> bytes:
    """Encodes a tile as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "PNG")
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decodes a tile from PNG."""
    return np.array(Image.open(io.BytesIO(data), formats=("PNG",)))
