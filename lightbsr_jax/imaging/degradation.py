"""Degradation of high-resolution to low-resolution images (eq. 9 of the paper).

`sample` draws a degradation for each image, and `apply` applies it; evaluation builds
fixed ones. High-resolution images are [B, ..., H, W, C] on the 0..255 scale, where the
dots may be the D crops of an image, which share its degradation. Low-resolution images
are [B, ..., h, w, C] in [0, 1]. Noise levels are on the 0..255 scale.

Each image has its own random key. Its degradation and noise therefore do not depend on
its position in the batch or on how devices split the batch.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax import target
from lightbsr_jax.imaging import kernels, metrics, resize


class Degradation(NamedTuple):
    """The degradations of a batch of images."""

    kernel: Array | np.ndarray  # [B, 21, 21], each sums to 1
    noise_level: Array | np.ndarray  # [B], standard deviation on the 0..255 scale


WIDTH_MIN = 0.2  # of kernels, in HR pixels


@functools.partial(jax.jit, static_argnames=("family", "noise_max"))
def sample(
    keys: Array,
    *,
    family: Literal["isotropic", "anisotropic"],
    noise_max: float,
    width_max: float,
    width_min: float = WIDTH_MIN,
) -> Degradation:
    """Random Gaussian blurs and noise levels, one for each of the `keys` [B].

    The kernel's width (sigma, or l1 and l2) is uniform in width_min..width_max, the
    angle in 0..pi and the noise level in 0..noise_max (on the 0..255 scale; 0 is
    noise-free). `imaging.settings` has the families and levels that networks learn.
    """

    def parameters(key: Array) -> tuple[Array, Array, Array]:
        key = jax.random.fold_in(key, 0)
        width_key, angle_key, level_key = jax.random.split(key, 3)
        width = jax.random.uniform(width_key, (2,), minval=width_min, maxval=width_max)
        theta = jax.random.uniform(angle_key, maxval=jnp.pi)
        return width, theta, jax.random.uniform(level_key, maxval=noise_max)

    width, theta, noise_level = jax.vmap(parameters)(keys)
    if family == "isotropic":
        return Degradation(kernels.isotropic(width[:, 0]), noise_level)
    return Degradation(
        kernels.anisotropic(width[:, 0], width[:, 1], theta), noise_level
    )


@functools.partial(jax.jit, static_argnames="scale")
def apply(keys: Array, hr: Array, degradation: Degradation, *, scale: int) -> Array:
    """Degrades `hr` to low-resolution images, with noise drawn from `keys` [B].

    The keys may be those given to `sample`: both functions use different random bits.
    """
    *crops, height, width, channels = hr.shape[1:]
    shape = (*crops, height // scale, width // scale, channels)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), shape))
    return synthesise(hr, degradation, noise(keys), scale=scale)


@functools.partial(jax.jit, static_argnames="scale")
def synthesise(
    hr: Array, degradation: Degradation, noise: Array | None, *, scale: int
) -> Array:
    """Degrades `hr` to low-resolution images with the given standard normal `noise`.

    `noise` is [B, ..., h, w, C], or None to add no noise at any level. Raises
    ValueError unless H and W are multiples of `scale`.
    """
    height, width = hr.shape[-3:-1]
    if height % scale or width % scale:
        raise ValueError(
            f"high-resolution images of {height}x{width} pixels are not a multiple of "
            f"scale {scale}: crop them on the right and bottom first"
        )
    lr = blur_and_shrink(hr, degradation.kernel, scale=scale)
    if noise is not None:
        lr += jnp.expand_dims(degradation.noise_level, range(1, lr.ndim)) * noise
    return metrics.quantise(lr) / 255


@jax.jit
def blur(images: Array, kernel: Array) -> Array:
    """Correlates `images` [B, ..., H, W, C] with `kernel` [B, K, K]: float32.

    An image's crops and channels share its kernel. The border is reflected.
    """
    return correlate(_padded(images, kernel), kernel).reshape(images.shape)


@functools.partial(jax.jit, static_argnames="scale")
def blur_and_shrink(images: Array, kernel: Array, *, scale: int) -> Array:
    """Blurs, then interpolates bicubically to 1 / scale of the size: float32.

    Both operations are linear and, away from the border, shift-invariant. Inside the
    image they are therefore swapped, so that the kernel is applied only to the few
    pixels of the smaller image; the results differ by float rounding. TPUs compute both
    as matrix products.
    """
    if target.platform() == "tpu":
        return _by_products(images, kernel, scale)
    if target.platform() != "cpu":
        return _blur_and_shrink(images, kernel, scale)

    # On a CPU, process images one by one: intermediate results then fit into its cache.
    def one(image_and_kernel: tuple[Array, Array]) -> Array:
        image, kernel = image_and_kernel
        return _blur_and_shrink(image[None], kernel[None], scale)[0]

    return lax.map(one, (images, kernel))


def _by_products(images: Array, kernel: Array, scale: int) -> Array:
    """Blur and shrinking by two matrix products; the second depends on the kernel.

    The first shrinks rows, once for each row of the kernel. The second blurs and
    shrinks columns, and sums over the kernel's rows. The result is exact at the border.
    """
    padded, taps = _padded(images, kernel), kernel.shape[-1]
    *_, height, width, channels = images.shape
    rows = _shifted(resize.bicubic_matrix(height, height // scale), taps)
    columns = _shifted(resize.bicubic_matrix(width, width // scale), taps)
    product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
    own = product("bij,jwx->bixw", kernel.astype(jnp.float32), columns)
    x = product("bnyxc,ihy->bnchix", padded, rows)
    x = product("bnchix,bixw->bnhwc", x, own)
    return x.reshape(*images.shape[:-3], height // scale, width // scale, channels)


def _shifted(matrix: np.ndarray, count: int) -> np.ndarray:
    """A matrix [m, n] shifted right by 0, 1, ...: [count, m, n + count - 1]."""
    moved = [np.pad(matrix, ((0, 0), (i, count - 1 - i))) for i in range(count)]
    return np.stack(moved)


def _blur_and_shrink(images: Array, kernel: Array, scale: int) -> Array:
    *_, height, width, channels = images.shape
    rows, columns = height // scale, width // scale
    padded = _padded(images, kernel)
    row_matrix = resize.bicubic_matrix(height, rows)
    column_matrix = resize.bicubic_matrix(width, columns)

    def in_turn(row_range: slice, column_range: slice) -> Array:
        """Computes a region of the smaller image by blurring first, then shrinking."""
        part, matrices = padded, []
        ranges = (row_matrix[row_range], column_matrix[column_range])
        for axis, matrix in enumerate(ranges, start=2):
            seen = np.flatnonzero(matrix.any(0))
            first, last = seen[0], seen[-1] + 1
            matrices.append(matrix[:, first:last])
            part = lax.slice_in_dim(part, first, last + kernel.shape[-1] - 1, axis=axis)
        return jnp.einsum(
            "hH,bnHWc,wW->bnhwc",
            matrices[0],
            correlate(part, kernel),
            matrices[1],
            precision=lax.Precision.HIGHEST,
        )

    edge, everything = 2, slice(None)  # the cubic of 2 pixels extends over the border
    if min(rows, columns) <= 2 * edge:
        shrunk = in_turn(everything, everything)
    else:
        first, *_, last = np.flatnonzero(row_matrix[edge])
        filtered = _filtered(
            padded[:, :, first:, first:], row_matrix[edge, first : last + 1]
        )
        inside = (rows - 2 * edge, columns - 2 * edge)
        inside = _every_nth(filtered, kernel, scale, inside)
        between, before, after = slice(edge, -edge), slice(edge), slice(-edge, None)
        middle = [in_turn(between, before), inside, in_turn(between, after)]
        shrunk = [
            in_turn(before, everything),
            jnp.concatenate(middle, axis=3),
            in_turn(after, everything),
        ]
        shrunk = jnp.concatenate(shrunk, axis=2)
    return shrunk.reshape(*images.shape[:-3], rows, columns, channels)


def _padded(images: Array, kernel: Array) -> Array:
    """Pads with reflection to float32 [B, N, H + K - 1, W + K - 1, C]."""
    images = images.reshape(len(images), -1, *images.shape[-3:]).astype(jnp.float32)
    border = (kernel.shape[-1] // 2,) * 2
    return jnp.pad(images, ((0, 0), (0, 0), border, border, (0, 0)), mode="reflect")


def correlate(padded: Array, kernel: Array) -> Array:
    """Correlates images [B, N, H, W, C] with kernels [B, K, K], without padding.

    Shifted multiply-adds are exact float32 on every backend, and on a CPU many times
    faster than a convolution with one kernel per image.
    """
    batch, crops, height, width, channels = padded.shape
    size = kernel.shape[-1]
    height, width = height - size + 1, width - size + 1
    # Merge columns and channels into one axis: a column's shift moves it by C.
    padded = padded.reshape(*padded.shape[:3], -1)
    weights = _weights(kernel)

    def add_row(i: Array, total: Array) -> Array:
        row = lax.dynamic_slice_in_dim(padded, i, height, axis=2)
        return total + sum(
            weights[i, j] * row[..., j * channels : (j + width) * channels]
            for j in range(size)
        )

    # Loop over the rows only: unrolling all K x K terms would be slow to compile.
    # Summing each row's terms first loses less precision than one running sum.
    total = jnp.zeros((batch, crops, height, width * channels))
    total = lax.fori_loop(0, size, add_row, total)
    return total.reshape(batch, crops, height, width, channels)


def _filtered(padded: Array, taps: np.ndarray) -> Array:
    """Correlates with the same taps along rows and columns, without padding."""
    for axis in (2, 3):
        length = padded.shape[axis] - len(taps) + 1
        terms = [
            tap * lax.slice_in_dim(padded, i, i + length, axis=axis)
            for i, tap in enumerate(taps)
        ]
        padded = jnp.asarray(sum(terms))
    return padded


def _every_nth(padded: Array, kernel: Array, n: int, size: tuple[int, int]) -> Array:
    """Every n-th pixel of the result of `correlate`: the first [B, N, *size, C]."""
    batch, crops, *_, channels = padded.shape
    (rows, columns), taps = size, kernel.shape[-1]
    # A tap uses pixels of one phase: group the phases, with rows and columns last.
    beyond = (taps - 1) // n
    needed = [n * (rows + beyond), n * (columns + beyond)]
    missing = [max(0, x - y) for x, y in zip(needed, padded.shape[2:4], strict=True)]
    padded = jnp.pad(padded, ((0, 0), (0, 0), *((0, m) for m in missing), (0, 0)))
    phases = padded[:, :, : needed[0], : needed[1]].reshape(
        batch, crops, rows + beyond, n, columns + beyond, n, channels
    )
    phases = phases.transpose(0, 1, 3, 5, 2, 4, 6)
    phases = phases.reshape(batch, crops, n, n, rows + beyond, -1)
    weights = _weights(kernel)

    def add_row(i: Array, total: Array) -> Array:
        row = lax.dynamic_index_in_dim(phases, i % n, axis=2, keepdims=False)
        row = lax.dynamic_slice_in_dim(row, i // n, rows, axis=3)
        terms = []
        for j in range(taps):
            first = j // n * channels
            term = row[:, :, j % n, :, first : first + columns * channels]
            terms.append(weights[i, j] * term)
        return total + sum(terms)

    total = jnp.zeros((batch, crops, rows, columns * channels))
    total = lax.fori_loop(0, taps, add_row, total)
    return total.reshape(batch, crops, rows, columns, channels)


def _weights(kernel: Array) -> Array:
    """The kernel's weights as [K, K, B, 1, 1, 1]."""
    return jnp.moveaxis(kernel.astype(jnp.float32), 0, -1)[..., None, None, None]
