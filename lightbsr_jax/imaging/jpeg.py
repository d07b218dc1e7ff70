"""JPEG compression and decompression, equal to libjpeg-turbo's bit for bit.

The round trip (colour, chroma subsampling, DCT, quantisation and back) uses only int32
additions, multiplications and shifts. Every accelerator therefore produces the bytes of
Pillow with default options (integer DCT, "fancy" chroma upsampling, tables of ITU-T
T.81 annex K scaled to a quality). Entropy coding is lossless and is left out. There are
no gradients.

Images are [B, H, W, 3] RGB with whole numbers in 0..255. An image may be smaller than
its canvas [H, W]: it lies at the top left, and pixels beyond it have no effect.
"""

import functools
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax import target

Subsampling = Literal["4:4:4", "4:2:0"]

LUMA_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
CHROMA_TABLE = np.array(
    [
        [17, 18, 24, 47, 99, 99, 99, 99],
        [18, 21, 26, 66, 99, 99, 99, 99],
        [24, 26, 56, 99, 99, 99, 99, 99],
        [47, 66, 99, 99, 99, 99, 99, 99],
        *4 * [8 * [99]],
    ]
)

# The DCT of eight samples, times 2^13 sqrt(8): even rows are symmetric, odd ones
# antisymmetric. Its entries are sums of the rounded constants of Loeffler, Ligtenberg
# and Moschytz's algorithm, which are not all the nearest integers.
_LEFT = np.array(
    [
        [8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260],
        [10703, 4433, -4433, -10703],
        [9633, -2259, -11362, -6436],
        [8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633],
        [4433, -10704, 10704, -4433],
        [2260, -6436, 9633, -11363],
    ]
)
_SIGNS = np.where(np.arange(8) % 2, -1, 1)[:, None]
_DCT = np.concatenate([_LEFT, _SIGNS * _LEFT[:, ::-1]], 1).astype(np.int32)
_BITS = 13  # bits of its fraction
_EXTRA = 2  # extra bits that the first pass keeps for the second


@functools.partial(jax.jit, static_argnames="subsampling")
def round_trip(
    images: Array,
    quality: Array,
    *,
    size: Array | None = None,
    subsampling: Subsampling = "4:2:0",
) -> Array:
    """Compresses images [B, H, W, 3] as JPEG of `quality` [B] and decompresses them.

    `quality` holds integers 1..100; `size`, int [B, 2], the rows and columns of each
    image (default: the whole canvas). Float values are rounded first. The result is
    int32 in 0..255.
    """
    if images.dtype.kind == "f":
        images = jnp.round(images)
    images = images.astype(jnp.int32)
    if size is None:
        size = jnp.tile(jnp.array(images.shape[1:3]), (len(images), 1))
    one = functools.partial(_round_trip, subsampled=subsampling == "4:2:0")
    arguments = (images, jnp.asarray(quality), jnp.asarray(size))
    if target.platform() == "cpu":
        return lax.map(lambda of_one: one(*of_one), arguments)
    return jax.vmap(one)(*arguments)


def _round_trip(image: Array, quality: Array, size: Array, subsampled: bool) -> Array:
    height, width, _ = image.shape
    unit = 16 if subsampled else 8
    missing = [(0, -length % unit) for length in (height, width)]
    planes = jnp.pad(_to_ycc(image), ((0, 0), *missing))
    planes = _filled_up(planes, size)
    luma, chroma = planes[:1], planes[1:]
    chroma_size = size
    if subsampled:
        chroma_size = (size + 1) // 2
        chroma = _filled_up(_halved(chroma), chroma_size, axes=(1,))
    luma = _quantised(luma, _scaled(LUMA_TABLE, quality))
    chroma = _quantised(chroma, _scaled(CHROMA_TABLE, quality))
    if subsampled:
        chroma = _doubled(chroma, chroma_size)
    return _to_rgb(jnp.concatenate([luma, chroma])[:, :height, :width])


def _to_ycc(image: Array) -> Array:
    """Planes [3, H, W] of Y, Cb and Cr from [H, W, 3]."""
    red, green, blue = jnp.moveaxis(image, -1, 0)
    half = (128 << 16) + (1 << 15) - 1
    luma = (19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16
    cb = (-11059 * red - 21709 * green + 32768 * blue + half) >> 16
    cr = (32768 * red - 27439 * green - 5329 * blue + half) >> 16
    return jnp.stack([luma, cb, cr])


def _to_rgb(planes: Array) -> Array:
    """[H, W, 3] from the planes [3, H, W] of Y, Cb and Cr."""
    luma, cb, cr = planes[0], planes[1] - 128, planes[2] - 128
    red = luma + _descaled(91881 * cr, 16)
    green = luma + _descaled(-22554 * cb - 46802 * cr, 16)
    blue = luma + _descaled(116130 * cb, 16)
    return jnp.clip(jnp.stack([red, green, blue], -1), 0, 255)


def _filled_up(planes: Array, size: Array, axes: Sequence[int] = (1, 2)) -> Array:
    """Repeats the last valid row and column of planes [N, H, W] to the canvas's end."""
    for axis in axes:
        length = size[axis - 1]
        last = lax.dynamic_slice_in_dim(planes, length - 1, 1, axis)
        valid = lax.broadcasted_iota(jnp.int32, planes.shape, axis) < length
        planes = jnp.where(valid, planes, last)
    return planes


def _halved(planes: Array) -> Array:
    """Means of 2 x 2 pixels, rounded down and up in alternate columns."""
    sums = planes[:, ::2] + planes[:, 1::2]
    sums = sums[:, :, ::2] + sums[:, :, 1::2]
    bias = 1 + lax.broadcasted_iota(jnp.int32, sums.shape, 2) % 2
    return (sums + bias) >> 2


def _doubled(planes: Array, size: Array) -> Array:
    """Doubles height and width, with weights 3 and 1 for the nearest pixels.

    `size` is the size of the valid part. If it has at most two columns, pixels are
    repeated instead.
    """
    planes = _filled_up(planes, size)
    above = jnp.concatenate([planes[:, :1], planes[:, :-1]], 1)
    below = jnp.concatenate([planes[:, 1:], planes[:, -1:]], 1)
    rows = _interleaved(3 * planes + above, 3 * planes + below, 1)
    left = jnp.concatenate([rows[:, :, :1], rows[:, :, :-1]], 2)
    right = jnp.concatenate([rows[:, :, 1:], rows[:, :, -1:]], 2)
    smooth = _interleaved((3 * rows + left + 8) >> 4, (3 * rows + right + 7) >> 4, 2)
    repeated = jnp.repeat(jnp.repeat(planes, 2, 1), 2, 2)
    return jnp.where(size[1] > 2, smooth, repeated)


def _interleaved(even: Array, odd: Array, axis: int) -> Array:
    both = jnp.stack([even, odd], axis + 1)
    shape = list(even.shape)
    shape[axis] *= 2
    return both.reshape(shape)


def _scaled(table: np.ndarray, quality: Array) -> Array:
    """The quantisation table int32 [8, 8] of a quality 1..100."""
    percent = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return jnp.clip((table * percent + 50) // 100, 1, 255).astype(jnp.int32)


def _quantised(planes: Array, table: Array) -> Array:
    """Applies DCT, quantisation and their inverses to 8 x 8 blocks of [N, H, W]."""
    count, height, width = planes.shape
    blocks = (planes - 128).reshape(count, height // 8, 8, width // 8, 8)
    rows = _descaled(_product("kj,narbj->narbk", blocks), _BITS - _EXTRA)
    coefficients = _descaled(_product("kj,najbc->nakbc", rows), _BITS + _EXTRA)
    # The coefficients and the divisors are 8 times those of the DCT. Floats represent
    # them, and the half keeps the quotients away from integers, so floor is exact.
    step = table[:, None, :]
    numerator = (jnp.abs(coefficients) + 4 * step).astype(jnp.float32) + 0.5
    level = jnp.floor(numerator / (8 * step).astype(jnp.float32)).astype(jnp.int32)
    dequantised = jnp.sign(coefficients) * level * step
    columns = _descaled(_product("jk,najbc->nakbc", dequantised), _BITS - _EXTRA)
    samples = _descaled(_product("jk,narbj->narbk", columns), _BITS + _EXTRA + 3)
    return jnp.clip(samples.reshape(count, height, width) + 128, 0, 255)


def _product(subscripts: str, blocks: Array) -> Array:
    return jnp.einsum(subscripts, _DCT, blocks, preferred_element_type=jnp.int32)


def _descaled(values: Array, bits: int) -> Array:
    """values / 2^bits, rounded to the nearest (half up)."""
    return (values + (1 << (bits - 1))) >> bits
