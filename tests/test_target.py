"""The platform that is traced for, and steps over devices that are given."""

import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from lightbsr_jax import target
from lightbsr_jax.methods.network import Restorer
from lightbsr_jax.networks import cpu, operators, plain
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


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("channels", [(16, 16), (8, 16), (24, 16), (64, 64), (10, 48)])
@pytest.mark.parametrize("columns", [1, 2, 4, 13])
def test_narrow_convolutions_round_their_factors(
    size: int, channels: tuple[int, int], columns: int
) -> None:
    """Also where the columns are no multiple of those computed together."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 3, columns, channels[0])).astype(np.float32)
    kernel = random.normal(size=(size, size, *channels)).astype(np.float32) / size
    with target.narrow_products():
        narrow = cpu.conv(x, kernel)
    exact = plain.conv(x, kernel)
    # Ties away from zero, of which there are some among so many.
    bits = (((y.view(np.uint32) + (1 << 15)) >> 16) << 16 for y in (x, kernel))
    rounded = plain.conv(*(y.astype(np.uint32).view(np.float32) for y in bits))
    assert narrow.dtype == jnp.float32
    np.testing.assert_allclose(narrow, rounded, atol=5e-5)
    assert abs(rounded - exact).max() > 1e-3


def test_narrow_convolutions_are_for_maps_of_features() -> None:
    """Pixels keep their precision, and an odd number of channels has no pairs."""
    random = np.random.default_rng(0)
    for inputs, outputs in ((3, 64), (64, 3), (9, 16)):
        x = random.normal(size=(1, 8, 8, inputs)).astype(np.float32)
        kernel = random.normal(size=(3, 3, inputs, outputs)).astype(np.float32)
        exact = cpu.conv(x, kernel)
        with target.narrow_products():
            np.testing.assert_array_equal(cpu.conv(x, kernel), exact)


def test_the_last_convolutions_stay_wide() -> None:
    restorer = Restorer(2, lambda x, *_: x, features=64)
    x = jax.random.normal(jax.random.key(1), (1, 40, 40, 64))
    variables = restorer.init(jax.random.key(0), x, method="reconstruct_stepwise")
    exact = restorer.apply(variables, x, method="reconstruct")
    with target.narrow_products():
        same = restorer.apply(variables, x, method="reconstruct")
    np.testing.assert_array_equal(same, exact)


def test_narrow_gelu() -> None:
    x = np.linspace(-30, 30, 100_001).astype(np.float32)
    exact = x * special.ndtr(x.astype(np.float64))
    with target.narrow_products():
        found = operators.gelu(jnp.asarray(x))
    assert 1e-4 < abs(found - exact).max() < 2e-4
    large = abs(x) >= 4
    assert (abs(found - x.clip(0)) <= 1e-6 * abs(x))[large].all()


def test_narrow_depthwise_convolutions_add_in_another_order() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2, 9, 11, 8)).astype(np.float32)
    kernel = random.normal(size=(7, 7, 1, 8)).astype(np.float32)
    bias = random.normal(size=8).astype(np.float32)
    exact = plain.depthwise_conv(x, kernel, bias)
    with target.narrow_products():
        found = cpu.depthwise_conv(x, kernel, bias)
    np.testing.assert_allclose(found, exact, atol=2e-5)
    assert abs(found - cpu.depthwise_conv(x, kernel, bias)).max() > 0


@pytest.mark.parametrize(
    ("platform", "capability", "faster"),
    [
        ("tpu", None, True),
        ("gpu", "9.0", True),
        ("gpu", "8.0", True),
        ("gpu", "10.0", True),
        ("gpu", "7.5", False),
        ("gpu", "gfx90a", False),  # ROCm's
        ("cpu", None, False),
    ],
)
def test_devices_that_train_faster_in_bfloat16(platform, capability, faster) -> None:
    device = SimpleNamespace(platform=platform, compute_capability=capability)
    assert target.trains_faster_in_bfloat16(device) == faster
    assert not target.trains_faster_in_bfloat16(jax.devices("cpu")[0])
