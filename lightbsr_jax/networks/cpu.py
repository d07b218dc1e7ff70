"""Operators formulated for a CPU, with custom gradients.

XLA on a CPU is slow at grouped convolutions, at sums over pixels or channels, and at
the gradients of convolutions and products in the body of a scan. These functions agree
with those of `plain` to float rounding; `operators` chooses between the two.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

from lightbsr_jax import target
from lightbsr_jax.networks.plain import NHWC, at_least_float32, pad, padding, total

_THIN = 16  # channels; fewer do not fill the inner loop of a product


def _thin_conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.conv` for several columns at once if there are few channels.

    (Few outputs do not fill the registers of a product's inner loop.)
    """
    inputs, outputs = kernel.shape[2:]
    together = 2 if max(inputs, outputs) <= _THIN else 4 if outputs <= 4 else 1
    rows, (left, right) = padding(kernel)
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
def conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.conv` with stride 1 and odd kernels."""
    return _thin_conv(x, kernel)


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _thin_conv(x, kernel), (x, kernel)


def _thin_kernel_gradient(x: Array, gradient: Array, kernel: Array) -> Array:
    """The kernel's gradient of a convolution with few channels, as one product.

    Its factors are x shifted for all columns of the kernel, and the gradient shifted
    for all its rows, so that the product has more channels.
    """
    height, width, inputs, outputs = kernel.shape
    x = pad(x, kernel)
    x = jnp.concatenate([x[:, :, j : j + gradient.shape[2]] for j in range(width)], -1)
    seen = [
        jnp.pad(gradient, ((0, 0), (i, height - 1 - i), (0, 0), (0, 0)))
        for i in range(height)
    ]
    g = jnp.concatenate(seen, -1)
    product = x.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1])
    product = product.reshape(width, inputs, height, outputs)
    return product.transpose(2, 0, 1, 3)


def _conv_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = _thin_conv(gradient, kernel[::-1, ::-1].swapaxes(2, 3))
    if max(kernel.shape[2:]) <= _THIN:
        return dx, _thin_kernel_gradient(x, gradient, kernel)
    # Like autodiff, except for the order of axes, which decides the speed in a scan.
    inputs, gradients = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
    of_kernel = lax.conv_general_dilated(
        inputs, gradients, (1, 1), padding(kernel), dimension_numbers=NHWC
    )
    return dx, of_kernel.transpose(1, 2, 0, 3)


conv.defvjp(_conv_forward, _conv_backward)


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
def depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """Computes `plain.depthwise_conv` as a sum of shifted products."""
    # Not inlined: otherwise each consumer would compute it again.
    padded = pad(x, kernel)
    with set_xla_metadata(inlineable="false"):
        return _shifted_sum(padded, kernel, bias)


def _depthwise_forward(
    x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    return depthwise_conv(x, kernel, bias), (x, kernel)


def _depthwise_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    zero = jnp.zeros(x.shape[-1], x.dtype)
    dx = depthwise_conv(gradient, kernel[::-1, ::-1], zero)
    sums = tap_sums(pad(x, kernel), gradient, len(kernel)).sum(2)
    of_kernel = sums.reshape(kernel.shape).astype(kernel.dtype)
    return dx, of_kernel, gradient.sum((0, 1, 2))


def tap_sums(padded: Array, gradient: Array, size: int) -> Array:
    """Sums over pixels of each tap's view times the gradient: [size, size, B, C].

    One pass over batch, columns and channels multiplies and adds sixteen rows at once,
    which vectorises; XLA would store each product and then sum it. Two rows of taps,
    which use mostly the same pixels, share a pass as complex numbers.
    """
    batch, h, w, channels = gradient.shape
    at_once = min(16, h)
    parts = -(-h // at_once)
    missing = parts * at_once - h
    padded, gradient = (
        at_least_float32(jnp.pad(x, ((0, 0), (0, rows), (0, 0), (0, 0))))
        for x, rows in ((padded, missing + 1), (gradient, missing))
    )

    def two_rows(_: None, i: Array) -> tuple[None, Array]:
        def add(part: Array, totals: list[Array]) -> list[Array]:
            first = part * at_once
            g = lax.dynamic_slice_in_dim(gradient, first, at_once, axis=1)
            x = lax.dynamic_slice_in_dim(padded, first + i, at_once + 1, axis=1)

            def product(i: int, j: int) -> Array:
                rows = range(at_once)
                return total(x[:, i + row, j : j + w] * g[:, row] for row in rows)

            return [
                so_far + lax.complex(product(0, j), product(1, j))
                for j, so_far in enumerate(totals)
            ]

        zero = jnp.zeros((batch, w, channels), gradient.dtype)
        totals = lax.fori_loop(0, parts, add, [lax.complex(zero, zero)] * size)
        sums = jnp.stack([columns.sum(1) for columns in totals])
        return None, jnp.stack([sums.real, sums.imag])

    sums = lax.scan(two_rows, None, jnp.arange(0, size, 2))[1]
    return sums.reshape(2 * len(sums), *sums.shape[2:])[:size]


depthwise_conv.defvjp(_depthwise_forward, _depthwise_backward)


@jax.custom_vjp
def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """Computes `plain.dense`, with the gradient of the bias as a product.

    In `target.narrow_products` the product over the channels of a map is in bfloat16.
    """
    if target.has_narrow_products() and x.ndim == 4:
        return _narrow_product(x, kernel) + bias
    return x @ kernel + bias


def _narrow_product(x: Array, kernel: Array) -> Array:
    """x @ kernel, of factors rounded to bfloat16, with sums in x's own type."""
    return jnp.matmul(
        x.astype(jnp.bfloat16),
        kernel.astype(jnp.bfloat16),
        precision=lax.Precision.DEFAULT,
        preferred_element_type=x.dtype,
    )


def _dense_forward(
    x: Array, kernel: Array, bias: Array
) -> tuple[Array, tuple[Array, Array]]:
    return dense(x, kernel, bias), (x, kernel)


def _dense_backward(
    residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    x, kernel = residuals
    rows, gradients = (y.reshape(-1, y.shape[-1]) for y in (x, gradient))
    of_bias = jnp.ones(len(rows), rows.dtype) @ gradients
    return gradient @ kernel.T, rows.T @ gradients, of_bias


dense.defvjp(_dense_forward, _dense_backward)


def global_mean(x: Array) -> Array:
    """Mean over rows and columns, as a product: [B, h, w, C] to [B, C]."""
    pixels = x.shape[1] * x.shape[2]
    weights = jnp.full((len(x), pixels), 1 / pixels, x.dtype)
    return jnp.einsum("bp,bpc->bc", weights, x.reshape(len(x), pixels, -1))


def channel_mean(x: Array) -> Array:
    """Mean over channels, kept as an axis of 1, as a product."""
    return x @ jnp.full((x.shape[-1], 1), 1 / x.shape[-1], x.dtype)
