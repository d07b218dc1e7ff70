"""The training steps: what one device does with its share of the batch.

A step takes uint8 HR crops [B, D, H, W, 3], degrades them and calls an update; an
update takes LR images and makes the gradient step. Both run under the named axis AXIS,
over which gradients, losses and statistics are averaged and keys gathered, so that N
devices give the numbers of one with the same global batch. A stage is a step of its
own: what does not learn is neither differentiated nor touched.

A device may restore its share of the batch in `parts`, one after another, for want of
memory. The estimator, which alone has statistics over the batch, and the queue always
see all of it: the numbers are those of one part.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lightbsr_jax.data import resident
from lightbsr_jax.imaging import settings
from lightbsr_jax.methods import registry
from lightbsr_jax.methods.network import BlindNetwork
from lightbsr_jax.training import contrast, losses
from lightbsr_jax.training.state import (
    CONTRASTED,
    Run,
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
    update: Update, *, setting: settings.Name, scale: int, width_max: float
) -> Step:
    """step(state, crops [B, D, H, W, 3] uint8, fixed): degrade the crops, then update.

    An image's randomness follows from the run's seed, the step and the image's place in
    the global batch.
    """
    kind = settings.of(setting)

    def step(state: Any, crops: Array, fixed: Fixed) -> tuple[Any, Metrics]:
        place = lax.axis_index(AXIS) * len(crops) + jnp.arange(len(crops))
        step_key = jax.random.fold_in(jax.random.key(fixed.seed), state.step)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, place)
        drawn = kind.sample(keys, width_max=width_max)
        batch = Batch(
            lr=kind.apply(keys, crops, drawn, scale=scale),
            prior=kind.prior_vector(drawn, fixed.basis),
            hr=crops[:, 0],
        )
        return update(state, batch, fixed.teacher)

    return step


def guarded(
    step: Step, *, ema_decay: float
) -> Callable[[Run, Array, Fixed], tuple[Run, Metrics]]:
    """`step` on a Run: an update that is not finite is counted and not made.

    Of such a step nothing stays but its number. The average of the parameters follows
    with min(ema_decay, (1 + n) / (10 + n)) at step n, soon at first.
    """

    def guarded_step(run: Run, crops: Array, fixed: Fixed) -> tuple[Run, Metrics]:
        state, metrics = step(run.state, crops, fixed)
        numbers = [*metrics.values(), *jax.tree.leaves(state.batch_stats)]
        finite = jnp.stack([jnp.isfinite(x).all() for x in numbers]).all()
        average = run.average
        if average:
            follow = (1 + state.step) / (10 + state.step)
            average = optax.incremental_update(
                state.params, average, 1 - jnp.minimum(ema_decay, follow)
            )
        unchanged = run.state.replace(step=state.step)
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

    return guarded_step


def cropping_step(step: Callable[..., Any], *, size: int) -> Callable[..., Any]:
    """step(state or run, places, (fixed, pixels)): cut the crops, then do `step`."""

    def cropping(
        state: Any,
        places: resident.Places,
        fixed_and_pixels: tuple[Fixed, resident.Pixels],
    ) -> tuple[Any, Metrics]:
        fixed, pixels = fixed_and_pixels
        return step(state, resident.crops(pixels, places, size=size), fixed)

    return cropping


def descend(
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    state: TeacherState | StudentState,
    gradients: Tree,
) -> tuple[Tree, Tree, Array]:
    """New parameters and optimiser states, and the norm of all gradients.

    Modules without a gradient stay as they are.
    """
    gradients = lax.pmean(gradients, AXIS)
    rate = learning_rate(state.step)
    params, opt_state = dict(state.params), dict(state.opt_state)
    for name, gradient in gradients.items():
        update, opt_state[name] = optimizer.update(gradient, opt_state[name])
        update = jax.tree.map(lambda u: -rate * u, update)
        params[name] = optax.apply_updates(params[name], update)
    return params, opt_state, optax.tree.norm(gradients)


def in_parts(loss: Callable[..., Array], parts: int) -> Callable[..., Array]:
    """`loss(params, inputs, data)`, a mean over images, over one part after another.

    `inputs` and `data` are trees of arrays with the images' axis first. A part's
    gradients, of `params` and `inputs`, are computed with its loss: of its activations
    nothing is kept, and nothing is computed twice.
    """
    if parts == 1:
        return loss

    def with_gradients(params: Tree, inputs: Any, data: Any) -> tuple[Array, Any]:
        def add(total: Any, part: Any) -> tuple[Any, Any]:
            gradient = jax.value_and_grad(loss, argnums=(0, 1))
            value, (of_params, of_inputs) = gradient(params, *part)
            return jax.tree.map(jnp.add, total, (value, of_params)), of_inputs

        cut = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), (inputs, data))
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        total, of_inputs = lax.scan(add, zero, cut)
        value, of_params = jax.tree.map(lambda x: x / parts, total)
        of_inputs = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]) / parts, of_inputs
        )
        return value, (of_params, of_inputs)

    @jax.custom_vjp
    def mean(params: Tree, inputs: Any, data: Any) -> Array:
        return with_gradients(params, inputs, data)[0]

    def backward(gradients: Any, outer: Array) -> tuple[Any, Any, None]:
        of_params, of_inputs = jax.tree.map(lambda x: outer * x, gradients)
        return of_params, of_inputs, None

    mean.defvjp(with_gradients, backward)
    return mean


def reconstruction(network: BlindNetwork, parts: int) -> Callable[..., Array]:
    """L_SR of (params, modulators, (lr, hr)), over one part after another."""
    pixel_range = registry.of_network(network).loss_range

    def loss(
        params: Tree, modulators: tuple[Array, ...], images: tuple[Array, Array]
    ) -> Array:
        lr, hr = images
        sr = network.apply({"params": params}, lr, *modulators, method="upscale")
        return losses.reconstruction(sr, hr, pixel_range=pixel_range)

    return in_parts(loss, parts)


def privileged(
    network: BlindNetwork, batch: Batch, shows_prior: bool = True
) -> Array | None:
    """What a teacher's estimator sees beside the LR images, if anything.

    Without `shows_prior` a prior of no numbers, which adds no channel to them.
    """
    kind = registry.of_network(network).privileged
    if kind == "hr":
        return batch.hr.astype(batch.lr.dtype) / 255
    if kind == "prior":
        return batch.prior if shows_prior else batch.prior[:, :0]
    return None


def teacher_update(
    network: BlindNetwork,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    stage: int,
    momentum: float,
    temperature: float,
    parts: int = 1,
    shows_prior: bool = True,
) -> Update:
    """The update of training by contrast: LightBSR's teacher, DASR.

    Stage 1 minimises L_CL with the estimator and projector, stage 2 L_SR + L_CL with
    everything. Without `shows_prior` the estimator sees the LR images alone.
    """
    reconstruct = reconstruction(network, parts)
    contrasts = registry.of_network(network).contrasts

    def encode(
        params: Tree,
        batch_stats: Tree,
        visits: Sequence[int],
        lr: Array,
        seen: Array | None,
    ) -> tuple[Array, Array, Tree]:
        idr, new = network.apply(
            {"params": params, "batch_stats": batch_stats},
            lr,
            seen,
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
        seen = privileged(network, batch, shows_prior)
        lr = jnp.moveaxis(batch.lr, 1, 0)  # [D, B, h, w, 3]
        pairing = contrast.pairing(contrasts, len(lr))
        learning = CONTRASTED if stage == 1 else tuple(state.params)

        momentum_params = optax.incremental_update(
            {name: state.params[name] for name in CONTRASTED},
            state.momentum_params,
            1 - momentum,
        )
        lr_keys = lr[pairing.keys]
        _, keys, momentum_batch_stats = encode(
            momentum_params,
            state.momentum_batch_stats,
            range(len(lr_keys)),
            lr_keys,
            seen,
        )

        def loss_fn(learnt: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
            params = {**state.params, **learnt}
            idr, queries, batch_stats = encode(
                params, state.batch_stats, pairing.visits, lr[pairing.queries], seen
            )
            metrics = {
                "contrastive": contrast.contrastive_loss(
                    queries,
                    keys,
                    state.queue,
                    temperature=temperature,
                    positives=pairing.positives,
                )
            }
            if stage == 2:
                modulators = network.apply(
                    {"params": params}, idr[0], lr.shape[2:4], method="convert"
                )
                metrics["reconstruction"] = reconstruct(
                    params, modulators, (lr[0], batch.hr)
                )
            return sum(metrics.values()), (metrics, batch_stats)

        gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            {name: state.params[name] for name in learning}
        )
        params, opt_state, norm = descend(optimizer, learning_rate, state, gradients)
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
        return state, lax.pmean(metrics, AXIS) | {"gradient_norm": norm}

    return update


def plain_teacher_update(
    network: BlindNetwork,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    parts: int = 1,
    shows_prior: bool = True,
) -> Update:
    """The update of a teacher without contrastive learning.

    KDSR's, and those of T1 and T2 of Table 1. L_SR with everything; a momentum branch
    and queue stay as they are.
    """
    reconstruct = reconstruction(network, parts)

    def update(state: Any, batch: Batch, _: Tree) -> tuple[Any, Metrics]:
        seen = privileged(network, batch, shows_prior)
        lr = batch.lr[:, 0]

        def loss_fn(params: Tree) -> tuple[Array, Tree]:
            idr, new = network.apply(
                {"params": params, "batch_stats": state.batch_stats},
                lr[None],
                seen,
                visits=(0,),
                method="encode",
                mutable="batch_stats",
            )
            modulators = network.apply(
                {"params": params}, idr[0], lr.shape[1:3], method="convert"
            )
            loss = reconstruct(params, modulators, (lr, batch.hr))
            return loss, new.get("batch_stats", {})  # KDSR has none

        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        params, opt_state, norm = descend(optimizer, learning_rate, state, gradients)
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        metrics = {"reconstruction": loss}
        return state, lax.pmean(metrics, AXIS) | {"gradient_norm": norm}

    return update


def student_update(
    network: BlindNetwork,
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    *,
    stage: int,
    temperature: float,
    l1_weight: float,
    parts: int = 1,
    shows_prior: bool = True,
) -> Update:
    """The student's update, on one crop an image.

    Stage 1 minimises L_DL with what makes the representation, stage 2 L_SR + L_DL with
    everything. `shows_prior` is for the teacher, as it was trained.
    """
    reconstruct = reconstruction(network, parts)
    distilled = registry.of_network(network).distilled

    def represent(
        params: Tree, idr: Array, size: tuple[int, int]
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The modulators, and of them or before them what is distilled."""
        modulators = network.apply({"params": params}, idr, size, method="convert")
        if "converter" in distilled:  # LightBSR: R_c and R_s
            return modulators, modulators
        feature = network.apply({"params": params}, idr, method="project")
        return modulators, (feature,)

    def update(
        state: StudentState, batch: Batch, teacher: Tree
    ) -> tuple[StudentState, Metrics]:
        seen = privileged(network, batch, shows_prior)
        lr = batch.lr[:, 0]
        learning = distilled if stage == 1 else tuple(state.params)
        size = lr.shape[1:3]
        teacher_idr = network.apply(teacher, lr, seen, method="encode")
        _, target = represent(teacher["params"], teacher_idr, size)

        def loss_fn(learnt: Tree) -> tuple[Array, tuple[Metrics, Tree]]:
            params = {**state.params, **learnt}
            idr, new = network.apply(
                {"params": params, "batch_stats": state.batch_stats},
                lr[None],
                visits=(0,),
                method="encode",
                mutable="batch_stats",
            )
            modulators, own = represent(params, idr[0], size)
            metrics = {}
            if stage == 2:
                metrics["reconstruction"] = reconstruct(
                    params, modulators, (lr, batch.hr)
                )
            if len(own) > 1:
                metrics["spatial"] = losses.spatial_distillation(target[1], own[1])
            metrics["channel"] = losses.channel_distillation(
                target[0], own[0], temperature=temperature, l1_weight=l1_weight
            )
            return sum(metrics.values()), (metrics, new.get("batch_stats", {}))

        gradients, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            {name: state.params[name] for name in learning}
        )
        params, opt_state, norm = descend(optimizer, learning_rate, state, gradients)
        state = StudentState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, lax.pmean(metrics, AXIS) | {"gradient_norm": norm}

    return update
