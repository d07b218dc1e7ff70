"""The learning rate at a step: constant within an epoch, two stages."""

import dataclasses
from typing import Any

import optax

from lightbsr_jax.training.config import CosineSchedule, SteppedSchedule


def of(schedule: CosineSchedule | SteppedSchedule) -> optax.Schedule:
    """Makes the schedule of a config."""
    make = stepped if isinstance(schedule, SteppedSchedule) else learning_rate
    return make(**dataclasses.asdict(schedule))


def learning_rate(
    *,
    steps_per_epoch: int,
    stage1_epochs: int,
    stage1_learning_rate: float,
    stage2_epochs: int,
    warmup_epochs: int,
    learning_rate: float,
    final_learning_rate: float,
    cooldown_epochs: int | None = None,
) -> optax.Schedule:
    """Stage 1 constant; stage 2 linear warm-up, then cosine to the final rate.

    Stage 2's epochs count from 1: at epoch e of the warm-up the rate is e / warmup of
    the full rate, and at the last epoch it is the final rate. With `cooldown_epochs`
    the rate stays constant after the warm-up and falls linearly over that many epochs
    at the end.
    """
    if cooldown_epochs is None:
        stage2 = optax.warmup_cosine_decay_schedule(
            0.0, learning_rate, warmup_epochs, stage2_epochs, final_learning_rate
        )
    else:
        rising = optax.constant_schedule(learning_rate)
        if warmup_epochs:
            rising = optax.linear_schedule(0.0, learning_rate, warmup_epochs)
        falling = optax.linear_schedule(
            learning_rate, final_learning_rate, cooldown_epochs
        )
        begins = stage2_epochs - cooldown_epochs
        stage2 = optax.join_schedules([rising, falling], [begins])
    stage1 = optax.constant_schedule(stage1_learning_rate)
    # The second schedule counts from the boundary: epoch 0 there is epoch 1 of stage 2.
    by_epoch = optax.join_schedules(
        [stage1, lambda epoch: stage2(epoch + 1)], [stage1_epochs]
    )
    return _within_epochs(by_epoch, steps_per_epoch)


def stepped(
    *,
    steps_per_epoch: int,
    stage1_epochs: int,
    stage1_learning_rate: float,
    stage1_decay_epochs: int,
    stage1_decay: float,
    stage2_epochs: int,
    learning_rate: float,
    decay_epochs: int,
    decay: float,
) -> optax.Schedule:
    """The schedule of KDSR and DASR: multiplied by a decay at regular epochs.

    Each stage has its own rate, decay and number of epochs between decays. Epochs count
    from 1, so that the first decay comes one epoch early.
    """

    def stage(rate: float, every: int, factor: float) -> optax.Schedule:
        def at(epoch: Any) -> Any:
            return rate * factor ** ((epoch + 1) // every)

        return at

    by_epoch = optax.join_schedules(
        [
            stage(stage1_learning_rate, stage1_decay_epochs, stage1_decay),
            stage(learning_rate, decay_epochs, decay),
        ],
        [stage1_epochs],
    )
    return _within_epochs(by_epoch, steps_per_epoch)


def _within_epochs(by_epoch: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    """Turns a schedule of epochs into one of steps, constant within an epoch."""

    def at(step: Any) -> Any:
        return by_epoch(step // steps_per_epoch)

    return at
