"""Bicubic interpolation as two constant matrices.

The rule is MATLAB's imresize (Keys' cubic with a = -0.5, antialiased when shrinking,
half-pixel centres), except at the border: indices beyond it are clamped to it, where
MATLAB mirrors them. Images are [..., H, W, C].
"""

import functools
import math
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
    ratio = size_out / size_in
    # Stretch the cubic by 1 / shrink to avoid aliasing.
    shrink = min(ratio, 1.0) if antialias else 1.0
    support = 4 / shrink
    centre = (np.arange(size_out)[:, None] + 0.5) / ratio - 0.5
    first = np.floor(centre - support / 2).astype(int) + 1
    index = first + np.arange(math.ceil(support))
    weight = _cubic(shrink * (centre - index), a)
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


@functools.partial(jax.jit, static_argnames="size")
def bicubic(images: Array, size: tuple[int, int]) -> Array:
    """Interpolates `images` [..., H, W, C] to `size` (h, w): float32 [..., h, w, C]."""
    images = jnp.asarray(images, jnp.float32)
    rows = bicubic_matrix(images.shape[-3], size[0])
    columns = bicubic_matrix(images.shape[-2], size[1])
    return by_matrices(images, rows, columns)


def by_matrices(images: Array, rows: ArrayLike, columns: ArrayLike) -> Array:
    """Multiplies the axes of `images` [..., H, W, C] by [h, H] and [w, W]: float32."""
    # HIGHEST: otherwise recent GPUs multiply in TF32 and TPUs in bfloat16.
    images = jnp.einsum("hH,...HWC->...hWC", rows, images, precision=Precision.HIGHEST)
    return jnp.einsum("wW,...hWC->...hwC", columns, images, precision=Precision.HIGHEST)


def _cubic(x: np.ndarray, a: float) -> np.ndarray:
    x = np.abs(x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
