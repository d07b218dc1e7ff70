"""The degradations to test: those of a setting, or given LR images."""

from collections.abc import Sequence
from typing import Any

from lightbsr_jax.imaging import settings
from lightbsr_jax.imaging.settings import Case

GIVEN = Case("given", "", None)


def make(setting: settings.Name | None, **parameters: Sequence[Any]) -> list[Case]:
    """The test degradations of a setting, chosen by its `parameters`.

    Setting 1 has `sigmas`; setting 2 combines each of the `kernels` with each of the
    `noise_levels`. Missing parameters have the paper's values. Setting None stands for
    given LR images with unknown degradations. Raises UserError for an unknown setting
    and for wrong values.
    """
    if setting is None:
        return [GIVEN]
    chosen = settings.of(setting)
    return chosen.cases(**{**chosen.tested, **parameters})


def of_scale(setting: settings.Name, scale: int) -> list[Case]:
    """The test degradations of a setting, with kernels as wide in LR pixels as at x4.

    At scales 2 and 3, networks are trained on kernels that are narrower in HR pixels
    than the paper's, which are for x4.
    """
    tested = settings.of(setting).tested
    factor = scale / 4
    narrowed: dict[str, Sequence[Any]] = {}
    if "sigmas" in tested:
        narrowed["sigmas"] = [factor * sigma for sigma in tested["sigmas"]]
    if "kernels" in tested:
        narrowed["kernels"] = [
            (factor * l1, factor * l2, theta) for l1, l2, theta in tested["kernels"]
        ]
    return make(setting, **narrowed)
