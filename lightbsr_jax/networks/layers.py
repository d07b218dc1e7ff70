"""Layers with torch's parameters, initialisation and semantics.

Feature maps are NHWC. Kernels are HWIO, matrices [in, out]. Weights start as torch's
do: U(-b, b) with b = 1 / sqrt(fan_in), biases with the same b. Parameters are float32.
A layer computes in the type of its input, float32 or bfloat16, except for means and
variances, which are float32. (With float64 input, for comparisons, all is float64.)
"""

from collections.abc import Sequence
from functools import partial
from math import prod, sqrt

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from lightbsr_jax.networks.operators import (
    at_least_float32,
    channel_mean,
    conv,
    dense,
    depthwise_conv,
    for_columns,
    moments,
)


def torch_uniform(fan_in: int) -> nn.initializers.Initializer:
    """U(-b, b) with b = 1 / sqrt(fan_in), torch's default for weights and biases.

    NumPy draws the numbers from the key's bits, so that they do not depend on the
    version of JAX, and XLA need not compile a hundred random draws, which takes half a
    minute.
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
    columns: int = 1  # that a map has packed (see `operators`)

    def parameters(self, kernel_shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The kernel, with inputs on its second last axis, and the bias (or zero)."""
        start = torch_uniform(prod(kernel_shape[:-1]))
        kernel = self.param("kernel", start, kernel_shape)
        if not self.use_bias:
            return kernel, jnp.zeros(())
        return kernel, self.param("bias", start, (self.features,))


class Dense(_Linear):
    """Linear layer over the last axis.

    Its kernel can absorb neighbouring operations: `before`, a scale and a shift [I] of
    its inputs, and `after`, a scale [O] of its outputs. That saves passes over the
    pixels, especially in gradients.
    """

    @nn.compact
    def __call__(
        self,
        x: Array,
        before: tuple[Array, Array] | None = None,
        after: Array | None = None,
    ) -> Array:
        kernel, bias = self.parameters((x.shape[-1] // self.columns, self.features))
        bias = jnp.broadcast_to(bias, self.features)
        if before is not None:
            scale, shift = before
            bias = (shift[:, None] * kernel).sum(0) + bias
            kernel = scale[:, None] * kernel
        if after is not None:
            kernel, bias = kernel * after, bias * after
        return dense(x, kernel.astype(x.dtype), bias.astype(x.dtype), self.columns)


class Conv(_Linear):
    """k x k convolution with k // 2 rows of zeros on each side."""

    size: int = 3
    stride: int = 1

    @property
    def kernel_and_bias(self) -> tuple[Array, Array]:
        """Kernel and bias of an initialised layer that has both."""
        params = self.variables["params"]
        return params["kernel"], params["bias"]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        inputs = x.shape[-1] // self.columns
        kernel, bias = self.parameters((self.size, self.size, inputs, self.features))
        x = conv(x, kernel.astype(x.dtype), self.stride, self.columns)
        return x + for_columns(bias.astype(x.dtype), self.columns)


class DepthwiseConv(_Linear):
    """7 x 7 depthwise convolution; `features` is the number of channels."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel, bias = self.parameters((7, 7, 1, self.features))
        x_kernel, x_bias = kernel.astype(x.dtype), bias.astype(x.dtype)
        return depthwise_conv(x, x_kernel, x_bias, self.columns)


def _normalise(x: Array, columns: int) -> Array:
    return _normalised_forward(x, columns)[0]


def _normalised_forward(x: Array, columns: int) -> tuple[Array, tuple[Array, Array]]:
    mean = partial(channel_mean, columns=columns, dtype=x.dtype)
    centred = at_least_float32(x)
    centred -= mean(centred)
    scale = lax.rsqrt(mean(jnp.square(centred)) + 1e-6)
    y = (centred * scale).astype(x.dtype)
    return y, (y, scale)


def _normalised_backward(
    columns: int, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array]:
    y, scale = residuals
    mean = partial(channel_mean, columns=columns, dtype=y.dtype)
    y, wide = at_least_float32(y), at_least_float32(gradient)
    result = scale * (wide - mean(wide) - y * mean(wide * y))
    return (result.astype(gradient.dtype),)


_normalised = jax.custom_vjp(_normalise, nondiff_argnums=(1,))
_normalised.defvjp(_normalised_forward, _normalised_backward)


class LayerNorm(nn.Module):
    """Normalisation over channels in float32, with eps 1e-6.

    Returns the normalised map, and the scale and bias [C] that must still be applied:
    the `before` of a `Dense`.
    """

    columns: int = 1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, tuple[Array, Array]]:
        channels = (x.shape[-1] // self.columns,)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        return _normalised(x, self.columns), (scale, bias)


class BatchNorm(nn.Module):
    """torch's BatchNorm2d, with global statistics over the devices of `axis_name`.

    eps is 1e-5. Running statistics are 0.9 running + 0.1 batch, with the unbiased
    variance; the batch itself is normalised with the biased variance.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, visits: Sequence[int] | None = None) -> Array:
        """Normalises x.

        Evaluation (`visits` None): x is [B, h, w, C], and running statistics are used.
        Training: x is [D, B, h, w, C]; each crop index has separate statistics over B,
        h, w and all devices, which update the running ones in the order of `visits`.
        """
        channels, dtype = x.shape[-1:], x.dtype
        x = at_least_float32(x)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        if visits is None:
            mean, var = running_mean.value, running_var.value
        else:
            mean, var = moments(x, self.axis_name)
            if not self.is_initializing():
                n = prod(x.shape[1:4]) * self._devices()
                for crop in visits:
                    running_mean.value = _fold(running_mean.value, mean[crop])
                    running_var.value = _fold(
                        running_var.value, var[crop] * (n / (n - 1))
                    )
        return ((x - mean) * (lax.rsqrt(var + 1e-5) * scale) + bias).astype(dtype)

    def _devices(self) -> int:
        return 1 if self.axis_name is None else lax.axis_size(self.axis_name)


def _fold(running: Array, batch: Array) -> Array:
    return 0.9 * running + 0.1 * lax.stop_gradient(batch.reshape(running.shape))
