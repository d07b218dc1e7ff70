"""Low-resolution images from high-resolution ones (the paper's eq. 9).

`sample` draws a degradation for each image, `apply` uses it; evaluation builds fixed
ones. High-resolution images are [B, ..., H, W, C] on the 0..255 scale, where the dots
may be the D crops of an image, which share its degradation; low-resolution ones are
[B, ..., h, w, C] in [0, 1]. Noise levels are on the 0..255 scale.

Randomness comes from one key an image, so that an image gets the same degradation and
noise wherever it stands in a batch and however the batch is split over devices.
"""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lightbsr_jax.imaging import kernels, metrics, resize


class Degradation(NamedTuple):
    """The degradations of a batch of images."""

    kernel: Array  # [B, 21, 21], each sums to 1
    noise_level: Array  # [B], standard deviation on the 0..255 scale


class Setting(NamedTuple):
    """What kind of degradation a network is made for."""

    kernel_family: Literal["isotropic", "anisotropic"]
    noise_max: float  # 0..255 scale; 0 is noise-free


SETTINGS = {1: Setting("isotropic", 0.0), 2: Setting("anisotropic", 25.0)}


@functools.partial(jax.jit, static_argnames="setting")
def sample(
    keys: Array, *, setting: int, width_max: float, width_min: float = 0.2
) -> Degradation:
    """Random degradations of `setting`, one for each of the `keys` [B].

    The kernel's width (sigma, or l1 and l2) is uniform in width_min..width_max, the
    angle in 0..pi and the noise level in 0..noise_max.
    """
    family, noise_max = SETTINGS[setting]

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
    """The low-resolution images of `hr` with noise drawn from `keys` [B].

    The keys may be those given to `sample`: the two never use the same random bits.
    """
    *crops, height, width, channels = hr.shape[1:]
    shape = (*crops, height // scale, width // scale, channels)
    noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 1), shape))
    return synthesise(hr, degradation, noise(keys), scale=scale)


@functools.partial(jax.jit, static_argnames="scale")
def synthesise(
    hr: Array, degradation: Degradation, noise: Array | None, *, scale: int
) -> Array:
    """The low-resolution images of `hr` with the given standard normal `noise`.

    noise is [B, ..., h, w, C], or None for no noise whatever the level. H and W must
    be multiples of `scale` (ValueError).
    """
    height, width = hr.shape[-3:-1]
    if height % scale or width % scale:
        raise ValueError(
            f"high-resolution images of {height}x{width} pixels are no multiple of "
            f"scale {scale}: crop them on the right and bottom first"
        )
    lr = blur(hr, degradation.kernel)
    lr = resize.bicubic(lr, (height // scale, width // scale))
    if noise is not None:
        lr += jnp.expand_dims(degradation.noise_level, range(1, lr.ndim)) * noise
    return metrics.quantise(lr) / 255


@jax.jit
def blur(images: Array, kernel: Array) -> Array:
    """`images` [B, ..., H, W, C] correlated with `kernel` [B, K, K], float32.

    An image's crops and channels share its kernel. The border is reflected. Shifted
    multiply-adds are true float32 on every backend, and on a CPU many times faster
    than a convolution with one kernel an image.
    """
    batch, *_, height, width, channels = images.shape
    size = kernel.shape[-1]
    # Columns and channels as one axis: a shift by a column moves it by C.
    padded = images.reshape(batch, -1, height, width, channels).astype(jnp.float32)
    border = (size // 2, size // 2)
    padded = jnp.pad(padded, ((0, 0), (0, 0), border, border, (0, 0)), mode="reflect")
    padded = padded.reshape(*padded.shape[:3], -1)
    weights = jnp.moveaxis(kernel.astype(jnp.float32), 0, -1)[..., None, None, None]

    def add_row(i: Array, total: Array) -> Array:
        row = lax.dynamic_slice_in_dim(padded, i, height, axis=2)
        return total + sum(
            weights[i, j] * row[..., j * channels : (j + width) * channels]
            for j in range(size)
        )

    # A loop over the rows only: unrolling all K x K terms would be slow to compile.
    # A row's terms are summed first, which loses less than one running sum.
    total = jnp.zeros((batch, padded.shape[1], height, width * channels))
    return lax.fori_loop(0, size, add_row, total).reshape(images.shape)
