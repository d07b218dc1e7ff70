"""The optimisers: what is a matrix to Muon, and what both make of a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from lightbsr_jax.spec import ModelSpec
from lightbsr_jax.training import optimizers

CONFIG = {
    "role": "student",
    "setting": 1,
    "scale": 4,
    "network": {"groups": 2, "blocks": 3},
}


@pytest.fixture(scope="module")
def params() -> dict:
    shapes = ModelSpec.from_config(CONFIG).shapes()
    return jax.tree.map(lambda x: jnp.zeros(x.shape), shapes["params"])


def test_matrices_are_kernels_and_no_stacks_of_them(params: dict) -> None:
    axes = flatten_dict(optimizers.matrices(params), sep="/")
    blocks = "restorer/body/groups/blocks"
    for name, reduced, output in [
        (f"{blocks}/mixing/expand/kernel", (2,), 3),
        (f"{blocks}/spatial/conv/kernel", (2, 3, 4), 5),
        ("restorer/body/groups/conv/kernel", (1, 2, 3), 4),
        ("restorer/upscale_0/kernel", (0, 1, 2), 3),
        ("converter/channel/kernel", (0,), 1),
        ("estimator/conv_0/kernel", (0, 1, 2), 3),
    ]:
        assert axes[name] == (reduced, output), name
    for name in [
        f"{blocks}/mixing/depthwise/kernel",
        f"{blocks}/mixing/layer_scale",
        f"{blocks}/mixing/expand/bias",
        "restorer/head/kernel",
        "restorer/tail/kernel",
    ]:
        assert axes[name] is None, name


def test_muon_makes_matrices_orthogonal_each_by_itself(params: dict) -> None:
    kernel = params["restorer"]["body"]["groups"]["blocks"]["mixing"]["expand"]
    stack = {"groups": {"blocks": {"expand": kernel}}}
    module = {"head": params["restorer"]["head"], **stack}
    optimizer = optimizers.make("muon")
    leaves, tree = jax.tree.flatten(module)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    gradients = jax.tree.unflatten(
        tree,
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)],
    )
    updates, _ = optimizer.update(gradients, optimizer.init(module), module)
    update = updates["groups"]["blocks"]["expand"]["kernel"]
    singular = np.linalg.svd(np.asarray(update), compute_uv=False)  # [2, 3, 64]
    singular /= 0.2 * np.sqrt(128)
    assert singular.shape == (2, 3, 64)
    assert singular.min() > 0.5 and singular.max() < 1.4
    gradient = gradients["groups"]["blocks"]["expand"]["kernel"]
    assert np.vdot(update, gradient) > 0  # a descent takes minus it
    head = jnp.abs(updates["head"]["kernel"])
    np.testing.assert_allclose(head, head.mean(), rtol=1e-3)  # Adam's first update


def test_eps_is_that_of_both_parts_of_muon() -> None:
    """A gradient as small as eps halves Adam's first update."""
    module = {"tail": {"kernel": jnp.ones((3, 3, 64, 3))}}
    gradients = jax.tree.map(lambda x: 1e-3 * x, module)

    def first_update(eps: float) -> np.ndarray:
        optimizer = optimizers.make("muon", eps=eps)
        updates, _ = optimizer.update(gradients, optimizer.init(module), module)
        return updates["tail"]["kernel"]

    np.testing.assert_allclose(first_update(1e-3), first_update(0) / 2, rtol=1e-5)


def test_adam_is_what_it_was(params: dict) -> None:
    given = {"b1": 0.8, "b2": 0.9, "eps": 1e-3}
    gradients = jax.tree.map(jnp.ones_like, params["converter"])
    expected = optax.scale_by_adam(**given)
    ours = optimizers.make("adam", **given)
    found, _ = ours.update(gradients, ours.init(gradients))
    wanted, _ = expected.update(gradients, expected.init(gradients))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
