"""Blur kernels: Gaussians, generalised Gaussians, plateaus and low passes.

Kernels are [B, K, K] with K = 21 and sum to 1. Widths are standard deviations in
high-resolution pixels; angles are in radians, from the column axis to the row axis.
The `extent` [B] of a kernel is the odd side of the square outside of which it is 0.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

KERNEL_SIZE = 21

_RADIUS = KERNEL_SIZE // 2
_Y, _X = np.mgrid[-_RADIUS : _RADIUS + 1, -_RADIUS : _RADIUS + 1]  # rows, columns


@jax.jit
def isotropic(sigma: Array) -> Array:
    """Round kernels [B, 21, 21] of standard deviations `sigma` [B]."""
    sigma = jnp.asarray(sigma)[:, None, None]
    return _normalise(jnp.exp(-(_X**2 + _Y**2) / (2 * sigma**2)))


@jax.jit
def anisotropic(l1: Array, l2: Array, theta: Array) -> Array:
    """Elliptic kernels [B, 21, 21]: `l1` along the angle `theta`, `l2` across it.

    l1, l2 and theta are [B]. The covariance is R diag(l1^2, l2^2) R^T: the reference
    squares l1 and l2, which the paper calls eigenvalues.
    """
    return _normalise(jnp.exp(-_squared_distance(l1, l2, theta) / 2))


@jax.jit
def generalised(
    l1: Array, l2: Array, theta: Array, shape: Array, extent: Array
) -> Array:
    """Kernels exp(-q^shape / 2) of the squared distance q in widths; 1 is Gaussian.

    All arguments are [B]. (Liu et al. 2020, "Estimating generalized Gaussian blur
    kernels for out-of-focus image deblurring"; as Real-ESRGAN draws them.)
    """
    q = _squared_distance(l1, l2, theta)
    return _normalise(jnp.exp(-(q ** _columns(shape)) / 2) * _inside(extent))


@jax.jit
def plateau(l1: Array, l2: Array, theta: Array, shape: Array, extent: Array) -> Array:
    """Kernels 1 / (1 + q^shape), flat in the middle for a large shape; all [B]."""
    q = _squared_distance(l1, l2, theta)
    return _normalise(_inside(extent) / (1 + q ** _columns(shape)))


@jax.jit
def sinc(cutoff: Array, extent: Array) -> Array:
    """Circular low passes of `cutoff` [B], in radians per pixel, cropped to `extent`.

    They cause ringing, like sharpening and strong compression, and have negative
    entries: cutoff J1(cutoff r) / (2 pi r) at a distance of r pixels.
    """
    radius = np.hypot(_X, _Y)
    cutoff = _columns(cutoff)
    values = cutoff * j1(cutoff * radius) / (2 * np.pi * np.maximum(radius, 1))
    values = jnp.where(radius > 0, values, cutoff**2 / (4 * np.pi))
    return _normalise(values * _inside(extent))


def impulse() -> np.ndarray:
    """The kernel [21, 21] that changes nothing."""
    return ((_X == 0) & (_Y == 0)).astype(np.float32)


def j1(x: Array) -> Array:
    """The Bessel function J1 of x >= 0, with an absolute error below 2e-6 in float32.

    Rational approximations of Hart et al. 1968 ("Computer approximations").
    jax.scipy.special.bessel_jn is NaN or wrong in this range.
    """
    y = x * x
    small = x * _polynomial(y, _J1_NUMERATOR) / _polynomial(y, _J1_DENOMINATOR)
    far = jnp.maximum(x, 8)
    z = 8 / far
    y, angle = z * z, far - 0.75 * np.pi
    amplitude = jnp.sqrt(2 / (np.pi * far))
    large = jnp.cos(angle) * _polynomial(y, _J1_COSINE)
    large -= z * jnp.sin(angle) * _polynomial(y, _J1_SINE)
    return jnp.where(x < 8, small, amplitude * large)


# Coefficients of J1, constant term first. Numerator and denominator are divided by the
# first coefficient of the denominator, to fit the range of float32.
_J1_DENOMINATOR = np.array(
    [144725228442.0, 2300535178.0, 18583304.74, 99447.43394, 376.9991397, 1.0]
)
_J1_NUMERATOR = np.array(
    [
        *[72362614232.0, -7895059235.0, 242396853.1],
        *[-2972611.439, 15704.48260, -30.16036606],
    ]
)
_J1_NUMERATOR /= _J1_DENOMINATOR[0]
_J1_DENOMINATOR /= _J1_DENOMINATOR[0]
_J1_COSINE = (1.0, 0.183105e-2, -0.3516396496e-4, 0.2457520174e-5, -0.240337019e-6)
_J1_SINE = (
    0.04687499995,
    -0.2002690873e-3,
    0.8449199096e-5,
    -0.88228987e-6,
    1.05787e-7,
)


def _polynomial(x: Array, coefficients: Sequence[float] | np.ndarray) -> Array:
    return jnp.polyval(jnp.asarray(coefficients[::-1], x.dtype), x)


def _squared_distance(l1: Array, l2: Array, theta: Array) -> Array:
    """Squared distances [B, 21, 21] in widths: `l1` along `theta`, `l2` across it."""
    l1, l2, theta = (_columns(value) for value in (l1, l2, theta))
    along = (_X * jnp.cos(theta) + _Y * jnp.sin(theta)) / l1
    across = (_Y * jnp.cos(theta) - _X * jnp.sin(theta)) / l2
    return along**2 + across**2


def _inside(extent: Array) -> Array:
    return np.maximum(abs(_X), abs(_Y)) <= _columns(extent) // 2


def _columns(values: Array) -> Array:
    return jnp.asarray(values)[:, None, None]


def _normalise(kernel: Array) -> Array:
    return kernel / kernel.sum((1, 2), keepdims=True)
