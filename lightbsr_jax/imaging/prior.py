"""The degradation reference prior (DRP): the teacher's input about the degradation.

The blur kernel is projected on a basis [441, 15] of principal components of random
kernels; setting 2 appends the noise level (0..255 scale, undivided) three times. The
vector is [B, P] with P = 15 or 18. A network works only with the basis that it was
trained with, so the basis is stored with it.

The papers define no prior for JPEG and for real-world degradations. Those here are our
own: all drawn parameters, scaled to the order of 1.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import Precision

from lightbsr_jax import target
from lightbsr_jax.imaging import interpolation, realworld
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.kernels import KERNEL_SIZE, anisotropic
from lightbsr_jax.imaging.realworld import Parameters
from lightbsr_jax.imaging.synthesis import Compressed

BASIS_SHAPE = (KERNEL_SIZE**2, 15)

KERNEL_CHANNELS = BASIS_SHAPE[1]
NOISE_CHANNELS = 3
# Three kernels, two rounds of factor, noise (3) and quality, three rules, the order.
REALWORLD_CHANNELS = 3 * KERNEL_CHANNELS + 2 * 5 + 3 * len(interpolation.RULES) + 1
_SAMPLES = 5000


def make_basis(seed: int) -> np.ndarray:
    """Makes the basis float32 [441, 15] of a seed, largest component first.

    It holds the uncentred principal components of 5000 random anisotropic kernels,
    computed in float64. The largest entry of each component is positive.
    """
    u1, u2, u3 = np.random.default_rng(seed).uniform(size=(3, _SAMPLES))
    variance1 = 0.1 + 10 * u1
    variance2 = 0.1 + (variance1 - 0.1) * u2
    # Accelerators have no float64, or round it differently.
    with target.on_host(), jax.enable_x64(True):
        samples = anisotropic(np.sqrt(variance1), np.sqrt(variance2), np.pi * u3)
    return _principal_components(np.asarray(samples).reshape(_SAMPLES, -1))


def make_mixed_basis(seed: int) -> np.ndarray:
    """Makes a basis as `make_basis` does, of 2000 random real-world degradations."""
    keys = jax.random.split(jax.random.key(seed), 2000)
    kernels = realworld.blur_kernels(realworld.sample(keys, preset="real").blur)
    return _principal_components(np.asarray(kernels, float).reshape(-1, KERNEL_SIZE**2))


def _principal_components(samples: np.ndarray) -> np.ndarray:
    _, components = np.linalg.eigh(samples.T @ samples)  # smallest first
    basis = components[:, ::-1][:, :KERNEL_CHANNELS]
    largest = np.take_along_axis(basis, np.abs(basis).argmax(0)[None], axis=0)
    return (basis * np.sign(largest)).astype(np.float32)


def kernel_vector(
    degradation: Degradation | Compressed, basis: Array | np.ndarray
) -> Array:
    """The kernels' principal components [B, 15]."""
    return _components(jnp.asarray(degradation.kernel), basis)


def _components(kernel: Array, basis: Array | np.ndarray) -> Array:
    """Principal components [..., 15] of kernels [..., 21, 21]."""
    flat = kernel.reshape(*kernel.shape[:-2], -1)
    return jnp.matmul(flat, basis, precision=Precision.HIGHEST)


def kernel_and_noise_vector(
    degradation: Degradation, basis: Array | np.ndarray
) -> Array:
    """The kernels' principal components, and the noise level three times: [B, 18]."""
    components = kernel_vector(degradation, basis)
    noise = jnp.repeat(degradation.noise_level[:, None], NOISE_CHANNELS, axis=1)
    return jnp.concatenate([components, noise], axis=1)


def kernel_and_quality_vector(drawn: Compressed, basis: Array | np.ndarray) -> Array:
    """The kernels' principal components, and the JPEG quality: [B, 16]."""
    quality = _scaled_quality(jnp.asarray(drawn.quality))
    return jnp.concatenate([kernel_vector(drawn, basis), quality[:, None]], axis=1)


def realworld_vector(drawn: Parameters, basis: Array | np.ndarray) -> Array:
    """All parameters of the pipeline, [B, REALWORLD_CHANNELS]."""
    components = _components(realworld.blur_kernels(drawn.blur), basis)
    level, poisson = drawn.noise_level, drawn.poisson
    rules = drawn.rule[..., None] == jnp.arange(len(interpolation.RULES))
    parts = [
        components,
        2 * jnp.log(drawn.factor),
        jnp.where(poisson, 0.0, level / 10),
        jnp.where(poisson, level, 0.0),
        drawn.grey & (level > 0),
        _scaled_quality(drawn.quality),
        rules,
        drawn.jpeg_first,
    ]
    count = len(drawn.factor)
    return jnp.concatenate(
        [jnp.asarray(part, jnp.float32).reshape(count, -1) for part in parts], axis=1
    )


def _scaled_quality(quality: Array) -> Array:
    """Scales a quality to about -1 to 1; images without JPEG count as quality 100."""
    return (jnp.where(quality > 0, quality, 100) - 65) / 35
