"""Feature maps with several columns of pixels side by side in the lanes of a TPU.

A TPU computes on rows of 128 lanes, and a map of 64 channels leaves half of them empty.
Here a map [B, h, w, C] is packed as [B, h, w / n, n C] with n columns. Channels are
divided into blocks of 16; a block holds its channels for each of the n columns. With
n = 8 a block fills the lanes, and a map can be split between blocks of channels. (If C
is not a multiple of 16, the first block is smaller: 24 channels are 8 and 16.)

Convolutions and dense layers become those of the wider maps, for the matrix unit: their
kernels are built of the usual ones, with zeros between what does not see each other.
"""

from collections.abc import Callable
from functools import partial
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.networks.plain import NHWC

COLUMNS = 8
_BLOCK = 16  # channels
_EXACT = lax.Precision.HIGHEST  # of products with zeros and ones, which select


def _runs(channels: int) -> list[tuple[int, int, int]]:
    """Runs of equal blocks of channels: (first, beyond the last, a block's size)."""
    rest = channels % _BLOCK
    runs = [(0, rest, rest), (rest, channels, _BLOCK)]
    return [run for run in runs if run[0] < run[1]]


def _blocks(channels: int) -> list[tuple[int, int]]:
    """The first channel and the size of every block."""
    return [
        (start, size)
        for first, end, size in _runs(channels)
        for start in range(first, end, size)
    ]


def pack(x: Array, columns: int) -> Array:
    """[..., w, C] to [..., w / columns, columns C]."""
    *shape, width, channels = x.shape
    blocks = [
        x[..., start : start + size].reshape(*shape, width // columns, columns * size)
        for start, size in _blocks(channels)
    ]
    return jnp.concatenate(blocks, -1)


def unpack(x: Array, columns: int) -> Array:
    """The inverse of `pack`."""
    *shape, width, lanes = x.shape
    blocks = [
        x[..., columns * start : columns * (start + size)].reshape(
            *shape, width * columns, size
        )
        for start, size in _blocks(lanes // columns)
    ]
    return jnp.concatenate(blocks, -1)


def vector(x: Array, columns: int) -> Array:
    """Values of channels [..., C], repeated for all columns: [..., columns C]."""
    *shape, channels = x.shape
    parts = []
    for first, end, size in _runs(channels):
        blocks = x[..., first:end].reshape(*shape, -1, 1, size)
        blocks = jnp.broadcast_to(blocks, (*blocks.shape[:-2], columns, size))
        parts.append(blocks.reshape(*shape, -1))
    return jnp.concatenate(parts, -1)


def sum_of_columns(x: Array, columns: int) -> Array:
    """The transpose of `vector`: [..., columns C] to [..., C]."""
    *shape, lanes = x.shape
    parts = [
        x[..., columns * first : columns * end]
        .reshape(*shape, -1, columns, size)
        .sum(-2)
        .reshape(*shape, -1)
        for first, end, size in _runs(lanes // columns)
    ]
    return jnp.concatenate(parts, -1)


def channel_mean(x: Array, columns: int) -> Array:
    """Mean over the channels of each pixel, in all of its lanes: [..., columns C].

    C is a multiple of the block. On a TPU the product is cheaper than a repetition of
    its result for all blocks. For bfloat16 it is also cheaper than a sum of blocks, and
    the result is float32.
    """
    channels = x.shape[-1] // columns
    blocks, width = channels // _BLOCK, columns * _BLOCK
    same = np.kron(np.eye(columns), np.full((_BLOCK, _BLOCK), 1 / channels))
    if x.dtype == jnp.bfloat16:
        every = np.tile(same, (blocks, blocks)).astype(x.dtype)
        return jnp.matmul(x, every, preferred_element_type=jnp.float32)
    total = sum(x[..., i : i + width] for i in range(0, x.shape[-1], width))
    same = np.tile(same, blocks).astype(x.dtype)
    return jnp.matmul(total, same, precision=_EXACT)


def _seen(size: int, columns: int, channels: int) -> np.ndarray:
    """One-hot [tap, groups, input column, output lane]: the input of each tap.

    A kernel of `size` also reaches into neighbouring groups of columns.
    """
    groups = 2 * ceil((size // 2) / columns) + 1
    sees = [np.repeat(np.arange(columns), width) for _, width in _blocks(channels)]
    group, seen, sees = np.ix_(
        np.arange(groups), np.arange(columns), np.concatenate(sees)
    )
    tap = columns * (group - groups // 2) + seen - sees + size // 2
    return np.stack([tap == i for i in range(size)])


def _where_seen(wide: Array, seen: np.ndarray) -> Array:
    """The weights of `wide` [k, k, I, L] where `_seen` has their tap, zero elsewhere.

    Selections along the lanes are cheaper on a TPU than a product, which moves them.
    """
    total = jnp.zeros((), wide.dtype)
    for tap, where in enumerate(seen[:, :, :, None]):
        total = jnp.where(where, wide[:, tap, None, None], total)
    return total  # [k, groups, columns, I, L]


def _kernel(kernel: Array, columns: int) -> Array:
    """[k, k, I, O] for packed maps: [k, groups, columns I, columns O]."""
    seen = _seen(kernel.shape[1], columns, kernel.shape[-1])
    wide = vector(kernel, columns)
    rows = [
        _where_seen(wide[:, :, start : start + size], seen)
        for start, size in _blocks(kernel.shape[2])
    ]
    rows = [x.reshape(*x.shape[:2], -1, x.shape[-1]) for x in rows]
    return jnp.concatenate(rows, 2)


def _padding(size: int, groups: int) -> list[tuple[int, int]]:
    return [(size // 2, size // 2), (groups // 2, groups // 2)]


def _convolved(x: Array, wide: Array) -> Array:
    """Convolves packed maps by a kernel for them, which sees a group of the lanes."""
    return lax.conv_general_dilated(
        x,
        wide,
        (1, 1),
        _padding(*wide.shape[:2]),
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1] // wide.shape[2],
    )


def conv(x: Array, kernel: Array, columns: int) -> Array:
    """`plain.conv` of stride 1 and an odd kernel, of packed maps."""
    return _convolved(x, _kernel(kernel, columns))


def dense(x: Array, kernel: Array, bias: Array, columns: int) -> Array:
    """`plain.dense` of packed maps."""
    return x @ _kernel(kernel[None, None], columns)[0, 0] + vector(bias, columns)


def _depthwise_kernel(kernel: Array, columns: int) -> Array:
    """[k, k, 1, C] for packed maps, by blocks: [k, groups, lanes, columns C]."""
    seen = _seen(kernel.shape[1], columns, kernel.shape[-1])
    rows = _where_seen(vector(kernel, columns), seen)
    channel = np.arange(rows.shape[-1]) % _BLOCK
    wide = jnp.where(channel == np.arange(_BLOCK)[:, None], rows, 0)
    return wide.reshape(*wide.shape[:2], columns * _BLOCK, -1)


def _depthwise(x: Array, kernel: Array, columns: int) -> Array:
    return _convolved(x, _depthwise_kernel(kernel, columns))


def depthwise_conv(x: Array, kernel: Array, bias: Array, columns: int) -> Array:
    """`plain.depthwise_conv` of packed maps; C is a multiple of a block."""
    y = barred(partial(_depthwise, columns=columns), x, kernel)
    return y + vector(bias, columns)


def barred(function: Callable[[Array, Array], Array], x: Array, kernel: Array) -> Array:
    """`function` of a map and a kernel, with the kernel's gradient behind a barrier.

    The gradient is a convolution of the map. Without the barrier a TPU may fuse the
    computation of the map with it, and repeat that computation for every tap.
    """
    return _barred(function, x, kernel)


def _applied(
    function: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> Array:
    return function(x, kernel)


def _barred_forward(
    function: Callable[[Array, Array], Array], x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return function(x, kernel), (x, kernel)


def _barred_backward(
    function: Callable[[Array, Array], Array],
    residuals: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    x, kernel = residuals
    (of_x,) = jax.vjp(lambda x: function(x, kernel), x)[1](gradient)
    x, gradient = lax.optimization_barrier((x, gradient))
    (of_kernel,) = jax.vjp(lambda k: function(x, k), kernel)[1](gradient)
    return of_x, of_kernel


_barred = jax.custom_vjp(_applied, nondiff_argnums=(0,))
_barred.defvjp(_barred_forward, _barred_backward)
