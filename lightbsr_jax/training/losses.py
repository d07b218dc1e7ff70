"""The losses of training except the contrastive one: means over the batch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.imaging.metrics import GAUSSIAN
from lightbsr_jax.networks.operators import at_full_precision, at_least_float32

PIXEL_LOSSES = ("l1", "rmse")
_LEAST_MSE = 1e-6  # of 255^2; below it the gradient of a root falls to zero


def reconstruction(
    sr: Array, hr: Array, *, pixel_range: float = 255, kind: str = "l1"
) -> Array:
    """L_SR of images [B, H, W, 3]; sr is in [0, 1], hr in 0..255.

    `kind` is one of PIXEL_LOSSES: l1, the mean absolute error of the papers, or rmse,
    the mean over images of the root mean squared error. The best answer to an ambiguous
    LR image is the median of possible HR images for l1 and their mean for rmse, which
    gives the higher PSNR. The error is on the 0..`pixel_range` scale: 255 for LightBSR
    and DASR, 1 for KDSR.
    """
    difference = 255 * sr - hr
    if kind == "l1":
        return jnp.abs(difference).mean() * (pixel_range / 255)
    squares = jnp.square(at_least_float32(difference)).mean((1, 2, 3))
    return jnp.sqrt(squares + _LEAST_MSE).mean() * (pixel_range / 255)


def spatial_distillation(teacher: Array, student: Array) -> Array:
    """Mean squared difference of the maps R_s [B, h, w, 8]."""
    return jnp.square(teacher - student).mean()


def channel_distillation(
    teacher: Array, student: Array, *, temperature: float, l1_weight: float
) -> Array:
    """KL(teacher || student) of softmaxed R_c [B, 48], plus their weighted L1 distance.

    The paper has no temperature; the reference divides by 0.15 before the softmax. KDSR
    uses the same loss for its features [B, 256], with weight 0 for the L1 distance.
    """
    log_p = jax.nn.log_softmax(teacher / temperature)
    log_q = jax.nn.log_softmax(student / temperature)
    divergence = (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    return divergence + l1_weight * jnp.abs(teacher - student).mean()


# Weights of the layers of VGG19 in the perceptual loss.
PERCEPTUAL = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1, "conv4_4": 1, "conv5_4": 1}


def perceptual(features: Mapping[str, Array], expected: Mapping[str, Array]) -> Array:
    """Weighted sum of mean absolute differences of features, by layer of VGG19."""
    return jnp.stack(
        [
            weight * jnp.abs(features[name] - expected[name]).mean()
            for name, weight in PERCEPTUAL.items()
        ]
    ).sum()


def adversarial(logits: Array, *, real: bool) -> Array:
    """Binary cross entropy of a discriminator's logits, if all images are real or not.

    A generator minimises it for its images as if they were `real`.
    """
    return jax.nn.softplus(-logits if real else logits).mean()


def focal_frequency(sr: Array, hr: Array) -> Array:
    """Focal frequency loss of images [B, H, W, C] in [0, 1].

    The mean of w |d|^2, where d is the difference of the orthonormal Fourier transforms
    of an image and channel. The weights w = |d|, divided by their largest value, are
    constants in gradients. (L. Jiang et al., "Focal Frequency Loss for Image
    Reconstruction and Synthesis", 2021; their alpha is 1.)
    """
    difference = at_least_float32(sr) - hr
    spectrum = jnp.fft.fft2(difference, axes=(1, 2), norm="ortho")
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    weights = jnp.sqrt(lax.stop_gradient(power))
    largest = weights.max((1, 2), keepdims=True)
    return (weights / jnp.where(largest > 0, largest, 1) * power).mean()


# Exponents of the scales of MS-SSIM, the finest first.
MS_SSIM = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_LEAST = 1e-4  # of a scale's similarity, whose powers would not be finite below 0


def ms_ssim(sr: Array, hr: Array) -> Array:
    """1 - MS-SSIM of images [B, H, W, C] in [0, 1], by image and channel.

    Images with sides under 176 pixels have fewer than five scales, those into which the
    window of 11 pixels fits. Their exponents are scaled to the sum of all five.
    (Z. Wang et al., "Multiscale Structural Similarity for Image Quality Assessment",
    2003.)
    """
    a, b = at_least_float32(sr), at_least_float32(hr)
    side = min(a.shape[1:3])
    exponents = [x for i, x in enumerate(MS_SSIM) if side >> i >= len(GAUSSIAN)]
    similarity, factor = jnp.ones(()), sum(MS_SSIM) / sum(exponents)
    for index, exponent in enumerate(exponents, 1):
        whole, structure = _similarities(a, b)
        last = index == len(exponents)
        term = jnp.maximum(whole if last else structure, _LEAST)
        similarity *= term ** (factor * exponent)
        a, b = _halved(a), _halved(b)
    return 1 - similarity.mean()


def _similarities(a: Array, b: Array) -> tuple[Array, Array]:
    """SSIM [B, C], and the same without the comparison of luminance."""
    rows, columns = (_windows(size, a.dtype) for size in a.shape[1:3])

    def smooth(x: Array) -> Array:
        with at_full_precision():
            return jnp.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    mean_a, mean_b = smooth(a), smooth(b)
    variances = smooth(a * a) + smooth(b * b) - mean_a**2 - mean_b**2
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * (smooth(a * b) - mean_a * mean_b) + c2) / (variances + c2)
    return (luminance * structure).mean((1, 2)), structure.mean((1, 2))


def _windows(size: int, dtype: jnp.dtype) -> np.ndarray:
    """The matrix that smooths `size` pixels where the window fits inside."""
    count = size - len(GAUSSIAN) + 1
    rows = [np.pad(GAUSSIAN, (i, count - 1 - i)) for i in range(count)]
    return np.array(rows, dtype)


def _halved(x: Array) -> Array:
    """Means of 2 x 2 pixels of x [B, H, W, C], without an odd last row or column."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width]
    return x.reshape(batch, height, 2, width, 2, channels).mean((2, 4))
