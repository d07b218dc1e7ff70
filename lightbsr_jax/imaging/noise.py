"""Noise of cameras: Gaussian and Poisson, in colour and grey.

Images are [H, W, 3] on the 0..255 scale. Both kinds are functions of the same uniform
numbers, so that which one an image gets may be decided inside a compiled program.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

from lightbsr_jax.imaging import metrics

_GREY = (0.2989, 0.587, 0.114)  # weights of RGB, torchvision's
_FEW = 4  # the largest rate of which a distribution is summed
_TERMS = 20  # of it: beyond, less than 2^-24 is left


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
    """The image [H, W, 3] with noise, clipped to 0..255 and not rounded.

    Args:
      image: of which `size`, rows and columns [2], is valid, at the top left.
      random: `uniform` numbers of the image's shape. Grey noise takes channel 0's.
      poisson, grey: whether the noise is Poisson's (else Gaussian), and the same in
        all channels.
      level: the standard deviation of Gaussian noise on the 0..255 scale; of Poisson
        noise what it is multiplied by. 0 leaves the image as it is.
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
    """Standard normal numbers from `uniform` ones."""
    return jnp.sqrt(2.0) * lax.erf_inv(2 * probability - 1)


def poisson_quantile(rate: Array, probability: Array, normal: Array) -> Array:
    """Poisson numbers of `rate` from `uniform` ones, float32; `normal` those of these.

    Up to a rate of 4 the distribution is summed, which is exact. Above, the expansion
    of M. Giles (2016, "Algorithm 955: approximation of the inverse Poisson cumulative
    distribution function") is rounded down: of 10,000 numbers at most 25 differ from
    the exact ones, by 1.
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
    """The power of two from the number of distinct values upwards, float32.

    signal [H, W, C] holds whole numbers 0..255, of which `size` [2] is valid. The
    published pipelines multiply the signal (in 0..1) by it for the Poisson rate.
    """
    row, column = (lax.broadcasted_iota(jnp.int32, signal.shape, i) for i in (0, 1))
    valid = (row < size[0]) & (column < size[1])
    value = signal.astype(jnp.int32)
    bit = jnp.where(valid, 1 << (value & 31), 0)
    # A set of 256 bits in eight words: scattering them would take many times as long.
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
