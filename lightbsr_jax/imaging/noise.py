"""Camera noise: Gaussian and Poisson, in colour and grey.

Images are [H, W, 3] on the 0..255 scale. Both kinds are functions of the same uniform
numbers, so that a compiled program can choose one of them for each image.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from lightbsr_jax.imaging import metrics

_GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of RGB
_FEW = 4  # the largest rate for which the distribution is summed
_TERMS = 20  # terms of that sum: the rest is below 2^-24


def uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform float32 numbers in the open interval (0, 1)."""
    return jax.random.uniform(key, shape) + 2.0**-24  # odd multiples of 2^-24


def add(
    image: Array,
    random: Array,
    *,
    poisson: Array,
    grey: Array,
    level: Array,
    size: Array,
) -> Array:
    """Adds noise to the image [H, W, 3]; the result is clipped to 0..255, unrounded.

    Args:
      image: an image whose valid part, at the top left, has the `size` (rows, columns).
      random: `uniform` numbers of the image's shape. Grey noise uses channel 0.
      poisson, grey: whether the noise is Poisson (else Gaussian), and whether it is the
        same in all channels.
      level: the standard deviation of Gaussian noise on the 0..255 scale, or the factor
        of Poisson noise. 0 leaves the image unchanged.
    """
    random = jnp.where(grey, random[..., :1], random)
    luma = (image * jnp.array(_GREY, jnp.float32)).sum(-1, keepdims=True)
    signal = metrics.quantise(jnp.where(grey, luma, image))
    scale = poisson_scale(signal, size)
    normal = normal_quantile(random)
    counts = poisson_quantile(scale * signal / 255, random, normal)
    field = jnp.where(poisson, counts * (255 / scale) - signal, normal)
    return jnp.clip(image + level * field, 0, 255)


def normal_quantile(probability: Array) -> Array:
    """Converts `uniform` numbers to standard normal ones."""
    return jnp.sqrt(2.0) * lax.erf_inv(2 * probability - 1)


def poisson_quantile(rate: Array, probability: Array, normal: Array) -> Array:
    """Converts `uniform` numbers to Poisson ones of `rate`, float32.

    `normal` holds the same uniform numbers converted by `normal_quantile`. Up to a rate
    of 4 the distribution is summed, which is exact. Above, the expansion of M. Giles
    (2016, "Algorithm 955: approximation of the inverse Poisson cumulative distribution
    function") is rounded down: at most 25 of 10,000 numbers differ from the exact ones,
    by 1.
    """
    few = jnp.minimum(rate, _FEW)
    term = jnp.exp(-few)
    below, count = term, jnp.zeros_like(rate)
    for n in range(1, _TERMS + 1):
        count += below < probability
        term *= few / n
        below += term
    many = jnp.maximum(rate, _FEW)
    root, square = jnp.sqrt(many), normal * normal
    expansion = many + root * normal + (2 + square) / 6
    expansion -= normal * (2 + square) / (72 * root)
    expansion += (-16 + square * (7 + 3 * square)) / (810 * many)
    return jnp.where(rate <= _FEW, count, jnp.maximum(jnp.floor(expansion), 0))


def poisson_scale(signal: Array, size: Array) -> Array:
    """The number of distinct values, rounded up to a power of two: float32.

    `signal` [H, W, C] holds whole numbers 0..255; its valid part has the `size` [2].
    The published pipelines multiply the signal (in 0..1) by this scale to get the
    Poisson rate.
    """
    row, column = (lax.broadcasted_iota(jnp.int32, signal.shape, i) for i in (0, 1))
    valid = (row < size[0]) & (column < size[1])
    value = signal.astype(jnp.int32)
    bit = jnp.where(valid, 1 << (value & 31), 0)
    # Collect the values as 256 bits in eight words; scattering is many times slower.
    words = [
        lax.reduce(
            jnp.where(value >> 5 == word, bit, 0),
            jnp.int32(0),
            lax.bitwise_or,
            tuple(range(signal.ndim)),
        )
        for word in range(8)
    ]
    distinct = lax.population_count(jnp.stack(words)).sum()
    doublings = jnp.sum(distinct > 2 ** jnp.arange(8))
    return jnp.exp2(doublings.astype(jnp.float32))
