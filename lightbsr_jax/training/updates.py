"""The updates: gradient steps of one device on its share of a degraded batch.

An update runs under the named axis AXIS, over which gradients, losses and statistics
are averaged and keys gathered, so that N devices compute the numbers of one device with
the same global batch. Each stage has its own update: modules that are not trained are
neither differentiated nor changed.

To save memory, a device may restore its share of the batch in microbatches
(config.compute.parts). The estimator, which alone has batch statistics, and the queue
always use the whole share, so the numbers do not depend on microbatches. Memory grows
with the batch even with rematerialised blocks: the default config's step of stage 2 (64
images on one device, float32) has 11.1 GB of temporary arrays as XLA compiles it for a
CPU, and 6.4 GB in two microbatches.
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.methods.registry import Method
from lightbsr_jax.training import adversary, contrast, losses
from lightbsr_jax.training.adversary import (
    Adversary,
    Judges,
    Restored,
    in_unit_range,
    of_generator,
    weighted,
)
from lightbsr_jax.training.descent import AXIS, clip, descend, microbatched
from lightbsr_jax.training.state import (
    CONTRASTED,
    AdversarialState,
    ContrastiveState,
    TrainState,
    Tree,
)

Metrics = dict[str, Array]


class Batch(NamedTuple):
    """A device's share of the degraded batch."""

    lr: Array  # [B, D, h, w, 3], D crops of each image
    prior: Array  # [B, P], of the degradation shared by the crops of an image
    hr: Array  # [B, H, W, 3] in 0..255, of crop 1


class Frozen(NamedTuple):
    """Variables of networks that training uses and does not change."""

    teacher: Tree | None = None  # {"params", "batch_stats"} of a student's teacher
    vgg: Tree | None = None  # the parameters of VGG19, for a perceptual loss


# A function of a state, a batch and frozen networks that returns the new state and
# metrics.
Update = Callable[[Any, Batch, Frozen], tuple[Any, Metrics]]


class Learner(NamedTuple):
    """A network in training, with its optimiser."""

    method: Method
    network: BlindNetwork  # with AXIS, over which BatchNorm's statistics are taken
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    microbatches: int = 1  # parts of a device's share of the batch, to save memory
    sees_prior: bool = True  # False hides the prior from a teacher (an ablation)
    gradient_clip: float = 0.0  # largest norm of all gradients; 0: no limit
    adversary: Adversary | None = None  # of a run with a GAN loss
    pixel_loss: str = "l1"  # L_SR, one of losses.PIXEL_LOSSES

    @property
    def apply(self) -> Callable[..., Any]:
        """The network's apply, typed to return arrays or trees of arrays."""
        return self.network.apply

    def privileged(self, batch: Batch) -> Array | None:
        """The input of the teacher's estimator besides the LR images."""
        return privileged(self.method, batch, sees_prior=self.sees_prior)


def contrastive_update(
    learner: Learner, *, stage: int, momentum: float, temperature: float
) -> Update:
    """Makes the update of contrastive training, of a ContrastiveState.

    Stage 1 minimises L_CL with the estimator and projector, stage 2 L_SR + L_CL with
    everything.
    """
    contrasts = learner.method.contrasts
    if contrasts is None:
        raise ValueError(f"{learner.method.title} has no contrast")
    objective = _contrastive_objective(learner, stage=stage, temperature=temperature)

    def update(
        state: ContrastiveState, batch: Batch, _: Frozen
    ) -> tuple[ContrastiveState, Metrics]:
        lr = jnp.moveaxis(batch.lr, 1, 0)  # [D, B, h, w, 3]
        seen = learner.privileged(batch)
        pairing = contrast.pairing(contrasts, len(lr))

        followed = {name: state.params[name] for name in CONTRASTED}
        momentum_params: Any = optax.incremental_update(
            followed, state.momentum_params, 1 - momentum
        )
        lr_keys, stats = lr[pairing.keys], state.momentum_batch_stats
        keys, momentum_batch_stats = _embed(
            learner, momentum_params, stats, lr_keys, seen, range(len(lr_keys))
        )[1:]

        given = _Contrasted(lr, seen, pairing, keys, batch.hr)
        gradients, (metrics, batch_stats) = jax.grad(objective, has_aux=True)(
            followed if stage == 1 else state.params, state, given
        )
        params, opt_state, norm = apply_gradients(learner, state, gradients)
        new_keys = lax.all_gather(keys[0], AXIS, tiled=True)
        queue, pointer = contrast.enqueue(state.queue, state.queue_pointer, new_keys)
        state = ContrastiveState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            momentum_params=momentum_params,
            momentum_batch_stats=momentum_batch_stats,
            queue=queue,
            queue_pointer=pointer,
            opt_state=opt_state,
        )
        return state, lax.pmean(metrics, AXIS) | {"gradient_norm": norm}

    return update


class _Contrasted(NamedTuple):
    """Data of the contrastive objective."""

    lr: Array  # [D, B, h, w, 3]
    seen: Array | None  # the estimator's privileged input
    pairing: contrast.Pairing
    keys: Array  # [keys, B, C]
    hr: Array  # [B, H, W, 3]


def _contrastive_objective(
    learner: Learner, *, stage: int, temperature: float
) -> Callable[
    [Tree, ContrastiveState, _Contrasted], tuple[Array, tuple[Metrics, Tree]]
]:
    """Makes L_CL (in stage 2 plus L_SR) as a function of the trained parameters."""
    reconstruct = reconstruction(learner)

    def objective(
        learnt: Tree, state: ContrastiveState, given: _Contrasted
    ) -> tuple[Array, tuple[Metrics, Tree]]:
        params = {**state.params, **learnt}
        lr, pairing = given.lr, given.pairing
        idr, queries, batch_stats = _embed(
            learner,
            params,
            state.batch_stats,
            lr[pairing.queries],
            given.seen,
            pairing.visits,
        )
        metrics = {
            "contrastive": contrast.contrastive_loss(
                queries,
                given.keys,
                state.queue,
                temperature=temperature,
                positives=pairing.positives,
            )
        }
        if stage == 2:
            modulators = learner.apply(
                {"params": params}, idr[0], lr.shape[2:4], method="convert"
            )
            metrics["reconstruction"], _ = reconstruct(
                params, modulators, (lr[0], given.hr), None
            )
        return _total(metrics), (metrics, batch_stats)

    return objective


def _embed(
    learner: Learner,
    params: Tree,
    batch_stats: Tree,
    lr: Array,
    seen: Array | None,
    visits: Sequence[int],
) -> tuple[Array, Array, Tree]:
    """Computes IDRs and unit embeddings [D, B, ...] of crops, and new statistics."""
    idr, new = _encode(learner, params, batch_stats, lr, seen, visits)
    flat = idr.reshape(-1, *idr.shape[2:])
    embeddings = learner.apply({"params": params}, flat, method="project")
    embeddings = contrast.normalise(embeddings).reshape(*idr.shape[:2], -1)
    return idr, embeddings, new


def _encode(
    learner: Learner,
    params: Tree,
    batch_stats: Tree,
    lr: Array,
    seen: Array | None,
    visits: Sequence[int],
) -> tuple[Array, Tree]:
    """Computes IDRs of crops [D, B, h, w, 3] in training mode, and new statistics."""
    idr, new = learner.apply(
        {"params": params, "batch_stats": batch_stats},
        lr,
        seen,
        visits=visits,
        method="encode",
        mutable="batch_stats",
    )
    return idr, new.get("batch_stats", {})  # some estimators have none


def _total(metrics: Metrics) -> Array:
    return reduce(operator.add, metrics.values())


def supervised_update(learner: Learner) -> Update:
    """Makes the update that minimises only L_SR, with all modules.

    It takes any kind of state; a momentum branch and a queue do not change. With an
    adversary it adds the losses and the update of `adversary`.
    """
    reconstruct = reconstruction(learner)

    def update(state: Any, batch: Batch, frozen: Frozen) -> tuple[Any, Metrics]:
        seen = learner.privileged(batch)
        lr, judges = batch.lr[:, 0], judges_of(state, frozen)

        def objective(params: Tree) -> tuple[Array, tuple[Tree, Restored | None]]:
            idr, batch_stats = _encode(
                learner, params, state.batch_stats, lr[None], seen, (0,)
            )
            modulators = learner.apply(
                {"params": params}, idr[0], lr.shape[1:3], method="convert"
            )
            images = (lr, batch.hr)
            loss, restored = reconstruct(params, modulators, images, judges)
            return loss, (batch_stats, restored)

        value_and_grad = jax.value_and_grad(objective, has_aux=True)
        (loss, (batch_stats, restored)), gradients = value_and_grad(state.params)
        params, opt_state, norm = apply_gradients(learner, state, gradients)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        metrics = {"reconstruction": loss} | metrics_of(restored)
        metrics = lax.pmean(metrics, AXIS) | {"gradient_norm": norm}
        return discriminate(learner, state, batch.hr, restored, metrics)

    return update


def distillation_update(
    learner: Learner, *, stage: int, temperature: float, l1_weight: float
) -> Update:
    """Makes the update of a student, of a TrainState, with one crop per image.

    Stage 1 minimises L_DL with the modules of the representation, stage 2 L_SR + L_DL
    with all modules, and with an adversary its losses. `learner.sees_prior` describes
    the teacher.
    """
    distilled = learner.method.distilled
    objective = _distillation_objective(
        learner, stage=stage, temperature=temperature, l1_weight=l1_weight
    )

    def update(state: Any, batch: Batch, frozen: Frozen) -> tuple[Any, Metrics]:
        teacher = frozen.teacher
        if teacher is None:
            raise ValueError("a student's update needs its teacher")
        lr, seen = batch.lr[:, 0], learner.privileged(batch)
        idr = learner.apply(teacher, lr, seen, method="encode")
        _, target = _represent(learner, teacher["params"], idr, lr.shape[1:3])

        learning = distilled if stage == 1 else tuple(state.params)
        learnt = {name: state.params[name] for name in learning}
        images, judges = (lr, batch.hr), judges_of(state, frozen)
        gradients, (metrics, batch_stats, restored) = jax.grad(objective, has_aux=True)(
            learnt, state, images, target, judges
        )
        params, opt_state, norm = apply_gradients(learner, state, gradients)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        metrics = lax.pmean(metrics, AXIS) | {"gradient_norm": norm}
        return discriminate(learner, state, batch.hr, restored, metrics)

    return update


def _distillation_objective(
    learner: Learner, *, stage: int, temperature: float, l1_weight: float
) -> Callable[..., tuple[Array, tuple[Metrics, Tree, Restored | None]]]:
    """L_DL, from stage 2 on with L_SR, of what learns; with metrics and statistics."""
    reconstruct = reconstruction(learner)

    def objective(
        learnt: Tree,
        state: TrainState,
        images: tuple[Array, Array],
        target: tuple[Array, ...],
        judges: Judges | None,
    ) -> tuple[Array, tuple[Metrics, Tree, Restored | None]]:
        params = {**state.params, **learnt}
        lr, _ = images
        idr, batch_stats = _encode(
            learner, params, state.batch_stats, lr[None], None, (0,)
        )
        modulators, own = _represent(learner, params, idr[0], lr.shape[1:3])
        (channel, *spatial), (target_channel, *target_spatial) = own, target
        metrics, restored = {}, None
        if stage == 2:
            metrics["reconstruction"], restored = reconstruct(
                params, modulators, images, judges
            )
        if spatial:
            metrics["spatial"] = losses.spatial_distillation(*target_spatial, *spatial)
        metrics["channel"] = losses.channel_distillation(
            target_channel, channel, temperature=temperature, l1_weight=l1_weight
        )
        loss = _total(metrics)
        return loss, (metrics | metrics_of(restored), batch_stats, restored)

    return objective


def _represent(
    learner: Learner, params: Tree, idr: Array, size: tuple[int, ...]
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """The modulators, and the representation that is distilled."""
    modulators = learner.apply({"params": params}, idr, size, method="convert")
    if "converter" in learner.method.distilled:  # R_c and R_s
        return modulators, modulators
    feature = learner.apply({"params": params}, idr, method="project")
    return modulators, (feature,)


def privileged(
    method: Method, batch: Batch, *, sees_prior: bool = True
) -> Array | None:
    """The input of a teacher's estimator besides the LR images; None for none.

    Without `sees_prior` the prior is empty and adds no channels.
    """
    kind = method.privileged
    if kind == "hr":
        return batch.hr.astype(batch.lr.dtype) / 255
    if kind == "prior":
        return batch.prior if sees_prior else batch.prior[:, :0]
    return None


def reconstruction(
    learner: Learner,
) -> Callable[..., tuple[Array, Restored | None]]:
    """Makes L_SR of (params, modulators, (lr, hr), judges), in microbatches.

    With an adversary the weighted losses of `adversary` are added. They are on the
    scale of L_SR, so that weights mean the same for all methods.
    """
    pixel_range, opponent = learner.method.loss_range, learner.adversary

    def loss(
        params: Tree,
        modulators: tuple[Array, ...],
        images: tuple[Array, Array],
        judges: Judges | None,
    ) -> tuple[Array, Restored | None]:
        lr, hr = images
        sr = learner.apply({"params": params}, lr, *modulators, method="upscale")
        value = losses.reconstruction(
            sr, hr, pixel_range=pixel_range, kind=learner.pixel_loss
        )
        if opponent is None or judges is None:
            return value, None
        found = of_generator(opponent, sr, in_unit_range(hr, sr), judges)
        metrics = {"reconstruction": value, **found}
        value += pixel_range * weighted(opponent, found)
        return value, Restored(metrics, sr)

    return microbatched(loss, learner.microbatches)


def metrics_of(restored: Restored | None) -> Metrics:
    """The losses of SR images before weighting; none without an adversary."""
    return {} if restored is None else restored.metrics


def judges_of(state: Any, frozen: Frozen) -> Judges | None:
    """The networks that judge SR images in a step from `state` on, if there are any."""
    if not isinstance(state, AdversarialState):
        return None
    own = state.discriminator
    return Judges(own.params, own.vectors, frozen.vgg)


def discriminate(
    learner: Learner, state: Any, hr: Array, restored: Restored | None, metrics: Metrics
) -> tuple[Any, Metrics]:
    """Updates the discriminator of a state, if it has one, and adds its metrics.

    `state` has the generator of after the step, `restored` SR images of before it, as
    in the published program; hr is in 0..255.
    """
    if learner.adversary is None or restored is None:
        return state, metrics
    discriminator, measured = adversary.discriminate(
        learner.adversary,
        state.discriminator,
        (in_unit_range(hr, restored.sr), restored.sr),
        rate=learner.learning_rate(state.step - 1),
        microbatches=learner.microbatches,
        gradient_clip=learner.gradient_clip,
    )
    return state.replace(discriminator=discriminator), metrics | measured


def apply_gradients(
    learner: Learner, state: TrainState | ContrastiveState, gradients: Tree
) -> tuple[Tree, Tree, Array]:
    """Computes new parameters and optimiser states, and the norm of all gradients.

    Modules without a gradient do not change. Clipping scales all gradients by one
    factor, like torch.nn.utils.clip_grad_norm_; the norm is the one before clipping.
    """
    gradients = lax.pmean(gradients, AXIS)
    gradients, norm = clip(gradients, learner.gradient_clip)
    rate: Any = learner.learning_rate(state.step)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for name, gradient in gradients.items():
        params[name], opt_state[name] = descend(
            learner.optimizer, rate, gradient, opt_state[name], params[name]
        )
    return params, opt_state, norm
