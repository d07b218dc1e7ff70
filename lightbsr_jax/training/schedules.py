"""The learning rate at a step: constant within an epoch, two stages."""

import optax


def learning_rate(
    *,
    steps_per_epoch: int,
    stage1_epochs: int,
    stage1_learning_rate: float,
    stage2_epochs: int,
    warmup_epochs: int,
    learning_rate: float,
    final_learning_rate: float,
) -> optax.Schedule:
    """Stage 1 constant; stage 2 linear warm-up, then cosine to the final rate.

    Stage 2's epochs count from 1: at epoch e of the warm-up the rate is e / warmup of
    the full one, at the last epoch it is the final one.
    """
    stage2 = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup_epochs, stage2_epochs, final_learning_rate
    )
    stage1 = optax.constant_schedule(stage1_learning_rate)
    # The second schedule counts from the boundary: epoch 0 there is epoch 1 of stage 2.
    by_epoch = optax.join_schedules(
        [stage1, lambda epoch: stage2(epoch + 1)], [stage1_epochs]
    )
    return lambda step: by_epoch(step // steps_per_epoch)
