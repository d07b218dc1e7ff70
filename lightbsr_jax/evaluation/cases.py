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
