"""Maps with columns packed into lanes, against the plain operators.

All in float32 on the machine's own device, which runs what is traced for a TPU, too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.goldens import random_like

from lightbsr_jax import target
from lightbsr_jax.methods.lightbsr.adaptation import AdaptationModule, Switches
from lightbsr_jax.networks import lanes, operators, plain
from lightbsr_jax.networks.layers import LayerNorm

N = lanes.COLUMNS


def normal(*shape: int) -> np.ndarray:
    """Different numbers for each shape."""
    rng = np.random.default_rng(shape)
    return rng.normal(size=shape).astype(np.float32)


def same(ours: Any, expected: Any, tolerance: float = 2e-6) -> None:
    """Equal but for a part of the largest number."""
    for mine, other in zip(
        jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True
    ):
        assert mine.shape == other.shape
        bound = tolerance * max(np.abs(other).max(), 1e-6)
        np.testing.assert_allclose(mine, other, rtol=0, atol=bound)


def agree(
    packed: Callable[..., Any], usual: Callable[..., Any], x: np.ndarray, *others: Any
) -> None:
    """Values and gradients of x and all others, x and the result being packed."""

    def unpacked(x: Any, *others: Any) -> Any:
        return lanes.unpack(packed(lanes.pack(x, N), *others), N)

    @partial(jax.jit, static_argnums=0)
    def both(function: Callable[..., Any], gradient: Any, *arguments: Any) -> Any:
        y, back = jax.vjp(function, *arguments)
        return y, back(gradient)

    gradient = normal(*jax.eval_shape(usual, x, *others).shape)
    with jax.default_matmul_precision("highest"):
        same(*(both(f, gradient, x, *others) for f in (unpacked, usual)))


@pytest.mark.parametrize("channels", [3, 8, 16, 24, 64])
def test_packing_keeps_every_number(channels: int) -> None:
    x = normal(2, 3, 2 * N, channels)
    packed = lanes.pack(x, N)
    assert packed.shape == (2, 3, 2, N * channels)
    np.testing.assert_array_equal(lanes.unpack(packed, N), x)
    # Columns of a group side by side, in the first block of channels.
    first = channels % 16 or 16
    np.testing.assert_array_equal(packed[0, 1, 1, :first], x[0, 1, N, :first])
    np.testing.assert_array_equal(
        packed[0, 1, 1, first : 2 * first], x[0, 1, N + 1, :first]
    )


def test_concatenation_and_split_are_those_of_channels() -> None:
    first, others = normal(1, 2, N, 8), normal(1, 2, N, 16)
    both = lanes.pack(np.concatenate([first, others], -1), N)
    apart = [lanes.pack(first, N), lanes.pack(others, N)]
    np.testing.assert_array_equal(both, np.concatenate(apart, -1))


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize(("inputs", "outputs"), [(24, 16), (8, 16), (16, 8), (32, 48)])
def test_convolution(size: int, inputs: int, outputs: int) -> None:
    x, kernel = normal(2, 5, 3 * N, inputs), normal(size, size, inputs, outputs)
    agree(partial(lanes.conv, columns=N), plain.conv, x, kernel)


def test_depthwise_convolution() -> None:
    x, kernel, bias = normal(2, 9, 3 * N, 64), normal(7, 7, 1, 64), normal(64)
    packed = partial(lanes.depthwise_conv, columns=N)
    agree(packed, plain.depthwise_conv, x, kernel, bias)


def test_dense_layer() -> None:
    x, kernel, bias = normal(2, 3, 2 * N, 64), normal(64, 128), normal(128)
    agree(partial(lanes.dense, columns=N), plain.dense, x, kernel, bias)


def test_normalisation() -> None:
    x = 5 + normal(2, 3, 2 * N, 64)[::-1]  # not along the gradient
    variables = LayerNorm().init(jax.random.key(0), x)
    packed, usual = (
        lambda x, c=columns: LayerNorm(c).apply(variables, x)[0] for columns in (N, 1)
    )
    agree(packed, usual, x)


def test_normalisation_in_bfloat16() -> None:
    """Products of bfloat16 with float32 sums, like the usual form's float32."""
    x = jnp.bfloat16(3 + normal(2, 3, 2 * N, 64)[::-1])
    gradient = jnp.bfloat16(normal(2, 3, 2 * N, 64))
    variables = LayerNorm().init(jax.random.key(0), x)

    def values(columns: int) -> Any:
        def normalised(x: Any) -> Any:
            packed = lanes.pack(x, columns)
            y = LayerNorm(columns).apply(variables, packed)[0]
            return lanes.unpack(y, columns)

        y, back = jax.vjp(normalised, x)
        return y, back(gradient)[0]

    for packed, usual in zip(values(N), values(1), strict=True):
        assert packed.dtype == jnp.bfloat16
        packed, usual = np.float32(packed), np.float32(usual)
        assert np.abs(packed - usual).max() <= 2**-7 * np.abs(usual).max()
        assert np.sqrt(np.square(packed - usual).mean()) < 2**-9


def test_means_and_numbers_of_channels() -> None:
    x, numbers = normal(2, 3, 2 * N, 48), normal(2, 48)
    same(operators.global_mean(lanes.pack(x, N), N), x.mean((1, 2)))
    weights = operators.for_columns(numbers, N)[:, None, None]
    same(lanes.unpack(lanes.pack(x, N) * weights, N), x * numbers[:, None, None])


def test_gradient_of_a_depthwise_kernel_behind_a_barrier() -> None:
    """The formulation on a TPU for maps that are not packed, as their width is odd."""
    arguments = normal(2, 9, 11, 64), normal(7, 7, 1, 64), normal(64)
    gradient = normal(2, 9, 11, 64)

    def values(function: Callable[..., Any]) -> Any:
        y, back = jax.vjp(function, *arguments)
        return y, back(gradient)

    with target.compiling_for("tpu"):
        ours = values(operators.depthwise_conv)
        text = jax.jit(lambda: values(operators.depthwise_conv)).lower().as_text()
    assert "optimization_barrier" in text
    same(ours, values(plain.depthwise_conv))


@pytest.mark.parametrize(
    "switches",
    [
        Switches(),
        Switches(spatial_modulation=False),
        Switches(channel_modulation=False),
    ],
    ids=["whole", "m2", "m3"],
)
def test_the_module_of_groups(switches: Switches) -> None:
    """Values and the gradients of all parameters and inputs, packed and not."""
    module = AdaptationModule(2, 2, switches=switches)
    x, channel, spatial = normal(2, 7, 3 * N, 64), normal(2, 48), normal(2, 7, 3 * N, 8)
    variables = random_like(module.init(jax.random.key(0), x, channel, spatial), seed=0)
    gradient = normal(2, 7, 3 * N, 64)

    def values(*arguments: Any) -> Any:
        y, back = jax.vjp(module.apply, *arguments)
        return y, back(gradient)

    jitted, arguments = jax.jit(values), (variables, x, channel, spatial)
    usual = jitted(*arguments)
    with target.compiling_for("tpu"), jax.default_matmul_precision("highest"):
        lowered = jitted.lower(*arguments)
        packed = lowered.compile()(*arguments)
    assert f"tensor<2x7x3x{64 * N}xf32>" in lowered.as_text()
    same(packed, usual, 2e-5)


def test_widths_that_do_not_divide_are_not_packed() -> None:
    maps = [jnp.zeros((1, 8, width, 64)) for width in (N, N + 1, 2 * N)]
    assert [operators.columns_in_lanes(x) for x in maps] == [1, 1, 1]
    with target.compiling_for("tpu"):
        assert [operators.columns_in_lanes(x) for x in maps] == [N, 1, N]
        with operators.plain_ops():
            assert operators.columns_in_lanes(maps[0]) == 1
