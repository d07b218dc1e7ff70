"""Definitions of the networks' operators by plain XLA operations.

Feature maps are NHWC, kernels HWIO. `operators` has the same functions, formulated for
the backend; both agree to float rounding.
"""

from collections.abc import Iterable
from typing import cast

import jax.numpy as jnp
from jax import Array, lax

NHWC = ("NHWC", "HWIO", "NHWC")


def at_least_float32(x: Array) -> Array:
    """Converts x to float32, unless it is float64."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def total(terms: Iterable[Array]) -> Array:
    """Sum of one or more arrays."""
    return cast(Array, sum(terms))


def padding(kernel: Array) -> list[tuple[int, int]]:
    """Padding of k // 2 on each side, for rows and for columns."""
    return [(k // 2, k // 2) for k in kernel.shape[:2]]


def pad(x: Array, kernel: Array) -> Array:
    """Pads x [B, h, w, C] with zeros for a convolution with `kernel`."""
    return jnp.pad(x, ((0, 0), *padding(kernel), (0, 0)))


def taps(x: Array, kernel: Array) -> list[Array]:
    """The shifted copies of `x` for the kernel's taps, row by row."""
    h, w = x.shape[1:3]
    padded = pad(x, kernel)
    return [
        padded[:, i : i + h, j : j + w]
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]


def conv(x: Array, kernel: Array, stride: int = 1) -> Array:
    """Convolution that pads k // 2 on each side: [B, h, w, I] to [B, h', w', O].

    A stride of 2 gives ceil(n / 2) rows, as torch's padding=1 does ('SAME' differs).
    """
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), padding(kernel), dimension_numbers=NHWC
    )


def depthwise_conv(x: Array, kernel: Array, bias: Array) -> Array:
    """One kernel per channel: x [B, h, w, C], kernel [k, k, 1, C], padding k // 2."""
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        padding(kernel),
        dimension_numbers=NHWC,
        feature_group_count=x.shape[-1],
    )
    return y + bias


def dense(x: Array, kernel: Array, bias: Array) -> Array:
    """Linear over the last axis: [..., I] to [..., O]."""
    return x @ kernel + bias


def image_depthwise_conv(x: Array, kernel: Array) -> Array:
    """One kernel per image and channel: x [B, h, w, C], kernel [B, k, k, C].

    The padding is k // 2. It is one product over the taps.
    """
    seen = jnp.stack(taps(x, kernel[0]), 3)  # [B, h, w, k k, C]
    weights = kernel.reshape(kernel.shape[0], -1, x.shape[-1])
    return jnp.einsum("bhwtc,btc->bhwc", seen, weights)
