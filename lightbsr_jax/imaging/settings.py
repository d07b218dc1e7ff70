"""The settings: kinds of degradation that networks are trained for and tested on.

A setting is an entry of `SETTINGS`, under its name in configs and files (`setting`). It
defines how degradations are drawn and applied, the prior's vector of a degradation, the
test degradations, and the known degradations that explain pictures. Kernel widths are
in HR pixels and angles in degrees, as in the paper.
"""

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.imaging import degradation, kernels, prior, realworld, synthesis
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.imaging.synthesis import Compressed, Drawn, Tested

Name = int | str  # of a setting, in configs and files

# The paper's test degradations: widths of round kernels (Table 3); l1, l2 and theta of
# elliptic kernels, and noise levels in 0..255 (Table 4). The paper of DSAT prints the
# first kernel as (2, 0.2, 0).
SIGMAS = (1.2, 2.4, 3.6)
KERNELS = (
    (2.0, 0.5, 0.0),
    (2.0, 1.0, 10.0),
    (3.5, 1.5, 30.0),
    (3.5, 2.0, 45.0),
    (3.5, 2.0, 90.0),
    (4.0, 1.5, 120.0),
    (4.0, 2.0, 135.0),
    (4.0, 3.0, 165.0),
    (4.0, 4.0, 180.0),
)
NOISE_LEVELS = (5.0, 10.0)
# Our own: blur before JPEG, its qualities, draws of real-world parameters per image.
COMPRESSED_SIGMAS = (0.6, 0.9, 1.2)
QUALITIES = (30, 50, 75, 95)
DRAWS = (1, 2)


_SHRUNK = (
    "kernel correlated with reflected borders, antialiased bicubic with clamped borders"
)


class Case(NamedTuple):
    """A degradation to test, with its names in tables."""

    kernel: str  # such as "sigma 2.4" or "(2, 0.5, 0)"
    noise: str  # such as "noise 5"; empty without noise
    degradation: Tested | None  # batch of 1; None if LR images are given

    @property
    def label(self) -> str:
        return f"{self.kernel} {self.noise}".strip()


class Known(NamedTuple):
    """A Gaussian blur and a noise level, to explain pictures with."""

    l1: float
    l2: float
    theta: float
    noise: float

    @property
    def label(self) -> str:
        blur = f"sigma {self.l1:.1f}"
        if self.l1 != self.l2:
            blur = f"l1 {self.l1:.1f}, l2 {self.l2:.1f}, theta {self.theta:.0f}"
        return blur + (f", noise {self.noise:.0f}" if self.noise else "")


@dataclass(frozen=True, eq=False)
class Setting:
    """A kind of degradation. Settings compare by identity: each exists once."""

    name: Name
    description: str  # in words, for messages
    # (keys [B], width_max=...) draws a degradation for each key; `width_max` is the
    # largest width of a kernel.
    sample: Callable[..., Any]
    # (drawn, basis) gives the prior's vectors [B, P] of drawn degradations.
    prior_vector: Callable[[Any, Any], Array]
    prior_channels: int  # P
    # The parameters of the test degradations, by their names in configs, with the
    # paper's values; `cases` makes test degradations of any values.
    tested: Mapping[str, Sequence[Any]]
    cases: Callable[..., list[Case]]
    known: tuple[Known, ...]  # known degradations, to explain pictures with
    # (keys, hr, drawn, scale=...) makes LR images.
    apply: Callable[..., Array] = degradation.apply
    # (seed) makes the prior's basis [441, 15].
    make_basis: Callable[[int], np.ndarray] = prior.make_basis
    # True if networks of all settings may be measured on its test degradations.
    for_all: bool = False
    # How test images are made, for reports; "{}" stands for the seed.
    protocol: str = f"{_SHRUNK}, noise drawn from seed {{}}, the image and the case"


def of(name: Name) -> Setting:
    """The setting with that name in configs and files.

    Raises UserError for an unknown name.
    """
    if name not in SETTINGS:
        raise UserError(f"setting {name} does not exist: use one of {listed()}")
    return SETTINGS[name]


def parse(text: str) -> Name:
    """Parses the name of a setting on a command line.

    Raises UserError for an unknown name.
    """
    return of(next((name for name in SETTINGS if str(name) == text), text)).name


def of_config(given: Name | None) -> Name | None:
    """The name in the field config.setting, where a flag may have left it as text.

    Raises UserError for a text that names no setting.
    """
    if not isinstance(given, str):
        return given
    try:
        return parse(given)
    except UserError as error:
        raise UserError(f"config.setting: {error}") from error


def listed() -> str:
    """All settings in words: "1 (isotropic blur), 2 (...)"."""
    return ", ".join(f"{s.name} ({s.description})" for s in SETTINGS.values())


def isotropic_name(sigma: float) -> str:
    """The name of a round kernel, such as "sigma 2.4"."""
    return f"sigma {sigma:g}"


def anisotropic_name(kernel: Sequence[float]) -> str:
    """The name of an elliptic kernel (l1, l2, theta), such as "(2, 0.5, 0)"."""
    l1, l2, theta = kernel
    return f"({l1:g}, {l2:g}, {theta:g})"


def noise_name(level: float) -> str:
    """The name of a noise level, such as "noise 5"."""
    return f"noise {level:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and math.isfinite(value)


def _check_numbers(name: str, values: Sequence[Any]) -> None:
    """Raises UserError unless all values of that parameter are finite numbers."""
    for value in values:
        if not _is_number(value):
            raise UserError(
                f"{name} {tuple(values)}: {value!r} is not a finite number, such as 2.4"
            )


def isotropic_cases(sigmas: Sequence[float]) -> list[Case]:
    """Round kernels of these widths, without noise. Raises UserError."""
    _check_numbers("sigmas", sigmas)
    if min(sigmas, default=1) <= 0:
        raise UserError(f"sigmas {tuple(sigmas)}: each must be above 0")
    return [
        Case(
            isotropic_name(sigma),
            "",
            Degradation(kernels.isotropic(jnp.array([sigma])), jnp.zeros(1)),
        )
        for sigma in sigmas
    ]


def anisotropic_cases(
    kernels: Sequence[tuple[float, float, float]], noise_levels: Sequence[float]
) -> list[Case]:
    """Each kernel (l1, l2, theta) at each noise level. Raises UserError."""
    for kernel in kernels:
        triple = isinstance(kernel, Sequence) and len(kernel) == 3
        if not (triple and all(map(_is_number, kernel)) and min(kernel[:2]) > 0):
            raise UserError(
                f"kernels {kernel!r}: expected (l1, l2, theta in degrees) with l1 and "
                "l2 above 0"
            )
    _check_numbers("noise_levels", noise_levels)
    if min(noise_levels, default=0) < 0:
        raise UserError(f"noise_levels {tuple(noise_levels)}: none may be negative")
    return [
        Case(
            anisotropic_name(kernel),
            noise_name(noise),
            Degradation(_anisotropic(kernel), jnp.array([float(noise)])),
        )
        for noise in noise_levels
        for kernel in kernels
    ]


def compressed_cases(sigmas: Sequence[float], qualities: Sequence[int]) -> list[Case]:
    """Round kernels of these widths, each at each quality. Raises UserError."""
    wrong = [q for q in qualities if q not in range(1, 101)]
    if wrong:
        raise UserError(f"qualities {tuple(qualities)}: {wrong[0]!r} is not in 1..100")
    return [
        Case(
            blur.kernel,
            f"quality {quality}",
            Compressed(blur.degradation.kernel, np.array([quality])),
        )
        for quality in qualities
        for blur in isotropic_cases(sigmas)
        if isinstance(blur.degradation, Degradation)
    ]


def drawn_cases(draws: Sequence[int], *, preset: str) -> list[Case]:
    """Real-world parameters, drawn for each image and each of these numbers.

    Raises UserError.
    """
    _check_numbers("draws", draws)
    return [Case(f"draw {number}", "", Drawn(preset)) for number in draws]


def _sample_compressed(keys: Array, *, width_max: float) -> Compressed:
    """Draws widths as in setting 1, and qualities from 30 to 95."""
    drawn = degradation.sample(
        keys, family="isotropic", noise_max=0.0, width_max=width_max
    )

    def quality(key: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(key, 2), (), 30, 96)

    return Compressed(drawn.kernel, jax.vmap(quality)(keys))


def _apply_compressed(
    keys: Array, hr: Array, drawn: Compressed, *, scale: int
) -> Array:
    del keys  # there is no noise
    return synthesis.compressed(hr, drawn, scale=scale)


def _sample_realworld(
    keys: Array, *, width_max: float, preset: str
) -> realworld.Parameters:
    """Draws parameters; the preset, not `width_max`, defines the kernels' widths."""
    del width_max
    return realworld.sample(keys, preset=preset)


def _realworld(preset: str, description: str) -> Setting:
    return Setting(
        name=preset,
        description=description,
        sample=partial(_sample_realworld, preset=preset),
        prior_vector=prior.realworld_vector,
        prior_channels=prior.REALWORLD_CHANNELS,
        tested={"draws": DRAWS},
        cases=partial(drawn_cases, preset=preset),
        known=_anisotropic_grid(),
        apply=partial(realworld.apply, preset=preset),
        make_basis=prior.make_mixed_basis,
        for_all=True,
        protocol=f"two rounds of blur, resizing, noise and JPEG, as {preset!r} draws "
        "them from seed {}, the image's pixels and the number of the draw",
    )


def _anisotropic(kernel: tuple[float, float, float]) -> Array:
    l1, l2, degrees = (jnp.array([float(value)]) for value in kernel)
    return kernels.anisotropic(l1, l2, jnp.radians(degrees))


def _isotropic_grid() -> tuple[Known, ...]:
    sigmas = map(float, np.arange(0.2, 4.01, 0.2))
    return tuple(Known(sigma, sigma, 0, 0) for sigma in sigmas)


def _anisotropic_grid() -> tuple[Known, ...]:
    widths, thetas, levels = (0.6, 1.4, 2.4, 3.6), (0, 45, 90, 135), (0, 5, 10, 20)
    blurs: list[tuple[float, float, float]] = [(width, width, 0) for width in widths]
    pairs = [(l1, l2) for l1 in widths for l2 in widths if l1 > l2]
    blurs += [(l1, l2, theta) for (l1, l2), theta in product(pairs, thetas)]
    return tuple(Known(*blur, level) for blur, level in product(blurs, levels))


SETTINGS: dict[Name, Setting] = {
    1: Setting(
        name=1,
        description="isotropic blur",
        sample=partial(degradation.sample, family="isotropic", noise_max=0.0),
        prior_vector=prior.kernel_vector,
        prior_channels=prior.KERNEL_CHANNELS,
        tested={"sigmas": SIGMAS},
        cases=isotropic_cases,
        known=_isotropic_grid(),
    ),
    2: Setting(
        name=2,
        description="anisotropic blur and noise",
        sample=partial(degradation.sample, family="anisotropic", noise_max=25.0),
        prior_vector=prior.kernel_and_noise_vector,
        prior_channels=prior.KERNEL_CHANNELS + prior.NOISE_CHANNELS,
        tested={"kernels": KERNELS, "noise_levels": NOISE_LEVELS},
        cases=anisotropic_cases,
        known=_anisotropic_grid(),
    ),
    "jpeg": Setting(
        name="jpeg",
        description="isotropic blur and JPEG",
        sample=_sample_compressed,
        prior_vector=prior.kernel_and_quality_vector,
        prior_channels=prior.KERNEL_CHANNELS + 1,
        tested={"sigmas": COMPRESSED_SIGMAS, "qualities": QUALITIES},
        cases=compressed_cases,
        known=_isotropic_grid(),
        apply=_apply_compressed,
        for_all=True,
        protocol=f"{_SHRUNK}, JPEG as libjpeg-turbo's (4:2:0)",
    ),
    "real": _realworld("real", "real-world degradations as Real-ESRGAN draws them"),
    "photo": _realworld("photo", "milder real-world degradations, for photographs"),
}
