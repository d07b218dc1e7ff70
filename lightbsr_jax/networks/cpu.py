"""Operators formulated for a CPU, with custom gradients.

XLA on a CPU is slow at grouped convolutions, at sums over pixels or channels, and at
the gradients of convolutions and products in the body of a scan. These functions agree
with those of `plain` to float rounding; `operators` chooses between the two.

In `target.narrow_products` the factors of products and convolutions are rounded to
bfloat16, for processors with a unit that multiplies such matrices. Moving maps then
takes most of the time, so the other operators have forms with fewer operations.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

from lightbsr_jax import target
from lightbsr_jax.networks.plain import NHWC, at_least_float32, pad, padding, total

_THIN = 16  # channels; fewer do not fill the inner loop of a product
_TOGETHER = 64  # channels of the columns that a product in bfloat16 takes together


def _rounded(x: Array) -> Array:
    """x in bfloat16, with ties rounded away from zero.

    (XLA's own conversion takes twice as long, because it also looks for NaN.)
    """
    if x.dtype != jnp.float32:
        return x.astype(jnp.bfloat16)
    bits = lax.bitcast_convert_type(x, jnp.uint32) + jnp.uint32(1 << 15)
    return lax.bitcast_convert_type((bits >> 16).astype(jnp.uint16), jnp.bfloat16)


def _narrow_product(x: Array, kernel: Array) -> Array:
    """x @ kernel, of factors rounded to bfloat16, with sums in the kernel's type."""
    return jnp.matmul(
        _rounded(x),
        _rounded(kernel),
        precision=lax.Precision.DEFAULT,
        preferred_element_type=kernel.dtype,
    )


def _for_columns(kernel: Array, together: int, columns: int) -> Array:
    """Kernels that give `together` columns of a result from `columns` of x.

    They are one kernel, [k, columns, I, together O].
    """
    missing = columns - kernel.shape[1]
    shifted = [
        jnp.pad(kernel, ((0, 0), (i, missing - i), (0, 0), (0, 0)))
        for i in range(together)
    ]
    return jnp.concatenate(shifted, -1)


def _is_for_narrow_conv(kernel: Array) -> bool:
    inputs, outputs = kernel.shape[2:]
    return target.has_narrow_products() and min(inputs, outputs) >= 8 and not inputs % 2


def _narrow_conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.conv` as one product of factors rounded to bfloat16.

    For each row of the kernel, the product gives that row's part of several columns of
    the result at once (a few channels would not fill the unit for products), from all
    columns of x that they need. Then the parts of all rows are added.
    """
    height, width, inputs, outputs = kernel.shape
    batch, h, w, _ = x.shape
    together = max(1, _TOGETHER // max(inputs, outputs)) if width > 1 else 1
    results = -(-w // together)
    needed = 1 + -(-(width - 1) // together)  # groups of columns, for one of results
    kernels = _for_columns(kernel, together, needed * together)
    kernels = kernels.reshape(height, needed * together * inputs, together * outputs)
    rows, (left, _) = padding(kernel)
    right = (results + needed - 1) * together - w - left
    # In pairs, because XLA converts bfloat16 to float32 and back to move it.
    pairs = _rounded(x).reshape(batch, h, w, inputs // 2, 2)
    pairs = lax.bitcast_convert_type(pairs, jnp.uint32)
    pairs = jnp.pad(pairs, ((0, 0), rows, (left, right), (0, 0)))
    pairs = pairs.reshape(batch, h + height - 1, -1, together * inputs // 2)
    pairs = jnp.concatenate([pairs[:, :, i : i + results] for i in range(needed)], -1)
    seen = lax.bitcast_convert_type(pairs, jnp.bfloat16)
    y = _narrow_product(
        seen.reshape(-1, kernels.shape[1]),
        kernels.transpose(1, 0, 2).reshape(kernels.shape[1], -1),
    )
    y = y.reshape(batch, h + height - 1, results, height, together * outputs)
    y = total(y[:, i : i + h, :, i] for i in range(height))
    return y.reshape(batch, h, -1, outputs)[:, :, :w]


def _thin_conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.conv` for several columns at once if there are few channels.

    (Few outputs do not fill the registers of a product's inner loop.)
    """
    inputs, outputs = kernel.shape[2:]
    together = 2 if max(inputs, outputs) <= _THIN else 4 if outputs <= 4 else 1
    rows, (left, right) = padding(kernel)
    y = lax.conv_general_dilated(
        x,
        _for_columns(kernel, together, kernel.shape[1] + together - 1),
        (1, together),
        (rows, (left, right + -x.shape[2] % together)),
        dimension_numbers=NHWC,
    )
    y = y.reshape(*x.shape[:2], y.shape[2] * together, outputs)
    return y[:, :, : x.shape[2]]


@jax.custom_vjp
def conv(x: Array, kernel: Array) -> Array:
    """Computes `plain.conv` with stride 1 and odd kernels."""
    return (_narrow_conv if _is_for_narrow_conv(kernel) else _thin_conv)(x, kernel)


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv(x, kernel), (x, kernel)


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


@partial(jax.jit, inline=False, static_argnames="by_rows")
def _shifted_sum(padded: Array, kernel: Array, bias: Array, by_rows: bool) -> Array:
    """Sums all taps in one chain, or each row of the kernel in a chain of its own."""
    size = kernel.shape[0]
    h, w = padded.shape[1] - size + 1, padded.shape[2] - size + 1

    def tap(i: int, j: int) -> Array:
        return kernel[i, j] * padded[:, i : i + h, j : j + w]

    if by_rows:  # faster, but other bits
        rows = (total(tap(i, j) for j in range(size)) for i in range(size))
        return bias + total(rows)
    result = bias
    for i in range(size):
        for j in range(size):
            result = result + tap(i, j)
    return result


@jax.custom_vjp
def depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """Computes `plain.depthwise_conv` as a sum of shifted products."""
    # Not inlined: otherwise each consumer would compute it again.
    padded = pad(x, kernel)
    with set_xla_metadata(inlineable="false"):
        return _shifted_sum(padded, kernel, bias, target.has_narrow_products())


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


_GELU_LIMIT = 4.0  # beyond, GELU is x or 0 up to 1.3e-4
# Odd part of the normal distribution function, up to the limit: z times a polynomial of
# z^2. Fitted so that GELU's largest error is smallest (1.9e-4), and exact at the limit.
_GELU = (
    0.39787027,
    -0.064554414,
    0.0087636916,
    -0.00081218757,
    4.7763894e-05,
    -1.5888274e-06,
    2.2588213e-08,
)


def gelu(x: Array) -> Array:
    """GELU up to 2e-4, for maps that bfloat16 rounds anyway: twice as fast as erf."""
    z = jnp.clip(x, -_GELU_LIMIT, _GELU_LIMIT)
    squared = z * z
    odd = jnp.full_like(x, _GELU[-1])
    for coefficient in _GELU[-2::-1]:
        odd = odd * squared + coefficient
    return x * (z * odd + 0.5)


@jax.custom_vjp
def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """Computes `plain.dense`, with the gradient of the bias as a product.

    In `target.narrow_products` the product over the channels of a map is in bfloat16.
    """
    if target.has_narrow_products() and x.ndim == 4:
        return _narrow_product(x, kernel) + bias
    return x @ kernel + bias


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
