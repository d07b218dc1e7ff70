"""Our side of a comparison: the quantities of `reference`, by the same names.

Each function computes one part of a case, in torch's layouts: images [..., C, H, W],
tensors by the reference's names. A module's output has a leading axis for the calls of
the module, which gets one crop index after the other in training. Numbers are float32,
except the tensors after a trace of training, and gradients and traces of networks with
many LeakyReLUs, which are float64.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from lightbsr_jax.imaging import degradation, kernels, metrics, resize, settings
from lightbsr_jax.imaging.degradation import Degradation
from lightbsr_jax.interop import convert
from lightbsr_jax.methods.recipe import Adam, Recipe
from lightbsr_jax.methods.torch_layers import MOMENTUM
from lightbsr_jax.models import state_dict, torch_names
from lightbsr_jax.parity.case import Arrays, Case
from lightbsr_jax.parity.outputs import channels_first, outputs
from lightbsr_jax.training import contrast, losses, updates
from lightbsr_jax.training.parallel import on_one_device
from lightbsr_jax.training.state import (
    CONTRASTED,
    ContrastiveState,
    State,
    Tree,
    fresh_optimizer,
)
from lightbsr_jax.typed import apply

Updates = Mapping[int, updates.Update]  # by stage


def everything(case: Case) -> Arrays:
    """Computes all parts, with products in float32 (not TF32 or bfloat16)."""
    results: Arrays = {}
    with jax.default_matmul_precision("highest"):
        for part in (degradations, scores, distillation, images):
            results |= part(case)
        for role in case.roles:
            by_stage = make_updates(case, role)
            results |= evaluation(case, role)
            results |= training(case, role)
            results |= step(case, role, by_stage)
            wide = make_updates(case, role, dtype=np.float64, backend="cpu")
            results |= trace_tensors(case, role, wide)
            if case.compared.float32_gradients:
                results |= trace_losses(case, role, by_stage)
            else:
                results |= wide_gradients(case, role, wide)
    return results


def degradations(case: Case) -> Arrays:
    given = case.below("degradation")
    hr = given["hr"]
    height, width = hr.shape[-3:-1]
    anisotropic = kernels.anisotropic(given["l1"], given["l2"], given["theta"])
    blurred = degradation.blur(hr.astype(np.float32), anisotropic)
    small = (height // case.scale, width // case.scale)
    large = (height * case.scale, width * case.scale)

    results = {
        "isotropic": kernels.isotropic(given["sigma"]),
        "anisotropic": anisotropic,
        "blurred": channels_first(blurred),
        "down": channels_first(_flat(resize.bicubic(blurred, small))),
        "up": channels_first(_flat(resize.bicubic(hr, large))),
    }
    if not case.compared.random_degradations:
        return _named("degradation", results)
    drawn = _random_degradation(case, given["uniform"])
    noise = given["noise"] if case.setting == 2 else None
    results |= {
        "lr": channels_first(
            degradation.synthesise(hr, drawn, noise, scale=case.scale)
        ),
        "kernel": drawn.kernel,
        "noise_level": drawn.noise_level,
        "prior": settings.of(case.setting).prior_vector(drawn, case.arrays["basis"]),
    }
    return _named("degradation", results)


def scores(case: Case) -> Arrays:
    first, second = case.arrays["metrics/first"], case.arrays["metrics/second"]
    return {
        "metrics/psnr": metrics.psnr_y(first, second, border=case.scale),
        "metrics/ssim": metrics.ssim_y(first, second, border=case.scale),
    }


def distillation(case: Case) -> Arrays:
    """The distillation losses alone, for programs that have them."""
    recipe = case.recipe.distillation
    if not case.compared.distillation or recipe is None:
        return {}
    given: dict[str, Any] = case.below("distillation")
    channel = losses.channel_distillation(
        given["channel_teacher"],
        given["channel_student"],
        **dataclasses.asdict(recipe),
    )
    spatial = losses.spatial_distillation(
        given["spatial_teacher"], given["spatial_student"]
    )
    return _named("distillation", {"channel": channel, "spatial": spatial})


def evaluation(case: Case, role: str) -> Arrays:
    """Every module's output in evaluation mode."""
    given: dict[str, Any] = case.below("evaluation")
    hr: Any = given.get("hr")  # for teachers of KDSR
    batch = updates.Batch(given["lr"], given["prior"], hr)
    seen = _seen(case, role, batch)
    variables = _variables(case.state(role))
    found = outputs(case, role, variables, given["lr"], seen)
    return _named(f"{role}/evaluation", found)


def training(case: Case, role: str) -> Arrays:
    """Every module's output in training mode."""
    state = case.state(role)
    variables = _variables(state)
    batch = _batches(case)[0]
    seen = _seen(case, role, batch)
    lr = np.moveaxis(np.asarray(batch.lr), 1, 0)  # [D, B, h, w, 3]
    recipe, contrasts = case.recipe.contrast, case.method.contrasts
    if not isinstance(state, ContrastiveState) or recipe is None or contrasts is None:
        found = outputs(case, role, variables, lr[:1], seen)
        return _named(f"{role}/training", found)
    pairing = contrast.pairing(contrasts, len(lr))
    followed: Any = optax.incremental_update(
        {name: state.params[name] for name in CONTRASTED},
        state.momentum_params,
        1 - recipe.momentum,
    )
    momentum = {
        "params": {**state.params, **followed},
        "batch_stats": state.momentum_batch_stats,
    }
    found = outputs(case, role, momentum, lr[pairing.keys], seen, MOMENTUM)
    found |= outputs(case, role, variables, lr[pairing.queries], seen)
    return _named(f"{role}/training", found)


def make_updates(
    case: Case, role: str, *, dtype: type = np.float32, backend: str | None = None
) -> Updates:
    """Makes both stages' updates on the first device; their first call compiles.

    `backend` is the kind of device, or None for the default.
    """
    device = jax.local_devices(backend=backend)[0]
    made = {}
    for stage, rate in zip((1, 2), case.recipe.learning_rates, strict=True):
        learner = updates.Learner(
            case.method,
            case.network.clone(axis_name=updates.AXIS, dtype=dtype),
            recording_adam(case.recipe.adam),
            optax.constant_schedule(rate),
        )
        update = _make_update(case.recipe, role, learner, stage)
        made[stage] = on_one_device(update, device)
    return made


def _make_update(
    recipe: Recipe, role: str, learner: updates.Learner, stage: int
) -> updates.Update:
    """Makes a stage's update; without contrast or distillation there is one stage."""
    if role == "student" and recipe.distillation is not None:
        given = dataclasses.asdict(recipe.distillation)
        return updates.distillation_update(learner, stage=stage, **given)
    if recipe.contrast is not None:
        given = dataclasses.asdict(recipe.contrast)
        return updates.contrastive_update(learner, stage=stage, **given)
    return updates.supervised_update(learner)


def step(case: Case, role: str, by_stage: Updates) -> Arrays:
    """Losses, gradients and new buffers of a step of the second stage."""
    state, batches, frozen = start(case, role, np.float32)
    state, measured = by_stage[2](state, batches[0], frozen)
    buffers = {
        name: tensor
        for name, tensor in tensors(state, case, role).items()
        if any(part in name for part in ("running_", "encoder_k", "queue"))
    }
    results = _named(f"{role}/loss", _losses(measured))
    if case.compared.float32_gradients:
        results |= _named(f"{role}/gradient", gradients(case, role, state))
    return results | _named(f"{role}/after", buffers)


def wide_gradients(case: Case, role: str, by_stage: Updates) -> Arrays:
    """Gradients of a step of the second stage, in float64.

    This is for networks with many LeakyReLUs: if rounding changes the sign of a value
    near zero, gradients change by more than rounding.
    """
    state, batches, frozen = start(case, role, np.float64)
    with jax.enable_x64(True):
        state, _ = by_stage[2](state, batches[0], frozen)
    return _named(f"{role}/gradient64", gradients(case, role, state))


def gradients(case: Case, role: str, state: State) -> Arrays:
    """Gradients of the last step, by the reference's names."""
    latest = {name: gradient for name, (_, gradient) in state.opt_state.items()}
    estimator = case.method.roles[role]
    return torch_names.to_torch({"params": latest}, case.network, estimator)


def trace_losses(case: Case, role: str, by_stage: Updates) -> Arrays:
    """Losses of training across the boundary of the stages."""
    _, trace = _trace(case, by_stage, *start(case, role, np.float32))
    return _named(f"{role}/trace/loss", trace)


def trace_tensors(case: Case, role: str, by_stage: Updates) -> Arrays:
    """All tensors after that training in float64, on the CPU (TPUs lack float64)."""
    given = start(case, role, np.float64)
    with jax.enable_x64(True):
        state, trace = _trace(case, by_stage, *given)
    found = {
        name: tensor
        for name, tensor in tensors(state, case, role).items()
        if "_mean." not in name  # without constants
    }
    results = _named(f"{role}/trace/tensor", found)
    if not case.compared.float32_gradients:
        results |= _named(f"{role}/trace/loss64", trace)
    return results


def images(case: Case) -> Arrays:
    """Degrades photographs, restores them by the student or DASR, and scores them."""
    restore = restorer(case, jnp.float32)
    results: Arrays = {}
    for index in range(len(case.meta["images"])):
        sr, hr = restore_image(case, index, restore)
        border = case.scale
        results |= _named(
            f"images/{index}",
            {
                # The case gives both programs the LR images that this one makes.
                "lr": channels_first(case.arrays[f"images/{index}/lr"]),
                "psnr": metrics.psnr_y(sr, hr, border=border)[0],
                "ssim": metrics.ssim_y(sr, hr, border=border)[0],
                "sr": channels_first(sr[0]).astype(np.uint8),
            },
        )
    return results


def restorer(case: Case, dtype: type) -> Callable[[Any], Array]:
    """Makes the function from LR to SR images in 0..255, computed in `dtype`."""
    network = case.network.clone(dtype=dtype)
    restore = jax.jit(lambda variables, lr: 255 * apply(network, variables, lr).sr)
    return partial(restore, _variables(case.state(case.roles[-1])))


def restore_image(
    case: Case, index: int, restore: Callable[[Any], Array]
) -> tuple[Array, np.ndarray]:
    """The rounded SR image and the HR image, both [1, H, W, 3] in 0..255."""
    given = case.below(f"images/{index}")
    lr = given["lr"][None].astype(np.float32) / 255
    return metrics.quantise(restore(lr)), given["hr"][None]


def _random_degradation(case: Case, uniform: np.ndarray) -> Degradation:
    """The reference's random degradations for given uniform random numbers."""
    low, high = np.float32(0.2), np.float32(4.0)
    if case.setting == 1:
        sigma = uniform[0] * (high - low) + low
        return Degradation(kernels.isotropic(sigma), jnp.zeros(len(sigma)))
    theta, l1, l2, level = uniform
    kernel = kernels.anisotropic(
        l1 * (high - low) + low, l2 * (high - low) + low, theta * np.float32(np.pi)
    )
    return Degradation(kernel, jnp.asarray(level * np.float32(25)))


def recording_adam(numbers: Adam) -> optax.GradientTransformation:
    """Adam with the latest gradient in its state."""
    adam = optax.scale_by_adam(**dataclasses.asdict(numbers))

    def update(gradient: Any, state: Any, params: Any = None) -> Any:
        step, state = adam.update(gradient, state[0], params)
        return step, (state, gradient)

    def init(params: Any) -> Any:
        return adam.init(params), jax.tree.map(jnp.zeros_like, params)

    functions: Any = (init, update)  # optax's types name the parameters differently
    return optax.GradientTransformation(*functions)


def start(
    case: Case, role: str, dtype: type
) -> tuple[State, list[updates.Batch], updates.Frozen]:
    """The state before training, the steps' batches, and a student's teacher.

    They are on the host, with floats of type `dtype`.
    """
    state = case.state(role)
    adam = recording_adam(case.recipe.adam)
    fresh = fresh_optimizer(adam, state.params)
    state = dataclasses.replace(state, opt_state=fresh)
    batches = _batches(case)
    teacher = _variables(case.state("teacher")) if role == "student" else None

    given = (state, batches, updates.Frozen(teacher))
    return jax.tree.map(partial(cast, dtype=dtype), given)


def cast(x: Any, dtype: type) -> np.ndarray:
    """An array on the host; float32 becomes `dtype`."""
    x = np.asarray(x)
    return x.astype(dtype) if x.dtype == np.float32 else x


def _trace(
    case: Case,
    by_stage: Updates,
    state: State,
    batches: list[updates.Batch],
    frozen: updates.Frozen,
) -> tuple[State, dict[str, list[Array]]]:
    """The state after all steps, and the losses of each step."""
    trace: dict[str, list[Array]] = {}
    for stage, batch in zip(case.meta["stages"], batches, strict=True):
        state, measured = by_stage[stage](state, batch, frozen)
        for name, loss in _losses(measured).items():
            trace.setdefault(name, []).append(loss)
    return state, trace


def _batches(case: Case) -> list[updates.Batch]:
    """The batches of the training steps."""
    given = case.below("training")
    return [
        updates.Batch(*(given[name][index] for name in updates.Batch._fields))
        for index in range(len(case.meta["stages"]))
    ]


def _seen(case: Case, role: str, batch: updates.Batch) -> Any:
    """The input of the role's estimator in addition to LR images."""
    if role != "teacher":
        return None
    seen = updates.privileged(case.method, batch)
    return np.asarray(seen, np.float32)


def _losses(measured: updates.Metrics) -> updates.Metrics:
    return {n: value for n, value in measured.items() if n != "gradient_norm"}


def tensors(state: Any, case: Case, role: str) -> Arrays:
    """Converts a training state to tensors by the reference's names."""
    run = case.run(role)
    return state_dict.to_tensors(convert.from_state(state, run, {}))


def _variables(state: State) -> Tree:
    return {"params": state.params, "batch_stats": state.batch_stats}


def _flat(images: Array) -> Array:
    """Reshapes [B, D, ...] to [B D, ...]."""
    return images.reshape(-1, *images.shape[2:])


def _named(prefix: str, values: Mapping[str, Any]) -> Arrays:
    return {f"{prefix}/{name}": np.asarray(value) for name, value in values.items()}
