"""Layers with torch's parameters, initialisation and semantics.

Feature maps are NHWC. Kernels are HWIO, matrices [in, out]. Weights start as torch's
do: U(-b, b) with b = 1 / sqrt(fan_in), biases with the same b. Parameters are float32;
a layer computes in the type of what it is given, float32 or bfloat16, but for means and
variances, which are float32. (Of float64, for comparisons, all is float64.)

XLA on a CPU is slow at grouped convolutions, at sums over pixels or channels, and at
the gradients of convolutions and products in the body of a scan: `depthwise_conv`,
`conv`, `dense` and means are formulated by backend for that reason, here and nowhere
else. Both formulations agree to float rounding.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from math import prod, sqrt

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.xla_metadata import set_xla_metadata

NHWC = ("NHWC", "HWIO", "NHWC")
_KEPT = "kept"
_THIN = 16  # channels, which do not fill the inner loop of a product


def gelu(x: Array) -> Array:
    """Exact GELU. (`jax.nn.gelu` goes through erfc, twice as slow on a CPU.)"""
    return 0.5 * x * (1 + lax.erf(x * sqrt(0.5)))


def leaky_relu(x: Array) -> Array:
    """LeakyReLU with the slope 0.1 that the method uses throughout."""
    return nn.leaky_relu(x, 0.1)


def widened(x: Array) -> Array:
    """x in float32, if it is not in float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def global_mean(x: Array) -> Array:
    """Mean over rows and columns, summed in float32: [B, h, w, C] to [B, C]."""
    wide = widened(x)
    if not _uses_cpu_formulations():
        return wide.mean((1, 2)).astype(x.dtype)
    pixels = x.shape[1] * x.shape[2]
    weights = jnp.full((len(x), pixels), 1 / pixels, wide.dtype)
    means = jnp.einsum("bp,bpc->bc", weights, wide.reshape(len(x), pixels, -1))
    return means.astype(x.dtype)


def _channel_mean(x: Array) -> Array:
    """Mean over channels, which stay as an axis of 1."""
    if not _uses_cpu_formulations():
        return x.mean(-1, keepdims=True)
    return x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)


def pixel_shuffle(x: Array, factor: int) -> Array:
    """Depth to space, [B, h, w, C f^2] to [B, h f, w f, C], in torch's channel order.

    Input channel `c f^2 + i f + j` becomes output channel c at row i, column j.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, c // factor**2, factor, factor)
    return x.transpose(0, 1, 4, 2, 5, 3).reshape(b, h * factor, w * factor, -1)


def pixel_unshuffle(x: Array, factor: int) -> Array:
    """The inverse of `pixel_shuffle`: [B, h f, w f, C] to [B, h, w, C f^2]."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // factor, factor, w // factor, factor, c)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // factor, w // factor, -1)


# Part of the key of JAX's caches: what was traced outside is traced again inside.
_plain = jax.make_user_context(False)


def plain_formulations() -> AbstractContextManager[None]:
    """What is traced inside is the published network, in XLA's own convolutions.

    Whatever the backend. For counting operations, for comparison and for export.
    """
    return _plain(True)


def is_plain() -> bool:
    """Whether what is traced is inside `plain_formulations`."""
    return _plain.value


def _uses_cpu_formulations() -> bool:
    return jax.default_backend() == "cpu" and not is_plain()


def _padding(kernel: Array) -> list[tuple[int, int]]:
    """Of rows and of columns: k // 2 on each side."""
    return [(k // 2, k // 2) for k in kernel.shape[:2]]


def _pad(x: Array, kernel: Array) -> Array:
    return jnp.pad(x, ((0, 0), *_padding(kernel), (0, 0)))


def _taps(x: Array, kernel: Array) -> list[Array]:
    """The shifted copies of `x` that the kernel's taps see, row by row."""
    h, w = x.shape[1:3]
    padded = _pad(x, kernel)
    return [
        padded[:, i : i + h, j : j + w]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]


def plain_conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution that pads k // 2 on each side: [B, h, w, I] to [B, h', w', O].

    A stride of 2 gives ceil(n / 2) rows, as torch's padding=1 does ('SAME' differs).
    """
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), _padding(kernel), dimension_numbers=NHWC
    )


def _thin_conv(x: Array, kernel: Array) -> Array:
    """`plain_conv` that computes several columns at once, where channels are few.

    (Few outputs do not fill the registers of a product's inner loop.)
    """
    inputs, outputs = kernel.shape[2:]
    together = 2 if max(inputs, outputs) <= _THIN else 4 if outputs <= 4 else 1
    rows, (left, right) = _padding(kernel)
    shifted = [
        jnp.pad(kernel, ((0, 0), (i, together - 1 - i), (0, 0), (0, 0)))
        for i in range(together)
    ]
    y = lax.conv_general_dilated(
        x,
        jnp.concatenate(shifted, -1),
        (1, together),
        (rows, (left, right + -x.shape[2] % together)),
        dimension_numbers=NHWC,
    )
    y = y.reshape(*x.shape[:2], y.shape[2] * together, outputs)
    return y[:, :, : x.shape[2]]


@jax.custom_vjp
def _cpu_conv(x: Array, kernel: Array) -> Array:
    return _thin_conv(x, kernel)


def _cpu_conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _thin_conv(x, kernel), (x, kernel)


def _thin_kernel_gradient(x: Array, gradient: Array, kernel: Array) -> Array:
    """Of a convolution with few channels: one product, in which these are more.

    Of what all columns of the kernel see of x, and what all its rows see of the
    gradient.
    """
    height, width, inputs, outputs = kernel.shape
    x = _pad(x, kernel)
    x = jnp.concatenate([x[:, :, j : j + gradient.shape[2]] for j in range(width)], -1)
    seen = [
        jnp.pad(gradient, ((0, 0), (i, height - 1 - i), (0, 0), (0, 0)))
        for i in range(height)
    ]
    g = jnp.concatenate(seen, -1)
    product = x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    product = product.reshape(width, inputs, height, outputs)
    return product.transpose(2, 0, 1, 3)


def _cpu_conv_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = _thin_conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    if max(kernel.shape[2:]) <= _THIN:
        return dx, _thin_kernel_gradient(x, gradient, kernel)
    # As autodiff has it, but for the order of axes, which in a scan decides its speed.
    inputs, gradients = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = lax.conv_general_dilated(
        inputs, gradients, (1, 1), _padding(kernel), dimension_numbers=NHWC
    )
    return dx, of_kernel.transpose(1, 2, 0, 3)


_cpu_conv.defvjp(_cpu_conv_forward, _cpu_conv_backward)


def conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """`plain_conv`, formulated for the backend (see the module's head)."""
    odd = all(k % 2 for k in kernel.shape[:2])
    if odd and stride == 1 and _uses_cpu_formulations():
        return _cpu_conv(x, kernel)
    return plain_conv(x, kernel, stride)


def composed_convs(
    first: tuple[Array, Array], factor: int, then: tuple[Array, Array]
) -> tuple[Array, Array]:
    """A convolution, `pixel_shuffle` and another convolution, as one convolution.

    Each is a kernel and a bias: first [3, 3, I, M f^2], then [k, k, M, O] with a k of 3
    or 5. The result's kernel is [5, 5, I, O f^2], and its output is yet to be shuffled.
    At the border it differs: the second convolution would see zeros around the first's
    output, and this one sees what the first would make of the zeros around its input.
    """
    kernel, bias = first
    # What the first makes of one pixel of 1 in each of the inputs, and in none.
    images = jnp.concatenate(
        [
            kernel[::-1, ::-1].transpose(2, 0, 1, 3),
            jnp.broadcast_to(bias, (1, *kernel.shape[:2], len(bias))),
        ]
    )
    images = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    with jax.default_matmul_precision("highest"):  # these are weights
        images = conv(pixel_shuffle(images, factor), then[0])
    images = pixel_unshuffle(images, factor)
    kernel = images[:-1, ::-1, ::-1].transpose(1, 2, 0, 3)
    return kernel, images[-1, 2, 2] + jnp.repeat(then[1], factor**2)


def plain_depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """One kernel a channel: x [B, h, w, C], kernel [k, k, 1, C], padding k // 2."""
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        _padding(kernel),
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
    )
    return y + bias


@partial(jax.jit, inline=False)
def _shifted_sum(padded: Array, kernel: Array, bias: Array) -> Array:
    size = kernel.shape[0]
    h, w = padded.shape[1] - size + 1, padded.shape[2] - size + 1
    total = bias
    for i in range(size):
        for j in range(size):
            total = total + kernel[i, j] * padded[:, i : i + h, j : j + w]
    return total


@jax.custom_vjp
def _cpu_depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    # Not inlined: its consumers would each compute it again.
    padded = _pad(x, kernel)
    with set_xla_metadata(inlineable="false"):
        return _shifted_sum(padded, kernel, bias)


def _cpu_depthwise_forward(
    x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _cpu_depthwise_conv(x, kernel, bias), (x, kernel)


def _cpu_depthwise_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    zero = jnp.zeros(x.shape[-1], x.dtype)
    dx = _cpu_depthwise_conv(gradient, kernel[::-1, ::-1], zero)
    sums = _tap_sums(_pad(x, kernel), gradient, len(kernel)).sum(2)
    of_kernel = sums.reshape(kernel.shape).astype(kernel.dtype)
    return dx, of_kernel, gradient.sum((0, 1, 2))


def _tap_sums(padded: Array, gradient: Array, size: int) -> Array:
    """[size, size, B, C]: the sums over pixels of each tap's view times the gradient.

    Sixteen rows at once are multiplied and added up in one pass over batch, columns and
    channels, which vectorises; XLA would write out each product and then sum it. Two
    rows of taps, which see mostly the same pixels, share a pass as complex numbers.
    """
    batch, h, w, channels = gradient.shape
    at_once = min(16, h)
    parts = -(-h // at_once)
    missing = parts * at_once - h
    padded, gradient = (
        widened(jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, 0))))
        for x, rows in ((padded, missing + 1), (gradient, missing))
    )

    def two_rows(_: None, i: Array) -> tuple[None, Array]:
        def add(part: Array, totals: list[Array]) -> list[Array]:
            first = part * at_once
            g = lax.dynamic_slice_in_dim(gradient, first, at_once, axis=1)
            x = lax.dynamic_slice_in_dim(padded, first + i, at_once + 1, axis=1)

            def product(i: int, j: int) -> Array:
                rows = range(at_once)
                return sum(x[:, i + row, j : j + w] * g[:, row] for row in rows)

            return [
                total + lax.complex(product(0, j), product(1, j))
                for j, total in enumerate(totals)
            ]

        zero = jnp.zeros((batch, w, channels), gradient.dtype)
        totals = lax.fori_loop(0, parts, add, [lax.complex(zero, zero)] * size)
        sums = jnp.stack([total.sum(1) for total in totals])
        return None, jnp.stack([sums.real, sums.imag])

    sums = lax.scan(two_rows, None, jnp.arange(0, size, 2))[1]
    return sums.reshape(2 * len(sums), *sums.shape[2:])[:size]


_cpu_depthwise_conv.defvjp(_cpu_depthwise_forward, _cpu_depthwise_backward)


def depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """`plain_depthwise_conv`, formulated for the backend (see the module's head)."""
    if _uses_cpu_formulations():
        return _cpu_depthwise_conv(x, kernel, bias)
    return plain_depthwise_conv(x, kernel, bias)


@jax.custom_vjp
def _cpu_dense(x: Array, kernel: Array, bias: Array) -> Array:
    return x @ kernel + bias


def _cpu_dense_forward(
    x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _cpu_dense(x, kernel, bias), (x, kernel)


def _cpu_dense_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    rows, gradients = (y.reshape(-1, y.shape[-1]) for y in (x, gradient))
    of_bias = jnp.ones(len(rows), rows.dtype) @ gradients
    return gradient @ kernel.T, rows.T @ gradients, of_bias


_cpu_dense.defvjp(_cpu_dense_forward, _cpu_dense_backward)


def plain_dense(x: Array, kernel: Array, bias: Array) -> Array:
    """Linear over the last axis: [..., I] to [..., O]."""
    return x @ kernel + bias


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """`plain_dense`, formulated for the backend (see the module's head)."""
    if _uses_cpu_formulations():
        return _cpu_dense(x, kernel, bias)
    return plain_dense(x, kernel, bias)


def plain_image_depthwise_conv(x: Array, kernel: Array) -> Array:
    """One kernel an image and channel: x [B, h, w, C], kernel [B, k, k, C].

    Padding k // 2. One product over the taps.
    """
    taps = jnp.stack(_taps(x, kernel[0]), 3)  # [B, h, w, k k, C]
    weights = kernel.reshape(kernel.shape[0], -1, x.shape[-1])
    return jnp.einsum("bhwtc,btc->bhwc", taps, weights)


def _image_taps(x: Array, kernel: Array) -> list[tuple[Array, Array]]:
    """Weights [B, 1, 1, C] of the taps and the shifted copies that they see."""
    weights = kernel.reshape(len(kernel), -1, 1, 1, x.shape[-1]).swapaxes(0, 1)
    return list(zip(weights, _taps(x, kernel[0]), strict=True))


@jax.custom_vjp
def _shifted_image_conv(x: Array, kernel: Array) -> Array:
    return sum(weight * shifted for weight, shifted in _image_taps(x, kernel))


def _shifted_image_forward(
    x: Array, kernel: Array
) -> tuple[Array, tuple[Array, Array]]:
    return _shifted_image_conv(x, kernel), (x, kernel)


def _shifted_image_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = _shifted_image_conv(gradient, kernel[:, ::-1, ::-1])
    if _uses_cpu_formulations():
        sums = _tap_sums(_pad(x, kernel[0]), gradient, kernel.shape[1])
        return dx, jnp.moveaxis(sums, 2, 0).astype(kernel.dtype)
    taps = [(tap * gradient).sum(1).sum(1) for tap in _taps(x, kernel[0])]
    return dx, jnp.stack(taps, 1).reshape(kernel.shape)


_shifted_image_conv.defvjp(_shifted_image_forward, _shifted_image_backward)


def image_depthwise_conv(x: Array, kernel: Array) -> Array:
    """`plain_image_depthwise_conv` as shifted multiply-adds, on every backend.

    (As a convolution it would have B C groups, which no backend runs well.)
    """
    if is_plain():
        return plain_image_depthwise_conv(x, kernel)
    return _shifted_image_conv(x, kernel)


def kept(x: Array) -> Array:
    """x, which takes long to compute and little memory: see `in_a_row`."""
    return checkpoint_name(x, _KEPT)


def in_a_row(
    block: type[nn.Module], length: int, *, remat: bool = False
) -> Callable[..., nn.Module]:
    """A class of modules of `length` such blocks, parameters stacked on a leading axis.

    A block is (x, *others) -> (x, None), and all see the same others. Being scanned it
    is compiled once. With `remat` gradients compute a block's insides anew, but for
    what is `kept`.
    """
    if remat:
        policy = jax.checkpoint_policies.save_only_these_names(_KEPT)
        block = nn.remat(block, prevent_cse=False, policy=policy)
    return nn.scan(
        block,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=length,
    )


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in), torch's default for weights and biases.

    Drawn by numpy from the key's bits: the same numbers with every version of JAX, and
    none of the half minute that XLA takes to compile a hundred random draws.
    """

    def draw(bits: Array, shape: tuple[int, ...]) -> np.ndarray:
        uniform = np.random.default_rng(np.asarray(bits)).uniform(-1, 1, shape)
        return (uniform / sqrt(fan_in)).astype(np.float32)

    def initialise(
        key: Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32
    ) -> Array:
        bits = jax.random.key_data(key)
        result = jax.ShapeDtypeStruct(shape, jnp.float32)
        return jax.pure_callback(
            partial(draw, shape=shape), result, bits, vmap_method="sequential"
        ).astype(dtype)

    return initialise


class _Linear(nn.Module):
    """The parameters that dense layers and convolutions share."""

    features: int
    use_bias: bool = True

    def parameters(self, kernel_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The kernel, inputs on its last axis but one, and the bias (or zero)."""
        start = torch_uniform(prod(kernel_shape[:-1]))
        kernel = self.param("kernel", start, kernel_shape)
        if not self.use_bias:
            return kernel, jnp.zeros(())
        return kernel, self.param("bias", start, (self.features,))


class Dense(_Linear):
    """Linear layer over the last axis.

    Its kernel can take in what stands around it: `before`, a scale and a shift [I] of
    its inputs, and `after`, a scale [O] of its outputs. That spares passes over the
    pixels, most of all in gradients.
    """

    @nn.compact
    def __call__(
        self,
        x: Array,
        before: tuple[Array, Array] | None = None,
        after: Array | None = None,
    ) -> Array:
        kernel, bias = self.parameters((x.shape[-1], self.features))
        bias = jnp.broadcast_to(bias, self.features)
        if before is not None:
            scale, shift = before
            bias = (shift[:, None] * kernel).sum(0) + bias
            kernel = scale[:, None] * kernel
        if after is not None:
            kernel, bias = kernel * after, bias * after
        return dense(x, kernel.astype(x.dtype), bias.astype(x.dtype))


class Conv(_Linear):
    """k x k convolution with k // 2 rows of zeros on each side."""

    size: int = 3
    stride: int = 1

    @property
    def kernel_and_bias(self) -> tuple[Array, Array]:
        """Of a layer that is initialised and has both."""
        params = self.variables["params"]
        return params["kernel"], params["bias"]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel, bias = self.parameters(shape)
        return conv(x, kernel.astype(x.dtype), self.stride) + bias.astype(x.dtype)


class DepthwiseConv(_Linear):
    """7 x 7 depthwise convolution; `features` is the number of channels."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel, bias = self.parameters((7, 7, 1, self.features))
        return depthwise_conv(x, kernel.astype(x.dtype), bias.astype(x.dtype))


@jax.custom_vjp
def _normalised(x: Array) -> Array:
    return _normalised_forward(x)[0]


def _normalised_forward(x: Array) -> tuple[Array, tuple[Array, Array]]:
    x = x - _channel_mean(x)
    scale = lax.rsqrt(_channel_mean(jnp.square(x)) + 1e-6)
    return x * scale, (x * scale, scale)


def _normalised_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    y, scale = residuals
    along = y * _channel_mean(gradient * y)
    return (scale * (gradient - _channel_mean(gradient) - along),)


_normalised.defvjp(_normalised_forward, _normalised_backward)


class LayerNorm(nn.Module):
    """Normalisation over channels in float32, with eps 1e-6.

    Returns what is normalised, and the scale and bias [C] that are still to be applied:
    the `before` of a `Dense`.
    """

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        channels, dtype = x.shape[-1:], x.dtype
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        return _normalised(widened(x)).astype(dtype), (scale, bias)


class BatchNorm(nn.Module):
    """torch's BatchNorm2d, with global statistics over the devices of `axis_name`.

    eps 1e-5. Running statistics are 0.9 running + 0.1 batch and take the unbiased
    variance, while the batch itself is normalised with the biased one.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, visits: Sequence[int] | None = None) -> Array:
        """Normalise x.

        Evaluation (`visits` None): x is [B, h, w, C], running statistics are used.
        Training: x is [D, B, h, w, C]; each crop index has statistics of its own, over
        B, h, w and all devices, which enter the running ones in the order of `visits`.
        """
        channels, dtype = x.shape[-1:], x.dtype
        x = widened(x)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if visits is None:
            mean, var = running_mean.value, running_var.value
        else:
            mean = self._global_mean(x.mean((1, 2, 3), keepdims=True))
            var = self._global_mean(jnp.square(x - mean).mean((1, 2, 3), keepdims=True))
            if not self.is_initializing():
                n = prod(x.shape[1:4]) * self._devices()
                for crop in visits:
                    running_mean.value = _fold(running_mean.value, mean[crop])
                    running_var.value = _fold(
                        running_var.value, var[crop] * (n / (n - 1))
                    )
        return ((x - mean) * (lax.rsqrt(var + 1e-5) * scale) + bias).astype(dtype)

    def _global_mean(self, x: Array) -> Array:
        return x if self.axis_name is None else lax.pmean(x, self.axis_name)

    def _devices(self) -> int:
        return 1 if self.axis_name is None else lax.axis_size(self.axis_name)


def _fold(running: Array, batch: Array) -> Array:
    return 0.9 * running + 0.1 * lax.stop_gradient(batch.reshape(running.shape))
