"""PSNR and SSIM, in float64 on the host: equal with every accelerator.

Images are [B, H, W, 3] RGB in 0..255, uint8 or float; results are float64 [B].
`psnr_y` and `ssim_y` follow the reference. `psnr` and `ssim` take any planes, to build
other conventions from.
"""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.ndimage import correlate1d

from lightbsr_jax.typed import ArrayLike

Images = Array | np.ndarray

LUMA = np.array([65.738, 129.057, 25.064])  # weights of RGB, to be divided by 256

_OFFSETS = np.arange(-5, 6)
GAUSSIAN = np.exp(-(_OFFSETS**2) / (2 * 1.5**2))
GAUSSIAN /= GAUSSIAN.sum()


def psnr_y(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Peak signal-to-noise ratio on luma in dB, without `border` pixels on each side.

    Infinite for equal images. Raises ValueError if shapes differ or nothing is left.
    """
    pairs = _pairs(a, b, border=border, minimum=1)
    differences = (np.subtract(x, y, dtype=np.float64) @ (LUMA / 256) for x, y in pairs)
    scores = (psnr(plane, np.zeros_like(plane)) for plane in differences)
    return np.concatenate([np.empty(0), *scores])


def ssim_y(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Structural similarity on luma, without `border` pixels on each side.

    The window is an 11x11 Gaussian of standard deviation 1.5, inside the image only.
    Raises ValueError if the shapes differ or less than the window is left.
    """
    pairs = _pairs(a, b, border=border, minimum=len(GAUSSIAN))
    # 255, not 256 as in PSNR: the reference has this constant.
    planes = ([image @ (LUMA / 255) + 16 for image in pair] for pair in pairs)
    return np.concatenate([np.empty(0), *(ssim(*pair) for pair in planes)])


def psnr_rgb(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Peak signal-to-noise ratio in dB over all channels together; as `psnr_y`."""
    pairs = _pairs(a, b, border=border, minimum=1)
    scores = (psnr(x.astype(np.float64), y.astype(np.float64)) for x, y in pairs)
    return np.concatenate([np.empty(0), *scores])


def ssim_rgb(a: Images, b: Images, *, border: int) -> np.ndarray:
    """Structural similarity, the mean over the channels; otherwise as `ssim_y`."""
    pairs = _pairs(a, b, border=border, minimum=len(GAUSSIAN))
    planes = ([np.moveaxis(x[0], -1, 0).astype(float) for x in pair] for pair in pairs)
    return np.concatenate(
        [np.empty(0), *(ssim(*p).mean(keepdims=True) for p in planes)]
    )


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of planes [B, ...] with peak 255."""
    error = np.square(a - b).mean(axis=tuple(range(1, a.ndim)))
    with np.errstate(divide="ignore"):
        return 10 * np.log10(255**2 / error)


def ssim(
    a: np.ndarray, b: np.ndarray, *, window: np.ndarray = GAUSSIAN, unbiased=False
) -> np.ndarray:
    """Structural similarity of float64 planes [B, H, W], where the window fits inside.

    The window [K] sums to 1 and is applied to rows and columns. `unbiased` divides the
    variances by K^2 - 1 instead of K^2, which makes sense for a uniform window only.
    """
    mean_a, mean_b, square_a, square_b, product = (
        _smooth(plane, window) for plane in (a, b, a * a, b * b, a * b)
    )
    size = len(window) ** 2
    normalisation = size / (size - 1) if unbiased else 1
    variance_a = normalisation * (square_a - mean_a**2)
    variance_b = normalisation * (square_b - mean_b**2)
    covariance = normalisation * (product - mean_a * mean_b)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    similarity /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    return similarity.mean((1, 2))


def quantise(images: ArrayLike) -> Array:
    """Rounds (half to even) and clips images on the 0..255 scale, to float32."""
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.float32)


def _pairs(
    a: Images, b: Images, *, border: int, minimum: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Checks the shapes, then yields pairs [1, h, w, 3] without their border.

    A single pair fits into the processor's cache, which is several times as fast.
    """
    if a.shape != b.shape or a.ndim != 4 or a.shape[-1] != 3:
        raise ValueError(f"images of shapes {a.shape} and {b.shape}: need [B, H, W, 3]")
    height, width = (size - 2 * border for size in a.shape[1:3])
    if min(height, width) < minimum:
        raise ValueError(
            f"a border of {border} leaves {height}x{width} pixels of images {a.shape}: "
            f"need at least {minimum}x{minimum}"
        )
    inside = np.s_[:, None, border : border + height, border : border + width]
    return zip(np.asarray(a)[inside], np.asarray(b)[inside], strict=True)


def _smooth(planes: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Smooths planes [B, H, W] by the window, in the valid region."""
    for axis in (1, 2):
        planes = correlate1d(planes, window, axis, mode="constant")
    edge = len(window) // 2
    return planes[:, edge:-edge, edge:-edge]
