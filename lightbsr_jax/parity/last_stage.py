"""Comparing the last stage of KDSR: training with a GAN loss, the folder KDSR-GAN.

Its networks are those of the other stages, in another size, and a discriminator. The
VGG19 of the perceptual loss has random weights: trained ones come with neither program.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import numpy as np
import optax

from lightbsr_jax.models import vgg_file
from lightbsr_jax.networks.discriminator import Discriminator, iterate
from lightbsr_jax.networks.vgg import VGG19
from lightbsr_jax.parity import ours
from lightbsr_jax.parity.case import DISCRIMINATOR, PERCEPTUAL, Arrays, Case
from lightbsr_jax.parity.outputs import channels_first
from lightbsr_jax.parity.torch_discriminator import from_torch, to_torch
from lightbsr_jax.training import updates
from lightbsr_jax.training.adversary import Adversary
from lightbsr_jax.training.parallel import on_one_device
from lightbsr_jax.training.state import (
    AdversarialState,
    DiscriminatorState,
    Tree,
)

ROLE = "student"  # the generator
PASSES = 3  # of the discriminator, each with the next vectors


def everything(case: Case) -> Arrays:
    """Computes all parts, with products in float32 (not TF32 or bfloat16)."""
    results: Arrays = {}
    with jax.default_matmul_precision("highest"):
        for role in case.roles:
            results |= ours.evaluation(case, role)
            tensors = ours.tensors(case.state(role), case, role)
            results[f"{role}/size"] = _size(tensors)
        results |= passes(case) | step(case) | wide_steps(case)
    return results


def passes(case: Case) -> Arrays:
    """Logits of the discriminator's first passes, and its size."""
    params, vectors = _discriminator(case)
    judge = jax.jit(Discriminator(case.features).apply)
    results: Arrays = {"discriminator/size": _size(params)}
    images = case.arrays["training/hr"][0].astype(np.float32) / 255
    for index in range(PASSES):
        logits = judge({"params": params, "vectors": vectors}, images)
        results[f"discriminator/pass/{index}"] = channels_first(logits)
        vectors = iterate(params, vectors)
    return results


def step(case: Case) -> Arrays:
    """Losses of a step."""
    state, batches, frozen = _start(case, np.float32)
    _, measured = _update(case)(state, batches[0], frozen)
    return {f"{ROLE}/loss/{name}": x for name, x in _losses(measured).items()}


def wide_steps(case: Case) -> Arrays:
    """Gradients, losses and tensors of steps in float64, of both networks."""
    state, batches, frozen = _start(case, np.float64)
    update = _update(case, dtype=np.float64, backend="cpu")
    trace: dict[str, list[Any]] = {}
    results: Arrays = {}
    with jax.enable_x64(True):
        for index, batch in enumerate(batches):
            state, measured = update(state, batch, frozen)
            for name, loss in _losses(measured).items():
                trace.setdefault(name, []).append(loss)
            if index == 0:
                results |= _gradients(case, state) | _tensors(case, state, "step64")
    results |= _tensors(case, state, "trace/tensor")
    losses = {f"{ROLE}/trace/loss64/{n}": np.asarray(x) for n, x in trace.items()}
    return results | losses


def _update(
    case: Case, *, dtype: type = np.float32, backend: str | None = None
) -> updates.Update:
    recipe, adam = case.recipe, ours.recording_adam(case.recipe.adam)
    assert recipe.distillation is not None and recipe.adversarial is not None
    learner = updates.Learner(
        case.method,
        case.network.clone(axis_name=updates.AXIS, dtype=dtype),
        adam,
        optax.constant_schedule(recipe.learning_rates[-1]),
        adversary=Adversary(
            network=Discriminator(case.features, dtype),
            optimizer=adam,
            weights={
                "adversarial": recipe.adversarial.weight,
                "perceptual": recipe.adversarial.perceptual_weight,
            },
            vgg=VGG19(case.widths, dtype) if case.widths else None,
        ),
    )
    given = dataclasses.asdict(recipe.distillation)
    update = updates.distillation_update(learner, stage=2, **given)
    return on_one_device(update, jax.local_devices(backend=backend)[0])


def _start(case: Case, dtype: type) -> tuple[Any, list[updates.Batch], updates.Frozen]:
    state, batches, frozen = ours.start(case, ROLE, dtype)
    params, vectors = _discriminator(case)
    adam = ours.recording_adam(case.recipe.adam)
    own = DiscriminatorState(params, vectors, adam.init(params))
    if case.widths:
        tensors = case.below(f"weights/{PERCEPTUAL}")
        frozen = frozen._replace(
            vgg=vgg_file.params_of(tensors, "the case", case.widths)
        )
    own, frozen = jax.tree.map(partial(ours.cast, dtype=dtype), (own, frozen))
    return AdversarialState(**vars(state), discriminator=own), batches, frozen


def _losses(measured: updates.Metrics) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(value)
        for name, value in measured.items()
        if not name.endswith("gradient_norm")
    }


def _gradients(case: Case, state: AdversarialState) -> Arrays:
    found = {
        f"{ROLE}/gradient64/{name}": x
        for name, x in ours.gradients(case, ROLE, state).items()
    }
    _, gradient = state.discriminator.opt_state
    own = to_torch(gradient, {})
    return found | {f"discriminator/gradient64/{name}": x for name, x in own.items()}


def _tensors(case: Case, state: AdversarialState, kind: str) -> Arrays:
    tensors = {
        f"{ROLE}/{kind}/{name}": x
        for name, x in ours.tensors(state, case, ROLE).items()
        if "_mean." not in name  # without constants
    }
    own = to_torch(state.discriminator.params, state.discriminator.vectors)
    return tensors | {f"discriminator/{kind}/{name}": x for name, x in own.items()}


def _size(tree: Any) -> np.ndarray:
    return np.array(sum(x.size for x in jax.tree.leaves(tree)), float)


def _discriminator(case: Case) -> tuple[Tree, Tree]:
    """The parameters and vectors of the case's discriminator."""
    return from_torch(case.below(f"weights/{DISCRIMINATOR}"))
