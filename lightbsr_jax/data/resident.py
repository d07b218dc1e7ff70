"""Training images held in the memory of the device, which cuts the crops.

The host reads each file once and then only draws a few numbers per step. The data has
to fit into memory. The crops are those of pipeline.py, bit for bit.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from jax import Array, lax

from lightbsr_jax import target
from lightbsr_jax.data.pipeline import (
    FLIP_COLUMNS,
    FLIP_ROWS,
    TRANSPOSE,
    Places,
    Sampler,
)
from lightbsr_jax.data.sources import Source
from lightbsr_jax.errors import UserError
from lightbsr_jax.typed import ArrayLike


class Pixels(NamedTuple):
    """The images of a source, stacked vertically."""

    # Padded with zeros: uint8 [sum of heights, 3 * largest width], or on a TPU uint32
    # [sum of heights, largest width], a pixel's colours from the lowest bits on.
    lines: Array
    first: Array  # int32 [N], the line in which each image begins


class ResidentBatches(Iterator[Any]):
    """An endless iterator of the places that `sampler` draws, used like `CropBatches`.

    `pixels` holds the images, which `threads` threads read and `share` moves to the
    devices; `crops` cuts the places out of them. An image that cannot be decoded is
    replaced as in `CropBatches`. Raises UserError if the devices lack the memory.
    """

    pixels: Pixels

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        *,
        threads: int,
        transfer: Callable[[Places], Any] = lambda places: places,
        share: Callable[[np.ndarray], Array] = jnp.asarray,
    ) -> None:
        self._sampler, self._transfer = sampler, transfer
        self._next = 0
        heights, widths = source.sizes.T
        # With bytes, a TPU would copy all lines to another layout for each crop.
        size = 4 if target.platform() == "tpu" else 3
        _check_memory(len(source), int(heights.sum()), int(widths.max()), size)
        lines = np.zeros((heights.sum(), widths.max(), size), np.uint8)
        first = np.cumsum(heights) - heights
        self._readable = np.ones(len(source), bool)

        def load(index: int) -> None:
            image = source[index]
            if image is None:
                self._readable[index] = False
                return
            height, width, _ = image.shape
            lines[first[index] : first[index] + height, :width, :3] = image

        with ThreadPoolExecutor(max(threads, 1)) as pool:
            list(pool.map(load, range(len(source))))
        lines = lines.reshape(len(lines), -1)
        if size == 4:
            lines = lines.view("<u4").astype(np.uint32, copy=False)
        self.pixels = Pixels(share(lines), share(first.astype(np.int32)))

    def __next__(self) -> Any:
        places = self._sampler.places(self._next)
        unreadable = ~self._readable[places.images]
        if unreadable.any():
            places = Places(*(array.copy() for array in places))
            for row in np.flatnonzero(unreadable):
                others = self._sampler.replacements(self._next, int(row))
                other = next(other for other in others if self._readable[other[0]])
                places.images[row], places.tops[row], places.lefts[row] = other
        self._next += 1
        return self._transfer(places)

    def get_state(self) -> dict[str, int]:
        """The position in the stream, in the format of `CropBatches`."""
        return {"batches": self._next}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position that a `get_state` returned."""
        self._next = state["batches"]

    def close(self) -> None:
        """Does nothing: there are no threads to stop."""


def crops(pixels: Pixels, places: Places, *, size: int) -> Array:
    """Cuts and turns crops of resident images: uint8 [B, D, size, size, 3]."""

    words = pixels.lines.dtype == jnp.uint32

    def cut(line: ArrayLike, left: ArrayLike) -> Array:
        if words:
            return lax.dynamic_slice(pixels.lines, (line, left), (size, size))
        lines = lax.dynamic_slice(pixels.lines, (line, 3 * left), (size, 3 * size))
        return lines.reshape(size, size, 3)

    def of_image(
        first: Array, tops: ArrayLike, lefts: ArrayLike, turn: ArrayLike
    ) -> Array:
        crops = jax.vmap(cut)(first + tops, lefts)  # [D, size, size, 3], or words
        crops = jnp.where(turn & FLIP_ROWS, crops[:, ::-1], crops)
        crops = jnp.where(turn & FLIP_COLUMNS, crops[:, :, ::-1], crops)
        return jnp.where(turn & TRANSPOSE, crops.swapaxes(1, 2), crops)

    first = pixels.first[places.images]
    cropped = jax.vmap(of_image)(first, places.tops, places.lefts, places.turns)
    if not words:
        return cropped
    channels = [cropped >> shift & 255 for shift in (0, 8, 16)]
    return jnp.stack(channels, -1).astype(jnp.uint8)


def _check_memory(images: int, lines: int, width: int, size: int) -> None:
    needed, free = size * lines * width, _free_memory()
    if needed > free:
        raise UserError(
            f"config.data.resident: {images} images as {lines} lines of {width} pixels "
            f"need {needed / 1e9:.1f} GB, and a device has {free / 1e9:.1f} GB free: "
            "set it to False (lightbsr prepare makes reading quick)"
        )


def _free_memory() -> int:
    """Free bytes of a device, before training allocates any."""
    stats = jax.local_devices()[0].memory_stats()
    if stats is None:  # a CPU
        return psutil.virtual_memory().available
    return stats["bytes_limit"] - stats["bytes_in_use"]
