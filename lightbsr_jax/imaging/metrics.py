"""PSNR and SSIM on luma, as the reference measures them.

Images are [B, H, W, 3] RGB in 0..255, uint8 or float. The arithmetic is float64
whatever JAX's settings; results are numpy float64 [B].
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Images = Array | np.ndarray

_LUMA = np.array([65.738, 129.057, 25.064])
_WINDOW_SIZE = 11
_WINDOW = np.exp(-((np.arange(_WINDOW_SIZE) - _WINDOW_SIZE // 2) ** 2) / (2 * 1.5**2))
_WINDOW /= _WINDOW.sum()


def psnr_y(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Peak signal-to-noise ratio on luma in dB, `border` pixels cut on each side.

    Infinite for equal images. ValueError when the shapes differ or nothing is left.
    """
    with jax.enable_x64(True):
        return np.asarray(_psnr_y(a, b, border=border))


def ssim_y(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Structural similarity on luma, `border` pixels cut on each side.

    An 11x11 Gaussian window of standard deviation 1.5, inside the image only.
    ValueError when the shapes differ or less than the window is left.
    """
    with jax.enable_x64(True):
        return np.asarray(_ssim_y(a, b, border=border))


def quantise(images: Array) -> Array:
    """`images` on the 0..255 scale, rounded (half to even) and clipped, float32."""
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="border")
def _psnr_y(a: Array, b: Array, *, border: int) -> Array:
    a, b = _prepare(a, b, border=border, minimum=1)
    difference = ((a - b) * (_LUMA / 256)).sum(-1)
    return 10 * jnp.log10(255**2 / (difference**2).mean((1, 2)))


@functools.partial(jax.jit, static_argnames="border")
def _ssim_y(a: Array, b: Array, *, border: int) -> Array:
    a, b = _prepare(a, b, border=border, minimum=_WINDOW_SIZE)
    # 255, not 256 as in PSNR: the reference's own constant.
    a, b = ((image * (_LUMA / 255)).sum(-1) + 16 for image in (a, b))
    moments = _smooth(jnp.stack([a, b, a * a, b * b, a * b]))
    mean_a, mean_b, square_a, square_b, product = moments
    variance_a = square_a - mean_a**2
    variance_b = square_b - mean_b**2
    covariance = product - mean_a * mean_b

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return similarity.mean((1, 2))


def _prepare(a: Array, b: Array, *, border: int, minimum: int) -> list[Array]:
    """Both images in float64 without their border, once they are fit to compare."""
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}: need [B, H, W, 3]")
    height, width = (size - 2 * border for size in a.shape[1:3])
    if min(height, width) < minimum:
        raise ValueError(
            f"a border of {border} leaves {height}x{width} pixels of images {a.shape}: "
            f"need {minimum}x{minimum} at least"
        )
    inside = np.s_[:, border : border + height, border : border + width]
    return [image[inside].astype(jnp.float64) for image in (a, b)]


def _smooth(images: Array) -> Array:
    """Images [N, B, H, W] under the Gaussian window, valid region.

    Shifted sums instead of a convolution: GPUs and TPUs have none in float64.
    """
    for axis in (2, 3):
        size = images.shape[axis] - _WINDOW_SIZE + 1
        images = sum(
            weight * lax.slice_in_dim(images, i, i + size, axis=axis)
            for i, weight in enumerate(_WINDOW)
        )
    return images
