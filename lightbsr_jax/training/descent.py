"""Gradient steps: losses in microbatches, clipping, and the optimiser's updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from lightbsr_jax.training.state import Tree

AXIS = "data"  # over which gradients, losses and statistics of devices are averaged


def clip(gradients: Tree, limit: float) -> tuple[Tree, Array]:
    """Limits the norm of all gradients, unless `limit` is 0; also gives that norm."""
    norm = optax.tree.norm(gradients)
    if not limit:
        return gradients, norm
    factor = limit / (norm + 1e-6)
    return jax.tree.map(lambda g: jnp.minimum(1, factor) * g, gradients), norm


def descend(
    optimizer: optax.GradientTransformation,
    rate: Any,
    gradient: Tree,
    opt_state: Any,
    params: Tree,
) -> tuple[Any, Any]:
    """New parameters and optimiser state after a step of a learning rate."""
    update, opt_state = optimizer.update(gradient, opt_state, params)
    update: Any = jax.tree.map(lambda u: -rate * u, update)
    return optax.apply_updates(params, update), opt_state


# A loss, and a tree of what is computed beside it.
Loss = Callable[..., tuple[Array, Any]]


def microbatched(loss: Loss, count: int) -> Loss:
    """Computes `loss(params, inputs, data, constants)` in microbatches.

    The loss is a mean over images. `inputs` and `data` are trees of arrays with the
    images' axis first, and so are arrays beside the loss; numbers beside it are means.
    The gradients of a microbatch, with respect to `params` and `inputs`, are computed
    together with its loss, so that its activations are neither stored nor computed
    twice.
    """
    if count == 1:
        return loss

    def with_gradients(
        params: Tree, inputs: Any, data: Any, constants: Any
    ) -> tuple[tuple[Array, Any], Any]:
        def add(total: Any, images: Any) -> tuple[Any, Any]:
            gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            (value, beside), (of_params, of_inputs) = gradient(
                params, *images, constants
            )
            total = jax.tree.map(jnp.add, total, (value, of_params))
            return total, (beside, of_inputs)

        cut = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), (inputs, data))
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
        total, (beside, of_inputs) = lax.scan(add, zero, cut)
        value, of_params = jax.tree.map(lambda x: x / count, total)
        of_inputs = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]) / count, of_inputs
        )
        beside = jax.tree.map(
            lambda x: x.mean() if x.ndim == 1 else x.reshape(-1, *x.shape[2:]), beside
        )
        return (value, beside), (of_params, of_inputs)

    @jax.custom_vjp
    def mean(params: Tree, inputs: Any, data: Any, constants: Any) -> tuple[Array, Any]:
        return with_gradients(params, inputs, data, constants)[0]

    def backward(gradients: Any, outer: Any) -> tuple[Any, Any, None, None]:
        of_params, of_inputs = jax.tree.map(lambda x: outer[0] * x, gradients)
        return of_params, of_inputs, None, None

    mean.defvjp(with_gradients, backward)
    return mean
