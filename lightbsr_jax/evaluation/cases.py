"""The degradations to test: those of a setting, or given LR images."""

from collections.abc import Sequence
from typing import Any

from lightbsr_jax.imaging import settings
from lightbsr_jax.imaging.settings import Case

GIVEN = Case("given", "", None)


def make(setting: settings.Name | None, **parameters: Sequence[Any]) -> list[Case]:
    """The test degradations of a setting, by the `parameters` that it has.

    For setting 1 these are `sigmas`, for setting 2 each of the `kernels` at each of the
    `noise_levels`; what is not given is as the paper has it. Setting None stands for
    given LR images, degraded nobody knows how. Raises UserError for a setting that does
    not exist and for wrong values.
    """
    if setting is None:
        return [GIVEN]
    chosen = settings.of(setting)
    return chosen.cases(**{**chosen.tested, **parameters})
