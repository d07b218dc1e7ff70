"""The degradation reference prior: what the teacher is told about the degradation.

The blur kernel is projected on a basis [441, 15] of principal components of random
kernels; setting 2 appends the noise level (0..255 scale, undivided) three times. The
vector is [B, P] with P = 15 or 18. A network is useless with another basis than the
one it was trained with, so the basis is stored with it.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import Precision

from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.kernels import KERNEL_SIZE, anisotropic

BASIS_SHAPE = (KERNEL_SIZE**2, 15)

KERNEL_CHANNELS = BASIS_SHAPE[1]
NOISE_CHANNELS = 3
_SAMPLES = 5000


def make_basis(seed: int) -> np.ndarray:
    """The basis float32 [441, 15] that follows from `seed`, largest component first.

    Uncentred principal components of 5000 random anisotropic kernels, computed in
    float64. The sign is such that a component's largest entry is positive.
    """
    u1, u2, u3 = np.random.default_rng(seed).uniform(size=(3, _SAMPLES))
    variance1 = 0.1 + 10 * u1
    variance2 = 0.1 + (variance1 - 0.1) * u2
    with jax.enable_x64(True):
        samples = anisotropic(np.sqrt(variance1), np.sqrt(variance2), np.pi * u3)
    samples = np.asarray(samples).reshape(_SAMPLES, -1)

    _, components = np.linalg.eigh(samples.T @ samples)  # smallest first
    basis = components[:, ::-1][:, :KERNEL_CHANNELS]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(0)[None], axis=0)
    return (basis * np.sign(largest)).astype(np.float32)


def kernel_vector(degradation: Degradation, basis: Array | np.ndarray) -> Array:
    """The kernels' principal components [B, 15]."""
    kernel = degradation.kernel
    return jnp.matmul(
        kernel.reshape(len(kernel), -1), basis, precision=Precision.HIGHEST
    )


def kernel_and_noise_vector(
    degradation: Degradation, basis: Array | np.ndarray
) -> Array:
    """The kernels' principal components, and the noise level three times: [B, 18]."""
    components = kernel_vector(degradation, basis)
    noise = jnp.repeat(degradation.noise_level[:, None], NOISE_CHANNELS, axis=1)
    return jnp.concatenate([components, noise], axis=1)
