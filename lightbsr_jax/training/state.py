"""The state of training as explicit data.

Parameters are grouped by the network's top modules: estimator, converter, restorer and
possibly a projector. Each module has a separate optimiser state, so that Adam's moments
and bias correction start with the first stage in which the module is trained.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax.numpy as jnp
import optax
from jax import Array

from lightbsr_jax.networks.discriminator import Discriminator
from lightbsr_jax.spec import CONTRASTED
from lightbsr_jax.training import contrast

Tree = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """The state of training without contrast; it excludes a student's teacher."""

    step: Array  # int32, updates done
    params: Tree
    batch_stats: Tree
    opt_state: Tree


@flax.struct.dataclass
class ContrastiveState:
    """The state of contrastive training: network, momentum branch and queue."""

    step: Array  # int32, updates done
    params: Tree
    batch_stats: Tree
    momentum_params: Tree  # of CONTRASTED
    momentum_batch_stats: Tree  # of the momentum branch
    queue: Array  # [Q, E] unit vectors
    queue_pointer: Array  # int32, row of the oldest key
    opt_state: Tree


@flax.struct.dataclass
class DiscriminatorState:
    """A discriminator in training."""

    params: Tree
    vectors: Tree  # of power iteration
    opt_state: Any


@flax.struct.dataclass
class AdversarialState(TrainState):
    """The state of training with a GAN loss: the generator's, and a discriminator."""

    discriminator: DiscriminatorState


State = TrainState | ContrastiveState


@flax.struct.dataclass
class Run:
    """A training state, with averaged parameters and counts of skipped updates."""

    state: State
    average: Tree | None  # EMA of the parameters, for evaluation; None without
    skipped: Array  # int32, updates skipped because they were not finite
    skipped_in_a_row: Array  # int32, the number of latest updates that were skipped

    @property
    def evaluated(self) -> Tree:
        """The parameters to evaluate: their average, if there is one."""
        return self.state.params if self.average is None else self.average


def fresh_run(state: State, *, averaged: bool) -> Run:
    """Makes a run at step 0; the average starts as a copy."""
    average = state.params if averaged else None
    return Run(state, average, jnp.int32(0), jnp.int32(0))


def fresh_optimizer(optimizer: optax.GradientTransformation, params: Tree) -> Tree:
    """Makes an optimiser state for each of the network's top modules."""
    return {name: optimizer.init(module) for name, module in params.items()}


def fresh_contrastive_state(
    variables: Tree,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    queue_size: int,
) -> ContrastiveState:
    """Makes a state of contrastive training at step 0, of {"params", "batch_stats"}.

    The momentum branch starts as a copy; `key` is the random key of the queue.
    """
    params, batch_stats = variables["params"], variables["batch_stats"]
    embedding = params["projector"]["output"]["kernel"].shape[-1]
    return ContrastiveState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        momentum_params={name: params[name] for name in CONTRASTED},
        momentum_batch_stats=batch_stats,
        queue=contrast.fresh_queue(key, queue_size, embedding),
        queue_pointer=jnp.int32(0),
        opt_state=fresh_optimizer(optimizer, params),
    )


def fresh_train_state(
    variables: Tree, optimizer: optax.GradientTransformation
) -> TrainState:
    """Makes a state of training at step 0, of {"params", "batch_stats"}."""
    return TrainState(
        step=jnp.int32(0),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=fresh_optimizer(optimizer, variables["params"]),
    )


def with_discriminator(
    state: TrainState,
    discriminator: Discriminator,
    optimizer: optax.GradientTransformation,
    key: Array,
) -> AdversarialState:
    """Adds a fresh discriminator to a state of training; `key` is its random key."""
    params, vectors = discriminator.fresh(key)
    own = DiscriminatorState(params, vectors, optimizer.init(params))
    return AdversarialState(**vars(state), discriminator=own)


def inherit(fresh: Tree, teacher: Tree, inherited: Sequence[str]) -> Tree:
    """Replaces modules of a student's {"params", "batch_stats"} by its teacher's.

    The estimator keeps its own first convolution, which has other input channels.
    """
    params = {
        name: teacher["params"][name] if name in inherited else module
        for name, module in fresh["params"].items()
    }
    if "estimator" not in inherited:
        return {**fresh, "params": params}
    first = fresh["params"]["estimator"]["conv_0"]
    params["estimator"] = {**params["estimator"], "conv_0": first}
    return {"params": params, "batch_stats": teacher["batch_stats"]}
