"""Gaussian blur kernels.

Kernels are [B, K, K] with K = 21 and sum to 1. Widths are standard deviations in
high-resolution pixels; angles are in radians, from the column axis to the row axis.
"""

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
    l1, l2, theta = (jnp.asarray(value)[:, None, None] for value in (l1, l2, theta))
    along = (_X * jnp.cos(theta) + _Y * jnp.sin(theta)) / l1
    across = (_Y * jnp.cos(theta) - _X * jnp.sin(theta)) / l2
    return _normalise(jnp.exp(-(along**2 + across**2) / 2))


def _normalise(kernel: Array) -> Array:
    return kernel / kernel.sum((1, 2), keepdims=True)
