"""The training steps: what one device does with its share of the batch.

A step takes uint8 HR crops [B, D, H, W, 3], degrades them and calls an update; an
update takes LR images and makes the gradient step. Both run under the named axis AXIS,
over which gradients, losses and statistics are averaged and keys gathered, so that N
devices give the numbers of one with the same global batch. A stage is a step of its
own: what does not learn is neither differentiated nor touched.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lightbsr_jax.imaging import degradation, prior
from lightbsr_jax.networks.lightbsr import LightBSR
from lightbsr_jax.training import contrast, losses
from lightbsr_jax.training.state import (
    CONTRASTED,
    DISTILLED,
    StudentState,
    TeacherState,
    Tree,
)

AXIS = "data"
Metrics = dict[str, Array]


class Batch(NamedTuple):
    """A device's share of what an update learns from."""

    lr: Array  # [B, D, h, w, 3], D crops of each image
    prior: Array  # [B, P], of the degradation that the crops of an image share
    hr: Array  # [B, H, W, 3] in 0..255, of crop 1


class Fixed(NamedTuple):
    """What a step needs beside state and data, the same at every step."""

    seed: Array  # of the degradations
    basis: Array  # [441, 15] of the prior
    teacher: Tree  # the student's teacher, {"params", "batch_stats"}; {} for a teacher


Update = Callable[[Any, Batch, Tree], tuple[Any, Metrics]]  # state, batch, teacher
Step = Callable[[Any, Array, Fixed], tuple[Any, Metrics]]  # state, crops, fixed


def degrading_step(
    update: Update, *, setting: int, scale: int, width_max: float
) -> Step:
    """step(state, crops [B, D, H, W, 3] uint8, fixed): degrade the crops, then update.

    An image's randomness follows from the run's seed, the step and the image's place in
    the global batch.
    """

    def step(state: Any, crops: Array, fixed: Fixed) -> tuple[Any, Metrics]:
        place = lax.axis_index(AXIS) * len(crops) + jnp.arange(len(crops))
        step_key = jax.random.fold_in(jax.random.key(fixed.seed), state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)
        drawn = degradation.sample(keys, setting=setting, width_max=width_max)
        batch = Batch(
            lr=degradation.apply(keys, crops, drawn, scale=scale),
            prior=prior.vector(drawn, fixed.basis, setting=setting),
            hr=crops[:, 0],
        )
        return update(state, batch, fixed.teacher)

    return step


def descend(
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    state: TeacherState | StudentState,
    gradients: Tree,
) -> tuple[Tree, Tree]:
    """New parameters and optimiser states; modules without a gradient stay as is."""
    gradients = lax.pmean(gradients, AXIS)
    rate = learning_rate(state.step)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for name, gradient in gradients.items():
        update, opt_state[name] = optimizer.update(gradient, opt_state[name])
        update = jax.tree.map(lambda u: -rate * u, update)
        params[name] = optax.apply_updates(params[name], update)
    return params, opt_state


def teacher_update(
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    stage: int,
    momentum: float,
    temperature: float,
) -> Update:
    """The teacher's update.

    Stage 1 minimises L_CL with the estimator and projector, stage 2 L_SR + L_CL with
    everything.
    """

    def encode(
        params: Tree, batch_stats: Tree, visits: Sequence[int], lr: Array, prior: Array
    ) -> tuple[Array, Array, Tree]:
        idr, new = network.apply(
            {"params": params, "batch_stats": batch_stats},
            lr,
            prior,
            visits=visits,
            method="encode",
            mutable="batch_stats",
        )
        flat = idr.reshape(-1, *idr.shape[2:])
        embeddings = network.apply({"params": params}, flat, method="project")
        embeddings = contrast.normalise(embeddings).reshape(*idr.shape[:2], -1)
        return idr, embeddings, new["batch_stats"]

    def update(
        state: TeacherState, batch: Batch, _: Tree
    ) -> tuple[TeacherState, Metrics]:
        lr = jnp.moveaxis(batch.lr, 1, 0)  # [D, B, h, w, 3]
        crops = tuple(range(len(lr)))
        learning = CONTRASTED if stage == 1 else tuple(state.params)

        momentum_params = optax.incremental_update(
            {name: state.params[name] for name in CONTRASTED},
            state.momentum_params,
            1 - momentum,
        )
        _, keys, momentum_batch_stats = encode(
            momentum_params, state.momentum_batch_stats, crops, lr, batch.prior
        )

        def loss_fn(learnt: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
            params = {**state.params, **learnt}
            # The reference encodes crop 1 once more for its features: no other result,
            # but one more visit to the running statistics.
            idr, queries, batch_stats = encode(
                params, state.batch_stats, (*crops, 0), lr, batch.prior
            )
            metrics = {
                "contrastive": contrast.contrastive_loss(
                    queries, keys, state.queue, temperature=temperature
                )
            }
            if stage == 2:
                restored = network.apply(
                    {"params": params}, lr[0], idr[0], method="restore"
                )
                metrics["reconstruction"] = losses.reconstruction(restored.sr, batch.hr)
            return sum(metrics.values()), (metrics, batch_stats)

        gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            {name: state.params[name] for name in learning}
        )
        params, opt_state = descend(optimizer, learning_rate, state, gradients)
        queue, queue_pointer = contrast.enqueue(
            state.queue,
            state.queue_pointer,
            lax.all_gather(keys[0], AXIS, tiled=True),
        )
        state = TeacherState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            momentum_params=momentum_params,
            momentum_batch_stats=momentum_batch_stats,
            queue=queue,
            queue_pointer=queue_pointer,
            opt_state=opt_state,
        )
        return state, lax.pmean(metrics, AXIS)

    return update


def student_update(
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    stage: int,
    temperature: float,
    l1_weight: float,
) -> Update:
    """The student's update, on one crop an image.

    Stage 1 minimises L_DL
    with the estimator and converter, stage 2 L_SR + L_DL with everything.
    """

    def update(
        state: StudentState, batch: Batch, teacher: Tree
    ) -> tuple[StudentState, Metrics]:
        lr = batch.lr[:, 0]
        learning = DISTILLED if stage == 1 else tuple(state.params)
        size = lr.shape[1:3]
        teacher_idr = network.apply(teacher, lr, batch.prior, method="encode")
        target_channel, target_spatial = network.apply(
            teacher, teacher_idr, size, method="convert"
        )

        def loss_fn(learnt: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
            params = {**state.params, **learnt}
            idr, new = network.apply(
                {"params": params, "batch_stats": state.batch_stats},
                lr[None],
                visits=(0,),
                method="encode",
                mutable="batch_stats",
            )
            if stage == 1:
                channel, spatial = network.apply(
                    {"params": params}, idr[0], size, method="convert"
                )
                metrics = {}
            else:
                sr, channel, spatial = network.apply(
                    {"params": params}, lr, idr[0], method="restore"
                )
                metrics = {"reconstruction": losses.reconstruction(sr, batch.hr)}
            metrics["spatial"] = losses.spatial_distillation(target_spatial, spatial)
            metrics["channel"] = losses.channel_distillation(
                target_channel, channel, temperature=temperature, l1_weight=l1_weight
            )
            return sum(metrics.values()), (metrics, new["batch_stats"])

        gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            {name: state.params[name] for name in learning}
        )
        params, opt_state = descend(optimizer, learning_rate, state, gradients)
        state = StudentState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, lax.pmean(metrics, AXIS)

    return update
