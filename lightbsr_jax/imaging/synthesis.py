"""Making test images of every kind of degradation, with reproducible random bits.

A test degradation is a batch of 1: a `Degradation` (blur, noise), `Compressed` (blur,
JPEG), or `Drawn`, whose real-world parameters are drawn from random bits of the image.
"""

from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from lightbsr_jax.imaging import degradation, jpeg, realworld
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.realworld import Parameters


class Compressed(NamedTuple):
    """Blur, bicubic interpolation and JPEG for a batch of images."""

    kernel: Array | np.ndarray  # [B, 21, 21], each sums to 1
    quality: Array | np.ndarray  # int [B], 1..100


class Drawn(NamedTuple):
    """Real-world parameters of a preset, drawn separately for every image."""

    preset: str


# The degradation of LR images, for networks; and the degradation of a test case.
Known: TypeAlias = Degradation | Compressed | Parameters
Tested: TypeAlias = Degradation | Compressed | Drawn

_KEYS = "threefry2x32"  # fixed, so that test images do not depend on JAX's default
_LARGEST = "real"  # the preset with the largest canvases: one program serves all


def settled(tested: Tested, generator: np.random.Generator) -> Known:
    """The degradation of an image; only real-world ones use random bits."""
    if not isinstance(tested, Drawn):
        return tested
    keys = jax.random.wrap_key_data(jnp.asarray(key_data(generator)[None]), impl=_KEYS)
    return jax.tree.map(np.asarray, realworld.sample(keys, preset=tested.preset))


def is_random(tested: Tested) -> bool:
    """Returns whether LR images need `randomness`."""
    if isinstance(tested, Degradation):
        return bool(np.any(np.asarray(tested.noise_level) > 0))
    return isinstance(tested, Drawn)


def randomness(
    tested: Tested, generator: np.random.Generator, shape: tuple[int, ...]
) -> np.ndarray:
    """Draws the random part of an LR image of `shape` on the host.

    It is standard normal numbers, or the data of a random key for real-world noise.
    """
    if isinstance(tested, Drawn):
        return key_data(generator)
    return generator.standard_normal(shape, np.float32)


def key_data(generator: np.random.Generator) -> np.ndarray:
    """Draws the data of a random key of JAX, uint32 [2]."""
    return generator.integers(0, 2**32, 2, np.uint32)


def synthesise(
    hr: ArrayLike, known: Known, random: ArrayLike | None, *, scale: int
) -> Array:
    """Degrades `hr` [B, H, W, 3] to [B, h, w, 3] in [0, 1], in steps of 1/255.

    `random` holds the `randomness` of each image, or None for no noise.
    """
    if isinstance(known, Parameters):
        if random is None:
            raise ValueError("real-world noise needs a key for each image")
        keys = jax.random.wrap_key_data(jnp.asarray(random), impl=_KEYS)
        return realworld.apply(
            keys, jnp.asarray(hr), known, scale=scale, preset=_LARGEST
        )
    if isinstance(known, Compressed):
        return compressed(hr, known, scale=scale)
    return degradation.synthesise(
        jnp.asarray(hr),
        known,
        None if random is None else jnp.asarray(random),
        scale=scale,
    )


def compressed(hr: ArrayLike, known: Compressed, *, scale: int) -> Array:
    """Blurs, shrinks and JPEG-compresses `hr` to [B, ..., h, w, 3] in [0, 1]."""
    quiet = Degradation(jnp.asarray(known.kernel), jnp.zeros(len(known.kernel)))
    lr = 255 * degradation.synthesise(jnp.asarray(hr), quiet, None, scale=scale)
    flat = lr.reshape(-1, *lr.shape[-3:])
    quality = jnp.repeat(known.quality, len(flat) // len(lr))
    return jpeg.round_trip(flat, quality).reshape(lr.shape) / 255


def described(known: Known) -> list[dict[str, Any]]:
    """Describes the degradation of each image in plain numbers and words, for JSON."""
    if isinstance(known, Parameters):
        return realworld.described(known)
    names = ("noise_level" if isinstance(known, Degradation) else "quality", "kernel")
    values = [np.asarray(getattr(known, name)).tolist() for name in names]
    return [dict(zip(names, one, strict=True)) for one in zip(*values, strict=True)]
