"""Large feature maps, cut into tiles of one size.

A tile is [1, t, u, C]; tiles at the right and bottom extend beyond the image. Tiles of
all images have the same few shapes, so that a stage of the network is compiled once and
serves pictures of any size. The rows of tiles are spread over the devices.
"""

import math
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.methods.dynamic import DynamicDepthwise
from lightbsr_jax.networks.layers import Conv, DepthwiseConv
from lightbsr_jax.typed import Device

# Pixels along a tile's side; 272 are 256 and the mirrored border. With more kinds less
# would be computed beyond the image, but each pair is compiled, which takes seconds.
SIDES = (32, 64, 128, 160, 192, 224, 272)
SMALLEST, LARGEST = SIDES[0], SIDES[-1]
_HALO = 12  # pixels of halo at both ends of a side, for the most frequent stage
_FEW = 64  # tiles that are not copied into an array on the host, which takes time
_IN_FLIGHT = 2  # tiles that are queued on a device ahead of the finished ones

Storage = Literal["devices", "host", "file"]
Row = list[Array]
Neighbours = list[list[Array]]  # 3 x 3 tiles around the middle one


Place = Array | np.integer


class Window(NamedTuple):
    """Position of a tile with its halo in the image, in pixels of one resolution."""

    top: Place
    left: Place
    height: Place  # of the image
    width: Place

    def at(self, numerator: int, denominator: int) -> "Window":
        """Converts to another resolution; rounds sizes up, as the network does."""
        top, left, height, width = (value * numerator for value in self)
        return Window(
            top // denominator,
            left // denominator,
            -(-height // denominator),
            -(-width // denominator),
        )

    def masked(self, x: Array) -> Array:
        """Sets the pixels of `x` [1, h, w, C] outside the image to zero."""
        rows = self.top + jnp.arange(x.shape[1])
        columns = self.left + jnp.arange(x.shape[2])
        inside = ((rows >= 0) & (rows < self.height))[:, None]
        inside &= (columns >= 0) & (columns < self.width)
        return jnp.where(inside[..., None], x, 0)


class Grid:
    """The tiles of an image, and the device that computes each."""

    def __init__(
        self,
        size: tuple[int, int],
        tile: tuple[int, int],
        devices: Sequence[Device],
        *,
        storage: Storage = "devices",
    ) -> None:
        """`tile`: sides of a tile; `storage`: place of maps.

        ("host" is for many tiles, which would fragment memory.)
        """
        self.size = size
        self.tile = tile
        self.rows, self.columns = (
            -(-n // t) for n, t in zip(size, self.tile, strict=True)
        )
        self._devices = devices
        few = self.rows * self.columns <= _FEW
        self.storage = "devices" if few and storage == "host" else storage

    @property
    def is_one(self) -> bool:
        """True if a single tile covers the image."""
        return self.rows == self.columns == 1

    def device(self, row: int) -> Device:
        """The device of a row of tiles; each device has adjacent rows."""
        return self._devices[row * len(self._devices) // self.rows]

    def window(self, row: int, column: int, halo: int) -> Window:
        """Position of a tile with `halo` pixels around it."""
        top, left = (
            np.int32(n * t - halo)
            for n, t in zip((row, column), self.tile, strict=True)
        )
        height, width = map(np.int32, self.size)
        return Window(top, left, height, width)

    def cut(self, image: np.ndarray) -> "Map":
        """Cuts the image [h, w, C] into tiles, padded with zeros."""
        width, (t, u) = self.size[1], self.tile
        tiles = Map(self)
        for row in range(self.rows):
            strip = image[row * t : (row + 1) * t]
            missing = t - len(strip), self.columns * u - width
            strip = np.pad(strip, ((0, missing[0]), (0, missing[1]), (0, 0)))
            pieces = np.split(strip[None], self.columns, axis=2)
            tiles[row] = [jax.device_put(x, self.device(row)) for x in pieces]
        return tiles

    def compute(
        self, stage: Callable[..., tuple[Array, Array]], inputs: Sequence["Map"]
    ) -> Iterator[tuple[int, Row, np.ndarray]]:
        """Runs `stage(device, row, column, *tiles)` for all tiles.

        The stage gets each tile of the inputs with its neighbours and returns a tile
        and sums over it. Yields the number of each row, its tiles and its sums. A
        yielded row may overwrite the row that it was computed from.
        """
        rings = [_Ring(tiles) for tiles in inputs]
        for row in range(self.rows):
            device = self.device(row)
            for ring in rings:
                ring.advance()
            tiles, sums = [], deque()
            total: Any = 0.0
            for column in range(self.columns):
                around = [ring.around(column, device) for ring in rings]
                tile, partial_sums = stage(device, row, column, *around)
                tiles.append(tile)
                sums.append(partial_sums)
                if len(sums) > _IN_FLIGHT:
                    total += np.asarray(sums.popleft(), np.float64)
            total += sum(np.asarray(x, np.float64) for x in sums)
            yield row, tiles, total


class Map:
    """A feature map as rows of tiles, stored as its grid specifies."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self._rows: list[Row] = [[]] * grid.rows  # on devices
        self._array: np.ndarray | None = None  # elsewhere
        self.sums: np.ndarray | None = None  # [C + 1], the last is the number of pixels

    def __getitem__(self, row: int) -> Row:
        if self._array is None:
            return self._rows[row]
        device = self.grid.device(row)
        # Copy: the row may be overwritten while this one is in use.
        return [jax.device_put(np.array(x), device) for x in self._array[row]]

    def __setitem__(self, row: int, tiles: Row) -> None:
        if self.grid.storage == "devices":
            self._rows[row] = tiles
            return
        if self._array is None:
            shape = (self.grid.rows, self.grid.columns, *tiles[0].shape)
            if self.grid.storage == "file":
                self._array = _in_a_file(shape, tiles[0].dtype)
            else:
                self._array = np.empty(shape, tiles[0].dtype)
        for place, tile in zip(self._array[row], tiles, strict=True):
            place[:] = np.asarray(tile)

    def assembled(self) -> np.ndarray:
        """The whole map [h, w, C], with the padding of the last tiles."""
        rows = [
            np.concatenate([np.asarray(x[0]) for x in self[row]], 1)
            for row in range(self.grid.rows)
        ]
        return np.concatenate(rows)


def _in_a_file(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Makes an array in a temporary file. Raises UserError if the disk is full."""
    size = math.prod(shape) * dtype.itemsize
    file = tempfile.TemporaryFile()
    try:
        # Without this, a disk that fills up later kills the process by SIGBUS.
        if hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise UserError(
            f"no space for {size / 1e9:.1f} GB of maps in {tempfile.gettempdir()} "
            f"({error.strerror}): set TMPDIR to a folder with more space"
        ) from error
    return np.memmap(file, dtype, "w+", shape=shape)


class _Ring:
    """The row of a map being computed and its neighbours, before any is overwritten."""

    def __init__(self, tiles: Map) -> None:
        self._tiles = tiles
        self._row = -1
        self._above: Row | None = None
        self._here: Row | None = None
        self._below: Row | None = tiles[0]
        self._zero = jnp.zeros_like(tiles[0][0])

    def advance(self) -> None:
        self._row += 1
        last = self._row + 1 == self._tiles.grid.rows
        self._above, self._here = self._here, self._below
        self._below = None if last else self._tiles[self._row + 1]

    def around(self, column: int, device: Device) -> Neighbours:
        columns = self._tiles.grid.columns

        def tile(row: Row | None, column: int) -> Array:
            if row is None or not 0 <= column < columns:
                return jax.device_put(self._zero, device)
            return jax.device_put(row[column], device)

        return [
            [tile(row, column + shift) for shift in (-1, 0, 1)]
            for row in (self._above, self._here, self._below)
        ]


def with_halo(tiles: Neighbours, halo: int) -> Array:
    """Joins `halo` pixels of the neighbours to the middle tile: [1, t+2n, u+2n, C]."""
    if not halo:
        return tiles[1][1]
    if halo > min(tiles[1][1].shape[1:3]):
        raise ValueError(f"a halo of {halo} is wider than the neighbouring tiles")
    before, after = slice(-halo, None), slice(None, halo)
    rows = (before, slice(None), after)
    return jnp.concatenate(
        [
            jnp.concatenate(
                [x[:, r, c] for x, c in zip(row, rows, strict=True)], axis=2
            )
            for row, r in zip(tiles, rows, strict=True)
        ],
        axis=1,
    )


def without_halo(x: Array, halo: int) -> Array:
    """The inverse of `with_halo`."""
    return x[:, halo : x.shape[1] - halo, halo : x.shape[2] - halo]


def at_the_border(window: Window, rows: int) -> AbstractContextManager[None]:
    """Zeroes pixels outside the image before every convolution in this context.

    Tiles thereby see the padding that the whole image would. `window` is the position
    of the input and `rows` its height; inputs at other resolutions are scaled in
    proportion.
    """

    def mask(call: Callable, arguments: tuple, options: dict, context) -> Array:
        if isinstance(context.module, Conv | DepthwiseConv | DynamicDepthwise):
            x, *others = arguments
            # (A map of one pixel is a vector.)
            if context.method_name == "__call__" and x.shape[1] > 1:
                common = math.gcd(x.shape[1], rows)
                here = window.at(x.shape[1] // common, rows // common)
                arguments = (here.masked(x), *others)
        return call(*arguments, **options)

    return nn.intercept_methods(mask)


def tile_sides(size: tuple[int, int], largest: int) -> tuple[int, int]:
    """Height and width of the tiles for an image, each of at most `largest`."""
    return _tile_side(size[0], largest), _tile_side(size[1], largest)


def _tile_side(size: int, largest: int) -> int:
    """The side with the fewest pixels in all, with those beyond the image and halos."""

    def computed(side: int) -> int:
        tiles = -(-size // side)
        return tiles * (side + (_HALO if tiles > 1 else 0))

    return min((side for side in reversed(SIDES) if side <= largest), key=computed)


def half_side(side: int) -> int:
    """The largest side of at most half of `side`, or the smallest of all."""
    return max((other for other in SIDES if 2 * other <= side), default=SMALLEST)
