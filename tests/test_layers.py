import math
from collections.abc import Callable
from functools import partial
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from flax.traverse_util import flatten_dict
from helpers import literal
from helpers.goldens import initialise, random_like

from lightbsr_jax.methods.lightbsr.adaptation import Mixing
from lightbsr_jax.methods.lightbsr.network import LightBSR
from lightbsr_jax.networks import operators, plain
from lightbsr_jax.networks.layers import BatchNorm, Conv, Dense, DepthwiseConv

pytestmark = pytest.mark.usefixtures("highest_precision")

Operator = Callable[..., jax.Array]

close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def value_and_gradients(operator: Operator, *arguments: np.ndarray) -> list[jax.Array]:
    """operator(*arguments) and the gradients of a quadratic loss of it in all."""

    @jax.jit
    def run(*arguments: jax.Array) -> list[jax.Array]:
        y, pull = jax.vjp(operator, *arguments)
        return [y, *pull(y)]

    return run(*arguments)


# Convolutions


@pytest.mark.parametrize("size", [1, 3, 5, 7])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(6, 8), (6, 3), (20, 3), (20, 24), (6, None)]
)
def test_formulations_agree(size: int, inputs: int, outputs: int | None) -> None:
    """Of convolutions with few and many inputs and outputs, and depthwise ones."""
    if outputs is None:
        others = normal(size, size, 1, inputs) / size, normal(inputs)
        chosen, definition = operators.depthwise_conv, plain.depthwise_conv
        slow = literal.depthwise_conv
    else:
        others = (normal(size, size, inputs, outputs) / (size * math.sqrt(inputs)),)
        chosen, definition = operators.conv, plain.conv
        slow = literal.conv
    # An odd width too, one smaller than kernels, and more rows than are summed at once.
    for shape in ((2, 5, 8), (1, 4, 9), (1, 2, 1), (1, 18, 3)):
        x = normal(*shape, inputs, seed=size)
        results = value_and_gradients(chosen, x, *others)
        expected = value_and_gradients(definition, x, *others)
        for result, other in zip(results, expected, strict=True):
            close(result, other)
        close(results[0], [slow(image, others[0]) + sum(others[1:]) for image in x])


def test_convolutions_of_even_kernels_and_of_no_image() -> None:
    for images, size in ((1, 4), (0, 3)):
        x, kernel = normal(images, 5, 6, 4), normal(size, size, 4, 3)
        close(operators.conv(x, kernel), plain.conv(x, kernel))


def test_dense_formulations_agree() -> None:
    x, kernel, bias = normal(2, 3, 5, 6), normal(6, 4), normal(4)
    results = value_and_gradients(operators.dense, x, kernel, bias)
    expected = value_and_gradients(plain.dense, x, kernel, bias)
    for result, other in zip(results, expected, strict=True):
        close(result, other)


def test_formulation_follows_backend_and_context() -> None:
    x, kernel, depthwise = normal(1, 4, 4, 6), normal(3, 3, 6, 8), normal(3, 3, 1, 6)

    def primitives() -> list[str]:
        traced = [
            jax.make_jaxpr(operators.conv)(x, kernel),
            jax.make_jaxpr(operators.depthwise_conv)(x, depthwise, np.zeros(6)),
        ]
        return [t.eqns[0].primitive.name.split("_")[0] for t in traced]

    usual = ["custom" if jax.default_backend() == "cpu" else "conv"] * 2
    assert primitives() == usual
    with operators.plain_ops():
        assert primitives() == ["conv", "conv"]
    assert primitives() == usual


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 5), (6, 9)])
def test_stride_two_rounds_up(size: tuple[int, int]) -> None:
    x, kernel = normal(1, *size, 3), normal(3, 3, 3, 4)
    y = operators.conv(x, kernel, 2)
    assert y.shape == (1, math.ceil(size[0] / 2), math.ceil(size[1] / 2), 4)
    close(y[0], literal.conv(x[0], kernel, 2))


# Activations and rearrangements


def test_gelu_is_the_exact_one() -> None:
    x = np.linspace(-8, 8, 1001, dtype=np.float32)
    exact = 0.5 * x * (1 + scipy.special.erf(x.astype(float) / math.sqrt(2)))
    np.testing.assert_allclose(operators.gelu(x), exact, atol=1e-6)


def test_leaky_relu() -> None:
    close(operators.leaky_relu(jnp.array([-2.0, 0, 3])), [-0.2, 0, 3])


def test_global_mean() -> None:
    x = normal(2, 3, 5, 4)
    close(operators.global_mean(x), x.reshape(2, 15, 4).mean(1))
    with operators.plain_ops():
        close(operators.global_mean(x), x.reshape(2, 15, 4).mean(1))


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_pixel_shuffle(factor: int) -> None:
    x = normal(2, 3, 2, 2 * factor**2)
    expected = [literal.pixel_shuffle(image, factor) for image in x]
    np.testing.assert_array_equal(operators.pixel_shuffle(x, factor), expected)


# BatchNorm


CROPS, VISITS = 3, (0, 1, 2, 0)  # as the teacher's step visits them


@pytest.fixture(scope="module")
def batch_norm() -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    scale, bias, mean = rng.standard_normal((3, 5)).astype(np.float32)
    var = rng.uniform(0.5, 2, 5).astype(np.float32)
    return {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """[D, B, h, w, C], each crop and channel with statistics of its own."""
    x = normal(CROPS, 4, 3, 2, 5)
    x = x * np.arange(1, 6) + 3 * np.arange(CROPS).reshape(-1, 1, 1, 1, 1) - 1
    return x.astype(np.float32)


def test_batch_norm_in_evaluation(batch_norm: dict, crops: np.ndarray) -> None:
    y, unchanged = BatchNorm().apply(batch_norm, crops[0], mutable=["batch_stats"])
    params, statistics = batch_norm["params"], batch_norm["batch_stats"]
    close(y, literal.batch_norm_evaluation(crops[0], **params, **statistics))
    assert jax.tree.map(np.array_equal, unchanged["batch_stats"], statistics) == {
        "mean": True,
        "var": True,
    }


@pytest.mark.parametrize("visits", [VISITS, (0,), (2, 1, 0)])
def test_batch_norm_in_training(
    batch_norm: dict, crops: np.ndarray, visits: tuple[int, ...]
) -> None:
    y, new = BatchNorm().apply(batch_norm, crops, visits, mutable=["batch_stats"])
    params, statistics = batch_norm["params"], batch_norm["batch_stats"]
    expected, mean, var = literal.batch_norm_training(
        crops, **params, **statistics, visits=visits
    )
    close(y, expected)
    close(new["batch_stats"]["mean"], mean)
    close(new["batch_stats"]["var"], var)


def test_batch_norm_starts_without_statistics(crops: np.ndarray) -> None:
    fresh = BatchNorm().init(jax.random.key(0), crops, VISITS)
    assert jax.tree.map(lambda x: np.unique(x).tolist(), fresh) == {
        "params": {"scale": [1], "bias": [0]},
        "batch_stats": {"mean": [0], "var": [1]},
    }


def test_batch_norm_on_two_devices_equals_one(
    batch_norm: dict, crops: np.ndarray
) -> None:
    def update(
        axis_name: str | None, shift: np.ndarray, x: np.ndarray
    ) -> tuple[np.ndarray, dict, np.ndarray]:
        """Output, statistics and a gradient that goes through the statistics."""

        def loss(shift: np.ndarray) -> tuple[jax.Array, tuple]:
            norm = BatchNorm(axis_name)
            y, new = norm.apply(batch_norm, x + shift, VISITS, mutable=["batch_stats"])
            return (y**3).mean(), (y, new)

        gradient, (y, new) = jax.grad(loss, has_aux=True)(shift)
        return y, new, gradient

    shift = normal(3, 2, 5, seed=1)
    expected, statistics, gradient = jax.jit(partial(update, None))(shift, crops)
    halves = np.stack(np.split(crops, 2, axis=1))
    two = jax.jit(jax.vmap(partial(update, "data"), (None, 0), axis_name="data"))
    y, new, gradients = two(shift, halves)
    close(np.concatenate(y, axis=1), expected)
    close(gradients.mean(0), gradient)
    for device in range(2):
        jax.tree.map(lambda a, b, i=device: close(a[i], b), new, statistics)


# Initialisation


@pytest.fixture(scope="module")
def fresh() -> dict[tuple[str, ...], np.ndarray]:
    """A small teacher's fresh parameters by path."""
    network = LightBSR(scale=2, groups=2, blocks=2)
    variables = initialise(network, jax.random.key(1), prior_channels=15)
    return jax.tree.map(np.asarray, flatten_dict(variables["params"]))


def unstacked(path: tuple[str, ...], leaf: np.ndarray) -> tuple[int, ...]:
    """A leaf's shape without the axes of groups and blocks."""
    return leaf.shape[("groups" in path) + ("blocks" in path) :]


def test_fresh_weights(fresh: dict) -> None:
    linear = {path[:-1] for path in fresh if path[-1] == "kernel"}
    for path, leaf in fresh.items():
        if path[:-1] in linear:
            kernel = (*path[:-1], "kernel")
            bound = 1 / math.sqrt(math.prod(unstacked(kernel, fresh[kernel])[:-1]))
            assert np.abs(leaf).max() <= bound * (1 + 1e-6), path
            uniform = scipy.stats.kstest(leaf.ravel() / bound, "uniform", (-1, 2))
            assert uniform.pvalue > 1e-6, path
        else:
            start = {"scale": 1, "bias": 0, "layer_scale": 1e-6}[path[-1]]
            np.testing.assert_allclose(leaf, start, rtol=1e-6, err_msg=str(path))


def test_no_two_fresh_layers_are_alike(fresh: dict) -> None:
    """Blocks and groups are stacked: each has numbers of its own."""
    first_numbers = [
        number
        for path, leaf in fresh.items()
        if path[-1] == "kernel"
        for number in leaf.reshape(-1, math.prod(unstacked(path, leaf)))[:, 0]
    ]
    # Estimator 6, projector 2, converter 2, head, body, upscaler, tail; converters of a
    # group 4, its ConvNeXt block 3 and convolution 1; 8 in a block.
    assert len(first_numbers) == 14 + 2 * (8 + 2 * 8)
    assert len(set(first_numbers)) == len(first_numbers)


def test_key_decides_the_fresh_weights() -> None:
    dense = Dense(3)
    first, again, other = (
        dense.init(jax.random.key(key), jnp.zeros((1, 4)))["params"]
        for key in (5, 5, 6)
    )
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(first[name], again[name])
        assert np.all(first[name] != other[name])
    assert first["bias"][0] != first["kernel"][0, 0]


# Against torch's own operators


def nchw(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, -3)


def known_parameters(layer: Dense | Conv | DepthwiseConv, x: np.ndarray) -> dict:
    shapes = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
    return random_like(shapes, seed=4)


@pytest.mark.parametrize(
    ("size", "stride", "use_bias"),
    [(1, 1, False), (3, 1, True), (3, 2, True), (5, 1, False)],
)
def test_conv_is_torchs(
    torch: ModuleType, size: int, stride: int, use_bias: bool
) -> None:
    x = normal(2, 5, 6, 3)
    layer = Conv(4, size=size, stride=stride, use_bias=use_bias)
    params = known_parameters(layer, x)
    assert ("bias" in params) == use_bias
    expected = torch.nn.functional.conv2d(
        torch.tensor(nchw(x)),
        torch.tensor(params["kernel"].transpose(3, 2, 0, 1)),
        torch.tensor(params["bias"]) if use_bias else None,
        stride=stride,
        padding=size // 2,
    )
    close(nchw(layer.apply({"params": params}, x)), expected)


def test_depthwise_conv_is_torchs(torch: ModuleType) -> None:
    x = normal(2, 5, 9, 6)
    layer = DepthwiseConv(6)
    params = known_parameters(layer, x)
    expected = torch.nn.functional.conv2d(
        torch.tensor(nchw(x)),
        torch.tensor(params["kernel"].transpose(3, 2, 0, 1)),
        torch.tensor(params["bias"]),
        padding=3,
        groups=6,
    )
    close(nchw(layer.apply({"params": params}, x)), expected)


@pytest.mark.parametrize("use_bias", [False, True])
def test_dense_is_torchs(torch: ModuleType, use_bias: bool) -> None:
    x = normal(2, 5, 3)
    layer = Dense(4, use_bias=use_bias)
    params = known_parameters(layer, x)
    assert ("bias" in params) == use_bias
    expected = torch.nn.functional.linear(
        torch.tensor(x),
        torch.tensor(params["kernel"].T),
        torch.tensor(params["bias"]) if use_bias else None,
    )
    close(layer.apply({"params": params}, x), expected)


def test_mixing_is_torchs(torch: ModuleType) -> None:
    """Above all LayerNorm, on values so small that its epsilon counts."""
    x = 1e-3 * normal(2, 5, 6, 64)
    layer = Mixing()
    params = known_parameters(layer, x)
    params["depthwise"]["bias"] *= 1e-3
    theirs = jax.tree.map(torch.tensor, params)
    leaves = [*jax.tree.leaves(theirs), torch.tensor(nchw(x))]
    for leaf in leaves:
        leaf.requires_grad_()
    functions = torch.nn.functional
    y = functions.conv2d(
        leaves[-1],
        theirs["depthwise"]["kernel"].permute(3, 2, 0, 1),
        theirs["depthwise"]["bias"],
        padding=3,
        groups=64,
    ).movedim(1, -1)
    norm, expand, reduce = (theirs[name] for name in ("norm", "expand", "reduce"))
    y = functions.layer_norm(y, (64,), norm["scale"], norm["bias"], eps=1e-6)
    y = functions.gelu(functions.linear(y, expand["kernel"].T, expand["bias"]))
    y = functions.linear(y, reduce["kernel"].T, reduce["bias"])
    y = y * theirs["layer_scale"]

    def apply(params: dict, x: jax.Array) -> jax.Array:
        return layer.apply({"params": params}, x)

    ours, of_params, of_x = value_and_gradients(apply, params, x)
    close(ours, y.detach())
    y.backward(y.detach())
    expected = [leaf.grad.numpy() for leaf in leaves]
    expected[-1] = np.moveaxis(expected[-1], 1, -1)
    for gradient, other in zip(
        [*jax.tree.leaves(of_params), of_x], expected, strict=True
    ):
        scale = abs(other).max()
        close(gradient / scale, other / scale)


def test_functions_are_torchs(torch: ModuleType) -> None:
    x = 3 * normal(2, 3, 5, 16)
    theirs = torch.nn.functional
    close(operators.gelu(x), theirs.gelu(torch.tensor(x)))
    close(operators.leaky_relu(x), theirs.leaky_relu(torch.tensor(x), 0.1))
    shuffled = theirs.pixel_shuffle(torch.tensor(nchw(x)), 4)
    close(nchw(operators.pixel_shuffle(x, 4)), shuffled)
    pooled = theirs.adaptive_avg_pool2d(torch.tensor(nchw(x)), 1)
    close(operators.global_mean(x), pooled[..., 0, 0])


def test_batch_norm_is_torchs(
    torch: ModuleType, batch_norm: dict, crops: np.ndarray
) -> None:
    theirs = torch.nn.BatchNorm2d(5)
    (scale, bias), (mean, var) = (
        map(torch.tensor, batch_norm[part].values())
        for part in ("params", "batch_stats")
    )
    theirs.load_state_dict(
        {"weight": scale, "bias": bias, "running_mean": mean, "running_var": var},
        strict=False,
    )
    images = [torch.tensor(nchw(crop)) for crop in crops]
    ours = BatchNorm()
    with torch.no_grad():
        close(nchw(ours.apply(batch_norm, crops[0])), theirs.eval()(images[0]))
        theirs.train()
        expected = [theirs(images[crop]) for crop in VISITS]
    y, new = ours.apply(batch_norm, crops, VISITS, mutable=["batch_stats"])
    for crop, other in zip(VISITS, expected, strict=True):
        close(nchw(y[crop]), other)
    close(new["batch_stats"]["mean"], theirs.running_mean)
    close(new["batch_stats"]["var"], theirs.running_var)
