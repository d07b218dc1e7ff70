"""The platform that is traced for, and steps over devices that are given."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightbsr_jax import target
from lightbsr_jax.methods.network import Restorer
from lightbsr_jax.networks import operators
from lightbsr_jax.training import parallel


def primitives(function, *arguments) -> list[str]:
    return [eqn.primitive.name for eqn in jax.make_jaxpr(function)(*arguments).eqns]


def test_formulations_follow_the_target_and_not_what_was_traced_before() -> None:
    x, kernel = np.ones((1, 4, 4, 6), np.float32), np.ones((3, 3, 6, 6), np.float32)
    own = jax.default_backend()
    assert target.platform() == own
    usual = primitives(operators.conv, x, kernel)
    jitted = jax.jit(operators.conv)
    kept = jitted.lower(x, kernel).as_text()
    with target.compiling_for("tpu"):
        assert target.platform() == "tpu"
        assert primitives(operators.conv, x, kernel) == ["conv_general_dilated"]
        elsewhere = jitted.lower(x, kernel).as_text()
    assert target.platform() == own
    assert primitives(operators.conv, x, kernel) == usual
    assert jitted.lower(x, kernel).as_text() == kept
    if own == "cpu":
        assert usual != ["conv_general_dilated"] and elsewhere != kept


@pytest.fixture
def two() -> list[jax.Device]:
    devices = jax.devices()
    if len(devices) < 3:
        pytest.skip("needs three devices")
    return devices[1:3]


def test_steps_map_over_the_devices_that_are_given(two) -> None:
    def step(state, crops, constants):
        total = jax.lax.psum(crops.sum(), "data") + constants
        return state + 1, total

    mapped = parallel.over_devices(step, two)
    shapes = (
        jax.ShapeDtypeStruct((), jnp.float32),
        jax.ShapeDtypeStruct((2, 3), jnp.float32),
        jax.ShapeDtypeStruct((), jnp.float32),
    )
    compiled = mapped.lower(*shapes).compile()
    assert "all-reduce" in compiled.as_text()
    state, total = mapped(jnp.float32(0), jnp.ones((2, 3)), jnp.float32(5))
    assert (state, total) == (1, 11)
    assert total.sharding.device_set == set(two)


def test_statistics_of_all_devices_are_those_of_one(two) -> None:
    """Values and gradients of two devices, which gather at once, and of one batch."""
    rng = np.random.default_rng(0)
    x, weights = 3 + rng.normal(size=(2, 2, 6, 3, 3, 5)).astype(np.float32)
    both = np.stack([x[:, :2], x[:, 2:4]]), np.stack([weights[:, :2], weights[:, 2:4]])

    def value(x, weights, axis_name=None):
        mean, var = operators.moments(x, axis_name)
        loss = ((x - mean) / jnp.sqrt(var) * weights).sum()
        return loss, (mean, var)

    def mapped(x, weights):
        gradient = jax.grad(partial(value, axis_name="data"), has_aux=True)
        return gradient(x, weights)

    whole = jax.grad(value, has_aux=True)(x[:, :4], weights[:, :4])
    with target.compiling_for("tpu"):
        program = jax.pmap(mapped, "data", devices=two)
        text = program.lower(*both).as_text()
        gradient, moments = program(*both)
    assert text.count("all_gather") >= 1 and "all_reduce" not in text
    gradient = np.concatenate(list(gradient), 1)
    np.testing.assert_allclose(gradient, whole[0], rtol=1e-4, atol=1e-5)
    for ours, expected in zip(moments, whole[1], strict=True):
        for device in ours:
            np.testing.assert_allclose(device, expected, rtol=1e-5)


def test_on_host_is_the_processor_and_its_formulations() -> None:
    with target.compiling_for("tpu"), target.on_host():
        assert target.platform() == "cpu"
        assert jnp.zeros(3).devices() == {jax.local_devices(backend="cpu")[0]}
    assert target.platform() == jax.default_backend()


def test_pixels_are_reconstructed_at_full_precision_on_accelerators() -> None:
    """Of a bfloat16 network, too: its last convolutions are in float32."""
    restorer = Restorer(2, lambda x, *_: x, features=8)
    x = jnp.ones((1, 4, 4, 8), jnp.bfloat16)
    variables = restorer.init(jax.random.key(0), x, method="reconstruct_stepwise")

    def precisions() -> list[str]:
        program = jax.jit(partial(restorer.apply, method="reconstruct_stepwise"))
        text = program.lower(variables, x).as_text()
        return re.findall(r"stablehlo.convolution.*?precision \w+", text)

    with target.compiling_for("tpu"):
        found = precisions()
    assert len(found) == 2 and all(line.endswith("HIGHEST") for line in found)


def test_narrow_products_round_their_factors_and_not_their_sums() -> None:
    """To bfloat16, in maps alone; the other operators stay as they are."""
    if jax.default_backend() != "cpu":
        pytest.skip("a formulation for CPUs")
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 4, 5, 64)).astype(np.float32)
    kernel = random.normal(size=(64, 8)).astype(np.float32)
    bias = np.ones(8, np.float32)
    exact = operators.dense(x, kernel, bias)
    with target.narrow_products():
        narrow = operators.dense(x, kernel, bias)
        of_vectors = operators.dense(x[0, 0], kernel, bias)
    wide = [y.astype(jnp.bfloat16).astype(np.float64) for y in (x, kernel)]
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, wide[0] @ wide[1] + 1, atol=1e-5)
    assert abs(narrow - exact).max() > 1e-3
    np.testing.assert_array_equal(of_vectors, operators.dense(x[0, 0], kernel, bias))
