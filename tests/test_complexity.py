from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from helpers.goldens import variable_shapes
from jax import lax

from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.networks import complexity, operators


def test_parameters() -> None:
    tree = {
        "a": np.zeros((3, 4)),
        "b": {"c": np.zeros(5), "d": jax.ShapeDtypeStruct((2, 3), jnp.float32)},
    }
    assert complexity.parameters(tree) == 12 + 5 + 6


def test_convolutions() -> None:
    x, kernel = jnp.zeros((2, 7, 5, 3)), jnp.zeros((3, 3, 3, 8))
    count = complexity.multiply_accumulates
    assert count(operators.conv, x, kernel) == 2 * 7 * 5 * 8 * 27
    halving = partial(operators.conv, stride=2)
    assert count(halving, x, kernel) == 2 * 4 * 3 * 8 * 27
    depthwise = jnp.zeros((5, 5, 1, 3))
    operations = count(operators.depthwise_conv, x, depthwise, np.zeros(3))
    assert operations == 2 * 7 * 5 * 3 * 25


def test_products() -> None:
    x, matrix = jnp.zeros((2, 7, 5)), jnp.zeros((5, 4))
    count = complexity.multiply_accumulates
    assert count(jnp.matmul, x, matrix) == 2 * 7 * 5 * 4
    batched = partial(jnp.einsum, "bij,bkj->bik")
    assert count(batched, x, jnp.zeros((2, 3, 5))) == 2 * 7 * 3 * 5
    assert count(lambda x: jnp.tanh(x + x).sum(), x) == 0


def test_products_within() -> None:
    """Every repeat of a scan counts, and what jit and remat wrap."""

    def step(x: jax.Array, matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jit(jnp.matmul)(x, matrix), jax.checkpoint(jnp.vdot)(x, x)

    def steps(x: jax.Array, matrices: jax.Array) -> jax.Array:
        return lax.scan(step, lax.scan(step, x, matrices)[0], matrices)[0]

    x, matrices = jnp.zeros((2, 5)), jnp.zeros((6, 5, 5))
    count = complexity.multiply_accumulates(steps, x, matrices)
    assert count == 2 * 6 * (2 * 5 * 5 + 2 * 5)


def test_student() -> None:
    """The paper's figure, from shapes alone."""
    network, size = LightBSR(), 256
    variables = variable_shapes(network)
    lr = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    # That the network was used before, in the backend's own formulation, is no matter.
    run = jax.jit(network.apply)
    jax.eval_shape(run, variables, lr)
    count = complexity.multiply_accumulates(run, variables, lr)
    assert count == 205_930_141_696
    # With the reference's two fixed 1 x 1 convolutions for the mean of RGB.
    mean_shift = 9 * (size**2 + (4 * size) ** 2)
    assert round((count + mean_shift) / 1e9, 2) == 205.94
