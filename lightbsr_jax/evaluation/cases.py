"""The degradations to test: a case is one, with the name that tables give it.

Kernels' angles are in degrees here, as the paper prints them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from lightbsr_jax.errors import UserError
from lightbsr_jax.evaluation import published
from lightbsr_jax.imaging import kernels
from lightbsr_jax.imaging.degradation import Degradation


class Case(NamedTuple):
    """A degradation to test."""

    kernel: str  # its name, such as "sigma 2.4" or "(2, 0.5, 0)"
    noise: str  # such as "noise 5"; empty where there is none
    degradation: Degradation | None  # batch of 1; None where LR images are given

    @property
    def label(self) -> str:
        return f"{self.kernel} {self.noise}".strip()


GIVEN = Case("given", "", None)


def make(
    setting: int | None,
    *,
    sigmas: Sequence[float] = published.SIGMAS,
    kernel_parameters: Sequence[tuple[float, float, float]] = published.KERNELS,
    noise_levels: Sequence[float] = published.NOISE_LEVELS,
) -> list[Case]:
    """The cases of setting 1 (`sigmas`) or 2 (each kernel at each noise level).

    Setting None stands for given LR images, degraded nobody knows how.
    """
    if setting is None:
        return [GIVEN]
    if setting == 1:
        if min(sigmas, default=1) <= 0:
            raise UserError(f"sigmas {tuple(sigmas)}: each must be above 0")
        return [
            Case(
                published.isotropic_name(sigma),
                "",
                Degradation(kernels.isotropic(jnp.array([sigma])), jnp.zeros(1)),
            )
            for sigma in sigmas
        ]
    if setting == 2:
        for kernel in kernel_parameters:
            if np.shape(kernel) != (3,) or min(kernel[:2]) <= 0:
                raise UserError(
                    f"kernel {kernel}: expected (l1, l2, theta in degrees) with l1 and "
                    "l2 above 0"
                )
        if min(noise_levels, default=0) < 0:
            raise UserError(f"noise levels {tuple(noise_levels)}: none may be negative")
        return [
            Case(
                published.anisotropic_name(kernel),
                published.noise_name(noise),
                Degradation(_anisotropic(kernel), jnp.array([float(noise)])),
            )
            for noise in noise_levels
            for kernel in kernel_parameters
        ]
    raise UserError(f"setting {setting}: there are 1 (isotropic) and 2 (anisotropic)")


def _anisotropic(kernel: tuple[float, float, float]) -> Array:
    l1, l2, degrees = (jnp.array([float(value)]) for value in kernel)
    return kernels.anisotropic(l1, l2, jnp.radians(degrees))
