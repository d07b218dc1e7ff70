"""All that training changes, as explicit data.

Parameters are held by the network's top modules: estimator, converter, restorer, and
the teacher's projector. Each module has an optimiser state of its own, so that Adam's
moments and its bias correction start with the first stage in which the module learns.
"""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import Array

from lightbsr_jax.networks.lightbsr import LightBSR, initialise
from lightbsr_jax.training import contrast

Tree = dict[str, Any]

CONTRASTED = ("estimator", "projector")  # what the momentum branch has a copy of
DISTILLED = ("estimator", "converter")  # what makes the student's IDRs


@flax.struct.dataclass
class TeacherState:
    """The teacher's training: its network, the momentum branch and the queue."""

    step: Array  # int32, updates done
    params: Tree
    batch_stats: Tree
    momentum_params: Tree  # of CONTRASTED
    momentum_batch_stats: Tree  # the momentum branch's own
    queue: Array  # [Q, 128] unit vectors
    queue_pointer: Array  # int32, row of the oldest key
    opt_state: Tree


@flax.struct.dataclass
class StudentState:
    """The student's training; the frozen teacher is an argument of its step."""

    step: Array  # int32, updates done
    params: Tree
    batch_stats: Tree
    opt_state: Tree


@flax.struct.dataclass
class Run:
    """A training state, and what keeps a long run out of trouble."""

    state: TeacherState | StudentState
    average: Tree  # EMA of the parameters, for evaluation; {} without
    skipped: Array  # int32, updates that were not finite and so not made
    skipped_in_a_row: Array  # int32, of them the last ones


def fresh_run(state: TeacherState | StudentState, *, averaged: bool) -> Run:
    """A run before its first step; the average starts as a copy."""
    average = state.params if averaged else {}
    return Run(state, average, jnp.int32(0), jnp.int32(0))


def fresh_optimizer(optimizer: optax.GradientTransformation, params: Tree) -> Tree:
    """An optimiser state for each of the network's top modules."""
    return {name: optimizer.init(module) for name, module in params.items()}


def fresh_teacher(
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    key: Array,
    *,
    prior_channels: int,
    queue_size: int,
) -> TeacherState:
    """A teacher before its first step; the momentum branch starts as a copy."""
    network_key, queue_key = jax.random.split(key)
    variables = initialise(network, network_key, prior_channels=prior_channels)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TeacherState(
        step=jnp.int32(0),
        params=params,
        batch_stats=batch_stats,
        momentum_params={name: params[name] for name in CONTRASTED},
        momentum_batch_stats=batch_stats,
        queue=contrast.fresh_queue(queue_key, queue_size),
        queue_pointer=jnp.int32(0),
        opt_state=fresh_optimizer(optimizer, params),
    )


def student_of_teacher(
    network: LightBSR,
    optimizer: optax.GradientTransformation,
    key: Array,
    teacher: Tree,
) -> StudentState:
    """A student before its first step, with the teacher's {"params", "batch_stats"}.

    All but the estimator's first convolution, which sees other channels, is the
    teacher's.
    """
    fresh = initialise(network, key)
    params = {name: teacher["params"][name] for name in fresh["params"]}
    first = fresh["params"]["estimator"]["conv_0"]
    params["estimator"] = {**params["estimator"], "conv_0": first}
    return StudentState(
        step=jnp.int32(0),
        params=params,
        batch_stats=teacher["batch_stats"],
        opt_state=fresh_optimizer(optimizer, params),
    )
