"""The training steps of one device on its share of the batch.

A step takes uint8 HR crops [B, D, H, W, 3], degrades them and calls an update (see
`updates`), under the named axis AXIS. Steps are composed of an update, its degradation,
a guard against values that are not finite, and possibly cropping on the device.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from lightbsr_jax.data import resident
from lightbsr_jax.data.pairs import Mixed
from lightbsr_jax.imaging import settings
from lightbsr_jax.training.state import Run, Tree
from lightbsr_jax.training.updates import AXIS, Batch, Frozen, Metrics, Update


class Constants(NamedTuple):
    """Constant arguments of all steps."""

    seed: Array | int  # of the degradations
    basis: Array | np.ndarray  # [441, 15] of the prior
    teacher: Tree | None  # {"params", "batch_stats"} of a student's teacher
    pixels: resident.Pixels | None = None  # of all images, if the device holds them
    vgg: Tree | None = None  # the parameters of VGG19, for a perceptual loss


# A function of a state or run, a device's crops (or their places) and constants.
Step = Callable[[Any, Any, Constants], tuple[Any, Metrics]]


def degrading_step(
    update: Update, *, setting: settings.Name, scale: int, width_max: float
) -> Step:
    """Makes a step that degrades its crops, uint8 [B, D, H, W, 3], and updates.

    LR crops of pairs in `Mixed` are used unchanged. The random key of an image depends
    on the run's seed, the step and the image's position in the global batch.
    """
    kind = settings.of(setting)

    def step(
        state: Any, crops: Array | Mixed, constants: Constants
    ) -> tuple[Any, Metrics]:
        hr = crops.hr if isinstance(crops, Mixed) else crops
        place = lax.axis_index(AXIS) * len(hr) + jnp.arange(len(hr))
        step_key = jax.random.fold_in(jax.random.key(constants.seed), state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)
        drawn = kind.sample(keys, width_max=width_max)
        lr = kind.apply(keys, hr, drawn, scale=scale)
        if isinstance(crops, Mixed):
            paired = crops.paired[:, None, None, None, None]
            lr = jnp.where(paired, crops.lr.astype(lr.dtype) / 255, lr)
        prior = kind.prior_vector(drawn, constants.basis)
        batch = Batch(lr=lr, prior=prior, hr=hr[:, 0])
        return update(state, batch, Frozen(constants.teacher, constants.vgg))

    return step


def skip_nonfinite(step: Step, *, ema_decay: float) -> Step:
    """Extends `step` to a Run: updates that are not finite are skipped and counted.

    A skipped update changes only the step number. The decay of the parameters' average
    is min(ema_decay, (1 + n) / (10 + n)) at step n, so it adapts fast at first.
    """

    def skipping_step(
        run: Run, crops: Any, constants: Constants
    ) -> tuple[Run, Metrics]:
        state, metrics = step(run.state, crops, constants)
        numbers = [*metrics.values(), *jax.tree.leaves(state.batch_stats)]
        finite = jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()
        average = run.average
        if average is not None:
            follow = (1 + state.step) / (10 + state.step)
            average = optax.incremental_update(
                state.params, average, 1 - jnp.minimum(ema_decay, follow)
            )
        unchanged = dataclasses.replace(run.state, step=state.step)
        state, average = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (state, average),
            (unchanged, run.average),
        )
        run = Run(
            state=state,
            average=average,
            skipped=run.skipped + ~finite,
            skipped_in_a_row=jnp.where(finite, 0, run.skipped_in_a_row + 1),
        )
        counts = {"skipped": run.skipped, "skipped_in_a_row": run.skipped_in_a_row}
        return run, metrics | counts

    return skipping_step


def cropping_step(step: Step, *, size: int) -> Step:
    """Extends `step` to places of crops, which are cut from `constants.pixels`."""

    def cropping(
        state: Any, places: resident.Places, constants: Constants
    ) -> tuple[Any, Metrics]:
        if constants.pixels is None:
            raise ValueError("crops are cut from pixels on the device: there are none")
        crops = resident.crops(constants.pixels, places, size=size)
        return step(state, crops, constants)

    return cropping
