"""Real-world degradations: blur, resizing, noise and JPEG, in two rounds.

The pipeline is that of Real-ESRGAN (Wang et al. 2021), with which KDSR's real-world
models are trained too. As in degradation.py, `sample` draws an image's parameters and
`apply` applies them. Each of two rounds blurs an image, resizes it by a random factor
and adds noise; JPEG ends the first round. At the end the image is resized to 1 / scale
of the original, filtered by a low pass (which causes ringing) and compressed again, in
one of two orders. High-resolution images are [B, ..., H, W, 3] on the 0..255 scale,
where the dots may be the D crops of an image, which share its parameters but not its
noise. Low-resolution images are [B, ..., h, w, 3] in [0, 1], in steps of 1/255.

Each image has separate parameters, which are arguments of one compiled program; images
lie at the top left of canvases for the largest factor. Each image has its own random
key. This pipeline differs from the published programs:

- They draw factors, rules, kinds of noise and orders once per batch, and therefore mix
  batches in a pool. Here everything is drawn per image, so there is no pool.
- Their JPEG is an approximation (DiffJPEG: real qualities, its luma table transposed,
  zeros beyond the image); here it is that of libjpeg-turbo, with integer qualities.
- Their grey Gaussian noise is one field for a whole batch; here each image has its own.

Presets:

real   The published parameters of Real-ESRGAN and KDSR.
photo  Milder, for pictures of phones and from the web. It imitates a lens and
       demosaicing (kernels up to 2.4 HR pixels, 0.6 of an LR pixel, mostly round; few
       strong low passes and plateaus); often one earlier resize by a moderate factor,
       more often averaged than decimated (half of the rules are "area"); little noise
       in the first round, since cameras remove most of it; in two pictures of five
       noise of LR pixels, as in the dark, of film and of scans, up to the 25 grey
       levels of setting 2 (weights trained with up to 5 only weakened the noise of such
       pictures); one or two compressions, at qualities 60 to 95 when a picture was
       saved and 40 to 95 when it was published (libraries default to 75, publishing
       programs to about 80); and one picture in ten without a last compression. The
       default options of neosr and traiNNer-redux are milder than the published ones in
       a similar way: noise below 2 to 10 grey levels, factors from 0.3 to 1.5,
       qualities from 35 or 75 to 95.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax import target
from lightbsr_jax.imaging import (
    degradation,
    interpolation,
    jpeg,
    kernels,
    metrics,
    noise,
    resize,
)

# Families of kernels, in the order of `Blur.family`. "none" is the unit impulse.
FAMILIES = (
    "none",
    "isotropic",
    "anisotropic",
    "generalised isotropic",
    "generalised anisotropic",
    "plateau isotropic",
    "plateau anisotropic",
    "sinc",
)
_ROUND, _GENERALISED, _PLATEAU = (1, 3, 5), (3, 4), (5, 6)  # indices in FAMILIES
_SINC = FAMILIES.index("sinc")

Range = tuple[float, float]


class Blur(NamedTuple):
    """Kernels of a batch, for round 1, round 2 and the end: all fields are [B, 3].

    Values that a family does not use are drawn nevertheless.
    """

    family: Array  # index in FAMILIES
    extent: Array  # odd side of the kernel's square, 7..21
    l1: Array  # widths, HR pixels in round 1; equal for round kernels
    l2: Array
    angle: Array  # radians; 0 for round kernels
    shape: Array  # exponent of generalised kernels and plateaus, 1 for the others
    cutoff: Array  # of the low pass, in radians per pixel


class Parameters(NamedTuple):
    """The degradations of a batch of images."""

    blur: Blur
    factor: Array  # [B, 2] of HR's size in round 1, of LR's size in round 2
    rule: Array  # [B, 3] index in interpolation.RULES: rounds 1 and 2, and the end
    poisson: Array  # [B, 2] bool, else Gaussian
    grey: Array  # [B, 2] bool, the same noise in all channels
    noise_level: Array  # [B, 2] deviation (0..255), or the factor of Poisson noise
    quality: Array  # [B, 2] of JPEG, 1..100; 0 for no compression
    jpeg_first: Array  # [B] bool, before the last resize and low pass


class Round(NamedTuple):
    """Parameters of one round. Probabilities of alternatives sum to 1."""

    blur: float  # probability
    width: Range
    resize: tuple[float, float, float]  # probabilities of enlarging, shrinking, neither
    factor: Range  # shrinking from the first to 1, enlarging from 1 to the second
    noise: float  # probability
    deviation: Range  # of Gaussian noise, 0..255 scale
    poisson: Range  # factor of Poisson noise
    jpeg: float  # probability
    quality: tuple[int, int]  # both included


class Preset(NamedTuple):
    """Parameters of a pipeline."""

    rounds: tuple[Round, Round]  # JPEG of the second comes at the very end
    sinc: float  # probability among blurs of a round
    families: tuple[float, ...]  # probabilities of FAMILIES[1:7] among the others
    rules: tuple[float, float, float]  # probabilities of interpolation.RULES
    final_sinc: float  # probability
    poisson: float = 0.5  # probability among noises
    grey: float = 0.4  # probability


PRESETS = {
    "real": Preset(
        rounds=(
            Round(
                blur=1.0,
                width=(0.2, 3.0),
                resize=(0.2, 0.7, 0.1),
                factor=(0.15, 1.5),
                noise=1.0,
                deviation=(1.0, 30.0),
                poisson=(0.05, 3.0),
                jpeg=1.0,
                quality=(30, 95),
            ),
            Round(
                blur=0.8,
                width=(0.2, 1.5),
                resize=(0.3, 0.4, 0.3),
                factor=(0.3, 1.2),
                noise=1.0,
                deviation=(1.0, 25.0),
                poisson=(0.05, 2.5),
                jpeg=1.0,
                quality=(30, 95),
            ),
        ),
        sinc=0.1,
        families=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        rules=(1 / 3, 1 / 3, 1 / 3),
        final_sinc=0.8,
    ),
    "photo": Preset(
        rounds=(
            Round(
                blur=0.9,
                width=(0.2, 2.4),
                resize=(0.1, 0.5, 0.4),
                factor=(0.5, 1.2),
                noise=0.6,
                deviation=(1.0, 10.0),
                poisson=(0.05, 0.8),
                jpeg=0.6,
                quality=(60, 95),
            ),
            Round(
                blur=0.3,
                width=(0.2, 1.0),
                resize=(0.2, 0.3, 0.5),
                factor=(0.7, 1.2),
                noise=0.4,
                deviation=(1.0, 25.0),
                poisson=(0.05, 2.0),
                jpeg=0.9,
                quality=(40, 95),
            ),
        ),
        sinc=0.05,
        families=(0.6, 0.25, 0.08, 0.02, 0.04, 0.01),
        rules=(0.5, 0.25, 0.25),
        final_sinc=0.3,
    ),
}


@functools.partial(jax.jit, static_argnames="preset")
def sample(keys: Array, *, preset: str) -> Parameters:
    """Draws random parameters of a preset, one set for each of the `keys` [B]."""
    numbers = PRESETS[preset]

    def one(key: Array) -> Parameters:
        # Draw all numbers in one call: each call would take seconds to compile.
        random = jax.random.uniform(jax.random.fold_in(key, 0), (_DRAWS,))
        draws = iter(random)
        first, second = (_draw_round(draws, one, numbers) for one in numbers.rounds)
        end = _draw_low_pass(draws, numbers.final_sinc)
        blurs = (first.pop("blur"), second.pop("blur"), end)
        rules = (first.pop("rule"), second.pop("rule"), _choice(draws, numbers.rules))
        jpeg_first = _coin(draws, 0.5)
        assert next(draws, None) is None, "_DRAWS is the number of draws"
        return Parameters(
            blur=jax.tree.map(lambda *values: jnp.stack(values), *blurs),
            rule=jnp.stack(rules),
            jpeg_first=jpeg_first,
            **{name: jnp.stack([first[name], second[name]]) for name in first},
        )

    return jax.vmap(one)(keys)


_DRAWS = 2 * (10 + 11) + 3 + 2  # of two rounds (blur and others) and the end
Draws = Iterator[Array]  # uniform numbers in [0, 1)


def _draw_round(draws: Draws, numbers: Round, preset: Preset) -> dict[str, Any]:
    """Draws the parameters of a round, by their names in `Parameters`."""
    blur = _draw_blur(draws, numbers, preset)
    direction = _choice(draws, numbers.resize)
    smallest, largest = numbers.factor
    factors = (_uniform(draws, 1.0, largest), _uniform(draws, smallest, 1.0), 1.0)
    poisson = _coin(draws, preset.poisson)
    deviation, multiple = (
        _uniform(draws, *limits) for limits in (numbers.deviation, numbers.poisson)
    )
    level = jnp.where(poisson, multiple, deviation)
    compressed = _coin(draws, numbers.jpeg)
    worst, best = numbers.quality
    quality = worst + _integer(draws, best + 1 - worst)
    return {
        "blur": blur,
        "factor": jnp.stack(factors)[direction],
        "rule": _choice(draws, preset.rules),
        "poisson": poisson,
        "noise_level": jnp.where(_coin(draws, numbers.noise), level, 0.0),
        "grey": _coin(draws, preset.grey),
        "quality": jnp.where(compressed, quality, 0),
    }


def _draw_blur(draws: Draws, numbers: Round, preset: Preset) -> Blur:
    others = np.array(preset.families) * (1 - preset.sinc)
    probabilities = [1 - numbers.blur, *numbers.blur * np.append(others, preset.sinc)]
    family = _choice(draws, probabilities)
    extent = 7 + 2 * _integer(draws, 8)
    l1, l2 = (_uniform(draws, *numbers.width) for _ in range(2))
    angle = _uniform(draws, -jnp.pi, jnp.pi)
    low = _coin(draws, 0.5)
    generalised = jnp.where(low, _uniform(draws, 0.5, 1), _uniform(draws, 1, 4))
    # Half of the plateaus have a shape of 1 exactly, as published.
    plateau = jnp.where(low, 1.0, _uniform(draws, 1, 2))
    shape = jnp.where(_among(family, _PLATEAU), plateau, 1.0)
    shape = jnp.where(_among(family, _GENERALISED), generalised, shape)
    circular = _among(family, _ROUND)
    least = jnp.where(extent < 13, jnp.pi / 3, jnp.pi / 5)
    return Blur(
        family=family,
        extent=extent,
        l1=l1,
        l2=jnp.where(circular, l1, l2),
        angle=jnp.where(circular, 0.0, angle),
        shape=shape,
        cutoff=_uniform(draws, least, jnp.pi),
    )


def _draw_low_pass(draws: Draws, probability: float) -> Blur:
    """Draws the kernel of the end: a low pass, or none."""
    unused = jnp.float32(1)
    return Blur(
        family=jnp.where(_coin(draws, probability), _SINC, 0),
        extent=7 + 2 * _integer(draws, 8),
        l1=unused,
        l2=unused,
        angle=jnp.float32(0),
        shape=unused,
        cutoff=_uniform(draws, jnp.pi / 3, jnp.pi),
    )


def _uniform(draws: Draws, low: Array | float, high: float) -> Array:
    return low + (high - low) * next(draws)


def _integer(draws: Draws, count: int) -> Array:
    """A whole number from 0 to count - 1."""
    return jnp.floor(count * next(draws)).astype(jnp.int32)


def _coin(draws: Draws, probability: float) -> Array:
    return next(draws) < probability


def _choice(draws: Draws, probabilities: Sequence[float] | np.ndarray) -> Array:
    """A random index into `probabilities`, with these probabilities."""
    limits = jnp.asarray(np.cumsum(probabilities)[:-1], jnp.float32)
    return jnp.sum(next(draws) >= limits)


def _among(family: Array, places: tuple[int, ...]) -> Array:
    return jnp.isin(family, jnp.array(places))


def blur_kernels(blur: Blur) -> Array:
    """Makes the kernels [B, 3, 21, 21], each of which sums to 1."""
    family, extent, l1, l2, angle, shape, cutoff = (x.reshape(-1) for x in blur)
    # Plain Gaussians are generalised ones of shape 1.
    gaussians = kernels.generalised(l1, l2, angle, shape, extent)
    plateaus = kernels.plateau(l1, l2, angle, shape, extent)
    family = family[:, None, None]
    result = jnp.where(_among(family, _PLATEAU), plateaus, gaussians)
    result = jnp.where(family == _SINC, kernels.sinc(cutoff, extent), result)
    result = jnp.where(family == 0, kernels.impulse(), result)
    return result.reshape(*blur.family.shape, *result.shape[1:])


@functools.partial(jax.jit, static_argnames=("scale", "preset"))
def apply(
    keys: Array, hr: Array, parameters: Parameters, *, scale: int, preset: str
) -> Array:
    """Degrades `hr` to low-resolution images, with noise drawn from `keys` [B].

    The keys may be those given to `sample`: both functions use different random bits.
    `preset` bounds the factors and thereby the canvases. Raises ValueError unless H and
    W are multiples of `scale`.
    """
    *crops, height, width, channels = hr.shape[1:]
    if height % scale or width % scale or channels != 3:
        raise ValueError(
            f"high-resolution images of {height}x{width} pixels and {channels} "
            f"channels: need 3 channels and multiples of scale {scale}; crop them on "
            "the right and bottom first"
        )
    count = int(np.prod(crops))
    images = hr.reshape(-1, height, width, 3)
    shared = (blur_kernels(parameters.blur), parameters._replace(blur=None))
    shared = jax.tree.map(lambda x: jnp.repeat(x, count, axis=0), shared)
    one = functools.partial(_degraded, scale=scale, rounds=PRESETS[preset].rounds)
    arguments = (crop_keys(keys, count).reshape(-1), images, *shared)
    if target.platform() == "cpu":
        # Process images one by one: intermediate results then fit into its cache.
        lr = lax.map(lambda of_one: one(*of_one), arguments)
    else:
        lr = jax.vmap(one)(*arguments)
    return lr.reshape(*hr.shape[:-3], height // scale, width // scale, 3)


def crop_keys(keys: Array, count: int) -> Array:
    """Keys [B, count] of the crops' noise, derived from those of images [B]."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, 1)
    each = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(each, (0, None))(keys, jnp.arange(count))


def canvases(
    height: int, width: int, *, scale: int, rounds: tuple[Round, Round]
) -> list[tuple[int, int]]:
    """The (height, width) that hold an image after each round's resize."""
    sizes = [(height, width), (height // scale, width // scale)]
    grown = [max(1, one.factor[1]) for one in rounds]
    return [
        (int(factor * tall), int(factor * wide))
        for factor, (tall, wide) in zip(grown, sizes, strict=True)
    ]


def noise_fields(key: Array, canvases: list[tuple[int, int]]) -> list[Array]:
    """Uniform numbers [H, W, 3] for the noise of each round of one crop."""
    return [
        noise.uniform(jax.random.fold_in(key, i), (*canvas, 3))
        for i, canvas in enumerate(canvases)
    ]


def _degraded(
    key: Array,
    hr: Array,
    blur: Array,
    drawn: Parameters,
    *,
    scale: int,
    rounds: tuple[Round, Round],
) -> Array:
    """Degrades an image [H, W, 3] to [h, w, 3] by kernels [3, 21, 21] and scalars."""
    hr_size = np.array(hr.shape[:2])
    lr_size = hr_size // scale
    both = canvases(*hr.shape[:2], scale=scale, rounds=rounds)
    fields = noise_fields(key, both)

    image, size = hr.astype(jnp.float32), jnp.asarray(hr_size)
    for i, wanted in enumerate((hr_size, lr_size)):
        image = _blurred(image, size, blur[i])
        factor = drawn.factor[i]
        new_size = scaled_size(wanted, factor)
        # As in torch: round 1 is given a factor, whose inverse is the step; round 2 a
        # size.
        step = jnp.stack(2 * [1 / factor]) if i == 0 else size / new_size
        matrices = (
            interpolation.matrix(
                drawn.rule[i], size[axis], new_size[axis], step[axis], canvas=canvas
            )
            for axis, canvas in enumerate(zip(both[i], image.shape, strict=False))
        )
        image, size = resize.by_matrices(image, *matrices), new_size
        image = noise.add(
            image,
            fields[i],
            poisson=drawn.poisson[i],
            grey=drawn.grey[i],
            level=drawn.noise_level[i],
            size=size,
        )
        if i == 0:
            image = _compressed(image, size, drawn.quality[0])
    return _finished(image, size, blur[2], drawn, lr_size) / 255


def scaled_size(size: np.ndarray, factor: Array) -> Array:
    """A size times a factor, rounded down: int32 [2], at least one pixel a side."""
    return jnp.maximum(jnp.floor(size * factor), 1).astype(jnp.int32)


def _finished(
    image: Array, size: Array, kernel: Array, drawn: Parameters, lr_size: np.ndarray
) -> Array:
    """Resizes to `lr_size`, filters and compresses, or compresses first; rounds."""
    radius = kernel.shape[-1] // 2
    matrices = [
        interpolation.matrix(
            drawn.rule[2],
            size[axis],
            lr_size[axis],
            size[axis] / lr_size[axis],
            canvas=(lr_size[axis] + 2 * radius, image.shape[axis]),
            border=radius,
        )
        for axis in (0, 1)
    ]

    def filtered(image: Array) -> Array:
        return _correlated(resize.by_matrices(image, *matrices), kernel)

    # One program serves both orders and contains JPEG, its longest part, once.
    height, width = lr_size
    early = jnp.zeros_like(image).at[:height, :width].set(filtered(image))
    compressed = _compressed(
        jnp.where(drawn.jpeg_first, image, early),
        jnp.where(drawn.jpeg_first, size, lr_size),
        drawn.quality[1],
    )
    late = filtered(compressed)
    result = jnp.where(drawn.jpeg_first, late, compressed[:height, :width])
    return metrics.quantise(result)


def _blurred(image: Array, size: Array, kernel: Array) -> Array:
    """Correlates the valid part of the image with `kernel`, with reflected borders."""
    radius = kernel.shape[-1] // 2
    for axis in (0, 1):
        index = jnp.arange(-radius, image.shape[axis] + radius)
        index = interpolation.reflected(index, size[axis])
        image = jnp.take(image, index, axis=axis, mode="clip")
    return _correlated(image, kernel)


def _correlated(padded: Array, kernel: Array) -> Array:
    return degradation.correlate(padded[None, None], kernel[None])[0, 0]


def _compressed(image: Array, size: Array, quality: Array) -> Array:
    """Compresses by JPEG, unless the quality is 0; clips to 0..255."""
    whole = metrics.quantise(image)[None]
    compressed = jpeg.round_trip(whole, jnp.maximum(quality, 1)[None], size=size[None])
    return jnp.where(quality > 0, compressed[0], jnp.clip(image, 0, 255))


def described(parameters: Parameters) -> list[dict[str, Any]]:
    """Describes each image's parameters in plain numbers and words, for JSON."""
    count = len(parameters.factor)
    return [
        _description(jax.tree.map(lambda x, i=i: np.asarray(x)[i], parameters))
        for i in range(count)
    ]


def _description(drawn: Parameters) -> dict[str, Any]:
    rounds = [
        {
            "blur": _kernel_description(drawn.blur, i),
            "resize": {"factor": float(drawn.factor[i]), "rule": _rule(drawn, i)},
            "noise": _noise_description(drawn, i),
        }
        for i in (0, 1)
    ]
    rounds[0]["jpeg"] = int(drawn.quality[0]) or None
    end = {
        "resize": {"rule": _rule(drawn, 2)},
        "blur": _kernel_description(drawn.blur, 2),
        "jpeg": int(drawn.quality[1]) or None,
        "order": "JPEG first" if drawn.jpeg_first else "JPEG last",
    }
    return {"round 1": rounds[0], "round 2": rounds[1], "end": end}


def _rule(drawn: Parameters, place: int) -> str:
    return interpolation.RULES[drawn.rule[place]]


def _noise_description(drawn: Parameters, place: int) -> dict[str, Any] | None:
    if not drawn.noise_level[place]:
        return None
    return {
        "kind": "Poisson" if drawn.poisson[place] else "Gaussian",
        "grey": bool(drawn.grey[place]),
        "level": float(drawn.noise_level[place]),
    }


def _kernel_description(blur: Blur, place: int) -> dict[str, Any] | None:
    """The family of a kernel and the values that it uses."""
    family = int(blur.family[place])
    if not family:
        return None
    names = ["extent"]
    if family == _SINC:
        names += ["cutoff"]
    else:
        names += ["l1"] if family in _ROUND else ["l1", "l2", "angle"]
        names += ["shape"] if family in _GENERALISED + _PLATEAU else []
    values = {name: getattr(blur, name)[place].item() for name in names}
    return {"family": FAMILIES[family], **values}
