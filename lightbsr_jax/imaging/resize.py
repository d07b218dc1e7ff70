"""Bicubic and Lanczos interpolation as two constant matrices.

The bicubic rule is MATLAB's imresize (Keys' cubic with a = -0.5, antialiased when
shrinking, half-pixel centres), except at the border: indices beyond it are clamped to
it, where MATLAB mirrors them. Images are [..., H, W, C].
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import Precision

from lightbsr_jax.typed import ArrayLike


@functools.lru_cache(maxsize=64)
def bicubic_matrix(
    size_in: int,
    size_out: int,
    *,
    a: float = -0.5,
    antialias: bool = True,
    border: Literal["clamp", "mirror"] = "clamp",
) -> np.ndarray:
    """The float32 matrix [size_out, size_in] that interpolates one axis.

    The options are for the rules of other programs: MATLAB mirrors; OpenCV and PyTorch
    use a = -0.75 and no antialiasing.
    """
    # Stretch the cubic by 1 / shrink to avoid aliasing.
    shrink = min(size_out / size_in, 1.0) if antialias else 1.0
    index, distance = _taps(size_in, size_out, 4 / shrink)
    weight = cubic(shrink * distance, a)
    weight /= weight.sum(1, keepdims=True)

    matrix = np.zeros((size_out, size_in))
    row = np.broadcast_to(np.arange(size_out)[:, None], index.shape)
    if border == "mirror":  # 1 0 | 0 1 2 ... n-1 | n-1 n-2
        index = index % (2 * size_in)
        index = np.minimum(index, 2 * size_in - 1 - index)
    np.add.at(matrix, (row, index.clip(0, size_in - 1)), weight)
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False  # all callers share it
    return matrix


@functools.lru_cache(maxsize=64)
def lanczos_matrix(size_in: int, size_out: int) -> np.ndarray:
    """The float32 matrix [size_out, size_in] of Lanczos interpolation, 3 lobes a side.

    It equals Pillow's: antialiased when shrinking, without pixels beyond the border.
    """
    shrink = min(size_out / size_in, 1.0)
    index, distance = _taps(size_in, size_out, 6 / shrink)
    x = shrink * distance
    weight = np.where(abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0.0)
    inside = (index >= 0) & (index < size_in)
    weight = np.where(inside, weight, 0.0)
    weight /= weight.sum(1, keepdims=True)
    matrix = np.zeros((size_out, size_in))
    row = np.broadcast_to(np.arange(size_out)[:, None], index.shape)
    matrix[row[inside], index[inside]] = weight[inside]
    matrix = matrix.astype(np.float32)
    matrix.flags.writeable = False  # it is shared by all callers
    return matrix


def _taps(size_in: int, size_out: int, support: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels [size_out, n] that each output sees, and how far they are from it."""
    centre = (np.arange(size_out)[:, None] + 0.5) / (size_out / size_in) - 0.5
    first = np.floor(centre - support / 2).astype(int) + 1
    index = first + np.arange(math.ceil(support))
    return index, centre - index


@functools.partial(jax.jit, static_argnames="size")
def bicubic(images: Array, size: tuple[int, int]) -> Array:
    """Interpolates `images` [..., H, W, C] to `size` (h, w): float32 [..., h, w, C]."""
    return _resized(images, size, bicubic_matrix)


@functools.partial(jax.jit, static_argnames="size")
def lanczos(images: Array, size: tuple[int, int]) -> Array:
    """`images` [..., H, W, C] interpolated to `size` (h, w): float32 [..., h, w, C]."""
    return _resized(images, size, lanczos_matrix)


def _resized(
    images: Array, size: tuple[int, int], matrix: Callable[[int, int], np.ndarray]
) -> Array:
    images = jnp.asarray(images, jnp.float32)
    rows = matrix(images.shape[-3], size[0])
    columns = matrix(images.shape[-2], size[1])
    return by_matrices(images, rows, columns)


def by_matrices(images: Array, rows: ArrayLike, columns: ArrayLike) -> Array:
    """Multiplies the axes of `images` [..., H, W, C] by [h, H] and [w, W]: float32."""
    # HIGHEST: otherwise recent GPUs multiply in TF32 and TPUs in bfloat16.
    images = jnp.einsum("hH,...HWC->...hWC", rows, images, precision=Precision.HIGHEST)
    return jnp.einsum("wW,...hWC->...hwC", columns, images, precision=Precision.HIGHEST)


def cubic(x: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic at distances `x` in pixels."""
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
