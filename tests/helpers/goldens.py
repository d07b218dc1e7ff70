"""Variables with known numbers, and comparison with the reference's figures.

A formula computes the weights of the figures from a tensor's name, its shape and a
seed. It is stored with the figures, so tests that use it need the fixture `goldens`.
"""

import runpy
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from helpers.machine import SHARED
from lightbsr_jax.methods import network as blind
from lightbsr_jax.methods import torch_layers
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.models import torch_names
from lightbsr_jax.training.state import (
    ContrastiveState,
    fresh_contrastive_state,
    fresh_optimizer,
)

QUEUE_SIZE = 8192


@cache
def _formula() -> dict[str, Any]:
    return runpy.run_path(str(SHARED / "goldens" / "weights.py"))


def tensor(name: str, shape: Sequence[int], seed: int) -> np.ndarray:
    """The reference's tensor, in torch's layout."""
    return _formula()["tensor"](name, tuple(shape), seed)


def seeded(
    shapes: Mapping[str, Any], network: LightBSR, estimator: str, seed: int
) -> dict[str, Any]:
    """Fills the tree of variables `shapes` with the reference's numbers.

    `estimator` is a prefix of `torch_names`.
    """
    empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), dict(shapes))
    tensors = {
        name: tensor(name, stale.shape, seed)
        for name, stale in torch_names.to_torch(empty, network, estimator).items()
    }
    return torch_names.from_torch(tensors, shapes, network, estimator)


def initialise(
    network: LightBSR, key: jax.Array, *, prior_channels: int | None = None
) -> dict[str, Any]:
    """Random variables of a student, or of a teacher with its prior and projector."""
    teacher = prior_channels is not None
    prior = jnp.zeros((1, prior_channels)) if teacher else None
    return blind.initialise(network, key, prior, projects=teacher)


def variable_shapes(
    network: LightBSR, prior_channels: int | None = None
) -> dict[str, Any]:
    """The shapes of a network's variables, without computing one."""
    start = partial(initialise, network, prior_channels=prior_channels)
    return jax.eval_shape(start, jax.random.key(0))


def seeded_variables(
    network: LightBSR, seed: int, *, prior_channels: int | None = None
) -> dict[str, Any]:
    """{"params", "batch_stats"} of a student, or of a teacher with its prior."""
    shapes = variable_shapes(network, prior_channels)
    student = prior_channels is None
    names = torch_layers.LONE if student else torch_layers.PRINCIPAL
    return seeded(shapes, network, names, seed)


def seeded_teacher(
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    seed: int,
    *,
    prior_channels: int,
) -> ContrastiveState:
    """A teacher before its first step: both branches and the queue from the seed."""

    def start(key: jax.Array) -> ContrastiveState:
        variables = initialise(network, key, prior_channels=prior_channels)
        return fresh_contrastive_state(variables, optimizer, key, queue_size=QUEUE_SIZE)

    shapes = jax.eval_shape(start, jax.random.key(0))
    momentum = {
        "params": shapes.momentum_params,
        "batch_stats": shapes.momentum_batch_stats,
    }
    momentum = seeded(momentum, network, torch_layers.MOMENTUM, seed)
    principal = seeded_variables(network, seed, prior_channels=prior_channels)
    return ContrastiveState(
        step=jnp.int32(0),
        params=principal["params"],
        batch_stats=principal["batch_stats"],
        momentum_params=momentum["params"],
        momentum_batch_stats=momentum["batch_stats"],
        queue=jnp.asarray(tensor("E.queue", (128, QUEUE_SIZE), seed).T),
        queue_pointer=jnp.int32(0),
        opt_state=fresh_optimizer(optimizer, principal["params"]),
    )


def teacher_tensors(
    state: ContrastiveState, network: LightBSR
) -> dict[str, np.ndarray]:
    """A teacher's float tensors by the reference's names."""
    principal = {"params": state.params, "batch_stats": state.batch_stats}
    momentum = {
        "params": state.momentum_params,
        "batch_stats": state.momentum_batch_stats,
    }
    return {
        **torch_names.mean_shift(),
        **torch_names.to_torch(principal, network, torch_layers.PRINCIPAL),
        **torch_names.to_torch(momentum, network, torch_layers.MOMENTUM),
        "E.queue": np.asarray(state.queue).T,
    }


def random_like(tree: Any, seed: int, size: float = 1.0) -> Any:
    """A tree of these shapes with normal numbers, `size` times 1 / sqrt(fan_in)."""
    rng = np.random.default_rng(seed)

    def draw(leaf: Any) -> np.ndarray:
        fan_in = np.prod(leaf.shape[-4:-1]) if len(leaf.shape) > 1 else 1
        numbers = size * rng.standard_normal(leaf.shape) / np.sqrt(fan_in)
        return numbers.astype(leaf.dtype)

    return jax.tree.map(draw, tree)


def nhwc(images: np.ndarray) -> jax.Array:
    """The reference's images [..., C, H, W] as ours [..., H, W, C]."""
    return jnp.moveaxis(jnp.asarray(images), -3, -1)


def relative_error(actual: Any, expected: Any) -> float:
    """Norm of the difference divided by the norm of the expected array."""
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


def norms_and_sums(
    tensors: Mapping[str, np.ndarray], names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Norm and sum of each tensor in float64, in the order of `names`."""
    wide = [tensors[name].astype(float) for name in names]
    return np.array([np.linalg.norm(t) for t in wide]), np.array(
        [t.sum() for t in wide]
    )
